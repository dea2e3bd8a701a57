//! NATS JetStream: events per second to a stream with file storage, and the time from an event's commit until a consumer of the
//! stream has it.
//!
//! The baseline alternates with it in the same run: a loop that only publishes the same bodies with as many acknowledgements
//! outstanding. The server is another process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::push, stream},
};
use bytes::Bytes;
use futures_util::StreamExt;
use kfwatch::{
    sink::{
        Sink,
        nats::{Login, NatsOptions, NatsSink},
    },
    store::{EventFilter, StartPosition, StoredEvent},
};
use tokio::task::JoinSet;

use super::{ACCOUNTS, EVENTS, LATENCIES, ROUNDS, Running, Site, median::median, report::Report, started};

#[expect(dead_code, reason = "not every bench needs every helper")]
#[path = "../support/process.rs"]
mod process;

/// Measures everything, if nats-server is installed.
#[expect(clippy::print_stdout, reason = "a benchmark reports on its terminal")]
pub(super) async fn measure(report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = start(directory.path()) else {
        println!(
            "nats-server is not installed (a Debian package of this name): delivery to NATS is not measured"
        );
        return;
    };
    let client = async_nats::connect(&url).await.unwrap();
    let jetstream = jetstream::new(client);
    for in_flight in [64, 512] {
        throughput(&jetstream, &url, in_flight, report).await;
    }
    latency(&jetstream, &url, report).await;
}

fn start(directory: &Path) -> Option<(process::Running, String)> {
    let program = ["/usr/sbin/nats-server", "nats-server"];
    let server = program.into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"]).arg(directory);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()
    });
    let mut server = process::Running(server?);
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|line| {
        let (_, address) = line.split_once("Listening for client connections on ")?;
        Some(format!("nats://{address}"))
    });
    lines.find(|line| line.contains("Server is ready")).unwrap();
    // Discards the rest of its log, because a full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    Some((server, url.unwrap()))
}

async fn throughput(jetstream: &jetstream::Context, url: &str, in_flight: usize, report: &mut Report) {
    let site = Site::new().await;
    site.fill().await;
    let events = Arc::new(site.store.read_events(EventFilter::default(), EVENTS).await.unwrap().events);
    let mut rates = [const { Vec::new() }; 2];
    // The first round creates files and connections, and is not counted.
    for round in 0..=ROUNDS {
        let ours = create(jetstream, &format!("ours{in_flight}-{round}")).await;
        let begun = Instant::now();
        let running = deliver(&site, url, &ours, in_flight, StartPosition::Beginning).await;
        while stored(jetstream, &ours).await < EVENTS as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let delivered = begun.elapsed();
        running.end().await;
        let bare = create(jetstream, &format!("bare{in_flight}-{round}")).await;
        let begun = Instant::now();
        publish_all(jetstream, &bare, &events, in_flight).await;
        let published = begun.elapsed();
        if round > 0 {
            rates[0].push(EVENTS as f64 / delivered.as_secs_f64());
            rates[1].push(EVENTS as f64 / published.as_secs_f64());
        }
        for stream in [ours, bare] {
            jetstream.delete_stream(stream).await.unwrap();
        }
    }
    let [ours, bare] = rates.map(|rates| median(&rates));
    report.row(
        [
            &format!("events a second to NATS JetStream, {in_flight} in flight"),
            &format!("{ours:.0}"),
            &format!("a loop that only publishes: {bare:.0}"),
        ],
        Some(bare / ours),
        "",
    );
}

async fn latency(jetstream: &jetstream::Context, url: &str, report: &mut Report) {
    let site = Site::new().await;
    let stream = create(jetstream, "latency").await;
    let inbox = "latency-inbox".to_owned();
    let consumer = push::Config { deliver_subject: inbox, ..push::Config::default() };
    let consumer = jetstream.create_consumer_on_stream(consumer, &stream).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let running = deliver(&site, url, &stream, 64, StartPosition::Now).await;
    let mut latencies = [const { Vec::new() }; 2];
    for n in 0..LATENCIES {
        let account = &site.accounts[n % ACCOUNTS];
        site.store.commit_poll(started(account, (n / ACCOUNTS) as i64)).await.unwrap();
        let committed = Instant::now();
        let message = messages.next().await.unwrap().unwrap();
        latencies[0].push(committed.elapsed());
        message.ack().await.unwrap();
    }
    running.end().await;
    let bare = create(jetstream, "latency-bare").await;
    for event in site.store.read_events(EventFilter::default(), LATENCIES).await.unwrap().events {
        let begun = Instant::now();
        publish(jetstream, &bare, &event).await;
        latencies[1].push(begun.elapsed());
    }
    let [ours, bare] = latencies.map(|mut latencies| {
        latencies.sort();
        latencies
    });
    for (name, at) in [("p50", LATENCIES / 2), ("p99", LATENCIES * 99 / 100)] {
        let figure = |latencies: &[Duration]| format!("{:.2} ms", latencies[at].as_secs_f64() * 1000.0);
        let bare = format!("from publish to acknowledgement: {}", figure(&bare));
        report.row([&format!("from commit to a consumer of NATS, {name}"), &figure(&ours), &bare], None, "");
    }
}

/// Creates a stream for the subjects under its name.
async fn create(jetstream: &jetstream::Context, name: &str) -> String {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    name.to_owned()
}

async fn stored(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn publish_all(
    jetstream: &jetstream::Context,
    stream: &str,
    events: &Arc<Vec<StoredEvent>>,
    in_flight: usize,
) {
    let mut tasks = JoinSet::new();
    for first in 0..in_flight {
        let (jetstream, stream, events) = (jetstream.clone(), stream.to_owned(), Arc::clone(events));
        tasks.spawn(async move {
            for event in events.iter().skip(first).step_by(in_flight) {
                publish(&jetstream, &stream, event).await;
            }
        });
    }
    tasks.join_all().await;
}

/// Publishes an event, with its number as message id, and waits for the acknowledgement.
async fn publish(jetstream: &jetstream::Context, stream: &str, event: &StoredEvent) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", event.id.0.to_string().as_str());
    let body = Bytes::copy_from_slice(event.json.as_bytes());
    jetstream.publish_with_headers(format!("{stream}.event"), headers, body).await.unwrap().await.unwrap();
}

/// Delivers to a stream through a sink of the same name.
async fn deliver(site: &Site, url: &str, stream: &str, in_flight: usize, start: StartPosition) -> Running {
    let options = NatsOptions {
        servers: vec![url.parse().unwrap()],
        subject_prefix: stream.to_owned(),
        login: Login::None.into(),
        ca_file: None,
        timeout: Duration::from_secs(5),
        max_in_flight: in_flight,
    };
    site.deliver(stream, Sink::Nats(NatsSink::build(options).unwrap()), start).await
}
