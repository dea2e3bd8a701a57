//! Resident memory of the real daemon with the demo's accounts, with many accounts, and with a million sessions; and the time
//! that it takes to start with those.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;

use process::Running;
use report::Report;

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: f64 = 1024.0 * 1024.0;
const DEMO_OFFICIAL_ACCOUNTS: usize = 3;
/// As many as the configuration allows.
const KF_ACCOUNTS_EACH: usize = 1000;
const KF_ACCOUNTS: usize = 10_000;
const MANY_KF_ACCOUNTS: usize = 100_000;
const SESSIONS: usize = 100;

fn main() {
    let mut report = Report::new();
    let demo = resident(24, None);
    mib(&mut report, "resident, the demo's 24 accounts", demo.restarted.steady, "≤ 30 MiB");
    let few = resident(KF_ACCOUNTS, Some(0));
    let many = resident(MANY_KF_ACCOUNTS, Some(0));
    let with = resident(KF_ACCOUNTS, Some(SESSIONS));
    for (what, figure) in [("first start", few.first), ("restarted", few.restarted)] {
        mib(&mut report, &format!("10,000 accounts without sessions, {what}"), figure.steady, "");
    }
    // Both have as many connections and the same caches, so the difference is the memory of the accounts.
    let more = (MANY_KF_ACCOUNTS - KF_ACCOUNTS) as f64;
    for (what, few, many) in
        [("first start", few.first, many.first), ("restarted", few.restarted, many.restarted)]
    {
        mib(&mut report, &format!("100,000 accounts without sessions, {what}"), many.steady, "");
        bytes(&mut report, &format!("an account, {what}"), (many.steady - few.steady) / more, 1024);
    }
    let sessions = (KF_ACCOUNTS * SESSIONS) as f64;
    for (what, without, with) in
        [("first start", few.first, with.first), ("restarted", few.restarted, with.restarted)]
    {
        mib(&mut report, &format!("10,000 accounts, 1,000,000 sessions, {what}"), with.steady, "≤ 150 MiB");
        mib(&mut report, "peak", with.peak, "");
        bytes(&mut report, &format!("a session, {what}"), (with.steady - without.steady) / sessions, 64);
        let grown = (with.later - with.steady) / MIB;
        report.row(["growth after five times as many sweeps", &format!("{grown:.1} MiB"), ""], None, "flat");
    }
    let loaded = resident(MANY_KF_ACCOUNTS, Some(SESSIONS / 10));
    let ready = loaded.restarted.ready.as_secs_f64();
    report.row(
        ["from exec to /-/ready, 100,000 accounts, 1,000,000 sessions", &format!("{ready:.2} s"), "2 s"],
        Some(ready / 2.0),
        "≤ 2 s",
    );
    mib(&mut report, "resident after some sweeps", loaded.restarted.steady, "");
    mib(&mut report, "peak until it was ready", loaded.restarted.peak_until_ready, "");
    report.print();
}

fn bytes(report: &mut Report, what: &str, figure: f64, limit: u32) {
    let target = format!("≤ {limit} B");
    let limit = f64::from(limit);
    report.row([what, &format!("{figure:.0} B"), &format!("{limit} B")], Some(figure / limit), &target);
}

fn mib(report: &mut Report, what: &str, bytes: f64, target: &str) {
    let limit = target.split_whitespace().nth(1).and_then(|limit| limit.parse::<f64>().ok());
    let baseline = limit.map_or_else(String::new, |limit| format!("{limit} MiB"));
    report.row(
        [what, &format!("{:.1} MiB", bytes / MIB), &baseline],
        limit.map(|limit| bytes / MIB / limit),
        target,
    );
}

/// The run of a daemon that saw all sessions start, and the run of one that restored them.
struct Resident {
    first: Run,
    restarted: Run,
}

/// One run of the daemon; memory in bytes.
#[derive(Clone, Copy)]
struct Run {
    /// Time from its start until it was ready.
    ready: Duration,
    peak_until_ready: f64,
    /// After four sweeps.
    steady: f64,
    /// After twenty.
    later: f64,
    peak: f64,
}

/// Runs the daemon twice on one store: with the demo's accounts, or with so many accounts that have so many sessions each.
fn resident(accounts: usize, sessions: Option<usize>) -> Resident {
    let directory = tempfile::tempdir().unwrap();
    let load = sessions.map_or_else(Vec::new, |sessions| {
        let official_accounts = (accounts / KF_ACCOUNTS_EACH).to_string();
        let (each, sessions) = (KF_ACCOUNTS_EACH.to_string(), sessions.to_string());
        let options = ["--load-official-accounts", "--load-accounts", "--load-sessions"];
        options.into_iter().map(str::to_owned).zip([official_accounts, each, sessions]).collect()
    });
    let options: Vec<&str> = load.iter().flat_map(|(option, value)| [option.as_str(), value]).collect();
    let official_accounts =
        if load.is_empty() { DEMO_OFFICIAL_ACCOUNTS } else { accounts / KF_ACCOUNTS_EACH };
    let (_simulator, simulated) = process::simulator(1, official_accounts, &options);
    // A free port; it is unlikely that another program takes it before the daemon does.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = directory.path().join("config.toml");
    let share = "[api]\nmax_in_flight_per_official_account = 64\n";
    let rest =
        format!("\n[web]\nlisten = \"{address}\"\n[poll]\nschedule = \"* * * * * *\"\nspread = \"0s\"\n");
    std::fs::write(&path, simulated.replace("[api]\n", share) + &rest).unwrap();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        command.arg("run").arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let daemon = Running(command.spawn().unwrap());
        let ready = until_ready(&format!("http://{address}/-/ready"), begun);
        let status = |what| status(daemon.0.id(), what);
        let peak_until_ready = status("VmHWM:");
        let metrics = format!("http://{address}/metrics");
        until_polled(&metrics, accounts * 4);
        let steady = status("VmRSS:");
        // These are many polls, so only where the result is reported.
        if sessions == Some(SESSIONS) {
            until_polled(&metrics, accounts * 20);
        }
        Run { ready, peak_until_ready, steady, later: status("VmRSS:"), peak: status("VmHWM:") }
    };
    Resident { first: run(), restarted: run() }
}

/// Returns a value of /proc/PID/status in bytes.
fn status(process: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1024.0
}

/// Waits until the daemon is ready. Returns the time since `begun`.
fn until_ready(page: &str, begun: Instant) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    runtime.block_on(async {
        while !client.get(page).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(begun.elapsed() < PATIENCE, "the daemon is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    })
}

/// Waits until so many polls are done, as a scrape sees them.
fn until_polled(metrics: &str, polls: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // A busy machine may take long, as long as the number grows.
    let (mut seen, mut since) = (0, Instant::now());
    runtime.block_on(async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(since.elapsed() < PATIENCE, "the daemon does not poll");
            // The figure must not include the memory of compression.
            let request = client.get(metrics).header("accept-encoding", "identity");
            let Ok(response) = request.send().await else { continue };
            let text = response.text().await.unwrap();
            let values = text.lines().filter(|line| line.starts_with("kfwatch_polls_total{"));
            let done =
                values.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>();
            if done >= polls {
                return;
            }
            if done > seen {
                (seen, since) = (done, Instant::now());
            }
        }
    });
}
