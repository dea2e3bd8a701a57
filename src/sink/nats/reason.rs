//! Why an event was not confirmed, and what to do about it: the library's errors in the operator's words.
//!
//! The same trouble has the same words each time, so that the log is told of it once: no subject of a single event and no id
//! of a connection is in them.

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
pub(super) fn broken(complaint: Option<String>, options: &NatsOptions) -> String {
    let what = "the connection to the server broke before it had confirmed";
    complaint
        .map_or_else(|| what.to_owned(), |complaint| format!("{what}: {}", unvaried(&complaint, options)))
}

/// Whether the server answered. Without that the connection may be gone, and what it knows of the server's limits be old.
pub(super) fn is_answer(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::StreamNotFound || answer(error).is_some()
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
            Some(complaint) => format!("the server says: {}", unvaried(&complaint, options)),
            None => "the server did not confirm in time".to_owned(),
        },
        PublishErrorKind::BrokenPipe => broken(complaint, options),
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

/// What the server said, without what differs between events and between connections: subjects and inboxes.
fn unvaried(complaint: &str, options: &NatsOptions) -> String {
    let (_, violation) = complaint.split_once("Permissions Violation for ").unwrap_or_default();
    match violation.split_once(' ') {
        Some(("Publish", _)) => {
            format!("permissions violation; let this user publish to {}", options.subjects())
        }
        Some(("Subscription", _)) => {
            "permissions violation; let this user subscribe to _INBOX.>, where confirmations come".to_owned()
        }
        _ => complaint.trim_start_matches("nats: ").to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sink::nats::Login;

    fn options() -> NatsOptions {
        NatsOptions {
            servers: vec!["tls://a.example".parse().unwrap(), "tls://b.example".parse().unwrap()],
            subject_prefix: "acme.kf".to_owned(),
            login: Login::None,
            ca_file: None,
            timeout: Duration::from_secs(1),
            max_in_flight: 1,
        }
    }

    #[test]
    fn a_connection_that_cannot_be_made_says_what_to_do() {
        let check = |error: ConnectError, expected: &str| {
            let expected = format!("no connection to tls://a.example, tls://b.example: {expected}");
            assert_eq!(not_connected(&error, &options()), expected);
        };
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        check(refused().into(), "connection refused");
        check(
            ConnectError::with_source(ConnectErrorKind::Dns, "no such host"),
            "its name is not resolved: no such host",
        );
        check(ConnectErrorKind::TimedOut.into(), "no answer in time");
        let login = "the login is refused; check credentials_file, nkey_file, or user and secret_file";
        check(ConnectErrorKind::AuthorizationViolation.into(), login);
        check(ConnectError::with_source(ConnectErrorKind::Tls, "no roots"), "no roots; set ca_file");
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        check(
            io::Error::new(io::ErrorKind::InvalidData, unknown).into(),
            "invalid peer certificate: UnknownIssuer; ca_file must have the authority of the server's certificate, and url \
             its name",
        );
    }

    #[test]
    fn only_what_is_too_large_concerns_the_event() {
        let check = |kind: PublishErrorKind, source: Option<&str>, refused: bool| {
            let source = source.map(|json| serde_json::from_str::<jetstream::Error>(json).unwrap());
            let error = source
                .map_or_else(|| PublishError::new(kind), |source| PublishError::with_source(kind, source));
            let judged = not_confirmed(&error, &options(), None, true);
            assert_eq!(matches!(judged, DeliveryError::Refused { .. }), refused, "{judged}");
            assert!(refused || matches!(judged, DeliveryError::Retryable { .. }), "{judged}");
        };
        check(PublishErrorKind::MaxPayloadExceeded, None, true);
        let answer = |code| format!("{{\"code\":400,\"err_code\":{code},\"description\":\"no\"}}");
        check(PublishErrorKind::Other, Some(&answer(10054)), true);
        check(PublishErrorKind::Other, Some(&answer(10077)), false);
        for kind in [
            PublishErrorKind::StreamNotFound,
            PublishErrorKind::TimedOut,
            PublishErrorKind::BrokenPipe,
            PublishErrorKind::MaxAckPending,
            PublishErrorKind::WrongLastSequence,
            PublishErrorKind::Other,
        ] {
            check(kind, None, false);
        }
    }

    #[test]
    fn the_missing_stream_is_named_after_the_prefix() {
        let missing = missing_stream(&options());
        assert!(
            missing.contains("nats stream add ACME_KF --subjects 'acme.kf.>' --storage file"),
            "{missing}"
        );
    }

    #[test]
    fn what_a_server_says_of_one_event_or_connection_is_told_alike_for_all() {
        let publish = "nats: Permissions Violation for Publish to \"acme.kf.shop.session.started\"";
        assert_eq!(
            unvaried(publish, &options()),
            "permissions violation; let this user publish to acme.kf.>"
        );
        let inbox = "nats: Permissions Violation for Subscription to \"_INBOX.abc.*\"";
        assert!(unvaried(inbox, &options()).ends_with("subscribe to _INBOX.>, where confirmations come"));
        assert_eq!(unvaried("nats: Stale Connection", &options()), "Stale Connection");
    }
}
