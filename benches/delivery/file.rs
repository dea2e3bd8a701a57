//! A file of JSON lines: every batch is synced before the cursor moves. The baseline alternates with it: a loop that only writes
//! and syncs the same batches.

use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use kfwatch::{
    sink::{
        Sink,
        jsonl::{JsonlSink, JsonlTarget},
    },
    store::StartPosition,
};

use super::{ACCOUNTS, EVENTS, LATENCIES, ROUNDS, Report, Site, median, report_latencies, started};

/// Events of a batch, as many as in the sink.
const BATCH: usize = 1000;

/// Time between two checks of the file's length.
const CHECK_INTERVAL: Duration = Duration::from_micros(20);

fn sink(path: &Path) -> Sink {
    Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::File {
        path: path.to_path_buf(),
        mode: 0o600,
        group: None,
    })))
}

pub(super) async fn throughput(report: &mut Report) {
    let site = Site::new().await;
    let events = site.fill().await;
    let mut rates = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let begun = Instant::now();
        // Stopped at once, it drains: it delivers all pending events and stores its cursor.
        site.deliver(&format!("file{round}"), sink(&path), StartPosition::Beginning).await.end().await;
        rates[0].push(EVENTS as f64 / begun.elapsed().as_secs_f64());
        let delivered = std::fs::read_to_string(&path).unwrap();
        assert!(delivered.lines().eq(events.iter()));
        let begun = Instant::now();
        write_all(&directory.path().join("bare.jsonl"), &events);
        rates[1].push(EVENTS as f64 / begun.elapsed().as_secs_f64());
    }
    let [ours, bare] = rates.map(|rates| median(&rates));
    let baseline = format!("a loop that only writes and syncs: {bare:.0}");
    report.row(["events a second to a file", &format!("{ours:.0}"), &baseline], Some(bare / ours), "");
}

fn write_all(path: &Path, events: &[String]) {
    let mut file = File::create(path).unwrap();
    for batch in events.chunks(BATCH) {
        file.write_all((batch.join("\n") + "\n").as_bytes()).unwrap();
        file.sync_data().unwrap();
    }
}

pub(super) async fn latency(report: &mut Report) {
    let site = Site::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let running = site.deliver("file", sink(&path), StartPosition::Now).await;
    let length = || path.metadata().map_or(0, |metadata| metadata.len());
    let mut latencies = Vec::new();
    for n in 0..LATENCIES {
        let before = length();
        let account = &site.accounts[n % ACCOUNTS];
        site.store.commit_poll(started(account, (n / ACCOUNTS) as i64)).await.unwrap();
        let committed = Instant::now();
        while length() == before {
            // No task of the daemon runs on this thread.
            std::thread::sleep(CHECK_INTERVAL);
        }
        latencies.push(committed.elapsed());
    }
    running.end().await;
    report_latencies("a file", latencies, report);
}
