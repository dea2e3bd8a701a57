//! One kf account: its binding, its open sessions and its waiting customers. Reading the state first advances the
//! simulation to now.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use super::customers::{CustomerVisit, Customers, PlannedTransfer};
use super::in_flight::InFlightCounter;
use super::ledger::{LedgerWriter, SessionRecord};
use super::lock;
use super::scenario::KfState;

/// The time between an invitation and its invite_expire_time. WeChat does not document the real time.
const INVITATION_LIFETIME_MS: i64 = 24 * 60 * 60 * 1_000;

/// One kf account. A removed one stays here with the state `Invalid`, so that requests for it are still recorded.
#[derive(Debug)]
pub(super) struct KfAccount {
    pub(super) appid: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) id: usize,
    pub(super) polls: AtomicU64,
    pub(super) in_flight: InFlightCounter,
    pub(super) state: Mutex<KfAccountState>,
}

/// The state of a kf account that changes over time.
#[derive(Debug)]
pub(super) struct KfAccountState {
    pub(super) nickname: Box<str>,
    pub(super) open: Vec<Session>,
    pub(super) waiting: Vec<CustomerVisit>,
    /// Varies the responses. Separate from the customers' stream, because its use depends on the requests.
    pub(super) response_rng: fastrand::Rng,
    /// Sessions that have left this kf account and have not yet reached the other one.
    pub(super) departing: Vec<DepartingSession>,
    pub(super) binding: KfState,
    /// The invite_expire_time of the invitation.
    pub(super) invited_until_ms: i64,
    customers: Customers,
    upcoming: Option<CustomerVisit>,
    start_ms: i64,
    next_change_ms: i64,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) openid: Box<str>,
    pub(super) createtime: i64,
    pub(super) ledger_index: Option<u32>,
    ends_ms: i64,
    transfer: Option<PlannedTransfer>,
}

/// A session on its way to another kf account.
#[derive(Debug)]
pub(super) struct DepartingSession {
    pub(super) session: Session,
    pub(super) transfer: PlannedTransfer,
}

impl KfAccount {
    pub(super) fn current_state(&self, now_ms: i64, ledger: &LedgerWriter) -> MutexGuard<'_, KfAccountState> {
        let mut state = lock(&self.state);
        if now_ms >= state.next_change_ms {
            state.catch_up(self, now_ms, ledger);
        }
        state
    }

    fn session_record(&self, openid: &str, createtime: i64, opened_at_ms: i64) -> SessionRecord {
        SessionRecord {
            appid: Arc::clone(&self.appid),
            kf_account: Arc::clone(&self.name),
            openid: openid.into(),
            createtime,
            opened_at_ms,
            closed_at_ms: None,
        }
    }
}

impl KfAccountState {
    pub(super) fn new(
        binding: KfState,
        nickname: &str,
        mut customers: Customers,
        response_seed: u64,
        start_ms: i64,
    ) -> Self {
        let upcoming = customers.next_visit();
        let mut state = KfAccountState {
            nickname: nickname.into(),
            open: Vec::new(),
            waiting: Vec::new(),
            response_rng: fastrand::Rng::with_seed(response_seed),
            departing: Vec::new(),
            binding,
            invited_until_ms: i64::MAX,
            customers,
            upcoming,
            start_ms,
            next_change_ms: i64::MIN,
        };
        state.set_binding(binding, start_ms);
        state
    }

    pub(super) fn is_bound(&self) -> bool {
        self.binding == KfState::Bound
    }

    /// An invitation that belongs to the new binding was sent now.
    pub(super) fn set_binding(&mut self, binding: KfState, now_ms: i64) {
        self.binding = binding;
        self.invited_until_ms = now_ms + INVITATION_LIFETIME_MS;
    }

    /// Opens a session that stays open until [`KfAccountState::close`].
    pub(super) fn open(
        &mut self,
        account: &KfAccount,
        openid: &str,
        createtime: i64,
        (now_ms, ledger): (i64, &LedgerWriter),
    ) {
        let ledger_index = ledger.record_opened(|| account.session_record(openid, createtime, now_ms));
        self.open.push(Session {
            openid: openid.into(),
            createtime,
            ledger_index,
            ends_ms: i64::MAX,
            transfer: None,
        });
    }

    /// Adds a session from another kf account. Its end stays as planned.
    pub(super) fn receive(
        &mut self,
        account: &KfAccount,
        session: Session,
        at_ms: i64,
        ledger: &LedgerWriter,
    ) {
        let ledger_index =
            ledger.record_opened(|| account.session_record(&session.openid, session.createtime, at_ms));
        self.open.push(Session { ledger_index, transfer: None, ..session });
        self.next_change_ms = i64::MIN;
    }

    /// Closes every open session of the customer and returns them.
    pub(super) fn close(&mut self, openid: &str, now_ms: i64, ledger: &LedgerWriter) -> Vec<Session> {
        let closed: Vec<Session> = self.open.extract_if(.., |session| *session.openid == *openid).collect();
        closed.iter().for_each(|session| ledger.record_closed(session.ledger_index, now_ms));
        closed
    }

    fn catch_up(&mut self, account: &KfAccount, now_ms: i64, ledger: &LedgerWriter) {
        let since_start_ms = now_ms - self.start_ms;
        while let Some(visit) = self.upcoming.take_if(|visit| visit.arrives_ms <= since_start_ms) {
            self.waiting.push(visit);
            self.upcoming = self.customers.next_visit();
        }
        for visit in self.waiting.extract_if(.., |visit| visit.accepted_ms <= since_start_ms) {
            let opened_at_ms = self.start_ms + visit.accepted_ms;
            let createtime = opened_at_ms.div_euclid(1_000);
            let record = || account.session_record(&visit.openid, createtime, opened_at_ms);
            let ledger_index = ledger.record_opened(record);
            let ends_ms = self.start_ms.saturating_add(visit.leaves_ms);
            let transfer = visit.transfer.map(|it| PlannedTransfer { at_ms: self.start_ms + it.at_ms, ..it });
            self.open.push(Session { openid: visit.openid, createtime, ledger_index, ends_ms, transfer });
        }
        let is_due = |session: &mut Session| session.transfer.is_some_and(|it| it.at_ms <= now_ms);
        for session in self.open.extract_if(.., is_due) {
            if let Some(transfer) = session.transfer {
                ledger.record_closed(session.ledger_index, transfer.at_ms);
                self.departing.push(DepartingSession { session, transfer });
            }
        }
        for session in self.open.extract_if(.., |session| session.ends_ms <= now_ms) {
            ledger.record_closed(session.ledger_index, session.ends_ms);
        }
        self.next_change_ms = self.next_change();
    }

    fn next_change(&self) -> i64 {
        let arrival = self.upcoming.iter().map(|visit| visit.arrives_ms);
        let acceptances = self.waiting.iter().map(|visit| visit.accepted_ms);
        let arrivals = arrival.chain(acceptances).map(|at_ms| self.start_ms.saturating_add(at_ms));
        let ends = self.open.iter().map(|session| session.ends_ms);
        let transfers = self.open.iter().filter_map(|session| Some(session.transfer?.at_ms));
        arrivals.chain(ends).chain(transfers).min().unwrap_or(i64::MAX)
    }
}
