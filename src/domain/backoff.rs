//! How long to wait after a failure: the only place that computes backoff.
//!
//! Everything here is pure: the time and the random number are arguments. Waits double from failure to failure up to a
//! longest wait, because people fix problems without notifying us. Each wait is shortened by up to 20 % at random, so that
//! what failed together is not retried together. A backoff ends at the first success and is not stored.
//!
//! - [`ExponentialBackoff`]: the growth of one wait, for anything that is retried without limit.
//! - [`RetryDelays`]: a few quick retries, after which the regular interval applies.
//! - [`BackoffPolicy`] and [`Backoff`]: the configured waits after failed calls to WeChat, by [`ErrorClass`]. Such a backoff
//!   only skips ticks of the schedule and never adds calls.

use std::time::Duration;

use super::{clock::Moment, error_class::ErrorClass};

/// The largest share by which a wait is shortened at random.
const MAX_JITTER: f64 = 0.2;

/// The second wait after a first wait of zero, which cannot be doubled.
const SECOND_WAIT_AFTER_ZERO: Duration = Duration::from_secs(2);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// China has used one UTC offset all year since 1991.
const CHINA_UTC_OFFSET: Duration = Duration::from_secs(8 * 60 * 60);

/// WeChat counts quotas by its own clock, which may be slightly slow compared with ours.
const QUOTA_RESET_MARGIN: Duration = Duration::from_secs(2);

/// Waits that double from failure to failure, from a first to a longest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExponentialBackoff {
    /// Zero means: retry at the next opportunity. Never longer than `longest`.
    first: Duration,
    /// Never zero: a failure that lasts must not be retried in a busy loop.
    longest: Duration,
}

impl ExponentialBackoff {
    /// `None` if the first wait is longer than the longest, or if that one is zero.
    pub const fn try_new(first: Duration, longest: Duration) -> Option<Self> {
        if longest.is_zero() || first.as_nanos() > longest.as_nanos() {
            return None;
        }
        Some(Self { first, longest })
    }

    /// For constants, where invalid waits are a compile error.
    pub(crate) const fn constant(first: Duration, longest: Duration) -> Self {
        assert!(!longest.is_zero() && first.as_nanos() <= longest.as_nanos());
        Self { first, longest }
    }

    /// The wait after this many consecutive failures, at least one. `jitter` is a random number from 0 to 1.
    pub fn wait(self, failures: u32, jitter: f64) -> Duration {
        shorten(self.full_wait(failures.max(1)), jitter)
    }

    fn full_wait(self, failures: u32) -> Duration {
        let (start, doublings) = match (self.first.is_zero(), failures) {
            (true, 1) => return Duration::ZERO,
            (true, _) => (SECOND_WAIT_AFTER_ZERO, failures - 2),
            (false, _) => (self.first, failures - 1),
        };
        start.saturating_mul(1 << doublings.min(31)).min(self.longest)
    }
}

fn shorten(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(1.0 - MAX_JITTER * jitter.clamp(0.0, 1.0))
}

/// The delays before a limited number of quick retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryDelays(pub(crate) &'static [Duration]);

impl RetryDelays {
    /// The delay before the next retry, after `made` retries; `None` if that were one too many. `jitter` is a random number
    /// from 0 to 1.
    pub fn next(self, made: usize, jitter: f64) -> Option<Duration> {
        self.0.get(made).map(|delay| shorten(*delay, jitter))
    }
}

/// The configured backoff of each class of failed calls. The classes that WeChat's own clock decides (the quota of a
/// minute, an administrator's refusal) are not configurable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is for the error class of its name")]
pub struct BackoffPolicy {
    pub token_rejected: ExponentialBackoff,
    /// For [`ErrorClass::Busy`] and [`ErrorClass::TlsOrProxyRefused`].
    pub busy: ExponentialBackoff,
    /// A wait also ends at midnight in China, when WeChat resets the quota.
    pub day_quota: Duration,
    pub address_not_allowed: ExponentialBackoff,
    pub not_authorized: ExponentialBackoff,
    pub not_enabled: ExponentialBackoff,
    /// For [`ErrorClass::UnboundAccount`] and [`ErrorClass::InvalidAccount`].
    pub unbound: ExponentialBackoff,
    pub bad_request: ExponentialBackoff,
    pub unknown: ExponentialBackoff,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        const fn seconds(first: u64, longest: u64) -> ExponentialBackoff {
            ExponentialBackoff::constant(Duration::from_secs(first), Duration::from_secs(longest))
        }
        let at_the_next_tick = const { seconds(0, 60) };
        let until_a_person_acts = const { seconds(60, 300) };
        Self {
            token_rejected: const { seconds(10, 120) },
            busy: at_the_next_tick,
            day_quota: 30 * MINUTE,
            address_not_allowed: const { seconds(30, 120) },
            not_authorized: until_a_person_acts,
            not_enabled: until_a_person_acts,
            unbound: at_the_next_tick,
            bad_request: at_the_next_tick,
            unknown: at_the_next_tick,
        }
    }
}

