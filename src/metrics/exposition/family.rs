//! A metric family with one value per item.

/// A family whose value is computed from a `T`: an official account's counters, the store's condition, a sink.
pub(super) struct Family<T> {
    pub(super) name: &'static str,
    /// "gauge" or "counter".
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    /// Returns `None` while the value is unknown: the series is absent then.
    pub(super) value: fn(&T) -> Option<u64>,
}

pub(super) const fn gauge<T>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<u64>,
) -> Family<T> {
    Family { name, kind: "gauge", help, value }
}

pub(super) const fn counter<T>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<u64>,
) -> Family<T> {
    Family { name, kind: "counter", help, value }
}
