//! What must change so that the running daemon equals the desired one.
//!
//! A daemon consists of parts that have keys: official accounts by appid, schedules, sinks by name, listeners by address. [`plan`]
//! compares two [`DaemonState`]s and lists what starts, changes and stops. It is pure and makes no assumption about how parts run:
//! `app` prepares and applies the plan. A part that is equal in both states is in no step, so applying a plan never touches it. The
//! plan between equal states is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::schedule_key::ScheduleKey;

/// What a daemon runs, or should run. The default is empty: a daemon that has been shut down.
///
/// `A` describes an official account, `S` a sink, `G` the settings that belong to no part.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonState<A, S, G> {
    /// The runs that own accounts and sinks: one for a SQLite store, one for each leased shard of a PostgreSQL store.
    pub runs: BTreeSet<RunId>,
    /// By appid.
    pub official_accounts: BTreeMap<Arc<str>, A>,
    /// The schedules that official accounts follow.
    pub schedules: BTreeSet<ScheduleKey>,
    /// By name.
    pub sinks: BTreeMap<Arc<str>, S>,
    /// The addresses that the web server listens on.
    pub listeners: BTreeSet<SocketAddr>,
    /// `None` in a daemon that has been shut down.
    pub settings: Option<G>,
    /// Whether the parts act.
    pub activity: Activity,
    /// Whether official accounts, kf accounts and sinks that leave may be recorded as unwatched or removed. False while the
    /// machines of a cluster have different configurations.
    pub may_retire: bool,
}

/// The number of a run: the shard that it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(pub u16);

impl RunId {
    /// The only run of a daemon with a SQLite store.
    pub const SQLITE: Self = Self(0);
}

/// Whether a daemon acts for its accounts and sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It polls, collects, fetches tokens and delivers.
    Active,
    /// It keeps what it knows and calls nobody, because it does not know whether it still owns its accounts.
    Paused,
}

/// A part that can be compared with what it should be.
pub trait Part: PartialEq {
    /// Whether the running part can become `desired` without an end and a new start.
    fn can_become(&self, desired: &Self) -> bool;
}

/// A part without options never changes.
impl Part for () {
    fn can_become(&self, (): &Self) -> bool {
        true
    }
}

/// What happens to one part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step<'a, K, V> {
    /// It starts.
    Start(&'a K, &'a V),
    /// It goes on with other options: from the first to the second.
    Change(&'a K, &'a V, &'a V),
    /// It ends, and starts again with other options.
    Restart(&'a K, &'a V, &'a V),
    /// It ends.
    Stop(&'a K, &'a V),
}

/// What must change. Empty if nothing must.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as the fields of `DaemonState`")]
pub struct Plan<'a, A, S, G> {
    pub runs: Vec<Step<'a, RunId, ()>>,
    pub official_accounts: Vec<Step<'a, Arc<str>, A>>,
    pub schedules: Vec<Step<'a, ScheduleKey, ()>>,
    pub sinks: Vec<Step<'a, Arc<str>, S>>,
    pub listeners: Vec<Step<'a, SocketAddr, ()>>,
    /// From the first to the second.
    pub settings: Option<(Option<&'a G>, Option<&'a G>)>,
    pub activity: Option<Activity>,
    pub may_retire: Option<bool>,
}

impl<A, S, G> Default for DaemonState<A, S, G> {
    fn default() -> Self {
        Self {
            runs: BTreeSet::new(),
            official_accounts: BTreeMap::new(),
            schedules: BTreeSet::new(),
            sinks: BTreeMap::new(),
            listeners: BTreeSet::new(),
            settings: None,
            activity: Activity::Active,
            may_retire: true,
        }
    }
}

impl<A, S, G> Plan<'_, A, S, G> {
    /// Whether nothing must change.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.official_accounts.is_empty()
            && self.schedules.is_empty()
            && self.sinks.is_empty()
            && self.listeners.is_empty()
            && self.settings.is_none()
            && self.activity.is_none()
            && self.may_retire.is_none()
    }
}

