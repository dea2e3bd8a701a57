//! A simulator and a daemon that sweeps it, and what a span of whole sweeps cost.

use std::{
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    MEASURED, cpu,
    loops::IN_FLIGHT,
    process::{self, Running},
    scrape::{Histogram, Scrape, page},
};

/// For the first sweep, which stores all baselines and delivers their events.
const PATIENCE: Duration = Duration::from_secs(240);

/// Sweeps may be as slow as that; else the schedule is too narrow for them.
const SLOWEST_POLLS_PER_SECOND: f64 = 13_000.0;

/// From the second of a tick until its sweep has begun: the scheduler looks every half second.
const LATEST_TRIGGER: Duration = Duration::from_millis(1_500);

/// More processor time than a daemon takes between sweeps.
const SURELY_SWEEPING: Duration = Duration::from_millis(10);

/// What a daemon has to do.
pub(crate) struct Load {
    pub(crate) accounts: usize,
    pub(crate) sessions: usize,
    /// The share of accounts that change between two sweeps.
    pub(crate) changed: f64,
}

/// A daemon and the simulator that it polls.
pub(crate) struct Daemon {
    accounts: usize,
    period: Duration,
    process: Running,
    address: SocketAddr,
    /// The simulator's configuration for it.
    pub(crate) configuration: String,
    _simulator: Running,
    _directory: tempfile::TempDir,
}

/// What some whole sweeps cost.
pub(crate) struct Sweeps {
    pub(crate) count: u32,
    /// Of one sweep, on average.
    pub(crate) seconds: f64,
    pub(crate) resident: u64,
    cpu: Duration,
    polls: f64,
    commits: Histogram,
    durations: Histogram,
}

impl Daemon {
    /// Starts both, and waits until every account was polled and every event delivered.
    pub(crate) fn start(load: &Load) -> Self {
        // A hundred on each, as many as WeChat allows; at least ten of them, so that their shares fill all requests in flight.
        let officials = (load.accounts / 100).max(10);
        let period = period(load.accounts);
        // A session that is replaced changes its account twice: when it goes and when the next one comes.
        let churn = load.changed / 2.0 / load.sessions.max(1) as f64 * 60.0 / period.as_secs_f64();
        let [kf_accounts, official_accounts, sessions, churn] = [
            (load.accounts / officials).to_string(),
            officials.to_string(),
            load.sessions.to_string(),
            churn.to_string(),
        ];
        let (simulator, configuration) = process::simulator(
            1 - MEASURED,
            officials,
            &[
                "--load-accounts",
                &kf_accounts,
                "--load-official-accounts",
                &official_accounts,
                "--load-sessions",
                &sessions,
                "--load-churn",
                &churn,
            ],
        );
        let directory = tempfile::tempdir().unwrap();
        // Free just now; nobody else is likely to take it meanwhile.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, configured(&configuration, address, period)).unwrap();
        let mut command = process::pinned(env!("CARGO_BIN_EXE_kfwatch"), MEASURED);
        command.arg("run").arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Running(command.spawn().unwrap());
        let daemon = Self {
            accounts: load.accounts / officials * officials,
            period,
            process,
            address,
            configuration,
            _simulator: simulator,
            _directory: directory,
        };
        daemon.wait_until_settled();
        daemon
    }

    /// What it costs to sweep for about so long; meanwhile `during` is called while each sweep is under way.
    pub(crate) fn measure(&self, span: Duration, mut during: impl FnMut(SocketAddr)) -> Sweeps {
        let count = (span.as_secs_f64() / self.period.as_secs_f64()).round().max(2.0) as u32;
        self.sleep_until_quiet();
        let before = Scrape::of(self.address).unwrap();
        let begun_with = self.cpu();
        for _ in 0..count {
            let quiet = self.cpu();
            while self.cpu() < quiet + SURELY_SWEEPING {
                std::thread::sleep(Duration::from_millis(1));
            }
            during(self.address);
            self.sleep_until_quiet();
        }
        let cpu = self.cpu() - begun_with;
        let after = Scrape::of(self.address).unwrap();
        for (polls, before) in after.polls.iter().zip(&before.polls) {
            assert_eq!(polls - before, u64::from(count), "an account was not polled once in each sweep");
        }
        let swept = after.sweeps.since(&before.sweeps);
        assert_eq!((swept.count, after.polls.len()), (f64::from(count), self.accounts));
        Sweeps {
            count,
            seconds: swept.sum / swept.count,
            resident: self.resident(),
            cpu,
            polls: after.calls - before.calls,
            commits: after.commits.since(&before.commits),
            durations: after.durations.since(&before.durations),
        }
    }

