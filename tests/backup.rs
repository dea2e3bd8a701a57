//! Backups: what a copy holds, what a restore brings back, and that neither ever harms the store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "support/disk.rs"]
mod disk;
#[expect(dead_code, reason = "not every test needs every helper")]
mod support_ops;

#[path = "backup"]
mod backup {
    mod consistency;
    mod killed;
    mod refusals;
    mod sequences;
    mod support;
}
