//! Derives the desired state of the daemon from its configuration.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};

use super::accounts::{self, KfAccountNames};
use crate::{
    config::{
        ApiConfig, BackoffPolicy, Config, ControlConfig, LogConfig, MetricsConfig, OfficialAccountConfig,
        PollConfig, SinkConfig, SinkTarget, StoreConfig,
    },
    domain::{
        collector_intervals::CollectorIntervals,
        local_time::LocalZone,
        plan::{self, Activity, DaemonState, Part, RunId},
        schedule_key::ScheduleKey,
        shard::ShardNumber,
    },
    store::Store,
};

/// The state of this daemon, running or desired.
pub(super) type State = DaemonState<OfficialAccountPart, SinkPart, Settings>;

/// What changes in this daemon.
pub(super) type Plan<'a> = plan::Plan<'a, OfficialAccountPart, SinkPart, Settings>;

/// The state of one run.
pub(super) type RunState = plan::RunState<OfficialAccountPart, SinkPart>;

/// What changes in one run.
pub(super) type RunPlan<'a> = plan::RunPlan<'a, OfficialAccountPart, SinkPart>;

/// What the daemon should be.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    /// The configuration.
    pub(super) config: Arc<Config>,
    /// The stores whose accounts this process owns.
    pub(super) stores: OwnedStores,
    /// Whether it acts for them.
    pub(super) activity: Activity,
    /// See [`DaemonState::may_retire`].
    pub(super) may_retire: bool,
}

/// The stores whose accounts a process owns. Each has a run.
#[derive(Clone, Debug)]
pub(super) enum OwnedStores {
    /// The SQLite file, whose run opens it.
    File,
    /// Shards of a PostgreSQL store, already opened. None also while the process does not own its file.
    Shards(BTreeMap<ShardNumber, Store>),
}

/// An official account with the kf accounts that are watched.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OfficialAccountPart {
    pub(super) config: OfficialAccountConfig,
    pub(super) spread: Duration,
    /// The named kf accounts, and those that getkflist has listed and that match the patterns.
    pub(super) kf_accounts: BTreeSet<Arc<str>>,
    /// It is polled no more, and starts again when its polls in flight have finished. Never desired.
    pub(super) is_ending: bool,
}

/// A sink.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SinkPart {
    pub(super) config: SinkConfig,
    /// The zone of the times in messages for people.
    zone: Option<LocalZone>,
}

/// What belongs to no other part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) shutdown_timeout: Duration,
    pub(super) reload_interval: Option<Duration>,
    pub(super) enable_reload: bool,
    pub(super) log: LogConfig,
    pub(super) metrics: MetricsConfig,
    pub(super) store: StoreConfig,
    pub(super) control: ControlConfig,
    pub(super) api: ApiConfig,
    pub(super) poll: PollConfig,
    pub(super) backoff: BackoffPolicy,
    pub(super) collectors: CollectorIntervals,
}

impl OfficialAccountPart {
    /// The ticks at which it is polled.
    pub(super) fn schedule_key(&self) -> ScheduleKey {
        ScheduleKey { schedule: self.config.schedule.clone(), spread: self.spread }
    }

    /// The same official account with these kf accounts.
    pub(super) fn with_kf_accounts(&self, kf_accounts: BTreeSet<Arc<str>>) -> Self {
        let is_ending = self.is_ending;
        Self { config: self.config.clone(), spread: self.spread, kf_accounts, is_ending }
    }

    /// The kf accounts, those that are named first, in the order of the configuration.
    pub(super) fn in_order(&self) -> Vec<Arc<str>> {
        let named =
            self.config.kf_accounts.iter().filter_map(|named| self.kf_accounts.get(named.as_str()).cloned());
        let mut in_order: Vec<Arc<str>> = named.collect();
        if in_order.len() < self.kf_accounts.len() {
            let listed: HashSet<Arc<str>> = in_order.iter().cloned().collect();
            in_order
                .extend(self.kf_accounts.iter().filter(|kf_account| !listed.contains(*kf_account)).cloned());
        }
        in_order
    }

