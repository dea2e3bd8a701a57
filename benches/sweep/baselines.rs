//! The same requests without kfwatch: the bare loops in a process on the daemon's core, and a common kind of script in Python.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use kfwatch::config::{Config, Environment};

use crate::{
    MEASURED,
    loops::{IN_FLIGHT, Loop, Loops, Targets, measured},
    median::median,
    process::{self, Running},
};

/// Argument of the process that runs the loops.
pub(crate) const LOOPS: &str = "--loops";

const PYTHON: &str = "wechatpy + prometheus_client, 64 threads";

/// Number of accounts that a loop requests. With more, the hash maps would not fit into the caches of the processor.
const TARGETS: usize = 10_000;

/// Number of accounts that the Python script requests, which is slow.
const PYTHON_POLLS: usize = 2_000;

/// The baselines, and the process that runs the loops.
pub(crate) struct Baselines {
    configuration: String,
    loops: LoopsProcess,
    figures: Vec<Baseline>,
}

struct LoopsProcess {
    _process: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// The cost of one baseline.
#[derive(Clone)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    /// The ratio that the daemon has to reach.
    pub(crate) target: &'static str,
    /// µs of CPU per request.
    pub(crate) cpu: f64,
    /// Requests per second.
    pub(crate) rate: f64,
}

impl Baselines {
    /// Starts the loops for the accounts of this configuration.
    pub(crate) fn start(configuration: &str) -> Self {
        Self {
            configuration: configuration.to_owned(),
            loops: LoopsProcess::start(configuration),
            figures: Vec::new(),
        }
    }

    /// Runs each baseline once, for the accounts of this configuration.
    pub(crate) fn measure(&mut self, configuration: &str) {
        if self.configuration != configuration {
            *self = Self { figures: std::mem::take(&mut self.figures), ..Self::start(configuration) };
        }
        writeln!(self.loops.stdin).unwrap();
        for which in Loop::ALL {
            let figures = self.loops.line();
            self.figures.push(Baseline::parse(which.name(), which.target(), &figures));
        }
        self.figures.extend(python(&self.configuration));
    }

    /// The median of each baseline.
    pub(crate) fn medians(&self) -> Vec<Baseline> {
        let of = |name: &'static str| {
            let figures: Vec<&Baseline> = self.figures.iter().filter(|figure| figure.name == name).collect();
            let middle = |figure: fn(&Baseline) -> f64| {
                median(&figures.iter().map(|of| figure(of)).collect::<Vec<_>>())
            };
            let target = figures.first()?.target;
            Some(Baseline { name, target, cpu: middle(|of| of.cpu), rate: middle(|of| of.rate) })
        };
        Loop::ALL.map(Loop::name).into_iter().chain([PYTHON]).filter_map(of).collect()
    }
}

impl LoopsProcess {
    fn start(configuration: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut command = process::pinned(this.to_str().unwrap(), MEASURED);
        let mut process = command.arg(LOOPS).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        writeln!(stdin, "{}", configuration.len()).unwrap();
        stdin.write_all(configuration.as_bytes()).unwrap();
        let mut loops = Self { _process: Running(process), stdin, stdout };
        // It prints a line when it knows its targets.
        loops.line();
        loops
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }
}

impl Baseline {
    fn parse(name: &'static str, target: &'static str, figures: &str) -> Self {
        let (cpu, rate) = figures.trim().split_once(' ').unwrap();
        Self { name, target, cpu: cpu.parse().unwrap(), rate: rate.parse().unwrap() }
    }
}

/// The process of the loops: reads the configuration, then runs each loop once for each line that it reads.
#[expect(clippy::print_stdout, reason = "the bench reads the figures of this process")]
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
    let loops = Loops::new(Targets::learn(&config, TARGETS).await);
    // The first run opens the connections.
    for which in Loop::ALL {
        loops.run(which).await;
    }
    println!("ready");
    while stdin.read_line(&mut line).unwrap() > 0 {
        for which in Loop::ALL {
            let (cpu, rate) = measured(loops.requests(), loops.run(which)).await;
            println!("{cpu} {rate}");
        }
    }
}

/// The script that people write today, if there is a Python with the packages that it needs.
#[expect(clippy::print_stderr, reason = "a benchmark reports on its terminal")]
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
            "The Python script is omitted: KFWATCH_TEST_PYTHON must name a Python 3.11 with wechatpy and prometheus_client \
             (tests/python/requirements.txt)"
        );
    }
    Some(Baseline::parse(PYTHON, "", &String::from_utf8(output?.stdout).unwrap()))
}
