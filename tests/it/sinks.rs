//! Commands for sinks: show their state, resume, replay, and retry or drop dead letters, with and without a running daemon.

use std::{collections::HashSet, time::Duration};

use crate::support::{
    delivery::{self, copy_newest_event, webhook},
    event_log::EventLog,
    process::{Ended, Home, Process, WeChat, quiet},
    receiver::{Answer, Delivery, Receiver},
    wait::eventually,
};
use kfwatch::simulator::SimulatorControl;
use serde_json::Value;

/// A shop with three kf accounts, a daemon that polls it each second, and a receiver of its events.
struct Stage {
    wechat: WeChat,
    receiver: Receiver,
    home: Home,
}

impl Stage {
    fn new(answer: impl FnMut(&Delivery) -> Answer + Send + 'static) -> Self {
        let wechat = WeChat::play(quiet(&[("shop", 3)]));
        let receiver = Receiver::start();
        receiver.answer(answer);
        let home = delivery::home(&wechat, &webhook("crm", &receiver.url("kf"), "timeout = \"2s\""));
        Self { wechat, receiver, home }
    }

    fn control(&self) -> SimulatorControl {
        self.wechat.control()
    }

    fn open(&self, kf_account: &str, openid: &str) {
        delivery::open(&self.control(), kf_account, openid);
    }

    /// Adds a table `[store]` with these keys to the configuration.
    fn with_store(self, keys: &str) -> Self {
        let configuration = std::fs::read_to_string(self.home.path("config.toml")).unwrap();
        self.home.write("config.toml", &format!("{configuration}\n[store]\n{keys}\n"));
        self
    }

    /// Makes the daemon stop the sink: the receiver rejects the first event.
    fn stop_sink(&self, daemon: &Process) {
        self.open("kf1@shop", "oA");
        eventually_is(daemon, "stopped", 1.0);
    }

    /// The same while the store cannot record stops, as with a full disk. Returns a connection to the store.
    fn stop_sink_unstored(&self, daemon: &Process) -> rusqlite::Connection {
        let store = self.store();
        store.execute_batch(REJECT_STOPS).unwrap();
        self.stop_sink(daemon);
        store
    }

    /// Opens the store; a daemon may run at the same time.
    fn store(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.home.path("kfwatch.db")).unwrap()
    }

    /// Runs a command that must succeed.
    fn run(&self, arguments: &str) -> Ended {
        let ended = self.home.run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    fn sinks(&self) -> Vec<Value> {
        rows(&self.run("sinks --format json"))
    }

    fn dead(&self) -> Vec<Value> {
        rows(&self.run("events dead --sink crm --format json"))
    }

    fn confirmed(&self) -> Vec<Delivery> {
        self.receiver.received().into_iter().filter(|delivery| delivery.confirmed).collect()
    }

    fn eventually_confirmed(&self, count: usize) {
        eventually("the deliveries", || (self.receiver.confirmed() >= count).then_some(()));
    }
}

