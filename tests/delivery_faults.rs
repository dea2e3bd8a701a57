//! Whatever becomes of receivers, files, disks and processes, every sink gets every event of the log, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "support/disk.rs"]
mod disk;
#[expect(dead_code, reason = "not every test needs every helper")]
mod support_delivery;
#[expect(dead_code, reason = "not every test needs every helper")]
mod support_ops;

#[path = "delivery_faults"]
mod delivery_faults {
    mod certificates;
    mod conservation;
    mod disks;
    mod reopening;
}
