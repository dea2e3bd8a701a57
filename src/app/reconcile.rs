//! Makes the running state of the daemon equal the desired one.
//!
//! A reconcile has three steps. [`Replica::prepare`] plans, and makes everything that can fail: it opens the store, binds addresses, reads
//! certificates, builds sinks. [`Replica::register`] writes to the store what changes, in one transaction. [`Replica::apply`] swaps the
//! parts; it cannot fail and does not wait. A failure of the first two changes nothing that runs, and their futures may be dropped.
//!
//! What can only happen later is [deferred](Prepared::deferred): a part that left cannot start again before its end is recorded. The
//! caller reconciles again with the same desired state when [`Replica::left`] reports that.

use std::{net::SocketAddr, path::Path, sync::Arc};

use super::{
    accounts::{self, KfAccountNames},
    build_sinks,
    desired::{Desired, Plan, Settings, State},
    error::AppError,
    nicknames::TableNicknames,
    replica::Replica,
    run::{AccountInputs, Registered, Run},
    run_sinks::BuiltSinks,
};
use crate::{
    config::Config,
    control::socket::{ControlSocket, SocketError},
    domain::plan::{Step, plan},
    sink::chat::ChatContext,
    store::{Store, StoreError},
    web::WebListener,
    wechat::http::WechatClient,
};

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
    client: Option<Arc<WechatClient>>,
    /// A run that starts.
    run: Option<Run>,
    control: Option<ControlSocket>,
    registered: Registered,
}

impl Prepared {
    /// What changes.
    pub(super) fn plan(&self) -> Plan<'_> {
        plan(&self.running, &self.state)
    }

    /// The official accounts that are to run, each with its kf accounts, in the order of the configuration.
    pub(super) fn watched(&self) -> Vec<(String, Vec<Arc<str>>)> {
        let configured = self.desired.config.official_accounts.iter();
        let parts =
            configured.filter_map(|configured| self.state.official_accounts.get(configured.appid.as_str()));
        parts.map(|part| (part.config.name.clone(), part.in_order())).collect()
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
        let mut run = None;
        if desired.owns_run && self.run.is_none() {
            run = Some(Run::open(&config, &self.context, self.left_sender.clone()).await?);
        }
        let mut state = match (&run, &self.run) {
            (Some(new), _) => desired.state(&accounts::discovered(&config, &new.store).await?),
            (None, Some(running)) => desired.state(&running.watched()),
            (None, None) => desired.state(&KfAccountNames::new()),
        };
        let deferred = self.run.as_ref().map_or(0, |run| run.defer(&mut state));
        let plan = plan(&running, &state);
        let sinks = self.build_sinks(&plan, &config)?;
        let client =
            run.as_ref().or(self.run.as_ref()).map(|run| run.factory.prepare(&config)).transpose()?;
        let control =
            run.as_ref().filter(|_| !self.has_control()).and_then(|_| control_socket(&config.store.path));
        let registered = Registered::default();
        Ok(Prepared { desired, running, state, deferred, listeners, sinks, client, run, control, registered })
    }

    /// Registers in the store what changes, in one transaction. If this fails, nothing has changed.
    pub(super) async fn register(&self, prepared: &mut Prepared) -> Result<(), StoreError> {
        prepared.registered = match (&prepared.run, &self.run) {
            (Some(new), _) => new.register_all(&prepared.state, &prepared.desired.config).await?,
            // A run that is no longer owned goes on elsewhere, or here later: nothing of it is retired.
            (None, Some(running)) if !prepared.state.runs.is_empty() => {
                running.register(&prepared.plan(), &prepared.state).await?
            }
            (None, _) => Registered::default(),
        };
        Ok(())
    }

    /// Makes the running state equal the desired one.
    pub(super) async fn reconcile(&mut self, desired: Desired) -> Result<(), AppError> {
        let mut prepared = self.prepare(desired).await?;
        if prepared.plan().is_empty() {
            self.has_deferred = prepared.deferred > 0;
            return Ok(());
        }
        let timeout = prepared.desired.config.shutdown_timeout;
        self.register(&mut prepared).await?;
        if let Some(stopping) = self.apply(prepared) {
            stopping.stop(timeout).await;
        }
        Ok(())
    }

    /// Makes the prepared state the running one. Returns a run that is no longer owned, to be stopped.
    pub(super) fn apply(&mut self, prepared: Prepared) -> Option<Run> {
        let Prepared {
            desired,
            running,
            state,
            deferred,
            listeners,
            mut sinks,
            client,
            run,
            registered,
            control,
            ..
        } = prepared;
        let plan = plan(&running, &state);
        let config = &*desired.config;
        let ticks = self.ticks(&state);
        let stopping = if state.runs.is_empty() { self.run.take() } else { None };
        if let Some(run) = run {
            self.run = Some(run);
        }
        if let (Some(run), Some(client)) = (&mut self.run, client) {
            run.sinks.apply(&plan, &mut sinks, &registered.sinks, config.shutdown_timeout / 8);
            run.apply(&plan, &state, AccountInputs { registered, client, ticks: &ticks });
            run.configure(config);
            run.set_activity(state.activity);
        }
        self.apply_settings(config);
        self.set_schedules(ticks);
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
        self.has_deferred = deferred > 0 || plan.official_accounts.iter().any(is_restart);
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
        listeners.map_err(|error| match Store::check_free(&config.store.path) {
            Err(running @ StoreError::Locked { .. }) if self.run.is_none() => running.into(),
            _ => error,
        })
    }

    fn build_sinks(&self, plan: &Plan<'_>, config: &Config) -> Result<BuiltSinks, AppError> {
        let context = ChatContext {
            clock: Arc::clone(&self.context.clock),
            zone: config.poll.timezone,
            nicknames: Arc::new(TableNicknames::new(Arc::clone(&self.web.table))),
        };
        let built = plan.sinks.iter().filter_map(|step| match *step {
            Step::Start(name, part) | Step::Change(name, _, part) | Step::Restart(name, _, part) => {
                let sink = build_sinks::prepare(&part.config, &context);
                Some(sink.map(|sink| (Arc::clone(name), sink)))
            }
            Step::Stop(..) => None,
        });
        built.collect()
    }
}

/// What cannot change while the daemon runs.
fn check_restart(running: &Settings, config: &Config) -> Result<(), AppError> {
    if running.store.path != config.store.path {
        let reason = "the store cannot move while it is in use".to_owned();
        return Err(AppError::NeedsRestart { key: "store.path", reason });
    }
    Ok(())
}

/// Whether the same connection could reach both addresses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (is_any(one) || is_any(other))
}

/// Binds the control socket. Without it the daemon polls and delivers all the same.
fn control_socket(store: &Path) -> Option<ControlSocket> {
    let socket = ControlSocket::bind(store);
    let warn = |error: &SocketError| {
        tracing::warn!("This daemon accepts no commands while it runs: {}", crate::chain(error));
    };
    socket.inspect_err(warn).ok()
}
