//! Checks of kf accounts after a storm: which were polled when, and which were removed.

use std::collections::{BTreeMap, HashMap};

use kfwatch::simulator::Ledger;

use crate::support::{events::Event, process::appid};

use super::configuration::{Configuration, OFFICIAL_ACCOUNTS, STEADY, is_kept, kf_account};

/// How many ticks of a life may be on its edges.
const EDGES: usize = 3;

/// A configuration, and when the daemon was asked to apply it, and had done so.
pub(crate) struct Window {
    pub(crate) requested_ms: i64,
    pub(crate) answered_ms: i64,
    pub(crate) configuration: Configuration,
}

/// The ticks of the accounts that never change, in one life of the daemon.
#[derive(Debug, Default)]
pub(crate) struct SteadyLife {
    pub(crate) ready_ms: i64,
    pub(crate) to_ms: i64,
    /// How often all their ticks have changed.
    pub(crate) restarts: usize,
    /// What the daemon counted.
    pub(crate) missed: usize,
    pub(crate) overruns: BTreeMap<String, usize>,
}

/// When an account was removed from the configuration, as its events say.
pub(crate) fn removals_in(events: &[Event]) -> Vec<i64> {
    let states = states_in(events).into_iter();
    states.filter(|(_, state)| state == "unwatched").map(|(ms, _)| ms).collect()
}

/// The states of an account, and since when.
fn states_in(events: &[Event]) -> Vec<(i64, String)> {
    let changes = events.iter().filter(|event| event.text("/type") == "kf.account.state_changed");
    changes.map(|event| (event.ms("/time").unwrap(), event.text("/data/to").to_owned())).collect()
}

/// Asserts that each removal of a kf account has one event, and that no account is polled between that and its return. A daemon that is
/// killed before it has recorded a removal leaves no event if the next one watches the account again. Returns the number of removals.
pub(crate) fn check_windows(
    windows: &[Window],
    kills_ms: &[i64],
    ledger: &Ledger,
    events: &HashMap<(String, String), Vec<Event>>,
) -> usize {
    let mut all = 0;
    for (index, (_, count)) in OFFICIAL_ACCOUNTS.into_iter().enumerate() {
        for number in 1..=count {
            let key = (appid(index), kf_account(index, number));
            let states = events.get(&key).map(|events| states_in(events)).unwrap_or_default();
            let polls =
                ledger.polls.iter().filter(|poll| *poll.appid == *key.0 && *poll.kf_account == *key.1);
            let mut polls: Vec<i64> = polls.map(|poll| poll.received_at_ms).collect();
            polls.sort_unstable();
            let absences = absences(windows, index, number);
            assert!(absences.is_empty() || !is_kept(index, number));
            let account = OneAccount { name: key.1, polls, states };
            all += account.check(&absences, kills_ms).unwrap();
        }
    }
    all
}

/// When a configuration without the account was requested and applied, and when one with it was requested again.
#[derive(Debug)]
struct Absence {
    requested_ms: i64,
    applied_ms: i64,
    until_ms: i64,
}

fn absences(windows: &[Window], index: usize, number: usize) -> Vec<Absence> {
    let mut absences: Vec<Absence> = Vec::new();
    let mut was_watched = false;
    for Window { requested_ms, answered_ms, configuration } in windows {
        let (requested_ms, applied_ms) = (*requested_ms, *answered_ms);
        let is_watched = configuration.watches(index, number);
        match (was_watched, is_watched) {
            (true, false) => absences.push(Absence { requested_ms, applied_ms, until_ms: i64::MAX }),
            (false, true) => {
                if let Some(absence) = absences.last_mut() {
                    absence.until_ms = requested_ms;
                }
            }
            _ => {}
        }
        was_watched = is_watched;
    }
    absences
}

/// What happened to one kf account.
#[derive(Debug)]
struct OneAccount {
    name: String,
    polls: Vec<i64>,
    /// Its states, and since when.
    states: Vec<(i64, String)>,
}

