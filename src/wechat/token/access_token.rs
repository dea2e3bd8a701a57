//! An access token that is only visible in the requests that need it.

use std::{fmt, iter, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

use crate::wechat::origin::TokenOrigin;

/// An access token, cheap to clone.
#[derive(Clone)]
pub(in crate::wechat) struct AccessToken(Arc<Encodings>);

struct Encodings {
    plain: SecretString,
    /// Encoded once, because every poll needs it.
    query_parameter: SecretString,
    origin: Option<TokenOrigin>,
}

impl AccessToken {
    /// `origin`: who gave it, if not WeChat.
    pub(super) fn new(token: SecretString, origin: Option<TokenOrigin>) -> Self {
        let encoded = form_urlencoded::byte_serialize(token.expose_secret().as_bytes());
        let query_parameter = iter::once("access_token=").chain(encoded).collect::<String>();
        Self(Arc::new(Encodings { plain: token, query_parameter: query_parameter.into(), origin }))
    }

    pub(in crate::wechat) fn expose(&self) -> &str {
        self.0.plain.expose_secret()
    }

    /// Who gave it, if not WeChat.
    pub(in crate::wechat) fn origin(&self) -> Option<&TokenOrigin> {
        self.0.origin.as_ref()
    }

    /// The query parameter `access_token`, encoded for a URL.
    pub(in crate::wechat) fn query_parameter(&self) -> &str {
        self.0.query_parameter.expose_secret()
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}
