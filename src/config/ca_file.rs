//! Checks files of TLS root certificates.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::environment::LoadContext;
use super::findings::Findings;
use super::mistake::quote;
use super::setting::Setting;
use super::sources::KeyPath;

/// Reads the key `ca_file` of the table at `at`. The file must contain at least one certificate.
pub(super) fn check_ca_file(
    at: &KeyPath<'_>,
    setting: Setting<String>,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Option<PathBuf> {
    let key = at.name("ca_file");
    let path = context.base_dir.join(findings.take(&key, setting)?);
    let shown = quote(&path.display().to_string());
    let problem = match std::fs::read(&path) {
        Err(e) => Some(format!("{shown} cannot be read: {e}; set the path of a file with PEM certificates")),
        Ok(pem) => match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
            Err(e) => Some(format!("{shown} is not a PEM file: {e}")),
            Ok(certificates) if certificates.is_empty() => Some(format!(
                "{shown} contains no certificate; it needs at least one -----BEGIN CERTIFICATE-----"
            )),
            Ok(_) => None,
        },
    };
    if let Some(problem) = problem {
        findings.wrong(&key, problem);
    }
    Some(path)
}
