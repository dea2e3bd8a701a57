//! Carrying commands out: the same in the daemon, and in a command that finds no daemon.
//!
//! Each kf account is claimed before it is asked, so that it never has two polls in flight, whoever makes them. A
//! command asks also what a failure before holds back: a person may know better. What comes of it counts for the holds
//! like any other poll, but nothing is committed: what it found is found again by the next poll of the schedule.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesOrdered},
};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{
    check::{NO_KF_ACCOUNT, Pace},
    report::{Checked, Polled, remedy_of_needed_list},
};
use crate::{
    domain::{
        account::Account,
        backoff::BackoffPolicy,
        clock::Clock,
        cron::Schedule,
        event::{Change, millis},
        tracker::TrackerUpdate,
    },
    poll::{OfficialAccount, WatchedAccount},
    wechat::error::CallFailure,
};

/// Official accounts, and how to ask WeChat about them.
pub struct Operations {
    official_accounts: Vec<Operated>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    /// Bounds the requests in flight.
    in_flight: Semaphore,
}

/// An official account, and what of its configuration a check tells of.
pub struct Operated {
    /// The account.
    pub official_account: Arc<OfficialAccount>,
    /// Where its token comes from, as the configuration names it.
    pub token_source: &'static str,
    /// When it is polled.
    pub schedule: Schedule,
}

/// The limits of a command. In the daemon they stand beside those of the schedule, whose polls are not held up by it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight; at least 1.
    pub in_flight: usize,
    /// Of these, requests for one official account; at least 1.
    pub per_official_account: usize,
    /// The longest time for one poll, with token fetches and repeats; and for another poll of the account to end.
    pub deadline: Duration,
    /// How long failures hold back what failed.
    pub backoff_policy: BackoffPolicy,
}

/// What came of asking for the sessions of a kf account.
pub(super) enum Asked {
    /// They were listed.
    Listed(Found),
    /// The call failed.
    Failed(CallFailure),
    /// Another poll of the account did not end.
    NeverFree,
}

/// What a list of sessions shows.
pub(super) struct Found {
    pub(super) sessions: u64,
    oldest_createtime: Option<i64>,
    started: u64,
    ended: u64,
}

impl Operations {
    /// Commands for these official accounts.
    pub fn new(official_accounts: Vec<Operated>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        Self { official_accounts, clock, limits, in_flight: Semaphore::new(limits.in_flight) }
    }

    /// Polls every kf account once. Results come in the order of the configuration.
    pub fn polls(&self) -> BoxStream<'_, Polled> {
        let polls = self.official_accounts.iter().map(|operated| self.poll(operated).boxed());
        self.in_order(polls)
    }

    /// Asks WeChat for all that tells whether everything is in order. Changes nothing there. Results come in the order of
    /// the configuration, each official account before its kf accounts.
    pub fn checks(&self) -> BoxStream<'_, Checked> {
        let now = self.clock.now().wall;
        // Most official accounts share a schedule, and reckoning with one takes a while.
        let mut paces = HashMap::new();
        let checks = self.official_accounts.iter().map(move |operated| {
            let pace = *paces.entry(&operated.schedule).or_insert_with(|| Pace::of(&operated.schedule, now));
            self.check(operated, pace).boxed()
        });
        self.in_order(checks)
    }

    /// As many official accounts are at work as requests may be in flight.
    fn in_order<'a, T: Send + 'a>(
        &self,
        works: impl Iterator<Item = BoxFuture<'a, Vec<T>>> + Send + 'a,
    ) -> BoxStream<'a, T> {
        stream::iter(works).buffered(self.limits.in_flight).flat_map(stream::iter).boxed()
    }

    async fn poll(&self, operated: &Operated) -> Vec<Polled> {
        let of = &operated.official_account;
        let mut accounts = of.accounts().to_vec();
        let mut nobody = None;
        if of.has_discovered_nobody() {
            match self.in_turn(of, of.client().kf_list()).await {
                Ok(listed) => accounts.extend(of.undiscovered(&listed.accounts)),
                Err(failure) => nobody = Some(Polled::of_no_list(of, &failure)),
            }
            if accounts.is_empty() && nobody.is_none() {
                nobody = Some(Polled::of_nobody(of));
            }
        }
        let asked = self.ask_all(of, &accounts).await;
        let polled = accounts.iter().zip(asked);
        let polled = polled.map(|(account, asked)| Polled::of(&account.status.account, asked));
        nobody.into_iter().chain(polled).collect()
    }

    /// Makes a call when it may be in flight and the official account's limit lets it through.
    pub(super) async fn in_turn<T>(&self, of: &OfficialAccount, call: impl Future<Output = T>) -> T {
        of.permit().await;
        self.with_permit(call).await
    }

    /// Asks for the sessions of several kf accounts, and keeps their order.
    pub(super) async fn ask_all(
        &self,
        of: &Arc<OfficialAccount>,
        accounts: &[Arc<WatchedAccount>],
    ) -> Vec<Asked> {
        let mut under_way = FuturesOrdered::new();
        let mut asked = Vec::with_capacity(accounts.len());
        for account in accounts {
            if under_way.len() == self.limits.per_official_account {
                asked.extend(under_way.next().await);
            }
            // Not claimed before it may be in flight: the schedule would be held up for nothing.
            under_way.push_back(self.with_permit(self.ask(of, account)));
        }
        asked.extend(under_way.collect::<Vec<_>>().await);
        asked
    }

    async fn ask(&self, of: &Arc<OfficialAccount>, account: &Arc<WatchedAccount>) -> Asked {
        let deadline = self.limits.deadline;
        let Ok(guard) = tokio::time::timeout(deadline, of.guard_when_free(account)).await else {
            return Asked::NeverFree;
        };
        guard.wait_for_permit().await;
        let asked = guard.ask(&*self.clock, deadline, &self.limits.backoff_policy).await;
        // Still claimed: nobody has moved the snapshot meanwhile.
        asked.map_or_else(Asked::Failed, |step| Asked::Listed(Found::of(step, account)))
    }

    /// Makes a call when it may be in flight.
    pub(super) async fn with_permit<T>(&self, call: impl Future<Output = T>) -> T {
        // It is never closed.
        let _permit = self.in_flight.acquire().await;
        call.await
    }
}