impl OneAccount {
    /// Returns how often it was removed, or what is wrong.
    fn check(&self, absences: &[Absence], kills_ms: &[i64]) -> Result<usize, String> {
        let wrong = |what: &str, absence: &dyn std::fmt::Debug| {
            Err(format!("{}: {what}: {absence:?}: {self:?}", self.name))
        };
        let unwatched = self.states.iter().filter(|(_, state)| state == "unwatched").map(|(ms, _)| *ms);
        let removals = unwatched.clone().count();
        let mut unwatched = unwatched.peekable();
        for (n, absence) in absences.iter().enumerate() {
            let next_ms = absences.get(n + 1).map_or(i64::MAX, |next| next.requested_ms);
            let recorded_ms = unwatched.next_if(|ms| *ms < next_ms);
            if recorded_ms.is_some_and(|ms| ms < absence.requested_ms) {
                return wrong("unwatched before it was removed", absence);
            }
            let back_ms = self.polls.iter().find(|ms| **ms >= absence.until_ms).copied().unwrap_or(i64::MAX);
            let was_killed = kills_ms.iter().any(|ms| (absence.requested_ms..=back_ms).contains(ms));
            if recorded_ms.is_none() && self.is_watched_at(absence.requested_ms) && !was_killed {
                return wrong("never unwatched", absence);
            }
            let left_ms = recorded_ms.unwrap_or(absence.applied_ms);
            if self.polls.iter().any(|ms| (left_ms + 1..absence.until_ms).contains(ms)) {
                return wrong("polled after it was unwatched", absence);
            }
        }
        match unwatched.next() {
            Some(ms) => wrong("unwatched without a reason", &ms),
            None => Ok(removals),
        }
    }

    /// Whether its removal is an event. One that returns and is removed again before it is polled is still unwatched.
    fn is_watched_at(&self, ms: i64) -> bool {
        match self.states.iter().rfind(|(since_ms, _)| *since_ms < ms) {
            Some((_, state)) => state != "unwatched",
            None => self.polls.iter().any(|polled_ms| *polled_ms < ms),
        }
    }
}

#[test]
fn check_of_removals_detects_errors() {
    let absences = [
        Absence { requested_ms: 10, applied_ms: 12, until_ms: 30 },
        Absence { requested_ms: 50, applied_ms: 52, until_ms: i64::MAX },
    ];
    let check_with_kill = |polls: &[i64], states: &[(i64, &str)], kills_ms: &[i64]| {
        let states = states.iter().map(|(ms, state)| (*ms, (*state).to_owned())).collect();
        OneAccount { name: "kf1".to_owned(), polls: polls.to_vec(), states }.check(&absences, kills_ms)
    };
    let check = |polls: &[i64], states: &[(i64, &str)]| check_with_kill(polls, states, &[]);
    let states = [(14, "unwatched"), (33, "ok"), (53, "unwatched")];
    assert_eq!(check(&[5, 13, 32, 45], &states), Ok(2));
    assert_eq!(check(&[5], &states[..1]), Ok(1), "it was not polled when it was back");
    let last = [(53, "unwatched")];
    assert!(check(&[5, 32], &last).is_err() && check_with_kill(&[5, 32], &last, &[33]).is_err());
    assert_eq!(check_with_kill(&[5, 32], &last, &[31]), Ok(1), "killed before it was recorded");
    for (polls, states) in [
        (&[5, 13, 20, 32][..], &states[..]),
        (&[5, 32, 60], &states),
        (&[5, 32], &states[..2]),
        (&[5, 32], &[(8, "unwatched"), (33, "ok"), (53, "unwatched")]),
        (&[5, 32], &[(14, "unwatched"), (33, "ok"), (40, "unwatched"), (53, "unwatched")]),
    ] {
        assert!(check(polls, states).is_err(), "{polls:?} {states:?}");
    }
}

/// Asserts that the accounts that never change were polled once at each tick of each life, except for the ticks that the daemon says it
/// could not serve.
pub(crate) fn check_ticks(lives: &[SteadyLife], ledger: &Ledger) {
    for life in lives {
        let ticks = (life.to_ms.div_euclid(1_000) - life.ready_ms.div_euclid(1_000)) as usize;
        for number in 1..=OFFICIAL_ACCOUNTS[STEADY].1 {
            let kf_account = kf_account(STEADY, number);
            let is_ours =
                |name: &str, ms: i64| *name == kf_account && (life.ready_ms..=life.to_ms).contains(&ms);
            let polls =
                ledger.polls.iter().filter(|poll| is_ours(&poll.kf_account, poll.received_at_ms)).count();
            let served = polls + life.missed + life.overruns[&kf_account];
            let tolerance = EDGES + life.restarts;
            assert!(
                (served..=served + tolerance).contains(&ticks)
                    || (ticks..=ticks + tolerance).contains(&served),
                "{kf_account}: {polls} polls at {ticks} ticks: {life:?}"
            );
        }
    }
}
