//! Numbers that identify rows of the store.

/// The stored row of an account, by which every later call names it. Never given to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub i64);

/// The position of an event in the log. Positions rise in the order of commits and are never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition(pub i64);

impl LogPosition {
    /// Before the first event.
    pub const BEGINNING: Self = Self(0);
}