impl BackoffPolicy {
    /// The wait after this many consecutive failures of a class, and the longest that `Retry-After` may ask for.
    fn wait_and_limit(
        &self,
        class: ErrorClass,
        failures: u32,
        now: Moment,
        jitter: f64,
    ) -> (Duration, Duration) {
        let growing = |backoff: ExponentialBackoff| (backoff.wait(failures, jitter), backoff.longest);
        // WeChat's clock decides the other classes, without jitter: an earlier retry would fail again.
        match class {
            ErrorClass::TokenRejected => growing(self.token_rejected),
            ErrorClass::Busy | ErrorClass::TlsOrProxyRefused => growing(self.busy),
            ErrorClass::MinuteQuota => {
                (until_next(MINUTE, now, Duration::ZERO) + QUOTA_RESET_MARGIN, MINUTE + QUOTA_RESET_MARGIN)
            }
            ErrorClass::DayQuota => {
                let midnight = until_next(DAY, now, CHINA_UTC_OFFSET) + QUOTA_RESET_MARGIN;
                (self.day_quota.min(midnight), self.day_quota)
            }
            ErrorClass::AddressNotAllowed => growing(self.address_not_allowed),
            ErrorClass::AddressRefusedForHour => (HOUR, HOUR),
            ErrorClass::AddressRefusedForDay => (DAY, DAY),
            ErrorClass::NotAuthorized => growing(self.not_authorized),
            ErrorClass::NotEnabled => growing(self.not_enabled),
            ErrorClass::InvalidAccount | ErrorClass::UnboundAccount => growing(self.unbound),
            ErrorClass::BadRequest => growing(self.bad_request),
            ErrorClass::Unknown => growing(self.unknown),
        }
    }
}

/// From `now` until the wall clock, at this UTC offset, next shows a multiple of the period.
fn until_next(period: Duration, now: Moment, utc_offset: Duration) -> Duration {
    let shown = now.wall.as_second().saturating_add_unsigned(utc_offset.as_secs());
    let elapsed = shown.rem_euclid(period.as_secs() as i64);
    period - Duration::from_secs(elapsed.unsigned_abs())
}

/// The backoff that a failed call started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub(crate) class: ErrorClass,
    /// When it ends, on the monotonic clock.
    pub(crate) until: Duration,
    /// How many consecutive failures of this class led to it.
    pub(crate) failures: u32,
    /// When it began, on the monotonic clock.
    started_at: Duration,
}

/// A failed call, as far as its backoff depends on it.
#[derive(Clone, Copy, Debug)]
pub struct FailedCall {
    pub(crate) class: ErrorClass,
    pub(crate) sent_at: Moment,
    /// What the answer asked for in `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
}

impl Backoff {
    /// The backoff after a call whose failure is known at `now`. `jitter` is a random number from 0 to 1.
    ///
    /// A request that was in flight when the previous backoff started belongs to the same failure and does not make the wait
    /// grow: sixteen requests in flight that fail together are one failure.
    pub fn after(
        policy: &BackoffPolicy,
        previous: Option<&Self>,
        failed: FailedCall,
        now: Moment,
        jitter: f64,
    ) -> Self {
        let FailedCall { class, sent_at, retry_after } = failed;
        let in_flight_since = |backoff: &&Self| sent_at.monotonic < backoff.started_at;
        let same = previous.filter(|backoff| backoff.class == class);
        if let Some(same) = same.filter(in_flight_since) {
            return *same;
        }
        let failures = same.map_or(1, |backoff| backoff.failures.saturating_add(1));
        let (wait, limit) = policy.wait_and_limit(class, failures, now, jitter);
        let wait = wait.max(retry_after.unwrap_or_default().min(limit));
        let backoff = Self { class, until: now.monotonic + wait, failures, started_at: now.monotonic };
        match previous.filter(in_flight_since) {
            // Nor does such a request shorten a longer backoff of another class.
            Some(longer) if longer.until > backoff.until => *longer,
            _ => backoff,
        }
    }

