//! The customers of one kf account: when they arrive, how long they wait, when they leave. Pure and seeded.
//!
//! The sequence depends on the scenario alone, never on when or how often it is asked for, so that the same seed gives
//! the same history whatever the program under test does. Times are milliseconds since the start of the simulation.

use std::sync::Arc;

use super::clock::duration_ms;
use super::scenario::{CustomerFlow, Spread};

/// Random characters of an openid, behind its `o`.
const OPENID_RANDOM_CHARS: usize = 27;
/// Former customers among whom a returning one is chosen.
const REMEMBERED_CUSTOMERS: usize = 8;
/// A customer does not return sooner: createtime is in whole seconds, and two sessions of one customer must differ.
const RETURNS_AFTER_MS: i64 = 1_000;
/// Customers who stay for ever are not handed over later after they were accepted.
const LATEST_TRANSFER_MS: i64 = 60 * 60 * 1_000;
/// Characters of an openid.
const OPENID_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

/// One customer's way through the customer service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) openid: Box<str>,
    pub(super) arrives_ms: i64,
    pub(super) accepted_ms: i64,
    pub(super) leaves_ms: i64,
    pub(super) handover: Option<Handover>,
}

/// The moment at which a session passes to another kf account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handover {
    pub(super) at_ms: i64,
    /// Chooses among the colleagues, however many there are.
    pub(super) pick: usize,
}

/// The endless sequence of visits, in order of arrival.
#[derive(Debug)]
pub(super) struct Customers {
    flow: Arc<CustomerFlow>,
    rng: fastrand::Rng,
    /// Probability that a session is handed over.
    transfers: f64,
    /// Apart from the others, so that the same customers come whether they are handed over or not.
    transfer_rng: fastrand::Rng,
    initial_left: u32,
    last_arrival_ms: i64,
    recent: Vec<(Box<str>, i64)>,
}

impl Customers {
    /// The seed is derived from the scenario's and the kf account's name, so that each account has its own stream.
    pub(super) fn new(flow: Arc<CustomerFlow>, transfers: f64, seed: u64) -> Self {
        Customers {
            initial_left: flow.initial,
            flow,
            rng: fastrand::Rng::with_seed(seed),
            transfers,
            transfer_rng: fastrand::Rng::with_seed(derived_seed(seed, &["transfers"])),
            last_arrival_ms: 0,
            recent: Vec::new(),
        }
    }

    /// The next visit; none when nobody arrives any more.
    pub(super) fn next_visit(&mut self) -> Option<Visit> {
        if self.initial_left > 0 {
            self.initial_left -= 1;
            return Some(self.visit_begun_before_the_start());
        }
        let flow = Arc::clone(&self.flow);
        let gap = flow.gap.as_ref()?;
        self.last_arrival_ms += sample_ms(&mut self.rng, gap);
        let arrives_ms = self.last_arrival_ms;
        let accepted_ms = arrives_ms + sample_ms(&mut self.rng, &flow.wait);
        let leaves_ms = self.leaves_ms(accepted_ms);
        let openid = self.customer(arrives_ms);
        if flow.returning > 0.0 && leaves_ms < i64::MAX {
            self.remember(openid.clone(), leaves_ms);
        }
        let handover = self.handover(accepted_ms, leaves_ms);
        Some(Visit { openid, arrives_ms, accepted_ms, leaves_ms, handover })
    }

    fn visit_begun_before_the_start(&mut self) -> Visit {
        let age_ms = self.flow.stay.as_ref().map_or(0, |stay| {
            let stay_ms = sample_ms(&mut self.rng, stay);
            self.rng.i64(0..=stay_ms)
        });
        let leaves_ms = self.leaves_ms(0);
        let handover = self.handover(0, leaves_ms);
        Visit { openid: self.new_openid(), arrives_ms: -age_ms, accepted_ms: -age_ms, leaves_ms, handover }
    }

