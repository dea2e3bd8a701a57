//! POST /cgi-bin/openapi/quota/get.

use serde::Deserialize;

use super::EndpointResult;
use crate::simulator::api_call::ApiCall;
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::lock;
use crate::simulator::world::OfficialAccount;

/// Returns the limits and the use of one endpoint.
pub(crate) fn quota_get(official: &OfficialAccount, request_body: &[u8], now_ms: i64) -> EndpointResult {
    #[derive(Deserialize)]
    struct QuotaRequest {
        cgi_path: String,
    }
    let request: QuotaRequest = serde_json::from_slice(request_body).map_err(|_| 47001)?;
    let is_of_wechat = |endpoint: &ApiCall| !endpoint.is_of_operator();
    let endpoint = ApiCall::from_path(&request.cgi_path).filter(is_of_wechat).ok_or(76021)?;
    let limits = &mut lock(&official.limits)[endpoint as usize];
    let [limit, used, remain] =
        [limits.day.limit(), limits.day.used(now_ms), limits.day.left(now_ms)].map(number);
    let mut body = JsonWriter::new(&official.style, 160);
    body.object("quota", |quota| {
        quota.number("daily_limit", limit);
        quota.number("used", used);
        quota.number("remain", remain);
    });
    if let Some(minute) = &limits.minute {
        body.object("rate_limit", |rate_limit| {
            rate_limit.number("call_count", number(minute.limit()));
            rate_limit.number("refresh_second", 60);
        });
    }
    Ok(body.finish())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
