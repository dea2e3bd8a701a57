//! A soak test: half an hour of churn, as much as a shop sees in weeks. Customers and kf accounts come and go; the daemon's
//! memory, files and latency must not grow. `KFWATCH_SOAK_MINUTES` sets the duration.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

#[expect(dead_code, reason = "not every test needs every helper")]
#[path = "it/support"]
mod support {
    pub(crate) mod events;
    pub(crate) mod process;
    pub(crate) mod site;
    pub(crate) mod size;
    pub(crate) mod wait;
}

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use kfwatch::simulator::{AccountToWatch, KfState, Scenario, Simulator, SimulatorControl};

use crate::support::{
    process::Process,
    site::{Site, Tokens},
    size::size_from,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

const OFFICIAL_ACCOUNTS: usize = 10;

/// Kf accounts of each official account at the start.
const KF_ACCOUNTS: usize = 30;

const SESSIONS: u32 = 5;

/// Share of sessions replaced every minute.
const CHURN: f64 = 4.0;

/// Time between two samples; at each, one kf account is removed and one is added.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Growth until then does not count: connections are opened, the first events pruned, and the allocator takes its reserves.
const WARM_UP: Duration = Duration::from_secs(600);

/// A shorter soak warms up for a third of its time, and at least for this long.
const SHORTEST_WARM_UP: Duration = Duration::from_secs(240);

/// A shorter soak leaves no samples to compare after warming up.
const SHORTEST_MINUTES: u64 = 6;

/// The number of bare calls, and of bare syncs, whose mean is taken.
const BARE_ROUNDS: u32 = 5;

/// The daemon's resources and latency at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident_kib: f64,
    files: f64,
    wal_kib: f64,
    /// Mean duration of calls since the previous sample, as a multiple of a bare call now; of commits, as a multiple of a bare
    /// sync. Other load on the machine slows both.
    calls: f64,
    commits: f64,
}

/// A measured quantity, and how much larger it may be at the end than after warming up.
struct Quantity {
    name: &'static str,
    value: fn(&Sample) -> f64,
    times: f64,
    plus: f64,
}

const QUANTITIES: [Quantity; 5] = [
    Quantity { name: "resident KiB", value: |sample| sample.resident_kib, times: 1.1, plus: 2048.0 },
    Quantity { name: "open files", value: |sample| sample.files, times: 1.0, plus: 8.0 },
    Quantity { name: "WAL KiB", value: |sample| sample.wal_kib, times: 1.5, plus: 4096.0 },
    Quantity { name: "calls in bare calls", value: |sample| sample.calls, times: 3.0, plus: 5.0 },
    Quantity { name: "commits in bare syncs", value: |sample| sample.commits, times: 3.0, plus: 5.0 },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour; tests/run.sh --long runs it"]
async fn long_churn_keeps_memory_files_and_latency_flat() {
    let minutes = size_from("KFWATCH_SOAK_MINUTES", 30);
    assert!(minutes >= SHORTEST_MINUTES, "too short to compare anything: KFWATCH_SOAK_MINUTES={minutes}");
    let scenario = Scenario::load(OFFICIAL_ACCOUNTS, KF_ACCOUNTS, SESSIONS, CHURN);
    let simulator = Simulator::start(scenario.clone(), LOOPBACK).await.unwrap();
    let accounts = scenario.accounts();
    let site = Site::new();
    configure(&site, &simulator, &accounts);
    let daemon = Process::start_ready(&site.config());

    let mut churn = Churn::new(simulator.control(), accounts);
    let mut samples = Vec::new();
    let mut latency = Latency::default();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        std::thread::sleep(SAMPLE_INTERVAL);
        churn.replace_one();
        let bare = Bare::measure(simulator.address(), &site);
        samples.push((begun.elapsed(), sample(&daemon, &site, &mut latency, bare)));
        if samples.len() % 30 == 0 {
            print_last(&samples);
        }
    }
    let changed =
        |kind: &str| daemon.metric(&format!("kfwatch_events_total{{event_type=\"{kind}\"}}")).unwrap();
    let [ended, came_and_went] = ["kf.session.ended", "kf.account.state_changed"].map(changed);
    println!(
        "soak: {} samples, {ended} sessions ended, {came_and_went} kf accounts came or went",
        samples.len()
    );
    assert!(ended > 100.0 * minutes as f64 && came_and_went > 10.0 * minutes as f64, "there was no churn");
    daemon.terminate();

    let warm_up = WARM_UP.min(begun.elapsed() / 3).max(SHORTEST_WARM_UP);
    samples.retain(|(at, _)| *at >= warm_up);
    let third = samples.len() / 3;
    let [early, late] = [&samples[..third], &samples[samples.len() - third..]];
    let mut grown = Vec::new();
    for Quantity { name, value, times, plus } in QUANTITIES {
        let [early, late] =
            [early, late].map(|samples| median(samples.iter().map(|(_, sample)| value(sample))));
        println!("soak: {name}: {early:.1} in the first third after warming up, {late:.1} in the last");
        if late > early * times + plus {
            grown.push(name);
        }
    }
    assert!(grown.is_empty(), "still growing after warming up: {grown:?}");
}

