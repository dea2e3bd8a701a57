//! Reloads of `kfwatch run`, the program itself, while it polls 100,000 accounts of a simulator in another process.
//!
//! Two configurations take turns. Each lacks 1,000 kf accounts that the other has, so that each reload adds 1,000 and removes 1,000. The
//! daemon's log says how long it took to load a configuration, and from there until it was applied. Sweeps with a reload in them are
//! compared with sweeps without.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]
#![expect(
    clippy::disallowed_methods,
    reason = "the variables select what is measured; they are no configuration of kfwatch"
)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

#[path = "support/median.rs"]
mod median;
#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;

use median::median;
use process::Running;
use report::Report;

/// Kf accounts of each official account: as many as WeChat allows, and two that take turns.
const KF_ACCOUNTS: usize = 102;

/// The limit on a reload, from the checked configuration to the applied one.
const LIMIT: Duration = Duration::from_secs(1);

/// How long a daemon may take to start, and a reload to be logged.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let variable = |name: &str, default: usize| {
        std::env::var(format!("KFWATCH_RELOAD_{name}")).map_or(default, |value| value.parse().unwrap())
    };
    let official_accounts = variable("OFFICIAL_ACCOUNTS", 1_000);
    let rounds = variable("ROUNDS", 10);
    let mut daemon = Daemon::start(official_accounts);
    let before = daemon.resident();
    let reloads: Vec<Reload> = (0..rounds).map(|round| daemon.reload(round)).collect();
    let ms = |figure: fn(&Reload) -> f64| median(&reloads.iter().map(figure).collect::<Vec<_>>());
    let most = reloads.iter().map(|reload| reload.applying_ms).fold(0.0, f64::max);
    let accounts = official_accounts * (KF_ACCOUNTS - 1);
    let mut report = Report::new();
    let limit = LIMIT.as_secs_f64() * 1e3;
    let what = format!("{official_accounts} of {accounts} accounts added and removed, applied");
    let figure = format!("{:.0} ms, at most {most:.0} ms", ms(|reload| reload.applying_ms));
    report.row([&what, &figure, &format!("limit: {limit:.0} ms")], Some(most / limit), "≤ 1");
    report.row(
        ["files read and checked", &format!("{:.0} ms", ms(|reload| reload.loading_ms)), ""],
        None,
        "",
    );
    let figure = format!("{:.1} MiB", daemon.resident() / 1_048_576.0);
    let baseline = format!("before: {:.1} MiB", before / 1_048_576.0);
    let what = format!("resident after {rounds} reloads");
    report.row([&what, &figure, &baseline], Some(daemon.resident() / before), "");
    report.print();
}

struct Daemon {
    process: Running,
    directory: tempfile::TempDir,
    configurations: [String; 2],
    log: Receiver<String>,
    _simulator: Running,
}

/// What the log says about a reload.
struct Reload {
    loading_ms: f64,
    applying_ms: f64,
}

impl Daemon {
    fn start(official_accounts: usize) -> Self {
        let [kf_accounts, number] = [KF_ACCOUNTS, official_accounts].map(|count| count.to_string());
        let options = [
            "--load-accounts",
            &kf_accounts,
            "--load-official-accounts",
            &number,
            "--load-sessions",
            "10",
            "--load-churn",
            "0",
        ];
        let (simulator, configuration) = process::simulator(1, official_accounts, &options);
        let directory = tempfile::tempdir().unwrap();
        let configurations = [0, 1].map(|left_out| configured(&configuration, left_out));
        write(directory.path(), &configurations[0]);
        let mut command = process::pinned(env!("CARGO_BIN_EXE_kfwatch"), 0);
        command.arg("run").current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody reads the last lines.
                let _ = lines.send(line);
            }
        });
        let daemon = Self { process: Running(child), directory, configurations, log, _simulator: simulator };
        daemon.line_with("First polls finished");
        daemon
    }

    /// Applies the configuration that this round has.
    fn reload(&mut self, round: usize) -> Reload {
        write(self.directory.path(), &self.configurations[(round + 1) % 2]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        command.arg("reload").current_dir(self.directory.path()).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        let line = self.line_with("Configuration reloaded");
        let field = |name: &str| -> f64 {
            let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        Reload { loading_ms: field("loading_ms"), applying_ms: field("applying_ms") }
    }

    fn line_with(&self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.log.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1024.0
    }
}

fn write(directory: &Path, configuration: &str) {
    // In its place at once, as an operator should.
    std::fs::write(directory.join("config.toml.new"), configuration).unwrap();
    std::fs::rename(directory.join("config.toml.new"), directory.join("config.toml")).unwrap();
}

/// The simulator's configuration without the kf account at this index of each official account.
fn configured(simulated: &str, left_out: usize) -> String {
    let without = |line: &str| match line.strip_prefix("kf_accounts = [") {
        Some(list) => {
            let kf_accounts = list.trim_end_matches(']').split(", ").enumerate();
            let kept: Vec<&str> =
                kf_accounts.filter(|(n, _)| *n != left_out).map(|(_, kf_account)| kf_account).collect();
            format!("kf_accounts = [{}]\n", kept.join(", "))
        }
        None => format!("{line}\n"),
    };
    let text: String = simulated.lines().map(without).collect();
    let tables = "[web]\nlisten = \"127.0.0.1:0\"\n[poll]\nschedule = \"*/30 * * * * *\"\n\
         [collectors]\nkf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n[api]\n";
    let sink = "[[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n";
    format!("{}{sink}", text.replacen("[api]\n", tables, 1))
}
