//! How long a failure holds back the thing that failed: a pure table of classes and waits.
//!
//! A hold only skips ticks of the schedule and never adds calls (repeats of busy polls are made
//! elsewhere); nothing is held for ever, because people fix the far side without telling us. Waits double
//! from failure to failure up to the class's cap, are shortened by up to a fifth at random so that accounts do not
//! move in step, end at a success, and are forgotten at a restart. Waits are configurable ([`BackoffPolicy`]). Some classes go
//! by WeChat's own clock instead: quotas are counted by it, and an administrator's refusal lasts for whole hours.

use std::time::Duration;

use super::clock::Moment;

/// The closed set of reactions to a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Every call is refused for its access token.
    TokenRejected,
    /// WeChat or the way to it is busy: -1, a 5xx, a time-out, a broken connection, a malformed answer.
    Busy,
    /// The quota of this minute is used up.
    MinuteQuota,
    /// The quota of this day is used up.
    DayQuota,
    /// Our address is not on the allow-list, or waits for its confirmation.
    AddressNotAllowed,
    /// The administrator refused our address for an hour.
    AddressRefusedForHour,
    /// The administrator refused our address for a day.
    AddressRefusedForDay,
    /// Appid, AppSecret or authorization are wrong, withdrawn, restricted, or do not include this call.
    NotAuthorized,
    /// Customer service is not enabled for the official account.
    NotEnabled,
    /// WeChat does not know the kf account.
    InvalidAccount,
    /// No WeChat user is bound to the kf account.
    UnboundAccount,
    /// The request was wrong: a mistake of ours, or of a proxy that meddles.
    BadRequest,
    /// An errcode that we do not know.
    Unknown,
}

/// What a failure holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The one kf account.
    KfAccount,
    /// All kf accounts of the official account.
    OfficialAccount,
}

impl ErrorClass {
    /// What failures of this class hold back.
    pub fn scope(self) -> Scope {
        match self {
            Self::Busy | Self::InvalidAccount | Self::UnboundAccount | Self::BadRequest | Self::Unknown => {
                Scope::KfAccount
            }
            Self::TokenRejected
            | Self::MinuteQuota
            | Self::DayQuota
            | Self::AddressNotAllowed
            | Self::AddressRefusedForHour
            | Self::AddressRefusedForDay
            | Self::NotAuthorized
            | Self::NotEnabled => Scope::OfficialAccount,
        }
    }

    /// Whether any other call for the official account would meet the same failure, whichever call met it first.
    pub fn concerns_every_call(self) -> bool {
        matches!(
            self,
            Self::TokenRejected
                | Self::AddressNotAllowed
                | Self::AddressRefusedForHour
                | Self::AddressRefusedForDay
        )
    }

    /// The name used in logs and pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenRejected => "token_rejected",
            Self::Busy => "busy",
            Self::MinuteQuota => "minute_quota",
            Self::DayQuota => "day_quota",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AddressRefusedForHour => "address_refused_for_hour",
            Self::AddressRefusedForDay => "address_refused_for_day",
            Self::NotAuthorized => "not_authorized",
            Self::NotEnabled => "not_enabled",
            Self::InvalidAccount => "invalid",
            Self::UnboundAccount => "unbound",
            Self::BadRequest => "bad_request",
            Self::Unknown => "unknown",
        }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// China has had one offset all year since 1991.
const CHINA_UTC_OFFSET_SECONDS: i64 = 8 * 3600;

/// Quotas are counted by WeChat's clock, not ours: a little after the full minute or day we are on its side too.
const AFTER_THE_TURN: Duration = Duration::from_secs(2);

/// The step from a first wait of zero, which cannot be doubled.
const SHORTEST_GROWN_WAIT: Duration = Duration::from_secs(2);

/// The largest share by which a wait is shortened at random.
const JITTER: f64 = 0.2;

