//! The request of a reload, from whoever asks for it to whoever carries it out.
//!
//! A signal, a command, an HTTP request and a timer ask through [`ReloadRequests`]. `app` receives the requests, loads the
//! configuration, and answers each with a [`ReloadReport`] of what changes, or with the reasons why nothing does. It carries them out
//! one after another, so each one reads the files as they are at its turn.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

/// Requests that wait while a reload runs.
const MAX_WAITING: usize = 4;

/// Asks for reloads. Clones ask the same daemon.
#[derive(Clone, Debug)]
pub struct ReloadRequests(mpsc::Sender<ReloadRequest>);

/// One request, to be answered with [`ReloadRequest::answer`].
#[derive(Debug)]
pub struct ReloadRequest {
    /// Whether to apply the plan.
    pub mode: ReloadMode,
    /// Who asks.
    pub trigger: ReloadTrigger,
    reply: oneshot::Sender<ReloadOutcome>,
}

/// What to do with the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadMode {
    /// Apply it.
    #[default]
    Apply,
    /// Only report it.
    DryRun,
}

/// Who asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// The signal SIGHUP.
    Hangup,
    /// `kfwatch reload`.
    Command,
    /// A request for `/-/reload`.
    Http,
    /// The timer of `reload_interval`.
    Interval,
}

/// What became of a reload that was carried out.
pub type ReloadOutcome = Result<ReloadReport, ReloadRefusal>;

/// What a reload changes. Without changes, the running daemon already does what the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// What starts, stops or changes.
    pub changes: Vec<PlannedChange>,
    /// What can only be completed later, such as after a poll in flight; one line each.
    pub deferred: Vec<String>,
    /// The warnings of the new configuration.
    pub warnings: Vec<String>,
}

/// A part that starts, stops or changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChange {
    /// What happens to it.
    pub action: ChangeAction,
    /// What it is.
    pub part: ChangedPart,
    /// Its name: that of the official account or the sink, the address of a listener, the expressions of a schedule, or the key of a setting.
    pub name: String,
    /// What changes in it, without secrets.
    pub details: Vec<String>,
}

/// What happens to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ChangeAction {
    Start,
    Stop,
    Change,
}

/// The kinds of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ChangedPart {
    OfficialAccount,
    Sink,
    Listener,
    Schedule,
    /// A key that belongs to no other part.
    Setting,
}

/// The new configuration is not applied; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .reasons.join("\n"))]
pub struct ReloadRefusal {
    /// The mistakes, each in one line with its file, line and key, or what this machine lacks.
    pub reasons: Vec<String>,
}

/// A reload was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadUnavailable {
    /// The queue of requests is full.
    #[error("a reload is already waiting; try again when it is done")]
    AlreadyWaiting,
    /// The daemon ends.
    #[error("the daemon is being stopped")]
    Stopping,
}

impl ReloadRequests {
    /// The sender and the receiver of requests.
    pub fn channel() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    /// Asks for a reload whose outcome nobody waits for.
    pub fn request(&self, trigger: ReloadTrigger) -> Result<(), ReloadUnavailable> {
        self.send(ReloadMode::Apply, trigger).map(drop)
    }

    /// Asks for a reload and waits for its outcome. It is carried out even if the caller stops waiting.
    pub async fn outcome(
        &self,
        mode: ReloadMode,
        trigger: ReloadTrigger,
    ) -> Result<ReloadOutcome, ReloadUnavailable> {
        self.send(mode, trigger)?.await.map_err(|_| ReloadUnavailable::Stopping)
    }

    fn send(
        &self,
        mode: ReloadMode,
        trigger: ReloadTrigger,
    ) -> Result<oneshot::Receiver<ReloadOutcome>, ReloadUnavailable> {
        let (reply, outcome) = oneshot::channel();
        match self.0.try_send(ReloadRequest { mode, trigger, reply }) {
            Ok(()) => Ok(outcome),
            Err(TrySendError::Full(_)) => Err(ReloadUnavailable::AlreadyWaiting),
            Err(TrySendError::Closed(_)) => Err(ReloadUnavailable::Stopping),
        }
    }
}

impl ReloadRequest {
    /// Reports the outcome to the one who asks, if it still waits.
    pub fn answer(self, outcome: ReloadOutcome) {
        drop(self.reply.send(outcome));
    }
}

impl ReloadTrigger {
    /// The value of the log field `trigger`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Command => "command",
            Self::Http => "http",
            Self::Interval => "interval",
        }
    }
}

impl fmt::Display for ChangeAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Change => "change",
        })
    }
}

impl fmt::Display for ChangedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OfficialAccount => "official account",
            Self::Sink => "sink",
            Self::Listener => "listener",
            Self::Schedule => "schedule",
            Self::Setting => "setting",
        })
    }
}

/// `change sink crm: timeout, header_files`
impl fmt::Display for PlannedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, part, name, details } = self;
        write!(f, "{action} {part} {name}")?;
        if details.is_empty() { Ok(()) } else { write!(f, ": {}", details.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outcome_reaches_the_one_who_asks() {
        let (requests, mut receiver) = ReloadRequests::channel();
        let refusal = ReloadRefusal { reasons: vec!["a".to_owned(), "b".to_owned()] };
        let app = async {
            let request = receiver.recv().await.unwrap();
            assert_eq!((request.mode, request.trigger), (ReloadMode::DryRun, ReloadTrigger::Http));
            request.answer(Err(refusal.clone()));
        };
        let (outcome, ()) = tokio::join!(requests.outcome(ReloadMode::DryRun, ReloadTrigger::Http), app);
        assert_eq!(outcome.unwrap().unwrap_err().to_string(), "a\nb");
    }

    #[tokio::test]
    async fn request_without_room_or_receiver_is_refused() {
        let (requests, mut receiver) = ReloadRequests::channel();
        for _ in 0..MAX_WAITING {
            requests.request(ReloadTrigger::Hangup).unwrap();
        }
        let outcome = requests.outcome(ReloadMode::Apply, ReloadTrigger::Command).await;
        assert_eq!(outcome, Err(ReloadUnavailable::AlreadyWaiting));
        receiver.recv().await.unwrap().answer(Ok(ReloadReport::default()));
        requests.request(ReloadTrigger::Interval).unwrap();
        drop(receiver);
        assert_eq!(requests.request(ReloadTrigger::Hangup), Err(ReloadUnavailable::Stopping));
    }

    #[tokio::test]
    async fn request_that_is_dropped_unanswered_says_that_the_daemon_stops() {
        let (requests, mut receiver) = ReloadRequests::channel();
        let app = async { drop(receiver.recv().await) };
        let (outcome, ()) = tokio::join!(requests.outcome(ReloadMode::Apply, ReloadTrigger::Command), app);
        assert_eq!(outcome, Err(ReloadUnavailable::Stopping));
    }
}
