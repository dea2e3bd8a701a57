//! Explains to operators why a request failed, without the URL, which may contain a secret.

use crate::tls::TlsRefusal;

/// Returns the innermost cause, or what to do about a refusal of TLS.
pub(super) fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    match TlsRefusal::find(&error) {
        Some(refusal) => format!("{refusal}: {}", refusal.remedy_at_sink()),
        None => crate::innermost_cause(&error.without_url()).into(),
    }
}
