//! The rate_limiter of one official account's calls: `max_requests_per_minute`, evenly spaced.
//!
//! Each call takes a permit just before it is made; token calls need none, for they have a floor of their own. Permits go
//! to two kinds of callers: the queue of polls, which must not stand still and asks again later
//! ([`RateLimiter::try_permit`]), and all other calls: those of collectors, which ask again later as well
//! ([`RateLimiter::try_permit_beside_polls`]), and repeats with a new token, which are under way and wait ([`RateLimiter::permit`]). When both want more than there is they take turns, so that neither starves the other.
//!
//! Waiting is done on tokio's timer and not by governor, whose own timer is a thread of its own.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota,
    clock::Clock as _,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::domain::clock::Clock;

/// From here on there is more than one call in 10 ms: timers, which are only good to a millisecond or two, may make up
/// for being late.
const LATE_TIMERS_MATTER_FROM: u32 = 6_000;

/// Spaces the calls of one official account.
pub struct RateLimiter {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Duration>>,
    spacing: Duration,
    turns: Mutex<Turns>,
}

/// Who wants permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Queue,
    Call,
}

/// Who had the last permit, and who wants the next one.
#[derive(Default)]
struct Turns {
    last: Option<Caller>,
    queue_waits: bool,
    calls_waiting: usize,
    /// A call that was sent away will ask again.
    call_comes_back: bool,
}

impl RateLimiter {
    /// Lets so many calls a minute through: no 60 s see more than one call more, and for each full 6,000 of the limit
    /// another one.
    pub fn new(max_requests_per_minute: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let quota = quota(max_requests_per_minute);
        Self {
            limiter: governor::RateLimiter::direct_with_clock(quota, Monotonic(clock)),
            spacing: quota.replenish_interval(),
            turns: Mutex::default(),
        }
    }

    /// The time between two calls.
    pub fn spacing(&self) -> Duration {
        self.spacing
    }

    /// Takes a permit for a poll that is in the queue; if there is none, says when to ask again.
    pub fn try_permit(&self) -> Result<(), Duration> {
        self.take(Caller::Queue)
    }

    /// Takes a permit for a call that is not a poll's; if there is none, says when to ask again.
    pub fn try_permit_beside_polls(&self) -> Result<(), Duration> {
        let taken = self.take(Caller::Call);
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).call_comes_back = taken.is_err();
        taken
    }

    /// Waits for a permit.
    pub async fn permit(&self) {
        let _waiting = Waiting::among(&self.turns);
        while let Err(wait) = self.take(Caller::Call) {
            tokio::time::sleep(wait).await;
        }
    }

    fn take(&self, caller: Caller) -> Result<(), Duration> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = if turns.last == Some(caller) && turns.other_waits(caller) {
            // Only once: it may be that the other does not come after all.
            turns.last = None;
            Err(self.spacing)
        } else {
            self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
        };
        if taken.is_ok() {
            turns.last = Some(caller);
        }
        if caller == Caller::Queue {
            turns.queue_waits = taken.is_err();
        }
        taken
    }
}

impl Turns {
    fn other_waits(&self, caller: Caller) -> bool {
        match caller {
            Caller::Queue => self.calls_waiting > 0 || self.call_comes_back,
            Caller::Call => self.queue_waits,
        }
    }
}

/// A call that waits, for as long as it does.
struct Waiting<'a>(&'a Mutex<Turns>);

impl<'a> Waiting<'a> {
    fn among(turns: &'a Mutex<Turns>) -> Self {
        turns.lock().unwrap_or_else(PoisonError::into_inner).calls_waiting += 1;
        Self(turns)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).calls_waiting -= 1;
    }
}

/// The program's monotonic clock, for governor.
struct Monotonic(Arc<dyn Clock>);

impl governor::clock::Clock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now().monotonic
    }
}

