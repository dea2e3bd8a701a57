//! The right to poll a kf account, and the one way to ask for its sessions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    account::WatchedAccount,
    backoff::{ActiveBackoff, concluded, conclusion, release},
    official_account::OfficialAccount,
};
use crate::{
    domain::{
        backoff::BackoffPolicy,
        clock::{Clock, Moment},
        error_class::{ErrorClass, Scope},
        tracker::{Answer, FailureCause, Listed, TrackerUpdate},
    },
    wechat::{
        Endpoint,
        client::{Answered, Exchanged},
        error::{CallError, CallFailure},
        wire::SessionList,
    },
};

/// The right to poll an account, held by one poll at a time. No more than two pointers: of every account, one may wait.
pub struct PollGuard {
    account: Arc<WatchedAccount>,
    official_account: Arc<OfficialAccount>,
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        if self.account.left.load(Ordering::Relaxed) {
            return;
        }
        self.account.claimed.store(false, Ordering::Release);
        self.official_account.released.notify_waiters();
    }
}

impl PollGuard {
    /// Claims the account, unless it is claimed.
    pub(super) fn take(
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
    ) -> Option<Self> {
        if account.claimed.swap(true, Ordering::Acquire) {
            return None;
        }
        // One that was not used is lost with the claim that it was for.
        account.has_permit.store(false, Ordering::Relaxed);
        Some(Self { account: Arc::clone(account), official_account: Arc::clone(official_account) })
    }

    /// The account that is claimed.
    pub fn account(&self) -> &Arc<WatchedAccount> {
        &self.account
    }

    /// Its official account.
    pub fn official_account(&self) -> &Arc<OfficialAccount> {
        &self.official_account
    }

    /// Takes the permit that the official account's limit asks of a poll, so that the poll need not wait for it; if there
    /// is none, says when to ask again. A poll that is held back makes no call, and needs none.
    pub fn admit(&self) -> Result<(), Duration> {
        let Some(rate_limiter) = self.official_account.rate_limiter() else { return Ok(()) };
        if self.held_at(self.official_account.client.now()).is_none() {
            rate_limiter.try_permit_for_poll()?;
            self.account.has_permit.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until the official account's limit lets the next call through.
    pub async fn wait_for_permit(&self) {
        self.official_account.permit().await;
        self.account.has_permit.store(true, Ordering::Relaxed);
    }

    /// Gives it back never: the account is not polled any more.
    pub(super) fn keep(self) {
        self.account.left.store(true, Ordering::Relaxed);
    }

    /// Asks for the account's sessions, for at most `deadline`, and compares them with what is known. What failed is held
    /// back from now on, what is shown to work no longer. Commits nothing.
    pub async fn ask(
        &self,
        clock: &dyn Clock,
        deadline: Duration,
        backoff_policy: &BackoffPolicy,
    ) -> Result<TrackerUpdate, CallFailure> {
        let begun = clock.now();
        let answer = match tokio::time::timeout(deadline, self.observe()).await {
            Ok(answer) => answer,
            Err(_) => Err(timed_out(Endpoint::SessionList, begun)),
        };
        self.learn(begun, clock, answer.as_ref().err(), backoff_policy);
        answer
    }

    /// Asks for the account's sessions and compares them with what is known.
    async fn observe(&self) -> Result<TrackerUpdate, CallFailure> {
        let client = &self.official_account.client;
        // Nobody changes it meanwhile: whoever would needs the claim.
        let known = self.account.memory().watch.fingerprint;
        if !self.account.has_permit.swap(false, Ordering::Relaxed) {
            client.permit().await;
        }
        client
            .session_list(&self.account.account().kf_account, known, |answered, exchanged| {
                let listed = match &answered {
                    Answered::AsKnown => Listed::Same,
                    Answered::Anew(SessionList::Listed(observed), fingerprint) => {
                        Listed::Sessions(observed, *fingerprint)
                    }
                    Answered::Anew(SessionList::Keyless, _) => Listed::Nothing,
                };
                let Exchanged { sent_at, received_at } = exchanged;
                let answer = Answer { listed, sent_at, received_at };
                self.account.memory().watch.answered(answer, Endpoint::SessionList.as_str())
            })
            .await
    }

    /// What holds the account back at this moment, and the cause of that.
    pub(super) fn held_at(&self, now: Moment) -> Option<FailureCause> {
        let own = self.account.memory().held();
        let shared = *self.official_account.hold();
        [shared, own].into_iter().flatten().find(|held| held.hold.is_active_at(now)).map(|held| held.cause)
    }

    /// Whether the account is held back at this moment because an answer said what it is: that is no failure to see it.
    pub(super) fn rests_at(&self, now: Moment) -> bool {
        let own = self.account.memory().held();
        own.is_some_and(|held| held.hold.is_active_at(now) && concluded(held.hold.class).is_some())
    }

    /// BackoffPolicy back what failed, and releases what is shown to work.
    fn learn(
        &self,
        sent_at: Moment,
        clock: &dyn Clock,
        failure: Option<&CallFailure>,
        backoff_policy: &BackoffPolicy,
    ) {
        let mut memory = self.account.memory();
        let mut shared = self.official_account.hold();
        let Some(failure) = failure else {
            memory.hold = None;
            release(&mut shared, sent_at);
            return;
        };
        // Not the kf account's doing, and over within seconds, or else a worse failure: a wait that grows would starve
        // the kf accounts whose polls another program's tokens happen to meet.
        if failure.class == ErrorClass::Busy && failure.error.lacks_token() {
            return;
        }
        let held = |previous| ActiveBackoff::after(backoff_policy, previous, failure, clock.now());
        match failure.class.scope() {
            Scope::OfficialAccount => *shared = Some(held(*shared)),
            Scope::KfAccount => memory.hold = Some(Box::new(held(memory.held()))),
        }
        // A refusal that concerns the kf account alone shows that the official account works.
        if conclusion(failure).is_some() {
            release(&mut shared, sent_at);
        }
    }
}

pub(super) fn timed_out(endpoint: Endpoint, sent_at: Moment) -> CallFailure {
    CallFailure::new(endpoint, CallError::Timeout, sent_at)
}