    fn handover(&mut self, accepted_ms: i64, leaves_ms: i64) -> Option<Handover> {
        if self.transfers <= 0.0 || self.transfer_rng.f64() >= self.transfers {
            return None;
        }
        let stay_ms = leaves_ms.saturating_sub(accepted_ms).min(LATEST_TRANSFER_MS);
        let at_ms = accepted_ms + self.transfer_rng.i64(0..=stay_ms);
        let pick = self.transfer_rng.usize(..);
        (at_ms < leaves_ms).then_some(Handover { at_ms, pick })
    }

    fn leaves_ms(&mut self, accepted_ms: i64) -> i64 {
        let stay = self.flow.stay.as_ref();
        stay.map_or(i64::MAX, |stay| accepted_ms + sample_ms(&mut self.rng, stay))
    }

    fn customer(&mut self, arrives_ms: i64) -> Box<str> {
        if self.flow.returning > 0.0 && self.rng.f64() < self.flow.returning && !self.recent.is_empty() {
            let chosen = self.rng.usize(..self.recent.len());
            if self.recent[chosen].1 + RETURNS_AFTER_MS <= arrives_ms {
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

/// A stream's own seed: FNV-1a over the scenario's seed and the names that tell the streams apart.
pub(super) fn derived_seed(seed: u64, names: &[&str]) -> u64 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let offset_basis = 0xcbf2_9ce4_8422_2325 ^ seed;
    bytes.fold(offset_basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An exponentially distributed time on top of the shortest, cut at the longest.
fn sample_ms(rng: &mut fastrand::Rng, spread: &Spread) -> i64 {
    let mean_beyond_min = spread.mean.saturating_sub(spread.min);
    let beyond_min = -(1.0 - rng.f64()).ln() * mean_beyond_min.as_secs_f64() * 1_000.0;
    (duration_ms(spread.min) + beyond_min as i64).min(duration_ms(spread.max))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spread(mean: u64, min: u64, max: u64) -> Spread {
        Spread {
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

    fn visits(seed: u64) -> Vec<Visit> {
        let mut customers = Customers::new(Arc::new(flow()), 0.0, seed);
        (0..500).filter_map(|_| customers.next_visit()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        assert_eq!(visits(1), visits(1));
        assert_ne!(visits(1), visits(2));
    }

    #[test]
    fn visits_keep_to_the_bounds_of_the_flow() {
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
    fn a_returning_customer_never_has_two_sessions_with_the_same_createtime() {
        let visits = visits(4);
        let mut returns = 0;
        for (index, visit) in visits.iter().enumerate() {
            for former in visits[..index].iter().filter(|former| former.openid == visit.openid) {
                returns += 1;
                assert!(former.leaves_ms + RETURNS_AFTER_MS <= visit.arrives_ms);
            }
        }
        assert!(returns > 10, "{returns}");
    }

    #[test]
    fn handovers_happen_during_the_stay_and_change_nothing_else() {
        let mut customers = Customers::new(Arc::new(flow()), 0.5, 5);
        let mut handovers = 0;
        for visit in visits(5) {
            let handed_over = customers.next_visit().unwrap();
            if let Some(handover) = handed_over.handover {
                handovers += 1;
                assert!((visit.accepted_ms.max(0)..visit.leaves_ms).contains(&handover.at_ms));
            }
            assert_eq!(Visit { handover: None, ..handed_over }, visit);
        }
        assert!((200..300).contains(&handovers), "{handovers}");
    }

    #[test]
    fn without_gap_nobody_arrives_and_without_stay_nobody_leaves() {
        let flow = CustomerFlow { gap: None, stay: None, ..flow() };
        let mut customers = Customers::new(Arc::new(flow), 0.0, 1);
        for _ in 0..3 {
            assert_eq!(customers.next_visit().unwrap().leaves_ms, i64::MAX);
        }
        assert_eq!(customers.next_visit(), None);
    }

    #[test]
    fn streams_differ_by_every_name() {
        assert_ne!(derived_seed(1, &["ab", "c"]), derived_seed(1, &["a", "bc"]));
        assert_ne!(derived_seed(1, &["a"]), derived_seed(2, &["a"]));
    }
}
