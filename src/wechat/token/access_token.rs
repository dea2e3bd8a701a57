//! An access token, which shows itself only where it goes into a request.

use std::{fmt, iter, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

/// A token as it goes into a request.
#[derive(Clone)]
pub struct AccessToken(Arc<Spellings>);

struct Spellings {
    plain: SecretString,
    /// Encoded once and not for every poll.
    in_query: SecretString,
}

impl AccessToken {
    pub(super) fn new(token: SecretString) -> Self {
        let encoded = form_urlencoded::byte_serialize(token.expose_secret().as_bytes());
        let in_query = iter::once("access_token=").chain(encoded).collect::<String>();
        Self(Arc::new(Spellings { plain: token, in_query: in_query.into() }))
    }

    pub(in crate::wechat) fn expose(&self) -> &str {
        self.0.plain.expose_secret()
    }

    /// The parameter of a query that holds it.
    pub(in crate::wechat) fn in_query(&self) -> &str {
        self.0.in_query.expose_secret()
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
