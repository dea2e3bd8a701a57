//! Derives the events that a history must lead to, and compares them with the actual events.
//!
//! The model is written from the contract and shares no code with the program. It walks through the answers and keeps
//! every state that a correct daemon may be in. A certain answer leads to one state. An uncertain answer leads to two,
//! counted and not counted, and the later events rule one of them out. When no state is left, the events are wrong.

use std::collections::{BTreeSet, HashMap};

use crate::support::{
    events::{Event, Expected, Place, Session},
    history::{Exchange, History, Observed, Then},
};

/// The verified events, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) started: usize,
    pub(crate) baseline: usize,
    pub(crate) ended: usize,
    pub(crate) replaced: usize,
    /// Repeated events of the same type for the same session.
    pub(crate) repeated: usize,
    pub(crate) state_changes: usize,
}

/// A possible state of a correct daemon after some of the answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// The number of events that are accounted for.
    matched: usize,
    sessions: BTreeSet<Session>,
    keyless: bool,
    baseline_taken: bool,
    condition: &'static str,
    /// The exchanges that last determined the sessions: the last that is certainly stored, and the last that the
    /// process knew.
    listed: Option<[usize; 2]>,
    /// Whether the process that knew it has been killed since.
    crashed: bool,
}

/// A change of the account's state, and its cause.
struct StateChange {
    to: &'static str,
    errcode: Option<i64>,
    source: &'static str,
}

impl StateChange {
    fn polled(to: &'static str, errcode: Option<i64>) -> Self {
        Self { to, errcode, source: "getsessionlist" }
    }
}

/// Compares every account's history with its events. No event may be left over.
pub(crate) fn compare_all(histories: &[History], log: &[Event]) -> Tally {
    let ids: BTreeSet<&str> = log.iter().map(Event::id).collect();
    assert_eq!(ids.len(), log.len(), "duplicate event id");
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
    assert!(by_account.is_empty(), "events of accounts that are not configured: {by_account:?}");
    tally
}

/// Returns the events of each account, in order.
pub(crate) fn by_account(log: &[Event]) -> HashMap<(String, String), Vec<Event>> {
    let mut by_account = HashMap::<_, Vec<Event>>::new();
    for event in log {
        by_account.entry(event.account()).or_default().push(event.clone());
    }
    by_account
}

/// Compares a history with its events. The error says what is wrong.
pub(crate) fn compare(history: &History, events: &[Event]) -> Result<Tally, String> {
    let model = Model { history, events, repeats: repeats(events) };
    let mut states = vec![State {
        matched: 0,
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
        next.iter_mut().for_each(|state| state.apply_process_end(exchange.then));
        next.sort();
        next.dedup();
        states = next;
    }
    if states.iter().any(|state| state.matched == events.len()) {
        return Ok(tally(events));
    }
    let matched = states.iter().map(|state| state.matched).max().unwrap_or_default();
    Err(format!("{who:?}: no state explains event {matched}: {}", events[matched].line))
}

struct Model<'a> {
    history: &'a History,
    events: &'a [Event],
    repeats: Vec<usize>,
}

impl Model<'_> {
    /// Returns the state after the answer was counted, or an error if the events contradict it.
    fn after(&self, mut state: State, at: usize) -> Result<State, String> {
        let exchange = &self.history.exchanges[at];
        match &exchange.observed {
            Observed::Nothing => Ok(state),
            Observed::Refused(65402) => {
                self.concluded(state, at, StateChange::polled("unbound", Some(65402)))
            }
            Observed::Refused(65401) => {
                self.concluded(state, at, StateChange::polled("invalid", Some(65401)))
            }
            Observed::Refused(_) => Ok(state),
            Observed::Silence { errcode, source } => {
                self.concluded(state, at, StateChange { to: "blind", errcode: *errcode, source })
            }
            Observed::Removed => {
                let removed = StateChange { to: "unwatched", errcode: None, source: "configuration" };
                self.concluded(state, at, removed)
            }
            Observed::Listed(sessions) => {
                state.keyless = false;
                self.listed(state, at, sessions)
            }
            // Only a second keyless answer in a row confirms the first.
            Observed::Keyless if std::mem::replace(&mut state.keyless, true) => {
                self.listed(state, at, &BTreeSet::new())
            }
            Observed::Keyless => self.concluded(state, at, StateChange::polled("ok", None)),
        }
    }

    fn concluded(&self, mut state: State, at: usize, change: StateChange) -> Result<State, String> {
        let expected = state.moved(change);
        self.consume(&mut state, at, Vec::from_iter(expected))?;
        Ok(state)
    }

    fn listed(&self, mut state: State, at: usize, sessions: &BTreeSet<Session>) -> Result<State, String> {
        let mut expected = Vec::from_iter(state.moved(StateChange::polled("ok", None)));
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

    /// Matches the next events against those that the answer causes: exactly these, all observed when it was received.
    fn consume(&self, state: &mut State, at: usize, mut expected: Vec<Expected>) -> Result<(), String> {
        let exchange = &self.history.exchanges[at];
        let begin = state.matched;
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
        state.matched += found.len();
        Ok(())
    }

    /// Checks that the bounds of an end are those of the contract, and that they contain the actual end.
    fn check_bounds(
        &self,
        state: &State,
        exchange: &Exchange,
        session: &Session,
        place: Place,
    ) -> Result<(), String> {
        let [stored, known] = state.listed.ok_or("a session ended that was never listed")?;
        let sent = |at: usize| self.history.exchanges[at].sent_ms;
        // A process that was killed may have observed sessions later than it stored.
        let from = if state.crashed { sent(stored)[0] } else { sent(known)[0] };
        if !(from..=sent(known)[1]).contains(&place.lower_ms) {
            return Err(format!("{session:?}: {} is not within {from}..={}", place.lower_ms, sent(known)[1]));
        }
        let (_, closed_ms) = self.history.truth[session];
        // The simulator may omit the list while the session goes on.
        let is_omitted_list = exchange.observed == Observed::Keyless
            && closed_ms.is_none_or(|closed_ms| closed_ms > exchange.received_ms);
        let is_true = closed_ms.is_some_and(|ms| (place.lower_ms..=place.observed_ms).contains(&ms));
        if is_true || is_omitted_list {
            Ok(())
        } else {
            Err(format!("{session:?} was closed at {closed_ms:?}, which is not within {place:?}"))
        }
    }
}

impl State {
    fn moved(&mut self, StateChange { to, errcode, source }: StateChange) -> Option<Expected> {
        let from = std::mem::replace(&mut self.condition, to);
        let silent = from == to || (from == "unknown" && to == "ok");
        (!silent).then_some(Expected::StateChanged { from, to, errcode, source })
    }

    fn apply_process_end(&mut self, then: Then) {
        match then {
            Then::GoesOn => {}
            Then::Drained => self.listed = self.listed.map(|[_, known]| [known, known]),
            Then::Killed => self.crashed = true,
        }
    }
}

/// For each event, counts the earlier events of its type for its session.
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
