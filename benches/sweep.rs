//! Whole sweeps of `kfwatch run`, the program itself, against the simulator in another process, each on a core of its own.
//!
//! For each number of accounts a daemon that finds nothing changed, beside bare loops with as many requests in flight on the
//! same core in the same minute; at last a daemon that finds changes and is scraped. The schedule is so wide that a sweep is
//! over long before the next one: then all of the processor time between two quiet moments belongs to whole sweeps, and
//! every account must have been polled once in each.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing better to do than to end")]
#![expect(clippy::disallowed_methods, reason = "what a bench measures is no configuration of the program")]

use std::time::Duration;

#[path = "sweep/baselines.rs"]
mod baselines;
#[path = "support/cpu.rs"]
mod cpu;
#[path = "sweep/daemon.rs"]
mod daemon;
#[expect(dead_code, reason = "not every bench runs every loop")]
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

/// The processor of the daemon and of the loops; the simulator has the other one.
const MEASURED: usize = 0;

/// What is measured, each by a variable of the environment.
struct Scope {
    /// `KFWATCH_SWEEP_ACCOUNTS`: numbers of kf accounts, from few to many.
    accounts: Vec<usize>,
    /// `KFWATCH_SWEEP_SESSIONS`: open sessions on each.
    sessions: usize,
    /// `KFWATCH_SWEEP_CHANGED`: the share of accounts whose sessions change between two sweeps; 0 leaves that part out.
    changed: f64,
    /// `KFWATCH_SWEEP_SECONDS`: how long to measure each.
    seconds: u64,
}

fn main() {
    if std::env::args().any(|argument| argument == baselines::LOOPS) {
        return baselines::run_loops();
    }
    let scope = Scope::of_environment();
    let mut report = Report::new();
    let mut before = None;
    for &accounts in &scope.accounts {
        let (sweeps, baselines) = unchanged(accounts, &scope);
        report_unchanged(&mut report, accounts, &sweeps, &baselines);
        if let Some((fewer, cost)) = before.replace((accounts, sweeps.cpu_of_one())) {
            report_growth(&mut report, [fewer, accounts], sweeps.cpu_of_one() / cost);
        }
    }
    if let (Some(&accounts), true) = (scope.accounts.last(), scope.changed > 0.0) {
        changed(&mut report, accounts, &scope);
    }
    report.print();
}

impl Scope {
    fn of_environment() -> Self {
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

fn unchanged(accounts: usize, scope: &Scope) -> (Sweeps, Baselines) {
    let daemon = Daemon::start(&scope.load(accounts, 0.0));
    let mut baselines = Baselines::start(&daemon.configuration);
    baselines.measure();
    let sweeps = daemon.measure(Duration::from_secs(scope.seconds), |_| ());
    baselines.measure();
    (sweeps, baselines)
}

fn report_unchanged(report: &mut Report, accounts: usize, sweeps: &Sweeps, baselines: &Baselines) {
    let what = format!("{accounts} unchanged accounts, {} sweeps of {:.2} s", sweeps.count, sweeps.seconds);
    let figure = format!("{:.1} µs CPU, {:.0}/s", sweeps.cpu_of_poll(), sweeps.rate());
    for Baseline { name, cpu, rate } in baselines.medians() {
        let target = if name == baselines::REQWEST { "≤ 1.3" } else { "" };
        let baseline = format!("{name}: {cpu:.1} µs, {rate:.0}/s");
        report.row([&what, &figure, &baseline], Some(sweeps.cpu_of_poll() / cpu), target);
    }
    let per_core = 1e6 / sweeps.cpu_of_poll();
    let figure = format!("{per_core:.0}/s");
    report.row(
        [&format!("{accounts} accounts, per core used"), &figure, "40,000/s"],
        Some(per_core / 4e4),
        "≥ 1",
    );
    let resident = format!("{:.1} MiB", sweeps.resident as f64 / f64::from(1 << 20));
    report.row([&format!("{accounts} accounts, resident"), &resident, ""], None, "");
}

fn report_growth(report: &mut Report, [fewer, more]: [usize; 2], cost: f64) {
    let what = format!("CPU of a sweep of {more} accounts, as often that of {fewer}");
    let times = more as f64 / fewer as f64;
    report.row(
        [&what, &format!("{cost:.1} times"), &format!("{times:.0} times the accounts")],
        Some(cost / times),
        "≤ 1.1",
    );
}

fn changed(report: &mut Report, accounts: usize, scope: &Scope) {
    let daemon = Daemon::start(&scope.load(accounts, scope.changed));
    let span = Duration::from_secs(scope.seconds);
    let unscraped = daemon.measure(span, |_| ());
    let mut scrapes = Vec::new();
    let scraped = daemon.measure(span, |address| scrapes.push(millis(timed_scrape(address))));
    let quiet = millis(daemon.scrape_while_quiet());
    let what = format!("{accounts} accounts, {:.1} % of them changed", 1e2 * unscraped.committed());
    let figure = format!("{:.1} µs CPU, {:.0}/s", unscraped.cpu_of_poll(), unscraped.rate());
    report.row([&what, &figure, ""], None, "");
    report.row(["their commits", &unscraped.commits(), ""], None, "");
    let sweeping = median(&scrapes);
    report.row(
        [
            "a page of metrics while sweeping",
            &format!("{sweeping:.0} ms"),
            &format!("while quiet: {quiet:.0} ms"),
        ],
        Some(sweeping / quiet),
        "",
    );
    let sweep = |sweeps: &Sweeps| format!("{:.2} s, calls {}", sweeps.seconds, sweeps.calls());
    report.row(
        ["a sweep with such a page", &sweep(&scraped), &format!("without: {}", sweep(&unscraped))],
        Some(scraped.seconds / unscraped.seconds),
        "",
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
