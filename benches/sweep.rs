//! Whole sweeps of `kfwatch run`, the program itself, against the simulator in another process, each on a core of its own.
//!
//! For each number of accounts, rounds of the daemon and of the bare loops alternate on the same core, and the medians are
//! compared. Last, a daemon whose accounts change is scraped during its sweeps. The schedule leaves time between two sweeps,
//! so that the CPU time between two idle moments belongs to whole sweeps, and every account has exactly one poll in each.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]
#![expect(
    clippy::disallowed_methods,
    reason = "the variables select what is measured; they are no configuration of kfwatch"
)]

use std::time::Duration;

#[path = "sweep/baselines.rs"]
mod baselines;
#[path = "support/cpu.rs"]
mod cpu;
#[path = "sweep/daemon.rs"]
mod daemon;
#[path = "support/loops.rs"]
mod loops;
#[path = "support/median.rs"]
mod median;
#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;
#[path = "sweep/scrape.rs"]
mod scrape;

use baselines::{Baseline, Baselines};
use daemon::{Daemon, Load, Sweeps, timed_scrape};
use median::median;
use report::Report;

/// The core of the daemon and of the loops; the simulator has the other one.
const MEASURED: usize = 0;

/// Rounds of the daemon and of the loops, which alternate.
const ROUNDS: u32 = 5;

/// What to measure. Each field is set by a variable of the environment.
struct Scope {
    /// `KFWATCH_SWEEP_ACCOUNTS`: numbers of kf accounts, ascending.
    accounts: Vec<usize>,
    /// `KFWATCH_SWEEP_SESSIONS`: open sessions on each.
    sessions: usize,
    /// `KFWATCH_SWEEP_CHANGED`: the share of accounts whose sessions change between two sweeps; 0 omits that part.
    changed: f64,
    /// `KFWATCH_SWEEP_SECONDS`: how long to measure each number of accounts.
    seconds: u64,
}

fn main() {
    if std::env::args().any(|argument| argument == baselines::LOOPS) {
        return baselines::run_loops();
    }
    let scope = Scope::from_environment();
    let mut report = Report::new();
    let mut previous = None;
    for &accounts in &scope.accounts {
        let cpu_of_sweep = unchanged(&mut report, accounts, &scope);
        if let Some((fewer, cost)) = previous.replace((accounts, cpu_of_sweep)) {
            report_growth(&mut report, [fewer, accounts], cpu_of_sweep / cost);
        }
    }
    if let (Some(&accounts), true) = (scope.accounts.last(), scope.changed > 0.0) {
        changed(&mut report, accounts, &scope);
    }
    report.print();
}

impl Scope {
    fn from_environment() -> Self {
        let variable = |name: &str, default: &str| {
            std::env::var(format!("KFWATCH_SWEEP_{name}")).unwrap_or_else(|_| default.to_owned())
        };
        Self {
            accounts: variable("ACCOUNTS", "1000,10000,100000")
                .split(',')
                .map(|accounts| accounts.trim().parse().unwrap())
                .collect(),
            sessions: variable("SESSIONS", "10").parse().unwrap(),
            changed: variable("CHANGED", "0.02").parse().unwrap(),
            seconds: variable("SECONDS", "20").parse().unwrap(),
        }
    }

    fn load(&self, accounts: usize, changed: f64) -> Load {
        Load { accounts, sessions: self.sessions, changed }
    }
}

/// Returns the µs of CPU that one sweep takes.
fn unchanged(report: &mut Report, accounts: usize, scope: &Scope) -> f64 {
    let mut daemon = Daemon::start(scope.load(accounts, 0.0));
    let mut baselines = Baselines::start(&daemon.configuration);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(daemon.measure(Duration::from_secs(scope.seconds) / ROUNDS, |_| ()));
        // A daemon that had to be restarted has a new simulator.
        baselines.measure(&daemon.configuration);
    }
    let middle = |figure: fn(&Sweeps) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let cpu = middle(Sweeps::cpu_of_poll);
    let sweeps: u32 = rounds.iter().map(|round| round.count).sum();
    let what =
        format!("{accounts} unchanged accounts, {sweeps} sweeps of {:.2} s", middle(|round| round.seconds));
    let figure = format!("{cpu:.1} µs CPU, {:.0}/s", middle(Sweeps::rate));
    for Baseline { name, target, cpu: bare, rate } in baselines.medians() {
        let baseline = format!("{name}: {bare:.1} µs, {rate:.0}/s");
        report.row([&what, &figure, &baseline], Some(cpu / bare), target);
    }
    let per_core = 1e6 / cpu;
    let parsed = baselines.medians().into_iter().find(|baseline| !baseline.target.is_empty());
    let bare = parsed.map_or(f64::NAN, |baseline| 1e6 / baseline.cpu);
    report.row(
        [
            &format!("{accounts} accounts, polls/s per core"),
            &format!("{per_core:.0}/s"),
            &format!("bare loop: {bare:.0}/s"),
        ],
        Some(per_core / bare),
        "≥ 0.7",
    );
    let resident = format!("{:.1} MiB", middle(|round| round.resident as f64) / f64::from(1 << 20));
    report.row([&format!("{accounts} accounts, resident"), &resident, ""], None, "");
    middle(Sweeps::cpu_of_sweep)
}

fn report_growth(report: &mut Report, [fewer, more]: [usize; 2], cost: f64) {
    let what = format!("CPU of a sweep of {more} accounts, compared with {fewer}");
    let times = more as f64 / fewer as f64;
    report.row(
        [&what, &format!("{cost:.1} times"), &format!("{times:.0} times the accounts")],
        Some(cost / times),
        "≤ 1.1",
    );
}

fn changed(report: &mut Report, accounts: usize, scope: &Scope) {
    let mut daemon = Daemon::start(scope.load(accounts, scope.changed));
    let span = Duration::from_secs(scope.seconds);
    let unscraped = daemon.measure(span, |_| ());
    let mut scrapes = Vec::new();
    let scraped = daemon.measure(span, |address| scrapes.push(millis(timed_scrape(address))));
    let idle = millis(daemon.scrape_while_idle());
    let what = format!("{accounts} accounts, {:.1} % of them changed", 1e2 * unscraped.committed());
    let figure = format!("{:.1} µs CPU, {:.0}/s", unscraped.cpu_of_poll(), unscraped.rate());
    report.row([&what, &figure, ""], None, "");
    report.row(["their commits", &unscraped.commits(), ""], None, "");
    let sweeping = median(&scrapes);
    report.row(
        ["/metrics during a sweep", &format!("{sweeping:.0} ms"), &format!("while idle: {idle:.0} ms")],
        Some(sweeping / idle),
        "",
    );
    let sweep = |sweeps: &Sweeps| format!("{:.2} s, calls {}", sweeps.seconds, sweeps.calls());
    report.row(
        ["a sweep with such a scrape", &sweep(&scraped), &format!("without: {}", sweep(&unscraped))],
        Some(scraped.seconds / unscraped.seconds),
        "",
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
