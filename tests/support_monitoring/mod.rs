//! What the tests of monitoring share: pages of metrics, and the real programs that read them.

mod page;
mod prometheus;

pub(crate) use self::{page::*, prometheus::*};