fn quota(max_requests_per_minute: NonZeroU32) -> Quota {
    let catch_up = max_requests_per_minute.get() / LATE_TIMERS_MATTER_FROM;
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

    /// A monotonic clock that is set by hand, in nanoseconds.
    #[derive(Default)]
    struct ByHand(AtomicU64);

    impl ByHand {
        fn pass(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    impl Clock for ByHand {
        fn now(&self) -> Moment {
            let monotonic = Duration::from_nanos(self.0.load(Ordering::Relaxed));
            Moment { wall: Timestamp::UNIX_EPOCH, monotonic }
        }
    }

    fn rate_limiter(max_requests_per_minute: u32) -> (RateLimiter, Arc<ByHand>) {
        let clock = Arc::new(ByHand::default());
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
        assert_eq!(rate_limiter.try_permit(), Ok(()));
        assert_eq!(rate_limiter.try_permit(), Err(Duration::from_millis(500)));
        clock.pass(Duration::from_millis(200));
        assert_eq!(rate_limiter.try_permit(), Err(Duration::from_millis(300)));
        clock.pass(Duration::from_millis(300));
        assert_eq!(rate_limiter.try_permit(), Ok(()));
    }

    #[test]
    fn time_without_calls_is_not_made_up_for() {
        let (rate_limiter, clock) = rate_limiter(60);
        clock.pass(10 * MINUTE);
        assert_eq!(rate_limiter.try_permit(), Ok(()));
        assert_eq!(rate_limiter.try_permit(), Err(Duration::from_secs(1)));
    }

    #[test]
    fn the_queue_and_waiting_calls_take_turns() {
        let (rate_limiter, clock) = rate_limiter(60);
        let _waiting = Waiting::among(&rate_limiter.turns);
        let mut permits = Vec::new();
        for _ in 0..10 {
            // The queue is always the first to ask.
            for caller in [Caller::Queue, Caller::Call] {
                if rate_limiter.take(caller).is_ok() {
                    permits.push(caller);
                }
            }
            clock.pass(Duration::from_secs(1));
        }
        let of_the_queue = permits.iter().filter(|caller| **caller == Caller::Queue).count();
        assert_eq!((permits.len(), of_the_queue), (10, 5), "{permits:?}");
    }

    #[test]
    fn the_queue_and_calls_that_come_back_take_turns() {
        let (rate_limiter, clock) = rate_limiter(60);
        let (mut polls, mut calls) = (0, 0);
        for _ in 0..10 {
            polls += u32::from(rate_limiter.try_permit().is_ok());
            calls += u32::from(rate_limiter.try_permit_beside_polls().is_ok());
            clock.pass(Duration::from_secs(1));
        }
        assert_eq!((polls, calls), (5, 5));
    }

    #[test]
    fn who_waited_and_went_away_holds_nobody_up_for_long() {
        let (rate_limiter, clock) = rate_limiter(60);
        assert_eq!(rate_limiter.try_permit(), Ok(()));
        assert!(rate_limiter.try_permit().is_err(), "the queue waits, and is never seen again");
        for _ in 0..3 {
            clock.pass(2 * Duration::from_secs(1));
            let permits = [rate_limiter.take(Caller::Call), rate_limiter.take(Caller::Call)];
            assert!(permits.contains(&Ok(())), "{permits:?}");
        }
    }

    #[tokio::test]
    async fn a_call_waits_for_its_permit() {
        let (rate_limiter, clock) = rate_limiter(60_000);
        // What is let through at once is used up.
        while rate_limiter.try_permit().is_ok() {}
        clock.pass(Duration::from_millis(2));
        tokio::time::timeout(MINUTE, rate_limiter.permit()).await.unwrap();
        assert_eq!(rate_limiter.turns.lock().unwrap().calls_waiting, 0);
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_the_limit_and_one(
            limit in 1_u32..5_999,
            steps in proptest::collection::vec(0_u64..2_000, 1..400),
        ) {
            let (rate_limiter, clock) = rate_limiter(limit);
            let mut permits: Vec<Duration> = Vec::new();
            for step in steps {
                clock.pass(Duration::from_millis(step));
                if rate_limiter.try_permit().is_ok() {
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
