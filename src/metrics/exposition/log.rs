//! Families about the log.

use super::{
    Page,
    family::{Family, counter},
};
use crate::stdio::{self, LineQueue};

pub(super) const FAMILIES: [Family<LineQueue>; 1] =
    [counter("kfwatch_log_dropped_lines_total", "Log lines that standard error did not accept.", |output| {
        Some(output.dropped_lines())
    })];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn log(&mut self) {
        self.families(&FAMILIES, [("", stdio::stderr())].into_iter());
    }
}
