//! The secrets of one request: a peer may repeat them in its answer, which is logged.
//!
//! They are those of the request, not the present ones of the sink: a file may have been read again before the answer comes.

use std::cmp::Reverse;

use secrecy::{ExposeSecret, SecretString};

use super::vendor::RobotRequest;

/// A shorter part of a URL is no key: it occurs in other texts too.
const MIN_KEY_CHARS: usize = 8;

/// The key, the signature and the secret of a request, the longest first: it may contain another.
pub(super) struct SentSecrets(Vec<String>);

impl SentSecrets {
    /// The secrets of a request, and what it was signed with.
    pub(super) fn from_request(request: &RobotRequest, secret: Option<&SecretString>) -> Self {
        let RobotRequest { url, sign, .. } = request;
        let path = url.path_segments().into_iter().flatten().map(str::to_owned);
        let query = url.query_pairs().map(|(_, value)| value.into_owned());
        let encoded_query = url.query().unwrap_or_default().split(['&', '=']).map(str::to_owned);
        let user = [url.username(), url.password().unwrap_or_default()].map(str::to_owned);
        let secret = secret.map(|secret| secret.expose_secret().to_owned());
        let all = path.chain(query).chain(encoded_query).chain(user).chain(sign.clone()).chain(secret);
        let mut secrets: Vec<String> = all.filter(|secret| secret.chars().count() >= MIN_KEY_CHARS).collect();
        secrets.sort_by_key(|secret| Reverse(secret.len()));
        Self(secrets)
    }

    /// Replaces them in the text of a peer.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[REDACTED]"))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::sink::chat::Vendor;

    #[test]
    fn answer_that_repeats_request_shows_no_secret() {
        let secret = SecretString::from("SEC0123456789");
        for (vendor, url) in [
            (Vendor::DingTalk, "https://user:password@robot/send?access_token=k+e/y012345"),
            (Vendor::Feishu, "https://robot/hook/key-0123456"),
        ] {
            let request = vendor.request(url.parse().unwrap(), "hi", Some(&secret), Timestamp::UNIX_EPOCH);
            let sign = request.sign.clone().unwrap();
            let secrets = SentSecrets::from_request(&request, Some(&secret));
            let answer =
                format!("bad sign {sign} for {} {}, not {}", request.url, request.body, "SEC0123456789");
            let shown = secrets.redact(&answer);
            for secret in [&sign, "SEC0123456789", "password", "y012345", "key-", "%3D"] {
                assert!(!shown.contains(secret), "{secret}: {shown}");
            }
            assert!(shown.starts_with("bad sign [REDACTED] for https://"), "{shown}");
        }
    }
}
