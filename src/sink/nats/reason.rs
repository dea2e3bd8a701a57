//! Why an event was not confirmed, and what to do about it: the library's errors in the operator's words.
//!
//! The same trouble has the same words each time, so that the log is told of it once. No subject of a single event, no id
//! of a connection and no order of servers is in them.

use std::{error::Error, io};

use async_nats::{
    ConnectError, ConnectErrorKind,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};

use super::NatsOptions;
use crate::sink::DeliveryError;

/// What to look at when a server does not let kfwatch in.
const CHECK_LOGIN: &str = "check credentials_file, nkey_file, or user and secret_file";

/// Why no server could be connected to.
pub(super) fn not_connected(error: &ConnectError, options: &NatsOptions) -> String {
    let cause = innermost(error);
    let why = match error.kind() {
        ConnectErrorKind::TimedOut => return not_connected_in_time(options),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            format!("the login is refused; {CHECK_LOGIN}")
        }
        ConnectErrorKind::Dns => format!("its name is not resolved: {cause}"),
        ConnectErrorKind::Tls => format!("{cause}; set ca_file"),
        _ if is_tls(error) => {
            format!("{cause}; ca_file must have the authority of the server's certificate, and url its name")
        }
        _ => cause,
    };
    format!("no connection to {}: {why}", options.servers())
}

/// No server let itself be connected to in time.
pub(super) fn not_connected_in_time(options: &NatsOptions) -> String {
    format!("no connection to {}: no answer in time", options.servers())
}

/// The connection ended before the confirmation came.
pub(super) fn broken(complaint: Option<String>) -> String {
    let what = "the connection to the server broke before it had confirmed";
    complaint.map_or_else(|| what.to_owned(), |complaint| format!("{what}: {}", unvaried(&complaint)))
}

/// Whether nothing came back for a message: the connection may be gone without anybody having said so.
pub(super) fn is_no_answer(error: &PublishError) -> bool {
    matches!(error.kind(), PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe)
}

/// Why a message was not stored.
pub(super) fn not_confirmed(
    error: &PublishError,
    options: &NatsOptions,
    complaint: Option<String>,
    has_jetstream: bool,
) -> DeliveryError {
    let reason = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => return too_large("max_payload of the server", error),
        PublishErrorKind::StreamNotFound if has_jetstream => missing_stream(options),
        PublishErrorKind::StreamNotFound => {
            "the server has no JetStream, or none for this user: start it with --jetstream".to_owned()
        }
        PublishErrorKind::TimedOut => match complaint {
            Some(complaint) => format!("the server says: {}", unvaried(&complaint)),
            None => "the server did not confirm in time".to_owned(),
        },
        PublishErrorKind::BrokenPipe => broken(complaint),
        _ => match answer(error) {
            Some(answer) if answer.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
                return too_large("max_msg_size of the stream", error);
            }
            Some(answer) => format!("the stream does not take it: {answer}"),
            None => format!("the server's answer cannot be understood: {}", innermost(error)),
        },
    };
    DeliveryError::Retryable { reason, after: None }
}

fn too_large(limit: &str, error: &PublishError) -> DeliveryError {
    DeliveryError::Refused { reason: format!("it is larger than {limit}"), answer: innermost(error) }
}

fn missing_stream(options: &NatsOptions) -> String {
    let subjects = options.subjects();
    let name = options.subject_prefix.replace('.', "_").to_uppercase();
    format!(
        "no stream takes {subjects}; create one, like: nats stream add {name} --subjects '{subjects}' --storage file \
         --dupe-window 10m --defaults"
    )
}

/// What the stream itself answered.
fn answer(error: &PublishError) -> Option<&jetstream::Error> {
    error.source()?.downcast_ref()
}

/// Inboxes have a new name for each connection.
fn unvaried(complaint: &str) -> String {
    if complaint.contains("_INBOX") {
        return "permissions violation for _INBOX.>, where confirmations come; let this user subscribe to it"
            .to_owned();
    }
    complaint.trim_start_matches("nats: ").to_owned()
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether the TLS library is what failed: it says so inside of an error of the socket.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let inner = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref());
    inner.into_iter().any(|inner| inner.is::<rustls::Error>())
}