    /// Whether it has not ended yet.
    pub fn is_active_at(&self, now: Moment) -> bool {
        now.monotonic < self.until
    }

    /// Whether the success of a request that was sent then ends this backoff. One that was in flight before does not.
    pub fn ended_by_request_sent_at(&self, sent_at: Moment) -> bool {
        sent_at.monotonic >= self.started_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const CLASSES: [ErrorClass; 14] = [
        ErrorClass::TokenRejected,
        ErrorClass::TlsOrProxyRefused,
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

    fn after(previous: Option<&Backoff>, failed: FailedCall, now: Moment, jitter: f64) -> Backoff {
        Backoff::after(&BackoffPolicy::default(), previous, failed, now, jitter)
    }

    fn failed_call(class: ErrorClass, sent_at: Moment) -> FailedCall {
        FailedCall { class, sent_at, retry_after: None }
    }

    /// The waits in seconds of consecutive failures, each sent when the previous backoff had ended.
    fn waits(policy: &BackoffPolicy, class: ErrorClass, count: usize) -> Vec<u64> {
        let mut backoff: Option<Backoff> = None;
        let mut now = at("2026-11-22T04:22:45Z", 1000);
        let mut waits = Vec::new();
        for _ in 0..count {
            let next = Backoff::after(policy, backoff.as_ref(), failed_call(class, now), now, 0.0);
            waits.push((next.until - now.monotonic).as_secs());
            now.monotonic = next.until;
            backoff = Some(next);
        }
        waits
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = |first, longest| {
            let [first, longest] = [first, longest].map(Duration::from_millis);
            let backoff = ExponentialBackoff::try_new(first, longest).unwrap();
            [1, 2, 3, 8, 9, 100, u32::MAX].map(|failures| backoff.wait(failures, 0.0).as_millis())
        };
        assert_eq!(waits(500, 60_000), [500, 1000, 2000, 60_000, 60_000, 60_000, 60_000]);
        assert_eq!(waits(0, 60_000), [0, 2000, 4000, 60_000, 60_000, 60_000, 60_000]);
        assert_eq!(waits(5000, 5000), [5000; 7]);
    }

    #[test]
    fn jitter_shortens_waits_by_up_to_a_fifth() {
        let backoff = ExponentialBackoff::try_new(10 * SECOND, MINUTE).unwrap();
        assert_eq!(backoff.wait(1, 0.5), 9 * SECOND);
        assert_eq!(backoff.wait(100, 1.0), 48 * SECOND);
        let delays = RetryDelays(&[SECOND, MINUTE]);
        assert_eq!([0, 1, 2].map(|made| delays.next(made, 0.0)), [Some(SECOND), Some(MINUTE), None]);
        assert_eq!(delays.next(1, 1.0), Some(48 * SECOND));
    }

    #[test]
    fn invalid_waits_are_refused() {
        assert_eq!(ExponentialBackoff::try_new(MINUTE, SECOND), None);
        assert_eq!(ExponentialBackoff::try_new(Duration::ZERO, Duration::ZERO), None);
    }

    #[test]
    fn waits_grow_to_the_limit_of_their_class() {
        let waits = |class, count| waits(&BackoffPolicy::default(), class, count);
        assert_eq!(waits(ErrorClass::Busy, 8), [0, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(ErrorClass::UnboundAccount, 8), [0, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(ErrorClass::TokenRejected, 5), [10, 20, 40, 80, 120]);
        assert_eq!(waits(ErrorClass::AddressNotAllowed, 4), [30, 60, 120, 120]);
        assert_eq!(waits(ErrorClass::NotAuthorized, 4), [60, 120, 240, 300]);
        assert_eq!(waits(ErrorClass::AddressRefusedForDay, 2), [86_400, 86_400]);
    }

    #[test]
    fn quotas_and_refusals_end_by_the_clock_of_wechat() {
        for (class, time, seconds) in [
            (ErrorClass::MinuteQuota, "2026-11-22T07:22:45Z", 15 + 2),
            (ErrorClass::DayQuota, "2026-11-22T04:00:00Z", 1800),
            // Ten minutes before midnight in China.
            (ErrorClass::DayQuota, "2026-11-22T15:50:00Z", 600 + 2),
            (ErrorClass::AddressRefusedForHour, "2026-11-22T04:00:00Z", 3600),
            (ErrorClass::AddressRefusedForDay, "2026-11-22T04:00:00Z", 86_400),
        ] {
            let now = at(time, 7);
            let backoff = after(None, failed_call(class, now), now, 1.0);
            assert_eq!(backoff.until, Duration::from_secs(7 + seconds), "{class:?} at {time}");
        }
    }

    #[test]
    fn requests_that_fail_together_count_as_one_failure() {
        let (sent, failed) = (at("2026-11-22T07:00:00Z", 10), at("2026-11-22T07:00:01Z", 11));
        let first = after(None, failed_call(ErrorClass::NotAuthorized, sent), failed, 0.0);
        let later = at("2026-11-22T07:00:02Z", 12);
        assert_eq!(after(Some(&first), failed_call(ErrorClass::NotAuthorized, sent), later, 0.0), first);
        assert!(!first.ended_by_request_sent_at(sent));
        assert!(first.ended_by_request_sent_at(later));
    }

    #[test]
    fn request_in_flight_does_not_shorten_longer_backoff() {
        let (sent, failed) = (at("2026-11-22T07:00:00Z", 10), at("2026-11-22T07:00:01Z", 11));
        let day = after(None, failed_call(ErrorClass::AddressRefusedForDay, sent), failed, 0.0);
        let later = at("2026-11-22T07:00:02Z", 12);
        assert_eq!(after(Some(&day), failed_call(ErrorClass::NotAuthorized, sent), later, 0.0), day);
        let retried = after(Some(&day), failed_call(ErrorClass::NotAuthorized, later), later, 0.0);
        assert_eq!(retried.class, ErrorClass::NotAuthorized);
    }

    #[test]
    fn another_class_counts_failures_from_one() {
        let now = at("2026-11-22T07:00:00Z", 10);
        let first = after(None, failed_call(ErrorClass::NotAuthorized, now), now, 0.0);
        let second = after(Some(&first), failed_call(ErrorClass::TokenRejected, now), now, 0.0);
        assert_eq!(second.failures, 1);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_the_longest_wait() {
        let now = at("2026-11-22T07:00:00Z", 0);
        let until = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            after(None, FailedCall { class: ErrorClass::Busy, sent_at: now, retry_after }, now, 0.0).until
        };
        assert_eq!(until(40), Duration::from_secs(40));
        assert_eq!(until(4000), Duration::from_secs(60));
    }

    #[test]
    fn configured_waits_are_used() {
        let wait = ExponentialBackoff::constant(5 * SECOND, 20 * SECOND);
        let policy =
            BackoffPolicy { busy: wait, unbound: wait, day_quota: MINUTE, ..BackoffPolicy::default() };
        assert_eq!(waits(&policy, ErrorClass::Busy, 3), [5, 10, 20]);
        assert_eq!(waits(&policy, ErrorClass::InvalidAccount, 3), [5, 10, 20]);
        assert_eq!(waits(&policy, ErrorClass::DayQuota, 3), [60, 60, 60]);
    }

    prop_compose! {
        /// As the configuration accepts it: the longest wait from a second to a day.
        fn accepted()(longest in 1..=DAY.as_secs(), share in 0.0..=1.0f64) -> ExponentialBackoff {
            let longest = Duration::from_secs(longest);
            ExponentialBackoff::try_new(longest.mul_f64(share), longest).unwrap()
        }
    }

    prop_compose! {
        fn accepted_policy()(waits in prop::array::uniform8(accepted()), day_quota in 1..=DAY.as_secs()) -> BackoffPolicy {
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
            backoff_policy in prop_oneof![Just(BackoffPolicy::default()), accepted_policy()],
            classes in prop::collection::vec(prop::sample::select(&CLASSES[..]), 1..40),
            jitter in 0.0..=1.0f64,
            second in 0..200_000i64,
            retry_after in prop::option::of(0..=u64::MAX / 2),
        ) {
            let mut now = Moment { wall: jiff::Timestamp::from_second(second).unwrap(), monotonic: Duration::ZERO };
            let mut backoff: Option<Backoff> = None;
            for class in classes {
                let failed = FailedCall { class, sent_at: now, retry_after: retry_after.map(Duration::from_secs) };
                let plain = Backoff::after(&backoff_policy, backoff.as_ref(), failed, now, 0.0);
                let jittered = Backoff::after(&backoff_policy, backoff.as_ref(), failed, now, jitter);
                prop_assert!(jittered.until <= plain.until);
                prop_assert!(plain.until - now.monotonic <= DAY);
                prop_assert!((jittered.until - now.monotonic).as_secs_f64() >= 0.79 * (plain.until - now.monotonic).as_secs_f64());
                prop_assert!(!plain.is_active_at(Moment { monotonic: plain.until, ..now }), "retried then");
                now.monotonic = plain.until;
                backoff = Some(plain);
            }
        }
    }
}
