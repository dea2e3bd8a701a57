//! Explains to operators why an event was not acknowledged, and what to do about it.
//!
//! The same problem has the same text each time, so that it is logged once. So the text contains no subject of a single event
//! and no id of a connection.

use std::error::Error;

use async_nats::{
    ConnectError, ConnectErrorKind,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};

use super::options::NatsOptions;
use crate::{domain::peer_text::PeerText, innermost_cause, sink::error::DeliveryError, tls::TlsRefusal};

/// What to check when a server refuses the login.
const CHECK_LOGIN: &str = "check credentials_file, nkey_file, or user and secret_file";

/// Why no server could be connected to.
pub(super) fn not_connected(error: &ConnectError, options: &NatsOptions) -> String {
    if let Some(refusal) = TlsRefusal::find(error) {
        return format!("no connection to {}: {refusal}: {}", options.servers(), refusal.remedy_at_sink());
    }
    let cause = innermost_cause(error);
    let why = match error.kind() {
        ConnectErrorKind::TimedOut => return not_connected_in_time(options),
        _ if is_login_refused(error) => format!("the login is refused; {CHECK_LOGIN}"),
        ConnectErrorKind::Dns => format!("its name is not resolved: {cause}"),
        ConnectErrorKind::Tls => format!("{cause}; set ca_file"),
        _ => cause.into(),
    };
    format!("no connection to {}: {why}", options.servers())
}

/// Whether the server refused the login.
pub(super) fn is_login_refused(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
}

/// No server could be connected to in time.
pub(super) fn not_connected_in_time(options: &NatsOptions) -> String {
    format!("no connection to {}: no response in time", options.servers())
}

/// The server speaks another protocol, or the library has a bug.
pub(super) fn not_understood(options: &NatsOptions) -> String {
    format!("no connection to {}: the response cannot be understood", options.servers())
}

/// The connection broke before the acknowledgement.
pub(super) fn broken(server_error: Option<PeerText>, options: &NatsOptions) -> String {
    let what = "the connection to the server broke before the acknowledgement";
    server_error
        .map_or_else(|| what.to_owned(), |error| format!("{what}: {}", without_details(&error, options)))
}

/// Whether the server responded. Otherwise the connection may be broken, and its view of the server's limits outdated.
pub(super) fn is_response(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::StreamNotFound || stream_error(error).is_some()
}

/// Why a message was not acknowledged.
pub(super) fn not_acknowledged(
    error: &PublishError,
    options: &NatsOptions,
    server_error: Option<PeerText>,
    has_jetstream: bool,
) -> DeliveryError {
    let reason = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => return too_large("max_payload of the server", error),
        PublishErrorKind::StreamNotFound if has_jetstream => missing_stream(options),
        PublishErrorKind::StreamNotFound => {
            "the server has no JetStream, or none for this user: start it with --jetstream".to_owned()
        }
        PublishErrorKind::TimedOut => match server_error {
            Some(error) => format!("the server says: {}", without_details(&error, options)),
            None => "the server did not acknowledge in time".to_owned(),
        },
        PublishErrorKind::BrokenPipe => broken(server_error, options),
        _ => match stream_error(error) {
            Some(error_of_stream)
                if error_of_stream.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM =>
            {
                return too_large("max_msg_size of the stream", error);
            }
            Some(error_of_stream) => {
                format!("the stream does not take it: {}", PeerText::from(error_of_stream.to_string()))
            }
            None => format!("the server's response cannot be understood: {}", innermost_cause(error)),
        },
    };
    DeliveryError::retryable(reason)
}

fn too_large(limit: &str, error: &PublishError) -> DeliveryError {
    DeliveryError::Refused { reason: format!("it is larger than {limit}"), response: innermost_cause(error) }
}

fn missing_stream(options: &NatsOptions) -> String {
    let subjects = options.subjects();
    let name = options.subject_prefix.replace('.', "_").to_uppercase();
    format!(
        "no stream takes {subjects}; create one, like: nats stream add {name} --subjects '{subjects}' --storage file \
         --dupe-window 10m --defaults"
    )
}

/// The error that the stream itself responded with.
fn stream_error(error: &PublishError) -> Option<&jetstream::Error> {
    error.source()?.downcast_ref()
}

/// An error of the server, without the subject or inbox, which differ between events and connections.
fn without_details(error: &str, options: &NatsOptions) -> String {
    let (_, violation) = error.split_once("Permissions Violation for ").unwrap_or_default();
    match violation.split_once(' ') {
        Some(("Publish", _)) => {
            format!("permissions violation; let this user publish to {}", options.subjects())
        }
        Some(("Subscription", _)) => {
            "permissions violation; let this user subscribe to _INBOX.>, where acknowledgements come"
                .to_owned()
        }
        _ => error.trim_start_matches("nats: ").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    use crate::sink::nats::options::Login;

    fn options() -> NatsOptions {
        NatsOptions {
            servers: vec!["tls://a.example".parse().unwrap(), "tls://b.example".parse().unwrap()],
            subject_prefix: "acme.kf".to_owned(),
            login: Login::None.into(),
            ca_file: None,
            timeout: Duration::from_secs(1),
            max_in_flight: 1,
        }
    }

    #[test]
    fn failed_connection_says_what_to_do() {
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
        check(ConnectErrorKind::TimedOut.into(), "no response in time");
        let login = "the login is refused; check credentials_file, nkey_file, or user and secret_file";
        check(ConnectErrorKind::AuthorizationViolation.into(), login);
        check(ConnectError::with_source(ConnectErrorKind::Tls, "no roots"), "no roots; set ca_file");
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        check(
            io::Error::new(io::ErrorKind::InvalidData, unknown).into(),
            "the server's certificate is signed by an unknown authority: set ca_file to the certificate of the authority \
             that signed it, and run \"kfwatch reload\"",
        );
    }

    #[test]
    fn only_too_large_events_are_refused() {
        let check = |kind: PublishErrorKind, source: Option<&str>, refused: bool| {
            let source = source.map(|json| serde_json::from_str::<jetstream::Error>(json).unwrap());
            let error = source
                .map_or_else(|| PublishError::new(kind), |source| PublishError::with_source(kind, source));
            let judged = not_acknowledged(&error, &options(), None, true);
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
    fn missing_stream_is_named_after_prefix() {
        let missing = missing_stream(&options());
        assert!(
            missing.contains("nats stream add ACME_KF --subjects 'acme.kf.>' --storage file"),
            "{missing}"
        );
    }

    #[test]
    fn server_errors_have_no_details_of_event_or_connection() {
        let publish = "nats: Permissions Violation for Publish to \"acme.kf.shop.session.started\"";
        assert_eq!(
            without_details(publish, &options()),
            "permissions violation; let this user publish to acme.kf.>"
        );
        let inbox = "nats: Permissions Violation for Subscription to \"_INBOX.abc.*\"";
        assert!(
            without_details(inbox, &options())
                .ends_with("subscribe to _INBOX.>, where acknowledgements come")
        );
        assert_eq!(without_details("nats: Stale Connection", &options()), "Stale Connection");
    }
}