/// How long failures of a class hold: the first one, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffRange {
    /// After the first failure; zero to try again at the next tick. Not longer than `longest`.
    pub first: Duration,
    /// What it grows to from failure to failure; not zero.
    pub longest: Duration,
}

/// How long failures hold, by class. What WeChat's own clock decides (the quota of a minute, an administrator's refusal)
/// is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Every call is refused for its access token.
    pub token_rejected: BackoffRange,
    /// WeChat or the way to it is busy.
    pub busy: BackoffRange,
    /// The quota of this day is used up: so long, but not beyond midnight in China.
    pub day_quota: Duration,
    /// Our address is not allowed.
    pub address_not_allowed: BackoffRange,
    /// Credentials, grants or authorization are missing.
    pub not_authorized: BackoffRange,
    /// Customer service is not enabled.
    pub not_enabled: BackoffRange,
    /// The kf account is not bound, or does not exist.
    pub unbound: BackoffRange,
    /// The request was wrong.
    pub bad_request: BackoffRange,
    /// An errcode that we do not know.
    pub unknown: BackoffRange,
}

impl BackoffRange {
    const fn seconds(first: u64, longest: u64) -> Self {
        Self { first: Duration::from_secs(first), longest: Duration::from_secs(longest) }
    }
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        let soon = BackoffRange::seconds(0, MINUTE);
        let for_people = BackoffRange::seconds(MINUTE, 5 * MINUTE);
        Self {
            token_rejected: BackoffRange::seconds(10, 2 * MINUTE),
            busy: soon,
            day_quota: Duration::from_secs(30 * MINUTE),
            address_not_allowed: BackoffRange::seconds(30, 2 * MINUTE),
            not_authorized: for_people,
            not_enabled: for_people,
            unbound: soon,
            bad_request: soon,
            unknown: soon,
        }
    }
}

impl BackoffPolicy {
    fn rule(&self, class: ErrorClass) -> Rule {
        match class {
            ErrorClass::TokenRejected => Rule::Growing(self.token_rejected),
            ErrorClass::Busy => Rule::Growing(self.busy),
            ErrorClass::MinuteQuota => Rule::NextMinute,
            ErrorClass::DayQuota => Rule::NextDayInChina { at_most: self.day_quota },
            ErrorClass::AddressNotAllowed => Rule::Growing(self.address_not_allowed),
            ErrorClass::AddressRefusedForHour => Rule::Hours(1),
            ErrorClass::AddressRefusedForDay => Rule::Hours(24),
            ErrorClass::NotAuthorized => Rule::Growing(self.not_authorized),
            ErrorClass::NotEnabled => Rule::Growing(self.not_enabled),
            ErrorClass::InvalidAccount | ErrorClass::UnboundAccount => Rule::Growing(self.unbound),
            ErrorClass::BadRequest => Rule::Growing(self.bad_request),
            ErrorClass::Unknown => Rule::Growing(self.unknown),
        }
    }
}

enum Rule {
    Growing(BackoffRange),
    Hours(u64),
    NextMinute,
    NextDayInChina { at_most: Duration },
}

/// A failure that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The class of the failure.
    pub class: ErrorClass,
    /// Until when it holds, on the monotonic clock.
    pub until: Duration,
    /// How many failures of this class in a row led to it.
    pub failures: u32,
    /// When it was set, on the monotonic clock.
    set_at: Duration,
}

