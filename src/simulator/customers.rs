//! The customers of one kf account: when they arrive, how long they wait, when they leave. Pure and seeded.
//!
//! The sequence depends on the scenario alone, so that a seed gives the same history whatever the program under test
//! does. Times are milliseconds since the start of the simulation.

use std::sync::Arc;

use super::clock::duration_ms;
use super::random::derived_seed;
use super::scenario::{CustomerFlow, RandomDuration};

/// Random characters of an openid, after its `o`.
const OPENID_RANDOM_CHARS: usize = 27;
/// Number of former customers from whom a returning one is chosen.
const REMEMBERED_CUSTOMERS: usize = 8;
/// Minimum time before a customer returns. createtime has whole seconds, and two sessions of a customer must differ.
const MIN_ABSENCE_MS: i64 = 1_000;
/// Latest transfer after acceptance, for customers who never leave.
const LATEST_TRANSFER_MS: i64 = 60 * 60 * 1_000;
const OPENID_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

/// One visit of a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CustomerVisit {
    pub(super) openid: Box<str>,
    pub(super) arrives_ms: i64,
    pub(super) accepted_ms: i64,
    pub(super) leaves_ms: i64,
    pub(super) transfer: Option<PlannedTransfer>,
}

/// The planned transfer of a session to another kf account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedTransfer {
    pub(super) at_ms: i64,
    /// Selects the other kf account, modulo their number.
    pub(super) pick: usize,
}

/// The sequence of visits to one kf account, in order of arrival.
#[derive(Debug)]
pub(super) struct Customers {
    flow: Arc<CustomerFlow>,
    rng: fastrand::Rng,
    /// Probability that a session is transferred.
    transfer_probability: f64,
    /// Separate from `rng`, so that transfers do not change the visits.
    transfer_rng: fastrand::Rng,
    initial_left: u32,
    last_arrival_ms: i64,
    recent: Vec<(Box<str>, i64)>,
}

impl Customers {
    pub(super) fn new(flow: Arc<CustomerFlow>, transfer_probability: f64, seed: u64) -> Self {
        Customers {
            initial_left: flow.initial,
            flow,
            rng: fastrand::Rng::with_seed(seed),
            transfer_probability,
            transfer_rng: fastrand::Rng::with_seed(derived_seed(seed, &["transfers"])),
            last_arrival_ms: 0,
            recent: Vec::new(),
        }
    }

    /// Returns the next visit. None if no more customers arrive.
    pub(super) fn next_visit(&mut self) -> Option<CustomerVisit> {
        if self.initial_left > 0 {
            self.initial_left -= 1;
            return Some(self.initial_visit());
        }
        let flow = Arc::clone(&self.flow);
        let gap = flow.gap.as_ref()?;
        self.last_arrival_ms += sample_ms(&mut self.rng, gap);
        let arrives_ms = self.last_arrival_ms;
        let accepted_ms = arrives_ms + sample_ms(&mut self.rng, &flow.wait);
        let leaves_ms = self.draw_leaves_ms(accepted_ms);
        let openid = self.draw_customer(arrives_ms);
        if flow.returning > 0.0 && leaves_ms < i64::MAX {
            self.remember(openid.clone(), leaves_ms);
        }
        let transfer = self.plan_transfer(accepted_ms, leaves_ms);
        Some(CustomerVisit { openid, arrives_ms, accepted_ms, leaves_ms, transfer })
    }

    fn initial_visit(&mut self) -> CustomerVisit {
        let age_ms = self.flow.stay.as_ref().map_or(0, |stay| {
            let stay_ms = sample_ms(&mut self.rng, stay);
            self.rng.i64(0..=stay_ms)
        });
        let leaves_ms = self.draw_leaves_ms(0);
        let transfer = self.plan_transfer(0, leaves_ms);
        CustomerVisit {
            openid: self.new_openid(),
            arrives_ms: -age_ms,
            accepted_ms: -age_ms,
            leaves_ms,
            transfer,
        }
    }

    fn plan_transfer(&mut self, accepted_ms: i64, leaves_ms: i64) -> Option<PlannedTransfer> {
        if self.transfer_probability <= 0.0 || self.transfer_rng.f64() >= self.transfer_probability {
            return None;
        }
        let stay_ms = leaves_ms.saturating_sub(accepted_ms).min(LATEST_TRANSFER_MS);
        let at_ms = accepted_ms + self.transfer_rng.i64(0..=stay_ms);
        let pick = self.transfer_rng.usize(..);
        (at_ms < leaves_ms).then_some(PlannedTransfer { at_ms, pick })
    }

