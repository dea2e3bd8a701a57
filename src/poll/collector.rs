//! Collections: calls that report what an official account's agents and customers do apart from sessions.
//!
//! A collector that fails backs off alone, with the policy of polls ([`crate::domain::backoff`]): a missing permission of
//! one call says nothing about polls and other collectors. If polls fail for a reason that concerns every call of the
//! official account, such as a rejected address, collectors make no calls either. Readers see the last response, with its
//! time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    backoff::{failed_call, reason},
    official_account::OfficialAccount,
    outcome::PollOutcome,
    poll_log::News,
    poller::Poller,
    report,
};
use crate::{
    domain::{
        agents::{Collector, KfList, OnlineAccount, Quota, WaitingQueue},
        backoff::Backoff,
        clock::Moment,
        error_class::Scope,
        failure_reason::FailureReason,
    },
    wechat::{
        Endpoint,
        error::{CallError, CallFailure},
    },
};

impl Poller {
    /// Acquires a permit for a collection at `now`, or says after which time to try again. A collection that backs off calls
    /// nothing and needs no permit.
    pub fn try_acquire_collection_permit(
        &self,
        official_account: &OfficialAccount,
        collector: Collector,
        now: Moment,
    ) -> Result<(), Duration> {
        if backs_off(official_account, collector, now) {
            return Ok(());
        }
        official_account.try_acquire_collector_permit(now)
    }

    /// Collects once, unless the collector backs off, with an
    /// [acquired permit](Self::try_acquire_collection_permit). The caller makes sure that only one collection of each
    /// official account and collector runs at a time.
    pub async fn collect(
        &self,
        official_account: &Arc<OfficialAccount>,
        collector: Collector,
    ) -> PollOutcome {
        let started_at = self.clock.now();
        if !self.lease.is_trusted(started_at) {
            return PollOutcome::Untrusted;
        }
        if backs_off(official_account, collector, started_at) {
            return PollOutcome::BackedOff;
        }
        let call = tokio::time::timeout(self.limits().deadline, call(official_account, collector));
        let outcome = match call.await {
            Ok(Ok(response)) => self.apply(official_account, response).await,
            Ok(Err(failure)) => PollOutcome::Failed(failure),
            Err(_) => {
                let timeout = CallFailure::new(endpoint(collector), CallError::Timeout, started_at);
                PollOutcome::Failed(timeout)
            }
        };
        let ended_at = self.clock.now();
        if matches!(outcome, PollOutcome::Succeeded) {
            official_account.status.readings().record_success(collector, ended_at.wall);
            // While polls back off, only a poll can show that their failure is over.
            let polls_back_off = official_account.backoff().is_some();
            if !polls_back_off {
                report::log_calls_succeed(&self.log, official_account, started_at);
            }
        }
        self.record_collection(official_account, collector, &outcome, ended_at);
        outcome
    }

    /// Records a collection that panicked.
    pub fn record_collection_panic(&self, official_account: &OfficialAccount, collector: Collector) {
        let mut state = official_account.collector(collector);
        let is_news = state.failure_streak.failed(FailureReason::PANIC, self.clock.now());
        drop(state);
        if is_news {
            let (official_account, collector) = (&official_account.status.name, collector.as_str());
            tracing::error!(
                %official_account, collector, "Collection panicked: this is a bug in kfwatch, please report it"
            );
        }
    }

    /// Starts or ends the backoff of the collector, and logs a failure or a recovery that is news.
    fn record_collection(
        &self,
        official_account: &OfficialAccount,
        collector: Collector,
        outcome: &PollOutcome,
        now: Moment,
    ) {
        let mut state = official_account.collector(collector);
        let name = &official_account.status.name;
        match outcome {
            PollOutcome::BackedOff | PollOutcome::Untrusted => {}
            PollOutcome::Succeeded => {
                state.backoff = None;
                if let Some(recovery) = state.failure_streak.succeeded(now) {
                    self.log.add(
                        Scope::OfficialAccount,
                        name,
                        News::CollectionsSucceedAgain(collector, recovery),
                    );
                }
            }
            PollOutcome::Failed(failure) => {
                let (policy, failed) = (&self.limits().backoff_policy, failed_call(failure));
                let backoff = Backoff::after(policy, state.backoff.as_ref(), failed, now, fastrand::f64());
                state.backoff = Some(backoff);
                // Polls meet the same failure: it is logged once for all.
                if failure.concerns_every_call() {
                    if official_account.failure_streak().failed(reason(failure), now) {
                        self.log.add(Scope::OfficialAccount, name, News::PollFailed(failure.clone(), None));
                    }
                } else if state.failure_streak.failed(reason(failure), now) {
                    self.log.add(
                        Scope::OfficialAccount,
                        name,
                        News::CollectionFailed(collector, failure.clone()),
                    );
                }
            }
            PollOutcome::NotStored(error) => {
                if state.failure_streak.failed(FailureReason::STORE, now) {
                    let (collector, error) = (collector.as_str(), crate::chain(error));
                    tracing::error!(official_account = %name, collector, "Collection not stored: {error}");
                }
            }
        }
    }

    async fn apply(
        &self,
        official_account: &Arc<OfficialAccount>,
        response: CollectorResponse,
    ) -> PollOutcome {
        match response {
            CollectorResponse::KfList(list) => {
                if let Err(error) = self.apply_kf_list(official_account, &list).await {
                    return PollOutcome::NotStored(error);
                }
            }
            CollectorResponse::Online(listed) => apply_online(official_account, &listed),
            CollectorResponse::Waiting(queue) => official_account.status.readings().waiting = Some(queue),
            CollectorResponse::Quota(quota) => official_account.status.readings().quota = Some(quota),
        }
        PollOutcome::Succeeded
    }
}

enum CollectorResponse {
    KfList(KfList),
    Online(Vec<OnlineAccount>),
    Waiting(WaitingQueue),
    Quota(Quota),
}

async fn call(
    official_account: &OfficialAccount,
    collector: Collector,
) -> Result<CollectorResponse, CallFailure> {
    let client = official_account.client();
    match collector {
        Collector::KfList => client.kf_list().await.map(CollectorResponse::KfList),
        Collector::Online => client.online_kf_list().await.map(CollectorResponse::Online),
        Collector::Waiting => client.wait_case().await.map(CollectorResponse::Waiting),
        Collector::Quota => client.quota().await.map(CollectorResponse::Quota),
    }
}

/// Whether the collector itself has failed, or every call would.
fn backs_off(official_account: &OfficialAccount, collector: Collector, now: Moment) -> bool {
    let own = official_account.collector(collector).backoff;
    own.is_some_and(|backoff| backoff.is_active_at(now)) || official_account.fails_every_call_at(now)
}

/// A kf account that is not listed is offline, and how many sessions it has accepted is unknown.
fn apply_online(official_account: &OfficialAccount, listed: &[OnlineAccount]) {
    let online = listed.iter().filter(|account| account.online).count();
    official_account.status.readings().online_accounts = Some(online as u64);
    let listed: HashMap<&str, &OnlineAccount> =
        listed.iter().map(|account| (&*account.kf_account, account)).collect();
    for account in official_account.accounts().iter() {
        let listed = listed.get(&*account.account().kf_account);
        let agent = &mut account.lock().agent;
        agent.online = Some(listed.is_some_and(|listed| listed.online));
        agent.accepted_cases = listed.and_then(|listed| listed.accepted_cases);
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
