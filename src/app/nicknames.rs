//! Gives chat messages the nicknames of the account table.

use std::sync::{Arc, OnceLock};

use crate::{sink::chat::Nicknames, status::OfficialAccountStatus};

/// The nicknames that getkflist has listed. Knows none until it has the account table: sinks are built first.
#[derive(Default)]
pub(super) struct TableNicknames {
    official_accounts: OnceLock<Vec<Arc<OfficialAccountStatus>>>,
}

impl TableNicknames {
    /// Sets the official accounts, once.
    pub(super) fn set(&self, official_accounts: Vec<Arc<OfficialAccountStatus>>) {
        self.official_accounts.get_or_init(|| official_accounts);
    }
}

impl Nicknames for TableNicknames {
    fn nickname(&self, official_account: &str, kf_account: &str) -> Option<Arc<str>> {
        let mut all = self.official_accounts.get()?.iter();
        let kf_accounts = all.find(|of| &*of.name == official_account)?.kf_accounts();
        let found = kf_accounts.iter().find(|known| &*known.account().kf_account == kf_account)?;
        found.view(0).agent.nickname
    }
}
