//! Passes TLS roots to the NATS library.
//!
//! Given a complete TLS configuration, the library reads the system's certificates all the same, and fails to connect if it
//! cannot read one of them. Given the path of a file, it reads nothing else. So on Linux the roots are written to an unnamed
//! file in memory. Other systems have no such files and pass the configuration.

use std::{io, path::Path};

use async_nats::ConnectOptions;

use crate::tls::{CaFileError, TlsRoots};

/// TLS roots in the form that the library takes. Must live as long as the connection.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct NatsTlsRoots(std::fs::File);

/// TLS roots in the form that the library takes.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct NatsTlsRoots(rustls::ClientConfig);

#[derive(Debug, thiserror::Error)]
pub(super) enum TlsRootsError {
    #[error("ca_file")]
    CaFile(#[from] CaFileError),
    #[error("cannot write certificates to a file in memory")]
    Memory(#[from] io::Error),
}

impl NatsTlsRoots {
    /// Loads the certificates of the file, or of the system. The WeChat client warns if the system has none.
    pub(super) fn load(ca_file: Option<&Path>) -> Result<Self, TlsRootsError> {
        Ok(Self::from_roots(&TlsRoots::load(ca_file)?)?)
    }
}

#[cfg(target_os = "linux")]
impl NatsTlsRoots {
    fn from_roots(roots: &TlsRoots) -> io::Result<Self> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let mut file = std::fs::File::from(memfd_create(c"TLS roots", MFdFlags::MFD_CLOEXEC)?);
        io::Write::write_all(&mut file, roots.pem().as_bytes())?;
        Ok(Self(file))
    }

    /// Makes encrypted connections trust these roots and no others.
    pub(super) fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        use std::os::fd::AsRawFd;
        options.add_root_certificates(format!("/proc/self/fd/{}", self.0.as_raw_fd()).into())
    }
}

#[cfg(not(target_os = "linux"))]
impl NatsTlsRoots {
    fn from_roots(roots: &TlsRoots) -> io::Result<Self> {
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(roots.certificates().iter().cloned());
        Ok(Self(rustls::ClientConfig::builder().with_root_certificates(store).with_no_client_auth()))
    }

    /// Makes encrypted connections trust these roots and no others.
    pub(super) fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        options.tls_client_config(self.0.clone())
    }
}
