//! The CPU time that a process has used.

use std::time::Duration;

use nix::{time::ClockId, unistd::Pid};

/// CPU time of a process up to now, including threads that have ended.
pub(crate) fn used_by(pid: u32) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.try_into().unwrap())).unwrap();
    clock.now().unwrap().into()
}