/// Lists what must change so that `running` equals `desired`: one step for each part that differs, in the order of the keys.
pub fn plan<'a, A: Part, S: Part, G: PartialEq>(
    running: &'a DaemonState<A, S, G>,
    desired: &'a DaemonState<A, S, G>,
) -> Plan<'a, A, S, G> {
    let differs = running.settings != desired.settings;
    Plan {
        runs: set_steps(&running.runs, &desired.runs),
        official_accounts: steps(&running.official_accounts, &desired.official_accounts),
        schedules: set_steps(&running.schedules, &desired.schedules),
        sinks: steps(&running.sinks, &desired.sinks),
        listeners: set_steps(&running.listeners, &desired.listeners),
        settings: differs.then_some((running.settings.as_ref(), desired.settings.as_ref())),
        activity: (running.activity != desired.activity).then_some(desired.activity),
        may_retire: (running.may_retire != desired.may_retire).then_some(desired.may_retire),
    }
}

fn steps<'a, K: Ord, V: Part>(
    running: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> Vec<Step<'a, K, V>> {
    let step = |key: &'a K| match (running.get(key), desired.get(key)) {
        (None, Some(to)) => Some(Step::Start(key, to)),
        (Some(from), None) => Some(Step::Stop(key, from)),
        (Some(from), Some(to)) if from == to => None,
        (Some(from), Some(to)) if from.can_become(to) => Some(Step::Change(key, from, to)),
        (Some(from), Some(to)) => Some(Step::Restart(key, from, to)),
        (None, None) => None,
    };
    let keys: BTreeSet<&K> = running.keys().chain(desired.keys()).collect();
    keys.into_iter().filter_map(step).collect()
}

