//! The running tasks of the daemon, by name.
//!
//! Every task has a token that asks it to stop. A task that ends without having been asked, or that panics, has failed: [`TaskSet::failure`]
//! names it, and its owner decides what that means. Polls, collections, requests and attempts catch their own panics, so none of them
//! ends the task that runs it.

use std::{collections::HashMap, fmt, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::error::AppError;

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TaskName {
    Worker,
    PollQueueTimer,
    PollLog,
    Collectors,
    Ticker(String),
    Leaving,
    Housekeeping,
    Dispatcher(Arc<str>),
    Control,
    WebListener(SocketAddr),
    Watchdog,
    ServiceStatus,
    ClusterMember,
    ReplicaCommands,
}

/// Tasks that one owner stops together or one by one.
#[derive(Default)]
pub(super) struct TaskSet {
    tasks: JoinSet<Result<(), AppError>>,
    named: HashMap<task::Id, NamedTask>,
}

struct NamedTask {
    name: TaskName,
    stop: CancellationToken,
    abort: task::AbortHandle,
}

/// How a task ended.
enum Ended {
    Returned(Result<(), AppError>),
    Panicked,
    Aborted,
}

impl TaskSet {
    /// Runs a task that may end whenever its work is done.
    pub(super) fn spawn_until_done(
        &mut self,
        name: TaskName,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let may_end = CancellationToken::new();
        may_end.cancel();
        self.spawn(name, &may_end, async {
            task.await;
            Ok(())
        });
    }

    /// Runs a task that `stop` asks to end.
    pub(super) fn spawn(
        &mut self,
        name: TaskName,
        stop: &CancellationToken,
        task: impl Future<Output = Result<(), AppError>> + Send + 'static,
    ) {
        let abort = self.tasks.spawn(task);
        self.named.insert(abort.id(), NamedTask { name, stop: stop.clone(), abort });
    }

    /// Whether a task of this name runs.
    pub(super) fn contains(&self, name: &TaskName) -> bool {
        self.named.values().any(|task| task.name == *name)
    }

    /// Whether no task runs.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Ends the tasks that `which` selects at once.
    pub(super) async fn abort(&mut self, which: impl Fn(&TaskName) -> bool) {
        self.named.values().filter(|task| which(&task.name)).for_each(|task| task.abort.abort());
        while self.named.values().any(|task| which(&task.name))
            && let Some(ended) = self.tasks.join_next_with_id().await
        {
            self.forget(ended);
        }
    }

    /// Waits until a task fails. Tasks that were asked to end are forgotten when they do. Without tasks it never returns.
    pub(super) async fn failure(&mut self) -> (TaskName, AppError) {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            if let Some(failed) = self.forget(ended) {
                return failed;
            }
        }
    }

    /// Waits until the tasks that `which` selects have ended, and aborts those that take longer than `grace`. Nothing is lost by that:
    /// uncommitted changes are found again, unacknowledged events are delivered again. The caller has asked the tasks to end.
    pub(super) async fn drain(&mut self, which: impl Fn(&TaskName) -> bool, grace: Duration, what: &str) {
        let ended = async {
            while self.named.values().any(|task| which(&task.name))
                && let Some(ended) = self.tasks.join_next_with_id().await
            {
                self.forget(ended);
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!(
                "Draining: {what} did not finish within their share of shutdown_timeout and were aborted"
            );
            self.abort(which).await;
        }
    }

    /// Forgets a task that has ended. Returns why it failed, if nobody had asked it to end or if it panicked.
    fn forget(
        &mut self,
        ended: Result<(task::Id, Result<(), AppError>), JoinError>,
    ) -> Option<(TaskName, AppError)> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ended::Returned(result)),
            Err(error) if error.is_panic() => (error.id(), Ended::Panicked),
            Err(error) => (error.id(), Ended::Aborted),
        };
        let NamedTask { name, stop, .. } = self.named.remove(&id)?;
        let error = match result {
            Ended::Returned(Err(error)) => error,
            Ended::Returned(Ok(())) if stop.is_cancelled() => return None,
            Ended::Aborted => return None,
            Ended::Returned(Ok(())) | Ended::Panicked => AppError::EndedUnexpectedly(name.to_string()),
        };
        Some((name, error))
    }
}

impl TaskName {
    /// Whether the task takes part in polling, or answers commands that poll.
    pub(super) fn polls(&self) -> bool {
        match self {
            Self::Worker
            | Self::PollQueueTimer
            | Self::PollLog
            | Self::Collectors
            | Self::Ticker(_)
            | Self::Control => true,
            Self::Leaving
            | Self::Housekeeping
            | Self::Dispatcher(_)
            | Self::WebListener(_)
            | Self::Watchdog
            | Self::ServiceStatus
            | Self::ClusterMember
            | Self::ReplicaCommands => false,
        }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "a worker that polls",
            Self::PollQueueTimer => "the timer of the poll queue",
            Self::PollLog => "the log of polls",
            Self::Collectors => "the collectors",
            Self::Ticker(schedule) => return write!(f, "the ticker of the schedule {schedule}"),
            Self::Leaving => "the removal of kf accounts",
            Self::Housekeeping => "housekeeping",
            Self::Dispatcher(sink) => return write!(f, "the dispatcher of sink {sink:?}"),
            Self::Control => "the control socket",
            Self::WebListener(address) => return write!(f, "the web server on {address}"),
            Self::Watchdog => "the watchdog",
            Self::ServiceStatus => "the status line of the service manager",
            Self::ClusterMember => "the heartbeats of this replica",
            Self::ReplicaCommands => "the commands for all replicas",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ends() -> Result<(), AppError> {
        Ok(())
    }

    #[tokio::test]
    async fn task_that_ends_unasked_or_panics_is_named() {
        let mut tasks = TaskSet::default();
        let stop = CancellationToken::new();
        tasks.spawn(TaskName::Collectors, &stop, ends());
        let (name, error) = tasks.failure().await;
        assert_eq!(name, TaskName::Collectors);
        assert!(error.to_string().starts_with("the collectors ended unexpectedly"), "{error}");
        tasks.spawn(TaskName::Ticker("every minute".to_owned()), &stop, async {
            std::panic::resume_unwind(Box::new("a test"))
        });
        assert_eq!(tasks.failure().await.0, TaskName::Ticker("every minute".to_owned()));
        assert!(tasks.named.is_empty());
    }

    #[tokio::test]
    async fn task_that_was_asked_to_end_has_not_failed() {
        let mut tasks = TaskSet::default();
        let (asked, other) = (CancellationToken::new(), CancellationToken::new());
        asked.cancel();
        tasks.spawn(TaskName::Control, &asked, ends());
        tasks.spawn(TaskName::Watchdog, &other, async {
            tokio::task::yield_now().await;
            Ok(())
        });
        assert_eq!(tasks.failure().await.0, TaskName::Watchdog);
        assert!(!tasks.contains(&TaskName::Control));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_selected_tasks_and_aborts_late_ones() {
        let mut tasks = TaskSet::default();
        let stop = CancellationToken::new();
        stop.cancel();
        tasks.spawn(TaskName::Worker, &stop, std::future::pending());
        tasks.spawn(TaskName::Worker, &stop, ends());
        tasks.spawn(TaskName::Housekeeping, &stop, std::future::pending());
        let begun = tokio::time::Instant::now();
        tasks.drain(|name| *name == TaskName::Worker, Duration::from_secs(5), "polls").await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert!(!tasks.contains(&TaskName::Worker) && tasks.contains(&TaskName::Housekeeping));
    }
}
