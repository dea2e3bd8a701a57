//! The exclusive right to poll a kf account.

use std::sync::Arc;

use super::official_account::OfficialAccount;
use crate::status::{PollSlot, WatchedAccount};

/// The exclusive right to poll a kf account, until it is dropped.
///
/// Two pointers, because one guard may wait in the queue for each kf account.
pub struct PollGuard {
    account: Arc<WatchedAccount>,
    official_account: Arc<OfficialAccount>,
}

/// Why the right to poll a kf account cannot be acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGuard {
    /// Another guard exists.
    Taken,
    /// The account [has left](WatchedAccount::leave).
    Left,
}

impl PollGuard {
    /// Acquires the right to poll `account`.
    pub fn try_acquire(
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
    ) -> Result<Self, NoGuard> {
        let mut data = account.lock();
        match data.poll_slot {
            PollSlot::Free => data.poll_slot = PollSlot::Taken,
            PollSlot::Taken => return Err(NoGuard::Taken),
            PollSlot::Leaving | PollSlot::Retired => return Err(NoGuard::Left),
        }
        // A permit that the previous guard did not use has expired.
        data.has_permit = false;
        Ok(Self { account: Arc::clone(account), official_account: Arc::clone(official_account) })
    }

    /// Acquires the right to poll `account`, once no other guard exists; `None` if the account has left.
    pub async fn acquire(
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
    ) -> Option<Self> {
        let acquired = official_account
            .check_at_releases(|| match Self::try_acquire(official_account, account) {
                Err(NoGuard::Taken) => None,
                acquired => Some(acquired),
            })
            .await;
        acquired.ok()
    }

    /// The account that may be polled.
    pub fn account(&self) -> &Arc<WatchedAccount> {
        &self.account
    }

    /// The official account that it belongs to.
    pub fn official_account(&self) -> &Arc<OfficialAccount> {
        &self.official_account
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        let mut data = self.account.lock();
        data.poll_slot = match data.poll_slot {
            PollSlot::Leaving | PollSlot::Retired => PollSlot::Retired,
            PollSlot::Taken | PollSlot::Free => PollSlot::Free,
        };
        drop(data);
        self.official_account.guard_released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_takes_two_pointers() {
        assert_eq!(size_of::<PollGuard>(), 16);
    }
}
