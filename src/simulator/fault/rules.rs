//! Rules that decide which requests have a fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::Fault;
use crate::simulator::api_call::ApiCall;
use crate::simulator::clock::duration_ms;
use crate::simulator::lock;
use crate::simulator::random::is_probability;

/// A fault and the conditions under which it happens. An absent condition always holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    pub fault: Fault,
    /// Only for requests to this endpoint.
    pub endpoint: Option<ApiCall>,
    /// Only for requests for this official account, by name or appid.
    pub official_account: Option<String>,
    /// Only for requests for this kf account, by full name.
    pub kf_account: Option<String>,
    /// Only for first requests on a connection, or only for later ones.
    pub on_connection: Option<ConnectionUse>,
    /// Only from this time after the start.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub from: Option<Duration>,
    /// Only until this time after the start.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub until: Option<Duration>,
    pub probability: Option<f64>,
    /// Only for every n-th request that meets the other conditions.
    pub every: Option<u64>,
    pub times: Option<u64>,
}

/// Whether a request is the first on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionUse {
    First,
    /// A later request: the connection was kept alive and reused.
    Reused,
}

impl FaultRule {
    /// The fault without conditions. Add conditions by struct update.
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

    /// Returns the reason if this rule is invalid.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        let elsewhere = self.endpoint.is_some_and(|endpoint| endpoint != ApiCall::GetSessionList);
        if self.fault.alters_session_list() && elsewhere {
            return Some("this fault applies to getsessionlist only");
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

    fn matches_call(&self, target: &FaultTarget<'_>) -> bool {
        let is_official =
            |wanted: &String| target.official_account.is_some_and(|names| names.contains(&&**wanted));
        self.endpoint.is_none_or(|endpoint| endpoint == target.endpoint)
            && (!self.fault.alters_session_list() || target.endpoint == ApiCall::GetSessionList)
            && self.official_account.as_ref().is_none_or(is_official)
            && self.kf_account.as_deref().is_none_or(|wanted| target.kf_account == Some(wanted))
            && self.on_connection.is_none_or(|wanted| wanted == target.connection_use)
            && self.from.is_none_or(|from| target.since_start_ms >= duration_ms(from))
            && self.until.is_none_or(|until| target.since_start_ms <= duration_ms(until))
    }
}

/// The properties of a request that rules compare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultTarget<'a> {
    pub(crate) endpoint: ApiCall,
    /// Name and appid. None if the request names no official account.
    pub(crate) official_account: Option<[&'a str; 2]>,
    pub(crate) kf_account: Option<&'a str>,
    pub(crate) connection_use: ConnectionUse,
    pub(crate) since_start_ms: i64,
}

/// Chooses the fault of each request.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    /// Number of rules. With zero rules, requests need not take the lock.
    rule_count: AtomicUsize,
    rules: Mutex<RuleSet>,
}

#[derive(Debug)]
struct RuleSet {
    rules: Vec<ActiveRule>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct ActiveRule {
    rule: FaultRule,
    matched: u64,
    fired: u64,
}

impl FaultInjector {
    pub(crate) fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let rule_count = AtomicUsize::new(rules.len());
        let rules = rules.into_iter().map(ActiveRule::new).collect();
        FaultInjector {
            rule_count,
            rules: Mutex::new(RuleSet { rules, rng: fastrand::Rng::with_seed(seed) }),
        }
    }

    /// Adds a rule before the existing ones.
    pub(crate) fn inject(&self, rule: FaultRule) {
        let mut rules = lock(&self.rules);
        rules.rules.insert(0, ActiveRule::new(rule));
        self.rule_count.store(rules.rules.len(), Ordering::Release);
    }

    pub(crate) fn clear(&self) {
        let mut rules = lock(&self.rules);
        rules.rules.clear();
        self.rule_count.store(0, Ordering::Release);
    }

    /// Returns the fault of the first rule that fires for this request.
    pub(crate) fn next_fault(&self, target: &FaultTarget<'_>) -> Option<Fault> {
        if self.rule_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let RuleSet { rules, rng } = &mut *lock(&self.rules);
        rules
            .iter_mut()
            .find_map(|rule_count| rule_count.fires(target, rng).then(|| rule_count.rule.fault.clone()))
    }
}

impl ActiveRule {
    fn new(rule: FaultRule) -> Self {
        ActiveRule { rule, matched: 0, fired: 0 }
    }

    fn fires(&mut self, target: &FaultTarget<'_>, rng: &mut fastrand::Rng) -> bool {
        if self.rule.times.is_some_and(|times| self.fired >= times) || !self.rule.matches_call(target) {
            return false;
        }
        self.matched += 1;
        let due = self.rule.every.is_none_or(|every| self.matched.is_multiple_of(every.max(1)));
        let fires = due && self.rule.probability.is_none_or(|probability| rng.f64() < probability);
        self.fired += u64::from(fires);
        fires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: FaultTarget<'static> = FaultTarget {
        endpoint: ApiCall::GetSessionList,
        official_account: Some(["shop", "wx1"]),
        kf_account: Some("kf1@test"),
        connection_use: ConnectionUse::Reused,
        since_start_ms: 5_000,
    };

    fn fired(rule: FaultRule, calls: usize) -> Vec<usize> {
        let faults = FaultInjector::new(vec![rule], 1);
        (0..calls).filter(|_| faults.next_fault(&TARGET).is_some()).collect()
    }

    fn hang() -> FaultRule {
        FaultRule::new(Fault::Hang)
    }

    #[test]
    fn rule_without_conditions_always_fires() {
        assert_eq!(fired(hang(), 3), [0, 1, 2]);
    }

    #[test]
    fn every_and_times_count_matching_requests() {
        assert_eq!(fired(FaultRule { every: Some(3), ..hang() }, 7), [2, 5]);
        assert_eq!(fired(FaultRule { times: Some(2), ..hang() }, 7), [0, 1]);
        assert_eq!(fired(FaultRule { every: Some(3), times: Some(1), ..hang() }, 7), [2]);
    }

    #[test]
    fn probability_is_accurate_and_repeatable() {
        let rule = FaultRule { probability: Some(0.2), ..hang() };
        let first = fired(rule.clone(), 10_000);
        assert!((1_800..2_200).contains(&first.len()), "{}", first.len());
        assert_eq!(first, fired(rule, 10_000));
    }

    #[test]
    fn conditions_restrict_rule() {
        let some = |text: &str| Some(text.to_owned());
        let misses = [
            FaultRule { endpoint: Some(ApiCall::Token), ..hang() },
            FaultRule { official_account: some("other"), ..hang() },
            FaultRule { kf_account: some("kf2@test"), ..hang() },
            FaultRule { on_connection: Some(ConnectionUse::First), ..hang() },
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
    fn list_faults_happen_to_getsessionlist_only() {
        let faults = FaultInjector::new(vec![FaultRule::new(Fault::ListNull)], 1);
        assert_eq!(faults.next_fault(&FaultTarget { endpoint: ApiCall::Token, ..TARGET }), None);
        assert_eq!(faults.next_fault(&TARGET), Some(Fault::ListNull));
    }

    #[test]
    fn injected_rule_comes_first_and_can_be_cleared() {
        let faults = FaultInjector::new(vec![hang()], 1);
        faults.inject(FaultRule { times: Some(1), ..FaultRule::new(Fault::Html) });
        assert_eq!(faults.next_fault(&TARGET), Some(Fault::Html));
        assert_eq!(faults.next_fault(&TARGET), Some(Fault::Hang));
        faults.clear();
        assert_eq!(faults.next_fault(&TARGET), None);
    }
}
