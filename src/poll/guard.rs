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

impl PollGuard {
    /// Acquires the right to poll `account`; `None` while another guard exists.
    pub fn try_acquire(
        official_account: &Arc<OfficialAccount>,
        account: &Arc<WatchedAccount>,
    ) -> Option<Self> {
        let mut data = account.lock();
        if data.poll_slot != PollSlot::Free {
            return None;
        }
        data.poll_slot = PollSlot::Taken;
        // A permit that the previous guard did not use has expired.
        data.has_permit = false;
        Some(Self { account: Arc::clone(account), official_account: Arc::clone(official_account) })
    }

    /// Waits until no other guard exists. Never returns for an account that is not watched any more.
    pub async fn acquire(official_account: &Arc<OfficialAccount>, account: &Arc<WatchedAccount>) -> Self {
        loop {
            // Register before trying, so that a release in between is not missed.
            let released = official_account.guard_released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if let Some(guard) = Self::try_acquire(official_account, account) {
                return guard;
            }
            released.await;
        }
    }

    /// The account that may be polled.
    pub fn account(&self) -> &Arc<WatchedAccount> {
        &self.account
    }

    /// The official account that it belongs to.
    pub fn official_account(&self) -> &Arc<OfficialAccount> {
        &self.official_account
    }

    /// Makes sure that the account is never polled again.
    pub(super) fn retire(self) {
        self.account.lock().poll_slot = PollSlot::Retired;
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        let mut data = self.account.lock();
        if data.poll_slot == PollSlot::Taken {
            data.poll_slot = PollSlot::Free;
        }
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
