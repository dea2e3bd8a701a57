//! x
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "not every test needs every helper")]
mod support_monitoring;
#[expect(dead_code, reason = "not every test needs every helper")]
mod support_ops;
