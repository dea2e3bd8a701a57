//! Whom to trust, as the library takes it.
//!
//! Given a finished TLS configuration, it reads the system's certificates all the same, and connects to nobody while it cannot
//! read one of them. Given the path of a file, it reads nothing else. So they are put into a file, which is in memory and has no
//! name: systems other than Linux have none, and get the configuration.

use std::{io, path::Path};

use async_nats::ConnectOptions;

use crate::tls::{CaFileError, TlsRoots};

/// Certificates, held for the library.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Trusted(std::fs::File);

/// Certificates, held for the library.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Trusted(rustls::ClientConfig);

/// Nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// For the file with certificates.
    #[error("ca_file")]
    CaFile(#[from] CaFileError),
    /// For want of a place to put certificates.
    #[error("cannot hold certificates")]
    Held(#[from] io::Error),
}

impl Trusted {
    /// Those of this file, or of the system. The client to WeChat warns of a system without a CA store.
    pub(super) fn of(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        Ok(Self::hold(&TlsRoots::load(ca_file)?)?)
    }
}

#[cfg(target_os = "linux")]
impl Trusted {
    /// Writes them down.
    fn hold(roots: &TlsRoots) -> io::Result<Self> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let mut file = std::fs::File::from(memfd_create(c"trusted certificates", MFdFlags::MFD_CLOEXEC)?);
        io::Write::write_all(&mut file, roots.pem().as_bytes())?;
        Ok(Self(file))
    }

    /// Has a connection that is encrypted trust these and no others.
    pub(super) fn alone(&self, options: ConnectOptions) -> ConnectOptions {
        use std::os::fd::AsRawFd;
        options.add_root_certificates(format!("/proc/self/fd/{}", self.0.as_raw_fd()).into())
    }
}

#[cfg(not(target_os = "linux"))]
impl Trusted {
    /// Makes a configuration of them.
    fn hold(roots: &TlsRoots) -> io::Result<Self> {
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(roots.certificates().iter().cloned());
        Ok(Self(rustls::ClientConfig::builder().with_root_certificates(store).with_no_client_auth()))
    }

    /// Has a connection that is encrypted trust these and no others.
    pub(super) fn alone(&self, options: ConnectOptions) -> ConnectOptions {
        options.tls_client_config(self.0.clone())
    }
}
