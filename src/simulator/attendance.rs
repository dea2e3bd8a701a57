//! One kf account: who is with it, who waits for it, and whether it can be used. Its history is played forward when
//! somebody looks at it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use super::customers::{Customers, Handover, Visit};
use super::flight::InFlight;
use super::ledger::{LedgerBook, SessionRecord};
use super::lock;
use super::scenario::KfState;

/// How long an invitation stays open, unless told otherwise; the real time is not documented.
const INVITATION_LIFE_MS: i64 = 24 * 60 * 60 * 1_000;

/// One kf account. One that is removed stays here as invalid, so that its requests are still recorded.
#[derive(Debug)]
pub(super) struct KfAccount {
    pub(super) appid: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) id: usize,
    pub(super) polls: AtomicU64,
    pub(super) in_flight: InFlight,
    pub(super) attendance: Mutex<Attendance>,
}

/// Who is with a kf account, or waits for it.
#[derive(Debug)]
pub(super) struct Attendance {
    pub(super) nickname: Box<str>,
    pub(super) presence: Presence,
    pub(super) open: Vec<Session>,
    pub(super) waiting: Vec<Visit>,
    /// For the oddities of answers: apart from the customers' stream, because it depends on the requests.
    pub(super) whims: fastrand::Rng,
    /// Sessions that have left for a colleague, until they are delivered there.
    pub(super) leaving: Vec<Leaving>,
    state: KfState,
    invited_until_ms: i64,
    customers: Customers,
    upcoming: Option<Visit>,
    start_ms: i64,
    next_change_ms: i64,
}

/// Whether an agent is online.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// While customers are there; without any, in some periods and not in others.
    #[default]
    ByItself,
    /// No: not in getonlinekflist.
    Absent,
    /// In getonlinekflist with this status: 0 offline, 1 web; formerly 1 PC, 2 mobile, 3 both.
    Listed(u8),
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) openid: Box<str>,
    pub(super) createtime: i64,
    pub(super) ledger_index: Option<u32>,
    leaves_ms: i64,
    handover: Option<Handover>,
}

/// A session on its way to a colleague.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) session: Session,
    pub(super) handover: Handover,
}

/// What a kf account begins with.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    pub(super) state: KfState,
    pub(super) nickname: &'a str,
    pub(super) customers: Customers,
    pub(super) whims_seed: u64,
    pub(super) start_ms: i64,
}

