//! The lease: whether this process may act for its accounts, or another process may already do so.
//!
//! The store rejects every commit of a process that lost its lease. A commit comes last, so everything that others can see
//! before it asks the lease as well: each poll, collection, token fetch and delivery attempt asks before it starts, and each
//! scrape before it exports accounts. Work that has started finishes; the store decides about its commit.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use super::clock::Moment;

/// Until when this process may act for its accounts. All its methods may be called from any thread.
#[derive(Debug)]
pub struct Lease {
    /// The end, in microseconds of the monotonic clock.
    trusted_until: AtomicU64,
    is_revoked: AtomicBool,
    is_suspended: AtomicBool,
}

/// The end of a lease that does not end by itself.
const UNLIMITED: u64 = u64::MAX;

impl Lease {
    /// A lease that is trusted until it is revoked: a lock, which no other process can take, guarantees it.
    pub fn unlimited() -> Self {
        Self {
            trusted_until: AtomicU64::new(UNLIMITED),
            is_revoked: AtomicBool::new(false),
            is_suspended: AtomicBool::new(false),
        }
    }

    /// A lease that is trusted until the monotonic clock shows this time.
    pub fn until(monotonic: Duration) -> Self {
        Self { trusted_until: AtomicU64::new(micros(monotonic)), ..Self::unlimited() }
    }

    /// Whether this process may start something for its accounts now.
    pub fn is_trusted(&self, now: Moment) -> bool {
        !self.is_revoked.load(Ordering::Relaxed)
            && !self.is_suspended.load(Ordering::Relaxed)
            && micros(now.monotonic) < self.trusted_until.load(Ordering::Relaxed)
    }

    /// Extends the lease until the monotonic clock shows this time. Never shortens it, so that renewals may arrive in any order.
    pub fn trust_until(&self, monotonic: Duration) {
        self.trusted_until.fetch_max(micros(monotonic), Ordering::Relaxed);
    }

    /// Suspends the lease, or ends a suspension: it is not trusted meanwhile, and nothing is forgotten.
    pub fn set_suspended(&self, is_suspended: bool) {
        self.is_suspended.store(is_suspended, Ordering::Relaxed);
    }

    /// Records that the lease is lost. It is never trusted again, whatever renewals arrive.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }
}

/// Less than [`UNLIMITED`].
fn micros(monotonic: Duration) -> u64 {
    u64::try_from(monotonic.as_micros()).unwrap_or(UNLIMITED).min(UNLIMITED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::at;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn unlimited_lease_is_trusted_until_revoked() {
        let lease = Lease::unlimited();
        let latest = Moment { monotonic: Duration::MAX, ..at(0) };
        assert!(lease.is_trusted(at(0)) && lease.is_trusted(latest));
        lease.trust_until(seconds(1));
        assert!(lease.is_trusted(latest));
        lease.revoke();
        assert!(!lease.is_trusted(at(0)));
    }

    #[test]
    fn limited_lease_ends_unless_renewed() {
        let lease = Lease::until(seconds(10));
        assert!(lease.is_trusted(at(9)) && !lease.is_trusted(at(10)));
        lease.trust_until(seconds(20));
        assert!(lease.is_trusted(at(19)) && !lease.is_trusted(at(20)));
    }

    #[test]
    fn late_renewal_does_not_shorten_lease() {
        let lease = Lease::until(seconds(10));
        lease.trust_until(seconds(5));
        assert!(lease.is_trusted(at(9)));
    }

    #[test]
    fn revoked_lease_is_never_trusted_again() {
        let lease = Lease::until(seconds(10));
        lease.revoke();
        lease.trust_until(seconds(20));
        assert!(!lease.is_trusted(at(0)) && !lease.is_trusted(at(15)));
    }
}
