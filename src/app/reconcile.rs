//! Makes the running state of the daemon equal the desired one.
//!
//! A reconcile has three steps. [`Replica::prepare`] plans, and makes everything that can fail: it opens the file of the store, binds
//! addresses, reads certificates, builds sinks. [`Replica::register`] writes to the store what changes, in one transaction for each run.
//! [`Replica::apply`] swaps the parts; it cannot fail and does not wait. A failure of the first two changes nothing that runs, and their
//! futures may be dropped.
//!
//! What can only happen later is [deferred](Prepared::deferred): a part that left cannot start again before its end is recorded. The
//! caller reconciles again with the same desired state when [`Run::next_event`] reports that.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};

use super::{
    accounts::{self, KfAccountNames},
    build_sinks,
    desired::{Desired, OwnedStores, Plan, RunPlan, RunState, Settings, State},
    error::AppError,
    nicknames::TableNicknames,
    official_accounts,
    replica::Replica,
    run::{AccountInputs, Registered, Run},
    run_sinks::BuiltSinks,
};
use crate::{
    config::{Config, ControlConfig, OfficialAccountConfig, StoreLocation},
    control::socket::{ControlSocket, SocketError},
    domain::plan::{Lifecycle, RunId, Step, plan},
    sink::chat::ChatContext,
    store::{Store, StoreError},
    web::WebListener,
    wechat::http::WechatClient,
};

/// How long a run that moves to another replica may take to stop: until then nobody polls its accounts. What has not finished by then is
/// done again there.
const MOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A reconcile of which everything that can fail has succeeded, except for the registration in the store.
pub(super) struct Prepared {
    pub(super) desired: Desired,
    /// What ran when it was planned.
    running: State,
    /// What is to run.
    state: State,
    /// How many parts cannot start yet.
    pub(super) deferred: usize,
    listeners: Vec<(SocketAddr, WebListener)>,
    sinks: BuiltSinks,
    client: Arc<WechatClient>,
    /// The runs that start.
    new_runs: BTreeMap<RunId, Run>,
    control: Option<ControlSocket>,
    registered: BTreeMap<RunId, Registered>,
}

impl Prepared {
    /// What changes.
    pub(super) fn plan(&self) -> Plan<'_> {
        plan(&self.running, &self.state)
    }

    /// The official accounts, each with its kf accounts, in the order of the configuration. Those of shards that are not owned yet have
    /// the kf accounts that are named.
    pub(super) fn watched(&self) -> Vec<(String, Vec<Arc<str>>)> {
        let parts = |appid: &str| self.state.runs.values().find_map(|run| run.official_accounts.get(appid));
        let watched = |configured: &OfficialAccountConfig| {
            let kf_accounts = match parts(&configured.appid) {
                Some(part) => part.in_order(),
                None => accounts::watched(configured, &[]),
            };
            (configured.name.clone(), kf_accounts)
        };
        self.desired.config.official_accounts.iter().map(watched).collect()
    }

    /// The addresses that start to be served.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, listener)| listener.address).collect()
    }
}

impl Replica {
    /// Plans, and makes everything that can fail. Changes nothing that runs.
    pub(super) async fn prepare(&self, desired: Desired) -> Result<Prepared, AppError> {
        let running = self.state();
        let config = Arc::clone(&desired.config);
        if let Some(settings) = &running.settings {
            check_restart(settings, &config)?;
        }
        let listeners = self.listen(&running, &config)?;
        let client = match self.runs.values().next() {
            Some(run) => run.factory.prepare(&config)?,
            None => official_accounts::new_client(&config, &self.context.clock)?,
        };
        let (new_runs, mut known) = self.open_runs(&desired, &client).await?;
        known.extend(self.runs.values().flat_map(Run::watched));
        let mut state = desired.state(&known);
        // A shard that could not be opened keeps no other one from running.
        state.runs.retain(|id, _| new_runs.contains_key(id) || self.runs.contains_key(id));
        let mut deferred = 0;
        for (id, desired) in &mut state.runs {
            deferred += self.runs.get(id).map_or(0, |run| run.defer(desired));
        }
        if state.may_retire && !running.may_retire && state.runs != running.runs {
            // First everything becomes as configured. The caller sees that this is left, and tries again.
            state.may_retire = false;
        }
        let plan = plan(&running, &state);
        let sinks = self.build_sinks(&plan, &config)?;
        let control = if self.has_control() { None } else { control_socket(&config.control) };
        let registered = BTreeMap::new();
        Ok(Prepared {
            desired,
            running,
            state,
            deferred,
            listeners,
            sinks,
            client,
            new_runs,
            control,
            registered,
        })
    }