    /// Whether nothing of it is in flight, so that it may start again.
    pub(super) fn may_restart(&self) -> bool {
        self.is_ending || self.kf_accounts.is_empty()
    }

    /// Whether getkflist adds and removes other kf accounts in `desired`.
    pub(super) fn discovers_differently(&self, desired: &Self) -> bool {
        let (from, to) = (&self.config, &desired.config);
        from.patterns != to.patterns || from.exclude != to.exclude || from.kf_accounts != to.kf_accounts
    }

    /// What differs in `desired`, for a person.
    pub(super) fn changes(&self, desired: &Self) -> Vec<String> {
        let count = |of: &Self, not_in: &Self| of.kf_accounts.difference(&not_in.kf_accounts).count();
        let counted = |count: usize, what: &str| (count > 0).then(|| format!("{what} {count}"));
        let (from, to) = (&self.config, &desired.config);
        let key = |differs: bool, key: &str| differs.then(|| key.to_owned());
        let changes = [
            key(from.name != to.name, "name"),
            counted(count(desired, self), "kf accounts added:"),
            counted(count(self, desired), "kf accounts removed:"),
            key(from.patterns != to.patterns || from.exclude != to.exclude, "patterns"),
            key(self.schedule_key() != desired.schedule_key(), "schedule"),
            key(from.max_requests_per_minute != to.max_requests_per_minute, "max_requests_per_minute"),
            key(from.token != to.token, "token"),
        ];
        changes.into_iter().flatten().collect()
    }
}

impl Part for OfficialAccountPart {
    /// Its name is in its kf accounts, events and series. So a renamed one starts anew, with the token that it has.
    fn can_become(&self, desired: &Self) -> bool {
        self.config.name == desired.config.name && !self.is_ending
    }
}

impl Part for SinkPart {
    fn can_become(&self, _desired: &Self) -> bool {
        true
    }
}

impl SinkPart {
    /// What differs in `desired`, for a person.
    pub(super) fn changes(&self, desired: &Self) -> Vec<String> {
        let (from, to) = (&self.config, &desired.config);
        let changes = [
            (from.target != to.target, "options"),
            (from.types != to.types, "types"),
            (from.official_accounts != to.official_accounts, "official_accounts"),
            (from.start != to.start, "start"),
            (self.zone != desired.zone, "poll.timezone"),
        ];
        changes.into_iter().filter(|(differs, _)| *differs).map(|(_, key)| key.to_owned()).collect()
    }

    fn new(config: &Config, sink: &SinkConfig) -> Self {
        let is_chat = matches!(sink.target, SinkTarget::Chat(_));
        Self { config: sink.clone(), zone: is_chat.then_some(config.poll.timezone) }
    }
}

impl Settings {
    fn new(config: &Config) -> Self {
        Self {
            shutdown_timeout: config.shutdown_timeout,
            reload_interval: config.reload_interval,
            enable_reload: config.web.enable_reload,
            log: config.log.clone(),
            metrics: config.metrics,
            store: config.store.clone(),
            control: config.control.clone(),
            api: config.api.clone(),
            poll: config.poll.clone(),
            backoff: config.backoff_policy,
            collectors: config.collectors,
        }
    }

    /// The keys that differ, or their sections.
    pub(super) fn changed_keys(&self, desired: &Self) -> Vec<&'static str> {
        let (poll, to) = (&self.poll, &desired.poll);
        let (log, to_log) = (&self.log, &desired.log);
        let keys = [
            (self.shutdown_timeout != desired.shutdown_timeout, "shutdown_timeout"),
            (self.reload_interval != desired.reload_interval, "reload_interval"),
            (self.enable_reload != desired.enable_reload, "web.enable_reload"),
            (log.level != to_log.level, "log.level"),
            (log.format != to_log.format, "log.format"),
            (log.language != to_log.language, "log.language"),
            (self.metrics != desired.metrics, "metrics"),
            (self.store != desired.store, "store"),
            (self.api != desired.api, "api"),
            (poll.spread != to.spread, "poll.spread"),
            (poll.blind_after != to.blind_after, "poll.blind_after"),
            (poll.timezone != to.timezone, "poll.timezone"),
            (self.backoff != desired.backoff, "backoff"),
            (self.collectors != desired.collectors, "collectors"),
        ];
        keys.into_iter().filter_map(|(differs, key)| differs.then_some(key)).collect()
    }
}

