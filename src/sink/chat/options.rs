//! The settings of a chat sink.

use std::{fmt, time::Duration};

use reqwest::Url;
use secrecy::SecretString;

use super::vendor::Vendor;
use crate::{domain::language::Language, secrets::RotatableSecret, tls::CaFile};

/// Which robot to use, and how.
#[derive(Clone, PartialEq)]
pub struct ChatOptions {
    /// Whose robot it is.
    pub vendor: Vendor,
    /// The robot's webhook address. It contains the robot's key.
    pub url: RotatableSecret<Url>,
    /// What requests are signed with, if the robot requires it.
    pub secret: Option<RotatableSecret<SecretString>>,
    /// The language of messages.
    pub language: Language,
    /// A file with PEM certificates to trust instead of those of the system.
    pub ca_file: Option<CaFile>,
    /// The longest time until a response.
    pub timeout: Duration,
}

impl ChatOptions {
    /// Scheme, host and port of the URL, safe to show.
    pub fn receiver(&self) -> String {
        self.url.value().origin().ascii_serialization()
    }

    /// Notes that the vendor refused the address or the signature.
    pub(super) fn note_refused(&self) {
        self.url.refused();
        self.secret.iter().for_each(RotatableSecret::refused);
    }

    /// Notes that the vendor accepted both.
    pub(super) fn note_accepted(&self) {
        self.url.accepted();
        self.secret.iter().for_each(RotatableSecret::accepted);
    }
}

impl fmt::Debug for ChatOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatOptions")
            .field("vendor", &self.vendor)
            .field("receiver", &self.receiver())
            .field("secret", &self.secret)
            .field("language", &self.language)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish()
    }
}
