//! Why TLS failed, if it fails until a person acts.
//!
//! The library's own texts are for programmers (`Other(OtherError(CaUsedAsEndEntity))`), so each frequent reason has its own.

use std::{error::Error, io};

use jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, OtherError,
    pki_types::{ServerName, UnixTime},
};

/// How many names of a certificate are shown, and how many characters of each: they come from the server.
const MAX_NAMES: usize = 3;
const MAX_NAME_CHARS: usize = 100;

/// The text of webpki's error for a certificate of an authority that a server uses as its own.
const CA_AS_LEAF: &str = "CaUsedAsEndEntity";

/// Why TLS was refused, by either side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsRefusal {
    /// The issuer of the certificate is not among the roots.
    #[error("the server's certificate is signed by an unknown authority")]
    UnknownIssuer,
    /// It is for other names.
    #[error("the server's certificate is not valid for {expected}, {}", valid_for(.presented))]
    WrongName {
        /// The name in the URL.
        expected: Box<str>,
        /// The names in the certificate.
        presented: Box<[Box<str>]>,
    },
    /// An authority's certificate, which is often self-signed, is used as the server's.
    #[error("the server uses an authority's certificate (CA:TRUE) as its own")]
    CaAsLeaf,
    /// The certificate is not valid any more, or not yet.
    #[error("the server's certificate {0}")]
    OutOfDate(Box<str>),
    /// The certificate has another problem.
    #[error("the server's certificate is refused: {0}")]
    Certificate(Box<str>),
    /// The server does not speak TLS on this port.
    #[error("the server does not answer with TLS")]
    NotTls,
    /// The server refused the connection, or there is no version or method that both sides know.
    #[error("the server and kfwatch do not agree on TLS: {0}")]
    Disagreement(Box<str>),
}

impl TlsRefusal {
    /// The refusal among the causes of a failed connection, if there is one.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = error;
        loop {
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Self::from_library(error);
            }
            cause = match cause.downcast_ref::<io::Error>() {
                // The error that it wraps is not its source.
                Some(carrier) => carrier.get_ref()?,
                None => cause.source()?,
            };
        }
    }

    fn from_library(error: &rustls::Error) -> Option<Self> {
        use rustls::Error as Library;
        match error {
            Library::InvalidCertificate(problem) => Some(Self::from_certificate_problem(problem)),
            Library::NoCertificatesPresented => Some(Self::Certificate("it sent none".into())),
            Library::InvalidMessage(_) => Some(Self::NotTls),
            // The server may soon work again.
            Library::AlertReceived(AlertDescription::InternalError | AlertDescription::CloseNotify) => None,
            Library::AlertReceived(alert) => Some(Self::Disagreement(words(&format!("{alert:?}")).into())),
            Library::PeerIncompatible(why) => Some(Self::Disagreement(words(&format!("{why:?}")).into())),
            Library::NoApplicationProtocol => Some(Self::Disagreement("no common protocol".into())),
            _ => None,
        }
    }

    fn from_certificate_problem(problem: &CertificateError) -> Self {
        match problem {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                expected: ServerName::to_str(expected).into(),
                presented: presented.iter().take(MAX_NAMES).map(|name| bare_name(name).into()).collect(),
            },
            CertificateError::Expired => Self::OutOfDate("has expired".into()),
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::OutOfDate(format!("expired on {}", day(*not_after)).into())
            }
            CertificateError::NotValidYet => Self::OutOfDate("is not valid yet".into()),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::OutOfDate(format!("is not valid before {}", day(*not_before)).into())
            }
            CertificateError::Other(OtherError(other)) => match other.to_string() {
                name if name == CA_AS_LEAF => Self::CaAsLeaf,
                name => Self::Certificate(words(&name).into()),
            },
            other => Self::Certificate(words(&other.to_string()).into()),
        }
    }

    /// What to do about it at a sink, whose keys are `url` and `ca_file`.
    pub fn remedy_at_sink(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => {
                "set ca_file to the certificate of the authority that signed it, and run \"kfwatch reload\""
            }
            Self::WrongName { .. } => {
                "use a name of the certificate in url and run \"kfwatch reload\", or have one issued for this name"
            }
            Self::CaAsLeaf => {
                "have the authority issue a certificate for the server, install that one there, and set ca_file to the \
                 authority's"
            }
            Self::OutOfDate(_) => "have it renewed, or correct this machine's clock",
            Self::NotTls => "correct the scheme or the port in url",
            Self::Certificate(_) | Self::Disagreement(_) => "ask the operator of the server",
        }
    }
}

fn valid_for(names: &[Box<str>]) -> String {
    match names {
        [] => "nor for any other name".to_owned(),
        names => format!("only for {}", names.join(", ")),
    }
}

/// A name as the library quotes it, `DnsName("localhost")`, without the rest.
fn bare_name(quoted: &str) -> String {
    let inner = quoted.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(quoted);
    inner.trim_matches('"').chars().filter(|c| c.is_ascii_graphic()).take(MAX_NAME_CHARS).collect()
}

/// `HandshakeFailure` as "handshake failure". Other texts stay as they are.
fn words(name: &str) -> String {
    if !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn refused(error: rustls::Error) -> Option<TlsRefusal> {
        let carried = io::Error::new(io::ErrorKind::InvalidData, error);
        TlsRefusal::find(&io::Error::other(carried))
    }

    #[test]
    fn no_reason_is_a_name_of_the_library() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Webpki(&'static str);
        let other = |name| CertificateError::Other(OtherError(Arc::new(Webpki(name))));
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let certificate = |problem: CertificateError| rustls::Error::InvalidCertificate(problem);
        for (error, expected) in [
            (
                certificate(CertificateError::UnknownIssuer),
                "the server's certificate is signed by an unknown authority",
            ),
            (
                certificate(other(CA_AS_LEAF)),
                "the server uses an authority's certificate (CA:TRUE) as its own",
            ),
            (
                certificate(other("UnsupportedCertVersion")),
                "the server's certificate is refused: unsupported cert version",
            ),
            (certificate(CertificateError::BadEncoding), "the server's certificate is refused: bad encoding"),
            (
                certificate(CertificateError::ExpiredContext {
                    time: at(1_800_000_000),
                    not_after: at(1_795_331_551),
                }),
                "the server's certificate expired on 2026-11-22",
            ),
            (
                certificate(CertificateError::NotValidForNameContext {
                    expected: "a.example".try_into().unwrap(),
                    presented: vec![
                        "DnsName(\"b.example\")".to_owned(),
                        "IpAddress(192.0.2.1)".to_owned(),
                        "DnsName(\"\x1b[2J\")".to_owned(),
                    ],
                }),
                "the server's certificate is not valid for a.example, only for b.example, 192.0.2.1, [2J",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                "the server and kfwatch do not agree on TLS: handshake failure",
            ),
        ] {
            let refusal = refused(error.clone()).unwrap_or_else(|| unreachable!("{error:?}"));
            assert_eq!(refusal.to_string(), expected);
        }
    }

    #[test]
    fn other_failures_are_no_refusals() {
        assert_eq!(refused(rustls::Error::AlertReceived(AlertDescription::InternalError)), None);
        assert_eq!(refused(rustls::Error::DecryptError), None);
        assert_eq!(TlsRefusal::find(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
