//! A simulator, a daemon that polls it, and what its sweeps cost.

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

/// Limit on the first sweep, which stores all baselines and delivers their events.
const PATIENCE: Duration = Duration::from_secs(240);

/// Assumed speed for the first choice of the schedule.
const POLLS_PER_SECOND: f64 = 13_000.0;

/// From the second of a tick until its sweep has begun: the scheduler wakes up every half second.
const LATEST_TRIGGER: Duration = Duration::from_millis(1_500);

/// An idle daemon uses less CPU than this in [`IDLE_FOR`]; a sweep uses more.
const IDLE_CPU: Duration = Duration::from_millis(10);
const IDLE_FOR: Duration = Duration::from_millis(50);

/// The periods that a schedule in seconds can have.
const PERIODS: [u64; 11] = [2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60];

/// The work of a daemon.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) accounts: usize,
    pub(crate) sessions: usize,
    /// The share of accounts that change between two sweeps.
    pub(crate) changed: f64,
}

/// A daemon and the simulator that it polls.
pub(crate) struct Daemon {
    load: Load,
    accounts: usize,
    period: Duration,
    process: Running,
    address: SocketAddr,
    /// The simulator's configuration for the daemon.
    pub(crate) configuration: String,
    _simulator: Running,
    _directory: tempfile::TempDir,
}

/// The cost of some whole sweeps.
pub(crate) struct Sweeps {
    pub(crate) count: u32,
    /// Mean duration of a sweep.
    pub(crate) seconds: f64,
    pub(crate) resident: u64,
    cpu: Duration,
    polls: f64,
    commits: Histogram,
    durations: Histogram,
}

impl Daemon {
    /// Starts both, and waits until every account was polled and every event delivered.
    pub(crate) fn start(load: Load) -> Self {
        let needed = LATEST_TRIGGER
            + Duration::from_secs_f64(load.accounts as f64 / POLLS_PER_SECOND)
            + scrape_margin(load.accounts);
        Self::start_with_period(load, period_of_at_least(needed))
    }

    fn start_with_period(load: Load, period: Duration) -> Self {
        // A hundred on each, as many as WeChat allows; at least ten of them, so that their shares fill all requests in flight.
        let officials = (load.accounts / 100).max(10);
        // A session that is replaced changes its account twice: when it ends and when the next one starts.
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
        // A free port; it is unlikely that another program takes it before the daemon does.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, configured(&configuration, address, period)).unwrap();
        let mut command = process::pinned(env!("CARGO_BIN_EXE_kfwatch"), MEASURED);
        command.arg("run").arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Running(command.spawn().unwrap());
        let daemon = Self {
            load,
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

    /// Measures sweeps for about `span`, and calls `during` once within each.
    ///
    /// Where other programs keep the machine so busy that a sweep does not fit into the schedule, the figures would mix sweeps:
    /// then the daemon is started again with a longer period, up to a minute.
    #[expect(clippy::print_stderr, reason = "a benchmark reports on its terminal")]
    pub(crate) fn measure(&mut self, span: Duration, mut during: impl FnMut(SocketAddr)) -> Sweeps {
        loop {
            let count = (span.as_secs_f64() / self.period.as_secs_f64()).round().max(1.0) as u32;
            if let Some(sweeps) = self.try_measure(count, &mut during) {
                return sweeps;
            }
            let longer = period_of_at_least(self.period + Duration::from_secs(1));
            eprintln!(
                "The machine is busy: sweeps do not fit into {:?}. Starting again with {longer:?}.",
                self.period
            );
            assert!(longer > self.period, "sweeps of {} accounts do not fit into a minute", self.accounts);
            *self = Self::start_with_period(self.load, longer);
        }
    }

    /// `None` if the daemon was not idle between two sweeps, or a tick found polls of the previous one.
    fn try_measure(&self, count: u32, during: &mut impl FnMut(SocketAddr)) -> Option<Sweeps> {
        self.sleep_until_idle()?;
        let before = Scrape::of(self.address).unwrap();
        let begun_with = self.cpu();
        for _ in 0..count {
            let idle = self.cpu();
            while self.cpu() < idle + IDLE_CPU {
                std::thread::sleep(Duration::from_millis(1));
            }
            during(self.address);
            self.sleep_until_idle()?;
        }
        let cpu = self.cpu() - begun_with;
        let after = Scrape::of(self.address).unwrap();
        let swept = after.sweeps.since(&before.sweeps);
        if swept.count != f64::from(count) || after.overruns > before.overruns {
            return None;
        }
        assert_eq!(after.polls.len(), self.accounts);
        for (polls, before) in after.polls.iter().zip(&before.polls) {
            assert_eq!(polls - before, u64::from(count), "every account has one poll in each sweep");
        }
        Some(Sweeps {
            count,
            seconds: swept.sum / swept.count,
            resident: self.resident(),
            cpu,
            polls: after.calls - before.calls,
            commits: after.commits.since(&before.commits),
            durations: after.durations.since(&before.durations),
        })
    }

    /// Returns how long a scrape takes while the daemon is idle.
    pub(crate) fn scrape_while_idle(&self) -> Duration {
        // A busy machine makes the figure larger, and the ratio next to it smaller.
        let _ = self.sleep_until_idle();
        timed_scrape(self.address)
    }

    fn wait_until_settled(&self) {
        let begun = Instant::now();
        loop {
            let idle = self.sleep_until_idle();
            let settled = Scrape::of(self.address)
                .is_ok_and(|seen| seen.calls >= self.accounts as f64 && seen.pending_events == 0.0);
            if settled && idle.is_some() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon has not polled every account");
        }
    }

    /// Sleeps until shortly before a tick, when the previous sweep should be over. `None` if the daemon is not idle then.
    fn sleep_until_idle(&self) -> Option<()> {
        let period = self.period.as_millis();
        let since_tick = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() % period;
        let idle = period - scrape_margin(self.load.accounts).as_millis();
        let pause = (idle + period - since_tick) % period;
        std::thread::sleep(Duration::from_millis(u64::try_from(pause).unwrap()));
        let before = self.cpu();
        std::thread::sleep(IDLE_FOR);
        (self.cpu() - before < IDLE_CPU).then_some(())
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
    /// µs of CPU per poll.
    pub(crate) fn cpu_of_poll(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.polls
    }

    /// µs of CPU per sweep.
    pub(crate) fn cpu_of_sweep(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(self.count)
    }

    /// Polls per second while a sweep runs.
    pub(crate) fn rate(&self) -> f64 {
        self.polls / f64::from(self.count) / self.seconds
    }

    /// The share of polls that committed something.
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

/// Returns how long a scrape of /metrics takes.
pub(crate) fn timed_scrape(address: SocketAddr) -> Duration {
    let begun = Instant::now();
    page(address).unwrap();
    begun.elapsed()
}

fn period_of_at_least(needed: Duration) -> Duration {
    let fits = PERIODS.map(Duration::from_secs).into_iter().find(|period| *period >= needed);
    fits.unwrap_or(Duration::from_secs(60))
}

/// Time before a tick that is kept free, long enough for a scrape.
fn scrape_margin(accounts: usize) -> Duration {
    Duration::from_millis(400) + IDLE_FOR + Duration::from_micros(10) * u32::try_from(accounts).unwrap()
}

/// Adds the bench's settings to the simulator's configuration.
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
