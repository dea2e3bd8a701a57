//! The two token calls that an official account makes with its own AppSecret.

use reqwest::{Method, Request};
use secrecy::{ExposeSecret, SecretString};

use super::{cache::FetchedToken, observed_client::ObservedClient};
use crate::{
    domain::{endpoint::Endpoint, error_class::ErrorClass},
    secrets::RotatableSecret,
    wechat::{
        error::{CallError, CallFailure},
        wire::tokens::access_token,
    },
};

/// Fetches an access token with `GET /cgi-bin/token` or `POST /cgi-bin/stable_token`.
pub(super) async fn fetch(
    endpoint: Endpoint,
    appid: &str,
    secret: &RotatableSecret<SecretString>,
    client: ObservedClient<'_>,
) -> Result<FetchedToken, CallFailure> {
    let current = secret.for_attempt();
    let mut url = client.client.url(endpoint);
    let fields = [("grant_type", "client_credential"), ("appid", appid), ("secret", current.expose_secret())];
    let request = if endpoint == Endpoint::Token {
        url.query_pairs_mut().extend_pairs(fields);
        Request::new(Method::GET, url)
    } else {
        client.client.post(url, &fields.into_iter().map(|(key, value)| (key, value.into())).collect())
    };
    let parse = |answer: &str| {
        let issued = access_token(answer);
        Ok(issued.map_err(|error| CallError::from_wire(error, &[current.expose_secret()]))?.into())
    };
    let fetched = client.call(endpoint, client.client.exchange(endpoint, request), parse).await;
    note_answer(secret, &fetched);
    fetched
}

/// Notes whether WeChat accepted an AppSecret. Wrong credentials get an errcode, or an empty page.
pub(super) fn note_answer<T>(secret: &RotatableSecret<SecretString>, answer: &Result<T, CallFailure>) {
    match answer {
        Ok(_) => secret.accepted(),
        Err(failure) if failure.class == ErrorClass::NotAuthorized => secret.refused(),
        Err(CallFailure { error: CallError::Malformed(_), .. }) => secret.refused(),
        Err(_) => {}
    }
}
