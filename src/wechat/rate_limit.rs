//! The rate limit of one official account's calls: `max_requests_per_minute`, evenly spaced.
//!
//! Each call needs a permit just before it is made. Token calls need none, because they have a minimum interval of their
//! own. Polls ([`RateLimiter::try_permit_for_poll`]) and collectors ([`RateLimiter::try_permit_for_collector`]) try to get
//! one, and come back later if there is none. A retry with a new token waits for its permit ([`RateLimiter::permit`]). If
//! there are too few permits, polls and the other calls get them in turn.
//!
//! Waiting uses tokio's timer, because governor's own timer needs a thread.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota,
    clock::Clock as _,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::domain::clock::Clock;

/// From this limit on there is more than one call in 10 ms. Timers are only accurate to a millisecond or two, so calls
/// may catch up after a late timer.
const CATCH_UP_FROM: u32 = 6_000;

/// Spaces the calls of one official account.
pub struct RateLimiter {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Duration>>,
    spacing: Duration,
    contention: Mutex<Contention>,
}

/// Who asks for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requester {
    Poll,
    OtherCall,
}

/// Who got the last permit, and who waits for the next one.
#[derive(Default)]
struct Contention {
    last: Option<Requester>,
    poll_waits: bool,
    calls_waiting: usize,
    /// A collector got no permit and will ask again.
    collector_waits: bool,
}

impl RateLimiter {
    /// Allows `max_requests_per_minute` calls. In any 60 s there is at most one call more, and another one for each full
    /// 6,000 of the limit.
    pub fn new(max_requests_per_minute: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let quota = quota(max_requests_per_minute);
        Self {
            limiter: governor::RateLimiter::direct_with_clock(quota, MonotonicClock(clock)),
            spacing: quota.replenish_interval(),
            contention: Mutex::default(),
        }
    }

    /// The time between two calls.
    pub fn spacing(&self) -> Duration {
        self.spacing
    }

    /// Takes a permit for a poll in the queue. Without one, the error says when to ask again.
    pub fn try_permit_for_poll(&self) -> Result<(), Duration> {
        self.request(Requester::Poll)
    }

    /// Takes a permit for a collector. Without one, the error says when to ask again.
    pub fn try_permit_for_collector(&self) -> Result<(), Duration> {
        let permit = self.request(Requester::OtherCall);
        lock(&self.contention).collector_waits = permit.is_err();
        permit
    }

    /// Waits for a permit.
    pub async fn permit(&self) {
        let _waiting = WaitingCall::new(&self.contention);
        while let Err(wait) = self.request(Requester::OtherCall) {
            tokio::time::sleep(wait).await;
        }
    }

    fn request(&self, requester: Requester) -> Result<(), Duration> {
        let mut contention = lock(&self.contention);
        let permit = if contention.last == Some(requester) && contention.other_waits(requester) {
            // Yields only once: the other requester may have gone away.
            contention.last = None;
            Err(self.spacing)
        } else {
            self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
        };
        if permit.is_ok() {
            contention.last = Some(requester);
        }
        if requester == Requester::Poll {
            contention.poll_waits = permit.is_err();
        }
        permit
    }
}

impl Contention {
    fn other_waits(&self, requester: Requester) -> bool {
        match requester {
            Requester::Poll => self.calls_waiting > 0 || self.collector_waits,
            Requester::OtherCall => self.poll_waits,
        }
    }
}

/// Counts a waiting call while it exists.
struct WaitingCall<'a>(&'a Mutex<Contention>);

impl<'a> WaitingCall<'a> {
    fn new(contention: &'a Mutex<Contention>) -> Self {
        lock(contention).calls_waiting += 1;
        Self(contention)
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        lock(self.0).calls_waiting -= 1;
    }
}

fn lock(contention: &Mutex<Contention>) -> MutexGuard<'_, Contention> {
    contention.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program's monotonic clock, for governor.
struct MonotonicClock(Arc<dyn Clock>);

impl governor::clock::Clock for MonotonicClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now().monotonic
    }
}

