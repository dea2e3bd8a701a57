//! Tokens that a database keeps for several replicas, encrypted: whoever can only read the database, or a dump of it, learns none.
//!
//! AES-256-GCM, with a key that HKDF-SHA256 derives from a secret that all replicas have. Whoever can open a token has that secret,
//! and could fetch the token with it. The place of a token is authenticated, so that one that was moved to another row does not open.

use std::str;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};

/// What the key is for; part of its derivation.
const PURPOSE: &[u8] = b"kfwatch sealed token v1";

/// The length of a key of AES-256.
const KEY_BYTES: usize = 32;

/// The library for encryption has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it could not be encrypted")]
pub(crate) struct SealError;

/// Seals and opens tokens.
pub(crate) struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    /// The key that belongs to a secret.
    pub(crate) fn derive(secret: &SecretString) -> Result<Self, SealError> {
        let mut key = [0; KEY_BYTES];
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret.expose_secret().as_bytes());
        extracted.expand(&[PURPOSE], HKDF_SHA256).and_then(|derived| derived.fill(&mut key))?;
        Ok(Self(RandomizedNonceKey::new(&AES_256_GCM, &key)?))
    }

    /// Seals a token for a place. The same token gives another text each time.
    pub(crate) fn seal(&self, token: &SecretString, place: &str) -> Result<String, SealError> {
        let mut sealed = token.expose_secret().as_bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(place), &mut sealed)?;
        Ok(BASE64.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// Opens a token. `None` if it was sealed with another secret or for another place, or is damaged.
    pub(crate) fn open(&self, sealed: &str, place: &str) -> Option<SecretString> {
        let sealed = BASE64.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let opened = self.0.open_in_place(Nonce::from(nonce), Aad::from(place), &mut text).ok()?;
        str::from_utf8(opened).ok().map(SecretString::from)
    }
}

impl From<Unspecified> for SealError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> SealingKey {
        SealingKey::derive(&secret.into()).unwrap()
    }

    #[test]
    fn token_opens_with_its_secret_at_its_place_only() {
        let sealed = key("s3cret").seal(&"token".into(), "a 1").unwrap();
        assert!(!sealed.contains("token"));
        let open = |secret, sealed: &str, place| {
            key(secret).open(sealed, place).map(|token| token.expose_secret().to_owned())
        };
        assert_eq!(open("s3cret", &sealed, "a 1").as_deref(), Some("token"));
        assert_eq!(open("other", &sealed, "a 1"), None);
        assert_eq!(open("s3cret", &sealed, "a 2"), None);
        for damaged in ["", "AAAA", "no base64", &sealed[4..], &sealed.replace(&sealed[20..21], "_")] {
            assert_eq!(open("s3cret", damaged, "a 1"), None, "{damaged:?}");
        }
        assert_ne!(key("s3cret").seal(&"token".into(), "a 1").unwrap(), sealed);
    }
}