/// Configures the daemon to watch every kf account that getkflist lists, and to prune events after a minute.
fn configure(site: &Site, simulator: &Simulator, accounts: &[AccountToWatch]) {
    let patterns = accounts
        .iter()
        .cloned()
        .map(|account| (AccountToWatch { kf_accounts: vec!["*".to_owned()], ..account }, Tokens::Stable));
    site.configure(simulator, &patterns.collect::<Vec<_>>());
    let config = fs::read_to_string(site.config()).unwrap();
    let config = config
        .replace("kf_list = \"off\"", "kf_list = \"10s\"")
        .replace("[store]\n", "[store]\nevent_retention = \"1m\"\n");
    fs::write(site.config(), config).unwrap();
}

/// Removes and adds kf accounts. The simulator replaces customers by itself.
struct Churn {
    control: SimulatorControl,
    accounts: Vec<AccountToWatch>,
    random: fastrand::Rng,
}

impl Churn {
    fn new(control: SimulatorControl, accounts: Vec<AccountToWatch>) -> Self {
        Self { control, accounts, random: fastrand::Rng::with_seed(7) }
    }

    /// Removes one kf account, and adds one of the same official account.
    fn replace_one(&mut self) {
        let official = &self.accounts[self.random.usize(..self.accounts.len())];
        let pick =
            |random: &mut fastrand::Rng| &official.kf_accounts[random.usize(..official.kf_accounts.len())];
        self.control.set_kf_state(&official.appid, pick(&mut self.random), KfState::Invalid).unwrap();
        self.control.add_kf_account(&official.appid, pick(&mut self.random)).unwrap();
    }
}

/// Sums and counts of the daemon's histograms at the previous sample.
#[derive(Default)]
struct Latency {
    calls: [f64; 2],
    commits: [f64; 2],
}

impl Latency {
    fn mean_since(before: &mut [f64; 2], now: [f64; 2]) -> f64 {
        let [sum, count] = [now[0] - before[0], now[1] - before[1]];
        *before = now;
        if count > 0.0 { sum / count } else { 0.0 }
    }
}

/// Durations of a call and of a sync without kfwatch, in seconds.
struct Bare {
    call: f64,
    sync: f64,
}

impl Bare {
    fn measure(simulator: SocketAddr, site: &Site) -> Self {
        let timed = |mut work: Box<dyn FnMut() + '_>| {
            let begun = Instant::now();
            (0..BARE_ROUNDS).for_each(|_| work());
            begun.elapsed().as_secs_f64() / f64::from(BARE_ROUNDS)
        };
        let mut file = fs::File::create(site.config().with_file_name("bare-sync")).unwrap();
        let sync = timed(Box::new(|| {
            file.write_all(&[0; 4096]).unwrap();
            file.sync_data().unwrap();
        }));
        let call = timed(Box::new(|| {
            let mut connection = TcpStream::connect(simulator).unwrap();
            connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            connection.read_to_end(&mut Vec::new()).unwrap();
        }));
        Self { call, sync }
    }
}

fn sample(daemon: &Process, site: &Site, latency: &mut Latency, bare: Bare) -> Sample {
    let process = format!("/proc/{}", daemon.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap_or_else(|| panic!("the daemon has ended: {}", daemon.stderr()));
    let wal = fs::metadata(site.config().with_file_name("kfwatch.db-wal")).map_or(0, |file| file.len());
    let histogram = |name: &str, labels: &str| {
        ["sum", "count"].map(|part| daemon.metric(&format!("{name}_{part}{labels}")).unwrap())
    };
    let calls = histogram("kfwatch_api_request_duration_seconds", "{endpoint=\"getsessionlist\"}");
    let commits = histogram("kfwatch_store_commit_duration_seconds", "");
    Sample {
        resident_kib: resident.trim_end_matches("kB").trim().parse().unwrap(),
        files: fs::read_dir(format!("{process}/fd")).unwrap().count() as f64,
        wal_kib: wal as f64 / 1024.0,
        calls: Latency::mean_since(&mut latency.calls, calls) / bare.call,
        commits: Latency::mean_since(&mut latency.commits, commits) / bare.sync,
    }
}

/// Prints the medians of the last minute.
#[expect(clippy::print_stdout, reason = "a long test reports its progress")]
fn print_last(samples: &[(Duration, Sample)]) {
    let (at, _) = samples[samples.len() - 1];
    let last = samples.iter().rev().take_while(|(sampled, _)| *sampled + Duration::from_secs(60) > at);
    let last: Vec<&Sample> = last.map(|(_, sample)| sample).collect();
    let medians = QUANTITIES.map(|Quantity { name, value, .. }| {
        format!("{name} {:.1}", median(last.iter().map(|sample| value(sample))))
    });
    println!("soak: {:.0} min: {}", at.as_secs_f64() / 60.0, medians.join(", "));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
