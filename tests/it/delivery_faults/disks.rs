//! Full disks (ENOSPC) and failing disks (EIO) under the store and under the file of a sink.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use crate::support::{
    delivery::{
        eventually_delivered, eventually_logged, eventually_logged_once, eventually_polls, file, home,
        lively, sink_metric, stop_new_events, webhook,
    },
    disk::SmallDisk,
    event_log::EventLog,
    failing_disk::{
        DiskFault::{self, Cut, Read, Sync, Write},
        FailingDisk,
    },
    process::{Home, Process, WeChat, metric, quiet},
    receiver::{Answer, Delivery, Receiver},
    wait::eventually,
};

const STORE_FAILS: &str = "Polls are not stored";
const SINK_FAILS: &str = "Delivery failed and will be retried";
const SINK_RECOVERED: &str = "Delivery recovered";

/// The number of failures to wait for.
const OFTEN: f64 = 2.0;

fn store_failures(daemon: &Process) -> f64 {
    daemon.metric("kfwatch_store_failures_total").unwrap()
}

fn last_write_succeeded(daemon: &Process) -> bool {
    daemon.metric("kfwatch_store_last_write_successful").unwrap() >= 1.0
}

/// Waits until the receiver has got this number of further events.
fn eventually_more(receiver: &Receiver, events: usize) {
    let before = receiver.received().len();
    eventually("more events", || (receiver.received().len() >= before + events).then_some(()));
}

/// Waits until the store has failed repeatedly.
fn eventually_fails_to_store(daemon: &Process) {
    let before = store_failures(daemon);
    eventually("the store fails", || (store_failures(daemon) >= before + OFTEN).then_some(()));
    assert!(!last_write_succeeded(daemon));
}

/// Waits until the sink has failed repeatedly, and asserts that it delivered nothing.
fn eventually_fails_to_deliver(daemon: &Process, sink: &str) {
    let of = |name| sink_metric(daemon, sink, name);
    let failures = of("delivery_failures_total");
    eventually("the first failure", || (of("delivery_failures_total") > failures).then_some(()));
    let (delivered, pending) = (of("delivered_events_total"), of("pending_events"));
    eventually("more failures and more events", || {
        (of("delivery_failures_total") >= failures + OFTEN && of("pending_events") > pending).then_some(())
    });
    assert_eq!(of("delivered_events_total"), delivered, "nothing counts as delivered");
}

fn distinct(receiver: &Receiver) -> usize {
    receiver.received().iter().map(Delivery::id).collect::<HashSet<_>>().len()
}

fn stored_cursor(home: &Home, sink: &str) -> i64 {
    let store = rusqlite::Connection::open(home.path("kfwatch.db")).unwrap();
    store.query_row("SELECT cursor FROM sinks WHERE name = ?1", [sink], |row| row.get(0)).unwrap()
}

fn written(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Asserts that a failure was logged once, with its reason.
fn assert_logged_once(daemon: &Process, failure: &str, because: &str) {
    eventually_logged_once(daemon, failure);
    let log = daemon.stderr();
    assert!(log.contains(because), "{log}");
}

/// Stops new events, and waits until these sinks have delivered all of them.
fn log_at_the_end(wechat: &WeChat, home: &Home, daemon: Process, sinks: &[&str]) -> EventLog {
    stop_new_events(wechat, &daemon);
    sinks.iter().for_each(|sink| eventually_delivered(&daemon, sink));
    daemon.terminate();
    EventLog::of(home)
}

#[test]
fn full_store_disk_delays_events_and_loses_none() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let wechat = WeChat::play(lively());
    let receiver = Receiver::start();
    let store = format!("[store]\npath = {:?}\n", disk.path().join("kfwatch.db"));
    let home = home(
        &wechat,
        &[store, webhook("crm", &receiver.url("kf"), ""), file("archive", "events.jsonl")].concat(),
    );
    let daemon = home.daemon();
    eventually_more(&receiver, 20);

    disk.fill();
    // The store may still use the space that it has allocated.
    eventually_fails_to_store(&daemon);
    // A commit may still fit into the allocated space, so the log may grow.
    let received = receiver.received();
    EventLog::of(&home).assert_only_from_log("crm", received.iter().map(|delivery| &*delivery.body));
    assert_logged_once(&daemon, STORE_FAILS, "the disk of the store is full: free some space");
    assert_eq!(daemon.get("/-/healthy").status, 200);

    disk.free_space();
    eventually_more(&receiver, 20);
    eventually("the store works", || last_write_succeeded(&daemon).then_some(()));
    eventually_logged(&daemon, "Polls are stored again");

    disk.fill();
    eventually_fails_to_store(&daemon);
    drop(daemon); // kill -9
    let refused = home.run("run");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("full"), "{refused:?}");
    disk.free_space();
    let daemon = home.daemon();
    let log = log_at_the_end(&wechat, &home, daemon, &["crm", "archive"]);
    log.assert_posted("crm", &receiver.received());
    log.assert_written("archive", &[written(&home.path("events.jsonl"))]);
}

