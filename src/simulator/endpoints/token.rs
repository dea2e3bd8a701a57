//! GET /cgi-bin/token and POST /cgi-bin/stable_token.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::super::answer::Object;
use super::super::lock;
use super::super::quota::Refusal;
use super::super::routes::{Endpoint, query_parameter};
use super::super::token::Issued;
use super::super::world::OfficialAccount;
use super::Outcome;

/// What a token call presents, in its query or in its JSON body.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct Credentials<'a> {
    #[serde(borrow)]
    grant_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(in super::super) appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret: Option<Cow<'a, str>>,
    #[serde(default)]
    force_refresh: bool,
}

impl<'a> Credentials<'a> {
    pub(in super::super) fn from_query(query: &'a str) -> Self {
        let parameter = |name| query_parameter(query, name);
        Credentials {
            grant_type: parameter("grant_type"),
            appid: parameter("appid"),
            secret: parameter("secret"),
            force_refresh: false,
        }
    }

    pub(in super::super) fn from_json(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The two token calls. The account is the one that the appid names, if there is one.
pub(in super::super) fn token(
    endpoint: Endpoint,
    credentials: Option<&Credentials<'_>>,
    official: Option<&OfficialAccount>,
    now_ms: i64,
) -> Outcome {
    let credentials = credentials.ok_or(47001)?;
    if credentials.grant_type.as_deref() != Some("client_credential") {
        return Err(40002);
    }
    if credentials.appid.as_deref().is_none_or(str::is_empty) {
        return Err(41002);
    }
    let secret = credentials.secret.as_deref().filter(|secret| !secret.is_empty()).ok_or(41004)?;
    let official = official.ok_or(40013)?;
    if *secret != *official.secret {
        return Err(40125);
    }
    if official.address_refused.load(Ordering::Relaxed) {
        return Err(40164);
    }
    if official.secret_frozen.load(Ordering::Relaxed) {
        return Err(40243);
    }
    let mut desk = lock(&official.desk);
    let issued = match endpoint {
        Endpoint::StableToken if credentials.force_refresh => desk.force_stable(now_ms),
        Endpoint::StableToken => desk.issue_stable(now_ms),
        _ => desk.issue_classic(now_ms),
    };
    let Issued { value, expires_in_s } = issued.map_err(Refusal::errcode)?;
    let mut body = Object::new(&official.style, 256);
    body.text("access_token", &value);
    body.number("expires_in", expires_in_s);
    Ok(body.finish())
}
