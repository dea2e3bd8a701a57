//! Whom encrypted connections trust: the certificates in a file, or those of the system, or, where it has none, those built in.
//!
//! Every client of kfwatch asks here, so that a `ca_file` means the same to all of them and a container without a CA store
//! keeps none from its work. What cannot be used of a file is refused when it is read; of the system's, it is passed over.

use std::{
    io,
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

/// Certificates of authorities, each of which the TLS library takes.
#[derive(Clone, Debug)]
pub struct TlsRoots {
    certificates: Vec<CertificateDer<'static>>,
    no_ca_store: Option<String>,
}

/// A file with certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not PEM.
    #[error("{} is not PEM", path.display())]
    NotPem {
        /// Its path.
        path: PathBuf,
        /// In what way.
        source: pem::Error,
    },
    /// There is nothing in it.
    #[error("{} has no certificate in it", .0.display())]
    Empty(PathBuf),
    /// The TLS library refuses what is in it.
    #[error("the certificates in {} cannot be used", path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// What is wrong with one of them.
        source: rustls::Error,
    },
}

impl TlsRoots {
    /// All of a PEM file.
    pub fn of_file(path: &Path) -> Result<Self, CaFileError> {
        let at = || path.to_path_buf();
        let pem = std::fs::read(path).map_err(|source| CaFileError::Unreadable { path: at(), source })?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|source| CaFileError::NotPem { path: at(), source })?;
        if certificates.is_empty() {
            return Err(CaFileError::Empty(at()));
        }
        for certificate in &certificates {
            check(certificate).map_err(|source| CaFileError::Unusable { path: at(), source })?;
        }
        Ok(Self { certificates, no_ca_store: None })
    }

    /// Those that the system trusts, at this moment; without any, those built in. Takes some milliseconds.
    pub fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let problem = found.errors.first().map_or_else(|| "there is none".to_owned(), ToString::to_string);
        Self::or_built_in(found.certs, problem)
    }

    fn or_built_in(mut certificates: Vec<CertificateDer<'static>>, problem: String) -> Self {
        certificates.retain(|certificate| check(certificate).is_ok());
        if certificates.is_empty() {
            let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
            return Self { certificates: built_in, no_ca_store: Some(problem) };
        }
        Self { certificates, no_ca_store: None }
    }

    /// Those of a file if one is named, and else those of the system.
    pub fn of_file_or_system(path: Option<&Path>) -> Result<Self, CaFileError> {
        path.map_or_else(|| Ok(Self::of_system()), Self::of_file)
    }

    /// These and the others.
    pub fn and(mut self, others: &Self) -> Self {
        self.certificates.extend_from_slice(&others.certificates);
        self
    }

    /// Why the built-in ones stand in for those of the system, if they do.
    pub fn no_ca_store(&self) -> Option<&str> {
        self.no_ca_store.as_deref()
    }

    /// As they are.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// As the HTTP client takes them.
    pub fn for_http(&self) -> impl Iterator<Item = reqwest::Certificate> {
        self.certificates.iter().filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok())
    }

    /// As a PEM file.
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

    fn none() -> CertificateDer<'static> {
        CertificateDer::from(vec![0x30, 0])
    }

    #[test]
    fn what_the_system_trusts_is_trusted_as_far_as_it_can_be_used() {
        let roots = TlsRoots::or_built_in([built_in(2), vec![none()]].concat(), "a damaged file".to_owned());
        assert_eq!((roots.certificates.len(), roots.no_ca_store()), (2, None));
    }

    #[test]
    fn where_the_system_trusts_nobody_the_built_in_roots_stand_in() {
        for found in [Vec::new(), vec![none()]] {
            let roots = TlsRoots::or_built_in(found, "there is none".to_owned());
            assert!(roots.certificates.len() > 100);
            assert_eq!(roots.no_ca_store(), Some("there is none"));
            assert!(roots.certificates.iter().all(|certificate| check(certificate).is_ok()));
            assert_eq!(roots.for_http().count(), roots.certificates.len());
        }
    }

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            TlsRoots::of_file(&path)
        };
        let good = TlsRoots::or_built_in(built_in(3), String::new());
        assert_eq!(of(&good.pem()).unwrap().certificates, built_in(3));
        let bad = good.pem() + "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert!(matches!(of(&bad), Err(CaFileError::Unusable { .. })));
        assert!(matches!(of("-----BEGIN CERTIFICATE-----\nMAA="), Err(CaFileError::NotPem { .. })));
        assert!(matches!(of("a letter"), Err(CaFileError::Empty(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(TlsRoots::of_file(&path), Err(CaFileError::Unreadable { .. })));
    }
}
