//! The kf accounts of an official account that a command is about.

use std::sync::Arc;

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

/// The kf accounts that getkflist lists, that patterns match, and that the filter selects, beyond the known ones.
pub(super) fn selected_undiscovered(
    of: &OfficialAccount,
    listed: &[ListedAccount],
    filter: &AccountFilter,
) -> Vec<Arc<WatchedAccount>> {
    let nickname = |name: &str| listed.iter().find(|listed| *listed.kf_account == *name)?.nickname.as_deref();
    let mut found = of.undiscovered(listed);
    found.retain(|watched| filter.selects(names(watched, nickname(&watched.account().kf_account))));
    found
}
