//! What an answer of getkflist changes: what readers are shown of each kf account.

use std::sync::Arc;

use super::{OfficialAccount, Poller};
use crate::{domain::agents::ListedAccount, store::StoreError};

impl Poller {
    /// Takes over what getkflist said of an official account.
    pub async fn take_kf_list(
        &self,
        official_account: &Arc<OfficialAccount>,
        listed: &[ListedAccount],
    ) -> Result<(), StoreError> {
        for account in official_account.accounts().iter() {
            let name = &account.account().kf_account;
            if let Some(listed) = listed.iter().find(|listed| listed.kf_account == *name) {
                let mut agent = account.status.agent();
                agent.set_nickname(listed.nickname.as_ref());
                agent.binding = Some(listed.binding);
            }
        }
        Ok(())
    }
}
