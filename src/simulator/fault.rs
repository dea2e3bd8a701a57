//! Faults: what goes wrong, for whom, how often. Which rule fires is decided here; what that looks like on the wire is
//! the business of `answer` and `server`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::clock::duration_ms;
use super::lock;
use super::routes::Endpoint;
use super::scenario::is_probability;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An errcode with its usual errmsg.
    Errcode(i64),
    /// The same, with the number as a string.
    ErrcodeAsText(i64),
    /// Every token of the official account (of the component, at its own calls) expires just before the call: 42001 until
    /// a new one is fetched.
    ExpireTokens,
    /// Every token of the official account (of the component, at its own calls) is forgotten just before the call: 40001.
    RevokeTokens,
    /// Another program fetches a classic token just before the call.
    Meddle,
    /// This HTTP status with an HTML page.
    HttpStatus(u16),
    /// 503 with Retry-After in seconds.
    Unavailable(u32),
    /// 302 to this location.
    Redirect(String),
    /// 200 with an HTML page.
    Html,
    /// 200 without a body.
    EmptyBody,
    /// 200 without a body, Content-Type text/html; charset=gbk.
    EmptyGbkBody,
    /// The announced Content-Length is never reached.
    TruncatedBody,
    /// The connection is closed in good order before any answer.
    Close,
    /// The connection is reset before any answer.
    Reset,
    /// No answer until the client goes.
    Hang,
    /// The right answer, later.
    #[serde(deserialize_with = "friendly_duration")]
    Slow(Duration),
    /// The right answer in many small pieces over this time.
    #[serde(deserialize_with = "friendly_duration")]
    Drip(Duration),
    /// The right answer behind ten megabytes of white space.
    OversizedBody,
    /// Bytes without any meaning.
    Garbage,
    /// The right answer with bytes that are not UTF-8 inside a string.
    InvalidUtf8,
    /// The right answer behind a byte order mark.
    ByteOrderMark,
    /// The right answer with raw control characters inside a string.
    ControlCharacters,
    /// The right answer as text/plain.
    TextPlain,
    /// A success without sessionlist.
    ListAbsent,
    /// A success where sessionlist is null.
    ListNull,
    /// A success where sessionlist is an object.
    ListOfWrongType,
    /// An entry without openid among the sessions.
    EntryWithoutOpenid,
    /// An entry whose createtime is no number among the sessions.
    CreatetimeNoNumber,
}

impl Fault {
    /// A word for logs and for the ledger.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Fault::Errcode(_) => "errcode",
            Fault::ErrcodeAsText(_) => "errcode_as_text",
            Fault::ExpireTokens => "expire_tokens",
            Fault::RevokeTokens => "revoke_tokens",
            Fault::Meddle => "meddle",
            Fault::HttpStatus(_) => "http_status",
            Fault::Unavailable(_) => "unavailable",
            Fault::Redirect(_) => "redirect",
            Fault::Html => "html",
            Fault::EmptyBody => "empty_body",
            Fault::EmptyGbkBody => "empty_gbk_body",
            Fault::TruncatedBody => "truncated_body",
            Fault::Close => "close",
            Fault::Reset => "reset",
            Fault::Hang => "hang",
            Fault::Slow(_) => "slow",
            Fault::Drip(_) => "drip",
            Fault::OversizedBody => "oversized_body",
            Fault::Garbage => "garbage",
            Fault::InvalidUtf8 => "invalid_utf8",
            Fault::ByteOrderMark => "byte_order_mark",
            Fault::ControlCharacters => "control_characters",
            Fault::TextPlain => "text_plain",
            Fault::ListAbsent => "list_absent",
            Fault::ListNull => "list_null",
            Fault::ListOfWrongType => "list_of_wrong_type",
            Fault::EntryWithoutOpenid => "entry_without_openid",
            Fault::CreatetimeNoNumber => "createtime_no_number",
        }
    }

    /// Whether it spoils the list of sessions, and so can happen to getsessionlist only.
    pub(super) fn spoils_session_list(&self) -> bool {
        matches!(
            self,
            Fault::ListAbsent
                | Fault::ListNull
                | Fault::ListOfWrongType
                | Fault::EntryWithoutOpenid
                | Fault::CreatetimeNoNumber
        )
    }

    /// Whether the answer stays right in substance, but has a form that a careful client may refuse.
    pub(super) fn disfigures(&self) -> bool {
        matches!(
            self,
            Fault::OversizedBody | Fault::ByteOrderMark | Fault::InvalidUtf8 | Fault::ControlCharacters
        )
    }
}

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
    pub(super) fn mistake(&self) -> Option<&'static str> {
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
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    /// Name and appid, if the call could be attributed.
    pub(super) official_account: Option<[&'a str; 2]>,
    pub(super) kf_account: Option<&'a str>,
    pub(super) on_connection: OnConnection,
    pub(super) since_start_ms: i64,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
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
    pub(super) fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let armed = AtomicUsize::new(rules.len());
        let rules = rules.into_iter().map(ArmedRule::new).collect();
        Faults { armed, rules: Mutex::new(Rules { rules, rng: fastrand::Rng::with_seed(seed) }) }
    }

    /// Adds a rule in front of those in force.
    pub(super) fn inject(&self, rule: FaultRule) {
        let mut rules = lock(&self.rules);
        rules.rules.insert(0, ArmedRule::new(rule));
        self.armed.store(rules.rules.len(), Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut rules = lock(&self.rules);
        rules.rules.clear();
        self.armed.store(0, Ordering::Release);
    }

    /// The fault that happens to this call, if any: that of the first rule that fires.
    pub(super) fn strike(&self, call: &Call<'_>) -> Option<Fault> {
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

fn friendly_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    jiff::fmt::serde::unsigned_duration::friendly::compact::required::deserialize(deserializer)
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
