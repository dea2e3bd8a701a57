//! Values that the store takes and returns. Times have whole milliseconds; finer parts are cut off when they are stored.

#![expect(missing_docs, reason = "a field whose name says what it is needs no comment")]

mod accounts;
mod delivery;
mod events;
mod ids;
mod maintenance;
mod registrations;

pub use self::{accounts::*, delivery::*, events::*, ids::*, maintenance::*, registrations::*};
