//! What processor time a process has used.

use std::time::Duration;

use nix::{time::ClockId, unistd::Pid};

/// The processor time of a process up to now, of threads that have ended too.
pub(crate) fn used_by(pid: u32) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.try_into().unwrap())).unwrap();
    clock.now().unwrap().into()
}
