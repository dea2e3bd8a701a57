//! Notifies the service manager, systemd: ready, status line, watchdog, stopping.
//!
//! `NOTIFY_SOCKET` names its socket; without it nothing is sent. [`Watchdog`](super::watchdog::Watchdog) decides when the watchdog is
//! notified. A failure of the socket is logged and has no other effect.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::sync::Semaphore;

use super::service_status;
use crate::{config::Environment, web::WebState};

/// How often the status line is updated.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Shorter watchdog intervals are too short for a busy machine.
const MIN_WATCHDOG: Duration = Duration::from_secs(10);

/// How many messages may be in flight. Each blocks a thread until the service manager reads it.
const MAX_SENDING: usize = 2;

/// How long sending a message may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection to the service manager, if there is one.
#[derive(Clone, Default)]
pub struct ServiceManager(Option<Arc<Connection>>);

struct Connection {
    /// The watchdog's interval, if there is one.
    watchdog: Option<Duration>,
    sending: Arc<Semaphore>,
    /// Whether sending the last message failed, so that a lasting failure is logged once.
    failing: AtomicBool,
}

enum Message {
    Ready(String),
    Reloading,
    Status(String),
    Watchdog,
    Stopping(String),
}

impl Message {
    fn states(&self) -> Vec<NotifyState<'_>> {
        match self {
            Self::Ready(status) => vec![NotifyState::Ready, NotifyState::Status(status)],
            // The time tells the service manager which of several reloads has ended.
            Self::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => vec![NotifyState::Reloading, now],
                Err(_) => vec![NotifyState::Reloading],
            },
            Self::Status(status) => vec![NotifyState::Status(status)],
            Self::Watchdog => vec![NotifyState::Watchdog],
            Self::Stopping(status) => vec![NotifyState::Stopping, NotifyState::Status(status)],
        }
    }
}

impl ServiceManager {
    /// The service manager that started this process, if it asked for notifications.
    pub fn of_process(environment: &Environment) -> Self {
        if environment.get("NOTIFY_SOCKET").is_none_or(str::is_empty) {
            return Self(None);
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        if let Some(interval) = watchdog.filter(|interval| *interval < MIN_WATCHDOG) {
            tracing::warn!(
                "The service manager restarts kfwatch after {interval:?} without a notification, which can happen on a busy \
                 machine: set WatchdogSec to {MIN_WATCHDOG:?} or longer"
            );
        }
        Self(Some(Arc::new(Connection {
            watchdog,
            sending: Arc::new(Semaphore::new(MAX_SENDING)),
            failing: AtomicBool::new(false),
        })))
    }

    pub(super) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Reports what the daemon does before it is ready.
    pub async fn starting(&self, what: &str) {
        self.notify(|| Message::Status(format!("Starting: {what}"))).await;
    }

    /// The interval of its watchdog, if it has one.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    /// Notifies its watchdog, if it has one.
    pub(super) async fn notify_watchdog(&self) {
        if self.watchdog_interval().is_some() {
            self.notify(|| Message::Watchdog).await;
        }
    }

    /// Reports that all parts run.
    pub(super) async fn ready(&self, web: &WebState) {
        if let Self(Some(connection)) = self {
            let status = service_status::status_line(web).await;
            connection.send(Message::Ready(status)).await;
        }
    }

    /// Reports that a reload begins. [`ready`](Self::ready) reports its end.
    pub(super) async fn reloading(&self) {
        self.notify(|| Message::Reloading).await;
    }

    /// Reports that the drain begins.
    pub(super) async fn stopping(&self) {
        self.notify(|| Message::Stopping("Draining: running polls and delivery attempts finish".to_owned()))
            .await;
    }

    async fn notify(&self, message: impl FnOnce() -> Message) {
        if let Self(Some(connection)) = self {
            connection.send(message()).await;
        }
    }

    /// Sends the status line whenever it has changed, until the future is dropped.
    pub(super) async fn update_status(self, web: Arc<WebState>) {
        let mut sent = String::new();
        let mut interval = tokio::time::interval(STATUS_INTERVAL);
        loop {
            interval.tick().await;
            let status = service_status::status_line(&web).await;
            if status != sent {
                self.notify(|| Message::Status(status.clone())).await;
                sent = status;
            }
        }
    }
}

impl Connection {
    async fn send(&self, message: Message) {
        let sent = self.try_send(message).await;
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        if let Err(error) = sent.as_ref()
            && !failed_before
        {
            tracing::warn!(
                "Could not notify the service manager, which may restart kfwatch because of that: {error}; check \
                 NOTIFY_SOCKET"
            );
        }
    }

    async fn try_send(&self, message: Message) -> io::Result<()> {
        let sent = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&self.sending).acquire_owned().await;
            // Sending blocks until the service manager reads.
            let sending = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                sd_notify::notify(&message.states())
            });
            sending.await
        };
        tokio::time::timeout(SEND_TIMEOUT, sent).await.map_err(io::Error::from)?.map_err(io::Error::other)?
    }
}