/// A failed call, as far as its wait depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Its class.
    pub class: ErrorClass,
    /// When the request was sent.
    pub sent_at: Moment,
    /// What the answer asked for in `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Backoff {
    /// The hold after a failure that is known at `now`, by the rules of `holds`. `jitter` is a random number from 0 to 1.
    ///
    /// A request that was already under way when the previous hold was set belongs to the same failure, and does
    /// not make the wait grow: sixteen requests in flight that fail together are one failure.
    pub fn after(
        backoff_policy: &BackoffPolicy,
        previous: Option<&Backoff>,
        failure: Failure,
        now: Moment,
        jitter: f64,
    ) -> Self {
        let Failure { class, sent_at, retry_after } = failure;
        let same = previous.filter(|hold| hold.class == class);
        if let Some(hold) = same.filter(|hold| sent_at.monotonic < hold.set_at) {
            return *hold;
        }
        let failures = same.map_or(1, |hold| hold.failures.saturating_add(1));
        let rule = backoff_policy.rule(class);
        let (wait, cap) = match rule {
            Rule::Growing(wait) => (grown(wait, failures), wait.longest),
            Rule::Hours(hours) => (Duration::from_secs(hours * HOUR), Duration::from_secs(hours * HOUR)),
            Rule::NextMinute => (until_turn_of(now, 60, 0), Duration::from_secs(MINUTE) + AFTER_THE_TURN),
            Rule::NextDayInChina { at_most } => {
                (until_turn_of(now, 86_400, CHINA_UTC_OFFSET_SECONDS).min(at_most), at_most)
            }
        };
        let shortened = match rule {
            Rule::Growing(_) => wait.mul_f64(1.0 - JITTER * jitter.clamp(0.0, 1.0)),
            // Earlier than WeChat's own clock allows would be in vain.
            Rule::Hours(_) | Rule::NextMinute | Rule::NextDayInChina { .. } => wait,
        };
        let wait = shortened.max(retry_after.unwrap_or_default().min(cap));
        let hold = Self { class, until: now.monotonic + wait, failures, set_at: now.monotonic };
        match previous {
            // Nor does it shorten a longer hold of another class.
            Some(longer) if sent_at.monotonic < longer.set_at && longer.until > hold.until => *longer,
            _ => hold,
        }
    }

    /// Whether it still holds.
    pub fn is_active_at(&self, now: Moment) -> bool {
        now.monotonic < self.until
    }

    /// Whether a success whose request was sent then ends this hold: not one that was under way before.
    pub fn ended_by_request_sent_at(&self, sent_at: Moment) -> bool {
        sent_at.monotonic >= self.set_at
    }
}

fn grown(BackoffRange { first, longest }: BackoffRange, failures: u32) -> Duration {
    if failures <= 1 {
        return first.min(longest);
    }
    let doublings = failures.saturating_sub(if first.is_zero() { 2 } else { 1 }).min(16);
    first.max(SHORTEST_GROWN_WAIT).saturating_mul(1 << doublings).min(longest)
}