fn quota(max_requests_per_minute: NonZeroU32) -> Quota {
    let catch_up = max_requests_per_minute.get() / CATCH_UP_FROM;
    Quota::per_minute(max_requests_per_minute).allow_burst(NonZeroU32::MIN.saturating_add(catch_up))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::Moment;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A monotonic clock that is set manually, in nanoseconds.
    #[derive(Default)]
    struct ManualClock(AtomicU64);

    impl ManualClock {
        fn pass(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Moment {
            let monotonic = Duration::from_nanos(self.0.load(Ordering::Relaxed));
            Moment { wall: Timestamp::UNIX_EPOCH, monotonic }
        }
    }

    fn rate_limiter(max_requests_per_minute: u32) -> (RateLimiter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (RateLimiter::new(NonZeroU32::new(max_requests_per_minute).unwrap(), Arc::clone(&clock) as _), clock)
    }

    #[test]
    fn permits_are_evenly_spaced() {
        for (limit, spacing, at_once) in [
            (1, MINUTE, 1),
            (120, MINUTE / 120, 1),
            (5_999, MINUTE / 5_999, 1),
            (600_000, MINUTE / 600_000, 101),
        ] {
            let quota = quota(NonZeroU32::new(limit).unwrap());
            assert_eq!((quota.replenish_interval(), quota.burst_size().get()), (spacing, at_once), "{limit}");
        }
        let (rate_limiter, clock) = rate_limiter(120);
        assert_eq!(rate_limiter.try_permit_for_poll(), Ok(()));
        assert_eq!(rate_limiter.try_permit_for_poll(), Err(Duration::from_millis(500)));
        clock.pass(Duration::from_millis(200));
        assert_eq!(rate_limiter.try_permit_for_poll(), Err(Duration::from_millis(300)));
        clock.pass(Duration::from_millis(300));
        assert_eq!(rate_limiter.try_permit_for_poll(), Ok(()));
    }

    #[test]
    fn unused_permits_do_not_accumulate() {
        let (rate_limiter, clock) = rate_limiter(60);
        clock.pass(10 * MINUTE);
        assert_eq!(rate_limiter.try_permit_for_poll(), Ok(()));
        assert_eq!(rate_limiter.try_permit_for_poll(), Err(Duration::from_secs(1)));
    }

    #[test]
    fn polls_and_waiting_calls_alternate() {
        let (rate_limiter, clock) = rate_limiter(60);
        let _waiting = WaitingCall::new(&rate_limiter.contention);
        let mut permits = Vec::new();
        for _ in 0..10 {
            // Polls always ask first.
            for requester in [Requester::Poll, Requester::OtherCall] {
                if rate_limiter.request(requester).is_ok() {
                    permits.push(requester);
                }
            }
            clock.pass(Duration::from_secs(1));
        }
        let polls = permits.iter().filter(|requester| **requester == Requester::Poll).count();
        assert_eq!((permits.len(), polls), (10, 5), "{permits:?}");
    }

    #[test]
    fn polls_and_collectors_that_ask_again_alternate() {
        let (rate_limiter, clock) = rate_limiter(60);
        let (mut polls, mut calls) = (0, 0);
        for _ in 0..10 {
            polls += u32::from(rate_limiter.try_permit_for_poll().is_ok());
            calls += u32::from(rate_limiter.try_permit_for_collector().is_ok());
            clock.pass(Duration::from_secs(1));
        }
        assert_eq!((polls, calls), (5, 5));
    }

    #[test]
    fn requester_that_went_away_delays_others_only_briefly() {
        let (rate_limiter, clock) = rate_limiter(60);
        assert_eq!(rate_limiter.try_permit_for_poll(), Ok(()));
        assert!(rate_limiter.try_permit_for_poll().is_err(), "the poll waits, and never asks again");
        for _ in 0..3 {
            clock.pass(2 * Duration::from_secs(1));
            let permits = [Requester::OtherCall; 2].map(|requester| rate_limiter.request(requester));
            assert!(permits.contains(&Ok(())), "{permits:?}");
        }
    }

    #[tokio::test]
    async fn call_waits_for_its_permit() {
        let (rate_limiter, clock) = rate_limiter(60_000);
        // Use up the burst.
        while rate_limiter.try_permit_for_poll().is_ok() {}
        clock.pass(Duration::from_millis(2));
        tokio::time::timeout(MINUTE, rate_limiter.permit()).await.unwrap();
        assert_eq!(rate_limiter.contention.lock().unwrap().calls_waiting, 0);
    }

    proptest! {
        #[test]
        fn no_minute_exceeds_the_limit_by_more_than_one(
            limit in 1_u32..5_999,
            steps in proptest::collection::vec(0_u64..2_000, 1..400),
        ) {
            let (rate_limiter, clock) = rate_limiter(limit);
            let mut permits: Vec<Duration> = Vec::new();
            for step in steps {
                clock.pass(Duration::from_millis(step));
                if rate_limiter.try_permit_for_poll().is_ok() {
                    permits.push(clock.now().monotonic);
                }
            }
            for (n, first) in permits.iter().enumerate() {
                let in_minute = permits[n..].iter().take_while(|at| **at - *first < MINUTE).count();
                prop_assert!(in_minute <= limit as usize + 1);
            }
        }
    }
}
