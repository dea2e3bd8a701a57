//! Why the daemon could not start, or had to stop.

use std::net::SocketAddr;

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
    #[error("cannot listen on {0}: stop the program that uses it, or set web.listen to another address")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The web server failed.
    #[error("web server")]
    Web(#[source] std::io::Error),
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
    /// A task ended before the drain.
    #[error("{0} ended unexpectedly: this is a bug in kfwatch, please report it")]
    EndedUnexpectedly(&'static str),
}
