//! Encrypted connections. The server's certificate must be valid for its name, with the roots that all clients of kfwatch share.

use std::{
    convert::Infallible,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Config, Socket,
    config::{Host, SslMode},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::TlsConnector;

use crate::{store::StoreError, tls::TlsRoots};

/// Opens TLS connections with these TLS roots.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Loads the roots from the file, if there is one, or else from the system.
    pub(super) fn load(ca_file: Option<&Path>) -> Result<Self, StoreError> {
        let roots = TlsRoots::load(ca_file)
            .map_err(|error| StoreError::Tls(format!("ca_file: {}", crate::chain(&error))))?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.certificates().iter().cloned());
        let config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

/// Requires encryption unless the server is on this machine: what travels is the password and the ids of customers.
pub(super) fn require_tls(server: &mut Config) -> Result<(), StoreError> {
    let names = server.get_hosts().iter().filter_map(|host| match host {
        Host::Tcp(name) => Some(name.clone()),
        Host::Unix(_) => None,
    });
    // An address is what is connected to, whatever the name is.
    let addresses = server.get_hostaddrs().iter().map(ToString::to_string);
    let remote = names.chain(addresses).find(|name| !is_loopback(name));
    match (server.get_ssl_mode(), remote) {
        (SslMode::Disable, Some(name)) => Err(StoreError::Tls(format!(
            "sslmode=disable is refused for {name}, which is not this machine: use sslmode=require"
        ))),
        (SslMode::Prefer, Some(_)) => {
            server.ssl_mode(SslMode::Require);
            Ok(())
        }
        // Many servers have a self-signed certificate for local connections.
        (SslMode::Prefer, None) => {
            server.ssl_mode(SslMode::Disable);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = Infallible;

    /// Called also for connections that are not encrypted, and for sockets, which have no name.
    fn make_tls_connect(&mut self, name: &str) -> Result<Handshake, Infallible> {
        let name = ServerName::try_from(name.to_owned());
        Ok(Handshake { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

/// A connection to be encrypted.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: Result<ServerName<'static>, InvalidDnsNameError>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let name = self.name.map_err(io::Error::other)?;
            Ok(Encrypted(self.connector.connect(name, stream).await?))
        })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    // The certificate is verified in any case.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_within_this_machine_are_not_encrypted() {
        for (server, expected) in [
            ("host=/run/postgresql", Some(SslMode::Disable)),
            ("host=localhost", Some(SslMode::Disable)),
            ("host=127.0.0.1", Some(SslMode::Disable)),
            ("host=::1", Some(SslMode::Disable)),
            ("host=localhost sslmode=require", Some(SslMode::Require)),
            ("host=db.example.com", Some(SslMode::Require)),
            ("host=10.0.0.1", Some(SslMode::Require)),
            ("host=localhost,db.example.com", Some(SslMode::Require)),
            ("hostaddr=10.0.0.1", Some(SslMode::Require)),
            ("host=localhost hostaddr=10.0.0.1", Some(SslMode::Require)),
            ("host=localhost hostaddr=10.0.0.1 sslmode=disable", None),
            ("host=db.example.com sslmode=disable", None),
        ] {
            let mut config: Config = server.parse().unwrap();
            let required = require_tls(&mut config);
            assert_eq!(required.is_ok().then(|| config.get_ssl_mode()), expected, "{server}");
        }
    }
}
