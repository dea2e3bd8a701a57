//! What the same requests cost without kfwatch: the bare loops in a process on the daemon's core, and what people write
//! today, in Python.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use kfwatch::config::{Config, Environment};

use crate::{
    MEASURED,
    loops::{IN_FLIGHT, Loops, Targets, measured},
    median::median,
    process::{self, Running},
};

/// Says that this is the process of the loops.
pub(crate) const LOOPS: &str = "--loops";

/// The baseline of the target.
pub(crate) const REQWEST: &str = "bare reqwest + serde_json + set comparison";

const HYPER: &str = "bare hyper-util client, body read";
const PYTHON: &str = "wechatpy + prometheus_client, 64 threads";

/// So many accounts are asked for in each round: in a larger set every look would miss the processor's caches, and the
/// loop were no lower limit any more.
const TARGETS: usize = 10_000;

const ROUNDS: usize = 3;

/// So many of them by Python, which takes its time.
const PYTHON_POLLS: usize = 2_000;

/// Loops ready to be run.
pub(crate) struct Baselines {
    _loops: Running,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    configuration: String,
    figures: Vec<Baseline>,
}

/// Who asked, at what cost.
#[derive(Clone)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    /// µs of processor time for a request.
    pub(crate) cpu: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

impl Baselines {
    /// Starts the process of the loops, for the accounts of this configuration.
    pub(crate) fn start(configuration: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut command = process::pinned(this.to_str().unwrap(), MEASURED);
        let mut loops = command.arg(LOOPS).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut to = loops.stdin.take().unwrap();
        let from = BufReader::new(loops.stdout.take().unwrap());
        writeln!(to, "{}", configuration.len()).unwrap();
        to.write_all(configuration.as_bytes()).unwrap();
        let configuration = configuration.to_owned();
        let mut baselines = Self { _loops: Running(loops), to, from, configuration, figures: Vec::new() };
        // It says when it knows its targets.
        baselines.line();
        baselines
    }

    /// Runs each of them.
    pub(crate) fn measure(&mut self) {
        writeln!(self.to).unwrap();
        for name in [REQWEST, HYPER].repeat(ROUNDS) {
            let figures = self.line();
            self.figures.push(Baseline::parsed(name, &figures));
        }
        self.figures.extend(python(&self.configuration));
    }

    /// The figures of each.
    pub(crate) fn medians(&self) -> Vec<Baseline> {
        let of = |name: &'static str| {
            let figures: Vec<&Baseline> = self.figures.iter().filter(|figure| figure.name == name).collect();
            let middle = |figure: fn(&Baseline) -> f64| {
                median(&figures.iter().map(|of| figure(of)).collect::<Vec<_>>())
            };
            (!figures.is_empty()).then(|| Baseline {
                name,
                cpu: middle(|of| of.cpu),
                rate: middle(|of| of.rate),
            })
        };
        [REQWEST, HYPER, PYTHON].into_iter().filter_map(of).collect()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line
    }
}

impl Baseline {
    fn parsed(name: &'static str, figures: &str) -> Self {
        let (cpu, rate) = figures.trim().split_once(' ').unwrap();
        Self { name, cpu: cpu.parse().unwrap(), rate: rate.parse().unwrap() }
    }
}

/// The process of the loops: learns what to ask for, then runs all of them for each line that it reads.
#[tokio::main(worker_threads = 1)]
pub(crate) async fn run_loops() {
    let mut stdin = std::io::stdin().lock();
    let mut line = String::new();
    stdin.read_line(&mut line).unwrap();
    let mut configuration = vec![0; line.trim().parse().unwrap()];
    stdin.read_exact(&mut configuration).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let configuration = String::from_utf8(configuration).unwrap();
    let config = Config::from_toml(&configuration, directory.path(), &Environment::default()).unwrap().config;
    let loops = Loops::new(Targets::learn(&config, TARGETS).await, &config);
    // All connect.
    loops.reqwest().await;
    loops.hyper().await;
    println!("ready");
    while stdin.read_line(&mut line).unwrap() > 0 {
        for _ in 0..ROUNDS {
            let reqwest = measured(loops.requests(), loops.reqwest()).await;
            let hyper = measured(loops.requests(), loops.hyper()).await;
            for (cpu, rate) in [reqwest, hyper] {
                println!("{cpu} {rate}");
            }
        }
    }
}

/// The script that people write today, if there is a Python with what it needs.
fn python(configuration: &str) -> Option<Baseline> {
    let interpreter = std::env::var("KFWATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = process::pinned(&interpreter, MEASURED);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sweep/wechatpy_loop.py"));
    command.args([IN_FLIGHT, PYTHON_POLLS].map(|number| number.to_string()));
    let run = |mut command: Command| {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(configuration.as_bytes()))?;
        child.wait_with_output()
    };
    let output = run(command).ok().filter(|output| output.status.success());
    if output.is_none() {
        eprintln!(
            "Without the Python script: KFWATCH_TEST_PYTHON has to name a Python 3.11 with wechatpy and prometheus_client \
             (tests/python/requirements.txt)"
        );
    }
    Some(Baseline::parsed(PYTHON, &String::from_utf8(output?.stdout).unwrap()))
}
