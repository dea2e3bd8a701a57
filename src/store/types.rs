//! Values that the store takes and returns. Times have whole milliseconds; finer parts are cut off when they are stored.

mod accounts;
mod delivery;
mod events;
mod ids;
mod maintenance;

pub use self::{accounts::*, delivery::*, events::*, ids::*, maintenance::*};
