//! The ledger, for tests: which sessions really existed, and what each getsessionlist response said about them.
//!
//! It records what was sent, not what the client concluded. Times whose names end in `_ms` are UNIX milliseconds. Recording can be disabled, and it stops at named limits;
//! [`Ledger::incomplete`] says whether something is missing.

use std::sync::{Arc, Mutex};

use super::fault::Fault;
use super::lock;

/// Limit of recorded sessions, and of recorded transfers.
const MAX_LEDGER_SESSIONS: usize = 1_000_000;
/// Limit of recorded polls.
const MAX_LEDGER_POLLS: usize = 1_000_000;
/// Limit of session indices in all recorded polls together: 64 MB.
const MAX_LEDGER_LISTINGS: usize = 16_000_000;

/// What has happened in a simulation so far.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// All sessions. Polls refer to them by index.
    pub sessions: Vec<SessionRecord>,
    /// All getsessionlist requests for known kf accounts, in the order in which they ended.
    pub polls: Vec<PollRecord>,
    /// All transfers of sessions from one kf account to another.
    pub transfers: Vec<TransferRecord>,
    /// Whether a limit was reached, or recording is disabled.
    pub incomplete: bool,
    listings: usize,
}

/// One session as it really happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    pub appid: Arc<str>,
    pub kf_account: Arc<str>,
    pub openid: Box<str>,
    /// UNIX seconds, as in responses.
    pub createtime: i64,
    pub opened_at_ms: i64,
    /// None while the session is open.
    pub closed_at_ms: Option<i64>,
}

/// One transfer to another kf account. The ledger lists two sessions for it; the second starts when the first ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRecord {
    pub appid: Arc<str>,
    pub openid: Box<str>,
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub at_ms: i64,
    /// createtime before and after the transfer.
    pub createtimes: [i64; 2],
}

/// One getsessionlist request and its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRecord {
    pub appid: Arc<str>,
    pub kf_account: Arc<str>,
    /// When the request arrived.
    pub received_at_ms: i64,
    /// When the connection accepted the last byte. None if the client disconnected first.
    pub answered_at_ms: Option<i64>,
    pub response: RecordedResponse,
}

/// The response to a getsessionlist request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedResponse {
    /// A well-formed success that lists these sessions, by index into [`Ledger::sessions`].
    Listed(Vec<u32>),
    /// A success in which sessionlist is absent or null.
    Keyless,
    /// One of the other responses, in a form that a client may accept or reject.
    Questionable(Box<RecordedResponse>),
    Refused(i64),
    /// This fault, from which a client can conclude nothing.
    Failed(Fault),
    /// The client disconnected first.
    NotSent,
}

impl RecordedResponse {
    fn listings(&self) -> usize {
        match self {
            RecordedResponse::Listed(sessions) => sessions.len(),
            RecordedResponse::Questionable(recorded) => recorded.listings(),
            _ => 0,
        }
    }
}

/// Records sessions, transfers and polls.
#[derive(Debug)]
pub(super) struct LedgerWriter {
    enabled: bool,
    ledger: Mutex<Ledger>,
}

impl LedgerWriter {
    pub(super) fn new(enabled: bool) -> Self {
        LedgerWriter { enabled, ledger: Mutex::new(Ledger { incomplete: !enabled, ..Ledger::default() }) }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn copy(&self) -> Ledger {
        lock(&self.ledger).clone()
    }

    /// Returns the index of the session, or None if it is not recorded.
    pub(super) fn record_opened(&self, session: impl FnOnce() -> SessionRecord) -> Option<u32> {
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

    pub(super) fn record_closed(&self, index: Option<u32>, at_ms: i64) {
        let Some(index) = index else { return };
        if let Some(session) = lock(&self.ledger).sessions.get_mut(index as usize) {
            session.closed_at_ms = Some(at_ms);
        }
    }

    pub(super) fn record_transfer(&self, transfer: TransferRecord) {
        if self.enabled {
            let mut ledger = lock(&self.ledger);
            if ledger.transfers.len() >= MAX_LEDGER_SESSIONS {
                ledger.note_limit("transfers");
                return;
            }
            ledger.transfers.push(transfer);
        }
    }

    pub(super) fn record_poll(&self, poll: PollRecord) {
        if !self.enabled {
            return;
        }
        let mut ledger = lock(&self.ledger);
        let listings = poll.response.listings();
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
            tracing::warn!("Ledger is full; no more {what} are recorded");
        }
        self.incomplete = true;
    }
}
