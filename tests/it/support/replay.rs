//! The events that a history must lead to, compared with those that there are.
//!
//! A model of its own, written from the contract: it walks through the answers and keeps every state in which a
//! correct daemon can be. An answer that counts leads to one state; an uncertain one leads to two, counted and not
//! counted, and the events that follow rule one of them out. When no state is left, the events are wrong.

use std::collections::{BTreeSet, HashMap};

use crate::support::{
    events::{Event, Expected, Place, Session},
    history::{Exchange, History, Then, Told},
};

/// What was found to be right.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) started: usize,
    pub(crate) baseline: usize,
    pub(crate) ended: usize,
    pub(crate) replaced: usize,
    /// Second events of the same type for the same session.
    pub(crate) repeated: usize,
    pub(crate) state_changes: usize,
}

/// Where a correct daemon can stand after some of the answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// How many of the events are accounted for.
    told: usize,
    sessions: BTreeSet<Session>,
    keyless: bool,
    baseline_taken: bool,
    condition: &'static str,
    /// The exchanges that last determined the sessions: as is certainly stored, and as is known to the process.
    listed: Option<[usize; 2]>,
    /// Whether the process that knew has been killed since.
    crashed: bool,
}

/// A state that the account is in from now on, and what said so.
struct Turn {
    to: &'static str,
    errcode: Option<i64>,
    source: &'static str,
}

impl Turn {
    fn polled(to: &'static str, errcode: Option<i64>) -> Self {
        Self { to, errcode, source: "getsessionlist" }
    }
}

/// Compares every account's history with its events; no event may be left over.
pub(crate) fn compare_all(histories: &[History], log: &[Event]) -> Tally {
    let ids: BTreeSet<&str> = log.iter().map(Event::id).collect();
    assert_eq!(ids.len(), log.len(), "an id was given twice");
    let mut by_account = by_account(log);
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for history in histories {
        let key = (history.account.appid.clone(), history.account.kf_account.clone());
        match compare(history, &by_account.remove(&key).unwrap_or_default()) {
            Ok(right) => tally += right,
            Err(reason) => wrong.push(reason),
        }
    }
    assert!(wrong.is_empty(), "{} accounts are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(by_account.is_empty(), "events of accounts that nobody configured: {by_account:?}");
    tally
}

/// The events of each account, in order.
pub(crate) fn by_account(log: &[Event]) -> HashMap<(String, String), Vec<Event>> {
    let mut by_account = HashMap::<_, Vec<Event>>::new();
    for event in log {
        by_account.entry(event.account()).or_default().push(event.clone());
    }
    by_account
}

/// Compares; says what is wrong.
pub(crate) fn compare(history: &History, events: &[Event]) -> Result<Tally, String> {
    let model = Model { history, events, repeats: repeats(events) };
    let mut states = vec![State {
        told: 0,
        sessions: BTreeSet::new(),
        keyless: false,
        baseline_taken: false,
        condition: "unknown",
        listed: None,
        crashed: false,
    }];
    let who = &history.account;
    for (at, exchange) in history.exchanges.iter().enumerate() {
        let mut next = Vec::new();
        let mut refuted = Vec::new();
        for state in states {
            if exchange.uncertain {
                next.push(state.clone());
            }
            match model.after(state, at) {
                Ok(state) => next.push(state),
                Err(reason) => refuted.push(reason),
            }
        }
        if next.is_empty() {
            return Err(format!("{who:?}: answer {at}, {exchange:?}: {}", refuted.join("; ")));
        }
        next.iter_mut().for_each(|state| state.end_of_life(exchange.then));
        next.sort();
        next.dedup();
        states = next;
    }
    if states.iter().any(|state| state.told == events.len()) {
        return Ok(tally(events));
    }
    let told = states.iter().map(|state| state.told).max().unwrap_or_default();
    Err(format!("{who:?}: nothing leads to event {told}: {}", events[told].line))
}

struct Model<'a> {
    history: &'a History,
    events: &'a [Event],
    repeats: Vec<usize>,
}

