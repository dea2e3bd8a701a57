//! Random traffic, random failures of three sinks at once, and kill -9 of kfwatch and of receivers.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use kfwatch::simulator::Scenario;

use crate::support::{
    delivery::{
        eventually_delivered, eventually_polls, file, home, lively, pause, rounds, sink_metric,
        stop_new_events, webhook,
    },
    event_log::{EventLog, text},
    process::{Home, Process, WeChat},
    receiver::{Answer, Delivery, Receiver},
    worlds::play_worlds,
};

/// How often each fault occurred.
type FaultCounts = Arc<Mutex<BTreeMap<&'static str, usize>>>;

/// The counts of one world.
#[derive(Debug)]
struct Tally {
    events: usize,
    filtered: usize,
    again: [usize; 3],
    rotated: usize,
}

#[test]
fn every_sink_gets_every_event_through_faults_and_kills() {
    let rounds = rounds(100);
    let met = FaultCounts::default();
    let tallies = play_worlds(5, rounds, |seed, rounds| play(seed, rounds, &met));
    let met = met.lock().unwrap();
    println!("delivery: {rounds} rounds, {tallies:?}, {met:?}");
    let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
    let [events, filtered] = [sum(|tally| tally.events), sum(|tally| tally.filtered)];
    assert!(events > 10 * rounds && filtered > rounds, "too little happened");
    let [again, rotated] = [sum(|tally| tally.again[0]), sum(|tally| tally.rotated)];
    assert!(again > rounds / 2 && rotated > rounds / 10, "too little went wrong");
    if rounds >= 100 {
        assert_eq!(met.len(), faults().len(), "every fault occurred: {met:?}");
    }
}

fn play(seed: u64, rounds: usize, met: &FaultCounts) -> Tally {
    let wechat = WeChat::play(Scenario { seed, ..lively() });
    let mut receivers = [Receiver::start(), Receiver::start()];
    let [crm, ends] = [0, 1].map(|n: usize| receivers[n].url("kf"));
    let filter =
        "types = [\"ended\"]\nofficial_accounts = [\"south\"]\ntimeout = \"300ms\"\nstart = \"beginning\"";
    let sinks = [
        webhook("crm", &crm, "timeout = \"300ms\""),
        webhook("ends", &ends, filter),
        file("archive", "events.jsonl"),
    ];
    let home = home(&wechat, &sinks.concat());
    let mut files = Files { home: &home, rotated: 0 };
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        for receiver in &receivers {
            receiver.answer(faulty(random.fork(), Arc::clone(met)));
        }
        let daemon = home.spawn("run");
        // In most rounds something is committed. The sleeps are fixed on purpose: the moment of the kill must not
        // depend on the processes.
        if random.u8(0..6) > 0 {
            eventually_polls(&wechat);
        }
        pause(random.u64(0..150));
        apply_random_event(&mut random, &mut receivers, &mut files, &daemon);
        pause(random.u64(0..300));
        drop(daemon); // kill -9
        if random.u8(0..4) == 0 {
            files.rotate();
        }
    }
    receivers.iter().for_each(|receiver| receiver.answer(|_| Answer::status(204)));
    let daemon = home.daemon();
    stop_new_events(&wechat, &daemon);
    for sink in ["crm", "ends", "archive"] {
        eventually_delivered(&daemon, sink);
        assert_eq!(
            (sink_metric(&daemon, sink, "dead_letters"), sink_metric(&daemon, sink, "stopped")),
            (0.0, 0.0)
        );
    }
    daemon.terminate();

    let log = EventLog::of(&home);
    let ended_in_the_south = log.only(|event| {
        text(event, "/type") == "kf.session.ended" && text(event, "/data/official_account") == "south"
    });
    let again = [
        log.assert_posted("crm", &receivers[0].received()),
        ended_in_the_south.assert_posted("ends", &receivers[1].received()),
        log.assert_written("archive", &files.read()),
    ];
    Tally { events: log.len(), filtered: ended_in_the_south.len(), again, rotated: files.rotated }
}

/// In the middle of a round, kills and restarts a receiver or both, moves the file, or does nothing.
fn apply_random_event(
    random: &mut fastrand::Rng,
    receivers: &mut [Receiver; 2],
    files: &mut Files<'_>,
    daemon: &Process,
) {
    let killed = match random.u8(0..10) {
        0 | 1 => 0..1,
        2 => 1..2,
        3 => 0..2,
        4 | 5 => return files.rotate(),
        6 | 7 => {
            files.rotate();
            return daemon.signal("HUP");
        }
        8 => return daemon.signal("HUP"),
        _ => return,
    };
    receivers[killed.clone()].iter_mut().for_each(Receiver::kill);
    pause(random.u64(0..300));
    receivers[killed].iter_mut().for_each(Receiver::restart);
    pause(random.u64(0..300));
}

/// The answers of a receiver that are not a plain confirmation.
fn faults() -> Vec<(&'static str, Answer)> {
    let with = |status, header: &str| Answer::Status(status, format!("{header}\r\n"), "no".to_owned());
    vec![
        ("500", Answer::status(500)),
        ("429 with Retry-After", with(429, "Retry-After: 1")),
        ("503 with a Retry-After of the past", with(503, "Retry-After: Sun, 22 Nov 2026 00:00:00 GMT")),
        ("hang", Answer::Hang),
        ("reset in mid-answer", Answer::Reset),
        ("no HTTP", Answer::Garbage),
        ("redirect", with(302, "Location: /elsewhere")),
        ("401", Answer::status(401)),
        ("404", Answer::status(404)),
        ("422", Answer::status(422)),
        ("endless head", Answer::EndlessHead),
        ("half a body", Answer::Cut),
        ("a body that stops", Answer::Stall),
        ("huge body", Answer::Huge),
        ("endless body", Answer::Endless),
        ("slow", Answer::Slow(Duration::from_millis(100))),
        ("too slow", Answer::Slow(Duration::from_millis(350))),
    ]
}

/// Mostly confirms. After a failure kfwatch backs off for at least half a second, so failures must be rare.
fn faulty(mut random: fastrand::Rng, met: FaultCounts) -> impl FnMut(&Delivery) -> Answer + Send + 'static {
    let faults = faults();
    move |_| {
        if random.u8(0..6) > 0 {
            return Answer::status(204);
        }
        let (name, answer) = random.choice(&faults).unwrap();
        *met.lock().unwrap().entry(name).or_default() += 1;
        answer.clone()
    }
}

/// The file of a sink, and the files that it was moved to.
struct Files<'a> {
    home: &'a Home,
    rotated: usize,
}

impl Files<'_> {
    /// Moves the file, as logrotate does. The file may be missing.
    fn rotate(&mut self) {
        let moved = self.home.path(&format!("events.jsonl.{}", self.rotated + 1));
        if fs::rename(self.home.path("events.jsonl"), moved).is_ok() {
            self.rotated += 1;
        }
    }

    /// Returns the contents, oldest first.
    fn read(&self) -> Vec<String> {
        let rotated = (1..=self.rotated).map(|n| format!("events.jsonl.{n}"));
        let names = rotated.chain(["events.jsonl".to_owned()]);
        // The last file may have been moved without a new event.
        names.map(|name| fs::read_to_string(self.home.path(&name)).unwrap_or_default()).collect()
    }
}
