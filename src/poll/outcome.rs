//! How polls and collections end.

use crate::{store::StoreError, wechat::error::CallFailure};

/// How a poll ended.
#[derive(Debug)]
pub enum PollOutcome {
    /// The answer was good, and what it changes is stored.
    Succeeded,
    /// An earlier failure backs off: nothing was called.
    BackedOff,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good but could not be stored. The next poll finds the same changes again.
    NotStored(StoreError),
}

/// How a collection ended.
#[derive(Debug)]
pub enum CollectionOutcome {
    /// The answer was good, and what it changes is stored.
    Succeeded,
    /// An earlier failure backs off: nothing was called.
    BackedOff,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good but could not be stored. The next collection finds the same changes again.
    NotStored(StoreError),
}
