//! A daemon on SQLite whose store is moved into PostgreSQL, where replicas go on.

use std::fs;

use kfwatch::simulator::ApiCall;

use super::{Cluster, EVERY_SECOND, SHARDS, platform};
use crate::support::{
    events::Event,
    postgres::Schema,
    process::{self, Process},
    wait::eventually,
};

/// The daemon's number among the replicas. Its events go to a file of its own.
const DAEMON: usize = 2;

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn replicas_go_on_where_the_daemon_on_sqlite_stood() {
    let mut cluster = Cluster::of(platform(13), Schema::configured());
    let path = |name: &str| cluster.directory.path().join(name);
    let config = cluster.configure(DAEMON, EVERY_SECOND);
    let clustered = fs::read_to_string(&config).unwrap();
    let file = format!("[store]\npath = {:?}\n", path("kfwatch.db"));
    fs::write(&config, clustered.replace(&cluster.schema.sections(&format!("replica-{DAEMON}")), &file))
        .unwrap();
    let (import, delivered) = (format!("{}", path("kfwatch.db").display()), path(&format!("{DAEMON}.jsonl")));

    let daemon = Process::start_ready(&config);
    let delivered_lines = || fs::read_to_string(&delivered).unwrap_or_default().lines().count();
    eventually("sessions have come and gone", || (delivered_lines() > 200).then_some(()));
    cluster.run(DAEMON, &["sinks", "stop", "file"]);
    let pending = || daemon.metric("kfwatch_sink_pending_events{sink=\"file\"}").unwrap_or_default();
    eventually("events wait for the sink", || (pending() > 50.0).then_some(()));
    daemon.terminate();
    let log = cluster.run(DAEMON, &["events", "--format", "json"]);

    fs::write(&config, clustered).unwrap();
    let printed = cluster.run(DAEMON, &["import", &import]);
    assert!(printed.contains("36 kf accounts") && printed.contains(" 1 sink, "), "{printed}");
    let lines = |events: &[Event]| {
        let mut lines: Vec<String> = events.iter().map(|event| event.line.clone()).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(lines(&cluster.log()), lines(&log.lines().map(Event::parse).collect::<Vec<_>>()));

    cluster.start(0);
    cluster.settle(None);
    let lists = cluster.wechat.control().requests(ApiCall::AuthorizerList);
    assert_eq!(
        lists, 0,
        "the refresh tokens of the configuration are no longer valid, and those of the store were imported"
    );
    cluster.start(1);
    cluster.settle(None);
    cluster.run(0, &["sinks", "resume", "file"]);
    eventually("the replicas have delivered everything", || {
        let pages = [0, 1].map(|replica| cluster.metrics(replica));
        let sum = |series| pages.iter().filter_map(|page| process::metric(page, series)).sum::<f64>();
        let is_done =
            sum("kfwatch_sink_pending_events{sink=\"file\"}") == 0.0 && sum("kfwatch_shards_owned") == SHARDS;
        is_done.then_some(())
    });
    let imported = log.lines().count();
    eventually("the replicas report events", || (cluster.log().len() > imported + 200).then_some(()));
    let (tally, repeats) = cluster.conclude();
    println!("import: {tally:?}");
    assert!(tally.started > 200 && tally.ended > 100, "{tally:?}");
    assert_eq!(repeats, 0, "nothing is delivered again");
}
