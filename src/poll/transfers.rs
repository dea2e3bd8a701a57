//! Transfers: from which other kf account a session that starts has come, as far as can be told ([`crate::domain::transfer`]).

use std::sync::Arc;

use super::{OfficialAccount, WatchedAccount};
use crate::domain::{event::Change, tracker::TrackerUpdate, transfer::LastSeen};

/// Notes at each start of a step, baselines excepted, from where its customer has come.
///
/// The memory of the official account's other kf accounts stands where the store stands. They are looked at one after
/// the other, so that no two are locked at once.
pub(super) fn note_origins(
    official_account: &OfficialAccount,
    account: &WatchedAccount,
    step: &mut TrackerUpdate,
) {
    let mut starts: Vec<Start<'_>> = step
        .changes
        .iter_mut()
        .filter_map(|change| match change {
            Change::SessionStarted { session, baseline: false, transferred_from, .. } => {
                Some(Start { openid: &session.openid, from: transferred_from, latest: None })
            }
            _ => None,
        })
        .collect();
    if starts.is_empty() {
        return;
    }
    for other in official_account.accounts().iter().filter(|other| other.row() != account.row()) {
        let memory = other.memory();
        for Start { openid, from, latest } in &mut starts {
            let seen = memory.watch.last_seen(openid);
            if seen > *latest {
                **from = Some(Arc::clone(&other.account().kf_account));
                *latest = seen;
            }
        }
    }
}

/// A start whose origin is looked for.
struct Start<'a> {
    openid: &'a str,
    from: &'a mut Option<Arc<str>>,
    /// When the customer was seen at the origin found so far.
    latest: Option<LastSeen>,
}
