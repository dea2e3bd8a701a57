//! Finds the kf account that a newly started session was transferred from ([`crate::domain::transfer`]).

use std::sync::Arc;

use super::official_account::OfficialAccount;
use crate::{
    domain::{event::Change, tracker::TrackerUpdate, transfer::LastListed},
    status::WatchedAccount,
};

/// Sets `transferred_from` of each session that `update` starts, except for those of a baseline.
///
/// The trackers of the other kf accounts are as the store has them. They are locked one at a time.
pub(super) fn set_origins(
    official_account: &OfficialAccount,
    account: &WatchedAccount,
    update: &mut TrackerUpdate,
) {
    let mut starts: Vec<SessionStart<'_>> = update
        .changes
        .iter_mut()
        .filter_map(|change| match change {
            Change::SessionStarted { session, baseline: false, transferred_from, .. } => {
                Some(SessionStart { openid: &session.openid, origin: transferred_from, last_listed: None })
            }
            _ => None,
        })
        .collect();
    if starts.is_empty() {
        return;
    }
    for other in official_account.accounts().iter().filter(|other| other.id() != account.id()) {
        let other_data = other.lock();
        for SessionStart { openid, origin, last_listed } in &mut starts {
            let listed = other_data.tracker.last_listed(openid);
            if listed > *last_listed {
                **origin = Some(Arc::clone(&other.account().kf_account));
                *last_listed = listed;
            }
        }
    }
}

struct SessionStart<'a> {
    openid: &'a str,
    origin: &'a mut Option<Arc<str>>,
    /// When the customer was last listed at the origin found so far.
    last_listed: Option<LastListed>,
}
