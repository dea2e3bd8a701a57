//! The two token calls that an official account makes with its own AppSecret.

use reqwest::{Method, Request};
use secrecy::{ExposeSecret, SecretString};

use super::{cache::FetchedToken, observed_client::ObservedClient};
use crate::{
    domain::endpoint::Endpoint,
    wechat::{
        error::{CallError, CallFailure},
        wire::tokens::access_token,
    },
};

/// Fetches an access token with `GET /cgi-bin/token` or `POST /cgi-bin/stable_token`.
pub(super) async fn fetch(
    endpoint: Endpoint,
    appid: &str,
    secret: &SecretString,
    client: ObservedClient<'_>,
) -> Result<FetchedToken, CallFailure> {
    let mut url = client.client.url(endpoint);
    let fields = [("grant_type", "client_credential"), ("appid", appid), ("secret", secret.expose_secret())];
    let request = if endpoint == Endpoint::Token {
        url.query_pairs_mut().extend_pairs(fields);
        Request::new(Method::GET, url)
    } else {
        client.client.post(url, &fields.into_iter().map(|(key, value)| (key, value.into())).collect())
    };
    let parse = |answer: &str| {
        let issued = access_token(answer);
        Ok(issued.map_err(|error| CallError::from_wire(error, &[secret.expose_secret()]))?.into())
    };
    client.call(endpoint, client.client.exchange(endpoint, request), parse).await
}
