//! The median of several rounds.

/// Returns the median, because other load on the machine makes some figures worse and none better.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
