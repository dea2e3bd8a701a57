//! The daemon without its tasks, driven by a scripted clock: a real configuration, its schedules, store, tokens and
//! polls. Ticks come in the order of their schedules, without waiting.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use kfwatch::{
    app::{self, OfficialAccountFactory},
    config::{Config, Environment},
    domain::{clock::Clock, cron::Schedule},
    metrics::{
        Metrics,
        exposition::{self, Detail, Stored},
    },
    poll::{OfficialAccount, PollGuard, PollLimits, Poller},
    simulator::{Ledger, Scenario, Simulator, SimulatorControl},
    status::{AccountTable, WatchedAccount},
    store::{EventFilter, Store},
};
use tempfile::TempDir;

use crate::support::{
    events::{Account, Event},
    rehearsal::ScriptedClock,
};

/// A daemon on a scripted clock, with the simulator that it calls.
pub(crate) struct Stage {
    pub(crate) clock: Arc<ScriptedClock>,
    pub(crate) control: SimulatorControl,
    store: Store,
    poller: Poller,
    pub(crate) staged: Vec<StagedAccount>,
    _simulator: Simulator,
    _directory: TempDir,
}

/// An official account and its ticks so far.
pub(crate) struct StagedAccount {
    pub(crate) name: String,
    pub(crate) appid: String,
    official_account: Arc<OfficialAccount>,
    schedule: Schedule,
    pub(crate) ticks: Vec<Tick>,
}

/// A tick whose polls have all ended, in UNIX milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

impl Stage {
    /// Starts with both clocks at the scenario's start. `configuration` returns the daemon's configuration, without the
    /// store's path, for the simulator's address.
    pub(crate) async fn start(scenario: Scenario, configuration: impl Fn(&str) -> String) -> Self {
        let simulator = Simulator::start(scenario, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let control = simulator.control();
        let clock = Arc::new(ScriptedClock::default());
        clock.pass(ahead(&control, &clock));
        let directory = tempfile::tempdir().unwrap();
        let text = configuration(&simulator.base_url());
        let config = Config::from_toml(&text, directory.path(), &Environment::default()).unwrap().config;
        let store = Store::open(config.store.location.file().unwrap()).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let by_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let factory = OfficialAccountFactory::build(&config, &store, Arc::clone(&by_clock)).await.unwrap();
        let mut staged = Vec::new();
        for configured in &config.official_accounts {
            let official_account =
                factory.official_account(&factory.client(), configured, Arc::default(), &metrics);
            let accounts = app::accounts(configured).collect();
            let registered = store.register_accounts(accounts).await.unwrap();
            let watched = registered.configured.into_iter();
            let watched =
                watched.map(|stored| WatchedAccount::from_stored(stored, official_account.status.ticks()));
            official_account.status.add_kf_accounts(watched.collect());
            staged.push(StagedAccount {
                name: configured.name.clone(),
                appid: configured.appid.clone(),
                official_account,
                schedule: configured.schedule.clone(),
                ticks: Vec::new(),
            });
        }
        let limits = PollLimits {
            // No poll fails because the machine is busy.
            deadline: Duration::from_secs(240),
            blind_after: config.poll.blind_after,
            backoff_policy: config.backoff_policy,
        };
        let poller = Poller::new(store.clone(), metrics, by_clock, limits);
        Self { clock, control, store, poller, staged, _simulator: simulator, _directory: directory }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    pub(crate) fn staged_account(&self, name: &str) -> &StagedAccount {
        self.staged.iter().find(|staged_account| staged_account.name == name).unwrap()
    }

    /// Runs all ticks until this moment, and leaves the clock there.
    pub(crate) async fn run_until(&mut self, moment: Timestamp) {
        loop {
            let now = self.now();
            let ticks: Vec<_> = self
                .staged
                .iter()
                .map(|staged_account| staged_account.schedule.next_after(now).unwrap())
                .collect();
            let next = *ticks.iter().min().unwrap();
            if next > moment {
                return self.pass_until(moment);
            }
            self.pass_until(next);
            let due = (0..self.staged.len()).filter(|staged_account| ticks[*staged_account] == next);
            let served = join_all(due.map(|staged_account| self.run_tick(staged_account))).await;
            for (staged_account, tick) in served {
                self.staged[staged_account].ticks.push(tick);
            }
        }
    }

    pub(crate) async fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now() + duration).await;
    }

    /// Runs one tick of an official account: a concurrent poll of each of its kf accounts.
    async fn run_tick(&self, staged_account: usize) -> (usize, Tick) {
        let from_ms = self.now().as_millisecond();
        let official_account = &self.staged[staged_account].official_account;
        let accounts = official_account.accounts();
        let guards =
            accounts.iter().map(|account| PollGuard::try_acquire(official_account, account).unwrap());
        join_all(guards.map(async |guard| self.poller.poll(&guard).await)).await;
        (staged_account, Tick { from_ms, to_ms: self.now().as_millisecond() + 1 })
    }

    fn pass_until(&self, moment: Timestamp) {
        // In whole milliseconds, so that both clocks keep showing the same time.
        let left = moment.duration_since(self.now()).as_millis_f64().ceil().max(0.0);
        let left = Duration::from_millis(left as u64);
        self.clock.pass(left);
        self.control.advance(left);
    }

    pub(crate) fn kf_accounts(&self) -> Vec<Account> {
        let of_staged = |staged_account: &StagedAccount| {
            let named = staged_account.official_account.accounts();
            let account = |account: &Arc<WatchedAccount>| Account {
                official_account: staged_account.name.clone(),
                appid: staged_account.appid.clone(),
                kf_account: account.account().kf_account.to_string(),
            };
            named.iter().map(account).collect::<Vec<_>>()
        };
        self.staged.iter().flat_map(of_staged).collect()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let ledger = self.control.ledger();
        assert!(!ledger.incomplete);
        ledger
    }

    /// Returns the events by appid and kf account.
    pub(crate) async fn events(&self) -> BTreeMap<(String, String), Vec<Event>> {
        let mut events = BTreeMap::<_, Vec<Event>>::new();
        for event in self.store.read_events(EventFilter::default(), 1_000_000).await.unwrap().events {
            let event = Event::parse(&event.json);
            events.entry(event.account()).or_default().push(event);
        }
        events
    }

    /// Returns the value of a series, written as on the page.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let statuses = self
            .staged
            .iter()
            .map(|staged_account| Arc::clone(&staged_account.official_account.status))
            .collect();
        let mut page = String::new();
        exposition::write(&AccountTable::new(statuses), &Stored::default(), Detail::PerAccount, |chunk| {
            page.push_str(std::str::from_utf8(&chunk).unwrap());
            true
        });
        let values = page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.map(|value| value.parse().unwrap()).next()
    }
}

/// Returns how far the simulator's clock is ahead. Reads both clocks until they are read within the same millisecond.
fn ahead(control: &SimulatorControl, clock: &ScriptedClock) -> Duration {
    loop {
        let before = clock.now().wall.as_millisecond();
        let simulated = control.now().as_millisecond();
        if clock.now().wall.as_millisecond() == before {
            return Duration::from_millis(u64::try_from(simulated - before).unwrap());
        }
    }
}
