//! The two token calls that an official account makes with its own AppSecret.

use reqwest::{Method, Request};
use secrecy::{ExposeSecret, SecretString};

use super::{cache::Fetched, caller::Caller};
use crate::wechat::{Endpoint, error::CallFailure, http::call_refused, wire};

/// Fetches an access token: `GET /cgi-bin/token` or `POST /cgi-bin/stable_token`.
pub(super) async fn fetch(
    endpoint: Endpoint,
    appid: &str,
    secret: &SecretString,
    caller: Caller<'_>,
) -> Result<Fetched, CallFailure> {
    let mut url = caller.client.url(endpoint);
    let fields = [("grant_type", "client_credential"), ("appid", appid), ("secret", secret.expose_secret())];
    let request = if endpoint == Endpoint::Token {
        url.query_pairs_mut().extend_pairs(fields);
        Request::new(Method::GET, url)
    } else {
        caller.client.post(url, &fields.into_iter().map(|(key, value)| (key, value.into())).collect())
    };
    let read = |answer: &str| {
        let answer = wire::token(answer).map_err(|error| call_refused(error, &[secret.expose_secret()]))?;
        Ok(Fetched::new((*answer.access_token).into(), answer.expires_in))
    };
    caller.call(endpoint, caller.client.exchange(request), read).await
}
