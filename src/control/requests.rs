//! The calls of WeChat that commands make, within their limits.
//!
//! A kf account is locked with a poll guard before its sessions are requested, so that it never has two polls in flight, whoever
//! makes them. A command also polls accounts that back off after a failure, because the operator may have just fixed the cause. Its
//! outcome counts for the backoff as any other poll's does.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::sync::Semaphore;

use crate::{
    domain::{backoff::BackoffPolicy, clock::Clock, event::Change, tracker::TrackerUpdate},
    poll::{OfficialAccount, PollGuard, SessionFetcher},
    status::WatchedAccount,
    wechat::error::CallFailure,
};

/// The limits of commands. In the daemon they apply in addition to those of scheduled polls, which a command does not delay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandLimits {
    /// Requests in flight; at least 1.
    pub(crate) in_flight: usize,
    /// Requests in flight for one official account; at least 1.
    pub(crate) per_official_account: usize,
    /// The longest time for one poll, with token fetches and retries; also the longest wait for another poll of the account to end.
    pub(crate) deadline: Duration,
    /// How long the daemon backs off after a failure.
    pub(crate) backoff_policy: BackoffPolicy,
}

/// Makes the calls.
pub(super) struct CommandRequests {
    pub(super) limits: CommandLimits,
    fetcher: SessionFetcher,
    in_flight: Semaphore,
}

/// The outcome of one getsessionlist call.
pub(super) enum SessionListOutcome {
    Listed(ListedSessions),
    Failed(CallFailure),
    /// Another poll of the account did not end in time.
    Busy,
}

/// The session list, compared with the stored snapshot.
pub(super) struct ListedSessions {
    pub(super) sessions: u64,
    pub(super) oldest_createtime: Option<i64>,
    pub(super) started: u64,
    pub(super) ended: u64,
}

impl SessionListOutcome {
    /// The error message of [`SessionListOutcome::Busy`].
    pub(super) const BUSY: &str = "another poll of the account runs, or max_requests_per_minute delays this one for too long; try again";

    /// `ok`, or the class of the failure.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Listed(_) => "ok",
            Self::Failed(failure) => failure.class.as_str(),
            Self::Busy => "busy",
        }
    }
}

impl CommandRequests {
    pub(super) fn new(clock: Arc<dyn Clock>, limits: CommandLimits) -> Self {
        let fetcher = SessionFetcher::new(clock, limits.deadline, limits.backoff_policy);
        Self { limits, fetcher, in_flight: Semaphore::new(limits.in_flight) }
    }

    /// Makes a call within the limit on requests in flight and the official account's rate limit.
    pub(super) async fn call<T>(&self, of: &OfficialAccount, call: impl Future<Output = T>) -> T {
        of.acquire_permit().await;
        self.in_flight(call).await
    }

    /// Lists the sessions of each kf account; outcomes are in the order of `accounts`.
    pub(super) async fn list_sessions(
        &self,
        of: &Arc<OfficialAccount>,
        accounts: &[Arc<WatchedAccount>],
    ) -> Vec<SessionListOutcome> {
        let mut running = FuturesOrdered::new();
        let mut outcomes = Vec::with_capacity(accounts.len());
        for account in accounts {
            if running.len() == self.limits.per_official_account {
                outcomes.extend(running.next().await);
            }
            // The account is not locked before its request may be in flight: that would delay the schedule for nothing.
            running.push_back(self.in_flight(self.list_sessions_of(of, account)));
        }
        outcomes.extend(running.collect::<Vec<_>>().await);
        outcomes
    }

    async fn list_sessions_of(
        &self,
        of: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
    ) -> SessionListOutcome {
        let guard = tokio::time::timeout(self.limits.deadline, PollGuard::acquire(of, account));
        let Ok(Some(guard)) = guard.await else { return SessionListOutcome::Busy };
        of.acquire_poll_permit(account).await;
        let update = self.fetcher.fetch(&guard).await;
        // The guard still locks the account: its snapshot has not changed meanwhile.
        update.map_or_else(SessionListOutcome::Failed, |update| {
            SessionListOutcome::Listed(ListedSessions::new(update, account))
        })
    }

    async fn in_flight<T>(&self, call: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _permit = self.in_flight.acquire().await;
        call.await
    }
}

impl ListedSessions {
    fn new(update: TrackerUpdate, account: &WatchedAccount) -> Self {
        let snapshot = update.snapshot.unwrap_or_else(|| account.tracker().snapshot);
        let count =
            |of: fn(&Change) -> bool| update.changes.iter().filter(|change| of(change)).count() as u64;
        Self {
            sessions: snapshot.len() as u64,
            oldest_createtime: snapshot.oldest_createtime(),
            started: count(|change| matches!(change, Change::SessionStarted { .. })),
            ended: count(|change| matches!(change, Change::SessionEnded { .. })),
        }
    }
}
