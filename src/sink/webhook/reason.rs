//! Explains to operators why a request failed, without the URL, which may contain a secret.

use crate::domain::peer_text::PeerText;

/// Returns the innermost cause, or what to do about a rejected certificate.
pub(super) fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    let error = error.without_url();
    certificate_rejected(&error).unwrap_or_else(|| crate::innermost_cause(&error).into())
}

/// Explains a rejected certificate and what to do about it; `None` for other errors.
fn certificate_rejected(error: &reqwest::Error) -> Option<String> {
    use rustls::CertificateError as Problem;
    let mut cause: &(dyn std::error::Error + 'static) = error;
    let problem = loop {
        if let Some(rustls::Error::InvalidCertificate(problem)) = cause.downcast_ref() {
            break problem;
        }
        cause = match cause.downcast_ref::<std::io::Error>() {
            // The error that it wraps is not its source.
            Some(carrier) => carrier.get_ref()?,
            None => cause.source()?,
        };
    };
    let remedy = match problem {
        Problem::UnknownIssuer => {
            "set ca_file to the certificate of the authority that signed it, and restart"
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "use a name of the certificate in url and restart, or have one issued for this name"
        }
        Problem::Expired | Problem::ExpiredContext { .. } => "have it renewed",
        _ => "ask the operator of the receiver",
    };
    // It quotes the names in the certificate.
    let problem = PeerText::from(problem.to_string());
    Some(format!("the receiver's certificate is refused ({problem}): {remedy}"))
}
