//! The kf accounts of an official account that a command is about.

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{
        account_filter::{AccountFilter, AccountNames},
        agents::ListedAccount,
    },
    poll::OfficialAccount,
    status::WatchedAccount,
};

pub(super) fn names<'a>(watched: &'a WatchedAccount, nickname: Option<&'a str>) -> AccountNames<'a> {
    let account = watched.account();
    AccountNames { official_account: &account.official_account, kf_account: &account.kf_account, nickname }
}

/// The kf accounts that are known and that the filter selects.
pub(super) fn selected_accounts(of: &OfficialAccount, filter: &AccountFilter) -> Vec<Arc<WatchedAccount>> {
    let selects = |watched: &&Arc<WatchedAccount>| {
        let nickname = watched.nickname();
        filter.selects(names(watched, nickname.as_deref()))
    };
    of.accounts().iter().filter(selects).cloned().collect()
}

/// The kf accounts that the filter selects once getkflist has said which exist and what they are called.
pub(super) fn selected_of_list(
    of: &OfficialAccount,
    listed: &[ListedAccount],
    filter: &AccountFilter,
) -> Vec<Arc<WatchedAccount>> {
    let nicknames: HashMap<&str, Arc<str>> =
        listed.iter().filter_map(|listed| Some((&*listed.kf_account, listed.nickname.clone()?))).collect();
    let mut accounts = of.accounts().to_vec();
    accounts.extend(of.undiscovered(listed));
    accounts.retain(|watched| {
        let nickname = nicknames.get(&*watched.account().kf_account).cloned().or_else(|| watched.nickname());
        filter.selects(names(watched, nickname.as_deref()))
    });
    accounts
}

/// Whether only getkflist can say what the filter selects: kf accounts that a pattern finds, or the owner of a nickname.
pub(super) fn needs_list(of: &OfficialAccount, filter: &AccountFilter) -> bool {
    let finds_none = || selected_accounts(of, filter).is_empty();
    let knows_nicknames = || of.accounts().iter().any(|watched| watched.nickname().is_some());
    let discovers = || of.has_discovered_none() && (filter.selects_all_of(&of.status.name) || finds_none());
    discovers() || (filter.may_be_nickname() && finds_none() && !knows_nicknames())
}