    fn draw_leaves_ms(&mut self, accepted_ms: i64) -> i64 {
        let stay = self.flow.stay.as_ref();
        stay.map_or(i64::MAX, |stay| accepted_ms + sample_ms(&mut self.rng, stay))
    }

    fn draw_customer(&mut self, arrives_ms: i64) -> Box<str> {
        if self.flow.returning > 0.0 && self.rng.f64() < self.flow.returning && !self.recent.is_empty() {
            let chosen = self.rng.usize(..self.recent.len());
            if self.recent[chosen].1 + MIN_ABSENCE_MS <= arrives_ms {
                return self.recent.swap_remove(chosen).0;
            }
        }
        self.new_openid()
    }

    fn remember(&mut self, openid: Box<str>, leaves_ms: i64) {
        if self.recent.len() == REMEMBERED_CUSTOMERS {
            self.recent.remove(0);
        }
        self.recent.push((openid, leaves_ms));
    }

    fn new_openid(&mut self) -> Box<str> {
        let mut openid = String::with_capacity(1 + OPENID_RANDOM_CHARS);
        openid.push('o');
        openid.extend((0..OPENID_RANDOM_CHARS).map(|_| char::from(OPENID_ALPHABET[self.rng.usize(..64)])));
        openid.into()
    }
}

/// Draws an exponentially distributed time between `min` and `max`.
fn sample_ms(rng: &mut fastrand::Rng, duration: &RandomDuration) -> i64 {
    let mean_beyond_min = duration.mean.saturating_sub(duration.min);
    let beyond_min = -(1.0 - rng.f64()).ln() * mean_beyond_min.as_secs_f64() * 1_000.0;
    (duration_ms(duration.min) + beyond_min as i64).min(duration_ms(duration.max))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spread(mean: u64, min: u64, max: u64) -> RandomDuration {
        RandomDuration {
            mean: Duration::from_secs(mean),
            min: Duration::from_secs(min),
            max: Duration::from_secs(max),
        }
    }

    fn flow() -> CustomerFlow {
        CustomerFlow {
            initial: 3,
            gap: Some(spread(20, 1, 60)),
            wait: spread(3, 0, 10),
            stay: Some(spread(30, 10, 90)),
            returning: 0.5,
        }
    }

    fn visits(seed: u64) -> Vec<CustomerVisit> {
        let mut customers = Customers::new(Arc::new(flow()), 0.0, seed);
        (0..500).filter_map(|_| customers.next_visit()).collect()
    }

    #[test]
    fn visits_keep_bounds_of_flow() {
        let visits = visits(3);
        assert_eq!(visits.iter().filter(|visit| visit.accepted_ms <= 0).count(), 3, "present from the start");
        for pair in visits[2..].windows(2) {
            let gap_ms = pair[1].arrives_ms - pair[0].arrives_ms.max(0);
            assert!((1_000..=60_000).contains(&gap_ms), "{gap_ms}");
        }
        for visit in &visits[3..] {
            assert!((0..=10_000).contains(&(visit.accepted_ms - visit.arrives_ms)));
            assert!((10_000..=90_000).contains(&(visit.leaves_ms - visit.accepted_ms)));
        }
    }

    #[test]
    fn returning_customer_has_new_createtime() {
        let visits = visits(4);
        let mut returns = 0;
        for (index, visit) in visits.iter().enumerate() {
            for former in visits[..index].iter().filter(|former| former.openid == visit.openid) {
                returns += 1;
                assert!(former.leaves_ms + MIN_ABSENCE_MS <= visit.arrives_ms);
            }
        }
        assert!(returns > 10, "{returns}");
    }

    #[test]
    fn transfers_happen_during_visit_and_change_nothing_else() {
        let mut customers = Customers::new(Arc::new(flow()), 0.5, 5);
        let mut transfers = 0;
        for visit in visits(5) {
            let transferred = customers.next_visit().unwrap();
            if let Some(transfer) = transferred.transfer {
                transfers += 1;
                assert!((visit.accepted_ms.max(0)..visit.leaves_ms).contains(&transfer.at_ms));
            }
            assert_eq!(CustomerVisit { transfer: None, ..transferred }, visit);
        }
        assert!((200..300).contains(&transfers), "{transfers}");
    }

    #[test]
    fn without_gap_or_stay_no_customer_arrives_or_leaves() {
        let flow = CustomerFlow { gap: None, stay: None, ..flow() };
        let mut customers = Customers::new(Arc::new(flow), 0.0, 1);
        for _ in 0..3 {
            assert_eq!(customers.next_visit().unwrap().leaves_ms, i64::MAX);
        }
        assert_eq!(customers.next_visit(), None);
    }
}
