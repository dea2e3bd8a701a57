//! How polls and collections end.

use crate::{store::StoreError, wechat::error::CallFailure};

/// How a poll or a collection ended.
#[derive(Debug)]
pub enum PollOutcome {
    /// The answer was good, and what it changes is stored.
    Succeeded,
    /// An earlier failure backs off: nothing was called.
    BackedOff,
    /// Another process may own the account: nothing was called.
    Untrusted,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good but could not be stored. The next one finds the same changes again.
    NotStored(StoreError),
}
