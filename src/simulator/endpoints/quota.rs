//! POST /cgi-bin/openapi/quota/get.

use serde::Deserialize;

use super::EndpointResult;
use crate::simulator::api_call::ApiCall;
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::lock;
use crate::simulator::world::OfficialAccount;

/// Returns the limit and the use of getsessionlist. Other calls have no limit.
pub(crate) fn quota_get(official: &OfficialAccount, request_body: &[u8], now_ms: i64) -> EndpointResult {
    #[derive(Deserialize)]
    struct QuotaRequest {
        cgi_path: String,
    }
    let request: QuotaRequest = serde_json::from_slice(request_body).map_err(|_| 47001)?;
    if request.cgi_path != ApiCall::GetSessionList.path() {
        return Err(76021);
    }
    let mut quota = lock(&official.session_list_quota);
    let (limit, used) = (quota.limit, quota.used(now_ms));
    drop(quota);
    let mut body = JsonWriter::new(&official.style, 160);
    body.object("quota", |quota| {
        quota.number("daily_limit", number(limit));
        quota.number("used", number(used));
        quota.number("remain", number(limit - used));
    });
    Ok(body.finish())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