    /// How long a page of metrics takes while nothing else goes on.
    pub(crate) fn scrape_while_quiet(&self) -> Duration {
        self.sleep_until_quiet();
        timed_scrape(self.address)
    }

    fn wait_until_settled(&self) {
        let begun = Instant::now();
        loop {
            self.sleep_until_quiet();
            let settled = Scrape::of(self.address)
                .is_ok_and(|seen| seen.calls >= self.accounts as f64 && seen.pending_events == 0.0);
            if settled {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon has not polled every account");
        }
    }

    /// Until shortly before a tick: the sweep of the one before is over by then.
    fn sleep_until_quiet(&self) {
        let period = self.period.as_millis();
        let since_tick = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() % period;
        let quiet = period - margin(self.accounts).as_millis();
        let pause = (quiet + period - since_tick) % period;
        std::thread::sleep(Duration::from_millis(u64::try_from(pause).unwrap()));
    }

    fn cpu(&self) -> Duration {
        cpu::used_by(self.process.0.id())
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }
}

impl Sweeps {
    /// µs of processor time for one poll.
    pub(crate) fn cpu_of_poll(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.polls
    }

    /// µs of processor time for one sweep.
    pub(crate) fn cpu_of_one(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(self.count)
    }

    /// Polls a second while a sweep is under way.
    pub(crate) fn rate(&self) -> f64 {
        self.polls / f64::from(self.count) / self.seconds
    }

    /// The share of polls that found something to commit.
    pub(crate) fn committed(&self) -> f64 {
        self.commits.count / self.polls
    }

    /// How long polls waited for their commits.
    pub(crate) fn commits(&self) -> String {
        let mean = self.commits.sum / self.commits.count * 1e3;
        format!("mean {mean:.1} ms, 99 % {}", self.commits.bound_of(0.99))
    }

    /// How long calls took.
    pub(crate) fn calls(&self) -> String {
        format!("99 % {}, all {}", self.durations.bound_of(0.99), self.durations.bound_of(1.0))
    }
}

/// How long a page of metrics takes.
pub(crate) fn timed_scrape(address: SocketAddr) -> Duration {
    let begun = Instant::now();
    page(address).unwrap();
    begun.elapsed()
}

/// The narrowest schedule into which a sweep fits, with the quiet time behind it, and which fits into a minute.
fn period(accounts: usize) -> Duration {
    let needed = LATEST_TRIGGER
        + Duration::from_secs_f64(accounts as f64 / SLOWEST_POLLS_PER_SECOND)
        + margin(accounts);
    let fits = [2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60].map(Duration::from_secs);
    fits.into_iter().find(|period| *period >= needed).unwrap()
}

/// So long before a tick everything is quiet, for as long as a page of metrics may take.
fn margin(accounts: usize) -> Duration {
    Duration::from_millis(400) + Duration::from_micros(10) * u32::try_from(accounts).unwrap()
}

/// The simulator's configuration with what the bench wants.
fn configured(simulated: &str, address: SocketAddr, period: Duration) -> String {
    let schedule = match period.as_secs() {
        60 => "0 * * * * *".to_owned(),
        seconds => format!("*/{seconds} * * * * *"),
    };
    let tables = format!(
        "[web]\nlisten = \"{address}\"\n[poll]\nschedule = \"{schedule}\"\n\
         [collectors]\nkf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n\
         [api]\nmax_in_flight = {IN_FLIGHT}\n"
    );
    simulated.replacen("[api]\n", &tables, 1)
}
