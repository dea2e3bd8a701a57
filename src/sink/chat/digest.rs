//! What events mean for people, and when it may be reported: pure, the time is an argument.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    domain::{
        account::AccountState,
        endpoint::Endpoint,
        errcode,
        event::EventType,
        remedy::{self, Remedy},
    },
    store::{AccountId, StoredEvent},
};

/// How long a state of a kf account is not reported again.
const REPEAT_AFTER: Duration = Duration::from_secs(10 * 60);

/// How many events may be postponed. More of them would keep the dispatcher from reading those of other kf accounts, so all are
/// reported at once instead.
const MAX_POSTPONED: usize = 300;

/// How many reported states are remembered, at most some ten megabytes. Beyond it they are forgotten, and reported again if they
/// return.
const MAX_REPORTED: usize = 100_000;

/// What happened to one kf account.
#[derive(Debug, Default)]
pub(super) struct AccountDigest {
    pub(super) official_account: String,
    pub(super) kf_account: String,
    /// Changes of its state, in order.
    pub(super) states: Vec<StateChange>,
    pub(super) sessions_started: usize,
    pub(super) sessions_ended: usize,
    /// The events that this covers.
    pub(super) events: Vec<Arc<StoredEvent>>,
}

/// A change of the state of a kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateChange {
    pub(super) state: AccountState,
    pub(super) since: Timestamp,
    pub(super) remedy: Option<Remedy>,
}

/// Groups events by kf account, in the order of the first event of each.
pub(super) fn digest(events: &[Arc<StoredEvent>]) -> Vec<AccountDigest> {
    let mut accounts: Vec<AccountDigest> = Vec::new();
    let mut index_of: HashMap<AccountId, usize> = HashMap::new();
    for event in events {
        let index = *index_of.entry(event.account).or_insert_with(|| {
            accounts.push(AccountDigest::default());
            accounts.len() - 1
        });
        if let Some(account) = accounts.get_mut(index) {
            account.add(event);
        }
    }
    accounts
}

/// The part of an event that messages need. It has no openid.
#[derive(Deserialize)]
struct Event {
    data: EventData,
}

#[derive(Deserialize)]
struct EventData {
    official_account: String,
    kf_account: String,
    to: Option<AccountState>,
    errcode: Option<i64>,
    source: Option<String>,
}

impl AccountDigest {
    /// Adds an event. A damaged one is only counted: retrying it would never help.
    fn add(&mut self, event: &Arc<StoredEvent>) {
        self.events.push(Arc::clone(event));
        let Ok(Event { data }) = serde_json::from_str(&event.json) else { return };
        match (event.event_type, data.to) {
            (EventType::SessionStarted, _) => self.sessions_started += 1,
            (EventType::SessionEnded, _) => self.sessions_ended += 1,
            (EventType::StateChanged, Some(state)) => {
                let remedy = remedy_of(state, data.errcode, data.source.as_deref());
                self.states.push(StateChange { state, since: event.observed_at, remedy });
            }
            (EventType::StateChanged, None) => {}
        }
        (self.official_account, self.kf_account) = (data.official_account, data.kf_account);
    }

    /// Its last state, if that changed.
    pub(super) fn last_state(&self) -> Option<&StateChange> {
        self.states.last()
    }
}

fn remedy_of(state: AccountState, errcode: Option<i64>, source: Option<&str>) -> Option<Remedy> {
    let endpoint = source.and_then(Endpoint::from_name).unwrap_or(Endpoint::SessionList);
    let by_errcode = || errcode.and_then(|code| errcode::remedy(code, endpoint));
    match state {
        AccountState::Unbound => Some(remedy::UNBOUND),
        AccountState::Invalid => Some(remedy::INVALID),
        AccountState::Blind => Some(by_errcode().unwrap_or(remedy::BLIND)),
        AccountState::Unknown | AccountState::Ok | AccountState::Unwatched => None,
    }
}

/// When each state of each kf account was last reported.
#[derive(Debug, Default)]
pub(super) struct ReportedStates {
    reported_at: HashMap<(AccountId, AccountState), Duration>,
}

