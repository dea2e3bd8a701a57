//! Parses the answers of WeChat: tolerant where that is safe, strict where it matters.
//!
//! An errcode other than 0 always makes an answer an error, whatever else the answer contains; it may be a number or a
//! string, or absent for success. A session list is accepted as a whole or not at all: one unusable entry makes the
//! answer malformed, because to skip an entry would end its session. Strings may contain raw control characters and bytes
//! that are not UTF-8, and the body may begin with a byte order mark. The Content-Type is ignored.
//!
//! No input makes these functions panic, and no error contains a part of the answer except `errmsg`.

mod body;
pub(super) mod collectors;
mod error;
mod object;
mod scalar;
mod sessions;
pub(super) mod tokens;

pub(super) use self::error::{check_errcode, refusal};
pub use self::{
    body::text,
    error::WireError,
    sessions::{SessionList, session_list},
};
