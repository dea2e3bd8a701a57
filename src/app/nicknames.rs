//! Gives chat messages the nicknames of the account table.

use std::sync::Arc;

use crate::{sink::chat::Nicknames, status::AccountTable};

/// The nicknames that getkflist has listed.
#[derive(Default)]
pub(super) struct TableNicknames(Arc<AccountTable>);

impl TableNicknames {
    pub(super) fn new(table: Arc<AccountTable>) -> Self {
        Self(table)
    }
}

impl Nicknames for TableNicknames {
    fn nickname(&self, official_account: &str, kf_account: &str) -> Option<Arc<str>> {
        let official_accounts = self.0.official_accounts();
        let official_account = official_accounts.iter().find(|status| &*status.name == official_account)?;
        let kf_accounts = official_account.kf_accounts();
        kf_accounts.iter().find(|known| &*known.account().kf_account == kf_account)?.nickname()
    }
}
