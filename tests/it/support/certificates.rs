//! A certificate authority for one test, and the server certificates that it signs.

use std::ops::Range;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// Signs server certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and private key, also as PEM.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Returns the authority's own certificate, for a `ca_file`.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Creates an identity for a server of this name.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.identity_valid_in(name, 2000..2100)
    }

    /// Creates an identity for a server of this name that is valid in these years.
    pub(crate) fn identity_valid_in(&self, name: &str, years: Range<i32>) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        Identity::new(&params.signed_by(&key, &self.0).unwrap(), &key)
    }
}

impl Identity {
    /// Creates an identity that is its own authority.
    pub(crate) fn self_signed_authority(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::new(&params.self_signed(&key).unwrap(), &key)
    }

    /// Creates an identity that signed itself and is no authority.
    pub(crate) fn self_signed_leaf(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        Self::new(&params.self_signed(&key).unwrap(), &key)
    }

    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// Returns the TLS configuration for a server in this process.
    pub(crate) fn server(self) -> ServerConfig {
        // Another test in the same process may have installed it already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = ServerConfig::builder().with_no_client_auth();
        builder.with_single_cert(vec![self.certificate], self.key).unwrap()
    }
}
