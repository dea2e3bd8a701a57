//! Reloads: loads the configuration again and makes the daemon equal it, or says why not.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{
    desired::{Desired, Plan},
    error::AppError,
    reconcile::Prepared,
    replica::Replica,
};
use crate::{
    config::{LoadedConfig, Mistakes},
    domain::plan::{Lifecycle, Step},
    reload::{
        ChangeAction, ChangedPart, PlannedChange, ReloadMode, ReloadOutcome, ReloadRefusal, ReloadReport,
        ReloadTrigger,
    },
};

/// How many changes and reasons the log names.
const MAX_LOGGED: usize = 20;

/// How long the files must stay as they are before a timer applies them.
const SETTLING: Duration = Duration::from_secs(1);

/// How often files that keep changing are loaded again, until the next interval.
const MAX_LOADS: usize = 5;

/// Loads the configuration that the daemon was started with again. Blocks for as long as its files take.
#[derive(Clone)]
pub struct ConfigLoader(Arc<dyn Fn() -> Result<LoadedConfig, Mistakes> + Send + Sync>);

impl ConfigLoader {
    /// A loader that calls this function.
    pub fn new(load: impl Fn() -> Result<LoadedConfig, Mistakes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    async fn load(&self) -> Result<LoadedConfig, ReloadRefusal> {
        let load = Arc::clone(&self.0);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let loaded = loaded.map_err(|_| {
            refused("loading the configuration panicked: this is a bug in kfwatch, please report it")
        })?;
        loaded.map_err(|mistakes| ReloadRefusal { reasons: mistakes.lines() })
    }
}

impl fmt::Debug for ConfigLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigLoader").finish_non_exhaustive()
    }
}

/// The reloads of one daemon.
pub(super) struct Reloader {
    loader: Option<ConfigLoader>,
}

impl Reloader {
    pub(super) fn new(loader: Option<ConfigLoader>) -> Self {
        Self { loader }
    }

    /// Loads the configuration and applies it to the replica, unless it is refused or only the plan is wanted. May be dropped while it
    /// waits: nothing is half applied.
    pub(super) async fn reload(
        &self,
        replica: &mut Replica,
        desired: &mut Desired,
        mode: ReloadMode,
        trigger: ReloadTrigger,
    ) -> ReloadOutcome {
        let clock = Arc::clone(&replica.context.clock);
        let begun = clock.now();
        let loaded = match trigger {
            ReloadTrigger::Interval => self.load_settled(desired).await,
            ReloadTrigger::Hangup | ReloadTrigger::Command | ReloadTrigger::Http => self.load().await,
        };
        let loaded_at = clock.now();
        let outcome = match loaded {
            Ok(loaded) => apply(loaded, replica, desired, mode).await,
            Err(refusal) => Err(refusal),
        };
        if mode == ReloadMode::Apply {
            let took = Took { loading: loaded_at.since(&begun), applying: clock.now().since(&loaded_at) };
            report_outcome(replica, &outcome, trigger, took);
        }
        outcome
    }

