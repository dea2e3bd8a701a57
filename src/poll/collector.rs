//! One collection: ask what an official account's agents and customers do beside the sessions, and show it.
//!
//! A collector that fails is held back by itself, with the waits of polls ([`crate::domain::backoff`]); it holds back no
//! poll and no other collector, because what it may not ask says nothing of what others may. The other way round, it asks
//! nothing while polls are held back because any call would be refused. What was collected last stays on show;
//! when that was, is shown with it.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    OfficialAccount, Poller,
    guard::timed_out,
    report::{self, Reason},
};
use crate::{
    domain::{
        agents::{Collector, KfList, OnlineAccount, Quota, WaitingQueue},
        backoff::{Backoff, FailedCall},
        clock::Moment,
        failure_streak::FailureStreak,
    },
    store::StoreError,
    wechat::{Endpoint, error::CallFailure},
};

/// How a collection ended.
#[derive(Debug)]
pub enum Collection {
    /// The answer was taken.
    Succeeded,
    /// A failure before holds it back: nothing was asked.
    BackedOff,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good, but what follows from it could not be stored: that will be found again.
    NotStored(StoreError),
}

/// What is remembered of one collector of an official account.
#[derive(Debug, Default)]
pub(super) struct CollectorState {
    hold: Option<Backoff>,
    failure_streak: FailureStreak<Reason>,
}

impl Poller {
    /// Takes the permit that the official account's limit asks of a collection; if there is none, says when to ask again.
    /// A collection that is held back makes no call, and needs none.
    pub fn admit_collection(
        &self,
        official_account: &OfficialAccount,
        collector: Collector,
    ) -> Result<(), Duration> {
        match official_account.rate_limiter() {
            Some(rate_limiter) if !official_account.backoff_policy(collector, self.clock.now()) => {
                rate_limiter.try_permit_for_collector()
            }
            _ => Ok(()),
        }
    }

    /// Collects once, unless held back, with a [permit](Self::admit_collection). At most one at a time for each official
    /// account and collector.
    pub async fn collect(&self, official_account: &Arc<OfficialAccount>, collector: Collector) -> Collection {
        let now = self.clock.now();
        if official_account.backoff_policy(collector, now) {
            return Collection::BackedOff;
        }
        let asked = tokio::time::timeout(self.limits.deadline, ask(official_account, collector));
        let collection = match asked.await {
            Ok(Ok(answer)) => self.take(official_account, answer).await,
            Ok(Err(failure)) => Collection::Failed(failure),
            Err(_) => Collection::Failed(timed_out(endpoint(collector), now)),
        };
        let done = self.clock.now();
        if matches!(collection, Collection::Succeeded) {
            official_account.status.collected().succeeded(collector, done.wall);
            // A failure of polls alone is not over by that.
            if !official_account.is_refused() {
                report::log_calls_succeed(official_account, now);
            }
        }
        self.learn(official_account, collector, &collection, done);
        collection
    }

    /// Notes a collection that panicked.
    pub fn collection_panicked(&self, official_account: &OfficialAccount, collector: Collector) {
        let is_news =
            official_account.collector(collector).failure_streak.failed(Reason::PANIC, self.clock.now());
        if is_news {
            let (official_account, collector) = (&official_account.status.name, collector.as_str());
            tracing::error!(
                %official_account, collector, "A collection panicked: this is a bug in kfwatch, please report it"
            );
        }
    }

    /// BackoffPolicy the collector back or releases it, and logs what changed.
    fn learn(
        &self,
        official_account: &OfficialAccount,
        collector: Collector,
        collection: &Collection,
        now: Moment,
    ) {
        let mut state = official_account.collector(collector);
        let of = &official_account.status.name;
        match collection {
            Collection::BackedOff => {}
            Collection::Succeeded => {
                state.hold = None;
                if let Some(recovery) = state.failure_streak.succeeded(now) {
                    report::log_collected_again(of, collector, recovery);
                }
            }
            Collection::Failed(failure) => {
                let failed = FailedCall {
                    class: failure.class,
                    sent_at: failure.sent_at,
                    retry_after: failure.error.retry_after(),
                };
                let hold = Backoff::after(
                    &self.limits.backoff_policy,
                    state.hold.as_ref(),
                    failed,
                    now,
                    fastrand::f64(),
                );
                state.hold = Some(hold);
                // What polls meet as well is told once for all.
                if failure.concerns_every_call() {
                    if official_account.failure_streak().failed(Reason::of(failure), now) {
                        report::log_failure(of, failure);
                    }
                } else if state.failure_streak.failed(Reason::of(failure), now) {
                    report::log_collection_failure(of, collector, failure);
                }
            }
            Collection::NotStored(error) => {
                if state.failure_streak.failed(Reason::STORE, now) {
                    let (collector, error) = (collector.as_str(), crate::chain(error));
                    tracing::error!(official_account = %of, collector, "Collection not stored: {error}");
                }
            }
        }
    }

    async fn take(&self, official_account: &Arc<OfficialAccount>, answer: Answer) -> Collection {
        match answer {
            Answer::KfList(listed) => {
                if let Err(error) = self.take_kf_list(official_account, &listed).await {
                    return Collection::NotStored(error);
                }
            }
            Answer::Online(listed) => official_account.take_online(&listed),
            Answer::Waiting(queue) => official_account.status.collected().waiting = Some(queue),
            Answer::Quota(quota) => official_account.status.collected().quota = Some(quota),
        }
        Collection::Succeeded
    }
}

/// What a collector was told.
enum Answer {
    KfList(KfList),
    Online(Vec<OnlineAccount>),
    Waiting(WaitingQueue),
    Quota(Quota),
}

async fn ask(official_account: &OfficialAccount, collector: Collector) -> Result<Answer, CallFailure> {
    let client = &official_account.client;
    match collector {
        Collector::KfList => client.kf_list().await.map(Answer::KfList),
        Collector::Online => client.online_kf_list().await.map(Answer::Online),
        Collector::Waiting => client.wait_case().await.map(Answer::Waiting),
        Collector::Quota => client.quota().await.map(Answer::Quota),
    }
}

impl OfficialAccount {
    fn collector(&self, collector: Collector) -> MutexGuard<'_, CollectorState> {
        self.collectors[collector as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the collector would ask in vain: it failed itself, or every call would fail.
    fn backoff_policy(&self, collector: Collector, now: Moment) -> bool {
        self.collector(collector).hold.is_some_and(|hold| hold.is_active_at(now))
            || self.refuses_every_call_at(now)
    }

    /// An account that is not listed is offline; how many sessions it has accepted is then not known.
    fn take_online(&self, listed: &[OnlineAccount]) {
        let online = listed.iter().filter(|account| account.online).count();
        self.status.collected().online_accounts = Some(online as u64);
        let listed: HashMap<&str, &OnlineAccount> =
            listed.iter().map(|account| (&*account.kf_account, account)).collect();
        for account in self.accounts().iter() {
            let listed = listed.get(&*account.account().kf_account);
            let agent = &mut account.status.row().agent;
            agent.online = Some(listed.is_some_and(|listed| listed.online));
            agent.accepted_cases = listed.and_then(|listed| listed.accepted_cases);
        }
    }
}

fn endpoint(collector: Collector) -> Endpoint {
    match collector {
        Collector::KfList => Endpoint::KfList,
        Collector::Online => Endpoint::OnlineKfList,
        Collector::Waiting => Endpoint::WaitCase,
        Collector::Quota => Endpoint::Quota,
    }
}
