//! Why the daemon could not start, or had to stop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::{
    dispatch::SinkEnded, schedule::cron_jobs::CronSchedulerError, store::StoreError,
    wechat::http::ClientBuildError,
};

/// Why the daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store could not be opened, or failed.
    #[error("store")]
    Store(#[from] StoreError),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {}", listen_remedy(*address, source, "web.listen"))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The web server failed.
    #[error("web server")]
    Web(#[source] io::Error),
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Client(#[from] ClientBuildError),
    /// A file or name in the configuration is unusable.
    #[error("{what}: {reason}")]
    Unusable {
        /// Which key.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Two metrics have the same name: a bug.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    /// The cron scheduler failed.
    #[error("schedule")]
    Schedule(#[from] CronSchedulerError),
    /// The last sink has ended.
    #[error("no sink is left to deliver events to; they are kept in the store")]
    NoSink(#[source] SinkEnded),
    /// A sink has ended.
    #[error(transparent)]
    SinkEnded(#[from] SinkEnded),
    /// A key changed that cannot change while kfwatch runs.
    #[error("{key} needs a restart: {reason}; restart kfwatch, or undo the change")]
    NeedsRestart {
        /// The key.
        key: &'static str,
        /// What cannot be done.
        reason: String,
    },
    /// A task ended before it was asked to.
    #[error("{0} ended unexpectedly: this is a bug in kfwatch, please report it")]
    EndedUnexpectedly(String),
}

/// What to do about an address that cannot be bound. `setting` is the key or the option that names it.
pub(crate) fn listen_remedy(address: SocketAddr, error: &io::Error, setting: &str) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let port = address.port();
            format!(
                "another program uses it (`ss -ltnp sport = :{port}` shows which): stop that program, or set {setting} to another \
                 port"
            )
        }
        ErrorKind::PermissionDenied if address.port() < 1024 => format!(
            "a port below 1024 needs a privilege: set {setting} to a higher port, such as 9877, with a reverse proxy in front of it if \
             need be; or give the privilege in a drop-in of the systemd unit: AmbientCapabilities=CAP_NET_BIND_SERVICE, \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE and PrivateUsers=no"
        ),
        ErrorKind::AddrNotAvailable => {
            format!(
                "this machine does not have this address: set {setting} to one that it has (`ip address` shows them)"
            )
        }
        _ => format!("set {setting} to another address"),
    }
}
