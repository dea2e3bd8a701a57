//! Loads the TLS root certificates that all clients share, and explains why TLS was refused.
//!
//! The roots come from a `ca_file`, or from the system, or are the built-in ones if the system has none. Every client of
//! kfwatch loads them here, so that `ca_file` means the same for all of them, and so that kfwatch also works in a container
//! without a CA store. An unusable certificate in a file is an error; one in the system's store is skipped.

mod refusal;

use std::{
    fmt, io,
    ops::Deref,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

use sha2::{Digest, Sha256};

pub use self::refusal::TlsRefusal;
use crate::domain::text_file::{self, NotText};

/// Root certificates that the TLS library accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRoots {
    certificates: Vec<CertificateDer<'static>>,
    system_problem: Option<String>,
}

/// The path of a file of root certificates, and what the file contained when the configuration was read. Two are equal only if the
/// contents are equal too, so that a changed file is noticed under its old path.
#[derive(Clone, PartialEq, Eq)]
pub struct CaFile {
    path: PathBuf,
    digest: [u8; 32],
}

impl CaFile {
    /// A file with this content.
    pub fn new(path: PathBuf, content: &[u8]) -> Self {
        Self { path, digest: Sha256::digest(content).into() }
    }
}

impl Deref for CaFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for CaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// A certificate file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read.
    #[error("{} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The file is not text.
    #[error("{} {}", .0.display(), .1)]
    NotText(PathBuf, NotText),
    /// The file is not PEM.
    #[error("{} is not PEM", .0.display())]
    NotPem(PathBuf, #[source] pem::Error),
    /// The file contains no certificate.
    #[error("{} contains no certificate", .0.display())]
    Empty(PathBuf),
    /// The TLS library rejects a certificate in the file.
    #[error("the certificates in {} cannot be used", .0.display())]
    Unusable(PathBuf, #[source] rustls::Error),
}

impl TlsRoots {
    /// Loads the file, if there is one, or the system's roots.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, CaFileError> {
        ca_file.map_or_else(|| Ok(Self::from_system()), Self::from_file)
    }

    /// Loads all certificates of a PEM file.
    pub fn from_file(path: &Path) -> Result<Self, CaFileError> {
        let path_buf = || path.to_path_buf();
        let pem = std::fs::read(path).map_err(|error| CaFileError::Unreadable(path_buf(), error))?;
        let pem =
            text_file::without_mark(&pem).map_err(|problem| CaFileError::NotText(path_buf(), problem))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| CaFileError::NotPem(path_buf(), error))?;
        if certificates.is_empty() {
            return Err(CaFileError::Empty(path_buf()));
        }
        for certificate in &certificates {
            check(certificate).map_err(|error| CaFileError::Unusable(path_buf(), error))?;
        }
        Ok(Self { certificates, system_problem: None })
    }

    /// Loads the system's roots, or the built-in ones if the system has none. Takes some milliseconds.
    pub fn from_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let problem = found.errors.first().map_or_else(|| "there is none".to_owned(), ToString::to_string);
        Self::or_built_in(found.certs, problem)
    }

    fn or_built_in(mut certificates: Vec<CertificateDer<'static>>, problem: String) -> Self {
        certificates.retain(|certificate| check(certificate).is_ok());
        if certificates.is_empty() {
            let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
            return Self { certificates: built_in, system_problem: Some(problem) };
        }
        Self { certificates, system_problem: None }
    }

    /// Adds the certificates of `others`.
    pub fn with(mut self, others: &Self) -> Self {
        self.certificates.extend_from_slice(&others.certificates);
        self
    }

    /// Why the system's roots could not be used, if the built-in ones replace them.
    pub fn system_problem(&self) -> Option<&str> {
        self.system_problem.as_deref()
    }

    /// The certificates in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificates for the HTTP client.
    pub fn http_certificates(&self) -> impl Iterator<Item = reqwest::Certificate> {
        self.certificates.iter().filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok())
    }

    /// The certificates in PEM.
    pub fn pem(&self) -> String {
        let encoded = self.certificates.iter().map(|certificate| BASE64_STANDARD.encode(certificate));
        encoded
            .map(|text| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"))
            .collect()
    }
}

fn check(certificate: &CertificateDer<'static>) -> Result<(), rustls::Error> {
    RootCertStore::empty().add(certificate.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in(count: usize) -> Vec<CertificateDer<'static>> {
        webpki_root_certs::TLS_SERVER_ROOT_CERTS[..count].to_vec()
    }

    fn unusable() -> CertificateDer<'static> {
        CertificateDer::from(vec![0x30, 0])
    }

    #[test]
    fn unusable_system_roots_are_skipped() {
        let roots =
            TlsRoots::or_built_in([built_in(2), vec![unusable()]].concat(), "a damaged file".to_owned());
        assert_eq!((roots.certificates.len(), roots.system_problem()), (2, None));
    }

    #[test]
    fn built_in_roots_replace_an_empty_system_store() {
        for found in [Vec::new(), vec![unusable()]] {
            let roots = TlsRoots::or_built_in(found, "there is none".to_owned());
            assert!(roots.certificates.len() > 100);
            assert_eq!(roots.system_problem(), Some("there is none"));
            assert!(roots.certificates.iter().all(|certificate| check(certificate).is_ok()));
            assert_eq!(roots.http_certificates().count(), roots.certificates.len());
        }
    }

    #[test]
    fn file_is_loaded_as_a_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            TlsRoots::from_file(&path)
        };
        let good = TlsRoots::or_built_in(built_in(3), String::new());
        assert_eq!(load(&good.pem()).unwrap().certificates, built_in(3));
        let bad = good.pem() + "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert!(matches!(load(&bad), Err(CaFileError::Unusable(..))));
        assert!(matches!(load("-----BEGIN CERTIFICATE-----\nMAA="), Err(CaFileError::NotPem(..))));
        assert!(matches!(load("a letter"), Err(CaFileError::Empty(_))));
        let marked = format!("\u{feff}{}", good.pem().replace('\n', "\r\n"));
        assert_eq!(load(&marked).unwrap().certificates, built_in(3));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(TlsRoots::from_file(&path), Err(CaFileError::Unreadable(..))));
    }
}