    /// Registers in the store what changes, in one transaction for each run. If one fails, those of other runs may have been made: the
    /// same registration may be repeated. A shard that cannot be started keeps no other one from it: the caller sees that it does not
    /// run, and tries again.
    pub(super) async fn register(&self, prepared: &mut Prepared) -> Result<(), StoreError> {
        let results = join_all(self.registrations(prepared)).await;
        for (id, result) in results {
            match result {
                Ok(registered) => _ = prepared.registered.insert(id, registered),
                Err(error)
                    if prepared.desired.stores.are_shards() && prepared.new_runs.remove(&id).is_some() =>
                {
                    log_failed_start(id, &error);
                    prepared.state.runs.remove(&id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn registrations<'a>(
        &'a self,
        prepared: &'a Prepared,
    ) -> Vec<BoxFuture<'a, (RunId, Result<Registered, StoreError>)>> {
        let Prepared { desired: Desired { config, .. }, state, new_runs, running, .. } = prepared;
        let may_retire_now = state.may_retire && !running.may_retire;
        let plan = Arc::new(prepared.plan());
        // A run that is no longer owned goes on elsewhere, or here later: nothing of it is retired.
        let registration = |(id, desired): (&'a RunId, &'a RunState)| {
            let plan = Arc::clone(&plan);
            let registered = async move {
                match (new_runs.get(id), self.runs.get(id), plan.runs.get(id)) {
                    (Some(new), ..) => new.register_all(desired, config, state.may_retire).await,
                    (None, Some(run), Some(plan)) => run.register(plan, desired, state.may_retire).await,
                    // What has left while nothing could be retired.
                    (None, Some(run), None) if may_retire_now => {
                        run.register_all(desired, config, true).await
                    }
                    (None, ..) => Ok(Registered::default()),
                }
            };
            registered.map(|result| (*id, result)).boxed()
        };
        state.runs.iter().map(registration).collect()
    }

    /// Makes the running state equal the desired one.
    pub(super) async fn reconcile(&mut self, desired: Desired) -> Result<(), AppError> {
        let mut prepared = self.prepare(desired).await?;
        if prepared.plan().is_empty() {
            self.has_deferred = prepared.deferred > 0;
            return Ok(());
        }
        self.register(&mut prepared).await?;
        self.apply_and_end(prepared).await;
        Ok(())
    }

    /// Makes the prepared state the running one, and ends the runs that are no longer owned.
    pub(super) async fn apply_and_end(&mut self, prepared: Prepared) {
        let timeout = prepared.desired.config.shutdown_timeout.min(MOVE_TIMEOUT);
        join_all(self.apply(prepared).into_iter().map(|ending| ending.end(timeout))).await;
    }

    /// Makes the prepared state the running one. Returns the runs that are no longer owned, to be stopped.
    pub(super) fn apply(&mut self, prepared: Prepared) -> Vec<Run> {
        let Prepared {
            desired,
            running,
            state,
            deferred,
            listeners,
            sinks,
            client,
            new_runs,
            mut registered,
            control,
        } = prepared;
        let plan = plan(&running, &state);
        let config = &*desired.config;
        let ticks = self.ticks(&state);
        let stops = plan.runs.iter().filter(|(_, plan)| plan.lifecycle == Lifecycle::Stop);
        let stopping = stops.filter_map(|(id, _)| self.runs.remove(id)).collect();
        self.add_runs(new_runs);
        let unchanged = RunPlan::default();
        for (id, run) in &mut self.runs {
            let plan = plan.runs.get(id).unwrap_or(&unchanged);
            let registered = registered.remove(id).unwrap_or_default();
            run.sinks.apply(plan, &sinks, &registered.sinks, config.shutdown_timeout / 8);
            let inputs = AccountInputs { registered, client: Arc::clone(&client), ticks: &ticks };
            run.apply(plan, state.may_retire, inputs);
            run.configure(config);
            run.set_activity(state.activity);
        }
        self.apply_settings(config);
        self.set_schedules(ticks, config);
        self.publish(config);
        if let Some(socket) = control {
            self.serve_control(socket);
        }
        for (address, listener) in listeners {
            self.serve(address, listener);
        }
        for step in &plan.listeners {
            if let Step::Stop(address, ()) = step {
                self.stop_serving(address, config.shutdown_timeout / 8);
            }
        }
        let is_restart = |step: &Step<'_, _, _>| matches!(step, Step::Restart(..));
        let restarts = |plan: &RunPlan<'_>| plan.official_accounts.iter().any(is_restart);
        self.has_deferred = deferred > 0 || plan.runs.values().any(restarts);
        (self.activity, self.may_retire, self.settings) =
            (state.activity, state.may_retire, state.settings.clone());
        stopping
    }

    /// Binds the addresses that are not served yet. A daemon that already runs with this store is the reason why that fails, whatever
    /// uses the address.
    fn listen(&self, running: &State, config: &Config) -> Result<Vec<(SocketAddr, WebListener)>, AppError> {
        let new = config.web.listen.iter().filter(|address| !running.listeners.contains(address));
        let listeners = new.map(|&address| {
            if let Some(own) = running.listeners.iter().find(|own| overlap(**own, address)) {
                let reason = format!("{address} overlaps {own}, which is in use");
                return Err(AppError::NeedsRestart { key: "web.listen", reason });
            }
            let listener =
                WebListener::bind(address).map_err(|source| AppError::Listen { address, source })?;
            Ok((address, listener))
        });
        let listeners: Result<Vec<_>, AppError> = listeners.collect();
        listeners.map_err(|error| match &config.store.location {
            StoreLocation::File(path) if self.runs.is_empty() => match Store::check_free(path) {
                Err(running @ StoreError::Locked { .. }) => running.into(),
                _ => error,
            },
            StoreLocation::File(_) | StoreLocation::Postgres(_) => error,
        })
    }

    fn build_sinks(&self, plan: &Plan<'_>, config: &Config) -> Result<BuiltSinks, AppError> {
        let context = ChatContext {
            clock: Arc::clone(&self.context.clock),
            zone: config.poll.timezone,
            nicknames: Arc::new(TableNicknames::new(Arc::clone(&self.web.table))),
        };
        let mut built = BuiltSinks::new();
        for step in plan.runs.values().flat_map(|plan| &plan.sinks) {
            let (name, part) = match *step {
                Step::Start(name, part) | Step::Change(name, _, part) | Step::Restart(name, _, part) => {
                    (name, part)
                }
                Step::Stop(..) => continue,
            };
            if !built.contains_key(name) {
                let sink = match self.runs.values().find_map(|run| run.sinks.sink(name, part)) {
                    Some(sink) => sink,
                    None => Arc::new(build_sinks::prepare(&part.config, &context)?),
                };
                built.insert(Arc::clone(name), sink);
            }
        }
        Ok(built)
    }

    /// Opens the runs that this process owns and that do not run yet, and reads which kf accounts they have discovered.
    async fn open_runs(
        &self,
        desired: &Desired,
        client: &Arc<WechatClient>,
    ) -> Result<(BTreeMap<RunId, Run>, KfAccountNames), AppError> {
        let config = &*desired.config;
        let is_new = |id: &RunId| !self.runs.contains_key(id);
        let stores: Vec<(RunId, Store)> = match (&desired.stores, &config.store.location) {
            (OwnedStores::File, StoreLocation::File(path)) if is_new(&RunId::SQLITE) => {
                vec![(RunId::SQLITE, Store::open(path)?)]
            }
            (OwnedStores::File, _) => Vec::new(),
            (OwnedStores::Shards(shards), _) => {
                let shards = shards.iter().map(|(shard, store)| (RunId::from(*shard), store.clone()));
                shards.filter(|(id, _)| is_new(id)).collect()
            }
        };
        let runs = stores.into_iter().map(|(id, store)| async move {
            let opened = async {
                let run = Run::new(id, store, config, Arc::clone(client), &self.context).await?;
                let known = accounts::discovered(config, &run.store).await?;
                Ok::<_, StoreError>((run, known))
            };
            (id, opened.await)
        });
        let (mut opened, mut known) = (BTreeMap::new(), KfAccountNames::new());
        for (id, result) in join_all(runs).await {
            match result {
                Ok((run, of_run)) => {
                    opened.insert(id, run);
                    known.extend(of_run);
                }
                Err(error) if desired.stores.are_shards() => log_failed_start(id, &error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((opened, known))
    }
}

fn log_failed_start(id: RunId, error: &StoreError) {
    tracing::error!(shard = id.0, "A shard cannot be started, trying again: {}", crate::chain(error));
}

/// What cannot change while the daemon runs.
fn check_restart(running: &Settings, config: &Config) -> Result<(), AppError> {
    let (from, to) = (&running.store.location, &config.store.location);
    let key = match (from, to) {
        _ if from == to => None,
        (StoreLocation::File(_), StoreLocation::File(_)) => Some("store.path"),
        (StoreLocation::Postgres(from), StoreLocation::Postgres(to)) => Some(match () {
            () if from.name != to.name => "cluster.name",
            () if from.advertise != to.advertise => "cluster.advertise",
            () if from.database.schema != to.database.schema => "store.schema",
            () if from.database.ca_file != to.database.ca_file => "store.ca_file",
            () => "store.url",
        }),
        _ => Some("store.backend"),
    };
    if let Some(key) = key {
        let reason = "the store cannot move while it is in use".to_owned();
        return Err(AppError::NeedsRestart { key, reason });
    }
    if running.control != config.control {
        let reason = "the control socket cannot move while it is in use".to_owned();
        return Err(AppError::NeedsRestart { key: "control.socket", reason });
    }
    Ok(())
}

/// Whether the same connection could reach both addresses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (is_any(one) || is_any(other))
}

/// Binds the control socket. Without it the daemon polls and delivers all the same.
fn control_socket(control: &ControlConfig) -> Option<ControlSocket> {
    let socket = ControlSocket::bind(control.socket_path());
    let warn = |error: &SocketError| {
        tracing::warn!("This daemon accepts no commands while it runs: {}", crate::chain(error));
    };
    socket.inspect_err(warn).ok()
}
