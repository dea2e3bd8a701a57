//! What the tests of monitoring share: pages of metrics, the expressions that are asked of them, and the real programs
//! that read them.

pub(crate) mod alertmanager;
mod page;
mod prometheus;
pub(crate) mod promql;

pub(crate) use self::{page::*, prometheus::*};
