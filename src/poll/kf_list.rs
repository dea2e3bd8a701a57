//! Applies an answer of getkflist: which kf accounts are watched, what readers see of each, and whether one counts as
//! unbound before getsessionlist has said anything about it.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;

use super::{
    discovery::GUARD_TIMEOUT, guard::PollGuard, official_account::OfficialAccount, poll_log::News,
    poller::Poller,
};
use crate::{
    domain::{
        account::AccountState,
        agents::{Binding, KfList, ListedAccount},
        error_class::Scope,
        failure_reason::FailureReason,
    },
    status::WatchedAccount,
    store::StoreError,
    wechat::Endpoint,
};

impl Poller {
    /// Applies a list. What cannot be applied now, because a poll takes long or the store fails, is applied with the next
    /// list.
    pub async fn apply_kf_list(
        &self,
        official_account: &Arc<OfficialAccount>,
        list: &KfList,
    ) -> Result<(), StoreError> {
        self.discover(official_account, list).await?;
        let listed: HashMap<&str, &ListedAccount> =
            list.accounts.iter().map(|listed| (&*listed.kf_account, listed)).collect();
        let accounts = official_account.accounts();
        let mut rebound = Vec::new();
        for account in accounts.iter() {
            match listed.get(&*account.account().kf_account) {
                Some(listed) => {
                    show(account, listed);
                    if changes_condition(account, listed.binding) {
                        rebound.push(self.apply_binding(official_account, account, listed.binding));
                    }
                }
                None if list.complete && !listed.is_empty() => hide(account),
                None => {}
            }
        }
        join_all(rebound).await.into_iter().collect()
    }

    async fn apply_binding(
        &self,
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
        binding: Binding,
    ) -> Result<(), StoreError> {
        let guard = tokio::time::timeout(GUARD_TIMEOUT, PollGuard::acquire(official_account, account));
        let Ok(Some(guard)) = guard.await else { return Ok(()) };
        let (now, source) = (self.clock.now(), Endpoint::KfList.as_str());
        let update = account.lock().tracker.after_binding(binding, now, source);
        let becomes_unbound = update.condition.state == AccountState::Unbound
            && account.lock().tracker.condition.state != AccountState::Unbound;
        self.commit(guard.account(), update).await?;
        // The next poll is refused for the same reason, which is no news then.
        if becomes_unbound && account.lock().failure_streak.failed(FailureReason::UNBOUND, now) {
            self.log.add(Scope::KfAccount, account.account(), News::Unbound(binding));
        }
        Ok(())
    }
}

fn changes_condition(account: &WatchedAccount, binding: Binding) -> bool {
    let condition = account.lock().tracker.condition;
    condition.after_binding(binding).0 != condition
}

fn show(account: &WatchedAccount, listed: &ListedAccount) {
    let agent = &mut account.lock().agent;
    if agent.nickname != listed.nickname {
        agent.nickname.clone_from(&listed.nickname);
    }
    agent.binding = Some(listed.binding);
}

/// Removes what an earlier list said about an account that is no longer listed.
fn hide(account: &WatchedAccount) {
    let agent = &mut account.lock().agent;
    agent.nickname = None;
    agent.binding = None;
}
