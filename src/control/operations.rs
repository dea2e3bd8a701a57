//! Polls and checks accounts for `kfwatch poll` and `kfwatch check --online`, in the daemon or without one, and lists the sessions that
//! the daemon knows.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
    selection::{names, needs_list, selected_accounts},
    sessions::{self, SessionReport},
};
use crate::{
    domain::{
        account_filter::{AccountFilter, UnknownAccount},
        clock::Clock,
    },
    status::WatchedAccount,
    wechat::token::MIN_FETCH_INTERVAL,
};

/// Official accounts that are asked with getkflist whether they have the account that a person means.
const MAX_ASKED: usize = 10;

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

    /// Why the next command for these accounts has to wait before it calls WeChat, in one line for all official accounts; `None` if it
    /// does not.
    pub(crate) fn token_wait(&self, filter: &AccountFilter) -> Option<String> {
        let selected = self.selected(filter).unwrap_or_default();
        let waits = selected.iter().map(|configured| (configured, configured.official_account.token_wait()));
        let waiting: Vec<_> = waits.filter(|(_, wait)| !wait.is_zero()).collect();
        let longest = waiting.iter().map(|(_, wait)| *wait).max()?;
        let who = match &waiting[..] {
            [(one, _)] => one.official_account.status.name.to_string(),
            all => format!("{} official accounts", all.len()),
        };
        let (seconds, interval) = (longest.as_secs_f64().ceil(), MIN_FETCH_INTERVAL.as_secs());
        Some(format!(
            "waiting {seconds} s for the next token fetch of {who}: kfwatch fetches tokens at most once in {interval} s"
        ))
    }

    /// Polls each selected kf account once. Reports come in the order of the configuration.
    pub(crate) fn polls(&self, filter: AccountFilter) -> Result<BoxStream<'_, PollReport>, UnknownAccount> {
        let selected = self.selected(&filter)?;
        let filter = Arc::new(filter);
        let wait = longest_token_wait(&selected);
        Ok(self.in_order(
            wait,
            selected.into_iter().map(move |configured| {
                let filter = Arc::clone(&filter);
                async move { poll(&self.requests, &configured.official_account, &filter).await }.boxed()
            }),
        ))
    }

    /// Checks each selected official account and kf account. Reports come in the order of the configuration, each official account
    /// before its kf accounts.
    pub(crate) fn checks(&self, filter: AccountFilter) -> Result<BoxStream<'_, CheckReport>, UnknownAccount> {
        let selected = self.selected(&filter)?;
        let (now, filter) = (self.clock.now().wall, Arc::new(filter));
        let wait = longest_token_wait(&selected);
        // Most official accounts share a schedule, and counting the ticks of one takes a while.
        let mut ticks = HashMap::new();
        Ok(self.in_order(
            wait,
            selected.into_iter().map(move |configured| {
                let (schedule, filter) = (&configured.schedule, Arc::clone(&filter));
                let ticks = *ticks.entry(schedule).or_insert_with(|| TickCounts::new(schedule, now));
                async move { check(&self.requests, configured, ticks, &filter).await }.boxed()
            }),
        ))
    }

    /// The open sessions of each selected kf account, as the daemon knows them.
    pub(crate) fn sessions(
        &self,
        filter: AccountFilter,
    ) -> Result<BoxStream<'_, SessionReport>, UnknownAccount> {
        let selected = self.selected(&filter)?;
        let reports = selected.into_iter().flat_map(move |configured| {
            let of = &configured.official_account;
            let watched = selected_accounts(of, &filter).into_iter();
            watched.flat_map(|watched| sessions::of_watched(&of.status, &watched))
        });
        Ok(stream::iter(reports).boxed())
    }

    /// The official accounts of which the filter selects a kf account, or may select one that getkflist must list first.
    fn selected(&self, filter: &AccountFilter) -> Result<Vec<&ConfiguredOfficialAccount>, UnknownAccount> {
        let admitted = |configured: &&ConfiguredOfficialAccount| filter.admits(name(configured));
        let has_selected = |configured: &&ConfiguredOfficialAccount| {
            filter.selects_all_of(name(configured))
                || !selected_accounts(&configured.official_account, filter).is_empty()
        };
        let admitted: Vec<_> = self.official_accounts.iter().filter(admitted).collect();
        let mut selected: Vec<_> = admitted.iter().copied().filter(has_selected).collect();
        if selected.is_empty() {
            let asked =
                |configured: &&ConfiguredOfficialAccount| needs_list(&configured.official_account, filter);
            selected = admitted.into_iter().filter(asked).collect();
            // A name alone is no reason to call WeChat for all merchants of a platform.
            selected.truncate(if selected.len() > MAX_ASKED { 0 } else { MAX_ASKED });
        }
        if selected.is_empty() && !filter.is_empty() { Err(self.unknown(filter)) } else { Ok(selected) }
    }

    fn unknown(&self, filter: &AccountFilter) -> UnknownAccount {
        let watched: Vec<(Arc<WatchedAccount>, Option<Arc<str>>)> = self
            .official_accounts
            .iter()
            .flat_map(|configured| configured.official_account.accounts().to_vec())
            .map(|watched| {
                let nickname = watched.nickname();
                (watched, nickname)
            })
            .collect();
        let known = watched.iter().map(|(watched, nickname)| names(watched, nickname.as_deref()));
        filter.unknown(self.official_accounts.iter().map(name), known)
    }

    /// Works on as many official accounts at the same time as requests may be in flight, after a wait.
    fn in_order<'a, T: Send + 'a>(
        &self,
        wait: Duration,
        reports: impl Iterator<Item = BoxFuture<'a, Vec<T>>> + Send + 'a,
    ) -> BoxStream<'a, T> {
        let reports = stream::iter(reports).buffered(self.requests.limits.in_flight).flat_map(stream::iter);
        stream::once(tokio::time::sleep(wait)).flat_map(|()| stream::empty()).chain(reports).boxed()
    }
}

/// How long to wait until each of these may fetch the token that it needs: without the wait a command would only report the failure
/// of the last fetch, whose cause the operator may have just fixed. The minimum fetch interval bounds the wait. It is one for all: if the
/// fetch of a platform fails after it, its other official accounts report that at once.
fn longest_token_wait(selected: &[&ConfiguredOfficialAccount]) -> Duration {
    let waits = selected.iter().map(|configured| configured.official_account.token_wait());
    waits.max().unwrap_or_default()
}

fn name(configured: &ConfiguredOfficialAccount) -> &str {
    &configured.official_account.status.name
}
