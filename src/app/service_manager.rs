//! Notifies the service manager, systemd: ready, status line, watchdog, stopping.
//!
//! `NOTIFY_SOCKET` names its socket; without it nothing is sent. The watchdog is notified only while polling makes progress
//! ([`ProgressMonitor`]), not merely by a timer. When polls, commits or a schedule stall, it is not notified until they make
//! progress again or the service manager restarts the daemon. A failure of the socket is logged and has no other effect.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{sync::Semaphore, time::MissedTickBehavior};

use super::service_status;
use crate::{
    config::Environment,
    domain::{
        clock::Clock,
        progress::{ProgressCheck, ProgressMonitor, Stall},
    },
    poll::{OfficialAccount, Poller},
    schedule::queue::PollQueue,
    web::WebState,
};

/// How often the status line is updated, and the longest time between two checks of progress.
const INTERVAL: Duration = Duration::from_secs(10);

/// A commit that takes longer counts as stalled. The store waits up to 5 s for another program that writes to its file, and
/// up to two groups of commits come first. The rest allows for a busy disk.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// The current stalls.
    stalls: Mutex<Vec<Stall>>,
}

enum Message {
    Ready(String),
    Status(String),
    Watchdog,
    Stopping(String),
}

impl Message {
    fn states(&self) -> Vec<NotifyState<'_>> {
        match self {
            Self::Ready(status) => vec![NotifyState::Ready, NotifyState::Status(status)],
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
            stalls: Mutex::default(),
        })))
    }

    pub(super) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Reports what the daemon does before it is ready.
    pub async fn starting(&self, what: &str) {
        self.notify(|| Message::Status(format!("Starting: {what}"))).await;
    }

    /// Reports that all parts run.
    pub(super) async fn ready(&self, web: &WebState) {
        if let Self(Some(connection)) = self {
            let status = connection.status(web).await;
            connection.send(Message::Ready(status)).await;
        }
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

    /// Updates the status line and notifies the watchdog until the future is dropped.
    pub(super) async fn run(self, web: Arc<WebState>, checks: Vec<ProgressCheck>, clock: Arc<dyn Clock>) {
        if let Self(Some(connection)) = self {
            // Concurrently, because the status reads the store, which must not delay the watchdog.
            tokio::join!(connection.update_status(&web), connection.run_watchdog(checks, &*clock));
        }
    }
}

impl Connection {
    /// Sends the status line when it has changed.
    async fn update_status(&self, web: &WebState) {
        let mut sent = String::new();
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let status = self.status(web).await;
            if status != sent {
                self.send(Message::Status(status.clone())).await;
                sent = status;
            }
        }
    }

    /// Notifies the watchdog while all parts make progress.
    async fn run_watchdog(&self, checks: Vec<ProgressCheck>, clock: &dyn Clock) {
        // A third of the watchdog's interval, so that one check may be late.
        let every = self.watchdog.map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 3));
        let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut monitor = ProgressMonitor::new(checks, every);
        loop {
            interval.tick().await;
            let stalls = monitor.check(clock.now());
            let is_alive = stalls.is_empty();
            self.log_changes(stalls);
            if is_alive && self.watchdog.is_some() {
                self.send(Message::Watchdog).await;
            }
        }
    }

    /// Logs each new stall, and the end of the last one.
    fn log_changes(&self, stalls: Vec<Stall>) {
        let mut known = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = stalls.iter().any(|stall| known.iter().all(|known| known.what != stall.what));
        match (is_new, stalls.is_empty() && !known.is_empty()) {
            (true, _) => {
                let remedy = match self.watchdog {
                    Some(_) => "The watchdog is no longer notified, so the service manager restarts kfwatch",
                    None => "Restart kfwatch",
                };
                tracing::error!("Polling has stalled: {}. {remedy}", list(&stalls));
            }
            (_, true) => tracing::info!("Polling makes progress again"),
            _ => {}
        }
        *known = stalls;
    }

    /// The status line that `systemctl status` shows.
    async fn status(&self, web: &WebState) -> String {
        let summary = service_status::status_line(web).await;
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        match stalls.is_empty() {
            true => summary,
            false => format!("Polling has stalled: {}; {summary}", list(&stalls)),
        }
    }

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
        let Ok(permit) = Arc::clone(&self.sending).try_acquire_owned() else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        // Sending blocks until the service manager reads.
        let sending = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            sd_notify::notify(&message.states())
        });
        let sent = tokio::time::timeout(SEND_TIMEOUT, sending).await;
        sent.map_err(io::Error::from)?.map_err(io::Error::other)?
    }
}

fn list(stalls: &[Stall]) -> String {
    stalls.iter().map(Stall::to_string).collect::<Vec<_>>().join("; ")
}

/// The checks that polls and commits make progress.
pub(super) fn progress_checks(
    queue: &Arc<PollQueue>,
    poller: &Arc<Poller>,
    official_accounts: &[Arc<OfficialAccount>],
) -> [ProgressCheck; 2] {
    let longest = official_accounts.iter().map(|of| poller.deadline(of)).max().unwrap_or_default();
    let (queue, poller) = (Arc::clone(queue), Arc::clone(poller));
    [
        ProgressCheck::new("no poll has finished", longest + COMMIT_TIMEOUT, move || queue.progress()),
        ProgressCheck::new("the store has committed nothing", COMMIT_TIMEOUT, move || {
            poller.commit_progress()
        }),
    ]
}
