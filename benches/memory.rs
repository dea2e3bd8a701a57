//! Resident memory of the daemon's own program: with the demo's accounts, and with a million sessions.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing better to do than to end")]

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
const OFFICIAL_ACCOUNTS: usize = 10;
const KF_ACCOUNTS: usize = 10_000;
const SESSIONS: usize = 100;

fn main() {
    let mut report = Report::new();
    let demo = resident(&[], 24);
    mib(&mut report, "resident, the demo's 24 accounts", demo.steady, "≤ 30 MiB");
    let [official_accounts, kf_accounts] =
        [OFFICIAL_ACCOUNTS, KF_ACCOUNTS / OFFICIAL_ACCOUNTS].map(|count| count.to_string());
    let load = |sessions: usize| {
        let options = ["--load-official-accounts", &official_accounts, "--load-accounts", &kf_accounts];
        let sessions = sessions.to_string();
        resident(&[&options[..], &["--load-sessions", &sessions]].concat(), KF_ACCOUNTS)
    };
    let (without, with) = (load(0), load(SESSIONS));
    mib(&mut report, "resident, 10,000 accounts without sessions", without.restarted, "");
    let per_account = (without.restarted - demo.steady) / KF_ACCOUNTS as f64;
    report.row(
        ["a watched account", &format!("{per_account:.0} B"), "1 KiB"],
        Some(per_account / 1024.0),
        "≤ 1 KiB",
    );
    mib(&mut report, "resident, 10,000 accounts, 1,000,000 sessions, first start", with.steady, "≤ 150 MiB");
    mib(&mut report, "the same after a restart", with.restarted, "≤ 150 MiB");
    let per_session = (with.restarted - without.restarted) / (KF_ACCOUNTS * SESSIONS) as f64;
    report.row(
        ["a tracked session", &format!("{per_session:.0} B"), "64 B"],
        Some(per_session / 64.0),
        "≤ 64 B",
    );
    report.print();
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

/// Resident bytes after some sweeps.
struct Resident {
    /// Of a daemon that saw all sessions start.
    steady: f64,
    /// Of one that restored them.
    restarted: f64,
}

fn resident(load: &[&str], accounts: usize) -> Resident {
    let directory = tempfile::tempdir().unwrap();
    let (_simulator, simulated) =
        process::simulator(1, if load.is_empty() { DEMO_OFFICIAL_ACCOUNTS } else { OFFICIAL_ACCOUNTS }, load);
    // Free just now; nobody else is likely to take it meanwhile.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = directory.path().join("config.toml");
    let rest = format!(
        "\n[web]\nlisten = \"{address}\"\n[poll]\nschedule = \"* * * * * *\"\nspread = \"0s\"\n[api]\nmax_in_flight_per_official_account = 64\n"
    );
    let (head, rest) = rest.split_once("[api]\n").unwrap();
    std::fs::write(&path, simulated.replace("[api]\n", &format!("[api]\n{rest}")) + head).unwrap();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        command.arg("run").arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Running(command.spawn().unwrap());
        until_polled(&format!("http://{address}/metrics"), accounts * 4);
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1024.0
    };
    Resident { steady: run(), restarted: run() }
}

/// Waits until so many polls are done, as a scrape sees them.
fn until_polled(metrics: &str, polls: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(begun.elapsed() < PATIENCE, "the daemon does not poll");
            // A compressor's memory is no part of the figure.
            let request = client.get(metrics).header("accept-encoding", "identity");
            let Ok(response) = request.send().await else { continue };
            let text = response.text().await.unwrap();
            let values = text.lines().filter(|line| line.starts_with("kfwatch_polls_total{"));
            let done =
                values.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>();
            if done >= polls {
                return;
            }
        }
    });
}
