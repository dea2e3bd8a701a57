//! GET /cgi-bin/token and POST /cgi-bin/stable_token.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::EndpointResult;
use crate::simulator::api_call::ApiCall;
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::lock;
use crate::simulator::query::query_parameter;
use crate::simulator::token::IssuedToken;
use crate::simulator::world::OfficialAccount;

/// The parameters of a token request, from its query or its JSON body.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Credentials {
    grant_type: Option<String>,
    pub(crate) appid: Option<String>,
    secret: Option<String>,
}

impl Credentials {
    pub(crate) fn from_query(query: &str) -> Self {
        let parameter = |name| query_parameter(query, name).map(Cow::into_owned);
        Credentials {
            grant_type: parameter("grant_type"),
            appid: parameter("appid"),
            secret: parameter("secret"),
        }
    }

    pub(crate) fn from_json(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// Issues a token. `official` is the account that the appid names.
pub(crate) fn token(
    endpoint: ApiCall,
    credentials: Option<&Credentials>,
    official: Option<&OfficialAccount>,
    now_ms: i64,
) -> EndpointResult {
    let credentials = credentials.ok_or(47001)?;
    if credentials.grant_type.as_deref() != Some("client_credential") {
        return Err(40002);
    }
    if credentials.appid.as_deref().is_none_or(str::is_empty) {
        return Err(41002);
    }
    let secret = credentials.secret.as_deref().filter(|secret| !secret.is_empty()).ok_or(41004)?;
    let official = official.ok_or(40013)?;
    if *secret != **lock(&official.secret) {
        return Err(40125);
    }
    if official.address_refused.load(Ordering::Relaxed) {
        return Err(40164);
    }
    if official.secret_frozen.load(Ordering::Relaxed) {
        return Err(40243);
    }
    let mut issuer = lock(&official.token_issuer);
    let IssuedToken { value, expires_in_s } = match endpoint {
        ApiCall::StableToken => issuer.issue_stable(now_ms),
        _ => issuer.issue_classic(now_ms)?,
    };
    let mut body = JsonWriter::new(&official.style, 256);
    body.text("access_token", &value);
    body.number("expires_in", expires_in_s);
    Ok(body.finish())
}
