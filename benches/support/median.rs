//! The figure that is taken from several rounds.

/// The middle one: other programs on the machine make some figures worse, and none better.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
