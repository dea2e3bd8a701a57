//! Signatures of [Standard Webhooks] 1.0.0: `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64, one for each key, so
//! that a key can be rotated without an event that its receiver cannot verify.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use crate::secrets::SameSecret;

/// The prefix of a key.
const PREFIX: &str = "whsec_";

/// The shortest and the longest key, in bytes, that the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A symmetric key.
#[derive(Clone)]
pub struct SigningKey(SecretSlice<u8>);

impl SigningKey {
    /// Parses a key: `whsec_` and 24 to 64 bytes in base64. The error says what is wrong and shows nothing of the key.
    pub fn parse(written: &SecretString) -> Result<Self, &'static str> {
        let Some(encoded) = written.expose_secret().strip_prefix(PREFIX) else {
            return Err("does not begin with whsec_");
        };
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| "is not base64 after whsec_")?;
        if KEY_BYTES.contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err("does not have 24 to 64 bytes after whsec_")
        }
    }

    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        // An HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()) else {
            return String::new();
        };
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl SameSecret for SigningKey {
    fn is_same(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// The value of the header `webhook-signature`: one signature for each key, in their order.
pub(super) fn signatures(keys: &[SigningKey], id: &str, timestamp: &str, body: &[u8]) -> String {
    let signatures: Vec<String> = keys.iter().map(|key| key.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(written: &str) -> Result<SigningKey, &'static str> {
        SigningKey::parse(&written.to_owned().into())
    }

    /// The example of the reference implementations.
    #[test]
    fn known_signature_is_reproduced() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signatures(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn reference_verifies_each_signature() {
        let written = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
        let keys = written.map(|written| key(written).unwrap());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().to_string();
        let all = signatures(&keys, "msg_1", &now, b"{}");
        for (written, signature) in written.iter().zip(all.split(' ')) {
            let mut headers = reqwest::header::HeaderMap::new();
            for (name, value) in
                [("webhook-id", "msg_1"), ("webhook-timestamp", &now), ("webhook-signature", signature)]
            {
                headers.insert(name, value.parse().unwrap());
            }
            let reference = standardwebhooks::Webhook::new(written).unwrap();
            reference.verify(b"{}", &headers).unwrap();
            assert!(reference.verify(b"{ }", &headers).is_err());
        }
    }

    #[test]
    fn invalid_key_is_rejected_and_not_shown() {
        assert_eq!(key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap_err(), "does not begin with whsec_");
        assert_eq!(key("whsec_!").unwrap_err(), "is not base64 after whsec_");
        assert_eq!(key("whsec_MfKQ").unwrap_err(), "does not have 24 to 64 bytes after whsec_");
        assert_eq!(format!("{:?}", key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")), "Ok([REDACTED])");
    }
}