#[test]
fn full_sink_disk_pauses_only_that_sink() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let wechat = WeChat::play(lively());
    let receiver = Receiver::start();
    let path = disk.path().join("events.jsonl");
    let sinks = [webhook("crm", &receiver.url("kf"), ""), file("archive", path.to_str().unwrap())];
    let home = home(&wechat, &sinks.concat());
    let daemon = home.daemon();
    eventually_more(&receiver, 20);
    eventually_delivered(&daemon, "archive");

    disk.fill();
    eventually_fails_to_deliver(&daemon, "archive");
    assert_eq!(
        stored_cursor(&home, "archive"),
        written(&path).lines().count() as i64,
        "the cursor is at the end of the file"
    );
    assert_logged_once(&daemon, SINK_FAILS, "events.jsonl: No space left on device");
    eventually_more(&receiver, 20);
    assert!(last_write_succeeded(&daemon));

    disk.free_space();
    eventually_delivered(&daemon, "archive");
    eventually_logged_once(&daemon, SINK_RECOVERED);

    disk.fill();
    eventually_fails_to_deliver(&daemon, "archive");
    drop(daemon); // kill -9
    let daemon = home.daemon();
    eventually_fails_to_deliver(&daemon, "archive");
    disk.free_space();
    let log = log_at_the_end(&wechat, &home, daemon, &["crm", "archive"]);
    log.assert_posted("crm", &receiver.received());
    log.assert_written("archive", &[written(&path)]);
}

/// The ways in which the disk fails: written data is lost, writes fail, or data is lost and truncation fails too.
const FAULTS: [&[DiskFault]; 3] = [&[Sync], &[Write], &[Sync, Cut]];

#[test]
fn failing_store_disk_delivers_only_committed_events() {
    let wechat = WeChat::play(lively());
    let receiver = Receiver::start();
    let sinks = [webhook("crm", &receiver.url("kf"), ""), file("archive", "events.jsonl")];
    let disk = FailingDisk::build();
    let home = disk.under(home(&wechat, &sinks.concat()), "kfwatch.db");
    for (round, faults) in FAULTS.into_iter().cycle().take(6).enumerate() {
        let daemon = home.daemon();
        eventually_more(&receiver, 20);
        disk.fail(faults);
        eventually_fails_to_store(&daemon);
        // Events that were committed before are delivered, but the store cannot record the delivery.
        let committed = EventLog::of(&home).len();
        eventually("the committed events", || (distinct(&receiver) >= committed).then_some(()));
        eventually_fails_to_store(&daemon);
        // Repeats may still arrive, but no further event, and none that is not in the log.
        let log = EventLog::of(&home);
        assert_eq!((log.len(), distinct(&receiver)), (committed, committed), "{faults:?}");
        log.assert_received("crm", receiver.received().iter().map(|delivery| &*delivery.body));
        assert_logged_once(&daemon, STORE_FAILS, "the store cannot be read or written: check its disk");
        if round < FAULTS.len() {
            disk.recover();
            eventually_more(&receiver, 20);
            assert!(last_write_succeeded(&daemon));
        }
        drop(daemon); // kill -9, in later rounds while the disk still fails
        disk.recover();
        EventLog::of(&home);
    }
    let daemon = home.daemon();
    let log = log_at_the_end(&wechat, &home, daemon, &["crm", "archive"]);
    log.assert_posted("crm", &receiver.received());
    log.assert_written("archive", &[written(&home.path("events.jsonl"))]);
}

