//! The parts of a replica that have keys: tickers by schedule, web listeners by address.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::{desired::State, error::AppError, tasks::TaskName},
    Replica,
};
use crate::{
    config::Config,
    domain::schedule_key::ScheduleKey,
    schedule::{
        spread_plan::ScheduledAccount,
        ticker::{Ticker, TickerContext},
    },
    web::WebListener,
};

pub(super) struct RunningTicker {
    ticks: Arc<AtomicU64>,
    official_accounts: watch::Sender<Arc<Vec<ScheduledAccount>>>,
    stop: CancellationToken,
}

pub(super) struct RunningListener {
    handle: axum_server::Handle<SocketAddr>,
    stop: CancellationToken,
}

impl Replica {
    /// Serves pages on an address.
    pub(in crate::app) fn serve(&mut self, address: SocketAddr, listener: WebListener) {
        tracing::info!(
            address = %listener.address,
            "Serving the status page on http://{0}/ and metrics on http://{0}/metrics",
            listener.address
        );
        let (handle, stop) = (axum_server::Handle::new(), CancellationToken::new());
        let serving = listener.serve(Arc::clone(&self.web), handle.clone());
        self.tasks
            .spawn(TaskName::WebListener(address), &stop, async { serving.await.map_err(AppError::Web) });
        self.listeners.insert(address, RunningListener { handle, stop });
    }

    /// Stops serving on an address. Requests that are served then may finish within `grace`.
    pub(in crate::app) fn stop_serving(&mut self, address: &SocketAddr, grace: Duration) {
        if let Some(listener) = self.listeners.remove(address) {
            listener.stop.cancel();
            listener.handle.graceful_shutdown(Some(grace));
        }
    }

    /// The number of ticks of each desired schedule, from zero for one that does not run yet.
    pub(in crate::app) fn ticks(&self, desired: &State) -> BTreeMap<ScheduleKey, Arc<AtomicU64>> {
        let ticks = |key: &ScheduleKey| match self.tickers.get(key) {
            Some(ticker) => Arc::clone(&ticker.ticks),
            None => Arc::default(),
        };
        desired.schedules.iter().map(|key| (key.clone(), ticks(key))).collect()
    }

    /// Makes the tickers follow the official accounts of the runs. A ticker whose schedule nobody follows any more ends.
    pub(in crate::app) fn set_schedules(
        &mut self,
        ticks: BTreeMap<ScheduleKey, Arc<AtomicU64>>,
        config: &Config,
    ) {
        let mut scheduled = self.scheduled(config);
        self.tickers.retain(|key, ticker| {
            let is_used = ticks.contains_key(key);
            if !is_used {
                ticker.stop.cancel();
            }
            is_used
        });
        for (key, ticks) in ticks {
            let official_accounts = Arc::new(scheduled.remove(&key).unwrap_or_default());
            match self.tickers.get(&key) {
                Some(ticker) => drop(ticker.official_accounts.send_replace(official_accounts)),
                None => self.start_ticker(key, ticks, official_accounts),
            }
        }
    }

    /// The official accounts of each schedule.
    fn scheduled(&self, config: &Config) -> HashMap<ScheduleKey, Vec<ScheduledAccount>> {
        let mut schedules: HashMap<ScheduleKey, Vec<ScheduledAccount>> = HashMap::new();
        for (_, running) in self.official_accounts(config) {
            if !running.part.is_ending {
                let scheduled = ScheduledAccount {
                    official_account: Arc::clone(&running.official_account),
                    lane: running.lane,
                };
                schedules.entry(running.part.schedule_key()).or_default().push(scheduled);
            }
        }
        schedules
    }

    fn start_ticker(
        &mut self,
        key: ScheduleKey,
        ticks: Arc<AtomicU64>,
        official_accounts: Arc<Vec<ScheduledAccount>>,
    ) {
        let (official_accounts, receiver) = watch::channel(official_accounts);
        let context = TickerContext {
            queue: Arc::clone(&self.context.queue),
            metrics: Arc::clone(&self.context.metrics),
            clock: Arc::clone(&self.context.clock),
            manual_ticks: self.manual_ticks.clone(),
        };
        let ticker = Ticker::new(context, key.clone(), Arc::clone(&ticks), receiver);
        self.checks.add([ticker.progress_check()]);
        let stop = self.stop_polling.child_token();
        let (name, scheduler, stopped) =
            (TaskName::Ticker(format!("{:?}", key.schedule)), self.scheduler.clone(), stop.clone());
        self.tasks.spawn(name, &stop, async { Ok(ticker.run(scheduler, stopped).await?) });
        self.tickers.insert(key, RunningTicker { ticks, official_accounts, stop });
    }
}
