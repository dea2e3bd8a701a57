//! Rules: for whom a fault happens, and how often. Which one fires at a call is decided here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::super::clock::duration_ms;
use super::super::lock;
use super::super::routes::Endpoint;
use super::super::scenario::is_probability;
use super::Fault;

/// A fault, for whom, and how often. Conditions that are absent do not restrict.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What goes wrong.
    pub fault: Fault,
    /// Calls of this endpoint.
    pub endpoint: Option<Endpoint>,
    /// Calls for this official account, by name or appid.
    pub official_account: Option<String>,
    /// Calls for this kf account, by full name.
    pub kf_account: Option<String>,
    /// Requests at this place on their connection.
    pub on_connection: Option<OnConnection>,
    /// Not earlier after the start.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub from: Option<Duration>,
    /// Not later after the start.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub until: Option<Duration>,
    /// With this probability.
    pub probability: Option<f64>,
    /// Every so many of the calls that fit.
    pub every: Option<u64>,
    /// Only so often; then the rule is spent.
    pub times: Option<u64>,
}

/// Place of a request on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConnection {
    /// The first request.
    First,
    /// Any but the first: the connection was kept alive and reused.
    Reused,
}

impl FaultRule {
    /// The fault at every call that it can happen to; restrict it by struct update.
    pub fn new(fault: Fault) -> Self {
        FaultRule {
            fault,
            endpoint: None,
            official_account: None,
            kf_account: None,
            on_connection: None,
            from: None,
            until: None,
            probability: None,
            every: None,
            times: None,
        }
    }

    /// Why this rule makes no sense.
    pub(in crate::simulator) fn mistake(&self) -> Option<&'static str> {
        let elsewhere = self.endpoint.is_some_and(|endpoint| endpoint != Endpoint::GetSessionList);
        if self.fault.spoils_session_list() && elsewhere {
            return Some("this fault concerns getsessionlist only");
        }
        if self.every == Some(0) {
            return Some("every must be at least 1");
        }
        if !self.probability.is_none_or(is_probability) {
            return Some("probability must be between 0 and 1");
        }
        if matches!(self.fault, Fault::HttpStatus(status) if !(200..=599).contains(&status)) {
            return Some("http_status must be between 200 and 599");
        }
        None
    }

    fn fits(&self, call: &Call<'_>) -> bool {
        let is_official =
            |wanted: &String| call.official_account.is_some_and(|names| names.contains(&&**wanted));
        self.endpoint.is_none_or(|endpoint| endpoint == call.endpoint)
            && (!self.fault.spoils_session_list() || call.endpoint == Endpoint::GetSessionList)
            && self.official_account.as_ref().is_none_or(is_official)
            && self.kf_account.as_deref().is_none_or(|wanted| call.kf_account == Some(wanted))
            && self.on_connection.is_none_or(|place| place == call.on_connection)
            && self.from.is_none_or(|from| call.since_start_ms >= duration_ms(from))
            && self.until.is_none_or(|until| call.since_start_ms <= duration_ms(until))
    }
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulator) struct Call<'a> {
    pub(in crate::simulator) endpoint: Endpoint,
    /// Name and appid, if the call could be attributed.
    pub(in crate::simulator) official_account: Option<[&'a str; 2]>,
    pub(in crate::simulator) kf_account: Option<&'a str>,
    pub(in crate::simulator) on_connection: OnConnection,
    pub(in crate::simulator) since_start_ms: i64,
}

/// The rules in force.
#[derive(Debug)]
pub(in crate::simulator) struct Faults {
    /// Number of rules, so that a simulation without faults takes no lock.
    armed: AtomicUsize,
    rules: Mutex<Rules>,
}

#[derive(Debug)]
struct Rules {
    rules: Vec<ArmedRule>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct ArmedRule {
    rule: FaultRule,
    fitted: u64,
    fired: u64,
}

impl Faults {
    pub(in crate::simulator) fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let armed = AtomicUsize::new(rules.len());
        let rules = rules.into_iter().map(ArmedRule::new).collect();
        Faults { armed, rules: Mutex::new(Rules { rules, rng: fastrand::Rng::with_seed(seed) }) }
    }

    /// Adds a rule in front of those in force.
    pub(in crate::simulator) fn inject(&self, rule: FaultRule) {
        let mut rules = lock(&self.rules);
        rules.rules.insert(0, ArmedRule::new(rule));
        self.armed.store(rules.rules.len(), Ordering::Release);
    }

