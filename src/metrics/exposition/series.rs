//! Counts the series that a configuration makes, for those who pay for each.

use super::{Detail, accounts, calls, collected, log, sinks, stored};
use crate::{
    domain::{agents::Collector, collector_intervals::CollectorIntervals},
    metrics::Metrics,
};

/// How many of each a configuration has.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub struct ConfiguredParts {
    pub official_accounts: u64,
    pub kf_accounts: u64,
    pub sinks: u64,
}

/// The most series that a configuration makes, apart from errors, which have a series for each code that occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesCount {
    /// For each kf account; 0 if metrics are sums per official account.
    pub per_kf_account: u64,
    /// For everything.
    pub in_all: u64,
}

impl SeriesCount {
    /// Counts the series of a daemon that watches these parts.
    pub fn new(
        parts: ConfiguredParts,
        collectors: &CollectorIntervals,
        detail: Detail,
    ) -> Result<Self, prometheus::Error> {
        let running = Collector::ALL.iter().filter(|collector| collectors.get(**collector).is_some());
        let running: Vec<Collector> = running.copied().collect();
        let of_accounts = accounts::families_from(&running);
        let (per_kf_account, sums) = match detail {
            Detail::PerAccount => (of_accounts + u64::from(running.contains(&Collector::KfList)), 0),
            Detail::PerAccountWithoutNicknames => (of_accounts, 0),
            Detail::PerOfficialAccount => (0, of_accounts),
        };
        // getsessionlist, the collectors, and a call that fetches tokens.
        let endpoints = 2 + running.len() as u64;
        let per_official_account = sums
            + accounts::SERIES_PER_OFFICIAL_ACCOUNT
            + endpoints
            + calls::TOKEN_FAMILIES.len() as u64
            + collected::series_from(&running);
        let process = fixed()?
            + endpoints * Metrics::SERIES_PER_ENDPOINT
            + (stored::FAMILIES.len() + log::FAMILIES.len()) as u64;
        let in_all = per_kf_account * parts.kf_accounts
            + per_official_account * parts.official_accounts
            + sinks::FAMILIES.len() as u64 * parts.sinks
            + process;
        Ok(Self { per_kf_account, in_all })
    }
}

/// The series of the registry before any call.
fn fixed() -> Result<u64, prometheus::Error> {
    let mut page = Vec::new();
    Metrics::new()?.encode(&mut page)?;
    let lines =
        page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line.first() != Some(&b'#'));
    // The clock skew is unknown at first.
    Ok(lines.count() as u64 + 1)
}
