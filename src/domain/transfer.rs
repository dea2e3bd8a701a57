//! Where a customer was before: what distinguishes a transfer from a new session.
//!
//! WeChat only lists open sessions. A transfer therefore shows as an end on one kf account and a start on another, in
//! either order, because polls are not simultaneous: for a moment both may list the customer, or neither. A session that
//! starts counts as transferred from the kf account where the customer still has a session, or had one until the latest
//! poll there. Of several such accounts it is the one that listed the customer last: the snapshot of an account that is
//! refused may be old.

use std::sync::Arc;

use super::{
    clock::UnixMs,
    event::Change,
    snapshot::{ObservedSessions, Session, Snapshot},
};

/// The sessions that ended in an account's latest good answer. Never more than one answer listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSessions {
    sessions: Snapshot,
    /// When the last request that listed them was sent.
    sent_at: UnixMs,
}

/// When a customer was last listed on a kf account. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LastListed {
    /// When the last request was sent whose answer listed the customer.
    pub sent_at: Option<UnixMs>,
    /// The createtime of the session, which decides between answers of the same time.
    pub createtime: i64,
}

impl EndedSessions {
    /// The sessions that end by the changes of one answer, if any do.
    pub(super) fn from_changes(changes: &[Change]) -> Option<Arc<Self>> {
        let mut sent_at = None;
        let ended = changes.iter().filter_map(|change| match change {
            Change::SessionEnded { session, ended_between: [last_listed, _], .. } => {
                sent_at = Some(UnixMs::from(*last_listed));
                Some(Session { openid: (&*session.openid).into(), createtime: session.createtime })
            }
            Change::SessionStarted { .. } | Change::StateChanged { .. } => None,
        });
        let sessions = Snapshot::from(&ObservedSessions::new(ended.collect()));
        sent_at.map(|sent_at| Arc::new(Self { sessions, sent_at }))
    }

    /// When the customer was last listed, if a session of theirs ended.
    pub(super) fn last_listed(&self, openid: &str) -> Option<LastListed> {
        let createtime = self.sessions.createtime_of(openid)?;
        Some(LastListed { sent_at: Some(self.sent_at), createtime })
    }
}