#[test]
fn failing_sink_disk_acknowledges_nothing_and_loses_nothing() {
    let wechat = WeChat::play(lively());
    let disk = FailingDisk::build();
    let home = disk.under(home(&wechat, &file("archive", "events.jsonl")), "events.jsonl");
    for (round, faults) in FAULTS.into_iter().cycle().take(6).enumerate() {
        let daemon = home.daemon();
        eventually("events", || {
            (sink_metric(&daemon, "archive", "delivered_events_total") >= 20.0).then_some(())
        });
        disk.fail(faults);
        eventually_fails_to_deliver(&daemon, "archive");
        let cursor = stored_cursor(&home, "archive");
        let written = written(&home.path("events.jsonl")).lines().count();
        assert!(written as i64 >= cursor, "{faults:?}: {written} lines, cursor {cursor}");
        assert_logged_once(&daemon, SINK_FAILS, "events.jsonl: Input/output error");
        assert_eq!(stored_cursor(&home, "archive"), cursor);
        if round < FAULTS.len() {
            disk.recover();
            eventually_delivered(&daemon, "archive");
            eventually_logged_once(&daemon, SINK_RECOVERED);
        }
        drop(daemon); // kill -9, in later rounds while the disk still fails
        disk.recover();
    }
    let daemon = home.daemon();
    let log = log_at_the_end(&wechat, &home, daemon, &["archive"]);
    let again = log.assert_written("archive", &[written(&home.path("events.jsonl"))]);
    assert!(again > 0, "lines that could not be truncated are repeated");
}

#[test]
fn sink_stopped_on_full_disk_stays_stopped() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let wechat = WeChat::play(lively());
    let receiver = Receiver::start();
    let store = disk.path().join("kfwatch.db");
    let home = home(
        &wechat,
        &[format!("[store]\npath = {store:?}\n"), webhook("crm", &receiver.url("kf"), "")].concat(),
    );
    let daemon = home.daemon();
    eventually_more(&receiver, 5);
    receiver.answer(|_| Answer::status(500));
    eventually("events that wait", || (sink_metric(&daemon, "crm", "pending_events") >= 5.0).then_some(()));
    disk.fill();
    eventually_fails_to_store(&daemon);
    receiver.answer(|_| Answer::status(410));
    eventually("the stop", || (sink_metric(&daemon, "crm", "stopped") >= 1.0).then_some(()));
    let shown = home.run("sinks").stdout;
    assert!(shown.contains("crm: stopped: the receiver answers 410 Gone"), "{shown}");

    disk.free_space();
    let store = rusqlite::Connection::open(store).unwrap();
    let stored = || -> Option<String> {
        store.query_row("SELECT stopped_reason FROM sinks", [], |row| row.get(0)).unwrap()
    };
    eventually("the stop in the store", stored);
    drop(daemon); // kill -9
    let received = receiver.received().len();
    let daemon = home.daemon();
    eventually_logged(&daemon, "Sink is still stopped: the receiver answers 410 Gone");
    eventually_polls(&wechat);
    assert_eq!(receiver.received().len(), received);
}

#[test]
fn hanging_store_disk_delays_scrape_once() {
    const SINKS: usize = 32;
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let disk = FailingDisk::build();
    let sinks: String =
        (1..=SINKS).map(|sink| file(&format!("file{sink}"), &format!("{sink}.jsonl"))).collect();
    let home = disk.under(home(&wechat, &sinks), "kfwatch.db");
    let daemon = home.daemon();
    eventually_delivered(&daemon, "file1");
    // Invalidates the pages that the daemon has cached, so that it must read them again.
    let store = rusqlite::Connection::open(home.path("kfwatch.db")).unwrap();
    store.execute("UPDATE sinks SET destination = destination", ()).unwrap();
    disk.fail(&[Read]);
    let scrape = || {
        let begun = Instant::now();
        let page = daemon.get("/metrics").text();
        assert!(metric(&page, "kfwatch_sink_delivered_events_total{sink=\"file1\"}").is_some(), "{page}");
        (begun.elapsed(), metric(&page, "kfwatch_store_events"))
    };
    let (took, events) =
        eventually("the store hangs", || Some(scrape()).filter(|(_, events)| events.is_none()));
    assert_eq!(events, None);
    assert!(took < Duration::from_secs(SINKS as u64 / 2), "{took:?}: each sink waited");
    disk.recover();
    eventually("the store works again", || scrape().1);
}
