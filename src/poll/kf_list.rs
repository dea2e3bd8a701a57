//! What an answer of getkflist changes: which kf accounts are watched, what readers are shown of each, and whether one
//! counts as unbound before getsessionlist has said anything of it.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;

use super::{OfficialAccount, Poller, WatchedAccount, discovery::CLAIM_PATIENCE};
use crate::{
    domain::agents::{Binding, KfList, ListedAccount},
    store::StoreError,
    wechat::Endpoint,
};

impl Poller {
    /// Takes over what getkflist said of an official account. What cannot be taken over now, because a poll takes long
    /// or the store fails, is taken over with the next list.
    pub async fn take_kf_list(
        &self,
        official_account: &Arc<OfficialAccount>,
        list: &KfList,
    ) -> Result<(), StoreError> {
        self.discover(official_account, list).await?;
        let by_name: HashMap<&str, &ListedAccount> =
            list.accounts.iter().map(|listed| (&*listed.kf_account, listed)).collect();
        let accounts = official_account.accounts();
        if list.complete && !by_name.is_empty() {
            let unlisted =
                accounts.iter().filter(|account| !by_name.contains_key(&*account.account().kf_account));
            unlisted.for_each(|account| forget(account));
        }
        let known = accounts
            .iter()
            .filter_map(|account| Some((account, *by_name.get(&*account.account().kf_account)?)));
        let concluding = known.filter_map(|(account, listed)| {
            show(account, listed);
            account
                .concludes_from(listed.binding)
                .then(|| self.conclude(official_account, account, listed.binding))
        });
        join_all(concluding).await.into_iter().collect()
    }

    async fn conclude(
        &self,
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
        binding: Binding,
    ) -> Result<(), StoreError> {
        let Ok(guard) = tokio::time::timeout(CLAIM_PATIENCE, official_account.guard_when_free(account)).await
        else {
            return Ok(());
        };
        let account = guard.account();
        let step = account.memory().watch.listed(binding, self.clock.now(), Endpoint::KfList.as_str());
        self.commit(account, step).await
    }
}

impl WatchedAccount {
    fn concludes_from(&self, binding: Binding) -> bool {
        let condition = self.memory().watch.condition;
        condition.listed(binding).0 != condition
    }
}

fn show(account: &WatchedAccount, listed: &ListedAccount) {
    let agent = &mut account.status.row().agent;
    if agent.nickname != listed.nickname {
        agent.nickname.clone_from(&listed.nickname);
    }
    agent.binding = Some(listed.binding);
}

/// What a list before said of an account may not be true any more.
fn forget(account: &WatchedAccount) {
    let agent = &mut account.status.row().agent;
    agent.nickname = None;
    agent.binding = None;
}