impl Model<'_> {
    /// The state when the answer has counted, unless the events say that it has not.
    fn after(&self, mut state: State, at: usize) -> Result<State, String> {
        let exchange = &self.history.exchanges[at];
        match &exchange.told {
            Told::Nothing => Ok(state),
            Told::Refused(65402) => self.concluded(state, at, Turn::polled("unbound", Some(65402))),
            Told::Refused(65401) => self.concluded(state, at, Turn::polled("invalid", Some(65401))),
            Told::Refused(_) => Ok(state),
            Told::Silence { errcode, source } => {
                self.concluded(state, at, Turn { to: "blind", errcode: *errcode, source })
            }
            Told::Listed(sessions) => {
                state.keyless = false;
                self.listed(state, at, sessions)
            }
            // Only a second one in a row of good answers confirms the first.
            Told::Keyless if std::mem::replace(&mut state.keyless, true) => {
                self.listed(state, at, &BTreeSet::new())
            }
            Told::Keyless => self.concluded(state, at, Turn::polled("ok", None)),
        }
    }

    fn concluded(&self, mut state: State, at: usize, turn: Turn) -> Result<State, String> {
        let expected = state.moved(turn);
        self.consume(&mut state, at, Vec::from_iter(expected))?;
        Ok(state)
    }

    fn listed(&self, mut state: State, at: usize, sessions: &BTreeSet<Session>) -> Result<State, String> {
        let mut expected = Vec::from_iter(state.moved(Turn::polled("ok", None)));
        let started = |openid: &str| sessions.difference(&state.sessions).any(|new| new.openid == openid);
        expected.extend(state.sessions.difference(sessions).map(|session| Expected::Ended {
            session: session.clone(),
            reason: if started(&session.openid) { "replaced" } else { "absent" },
        }));
        expected.extend(
            sessions.difference(&state.sessions).map(|session| Expected::Started {
                session: session.clone(),
                baseline: !state.baseline_taken,
            }),
        );
        let stored = !expected.is_empty() || !state.baseline_taken;
        self.consume(&mut state, at, expected)?;
        let certainly = if stored { at } else { state.listed.map_or(at, |[stored, _]| stored) };
        state.listed = Some([certainly, at]);
        state.crashed = false;
        state.baseline_taken = true;
        state.sessions = sessions.clone();
        Ok(state)
    }

    /// Takes the events that the answer leads to: these and no others, all observed when it was received.
    fn consume(&self, state: &mut State, at: usize, mut expected: Vec<Expected>) -> Result<(), String> {
        let exchange = &self.history.exchanges[at];
        let begin = state.told;
        let found = self.events.get(begin..begin + expected.len());
        let found = found.ok_or_else(|| format!("missing: {expected:?}"))?;
        let observed: BTreeSet<i64> =
            found.iter().map(|event| event.ms("/time")).collect::<Result<_, _>>()?;
        let [earliest, latest] = exchange.taken_ms;
        if observed.len() > 1 || observed.iter().any(|ms| !(earliest..=latest).contains(ms)) {
            return Err(format!("expected {expected:?}, but the next events were observed at {observed:?}"));
        }
        for (offset, event) in found.iter().enumerate() {
            let place = Place {
                sequence: begin + offset + 1,
                repeats: self.repeats[begin + offset],
                observed_ms: event.ms("/time")?,
                lower_ms: if event.is_end() { event.ms("/data/ended_between/0")? } else { 0 },
            };
            let rendered = |expected: &Expected| expected.render(&self.history.account, place) == event.json;
            let which = expected.iter().position(rendered);
            let which = which.ok_or_else(|| format!("{} is none of {expected:?}", event.line))?;
            match expected.swap_remove(which) {
                Expected::Ended { session, .. } => self.check_bounds(state, exchange, &session, place)?,
                Expected::Started { session, .. } => {
                    let (opened_ms, _) = self.history.truth[&session];
                    if opened_ms > place.observed_ms {
                        return Err(format!("{session:?} was seen before it was opened"));
                    }
                }
                Expected::StateChanged { .. } => {}
            }
        }
        state.told += found.len();
        Ok(())
    }

    /// The bounds of an end: those that the contract names, and around the truth.
    fn check_bounds(
        &self,
        state: &State,
        exchange: &Exchange,
        session: &Session,
        place: Place,
    ) -> Result<(), String> {
        let [stored, known] = state.listed.ok_or("a session ended that was never listed")?;
        let sent = |at: usize| self.history.exchanges[at].sent_ms;
        // A process that was killed may have known of later sightings than it had stored.
        let from = if state.crashed { sent(stored)[0] } else { sent(known)[0] };
        if !(from..=sent(known)[1]).contains(&place.lower_ms) {
            return Err(format!("{session:?}: {} is not within {from}..={}", place.lower_ms, sent(known)[1]));
        }
        let (_, closed_ms) = self.history.truth[session];
        // An answer without a list may be a whim of the simulator, while the session goes on.
        let is_whim = exchange.told == Told::Keyless
            && closed_ms.is_none_or(|closed_ms| closed_ms > exchange.received_ms);
        let is_true = closed_ms.is_some_and(|ms| (place.lower_ms..=place.observed_ms).contains(&ms));
        if is_true || is_whim {
            Ok(())
        } else {
            Err(format!("{session:?} was closed at {closed_ms:?}, which is not within {place:?}"))
        }
    }
}

impl State {
    fn moved(&mut self, Turn { to, errcode, source }: Turn) -> Option<Expected> {
        let from = std::mem::replace(&mut self.condition, to);
        let silent = from == to || (from == "unknown" && to == "ok");
        (!silent).then_some(Expected::StateChanged { from, to, errcode, source })
    }

    fn end_of_life(&mut self, then: Then) {
        match then {
            Then::GoesOn => {}
            Then::Drained => self.listed = self.listed.map(|[_, known]| [known, known]),
            Then::Killed => self.crashed = true,
        }
    }
}

/// How many events of its type each event's session had before.
fn repeats(events: &[Event]) -> Vec<usize> {
    let mut seen = HashMap::new();
    let key = |event: &Event| (event.text("/type").to_owned(), event.text("/data/session_id").to_owned());
    events
        .iter()
        .map(|event| {
            let count = seen.entry(key(event)).or_insert(0);
            *count += 1;
            *count - 1
        })
        .collect()
}

fn tally(events: &[Event]) -> Tally {
    let count = |is: &dyn Fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    let of_type = |kind: &'static str| count(&move |event| event.text("/type") == kind);
    let of_sessions: Vec<Event> =
        events.iter().filter(|event| !event.text("/data/session_id").is_empty()).cloned().collect();
    Tally {
        started: of_type("kf.session.started"),
        baseline: count(&|event| event.json["data"]["baseline"] == true),
        ended: of_type("kf.session.ended"),
        replaced: count(&|event| event.text("/data/reason") == "replaced"),
        repeated: repeats(&of_sessions).into_iter().filter(|repeats| *repeats > 0).count(),
        state_changes: of_type("kf.account.state_changed"),
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.started += other.started;
        self.baseline += other.baseline;
        self.ended += other.ended;
        self.replaced += other.replaced;
        self.repeated += other.repeated;
        self.state_changes += other.state_changes;
    }
}
