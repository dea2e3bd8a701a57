//! Spreads work evenly over a period: each thing gets a fixed offset, derived from a hash of its names.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// An offset within a period, as a fraction of `u32::MAX`. Four bytes, because there is one per kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpreadOffset(u32);

impl SpreadOffset {
    /// The offset of the thing with these names: the same in every period.
    pub fn new(names: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        names.hash(&mut hasher);
        Self((hasher.finish() >> 32) as u32)
    }

    /// The offset in a period of this length.
    pub fn within(self, period: Duration) -> Duration {
        period.mul_f64(f64::from(self.0) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_spread_over_the_period() {
        let mut in_each_tenth = [0; 10];
        for n in 0..10_000 {
            let offset = SpreadOffset::new((format!("shop{n}"), "online")).within(Duration::from_secs(10));
            in_each_tenth[(offset.as_secs() as usize).min(9)] += 1;
        }
        assert!(in_each_tenth.iter().all(|count| (800..1200).contains(count)), "{in_each_tenth:?}");
    }
}