    pub(in crate::simulator) fn clear(&self) {
        let mut rules = lock(&self.rules);
        rules.rules.clear();
        self.armed.store(0, Ordering::Release);
    }

    /// The fault that happens to this call, if any: that of the first rule that fires.
    pub(in crate::simulator) fn strike(&self, call: &Call<'_>) -> Option<Fault> {
        if self.armed.load(Ordering::Acquire) == 0 {
            return None;
        }
        let Rules { rules, rng } = &mut *lock(&self.rules);
        rules.iter_mut().find_map(|armed| armed.fires(call, rng).then(|| armed.rule.fault.clone()))
    }
}

impl ArmedRule {
    fn new(rule: FaultRule) -> Self {
        ArmedRule { rule, fitted: 0, fired: 0 }
    }

    fn fires(&mut self, call: &Call<'_>, rng: &mut fastrand::Rng) -> bool {
        if self.rule.times.is_some_and(|times| self.fired >= times) || !self.rule.fits(call) {
            return false;
        }
        self.fitted += 1;
        let due = self.rule.every.is_none_or(|every| self.fitted.is_multiple_of(every.max(1)));
        let fires = due && self.rule.probability.is_none_or(|probability| rng.f64() < probability);
        self.fired += u64::from(fires);
        fires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'static> = Call {
        endpoint: Endpoint::GetSessionList,
        official_account: Some(["shop", "wx1"]),
        kf_account: Some("kf1@test"),
        on_connection: OnConnection::Reused,
        since_start_ms: 5_000,
    };

    fn fired(rule: FaultRule, calls: usize) -> Vec<usize> {
        let faults = Faults::new(vec![rule], 1);
        (0..calls).filter(|_| faults.strike(&CALL).is_some()).collect()
    }

    fn hang() -> FaultRule {
        FaultRule::new(Fault::Hang)
    }

    #[test]
    fn a_rule_without_conditions_always_fires() {
        assert_eq!(fired(hang(), 3), [0, 1, 2]);
    }

    #[test]
    fn every_and_times_count_the_calls_that_fit() {
        assert_eq!(fired(FaultRule { every: Some(3), ..hang() }, 7), [2, 5]);
        assert_eq!(fired(FaultRule { times: Some(2), ..hang() }, 7), [0, 1]);
        assert_eq!(fired(FaultRule { every: Some(3), times: Some(1), ..hang() }, 7), [2]);
    }

    #[test]
    fn a_probability_is_met_and_repeatable() {
        let rule = FaultRule { probability: Some(0.2), ..hang() };
        let first = fired(rule.clone(), 10_000);
        assert!((1_800..2_200).contains(&first.len()), "{}", first.len());
        assert_eq!(first, fired(rule, 10_000));
    }

    #[test]
    fn selectors_restrict() {
        let some = |text: &str| Some(text.to_owned());
        let misses = [
            FaultRule { endpoint: Some(Endpoint::Token), ..hang() },
            FaultRule { official_account: some("other"), ..hang() },
            FaultRule { kf_account: some("kf2@test"), ..hang() },
            FaultRule { on_connection: Some(OnConnection::First), ..hang() },
            FaultRule { from: Some(Duration::from_secs(6)), ..hang() },
            FaultRule { until: Some(Duration::from_secs(4)), ..hang() },
        ];
        for rule in misses {
            assert_eq!(fired(rule.clone(), 1), Vec::<usize>::new(), "{rule:?}");
        }
        let by_appid = FaultRule { official_account: some("wx1"), kf_account: some("kf1@test"), ..hang() };
        assert_eq!(fired(by_appid, 1), [0]);
    }

    #[test]
    fn a_spoilt_list_happens_to_getsessionlist_only() {
        let faults = Faults::new(vec![FaultRule::new(Fault::ListNull)], 1);
        assert_eq!(faults.strike(&Call { endpoint: Endpoint::Token, ..CALL }), None);
        assert_eq!(faults.strike(&CALL), Some(Fault::ListNull));
    }

    #[test]
    fn an_injected_rule_comes_first_and_can_be_cleared() {
        let faults = Faults::new(vec![hang()], 1);
        faults.inject(FaultRule { times: Some(1), ..FaultRule::new(Fault::Html) });
        assert_eq!(faults.strike(&CALL), Some(Fault::Html));
        assert_eq!(faults.strike(&CALL), Some(Fault::Hang));
        faults.clear();
        assert_eq!(faults.strike(&CALL), None);
    }
}
