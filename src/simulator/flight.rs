//! A getsessionlist request from its arrival until its answer is sent or its client gone: counts what is in flight per
//! account, and writes the ledger when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shared;
use super::attendance::KfAccount;
use super::caller::Caller;
use super::ledger::{Answered, PollRecord};
use super::world::OfficialAccount;

/// Ends when it is dropped: answered if [`Flight::arrive`] was called, else the client went first.
#[derive(Debug)]
pub(super) struct Flight {
    shared: Arc<Shared>,
    account: Arc<KfAccount>,
    received_at_ms: i64,
    answered: Answered,
    arrived: bool,
}

impl Flight {
    /// Begins for requests that name a known kf account.
    pub(super) fn depart(shared: &Arc<Shared>, caller: &Caller<'_>, now_ms: i64) -> Option<Self> {
        let account = Arc::clone(caller.kf_account.as_ref()?);
        account.in_flight.enter();
        if let Some(official) = caller.official {
            official.in_flight.enter();
        }
        Some(Flight {
            shared: Arc::clone(shared),
            account,
            received_at_ms: now_ms,
            answered: Answered::Failed("unanswered"),
            arrived: false,
        })
    }

    pub(super) fn carrying(mut self, answered: Answered) -> Self {
        self.answered = answered;
        self
    }

    /// Every byte was handed to the connection.
    pub(super) fn arrive(&mut self) {
        self.arrived = true;
    }

    fn official(&self) -> Option<&OfficialAccount> {
        self.shared.world.by_appid(&self.account.appid)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.account.in_flight.leave();
        if let Some(official) = self.official() {
            official.in_flight.leave();
        }
        if !self.shared.ledger.is_enabled() {
            return;
        }
        let answer = match std::mem::replace(&mut self.answered, Answered::Failed("unanswered")) {
            answer @ Answered::Failed(_) => answer,
            answer if self.arrived => answer,
            _ => Answered::Failed("unanswered"),
        };
        self.shared.ledger.polled(PollRecord {
            appid: Arc::clone(&self.account.appid),
            kf_account: Arc::clone(&self.account.name),
            received_at_ms: self.received_at_ms,
            answered_at_ms: self.arrived.then(|| self.shared.clock.now_ms()),
            answer,
        });
    }
}

/// How many requests are being answered, and how many were at most.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl InFlight {
    pub(super) fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.max.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }
}
