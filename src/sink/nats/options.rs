//! The settings of a NATS sink.

use std::time::Duration;

use async_nats::ServerAddr;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    secrets::{RotatableSecret, SameSecret},
    tls::CaFile,
};

/// Where to publish, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsOptions {
    /// Servers of one cluster, at least one, without user or password in them. One of them is connected to.
    pub servers: Vec<ServerAddr>,
    /// The prefix of all subjects: tokens separated by dots.
    pub subject_prefix: String,
    /// How to log in.
    pub login: RotatableSecret<Login>,
    /// A file with PEM certificates to trust instead of those of the system. With it, the connection must be encrypted.
    pub ca_file: Option<CaFile>,
    /// The longest time to connect to a server, and to wait for an acknowledgement.
    pub timeout: Duration,
    /// How many events may be unacknowledged.
    pub max_in_flight: usize,
}

impl NatsOptions {
    /// The servers, safe to show.
    pub fn servers(&self) -> String {
        self.servers.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>().join(", ")
    }

    /// The pattern of all subjects that events are published to.
    pub fn subjects(&self) -> String {
        format!("{}.>", self.subject_prefix)
    }

    pub(super) fn requires_tls(&self) -> bool {
        self.ca_file.is_some() || self.servers.iter().any(ServerAddr::tls_required)
    }
}

/// How to log in to a server.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum Login {
    /// Not at all.
    None,
    /// With a JWT and the seed of its key, as nsc writes them to a file.
    Credentials(SecretString),
    /// With the seed of a user's key.
    Nkey(SecretString),
    /// With a user name and a password.
    Password { user: String, password: SecretString },
    /// With a token.
    Token(SecretString),
}

impl Login {
    /// Checks the text of a credentials file. The error says what is wrong and shows nothing of it.
    pub fn credentials(text: &SecretString) -> Result<Self, &'static str> {
        // The library needs a newline at the end, which an editor may have removed.
        let text = SecretString::from(format!("{}\n", text.expose_secret().trim()));
        match async_nats::ConnectOptions::new().credentials(text.expose_secret()) {
            Ok(_) => Ok(Self::Credentials(text)),
            Err(_) => Err("contains no user JWT with its seed; write one with \"nsc generate creds\""),
        }
    }

    /// Checks the seed of a user's key. The error says what is wrong and shows nothing of it.
    pub fn nkey(seed: &SecretString) -> Result<Self, &'static str> {
        match nkeys::KeyPair::from_seed(seed.expose_secret()) {
            Ok(key) if key.public_key().starts_with('U') => Ok(Self::Nkey(seed.clone())),
            _ => Err("contains no seed of a user's key; it begins with SU, as \"nk -gen user\" writes it"),
        }
    }
}

impl SameSecret for Login {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Credentials(one), Self::Credentials(other))
            | (Self::Nkey(one), Self::Nkey(other))
            | (Self::Token(one), Self::Token(other)) => one.is_same(other),
            (
                Self::Password { user, password },
                Self::Password { user: other_user, password: other_password },
            ) => user == other_user && password.is_same(other_password),
            (_, _) => false,
        }
    }
}

/// Whether a text may be one token of a subject: letters, digits, `-` and `_`, none of which is special to NATS.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_login_is_rejected_without_showing_it() {
        let account = nkeys::KeyPair::new_account().seed().unwrap();
        let user = nkeys::KeyPair::new_user().seed().unwrap();
        for text in ["", "s3cret", account.as_str()] {
            let text = SecretString::from(text);
            assert!(Login::nkey(&text).is_err());
            assert!(Login::credentials(&text).is_err());
        }
        let login = Login::nkey(&SecretString::from(user.as_str())).unwrap();
        assert!(!format!("{login:?}").contains(&user));
    }
}