impl KfAccount {
    /// Who is there now.
    pub(super) fn attendance(&self, now_ms: i64, book: &LedgerBook) -> MutexGuard<'_, Attendance> {
        let mut attendance = lock(&self.attendance);
        if now_ms >= attendance.next_change_ms {
            attendance.catch_up(self, now_ms, book);
        }
        attendance
    }

    fn record(&self, openid: &str, createtime: i64, opened_at_ms: i64) -> SessionRecord {
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

impl Attendance {
    pub(super) fn new(beginning: Beginning<'_>) -> Self {
        let Beginning { state, nickname, mut customers, whims_seed, start_ms } = beginning;
        let upcoming = customers.next_visit();
        let mut attendance = Attendance {
            nickname: nickname.into(),
            presence: Presence::default(),
            open: Vec::new(),
            waiting: Vec::new(),
            whims: fastrand::Rng::with_seed(whims_seed),
            leaving: Vec::new(),
            state,
            invited_until_ms: i64::MAX,
            customers,
            upcoming,
            start_ms,
            next_change_ms: i64::MIN,
        };
        attendance.set_state(state, start_ms);
        attendance
    }

    pub(super) fn state(&self) -> KfState {
        self.state
    }

    pub(super) fn is_bound(&self) -> bool {
        self.state == KfState::Bound
    }

    /// Until when an invitation is or was open, UNIX milliseconds.
    pub(super) fn invited_until_ms(&self) -> i64 {
        self.invited_until_ms
    }

    /// Sets the state; an invitation that comes with it was sent just now, or has just expired.
    pub(super) fn set_state(&mut self, state: KfState, now_ms: i64) {
        self.state = state;
        self.invited_until_ms =
            if state == KfState::UnboundExpired { now_ms } else { now_ms + INVITATION_LIFE_MS };
        self.next_change_ms = i64::MIN;
    }

    /// Unbinds, and invites until then.
    pub(super) fn invite(&mut self, until_ms: i64) {
        self.state = KfState::UnboundWaiting;
        self.invited_until_ms = until_ms;
        self.next_change_ms = i64::MIN;
    }

    /// Opens a session by hand; it stays until it is closed by hand.
    pub(super) fn open(&mut self, account: &KfAccount, session: SessionToOpen<'_>, book: &LedgerBook) {
        let SessionToOpen { openid, createtime, now_ms } = session;
        let ledger_index = book.opened(|| account.record(openid, createtime, now_ms));
        self.open.push(Session {
            openid: openid.into(),
            createtime,
            ledger_index,
            leaves_ms: i64::MAX,
            handover: None,
        });
    }

    /// Takes over a session from a colleague; it ends when it would have ended there.
    pub(super) fn take_over(&mut self, account: &KfAccount, session: Session, at_ms: i64, book: &LedgerBook) {
        let ledger_index = book.opened(|| account.record(&session.openid, session.createtime, at_ms));
        self.open.push(Session { ledger_index, handover: None, ..session });
        self.next_change_ms = i64::MIN;
    }

    /// Takes every open session of the customer away, by hand.
    pub(super) fn take(&mut self, openid: &str, now_ms: i64, book: &LedgerBook) -> Vec<Session> {
        let taken: Vec<Session> = self.open.extract_if(.., |session| *session.openid == *openid).collect();
        taken.iter().for_each(|session| book.closed(session.ledger_index, now_ms));
        taken
    }

    fn catch_up(&mut self, account: &KfAccount, now_ms: i64, book: &LedgerBook) {
        if self.state == KfState::UnboundWaiting && self.invited_until_ms <= now_ms {
            self.state = KfState::UnboundExpired;
        }
        let since_start_ms = now_ms - self.start_ms;
        while let Some(visit) = self.upcoming.take_if(|visit| visit.arrives_ms <= since_start_ms) {
            self.waiting.push(visit);
            self.upcoming = self.customers.next_visit();
        }
        for visit in self.waiting.extract_if(.., |visit| visit.accepted_ms <= since_start_ms) {
            let opened_at_ms = self.start_ms + visit.accepted_ms;
            let createtime = opened_at_ms.div_euclid(1_000);
            let ledger_index = book.opened(|| account.record(&visit.openid, createtime, opened_at_ms));
            let leaves_ms = self.start_ms.saturating_add(visit.leaves_ms);
            let handover =
                visit.handover.map(|handover| Handover { at_ms: self.start_ms + handover.at_ms, ..handover });
            self.open.push(Session { openid: visit.openid, createtime, ledger_index, leaves_ms, handover });
        }
        let is_due = |session: &mut Session| session.handover.is_some_and(|it| it.at_ms <= now_ms);
        for session in self.open.extract_if(.., is_due) {
            if let Some(handover) = session.handover {
                book.closed(session.ledger_index, handover.at_ms);
                self.leaving.push(Leaving { session, handover });
            }
        }
        self.open.retain(|session| {
            let stays = now_ms < session.leaves_ms;
            if !stays {
                book.closed(session.ledger_index, session.leaves_ms);
            }
            stays
        });
        self.next_change_ms = self.next_change();
    }

    fn next_change(&self) -> i64 {
        let arrival = self.upcoming.iter().map(|visit| visit.arrives_ms);
        let acceptances = self.waiting.iter().map(|visit| visit.accepted_ms);
        let arrivals = arrival.chain(acceptances).map(|at_ms| self.start_ms.saturating_add(at_ms));
        let departures = self.open.iter().map(|session| session.leaves_ms);
        let handovers = self.open.iter().filter_map(|session| Some(session.handover?.at_ms));
        let expiry = (self.state == KfState::UnboundWaiting).then_some(self.invited_until_ms);
        arrivals.chain(departures).chain(handovers).chain(expiry).min().unwrap_or(i64::MAX)
    }
}

/// A session opened by hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionToOpen<'a> {
    pub(super) openid: &'a str,
    pub(super) createtime: i64,
    pub(super) now_ms: i64,
}
