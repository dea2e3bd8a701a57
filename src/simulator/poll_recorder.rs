//! Follows one getsessionlist request until its response is sent or the client disconnects: counts it as in flight, and
//! writes it to the ledger at the end.

use std::sync::Arc;

use super::Shared;
use super::kf_account::KfAccount;
use super::ledger::{PollRecord, RecordedResponse};
use super::request::ResolvedRequest;

/// Records the poll when it is dropped. Unless [`PollRecorder::mark_sent`] was called, the client did not get the response.
#[derive(Debug)]
pub(super) struct PollRecorder {
    shared: Arc<Shared>,
    account: Arc<KfAccount>,
    received_at_ms: i64,
    response: RecordedResponse,
    sent: bool,
}

impl PollRecorder {
    /// None if the request names no known kf account.
    pub(super) fn start(shared: &Arc<Shared>, request: &ResolvedRequest<'_>, now_ms: i64) -> Option<Self> {
        let account = Arc::clone(request.kf_account.as_ref()?);
        account.in_flight.increment();
        if let Some(official) = request.official {
            official.in_flight.increment();
        }
        Some(PollRecorder {
            shared: Arc::clone(shared),
            account,
            received_at_ms: now_ms,
            response: RecordedResponse::NotSent,
            sent: false,
        })
    }

    pub(super) fn with_response(mut self, response: RecordedResponse) -> Self {
        self.response = response;
        self
    }

    /// Call this once the connection has accepted every byte.
    pub(super) fn mark_sent(&mut self) {
        self.sent = true;
    }
}

impl Drop for PollRecorder {
    fn drop(&mut self) {
        self.account.in_flight.decrement();
        if let Some(official) = self.shared.world.by_appid(&self.account.appid) {
            official.in_flight.decrement();
        }
        if !self.shared.ledger.is_enabled() {
            return;
        }
        let response = match std::mem::replace(&mut self.response, RecordedResponse::NotSent) {
            response @ RecordedResponse::Failed(_) => response,
            response if self.sent => response,
            _ => RecordedResponse::NotSent,
        };
        self.shared.ledger.record_poll(PollRecord {
            appid: Arc::clone(&self.account.appid),
            kf_account: Arc::clone(&self.account.name),
            received_at_ms: self.received_at_ms,
            answered_at_ms: self.sent.then(|| self.shared.clock.now_ms()),
            response,
        });
    }
}
