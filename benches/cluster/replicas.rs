//! Replicas of `kfwatch run` that poll a simulator in this process.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kfwatch::simulator::{ApiCall, Fault, FaultRule, Scenario, Simulator, SimulatorControl};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::process::Running;

/// Many more polls are due each second than replicas can make.
const OFFICIAL_ACCOUNTS: usize = 128;
const KF_ACCOUNTS_EACH: usize = 80;

/// With 64 requests in flight, a replica makes at most 1,280 polls a second.
const ANSWER_TIME: Duration = Duration::from_millis(50);

/// The longest wait for replicas.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long nothing may move until a cluster counts as settled.
const SETTLED: Duration = Duration::from_secs(5);

/// Replicas, and the simulator that they poll.
pub(crate) struct Replicas {
    running: Vec<(Running, SocketAddr, PathBuf)>,
    control: SimulatorControl,
    runtime: Runtime,
    _simulator: Simulator,
    _directory: TempDir,
}

impl Replicas {
    /// Starts so many, and waits until they share the work.
    pub(crate) fn start(server: &tokio_postgres::Config, schema: &str, count: usize) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let scenario = Scenario {
            faults: vec![FaultRule {
                endpoint: Some(ApiCall::GetSessionList),
                ..FaultRule::new(Fault::Slow(ANSWER_TIME))
            }],
            ..Scenario::load(OFFICIAL_ACCOUNTS, KF_ACCOUNTS_EACH, 1, 0.0)
        };
        let accounts = scenario.accounts();
        let simulator = runtime.block_on(Simulator::start(scenario, ([127, 0, 0, 1], 0).into())).unwrap();
        let control = simulator.control();
        let directory = tempfile::tempdir().unwrap();
        let mut official_accounts = String::new();
        for account in &accounts {
            let token = directory.path().join(format!("{}.token", account.appid));
            std::fs::write(&token, control.fetch_competing_token(&account.appid).unwrap()).unwrap();
            write!(
                official_accounts,
                "[[official_accounts]]\nname = {:?}\nappid = {:?}\nkf_accounts = {:?}\n\
                 token = {{ source = \"file\", path = {token:?} }}\n",
                account.name, account.appid, account.kf_accounts
            )
            .unwrap();
        }
        let tokio_postgres::config::Host::Unix(socket) = &server.get_hosts()[0] else {
            unreachable!("tests/with_postgres.sh starts a server on a UNIX socket")
        };
        let url = format!(
            "postgres://{}@{}/{}",
            server.get_user().unwrap(),
            socket.display().to_string().replace('/', "%2F"),
            server.get_dbname().unwrap()
        );
        let start = |number: usize| {
            // A free port; it is unlikely that another program takes it before the daemon does.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let path = |name: &str| directory.path().join(format!("{number}.{name}"));
            let text = format!(
                "[web]\nlisten = \"{address}\"\n[control]\nsocket = {:?}\n\
                 [store]\nbackend = \"postgresql\"\nurl = {url:?}\nschema = {schema:?}\n\
                 [cluster]\nname = \"replica-{number}\"\n\
                 [api]\nbase_url = {:?}\nmax_in_flight = 64\nmax_in_flight_per_official_account = 64\n\
                 [poll]\nschedule = \"* * * * * *\"\n\
                 [collectors]\nkf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n\
                 [[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = {:?}\n{official_accounts}",
                path("sock"),
                simulator.base_url(),
                path("jsonl")
            );
            let config = path("toml");
            std::fs::write(&config, text).unwrap();
            (run(&config), address, config)
        };
        let running = (0..count).map(start).collect();
        let replicas = Self { running, control, runtime, _simulator: simulator, _directory: directory };
        replicas.wait_until_settled();
        replicas
    }

    /// How many polls a second all of them make together.
    pub(crate) fn polls_per_second(&self, during: Duration) -> f64 {
        let polls = || self.control.requests(ApiCall::GetSessionList);
        let (before, begun) = (polls(), Instant::now());
        std::thread::sleep(during);
        (polls() - before) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Sends one of two replicas a signal, and returns how long it took until the other one owned everything. Then starts it again.
    pub(crate) fn take_over(&mut self, number: usize, signal: &str) -> Duration {
        let process = self.running[number].0.0.id().to_string();
        let begun = Instant::now();
        let sent = Command::new("kill").args([&format!("-{signal}"), &process]).status().unwrap();
        assert!(sent.success());
        self.wait_until("the other one owns all shards", || self.owned(1 - number) == 64.0);
        let taken = begun.elapsed();
        let config = self.running[number].2.clone();
        self.running[number].0.0.wait().unwrap();
        self.running[number].0 = run(&config);
        self.wait_until_settled();
        taken
    }

    /// Waits until all shards have an owner, none has moved for a while, and all replicas have some.
    fn wait_until_settled(&self) {
        let (mut before, mut since) = (Vec::new(), Instant::now());
        self.wait_until("the cluster has settled", || {
            let owned: Vec<f64> = (0..self.running.len()).map(|number| self.owned(number)).collect();
            if owned != before || owned.iter().sum::<f64>() != 64.0 || owned.contains(&0.0) {
                (before, since) = (owned, Instant::now());
            }
            since.elapsed() > SETTLED
        });
    }

    fn wait_until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_true() {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many shards a replica owns; none while it does not answer.
    fn owned(&self, number: usize) -> f64 {
        let url = format!("http://{}/metrics", self.running[number].1);
        let page = self.runtime.block_on(async { reqwest::get(url).await.ok()?.text().await.ok() });
        let line = page
            .as_deref()
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("kfwatch_shards_owned "));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

fn run(config: &std::path::Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
    command.arg("run").arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}
