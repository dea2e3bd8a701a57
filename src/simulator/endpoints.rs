//! What each endpoint answers when nothing goes wrong, or refuses with an errcode.

pub(super) mod agents;
pub(super) mod component;
pub(super) mod operator;
pub(super) mod quota;
pub(super) mod sessions;
pub(super) mod token;

/// A body, or the errcode of a refusal.
pub(super) type Outcome = Result<Vec<u8>, i64>;