/// From `now` until shortly after the wall clock next shows a multiple of `period_seconds` at this offset.
fn until_turn_of(now: Moment, period_seconds: i64, utc_offset_seconds: i64) -> Duration {
    let into_period = (now.wall.as_second() + utc_offset_seconds).rem_euclid(period_seconds);
    Duration::from_secs((period_seconds - into_period).unsigned_abs()) + AFTER_THE_TURN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASSES: [ErrorClass; 13] = [
        ErrorClass::TokenRejected,
        ErrorClass::Busy,
        ErrorClass::MinuteQuota,
        ErrorClass::DayQuota,
        ErrorClass::AddressNotAllowed,
        ErrorClass::AddressRefusedForHour,
        ErrorClass::AddressRefusedForDay,
        ErrorClass::NotAuthorized,
        ErrorClass::NotEnabled,
        ErrorClass::InvalidAccount,
        ErrorClass::UnboundAccount,
        ErrorClass::BadRequest,
        ErrorClass::Unknown,
    ];

    fn at(wall: &str, seconds: u64) -> Moment {
        Moment { wall: wall.parse().unwrap(), monotonic: Duration::from_secs(seconds) }
    }

    fn after(previous: Option<&Backoff>, failure: Failure, now: Moment, jitter: f64) -> Backoff {
        Backoff::after(&BackoffPolicy::default(), previous, failure, now, jitter)
    }

    fn failure(class: ErrorClass, sent_at: Moment) -> Failure {
        Failure { class, sent_at, retry_after: None }
    }

    /// The waits in seconds of failures in a row, each sent when the hold before had passed.
    fn waits(class: ErrorClass, count: usize) -> Vec<u64> {
        let mut hold: Option<Backoff> = None;
        let mut now = at("2026-11-22T07:22:45Z", 1000);
        let mut waits = Vec::new();
        for _ in 0..count {
            let next = after(hold.as_ref(), failure(class, now), now, 0.0);
            waits.push((next.until - now.monotonic).as_secs());
            now.monotonic = next.until;
            hold = Some(next);
        }
        waits
    }

    #[test]
    fn waits_grow_to_the_cap_of_their_class() {
        assert_eq!(waits(ErrorClass::Busy, 8), [0, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(ErrorClass::UnboundAccount, 8), [0, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(ErrorClass::TokenRejected, 5), [10, 20, 40, 80, 120]);
        assert_eq!(waits(ErrorClass::AddressNotAllowed, 4), [30, 60, 120, 120]);
        assert_eq!(waits(ErrorClass::NotAuthorized, 4), [60, 120, 240, 300]);
        assert_eq!(waits(ErrorClass::AddressRefusedForDay, 2), [86_400, 86_400]);
    }

    #[test]
    fn a_minute_quota_holds_until_the_next_minute() {
        let now = at("2026-11-22T07:22:45Z", 7);
        let hold = after(None, failure(ErrorClass::MinuteQuota, now), now, 1.0);
        assert_eq!(hold.until, Duration::from_secs(7 + 15 + 2));
    }

    #[test]
    fn a_day_quota_holds_half_an_hour_but_not_beyond_midnight_in_china() {
        let noon = at("2026-11-22T04:00:00Z", 0);
        let hold = after(None, failure(ErrorClass::DayQuota, noon), noon, 1.0);
        assert_eq!(hold.until, Duration::from_secs(1800));
        let ten_to_midnight = at("2026-11-22T15:50:00Z", 0);
        let hold = after(None, failure(ErrorClass::DayQuota, ten_to_midnight), ten_to_midnight, 1.0);
        assert_eq!(hold.until, Duration::from_secs(602));
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let (sent, failed) = (at("2026-11-22T07:00:00Z", 10), at("2026-11-22T07:00:01Z", 11));
        let first = after(None, failure(ErrorClass::NotAuthorized, sent), failed, 0.0);
        let later = at("2026-11-22T07:00:02Z", 12);
        assert_eq!(after(Some(&first), failure(ErrorClass::NotAuthorized, sent), later, 0.0), first);
        assert!(!first.ended_by_request_sent_at(sent));
        assert!(first.ended_by_request_sent_at(later));
    }

    #[test]
    fn a_request_under_way_does_not_shorten_a_longer_hold() {
        let (sent, failed) = (at("2026-11-22T07:00:00Z", 10), at("2026-11-22T07:00:01Z", 11));
        let day = after(None, failure(ErrorClass::AddressRefusedForDay, sent), failed, 0.0);
        let later = at("2026-11-22T07:00:02Z", 12);
        assert_eq!(after(Some(&day), failure(ErrorClass::NotAuthorized, sent), later, 0.0), day);
        let asked_anew = after(Some(&day), failure(ErrorClass::NotAuthorized, later), later, 0.0);
        assert_eq!(asked_anew.class, ErrorClass::NotAuthorized);
    }

    #[test]
    fn another_class_starts_its_own_row() {
        let now = at("2026-11-22T07:00:00Z", 10);
        let first = after(None, failure(ErrorClass::NotAuthorized, now), now, 0.0);
        let second = after(Some(&first), failure(ErrorClass::TokenRejected, now), now, 0.0);
        assert_eq!(second.failures, 1);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_the_cap() {
        let now = at("2026-11-22T07:00:00Z", 0);
        let held = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            after(None, Failure { class: ErrorClass::Busy, sent_at: now, retry_after }, now, 0.0).until
        };
        assert_eq!(held(40), Duration::from_secs(40));
        assert_eq!(held(4000), Duration::from_secs(60));
    }

    #[test]
    fn configured_waits_are_kept() {
        let now = at("2026-11-22T04:00:00Z", 0);
        let wait = BackoffRange::seconds(5, 20);
        let backoff_policy = BackoffPolicy {
            busy: wait,
            unbound: wait,
            day_quota: Duration::from_secs(60),
            ..BackoffPolicy::default()
        };
        let mut waits = Vec::new();
        for class in [ErrorClass::Busy, ErrorClass::InvalidAccount, ErrorClass::DayQuota] {
            let mut hold: Option<Backoff> = None;
            for _ in 0..3 {
                // Each fails just when the one before has passed.
                let now = Moment { monotonic: hold.map_or(Duration::ZERO, |hold| hold.until), ..now };
                let next = Backoff::after(&backoff_policy, hold.as_ref(), failure(class, now), now, 0.0);
                waits.push((next.until - now.monotonic).as_secs());
                hold = Some(next);
            }
        }
        assert_eq!(waits, [5, 10, 20, 5, 10, 20, 60, 60, 60]);
    }

    #[test]
    fn an_administrators_refusal_is_waited_out_whole() {
        let now = at("2026-11-22T04:00:00Z", 0);
        for (class, hours) in [(ErrorClass::AddressRefusedForHour, 1), (ErrorClass::AddressRefusedForDay, 24)]
        {
            assert_eq!(after(None, failure(class, now), now, 1.0).until, Duration::from_secs(hours * HOUR));
        }
    }

    prop_compose! {
        /// As the configuration accepts it: the longest from a second to a day, the first not longer.
        fn accepted()(longest in 1..=24 * HOUR, share in 0.0..=1.0f64) -> BackoffRange {
            let longest = Duration::from_secs(longest);
            BackoffRange { first: longest.mul_f64(share), longest }
        }
    }

    prop_compose! {
        fn accepted_holds()(waits in prop::array::uniform8(accepted()), day_quota in 1..=24 * HOUR) -> BackoffPolicy {
            let [token_rejected, busy, address_not_allowed, not_authorized, not_enabled, unbound, bad_request, unknown] =
                waits;
            let day_quota = Duration::from_secs(day_quota);
            BackoffPolicy {
                token_rejected, busy, day_quota, address_not_allowed, not_authorized, not_enabled, unbound, bad_request,
                unknown,
            }
        }
    }

    proptest! {
        #[test]
        fn every_wait_ends_and_jitter_only_shortens(
            backoff_policy in prop_oneof![Just(BackoffPolicy::default()), accepted_holds()],
            classes in prop::collection::vec(prop::sample::select(&CLASSES[..]), 1..40),
            jitter in 0.0..=1.0f64,
            second in 0..200_000i64,
            retry_after in prop::option::of(0..=u64::MAX / 2),
        ) {
            let mut now = Moment { wall: jiff::Timestamp::from_second(second).unwrap(), monotonic: Duration::ZERO };
            let mut hold: Option<Backoff> = None;
            for class in classes {
                let failure = Failure { class, sent_at: now, retry_after: retry_after.map(Duration::from_secs) };
                let plain = Backoff::after(&backoff_policy, hold.as_ref(), failure, now, 0.0);
                let jittered = Backoff::after(&backoff_policy, hold.as_ref(), failure, now, jitter);
                prop_assert!(jittered.until <= plain.until);
                prop_assert!(plain.until - now.monotonic <= Duration::from_secs(86_400));
                prop_assert!((jittered.until - now.monotonic).as_secs_f64() >= 0.79 * (plain.until - now.monotonic).as_secs_f64());
                prop_assert!(!plain.is_active_at(Moment { monotonic: plain.until, ..now }), "asked again then");
                now.monotonic = plain.until;
                hold = Some(plain);
            }
        }
    }
}