    /// Loads a configuration that differs from the running one a second time, until it no longer changes: nobody asked for it, so a
    /// file may just be rewritten. Half of one may be valid and lack accounts.
    async fn load_settled(&self, desired: &Desired) -> Result<LoadedConfig, ReloadRefusal> {
        let mut loaded = self.load().await;
        for _ in 0..MAX_LOADS {
            if loaded.as_ref().is_ok_and(|loaded| loaded.config == *desired.config) {
                return loaded;
            }
            tokio::time::sleep(SETTLING).await;
            let again = self.load().await;
            let is_settled = match (&loaded, &again) {
                (Ok(one), Ok(other)) => one.config == other.config,
                (Err(one), Err(other)) => one == other,
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            loaded = again;
            if is_settled {
                return loaded;
            }
        }
        Err(refused("the files of the configuration keep changing"))
    }

    async fn load(&self) -> Result<LoadedConfig, ReloadRefusal> {
        let loader = self.loader.as_ref();
        loader.ok_or_else(|| refused("this daemon was not started from a configuration file"))?.load().await
    }
}

/// How long the steps of a reload took.
#[derive(Clone, Copy)]
struct Took {
    /// Reading and checking the files.
    loading: Duration,
    applying: Duration,
}

/// Applies a configuration, unless only the plan is wanted.
async fn apply(
    LoadedConfig { config, warnings }: LoadedConfig,
    replica: &mut Replica,
    desired: &mut Desired,
    mode: ReloadMode,
) -> ReloadOutcome {
    let new = Desired { config: Arc::new(config), ..desired.clone() };
    // Other replicas still have the old configuration. The next heartbeat that finds that all agree allows it again.
    let may_retire = new.may_retire && !replica.web.has_other_replicas();
    let new = Desired { may_retire, ..new };
    let mut prepared = replica.prepare(new.clone()).await.map_err(ReloadRefusal::from)?;
    let report = ReloadReport { warnings, ..report(&prepared) };
    if mode == ReloadMode::Apply {
        let registered = replica.register(&mut prepared).await;
        registered.map_err(|error| ReloadRefusal::from(AppError::Store(error)))?;
        replica.apply_and_end(prepared).await;
        *desired = new;
    }
    Ok(report)
}

/// Writes log and metrics, and keeps a refusal for the page.
fn report_outcome(replica: &Replica, outcome: &ReloadOutcome, trigger: ReloadTrigger, took: Took) {
    let now = replica.context.clock.now().wall;
    replica.context.metrics.config_reloaded(outcome.is_ok(), now);
    // A timer reports a lasting mistake once.
    let refused_before = replica.web.reload_refusal.swap(outcome.as_ref().err().cloned().map(Arc::new));
    let trigger_name = trigger.as_str();
    let is_timer = trigger == ReloadTrigger::Interval;
    match outcome {
        Ok(report) => {
            if report.changes.is_empty() {
                if !is_timer || refused_before.is_some() {
                    tracing::info!(trigger = trigger_name, "Configuration reloaded: nothing has changed");
                }
                return;
            }
            report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let changes = listed(&report.changes);
            let [loading_ms, applying_ms] = [took.loading, took.applying].map(|took| took.as_millis() as u64);
            tracing::info!(
                trigger = trigger_name,
                changes = report.changes.len(),
                loading_ms,
                applying_ms,
                "Configuration reloaded: {changes}"
            );
            report.deferred.iter().for_each(|deferred| tracing::info!("{deferred}"));
        }
        Err(refusal) => {
            if !is_timer || refused_before.as_deref() != Some(refusal) {
                tracing::error!(
                    trigger = trigger_name,
                    "Configuration not reloaded, the running one stays: {}",
                    listed(&refusal.reasons)
                );
            }
        }
    }
}

impl From<AppError> for ReloadRefusal {
    fn from(error: AppError) -> Self {
        refused(&crate::chain(&error))
    }
}

fn refused(reason: &str) -> ReloadRefusal {
    ReloadRefusal { reasons: vec![reason.to_owned()] }
}

/// The first of these, and how many more there are.
fn listed<T: ToString>(items: &[T]) -> String {
    let mut shown: Vec<String> = items.iter().take(MAX_LOGGED).map(T::to_string).collect();
    if items.len() > MAX_LOGGED {
        shown.push(format!("and {} more", items.len() - MAX_LOGGED));
    }
    shown.join("; ")
}

/// What a prepared reconcile changes, for people.
fn report(prepared: &Prepared) -> ReloadReport {
    let plan = prepared.plan();
    let deferred = match prepared.deferred {
        0 => Vec::new(),
        1 => vec!["1 part that was removed a moment ago starts again when its end is recorded".to_owned()],
        parts => vec![format!(
            "{parts} parts that were removed a moment ago start again when their end is recorded"
        )],
    };
    ReloadReport { changes: changes(&plan), deferred, warnings: Vec::new() }
}

fn changes(plan: &Plan<'_>) -> Vec<PlannedChange> {
    // Runs that start or stop at the same time do so whatever is configured.
    let runs = plan.runs.values().filter(|run| run.lifecycle == Lifecycle::Continue);
    let official_accounts = runs.clone().flat_map(|run| &run.official_accounts).map(|step| {
        let (action, name, details) = match step {
            Step::Start(_, part) => (ChangeAction::Start, &part.config.name, Vec::new()),
            Step::Change(_, from, to) | Step::Restart(_, from, to) => {
                (ChangeAction::Change, &to.config.name, from.changes(to))
            }
            Step::Stop(_, part) => (ChangeAction::Stop, &part.config.name, Vec::new()),
        };
        PlannedChange { action, part: ChangedPart::OfficialAccount, name: name.clone(), details }
    });
    // All runs have the same sinks.
    let sinks: BTreeMap<&Arc<str>, PlannedChange> = runs
        .flat_map(|run| &run.sinks)
        .map(|step| {
            let (action, name, details) = match *step {
                Step::Start(name, _) => (ChangeAction::Start, name, Vec::new()),
                Step::Change(name, from, to) | Step::Restart(name, from, to) => {
                    (ChangeAction::Change, name, from.changes(to))
                }
                Step::Stop(name, _) => (ChangeAction::Stop, name, Vec::new()),
            };
            (name, PlannedChange { action, part: ChangedPart::Sink, name: name.to_string(), details })
        })
        .collect();
    let schedules = set_changes(&plan.schedules, ChangedPart::Schedule, |key| format!("{:?}", key.schedule));
    let listeners = set_changes(&plan.listeners, ChangedPart::Listener, |address| address.to_string());
    let settings = match plan.settings {
        Some((Some(from), Some(to))) => from.changed_keys(to),
        _ => Vec::new(),
    };
    let settings = settings.into_iter().map(|key| PlannedChange {
        action: ChangeAction::Change,
        part: ChangedPart::Setting,
        name: key.to_owned(),
        details: Vec::new(),
    });
    official_accounts.chain(schedules).chain(sinks.into_values()).chain(listeners).chain(settings).collect()
}

fn set_changes<K>(
    steps: &[Step<'_, K, ()>],
    part: ChangedPart,
    name: impl Fn(&K) -> String,
) -> Vec<PlannedChange> {
    let change = |step: &Step<'_, K, ()>| {
        let (action, key) = match *step {
            Step::Start(key, ()) => (ChangeAction::Start, key),
            Step::Stop(key, ()) => (ChangeAction::Stop, key),
            Step::Change(key, ..) | Step::Restart(key, ..) => (ChangeAction::Change, key),
        };
        PlannedChange { action, part, name: name(key), details: Vec::new() }
    };
    steps.iter().map(change).collect()
}
