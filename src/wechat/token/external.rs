//! Tokens and tickets from another program of the operator: from a file, or from an HTTP server.
//!
//! A token is the whole text, or the string at a JSON pointer. No error here contains any part of the text.

use std::{fmt, path::Path};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};

use super::observed_client::ObservedClient;
use crate::{
    domain::{
        endpoint::Endpoint,
        secret_text::{check_bare, check_word},
        text_file,
    },
    secrets::RotatableSecret,
    wechat::{
        error::{CallError, CallFailure},
        wire,
    },
};

/// Larger files are refused.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Longer tokens are refused, because a token is part of every request's URL. WeChat recommends room for 512 bytes.
const MAX_TOKEN_BYTES: usize = 4096;

/// An HTTP server of the operator that answers with a token or a ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenServer {
    /// The URL to request; user name, password and query may be secrets.
    pub url: Url,
    /// A header to send; its value is a secret.
    pub header: Option<RotatableSecret<(HeaderName, HeaderValue)>>,
    /// The position in the answer, if it is JSON.
    pub json_pointer: Option<String>,
}

impl fmt::Debug for TokenServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenServer")
            .field("host", &self.url.host_str())
            .field("header", &self.header.as_ref().map(|header| header.value().0.clone()))
            .field("json_pointer", &self.json_pointer)
            .finish_non_exhaustive()
    }
}

impl TokenServer {
    /// Fetches the token or ticket. An errcode in the answer is an error, because the server may forward WeChat's answer.
    pub(super) async fn fetch(&self, client: ObservedClient<'_>) -> Result<SecretString, CallFailure> {
        let header = self.header.as_ref().map(RotatableSecret::for_attempt);
        let exchange = async {
            let answer = client.client.get_from_server(self.url.clone(), header.as_deref()).await;
            answer.map_err(|error| error.of_server(self.name()))
        };
        let fetched = client.call(Endpoint::TokenServer, exchange, |answer| self.parse(answer)).await;
        if let Some(header) = &self.header {
            match &fetched {
                Ok(_) => header.accepted(),
                Err(CallFailure { error: CallError::ServerRefused { .. }, .. }) => header.refused(),
                Err(_) => {}
            }
        }
        fetched
    }

    /// Scheme, host and port of the URL, safe to show.
    pub(super) fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn parse(&self, answer: &str) -> Result<SecretString, CallError> {
        if let Some(refusal) = wire::refusal(answer) {
            let secrets = self.secrets();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            return Err(CallError::from_wire(refusal, &secrets));
        }
        let token = extract(answer, self.json_pointer.as_deref());
        token.map_err(|problem| CallError::Malformed(problem.into()))
    }

    /// The secrets that were sent, in the parts that an answer may quote.
    fn secrets(&self) -> Vec<String> {
        let header = self.header.as_ref().map(RotatableSecret::value);
        let header = header.as_deref().and_then(|(_, value)| value.to_str().ok()).unwrap_or_default();
        let user_info = [self.url.username(), self.url.password().unwrap_or_default()];
        let query = self.url.query_pairs().map(|(_, value)| value.into_owned());
        header.split(' ').chain(user_info).map(str::to_owned).chain(query).collect()
    }
}

/// Reads the token or the ticket in a file. The error names the file.
pub fn read_token_file(path: &Path, json_pointer: Option<&str>) -> Result<SecretString, String> {
    let refuse = |problem: String| format!("{}: {problem}", path.display());
    // Read on this thread, because the file has a few hundred bytes. Anything but a small regular file could block.
    let metadata = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(refuse("not a small regular file".to_owned()));
    }
    let content = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let text = text_file::decode(&content).map_err(|problem| refuse(problem.to_string()))?;
    extract(&text, json_pointer).map_err(refuse)
}

fn extract(text: &str, json_pointer: Option<&str>) -> Result<SecretString, String> {
    let found: SecretString = match json_pointer {
        None if text.trim_start().starts_with('<') => return Err("HTML or XML, not a token".to_owned()),
        None if text.trim_start().starts_with(['{', '[', '"']) => {
            return Err("JSON, but no json_pointer is configured".to_owned());
        }
        // A space that is not ASCII is reported.
        None => text.trim_ascii().into(),
        Some(pointer) => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
            let found = value.pointer(pointer).and_then(|token| token.as_str());
            found.ok_or_else(|| format!("no string at {pointer}"))?.into()
        }
    };
    let token = found.expose_secret();
    check_bare(token)?;
    if token.is_empty() || token.contains(|c: char| c.is_ascii_whitespace()) {
        return Err("does not contain exactly one token".to_owned());
    }
    check_word(token)?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(format!("a token longer than {MAX_TOKEN_BYTES} bytes"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, json_pointer: Option<&str>) -> Result<String, String> {
        extract(text, json_pointer).map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn token_is_whole_text_or_string_in_json() {
        assert_eq!(read(" 88_token-X\r\n", None), Ok("88_token-X".to_owned()));
        let json = r#"{"data":[{"access_token":"88_token-X","expires_in":7200}]}"#;
        assert_eq!(read(json, Some("/data/0/access_token")), Ok("88_token-X".to_owned()));
        assert_eq!(read("\"88_token-X\"", Some("")), Ok("88_token-X".to_owned()));
    }

    #[test]
    fn unusable_text_is_refused_and_not_quoted() {
        for (text, json_pointer, problem) in [
            ("", None, "does not contain exactly one token"),
            ("secret secret", None, "does not contain exactly one token"),
            ("<html>secret</html>", None, "HTML or XML, not a token"),
            ("{\"secret\":1}", None, "JSON, but no json_pointer is configured"),
            ("\"secret\"", None, "JSON, but no json_pointer is configured"),
            ("secret", Some("/token"), "not JSON"),
            ("{\"secret\":1}", Some("/token"), "no string at /token"),
            ("{\"token\":7}", Some("/token"), "no string at /token"),
            ("{\"token\":\"a secret\"}", Some("/token"), "does not contain exactly one token"),
            ("'secret'", None, "has quotes around the secret; remove them"),
            ("ACCESS_TOKEN=secret", None, "has a name and \"=\" before the secret; write the secret alone"),
            (
                "{\"token\":\"secret\u{200b}\"}",
                Some("/token"),
                "contains U+200B (zero width space) at character 7; a secret has only printable ASCII characters and no \
                 spaces",
            ),
            (&"x".repeat(4097), None, "a token longer than 4096 bytes"),
        ] {
            assert_eq!(read(text, json_pointer), Err(problem.to_owned()), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let header = (HeaderName::from_static("x-key"), HeaderValue::from_static("s3cret"));
        let url = "https://me:s3cret@tokens.example/s3cret?key=s3cret".parse().unwrap();
        let server = TokenServer { url, header: Some(header.into()), json_pointer: None };
        let shown = format!("{server:?}");
        assert_eq!(
            shown,
            r#"TokenServer { host: Some("tokens.example"), header: Some("x-key"), json_pointer: None, .. }"#
        );
    }

    proptest! {
        #[test]
        fn every_token_fits_into_a_url(text in "\\PC{0,40}", pointer in prop::option::of("/[a-z]{0,3}")) {
            if let Ok(token) = read(&text, pointer.as_deref()) {
                prop_assert!(!token.is_empty() && !token.contains(char::is_whitespace));
            }
        }
    }
}
