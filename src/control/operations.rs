//! Polls and checks all accounts for `kfwatch poll` and `kfwatch check --online`, in the daemon or without one.

use std::{collections::HashMap, sync::Arc};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

pub(crate) use super::{check::ConfiguredOfficialAccount, requests::CommandLimits};
use super::{
    check::check,
    poll::poll,
    quota::TickCounts,
    report::{CheckReport, PollReport},
    requests::CommandRequests,
};
use crate::{domain::clock::Clock, wechat::token::MIN_FETCH_INTERVAL};

/// Polls and checks official accounts on command.
pub(crate) struct Operations {
    official_accounts: Vec<ConfiguredOfficialAccount>,
    clock: Arc<dyn Clock>,
    requests: CommandRequests,
}

impl Operations {
    pub(crate) fn new(
        official_accounts: Vec<ConfiguredOfficialAccount>,
        clock: Arc<dyn Clock>,
        limits: CommandLimits,
    ) -> Self {
        let requests = CommandRequests::new(Arc::clone(&clock), limits);
        Self { official_accounts, clock, requests }
    }

    /// Why the next command has to wait before it calls WeChat, in one line for all official accounts; `None` if it does not.
    pub(crate) fn token_wait(&self) -> Option<String> {
        let waiting = || {
            let official_accounts =
                self.official_accounts.iter().map(|configured| &configured.official_account);
            official_accounts.filter(|of| !of.token_wait().is_zero())
        };
        let longest = waiting().map(|of| of.token_wait()).max()?;
        let who = match waiting().count() {
            1 => waiting().map(|of| of.status.name.to_string()).collect(),
            count => format!("{count} official accounts"),
        };
        let (seconds, interval) = (longest.as_secs_f64().ceil(), MIN_FETCH_INTERVAL.as_secs());
        Some(format!(
            "waiting {seconds} s for the next token fetch of {who}: kfwatch fetches tokens at most once in {interval} s"
        ))
    }

    /// Polls every kf account once. Reports come in the order of the configuration.
    pub(crate) fn polls(&self) -> BoxStream<'_, PollReport> {
        let official_accounts = self.official_accounts.iter();
        self.in_order(
            official_accounts.map(|configured| poll(&self.requests, &configured.official_account).boxed()),
        )
    }

    /// Checks every official account and kf account. Reports come in the order of the configuration, each official account before
    /// its kf accounts.
    pub(crate) fn checks(&self) -> BoxStream<'_, CheckReport> {
        let now = self.clock.now().wall;
        // Most official accounts share a schedule, and counting the ticks of one takes a while.
        let mut ticks = HashMap::new();
        self.in_order(self.official_accounts.iter().map(move |configured| {
            let schedule = &configured.schedule;
            let ticks = *ticks.entry(schedule).or_insert_with(|| TickCounts::new(schedule, now));
            check(&self.requests, configured, ticks).boxed()
        }))
    }

    /// Works on as many official accounts at the same time as requests may be in flight.
    fn in_order<'a, T: Send + 'a>(
        &self,
        reports: impl Iterator<Item = BoxFuture<'a, Vec<T>>> + Send + 'a,
    ) -> BoxStream<'a, T> {
        stream::iter(reports).buffered(self.requests.limits.in_flight).flat_map(stream::iter).boxed()
    }
}
