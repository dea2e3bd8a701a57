//! The daemon in this process, whose ticks the test triggers.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use kfwatch::{
    app::{App, clock::SystemClock},
    config::{Config, Environment},
    domain::clock::{Clock, Moment},
    schedule::ticker::ManualTicks,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::process::{WeChat, get, metric};

/// The system's clock, which the test sets forward.
#[derive(Default)]
pub(crate) struct JumpingClock {
    system: SystemClock,
    jumped: Mutex<Duration>,
}

impl JumpingClock {
    /// Sets both clocks forward.
    pub(crate) fn jump(&self, by: Duration) {
        *self.jumped.lock().unwrap() += by;
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Moment {
        let Moment { wall, monotonic } = self.system.now();
        let jumped = *self.jumped.lock().unwrap();
        Moment { wall: wall + jumped, monotonic: monotonic + jumped }
    }
}

/// A daemon whose schedule does not tick while the test runs. Dropping it drains it, for up to a second.
pub(crate) struct ManualDaemon {
    ticks: ManualTicks,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    directory: Option<TempDir>,
}

impl ManualDaemon {
    /// Starts a daemon that watches the simulated accounts. The variables override keys of the configuration.
    pub(crate) fn watching(wechat: &WeChat, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::default());
        let mut daemon = Self::start(&wechat.configuration(), directory.path(), variables, clock);
        daemon.directory = Some(directory);
        daemon
    }

    /// Starts a daemon with this configuration, whose files are in this directory.
    pub(crate) fn start(
        configuration: &str,
        directory: &Path,
        variables: &[(&str, &str)],
        clock: Arc<dyn Clock>,
    ) -> Self {
        let own = [
            ("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *"),
            ("KFWATCH__WEB__LISTEN", "127.0.0.1:0"),
            ("KFWATCH__SHUTDOWN_TIMEOUT", "1s"),
        ];
        let environment: Environment = own.iter().chain(variables).copied().collect();
        let config = Config::from_toml(configuration, directory, &environment).unwrap().config;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let app = runtime.block_on(App::build(config, clock)).unwrap();
        let (ticks, address) = (app.manual_ticks(), app.addresses()[0]);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let thread = std::thread::spawn(move || {
            runtime.block_on(app.run(stopped)).unwrap();
        });
        Self { ticks, address, stop, thread: Some(thread), directory: None }
    }

    /// Triggers a tick. It coalesces with the tick before if that one is not served yet.
    pub(crate) fn tick(&self) {
        self.ticks.tick();
    }

    /// Returns the value of a series of /metrics, written as on the page.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        metric(&get(self.address, "/metrics", "").text(), series)
    }
}

impl Drop for ManualDaemon {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
