//! What must change so that the running daemon equals the desired one.
//!
//! A daemon consists of parts that have keys: runs, and in each of them official accounts by appid and sinks by name; schedules; listeners
//! by address. [`plan`] compares two [`DaemonState`]s and lists what starts, changes and stops. It is pure and makes no assumption about
//! how parts run: `app` prepares and applies the plan. A part that is equal in both states is in no step, so applying a plan never
//! touches it. The plan between equal states is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{schedule_key::ScheduleKey, shard::ShardNumber};

/// What a daemon runs, or should run. The default is empty: a daemon that has been shut down.
///
/// `A` describes an official account, `S` a sink, `G` the settings that belong to no part.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonState<A, S, G> {
    /// One run for a SQLite store, one for each leased shard of a PostgreSQL store.
    pub runs: BTreeMap<RunId, RunState<A, S>>,
    /// The schedules that official accounts follow.
    pub schedules: BTreeSet<ScheduleKey>,
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

/// What a run has, or should have: the accounts of one store and the sinks that get their events.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState<A, S> {
    /// By appid.
    pub official_accounts: BTreeMap<Arc<str>, A>,
    /// By name.
    pub sinks: BTreeMap<Arc<str>, S>,
}

/// The number of a run: the shard that it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(pub u16);

impl RunId {
    /// The only run of a daemon with a SQLite store.
    pub const SQLITE: Self = Self(0);

    /// Whether this run does what one run of the store does for all.
    pub fn is_first(self) -> bool {
        self.0 == 0
    }
}

impl From<ShardNumber> for RunId {
    fn from(shard: ShardNumber) -> Self {
        Self(shard.get().unsigned_abs())
    }
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
    /// The runs of which something changes.
    pub runs: BTreeMap<RunId, RunPlan<'a, A, S>>,
    pub schedules: Vec<Step<'a, ScheduleKey, ()>>,
    pub listeners: Vec<Step<'a, SocketAddr, ()>>,
    /// From the first to the second.
    pub settings: Option<(Option<&'a G>, Option<&'a G>)>,
    pub activity: Option<Activity>,
    pub may_retire: Option<bool>,
}

/// What changes of one run.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as the fields of `RunState`")]
pub struct RunPlan<'a, A, S> {
    /// Whether the run itself starts or stops.
    pub lifecycle: Lifecycle,
    pub official_accounts: Vec<Step<'a, Arc<str>, A>>,
    pub sinks: Vec<Step<'a, Arc<str>, S>>,
}

/// What happens to a run as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// It starts, without parts, and then all its parts start.
    Start,
    /// It goes on.
    #[default]
    Continue,
    /// It ends with all its parts, which have no steps of their own.
    Stop,
}

impl<A, S> Default for RunState<A, S> {
    fn default() -> Self {
        Self { official_accounts: BTreeMap::new(), sinks: BTreeMap::new() }
    }
}

impl<A, S> Default for RunPlan<'_, A, S> {
    fn default() -> Self {
        Self { lifecycle: Lifecycle::default(), official_accounts: Vec::new(), sinks: Vec::new() }
    }
}

impl<A, S, G> Default for DaemonState<A, S, G> {
    fn default() -> Self {
        Self {
            runs: BTreeMap::new(),
            schedules: BTreeSet::new(),
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
            && self.schedules.is_empty()
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
        runs: run_plans(&running.runs, &desired.runs),
        schedules: set_steps(&running.schedules, &desired.schedules),
        listeners: set_steps(&running.listeners, &desired.listeners),
        settings: differs.then_some((running.settings.as_ref(), desired.settings.as_ref())),
        activity: (running.activity != desired.activity).then_some(desired.activity),
        may_retire: (running.may_retire != desired.may_retire).then_some(desired.may_retire),
    }
}

fn run_plans<'a, A: Part, S: Part>(
    running: &'a BTreeMap<RunId, RunState<A, S>>,
    desired: &'a BTreeMap<RunId, RunState<A, S>>,
) -> BTreeMap<RunId, RunPlan<'a, A, S>> {
    let plan = |id: &RunId| match (running.get(id), desired.get(id)) {
        (Some(from), Some(to)) if from == to => None,
        (Some(from), Some(to)) => Some(RunPlan {
            lifecycle: Lifecycle::Continue,
            official_accounts: steps(&from.official_accounts, &to.official_accounts),
            sinks: steps(&from.sinks, &to.sinks),
        }),
        (Some(_), None) => Some(RunPlan { lifecycle: Lifecycle::Stop, ..RunPlan::default() }),
        (None, Some(to)) => Some(RunPlan {
            lifecycle: Lifecycle::Start,
            official_accounts: starts(&to.official_accounts),
            sinks: starts(&to.sinks),
        }),
        (None, None) => None,
    };
    let ids: BTreeSet<RunId> = running.keys().chain(desired.keys()).copied().collect();
    ids.into_iter().filter_map(|id| Some((id, plan(&id)?))).collect()
}

