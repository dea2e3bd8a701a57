//! What the service manager, systemd, is told: that the daemon is ready, how it stands, that polling gets on, that it
//! stops.
//!
//! Its socket comes with the environment; without one nothing is told, and nothing runs. The watchdog is fed only while
//! polling gets on ([`Progress`]), and never from a timer alone: when polls, commits or a schedule stand still, it is not
//! fed until they get on again, or until the service manager restarts the daemon. Nothing that goes wrong with the
//! socket stops anything.

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
        progress::{Part, Progress, Stall},
    },
    poll::{OfficialAccount, Poller},
    schedule::queue::PollQueue,
    web::WebState,
};

/// How often the status line is renewed, and at the least how often the parts of the daemon are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// A commit that takes longer stands still. The store waits up to 5 s for another program that writes to its file, and up
/// to two groups of commits come first; the rest is for a disk that has much to do.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

/// Watchdog intervals below this leave a busy machine too little time.
const SHORTEST_WATCHDOG: Duration = Duration::from_secs(10);

/// Messages that may be under way. Sending takes no time unless the service manager does not read: then it would take
/// one thread after the other.
const MAX_SENDING: usize = 2;

/// How long a message may take.
const SEND_PATIENCE: Duration = Duration::from_secs(2);

/// The service manager's end of the daemon.
#[derive(Clone, Default)]
pub struct ServiceManager(Option<Arc<Connection>>);

struct Connection {
    /// Within which the watchdog must be fed, if there is one.
    watchdog: Option<Duration>,
    sending: Arc<Semaphore>,
    /// Whether the last message could not be sent, which is logged once.
    failing: AtomicBool,
    /// What stands still at present.
    stalls: Mutex<Vec<Stall>>,
}

/// What is told.
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
    /// The service manager that started this process, if one did and wants to be told.
    pub fn of_process(environment: &Environment) -> Self {
        if environment.get("NOTIFY_SOCKET").is_none_or(str::is_empty) {
            return Self(None);
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        if let Some(interval) = watchdog.filter(|interval| *interval < SHORTEST_WATCHDOG) {
            tracing::warn!(
                "The service manager restarts kfwatch when it hears nothing for {interval:?}, which can happen on a busy \
                 machine: set WatchdogSec to {SHORTEST_WATCHDOG:?} or longer"
            );
        }
        Self(Some(Arc::new(Connection {
            watchdog,
            sending: Arc::new(Semaphore::new(MAX_SENDING)),
            failing: AtomicBool::new(false),
            stalls: Mutex::default(),
        })))
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Tells what the daemon is doing before it is ready.
    pub async fn starting(&self, what: &str) {
        self.tell(|| Message::Status(format!("Starting: {what}"))).await;
    }

    /// Tells that all parts run.
    pub(super) async fn ready(&self, web: &WebState) {
        if let Self(Some(connection)) = self {
            let status = connection.status(web).await;
            connection.send(Message::Ready(status)).await;
        }
    }

    /// Tells that the drain begins.
    pub(super) async fn stopping(&self) {
        self.tell(|| Message::Stopping("Draining: polls and sinks finish what is under way".to_owned()))
            .await;
    }

    async fn tell(&self, message: impl FnOnce() -> Message) {
        if let Self(Some(connection)) = self {
            connection.send(message()).await;
        }
    }

    /// Keeps it informed, and its watchdog fed, until it is dropped.
    pub(super) async fn keep_informed(self, web: Arc<WebState>, parts: Vec<Part>, clock: Arc<dyn Clock>) {
        if let Self(Some(connection)) = self {
            // One beside the other: the status waits for the store, and must not keep the watchdog hungry.
            tokio::join!(connection.keep_status(&web), connection.keep_watch(parts, &*clock));
        }
    }
}

impl Connection {
    /// Renews the status line when it has changed.
    async fn keep_status(&self, web: &WebState) {
        let mut told = String::new();
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let status = self.status(web).await;
            if status != told {
                self.send(Message::Status(status.clone())).await;
                told = status;
            }
        }
    }

    /// Looks whether all parts get on, and feeds the watchdog while they do.
    async fn keep_watch(&self, parts: Vec<Part>, clock: &dyn Clock) {
        // A third: one look may be late, and the watchdog is fed in time.
        let every = self.watchdog.map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 3));
        let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::new(parts, every);
        loop {
            interval.tick().await;
            let stalls = progress.look(clock.now());
            let feeds = stalls.is_empty();
            self.note(stalls);
            if feeds && self.watchdog.is_some() {
                self.send(Message::Watchdog).await;
            }
        }
    }

    /// Has the log told of each part that begins to stand still, and when all get on again.
    fn note(&self, stalls: Vec<Stall>) {
        let mut known = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        let another = stalls.iter().any(|stall| known.iter().all(|known| known.what != stall.what));
        match (another, stalls.is_empty() && !known.is_empty()) {
            (true, _) => {
                let restarts = match self.watchdog {
                    Some(_) => {
                        "The watchdog is not fed any more, so that the service manager restarts kfwatch"
                    }
                    None => "Restart kfwatch",
                };
                tracing::error!("Polling stands still: {}. {restarts}", list(&stalls));
            }
            (_, true) => tracing::info!("Polling gets on again"),
            _ => {}
        }
        *known = stalls;
    }

    /// One line for a person.
    async fn status(&self, web: &WebState) -> String {
        let condition = service_status::of(web).await;
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        match stalls.is_empty() {
            true => condition,
            false => format!("Polling stands still: {}; {condition}", list(&stalls)),
        }
    }

    async fn send(&self, message: Message) {
        let sent = self.try_send(message).await;
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        if let Err(error) = sent.as_ref()
            && !failed_before
        {
            tracing::warn!(
                "The service manager cannot be told how kfwatch stands, and may restart it for that: {error}; look at \
                 NOTIFY_SOCKET"
            );
        }
    }

    async fn try_send(&self, message: Message) -> io::Result<()> {
        let Ok(permit) = Arc::clone(&self.sending).try_acquire_owned() else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        // The socket blocks while the service manager does not read.
        let sending = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            sd_notify::notify(&message.states())
        });
        let sent = tokio::time::timeout(SEND_PATIENCE, sending).await;
        sent.map_err(io::Error::from)?.map_err(io::Error::other)?
    }
}

fn list(stalls: &[Stall]) -> String {
    stalls.iter().map(Stall::to_string).collect::<Vec<_>>().join("; ")
}

/// What must get on beside the schedules.
pub(super) fn parts(
    queue: &Arc<PollQueue>,
    poller: &Arc<Poller>,
    official_accounts: &[Arc<OfficialAccount>],
) -> [Part; 2] {
    let longest = official_accounts.iter().map(|of| poller.deadline(of)).max().unwrap_or_default();
    let (queue, poller) = (Arc::clone(queue), Arc::clone(poller));
    [
        Part::new("no poll has finished", longest + COMMIT_PATIENCE, move || queue.work()),
        Part::new("the store has committed nothing", COMMIT_PATIENCE, move || poller.commits()),
    ]
}