impl ReportedStates {
    /// Splits accounts into those that may be reported now, and those whose last state was reported a moment ago, with the time
    /// until it may be reported again.
    pub(super) fn split(
        &mut self,
        accounts: Vec<AccountDigest>,
        now: Duration,
    ) -> (Vec<AccountDigest>, Vec<(AccountDigest, Duration)>) {
        self.reported_at.retain(|_, at| now.saturating_sub(*at) < REPEAT_AFTER);
        let (mut ready, mut later) = (Vec::new(), Vec::new());
        let mut postponed = 0;
        for account in accounts {
            match self.wait(&account, now) {
                Some(wait) if postponed + account.events.len() <= MAX_POSTPONED => {
                    postponed += account.events.len();
                    later.push((account, wait));
                }
                _ => ready.push(account),
            }
        }
        (ready, later)
    }

    fn wait(&self, account: &AccountDigest, now: Duration) -> Option<Duration> {
        let state = account.last_state()?.state;
        let reported_at = self.reported_at.get(&(account.events.first()?.account, state))?;
        Some((*reported_at + REPEAT_AFTER).saturating_sub(now))
    }

    /// Records that accounts were reported, with all the states that they had.
    pub(super) fn record(&mut self, accounts: &[AccountDigest], now: Duration) {
        if self.reported_at.len() >= MAX_REPORTED {
            self.reported_at.clear();
        }
        for account in accounts {
            let Some(first) = account.events.first() else { continue };
            self.reported_at.extend(account.states.iter().map(|change| ((first.account, change.state), now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogPosition;

    fn changed(id: i64, account: i64, to: &str) -> Arc<StoredEvent> {
        let data =
            format!("\"official_account\":\"shop\",\"kf_account\":\"kf{account}@shop\",\"to\":\"{to}\"");
        Arc::new(StoredEvent {
            id: LogPosition(id),
            account: AccountId(account),
            event_type: EventType::StateChanged,
            ..StoredEvent::sample(&format!("{{\"data\":{{{data}}}}}"))
        })
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    /// Which events are reported, and how long the others wait, in minutes.
    fn report(reported: &mut ReportedStates, now: u64, events: &[Arc<StoredEvent>]) -> (Vec<i64>, Vec<u64>) {
        let (ready, later) = reported.split(digest(events), minutes(now));
        reported.record(&ready, minutes(now));
        let ids = ready.iter().flat_map(|account| account.events.iter().map(|event| event.id.0));
        (ids.collect(), later.iter().map(|(_, wait)| wait.as_secs() / 60).collect())
    }

    #[test]
    fn repeated_state_waits_ten_minutes_and_last_state_is_reported() {
        let mut reported = ReportedStates::default();
        let [unbound, ok, again] = [changed(1, 1, "unbound"), changed(2, 1, "ok"), changed(3, 1, "unbound")];
        assert_eq!(report(&mut reported, 0, &[unbound]), (vec![1], vec![]));
        assert_eq!(report(&mut reported, 1, &[ok]), (vec![2], vec![]), "another state");
        assert_eq!(report(&mut reported, 2, std::slice::from_ref(&again)), (vec![], vec![8]));
        let other = changed(4, 2, "unbound");
        assert_eq!(
            report(&mut reported, 3, &[Arc::clone(&again), other]),
            (vec![4], vec![7]),
            "another account"
        );
        let ok_again = changed(5, 1, "ok");
        let both = [again, ok_again];
        assert_eq!(report(&mut reported, 10, &both), (vec![], vec![1]), "ok was reported at 1");
        assert_eq!(report(&mut reported, 11, &both), (vec![3, 5], vec![]));
        assert_eq!(
            report(&mut reported, 12, &[changed(6, 1, "unbound")]),
            (vec![], vec![9]),
            "it was in the last one"
        );
    }

    #[test]
    fn too_many_postponed_events_are_reported_at_once() {
        let mut reported = ReportedStates::default();
        let count = MAX_POSTPONED as i64 + 1;
        let all = |from: i64| (0..count).map(|n| changed(from + n, n, "blind")).collect::<Vec<_>>();
        assert_eq!(report(&mut reported, 0, &all(0)).0.len(), all(0).len());
        let (ready, later) = report(&mut reported, 1, &all(1000));
        assert_eq!((ready.len(), later.len()), (1, MAX_POSTPONED));
    }

    #[test]
    fn damaged_event_is_counted_and_harms_no_other() {
        let damaged = Arc::new(StoredEvent { account: AccountId(1), ..StoredEvent::sample("{\"da") });
        let accounts = digest(&[damaged, changed(2, 1, "ok")]);
        assert_eq!((accounts[0].events.len(), accounts[0].states.len()), (2, 1));
        assert_eq!(accounts[0].kf_account, "kf1@shop");
    }
}
