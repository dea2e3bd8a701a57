//! The correct response of each endpoint, or the errcode with which it refuses.

pub(super) mod agents;
pub(super) mod component;
pub(super) mod operator;
pub(super) mod quota;
pub(super) mod sessions;
pub(super) mod token;

/// The body of a success, or the errcode of a refusal.
pub(super) type EndpointResult = Result<Vec<u8>, i64>;