impl OwnedStores {
    /// Adds shards that were acquired.
    pub(super) fn insert(&mut self, acquired: Vec<(ShardNumber, Store)>) {
        if let Self::Shards(shards) = self {
            shards.extend(acquired);
        }
    }

    /// Removes shards that others should own.
    pub(super) fn remove(&mut self, surplus: &[ShardNumber]) {
        if let Self::Shards(shards) = self {
            shards.retain(|shard, _| !surplus.contains(shard));
        }
    }

    /// Removes shards that are lost for good. Returns how many.
    pub(super) fn remove_lost(&mut self) -> usize {
        let Self::Shards(shards) = self else { return 0 };
        let before = shards.len();
        shards.retain(|_, store| store.lost().now_or_never().is_none());
        before - shards.len()
    }

    /// Releases the shards.
    pub(super) async fn close(&self) {
        if let Self::Shards(shards) = self {
            join_all(shards.values().map(Store::close)).await;
        }
    }

    pub(super) fn are_shards(&self) -> bool {
        matches!(self, Self::Shards(_))
    }

    /// The runs that they should have.
    pub(super) fn runs(&self) -> Vec<RunId> {
        match self {
            Self::File => vec![RunId::SQLITE],
            Self::Shards(shards) => shards.keys().copied().map(RunId::from).collect(),
        }
    }

    /// The run that an official account belongs to, if that is owned.
    fn run_of(&self, appid: &str) -> RunId {
        match self {
            Self::File => RunId::SQLITE,
            Self::Shards(_) => ShardNumber::from_appid(appid).into(),
        }
    }
}

impl Desired {
    /// A daemon that acts for the accounts of these stores.
    pub(super) fn new(config: Arc<Config>, stores: OwnedStores) -> Self {
        // A replica learns from its first heartbeat whether the others have the same configuration.
        let may_retire = matches!(stores, OwnedStores::File);
        Self { config, stores, activity: Activity::Active, may_retire }
    }

    /// The state that the configuration describes. `known` are the kf accounts that are watched now, or were when the daemon stopped:
    /// those that match the patterns of their official account stay.
    pub(super) fn state(&self, known: &KfAccountNames) -> State {
        let config = &*self.config;
        let sinks = config.sinks.iter().map(|sink| (sink.name.as_str().into(), SinkPart::new(config, sink)));
        let empty = RunState { official_accounts: BTreeMap::new(), sinks: sinks.collect() };
        let mut runs: BTreeMap<RunId, RunState> =
            self.stores.runs().into_iter().map(|id| (id, empty.clone())).collect();
        let mut schedules = BTreeSet::new();
        for configured in &config.official_accounts {
            let Some(run) = runs.get_mut(&self.stores.run_of(&configured.appid)) else { continue };
            let known = known.get(configured.appid.as_str()).map(Vec::as_slice).unwrap_or_default();
            let part = OfficialAccountPart {
                config: configured.clone(),
                spread: config.poll.spread,
                kf_accounts: accounts::watched(configured, known).into_iter().collect(),
                is_ending: false,
            };
            schedules.insert(part.schedule_key());
            run.official_accounts.insert(configured.appid.as_str().into(), part);
        }
        State {
            runs,
            schedules,
            listeners: config.web.listen.iter().copied().collect(),
            settings: Some(Settings::new(config)),
            activity: self.activity,
            may_retire: self.may_retire,
        }
    }
}
