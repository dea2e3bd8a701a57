//! The truth, for tests: which sessions there were, and what each getsessionlist request was told about them.
//!
//! An answer is recorded as what was sent, not as what the client made of it. Recording can be switched off, and stops
//! at named limits; a ledger that is not whole says so.

use std::sync::{Arc, Mutex};

use super::lock;

/// Sessions recorded at most, and as many transfers.
pub const MAX_LEDGER_SESSIONS: usize = 1_000_000;
/// Polls recorded at most.
pub const MAX_LEDGER_POLLS: usize = 1_000_000;
/// Sessions listed in recorded polls at most, all together: 64 MB.
pub const MAX_LEDGER_LISTINGS: usize = 16_000_000;

/// What happened in a simulation up to now.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Every session, in the order in which it became known; polls refer to it by index.
    pub sessions: Vec<SessionRecord>,
    /// Every getsessionlist request for a known kf account, in the order of their ends.
    pub polls: Vec<PollRecord>,
    /// Every session that passed from one kf account to another, in the order in which it became known.
    pub transfers: Vec<TransferRecord>,
    /// Whether a limit was reached and something is missing, or the ledger was switched off.
    pub incomplete: bool,
    listings: usize,
}

/// One session as it really was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Of its official account.
    pub appid: Arc<str>,
    /// Full name of its kf account.
    pub kf_account: Arc<str>,
    /// Its customer.
    pub openid: Box<str>,
    /// As answers give it, in UNIX seconds.
    pub createtime: i64,
    /// UNIX milliseconds.
    pub opened_at_ms: i64,
    /// UNIX milliseconds; none while it is open.
    pub closed_at_ms: Option<i64>,
}

/// One session that passed to another kf account: the ledger has it as two, of which the first ends when the second
/// begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRecord {
    /// Of its official account.
    pub appid: Arc<str>,
    /// Its customer.
    pub openid: Box<str>,
    /// Full name of the kf account that it left.
    pub from: Arc<str>,
    /// Full name of the kf account that has it now.
    pub to: Arc<str>,
    /// UNIX milliseconds.
    pub at_ms: i64,
    /// createtime before and after.
    pub createtimes: [i64; 2],
}

/// One getsessionlist request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRecord {
    /// Of the official account.
    pub appid: Arc<str>,
    /// Full name of the kf account.
    pub kf_account: Arc<str>,
    /// When the request arrived, UNIX milliseconds.
    pub received_at_ms: i64,
    /// When the last byte was handed to the connection; none if the client went first.
    pub answered_at_ms: Option<i64>,
    /// What was sent.
    pub answer: Answered,
}

/// What a getsessionlist request was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// A complete, well-formed success that lists these sessions, by index into [`Ledger::sessions`].
    Listed(Vec<u32>),
    /// A success without sessionlist, or where it is null.
    Keyless,
    /// One of the others, but in a form that a careful client may take or refuse.
    Questionable(Box<Answered>),
    /// An errcode.
    Refused(i64),
    /// Anything else, named after the fault; nothing can be concluded from it.
    Failed(&'static str),
}

impl Answered {
    fn listings(&self) -> usize {
        match self {
            Answered::Listed(sessions) => sessions.len(),
            Answered::Questionable(answered) => answered.listings(),
            Answered::Keyless | Answered::Refused(_) | Answered::Failed(_) => 0,
        }
    }
}

/// The ledger being written.
#[derive(Debug)]
pub(super) struct LedgerBook {
    enabled: bool,
    ledger: Mutex<Ledger>,
}

impl LedgerBook {
    pub(super) fn new(enabled: bool) -> Self {
        LedgerBook { enabled, ledger: Mutex::new(Ledger { incomplete: !enabled, ..Ledger::default() }) }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn copy(&self) -> Ledger {
        lock(&self.ledger).clone()
    }

    /// The session's index; none when it is not recorded.
    pub(super) fn opened(&self, session: impl FnOnce() -> SessionRecord) -> Option<u32> {
        if !self.enabled {
            return None;
        }
        let mut ledger = lock(&self.ledger);
        if ledger.sessions.len() >= MAX_LEDGER_SESSIONS {
            ledger.note_limit("sessions");
            return None;
        }
        ledger.sessions.push(session());
        u32::try_from(ledger.sessions.len() - 1).ok()
    }

    pub(super) fn closed(&self, index: Option<u32>, at_ms: i64) {
        let Some(index) = index else { return };
        if let Some(session) = lock(&self.ledger).sessions.get_mut(index as usize) {
            session.closed_at_ms = Some(at_ms);
        }
    }

    pub(super) fn transferred(&self, transfer: TransferRecord) {
        if self.enabled {
            let mut ledger = lock(&self.ledger);
            if ledger.transfers.len() >= MAX_LEDGER_SESSIONS {
                ledger.note_limit("transfers");
                return;
            }
            ledger.transfers.push(transfer);
        }
    }

    pub(super) fn polled(&self, poll: PollRecord) {
        if !self.enabled {
            return;
        }
        let mut ledger = lock(&self.ledger);
        let listings = poll.answer.listings();
        if ledger.polls.len() >= MAX_LEDGER_POLLS || ledger.listings + listings > MAX_LEDGER_LISTINGS {
            ledger.note_limit("polls");
            return;
        }
        ledger.listings += listings;
        ledger.polls.push(poll);
    }
}

impl Ledger {
    fn note_limit(&mut self, what: &str) {
        if !self.incomplete {
            tracing::warn!("The ledger is full: no more {what} are recorded");
        }
        self.incomplete = true;
    }
}