fn starts<K, V>(parts: &BTreeMap<K, V>) -> Vec<Step<'_, K, V>> {
    parts.iter().map(|(key, part)| Step::Start(key, part)).collect()
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
    type Lives = BTreeMap<(RunId, Arc<str>), (u32, u32)>;

    fn named() -> impl Strategy<Value = Named> {
        (0..2_u8, 0..3_u8).prop_map(|(name, option)| Named { name, option })
    }

    fn key(n: u8) -> Arc<str> {
        format!("k{n}").into()
    }

    fn parts() -> impl Strategy<Value = BTreeMap<Arc<str>, Named>> {
        collection::btree_map((0..6_u8).prop_map(key), named(), 0..6)
    }

    fn official_accounts(state: &State) -> BTreeMap<(RunId, Arc<str>), Named> {
        let of_run = |(id, run): (&RunId, &RunState<Named, Named>)| {
            let (id, parts) = (*id, run.official_accounts.clone());
            parts.into_iter().map(move |(appid, part)| ((id, appid), part))
        };
        state.runs.iter().flat_map(of_run).collect()
    }

    fn schedule(minutes: u64) -> ScheduleKey {
        let schedule = Schedule::parse(&["0 * * * * *".to_owned()], "Asia/Shanghai").unwrap();
        ScheduleKey { schedule, spread: Duration::from_secs(60 * minutes) }
    }

    fn run() -> impl Strategy<Value = RunState<Named, Named>> {
        (parts(), parts()).prop_map(|(official_accounts, sinks)| RunState { official_accounts, sinks })
    }

    prop_compose! {
        fn state()(
            runs in collection::btree_map((0..3_u16).prop_map(RunId), run(), 0..3),
            schedules in collection::btree_set((0..4_u64).prop_map(schedule), 0..4),
            ports in collection::btree_set(9000..9004_u16, 0..4),
            settings in proptest::option::of(0..2_u8),
            paused in any::<bool>(),
            may_retire in any::<bool>(),
        ) -> State {
            let listeners = ports.into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect();
            let activity = if paused { Activity::Paused } else { Activity::Active };
            DaemonState { runs, schedules, listeners, settings, activity, may_retire }
        }
    }

    /// Applies steps as a daemon does: what starts must not run, what changes or stops must. `began` hears of each start and change.
    fn apply<K: Ord + Clone, V: Clone + PartialEq + std::fmt::Debug>(
        steps: &[Step<'_, K, V>],
        parts: &mut BTreeMap<K, V>,
        mut began: impl FnMut(&K, (u32, u32)),
    ) {
        for step in steps {
            match *step {
                Step::Start(key, part) => {
                    assert!(parts.insert(key.clone(), part.clone()).is_none(), "it ran already");
                    began(key, (1, 0));
                }
                Step::Change(key, from, to) => {
                    assert_eq!(parts.insert(key.clone(), to.clone()).as_ref(), Some(from));
                    began(key, (0, 1));
                }
                Step::Restart(key, from, to) => {
                    assert_eq!(parts.insert(key.clone(), to.clone()).as_ref(), Some(from));
                    began(key, (1, 0));
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

    fn applied(plan: &Plan<'_, Named, Named, u8>, running: &State) -> (State, Lives) {
        let (mut state, mut lives) = (running.clone(), Lives::new());
        for (id, plan) in &plan.runs {
            match plan.lifecycle {
                Lifecycle::Start => {
                    assert!(state.runs.insert(*id, RunState::default()).is_none(), "it ran already")
                }
                Lifecycle::Continue => {}
                Lifecycle::Stop => {
                    assert!(
                        state.runs.remove(id).is_some()
                            && plan.official_accounts.is_empty()
                            && plan.sinks.is_empty()
                    );
                    continue;
                }
            }
            let run = state.runs.get_mut(id).unwrap();
            apply(&plan.official_accounts, &mut run.official_accounts, |appid, (starts, changes)| {
                let lives = lives.entry((*id, Arc::clone(appid))).or_default();
                *lives = (lives.0 + starts, lives.1 + changes);
            });
            apply(&plan.sinks, &mut run.sinks, |_, _| {});
        }
        apply_to_set(&plan.schedules, &mut state.schedules);
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
            let [running_parts, desired_parts] = [&running, &desired].map(official_accounts);
            for (key, to) in &desired_parts {
                let expected = match running_parts.get(key) {
                    Some(from) if from == to => None,
                    Some(from) if from.name == to.name => Some((0, 1)),
                    Some(_) | None => Some((1, 0)),
                };
                prop_assert_eq!(lives.get(key).copied(), expected);
            }
            for (id, plan) in &plan.runs {
                let differ = |key: &&Arc<str>| {
                    let key = (*id, Arc::clone(key));
                    running_parts.get(&key) != desired_parts.get(&key)
                };
                let of_run = |state: &State| state.runs.get(id).cloned().unwrap_or_default().official_accounts;
                let (from, to) = (of_run(&running), of_run(&desired));
                let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
                let expected = if plan.lifecycle == Lifecycle::Stop { 0 } else { keys.into_iter().filter(differ).count() };
                prop_assert_eq!(plan.official_accounts.len(), expected);
            }
            prop_assert_eq!(plan.listeners.len(), running.listeners.symmetric_difference(&desired.listeners).count());
            prop_assert_eq!(plan.is_empty(), running == desired);
        }
    }
}
