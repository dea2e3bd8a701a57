//! Tokens and tickets that another program of the operator's hands out: in a file, or by HTTP.
//!
//! Both are one word: the whole text, or the string at a place in JSON. No message here shows any of it.

use std::{fmt, path::Path};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};

use super::caller::Caller;
use crate::wechat::{
    Endpoint,
    error::{CallError, CallFailure},
    http::call_refused,
    wire::{self, WireError},
};

/// The largest file that is read for a token.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The longest token: it goes into the URL of each request. WeChat has those who keep one make room for 512.
const MAX_WORD_BYTES: usize = 4096;

/// A server of the operator's that answers with a token, or with a ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct TextServer {
    /// Where to ask; user name, password and query may be secrets.
    pub url: Url,
    /// A header to send along; its value is a secret.
    pub header: Option<(HeaderName, HeaderValue)>,
    /// Where in the answer, if it is JSON.
    pub json_pointer: Option<String>,
}

impl fmt::Debug for TextServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextServer")
            .field("host", &self.url.host_str())
            .field("header", &self.header.as_ref().map(|(name, _)| name))
            .field("json_pointer", &self.json_pointer)
            .finish_non_exhaustive()
    }
}

impl TextServer {
    /// Asks for the text. Should the answer have an errcode, that counts: the server may pass on what WeChat said.
    pub(super) async fn ask(&self, caller: Caller<'_>) -> Result<SecretString, CallFailure> {
        let exchange = caller.client.ask_server(self.url.clone(), self.header.as_ref());
        caller.call(Endpoint::TokenServer, exchange, |answer| self.read(answer)).await
    }

    fn read(&self, answer: &str) -> Result<SecretString, CallError> {
        if let Some(refusal) = wire::refusal(answer) {
            let secrets = self.secrets();
            return Err(call_refused(refusal, &secrets.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        word(answer, self.json_pointer.as_deref())
            .map_err(|problem| call_refused(WireError::Malformed(problem), &[]))
    }

    /// What was sent and must not be shown, in the pieces in which an answer may quote it.
    fn secrets(&self) -> Vec<String> {
        let header = self.header.as_ref().and_then(|(_, value)| value.to_str().ok()).unwrap_or_default();
        let of_url = [self.url.username(), self.url.password().unwrap_or_default()];
        let of_query = self.url.query_pairs().map(|(_, value)| value.into_owned());
        header.split(' ').chain(of_url).map(str::to_owned).chain(of_query).collect()
    }
}

/// The word in a file; an error names the file.
pub(super) fn from_file(path: &Path, json_pointer: Option<&str>) -> Result<SecretString, String> {
    let refuse = |what: String| format!("{}: {what}", path.display());
    // A file of a few hundred bytes: not worth a thread of its own. Anything else could keep us waiting.
    let metadata = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(refuse("not a small regular file".to_owned()));
    }
    let content = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    word(&content, json_pointer).map_err(refuse)
}

fn word(text: &str, json_pointer: Option<&str>) -> Result<SecretString, String> {
    let found: SecretString = match json_pointer {
        None if text.trim_start().starts_with('<') => return Err("HTML or XML, not a token".to_owned()),
        None if text.trim_start().starts_with(['{', '[', '"']) => {
            return Err("JSON, and no json_pointer says where in it".to_owned());
        }
        None => text.trim().into(),
        Some(pointer) => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
            let found = value.pointer(pointer).and_then(|word| word.as_str());
            found.ok_or_else(|| format!("no string at {pointer}"))?.into()
        }
    };
    let word = found.expose_secret();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("does not hold one token".to_owned());
    }
    if word.len() > MAX_WORD_BYTES {
        return Err(format!("a token longer than {MAX_WORD_BYTES} bytes"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, json_pointer: Option<&str>) -> Result<String, String> {
        word(text, json_pointer).map(|word| word.expose_secret().to_owned())
    }

    #[test]
    fn a_token_is_the_whole_text_or_a_string_in_json() {
        assert_eq!(read(" 88_token-X\r\n", None), Ok("88_token-X".to_owned()));
        let json = r#"{"data":[{"access_token":"88_token-X","expires_in":7200}]}"#;
        assert_eq!(read(json, Some("/data/0/access_token")), Ok("88_token-X".to_owned()));
        assert_eq!(read("\"88_token-X\"", Some("")), Ok("88_token-X".to_owned()));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for (text, json_pointer, problem) in [
            ("", None, "does not hold one token"),
            ("secret secret", None, "does not hold one token"),
            ("<html>secret</html>", None, "HTML or XML, not a token"),
            ("{\"secret\":1}", None, "JSON, and no json_pointer says where in it"),
            ("\"secret\"", None, "JSON, and no json_pointer says where in it"),
            ("secret", Some("/token"), "not JSON"),
            ("{\"secret\":1}", Some("/token"), "no string at /token"),
            ("{\"token\":7}", Some("/token"), "no string at /token"),
            ("{\"token\":\"a secret\"}", Some("/token"), "does not hold one token"),
            (&"x".repeat(4097), None, "a token longer than 4096 bytes"),
        ] {
            assert_eq!(read(text, json_pointer), Err(problem.to_owned()), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let header = (HeaderName::from_static("x-key"), HeaderValue::from_static("s3cret"));
        let url = "https://me:s3cret@tokens.example/s3cret?key=s3cret".parse().unwrap();
        let server = TextServer { url, header: Some(header), json_pointer: None };
        let shown = format!("{server:?}");
        assert_eq!(
            shown,
            r#"TextServer { host: Some("tokens.example"), header: Some("x-key"), json_pointer: None, .. }"#
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_word_is_unfit_for_a_url(text in "\\PC{0,40}", pointer in prop::option::of("/[a-z]{0,3}")) {
            if let Ok(word) = read(&text, pointer.as_deref()) {
                prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace));
            }
        }
    }
}
