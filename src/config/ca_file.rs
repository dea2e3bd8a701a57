//! Checks files of TLS root certificates.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::mistake::{Problem, quote};
use super::setting::Setting;
use super::table::Table;
use crate::domain::{characters, text_file};
use crate::tls::CaFile;

/// Checks the key `ca_file` of a table. The file must contain at least one certificate.
pub(super) fn check_ca_file(setting: Setting<String>, table: &mut Table<'_>) -> Option<CaFile> {
    let path = table.path("ca_file", setting)?;
    let problem = match std::fs::read(&path) {
        Err(e) => {
            Problem::Machine(format!("cannot be read: {e}; set the path of a file with PEM certificates"))
        }
        Ok(content) => match check_certificates(&content) {
            Err(problem) => problem.into(),
            Ok(()) => return Some(CaFile::new(path, &content)),
        },
    };
    table.wrong("ca_file", problem.of(&quote(&path.display().to_string())));
    None
}

fn check_certificates(content: &[u8]) -> Result<(), String> {
    let pem = text_file::without_mark(content).map_err(|problem| problem.to_string())?;
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let problem = match certificates {
        Err(e) => format!("is not a PEM file: {e}"),
        Ok(certificates) if certificates.is_empty() => {
            "contains no certificate; it needs at least one -----BEGIN CERTIFICATE-----".to_owned()
        }
        Ok(_) => return Ok(()),
    };
    let odd = str::from_utf8(pem).ok().and_then(|text| characters::find(text, |c| !c.is_ascii()));
    Err(odd.map_or_else(|| problem.clone(), |odd| format!("{problem}; it contains {odd}")))
}