impl Found {
    fn of(step: TrackerUpdate, account: &WatchedAccount) -> Self {
        let snapshot = step.snapshot.unwrap_or_else(|| account.watch().snapshot);
        let count = |of: fn(&Change) -> bool| step.changes.iter().filter(|change| of(change)).count() as u64;
        Self {
            sessions: snapshot.len() as u64,
            oldest_createtime: snapshot.oldest_createtime(),
            started: count(|change| matches!(change, Change::SessionStarted { .. })),
            ended: count(|change| matches!(change, Change::SessionEnded { .. })),
        }
    }
}

impl Asked {
    /// `ok`, or the class of the failure.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Listed(_) => "ok",
            Self::Failed(failure) => failure.class.as_str(),
            Self::NeverFree => "busy",
        }
    }
}

/// What is said of [`Asked::NeverFree`].
pub(super) const NEVER_FREE: &str =
    "is being polled or waits for its turn (max_requests_per_minute), and that takes too long; try again";

impl Polled {
    fn of(account: &Account, asked: Asked) -> Self {
        let polled = Self {
            kf_account: Some(account.kf_account.to_string()),
            ..Self::without_sessions(&account.official_account, asked.result())
        };
        match asked {
            Asked::Listed(found) => {
                let oldest = found.oldest_createtime.and_then(|at| Timestamp::from_second(at).ok());
                Self {
                    sessions: Some(found.sessions),
                    oldest_session_started_at: oldest.map(millis),
                    started: Some(found.started),
                    ended: Some(found.ended),
                    ..polled
                }
            }
            Asked::Failed(failure) => Self {
                remedy: failure.error.remedy(failure.endpoint).map(|remedy| remedy.en.to_owned()),
                error: Some(failure.to_string()),
                ..polled
            },
            Asked::NeverFree => Self { error: Some(NEVER_FREE.to_owned()), ..polled },
        }
    }

    /// Patterns are to find kf accounts, and the list that they need was not to be had.
    fn of_no_list(of: &OfficialAccount, failure: &CallFailure) -> Self {
        Self {
            error: Some(failure.to_string()),
            remedy: remedy_of_needed_list(failure).map(|remedy| remedy.en.to_owned()),
            ..Self::without_sessions(&of.status.name, failure.class.as_str())
        }
    }

    /// Patterns have found nobody, and nobody is named.
    fn of_nobody(of: &OfficialAccount) -> Self {
        Self {
            error: Some("getkflist lists no kf account that a pattern of kf_accounts matches".to_owned()),
            remedy: Some(NO_KF_ACCOUNT.en.to_owned()),
            ..Self::without_sessions(&of.status.name, "no_kf_account")
        }
    }

    fn without_sessions(official_account: &str, result: &str) -> Self {
        Self {
            official_account: official_account.to_owned(),
            kf_account: None,
            result: result.to_owned(),
            sessions: None,
            oldest_session_started_at: None,
            started: None,
            ended: None,
            error: None,
            remedy: None,
        }
    }
}