fn rows(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn crm_metric(daemon: &Process, name: &str) -> Option<f64> {
    daemon.metric(&format!("kfwatch_sink_{name}{{sink=\"crm\"}}"))
}

fn eventually_is(daemon: &Process, name: &str, value: f64) {
    eventually(name, || crm_metric(daemon, name).filter(|found| (found - value).abs() < 0.5));
}

fn openid(delivery: &Delivery) -> String {
    delivery.json()["data"]["openid"].as_str().unwrap().to_owned()
}

/// Answers 422 for customers with the prefix "oBad", 204 for others.
fn refuse_bad(delivery: &Delivery) -> Answer {
    if openid(delivery).starts_with("oBad") {
        Answer::Status(422, String::new(), "no such field".to_owned())
    } else {
        Answer::status(204)
    }
}

#[test]
fn sinks_shows_state_and_problem_of_each_sink() {
    let mut stage = Stage::new(|_| Answer::status(204));
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oA");
    stage.eventually_confirmed(1);
    eventually_is(&daemon, "pending_events", 0.0);
    let sinks = stage.sinks();
    assert_eq!(sinks.len(), 1);
    assert_eq!([&sinks[0]["sink"], &sinks[0]["state"]], ["crm", "delivering"]);
    assert!(sinks[0]["last_delivery_at"].is_string() && sinks[0]["last_failure"].is_null(), "{sinks:?}");

    stage.receiver.kill();
    stage.open("kf1@shop", "oB");
    eventually("a failure", || {
        crm_metric(&daemon, "delivery_failures_total").filter(|failures| *failures >= 1.0)
    });
    let sinks = stage.sinks();
    assert_eq!([&sinks[0]["state"], &sinks[0]["pending_events"]], [&Value::from("failing"), &Value::from(1)]);
    assert!(sinks[0]["last_failure"].as_str().unwrap().contains("refused"), "{sinks:?}");
    let table = stage.run("sinks").stdout;
    assert!(table.contains("failing") && table.contains("\ncrm: last failure at 20"), "{table}");

    stage.receiver.restart();
    stage.eventually_confirmed(2);
    eventually("the end of the failure", || (stage.sinks()[0]["state"] == "delivering").then_some(()));
    daemon.terminate();
    let table = stage.run("sinks").stdout;
    assert!(table.contains("unknown") && table.contains("no daemon is running"), "{table}");
}

#[test]
fn stopped_sink_is_resumed_by_running_daemon() {
    let stage = Stage::new(|_| Answer::status(410));
    let daemon = stage.home.daemon();
    stage.stop_sink(&daemon);
    stage.open("kf2@shop", "oB");
    eventually_is(&daemon, "pending_events", 2.0);
    let table = stage.run("sinks").stdout;
    assert!(table.contains("crm: stopped: the receiver answers 410 Gone"), "{table}");
    assert!(table.contains("kfwatch sinks resume crm"), "{table}");

    stage.receiver.answer(|_| Answer::status(204));
    assert_eq!(stage.run("sinks resume crm").stdout, "crm: resumed, with 2 events to deliver\n");
    stage.eventually_confirmed(2);
    eventually_is(&daemon, "pending_events", 0.0);
    assert_eq!(crm_metric(&daemon, "stopped"), Some(0.0));
    stage.open("kf1@shop", "oC");
    stage.eventually_confirmed(3);
}

#[test]
fn stopped_sink_is_resumed_without_daemon() {
    let stage = Stage::new(|_| Answer::status(410));
    let daemon = stage.home.daemon();
    stage.stop_sink(&daemon);
    daemon.terminate();
    stage.receiver.answer(|_| Answer::status(204));
    stage.run("sinks resume crm");
    let daemon = stage.home.daemon();
    stage.eventually_confirmed(1);
    eventually_is(&daemon, "stopped", 0.0);
}

/// Makes the store fail to record stops.
const REJECT_STOPS: &str = "CREATE TRIGGER reject_stops BEFORE UPDATE OF stopped_reason ON sinks
                         BEGIN SELECT RAISE(ABORT, 'no room'); END";

#[test]
fn unstored_stop_is_shown_and_stored_later() {
    let stage = Stage::new(|_| Answer::status(410));
    let daemon = stage.home.daemon();
    let store = stage.stop_sink_unstored(&daemon);
    let sinks = stage.sinks();
    assert_eq!(
        [&sinks[0]["state"], &sinks[0]["stopped_reason"]],
        ["stopped", "the receiver answers 410 Gone"]
    );
    let page = daemon.get("/").text();
    assert!(page.contains(">stopped</span>") && !page.contains(">delivering</span>"), "{page}");
    let why = "crm</b>: stopped: the receiver answers 410 Gone<br>when this is fixed: <code>kfwatch sinks resume crm</code>";
    assert!(page.contains(why), "{page}");
    let stored_reason = || -> Option<String> {
        store.query_row("SELECT stopped_reason FROM sinks", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(stored_reason(), None);
    let refused = stage.home.run("sinks resume crm");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(crm_metric(&daemon, "stopped"), Some(1.0), "a failed resume leaves it stopped");

    store.execute_batch("DROP TRIGGER reject_stops").unwrap();
    assert_eq!(eventually("the stop in the store", stored_reason), "the receiver answers 410 Gone");
    drop(daemon); // kill -9
    let daemon = stage.home.daemon();
    assert_eq!(crm_metric(&daemon, "stopped"), Some(1.0), "a restart keeps the stop");
    assert_eq!(stage.receiver.received().len(), 1);
}

#[test]
fn unstored_stop_is_resumed_normally() {
    let stage = Stage::new(|_| Answer::status(410));
    let daemon = stage.home.daemon();
    let store = stage.stop_sink_unstored(&daemon);
    stage.receiver.answer(|_| Answer::status(204));
    store.execute_batch("DROP TRIGGER reject_stops").unwrap();
    stage.run("sinks resume crm");
    stage.eventually_confirmed(1);
    assert_eq!(crm_metric(&daemon, "stopped"), Some(0.0));
    assert_eq!(stage.sinks()[0]["stopped_reason"], Value::Null);
}

#[test]
fn replay_delivers_same_events_again() {
    let stage = Stage::new(|_| Answer::status(204));
    let daemon = stage.home.daemon();
    for openid in ["oA", "oB", "oC"] {
        stage.open("kf1@shop", openid);
    }
    stage.eventually_confirmed(3);
    eventually_is(&daemon, "pending_events", 0.0);
    let ended = stage.run("events replay --sink crm --since 1h");
    assert!(ended.stdout.starts_with("crm: 3 events of the log will be delivered again"), "{ended:?}");
    stage.eventually_confirmed(6);
    eventually_is(&daemon, "pending_events", 0.0);
    let bodies: Vec<String> = stage.confirmed().into_iter().map(|delivery| delivery.body).collect();
    assert_eq!(bodies[..3], bodies[3..], "in the same order, with the same bytes");
    let ended = stage.run("events replay --sink crm --since 2999-01-01T00:00:00Z");
    assert!(ended.stdout.starts_with("crm: nothing to replay"), "{ended:?}");
    daemon.terminate();

    let since = bodies[1].split("\"observed_at\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let again = bodies.iter().take(3).filter(|body| !body.contains("oA")).count();
    let ended = stage.run(&format!("events replay --sink crm --since {since}"));
    assert!(ended.stdout.contains("events of the log will be delivered again"), "{ended:?}");
    let _daemon = stage.home.daemon();
    stage.eventually_confirmed(6 + again);
}

#[test]
fn crashed_replay_is_finished() {
    let stage = Stage::new(|_| Answer::status(204));
    let daemon = stage.home.daemon();
    for n in 0..20 {
        stage.open("kf1@shop", &format!("o{n}"));
    }
    stage.eventually_confirmed(20);
    eventually_is(&daemon, "pending_events", 0.0);
    stage.receiver.answer(|_| Answer::Slow(Duration::from_millis(50)));
    stage.run("events replay --sink crm --since 1h");
    stage.eventually_confirmed(25);
    drop(daemon); // kill -9
    stage.receiver.answer(|_| Answer::status(204));
    let daemon = stage.home.daemon();
    eventually_is(&daemon, "pending_events", 0.0);
    let mut times = std::collections::HashMap::<String, usize>::new();
    for delivery in stage.confirmed() {
        *times.entry(delivery.id().to_owned()).or_default() += 1;
    }
    assert_eq!(times.len(), 20);
    assert!(times.values().all(|times| *times >= 2), "{times:?}");
}

#[test]
fn running_daemon_shows_retries_and_drops_dead_letters() {
    let stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBadA");
    stage.open("kf2@shop", "oBadB");
    eventually_is(&daemon, "dead_letters", 2.0);
    let dead = stage.dead();
    assert_eq!(dead.len(), 2);
    assert_eq!(dead[0]["reason"], "the receiver answers 422 Unprocessable Entity: no such field");
    assert_eq!(dead[0]["event"]["type"], "kf.session.started");
    let table = stage.run("events dead --sink crm").stdout;
    assert!(table.contains("session.started") && table.contains("shop/kf1@shop"), "{table}");
    assert!(stage.run("sinks").stdout.contains("kfwatch events dead --sink crm"));

    let attempts = stage.receiver.received().len();
    assert_eq!(
        stage.run("events dead --sink crm --retry").stdout,
        "crm: 2 dead letters will be delivered again\n"
    );
    eventually("both attempts", || (stage.receiver.received().len() >= attempts + 2).then_some(()));
    eventually("both are dead again", || {
        stage.dead().iter().all(|dead| dead["retry"] == false).then_some(())
    });
    assert_eq!(
        (stage.dead().len(), stage.receiver.received().len()),
        (2, attempts + 2),
        "one attempt each, not five"
    );

    stage.receiver.answer(|_| Answer::status(204));
    stage.run("events dead --sink crm --retry");
    eventually_is(&daemon, "dead_letters", 0.0);
    let mut openids: Vec<String> = stage.confirmed().iter().map(openid).collect();
    openids.sort();
    assert_eq!(openids, ["oBadA", "oBadB"]);

    stage.receiver.answer(refuse_bad);
    stage.open("kf3@shop", "oBadC");
    eventually_is(&daemon, "dead_letters", 1.0);
    assert_eq!(stage.run("events dead --sink crm --drop").stdout, "crm: 1 dead letter dropped\n");
    assert_eq!((stage.dead().len(), crm_metric(&daemon, "dead_letters")), (0, Some(0.0)));
    stage.open("kf3@shop", "oD");
    stage.eventually_confirmed(3);
}

#[test]
fn replay_clears_delivered_dead_letter() {
    let stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBadA");
    eventually_is(&daemon, "dead_letters", 1.0);
    eventually_is(&daemon, "pending_events", 0.0);
    stage.receiver.answer(|_| Answer::status(204));
    stage.run("events replay --sink crm --since 1h");
    stage.eventually_confirmed(1);
    eventually_is(&daemon, "dead_letters", 0.0);
}

#[test]
fn retried_dead_letters_survive_crash_and_receiver_outage() {
    let mut stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBad");
    eventually_is(&daemon, "dead_letters", 1.0);
    stage.receiver.kill();
    stage.run("events dead --sink crm --retry");
    let failures = crm_metric(&daemon, "delivery_failures_total").unwrap();
    eventually("an attempt", || {
        crm_metric(&daemon, "delivery_failures_total").filter(|count| *count > failures)
    });
    drop(daemon); // kill -9
    stage.receiver.answer(|_| Answer::status(204));
    stage.receiver.restart();
    let daemon = stage.home.daemon();
    stage.eventually_confirmed(1);
    eventually_is(&daemon, "dead_letters", 0.0);
}

#[test]
fn retried_dead_letter_keeps_order_of_its_kf_account() {
    let stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBad");
    eventually_is(&daemon, "dead_letters", 1.0);
    // The delivery in flight for the kf account is slow.
    stage.receiver.answer(|delivery| match openid(delivery).as_str() {
        "oHangs" => Answer::Slow(Duration::from_millis(700)),
        _ => Answer::status(204),
    });
    stage.open("kf1@shop", "oHangs");
    eventually("the slow one", || {
        stage.receiver.received().iter().any(|delivery| openid(delivery) == "oHangs").then_some(())
    });
    stage.run("events dead --sink crm --retry");
    eventually_is(&daemon, "dead_letters", 0.0);
    let confirmed: Vec<String> = stage.confirmed().iter().map(openid).collect();
    assert_eq!(confirmed, ["oHangs", "oBad"]);
}

#[test]
fn command_to_hanging_sink_delays_only_that_sink() {
    let mut stage = Stage::new(|_| Answer::Hang);
    let configuration = std::fs::read_to_string(stage.home.path("config.toml")).unwrap();
    let other = Receiver::start();
    let patient = configuration.replace("timeout = \"2s\"", "timeout = \"10m\"");
    stage.home.write("config.toml", &format!("{patient}\n{}", webhook("other", &other.url("kf"), "")));
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oA");
    eventually("the attempt that hangs", || (!stage.receiver.received().is_empty()).then_some(()));
    eventually("the event at the other receiver", || (other.confirmed() >= 1).then_some(()));
    let mut commands = ["events replay --sink crm --since 1h", "sinks resume crm"].map(|command| {
        let spawned = stage.home.spawn(command);
        eventually("the command in the log", || (times_logged(&daemon, "crm") >= 1).then_some(()));
        spawned
    });
    stage.run("sinks");
    stage.run("events dead --sink crm");
    stage.run("sinks resume other");
    stage.run("events replay --sink other --since 1h");
    eventually("the event once more", || (other.confirmed() >= 2).then_some(()));
    assert!(commands.iter_mut().all(Process::is_running), "they wait for the receiver that hangs");
    assert_eq!(times_logged(&daemon, "crm"), 1, "the second command waits for the first");
    stage.receiver.kill();
    for command in commands {
        let ended = command.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

/// Counts the control commands in the log that contain this text.
fn times_logged(daemon: &Process, what: &str) -> usize {
    let log = daemon.stderr();
    log.lines().filter(|line| line.contains("Running a control command") && line.contains(what)).count()
}

#[test]
fn unknown_sink_is_refused_with_known_names() {
    let stage = Stage::new(|_| Answer::status(204));
    let ended = stage.home.run("sinks resume crm");
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("start the daemon first"), "{ended:?}");
    let daemon = stage.home.daemon();
    for command in
        ["sinks resume cmr", "events replay --sink cmr --since 1h", "events dead --sink cmr --retry"]
    {
        let ended = stage.home.run(command);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.ends_with("there is no sink \"cmr\"; known: crm\n"), "{ended:?}");
    }
    daemon.terminate();
    let ended = stage.home.run("events dead --sink cmr");
    assert!(ended.stderr.ends_with("there is no sink \"cmr\"; known: crm\n"), "{ended:?}");
}

#[test]
fn sinks_command_locks_and_changes_nothing() {
    let stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBad");
    eventually_is(&daemon, "dead_letters", 1.0);
    daemon.terminate();
    let epoch =
        || -> i64 { stage.store().query_row("SELECT epoch FROM lease", [], |row| row.get(0)).unwrap() };
    let before = epoch();
    // The lock of a daemon that is just starting.
    let lock =
        std::fs::File::options().read(true).write(true).open(stage.home.path("kfwatch.db-lock")).unwrap();
    lock.try_lock().unwrap();
    assert_eq!(stage.sinks()[0]["dead_letters"], 1);
    assert_eq!(stage.dead().len(), 1);
    for command in
        ["sinks resume crm", "events dead --sink crm --drop", "events replay --sink crm --since 1h"]
    {
        let refused = stage.home.run(command);
        assert_eq!(refused.code, Some(1), "{command}: {refused:?}");
        assert!(
            refused.stderr.contains("no process listens on its control socket"),
            "{command}: {refused:?}"
        );
    }
    drop(lock);
    assert_eq!(epoch(), before, "no process took the lease meanwhile");
}

#[test]
fn sinks_command_does_not_migrate_older_store() {
    let stage = Stage::new(|_| Answer::status(204));
    let store = stage.store();
    store.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    store.execute_batch(include_str!("store/version_1.sql")).unwrap();
    store.execute_batch("PRAGMA application_id = 0x6b667761; PRAGMA user_version = 1").unwrap();
    for command in ["sinks", "events dead --sink crm"] {
        let refused = stage.home.run(command);
        assert_eq!(refused.code, Some(1), "{command}: {refused:?}");
        assert!(
            refused.stderr.contains("start the daemon once, which migrates it"),
            "{command}: {refused:?}"
        );
    }
    let version: i64 = store.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!((version, stage.home.path("kfwatch.db-backup-v1").exists()), (1, false));
}

#[test]
fn removed_sink_keeps_its_cursor() {
    let stage = Stage::new(|_| Answer::status(204));
    let configuration = std::fs::read_to_string(stage.home.path("config.toml")).unwrap();
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oA");
    stage.eventually_confirmed(1);
    eventually_is(&daemon, "pending_events", 0.0);
    daemon.terminate();
    stage.home.write("config.toml", &configuration.replace("name = \"crm\"", "name = \"cmr\""));
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oB");
    stage.eventually_confirmed(2);
    let states: Vec<_> =
        stage.sinks().iter().map(|sink| (sink["sink"].clone(), sink["state"].clone())).collect();
    assert_eq!(states, [("cmr".into(), "delivering".into()), ("crm".into(), "removed".into())]);
    let replayed = stage.run("events replay --sink crm --since 1h");
    assert!(replayed.stderr.contains("crm is not in the configuration"), "{replayed:?}");
    daemon.terminate();
    stage.home.write("config.toml", &configuration);
    let _daemon = stage.home.daemon();
    // oA again, and oB, which was observed while the sink's name was wrong.
    stage.eventually_confirmed(4);
}

/// The smallest `event_log_max_bytes`.
const LOG_BYTES: usize = 16 << 20;

/// What an event of [`large_openid`] occupies: a third of a page of the store.
const EVENT_BYTES: usize = 4096 / 3;

/// An openid whose events fill the log soon, so that there are fewer to deliver, but more than twice as many as are removed
/// at once.
fn large_openid() -> String {
    "o".repeat(700)
}

#[test]
fn full_event_log_suspends_the_slowest_sink() {
    let mut stage =
        Stage::new(|_| Answer::status(204)).with_store(&format!("event_log_max_bytes = {LOG_BYTES}"));
    let file = "[[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = \"events.jsonl\"";
    let configuration = std::fs::read_to_string(stage.home.path("config.toml")).unwrap();
    stage.home.write("config.toml", &format!("{configuration}\n{file}\n"));
    stage.receiver.kill();
    stage.open("kf1@shop", &large_openid());
    let daemon = stage.home.daemon();
    eventually_is(&daemon, "pending_events", 1.0);
    daemon.terminate();
    let store = stage.store();
    copy_newest_event(&store, LOG_BYTES / EVENT_BYTES * 6 / 5);
    let events: i64 = store.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    drop(store);

    let daemon = stage.home.daemon();
    eventually_is(&daemon, "suspended", 1.0);
    assert_eq!(crm_metric(&daemon, "stopped"), Some(1.0));
    for line in ["the oldest events were removed", "repair the sink and run \"kfwatch sinks resume crm\""] {
        eventually(line, || daemon.stderr().contains(line).then_some(()));
    }
    assert_eq!(daemon.metric("kfwatch_sink_suspended{sink=\"file\"}"), Some(0.0));
    let lost = crm_metric(&daemon, "lost_events_total").unwrap();
    assert!(lost > 0.0 && lost < events as f64 / 2.0, "{lost} of {events}: no more than is needed");
    let table = stage.run("sinks").stdout;
    assert!(table.contains("suspended: it lagged most"), "{table}");
    assert!(
        table.contains("crm: last failure at 20") && !table.contains("it has recovered since"),
        "{table}"
    );
    let removed = kfwatch::domain::quantity::counted(lost as u64, "event");
    assert!(table.contains(&format!("crm: {removed} removed from the log before delivery")), "{table}");

    stage.receiver.restart();
    stage.run("sinks resume crm");
    let rest = events as usize - lost as usize;
    stage.eventually_confirmed(rest);
    eventually_is(&daemon, "pending_events", 0.0);
    assert_eq!(
        (crm_metric(&daemon, "suspended"), crm_metric(&daemon, "lost_events_total")),
        (Some(0.0), Some(lost))
    );
    assert_eq!(stage.confirmed().len(), rest, "lost and delivered events are all events");
    let lines = std::fs::read_to_string(stage.home.path("events.jsonl")).unwrap().lines().count();
    assert_eq!(lines, events as usize, "the other sink missed nothing");
    daemon.terminate();
    assert_eq!(stage.sinks()[1]["lost_events"], 0);
}

#[test]
fn kill_between_suspension_and_pruning_loses_nothing_silently() {
    let mut stage =
        Stage::new(|_| Answer::status(204)).with_store(&format!("event_log_max_bytes = {LOG_BYTES}"));
    stage.receiver.kill();
    stage.open("kf1@shop", &large_openid());
    let daemon = stage.home.daemon();
    eventually_is(&daemon, "pending_events", 1.0);
    daemon.terminate();
    let store = stage.store();
    copy_newest_event(&store, LOG_BYTES / EVENT_BYTES * 6 / 5);
    let events = || -> usize {
        store.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap() as usize
    };
    let all = events();
    let reject_pruning =
        "CREATE TRIGGER reject_pruning BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'not yet'); END";
    store.execute_batch(reject_pruning).unwrap();

    let daemon = stage.home.daemon();
    eventually_is(&daemon, "suspended", 1.0);
    eventually("the pruning", || {
        daemon.stderr().contains("Could not remove events from the full store").then_some(())
    });
    drop(daemon); // kill -9
    assert_eq!(events(), all, "the suspension is stored, and nothing is removed yet");
    store.execute_batch("DROP TRIGGER reject_pruning").unwrap();
    let suspended = &stage.sinks()[0];
    assert_eq!(
        [&suspended["state"], &suspended["lost_events"]],
        [&Value::from("suspended"), &Value::from(0)]
    );

    let daemon = stage.home.daemon();
    eventually("the pruning", || daemon.stderr().contains("the oldest events were removed").then_some(()));
    let lost = crm_metric(&daemon, "lost_events_total").unwrap() as usize;
    assert!(lost > 0 && lost < all / 2, "{lost} of {all}: no more than is needed");
    assert_eq!(events(), all - lost);
    stage.receiver.restart();
    stage.run("sinks resume crm");
    stage.eventually_confirmed(all - lost);
    eventually_is(&daemon, "pending_events", 0.0);
    let confirmed: HashSet<String> =
        stage.confirmed().iter().map(|delivery| delivery.id().to_owned()).collect();
    assert_eq!(confirmed.len(), all - lost, "lost and delivered events are all events");
    assert_eq!(crm_metric(&daemon, "lost_events_total"), Some(lost as f64));
}

#[test]
fn too_many_dead_letters_stop_the_sink() {
    let stage = Stage::new(refuse_bad);
    let daemon = stage.home.daemon();
    stage.open("kf1@shop", "oBad");
    eventually_is(&daemon, "dead_letters", 1.0);
    daemon.terminate();
    let store = stage.store();
    let copies = "WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < 9998)
         INSERT INTO dead_letters
             SELECT sink, -n, account, sequence, type, observed_at, json, reason, died_at, retry FROM copies, dead_letters";
    assert_eq!(store.execute(copies, []).unwrap(), 9_998);
    drop(store);
    let daemon = stage.home.daemon();
    stage.open("kf2@shop", "oBad");
    eventually_is(&daemon, "stopped", 1.0);
    stage.open("kf3@shop", "oGood");
    eventually_is(&daemon, "pending_events", 1.0);
    let table = stage.run("sinks").stdout;
    assert!(table.contains("stopped: it has 10000 dead letters, and no more are kept"), "{table}");
    let failures = || crm_metric(&daemon, "delivery_failures_total").unwrap();
    let before = failures();
    stage.run("events dead --sink crm --retry");
    stage.run("sinks resume crm");
    eventually("two attempts that are rejected again", || (failures() >= before + 2.0).then_some(()));
    stage.open("kf3@shop", "oBetter");
    stage.eventually_confirmed(2);
    assert_eq!(crm_metric(&daemon, "stopped"), Some(0.0), "there are no more dead letters than before");
    stage.run("events dead --sink crm --drop");
    eventually_is(&daemon, "dead_letters", 0.0);
    stage.open("kf1@shop", "oBest");
    stage.eventually_confirmed(3);
}

#[test]
fn commands_and_kills_lose_and_reorder_no_event() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut faults = random.fork();
    let stage = Stage::new(move |_| match faults.u8(0..20) {
        0 if faults.bool() => Answer::status(410),
        1..=6 => Answer::status(422),
        7 => Answer::status(500),
        8..=10 => Answer::Slow(Duration::from_millis(50)),
        _ => Answer::status(204),
    });
    let commands = [
        "sinks resume crm",
        "events replay --sink crm --since 1h",
        "events replay --sink crm --since 2s",
        "events dead --sink crm --retry",
        "sinks",
    ];
    let mut opened = 0;
    for _ in 0..4 {
        let daemon = stage.home.daemon();
        for _ in 0..6 {
            opened += 1;
            stage.open(&format!("kf{}@shop", random.u8(1..=3)), &format!("o{opened}"));
        }
        let started = "kfwatch_events_total{event_type=\"kf.session.started\"}";
        eventually("the events", || daemon.metric(started).filter(|events| *events >= 6.0));
        for _ in 0..random.u8(0..6) {
            stage.run(random.choice(commands).unwrap());
        }
        drop(daemon); // kill -9
        if random.bool() {
            stage.run(random.choice(commands).unwrap());
        }
    }
    let daemon = stage.home.daemon();
    stage.receiver.answer(|_| Answer::status(204));
    stage.run("sinks resume crm");
    eventually("an event of every session", || {
        (rows(&stage.run("events --format json")).len() >= opened).then_some(())
    });
    eventually("all events delivered", || {
        if crm_metric(&daemon, "dead_letters") > Some(0.0) {
            stage.run("events dead --sink crm --retry");
        }
        let is_done = crm_metric(&daemon, "dead_letters") == Some(0.0)
            && crm_metric(&daemon, "pending_events") == Some(0.0);
        is_done.then_some(())
    });
    let log = EventLog::of(&stage.home);
    let again = log.assert_attempted("crm", &stage.receiver.received());
    let confirmed: HashSet<String> =
        stage.confirmed().iter().map(|delivery| delivery.id().to_owned()).collect();
    assert_eq!(confirmed.len(), log.len(), "every event was confirmed");
    println!("sinks: {} events, {again} times received again", log.len());
    assert!(again > 20, "too little happened");
}