fn set_steps<'a, K: Ord>(running: &'a BTreeSet<K>, desired: &'a BTreeSet<K>) -> Vec<Step<'a, K, ()>> {
    let stop = running.difference(desired).map(|key| Step::Stop(key, &()));
    stop.chain(desired.difference(running).map(|key| Step::Start(key, &()))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection, prelude::*};

    use super::*;
    use crate::domain::cron::Schedule;

    /// A part with a name that it keeps for life, and an option.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Named {
        name: u8,
        option: u8,
    }

    impl Part for Named {
        fn can_become(&self, desired: &Self) -> bool {
            self.name == desired.name
        }
    }

    type State = DaemonState<Named, Named, u8>;

    /// What each part of a running model has been through: how often it was started and changed.
    type Lives<K> = BTreeMap<K, (u32, u32)>;

    fn named() -> impl Strategy<Value = Named> {
        (0..2_u8, 0..3_u8).prop_map(|(name, option)| Named { name, option })
    }

    fn key(n: u8) -> Arc<str> {
        format!("k{n}").into()
    }

    fn parts() -> impl Strategy<Value = BTreeMap<Arc<str>, Named>> {
        collection::btree_map((0..6_u8).prop_map(key), named(), 0..6)
    }

    fn schedule(minutes: u64) -> ScheduleKey {
        let schedule = Schedule::parse(&["0 * * * * *".to_owned()], "Asia/Shanghai").unwrap();
        ScheduleKey { schedule, spread: Duration::from_secs(60 * minutes) }
    }

    prop_compose! {
        fn state()(
            runs in collection::btree_set((0..3_u16).prop_map(RunId), 0..3),
            official_accounts in parts(),
            schedules in collection::btree_set((0..4_u64).prop_map(schedule), 0..4),
            sinks in parts(),
            ports in collection::btree_set(9000..9004_u16, 0..4),
            settings in proptest::option::of(0..2_u8),
            paused in any::<bool>(),
            may_retire in any::<bool>(),
        ) -> State {
            let listeners = ports.into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect();
            let activity = if paused { Activity::Paused } else { Activity::Active };
            DaemonState { runs, official_accounts, schedules, sinks, listeners, settings, activity, may_retire }
        }
    }

    /// Applies steps as a daemon does: what starts must not run, what changes or stops must.
    fn apply<K: Ord + Clone, V: Clone + PartialEq + std::fmt::Debug>(
        steps: &[Step<'_, K, V>],
        parts: &mut BTreeMap<K, V>,
        lives: &mut Lives<K>,
    ) {
        for step in steps {
            match *step {
                Step::Start(key, part) => {
                    assert!(parts.insert(key.clone(), part.clone()).is_none(), "it ran already");
                    lives.entry(key.clone()).or_default().0 += 1;
                }
                Step::Change(key, from, to) => {
                    assert_eq!(parts.insert(key.clone(), to.clone()).as_ref(), Some(from));
                    lives.entry(key.clone()).or_default().1 += 1;
                }
                Step::Restart(key, from, to) => {
                    assert_eq!(parts.insert(key.clone(), to.clone()).as_ref(), Some(from));
                    lives.entry(key.clone()).or_default().0 += 1;
                }
                Step::Stop(key, part) => assert_eq!(parts.remove(key).as_ref(), Some(part)),
            }
        }
    }

    fn apply_to_set<K: Ord + Clone>(steps: &[Step<'_, K, ()>], keys: &mut BTreeSet<K>) {
        for step in steps {
            match step {
                Step::Start(key, ()) => assert!(keys.insert((*key).clone()), "it ran already"),
                Step::Stop(key, ()) => assert!(keys.remove(key), "it did not run"),
                Step::Change(..) | Step::Restart(..) => panic!("a part without options changes"),
            }
        }
    }

    fn applied(plan: &Plan<'_, Named, Named, u8>, running: &State) -> (State, Lives<Arc<str>>) {
        let (mut state, mut lives) = (running.clone(), Lives::new());
        apply_to_set(&plan.runs, &mut state.runs);
        apply(&plan.official_accounts, &mut state.official_accounts, &mut lives);
        apply_to_set(&plan.schedules, &mut state.schedules);
        apply(&plan.sinks, &mut state.sinks, &mut Lives::new());
        apply_to_set(&plan.listeners, &mut state.listeners);
        if let Some((from, to)) = plan.settings {
            assert_eq!(state.settings.as_ref(), from);
            state.settings = to.copied();
        }
        state.activity = plan.activity.unwrap_or(state.activity);
        state.may_retire = plan.may_retire.unwrap_or(state.may_retire);
        (state, lives)
    }

    proptest! {
        #[test]
        fn applied_plan_yields_desired_state(running in state(), desired in state()) {
            prop_assert_eq!(applied(&plan(&running, &desired), &running).0, desired);
        }

        #[test]
        fn plan_between_equal_states_is_empty(running in state()) {
            prop_assert!(plan(&running, &running.clone()).is_empty());
        }

        #[test]
        fn plan_is_minimal_and_touches_nothing_that_stays(running in state(), desired in state()) {
            let plan = plan(&running, &desired);
            let (_, lives) = applied(&plan, &running);
            for (key, to) in &desired.official_accounts {
                let expected = match running.official_accounts.get(key) {
                    Some(from) if from == to => None,
                    Some(from) if from.name == to.name => Some((0, 1)),
                    Some(_) | None => Some((1, 0)),
                };
                prop_assert_eq!(lives.get(key).copied(), expected);
            }
            let differ = |key: &&Arc<str>| running.official_accounts.get(*key) != desired.official_accounts.get(*key);
            let keys: BTreeSet<_> = running.official_accounts.keys().chain(desired.official_accounts.keys()).collect();
            prop_assert_eq!(plan.official_accounts.len(), keys.into_iter().filter(differ).count());
            prop_assert_eq!(plan.listeners.len(), running.listeners.symmetric_difference(&desired.listeners).count());
            prop_assert_eq!(plan.is_empty(), running == desired);
        }
    }
}
