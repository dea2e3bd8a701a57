//! The sinks of a storm: what they received, and when the daemon ended meanwhile.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    events::Event,
    process::Home,
    receiver::{Answer, Receiver},
};

use super::configuration::moving_file;

/// The files of sinks.
const FILES: [&str; 5] =
    ["events.jsonl", "extra.jsonl", "moving-0.jsonl", "moving-1.jsonl", "moving-2.jsonl"];

/// One event that the webhook received.
#[derive(Clone)]
struct Arrival {
    line: String,
    is_acknowledged: bool,
}

/// What sinks deliver to.
pub(crate) struct Sinks {
    receivers: [Receiver; 2],
    /// In the order in which they came to either receiver.
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// The number of arrivals and the number of lines in each file at the end of each life of the daemon.
    ends: Vec<(usize, [usize; FILES.len()])>,
}

impl Sinks {
    pub(crate) fn new() -> Self {
        let arrivals = Arc::<Mutex<Vec<Arrival>>>::default();
        let receivers = [Receiver::start(), Receiver::start()];
        for (seed, receiver) in receivers.iter().enumerate() {
            let mut random = fastrand::Rng::with_seed(seed as u64);
            let arrivals = Arc::clone(&arrivals);
            receiver.answer(move |delivery| {
                let is_acknowledged = random.u8(0..20) > 0;
                arrivals.lock().unwrap().push(Arrival { line: delivery.body.clone(), is_acknowledged });
                match (is_acknowledged, random.u8(0..10)) {
                    (false, _) => Answer::status(503),
                    (true, 0) => Answer::Slow(Duration::from_millis(100)),
                    (true, _) => Answer::status(204),
                }
            });
        }
        Self { receivers, arrivals, ends: Vec::new() }
    }

    pub(crate) fn urls(&self) -> [String; 2] {
        [0, 1].map(|which: usize| self.receivers[which].url("kf"))
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.receivers.iter().map(|receiver| receiver.address).collect()
    }

    pub(crate) fn note_end_of_life(&mut self, home: &Home) {
        let lines = FILES.map(|file| lines(home, file).len());
        self.ends.push((self.arrivals.lock().unwrap().len(), lines));
    }

    pub(crate) fn event_log(&self, home: &Home) -> Vec<Event> {
        let printed = home.run("events --format json");
        assert_eq!(printed.code, Some(0), "{printed:?}");
        printed.stdout.lines().map(Event::parse).collect()
    }

    /// Asserts that each sink has every event of the log that it selects, in order for each kf account, that nothing else was
    /// delivered, and that only the end of a daemon makes it deliver again what was acknowledged. Returns how many events came again.
    pub(crate) fn check(&self, home: &Home, log: &[Event]) -> BTreeMap<&'static str, usize> {
        let all: Vec<&str> = log.iter().map(|event| &*event.line).collect();
        let ended: Vec<&str> = log.iter().filter(|event| event.is_end()).map(|event| &*event.line).collect();
        let files = FILES.map(|file| lines(home, file));
        for (n, file) in files.iter().enumerate() {
            let ends = self.ends.iter().map(|(_, lines)| lines[n]);
            assert_unique_in_each_life(FILES[n], file, ends);
        }
        let [file, extra, moving @ ..] = &files;
        let moving = moving.concat();
        assert!(FILES[2..].iter().zip(0..).all(|(file, number)| *file == moving_file(number)));
        let arrivals = self.arrivals.lock().unwrap().clone();
        let acknowledged: Vec<(usize, String)> = arrivals
            .into_iter()
            .enumerate()
            .filter(|(_, arrival)| arrival.is_acknowledged)
            .map(|(at, arrival)| (at, arrival.line))
            .collect();
        let ends = self.ends.iter().map(|(end, _)| acknowledged.partition_point(|(at, _)| at < end));
        let acknowledged: Vec<String> = acknowledged.iter().map(|(_, line)| line.clone()).collect();
        assert_unique_in_each_life("hook", &acknowledged, ends);
        assert_first_deliveries_in_order("hook", &acknowledged, log);
        assert_first_deliveries_in_order("file", file, log);
        assert_first_deliveries_in_order("extra", extra, log);
        BTreeMap::from([
            ("file", assert_complete("file", file, &all)),
            ("moving", assert_complete("moving", &moving, &all)),
            ("extra", assert_complete("extra", extra, &ended)),
            ("hook", assert_complete("hook", &acknowledged, &all)),
        ])
    }
}

/// The whole lines of a file. A daemon that is killed may leave half a line at the end.
fn lines(home: &Home, file: &str) -> Vec<String> {
    let text = fs::read_to_string(home.path(file)).unwrap_or_default();
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].lines().map(str::to_owned).collect()
}

/// Asserts that exactly these events were received, and returns how many of them came again.
fn assert_complete(sink: &str, received: &[String], expected: &[&str]) -> usize {
    let seen: HashSet<&str> = received.iter().map(String::as_str).collect();
    let wanted: HashSet<&str> = expected.iter().copied().collect();
    let missing: Vec<_> = expected.iter().filter(|line| !seen.contains(**line)).collect();
    assert!(missing.is_empty(), "{sink}: {} events are missing: {:?}", missing.len(), missing.first());
    let strange = received.iter().find(|line| !wanted.contains(line.as_str()));
    assert_eq!(strange, None, "{sink} received an event that the log does not have");
    received.len() - seen.len()
}

/// `ends`: how many had been received at the end of each life.
fn assert_unique_in_each_life(sink: &str, received: &[String], ends: impl Iterator<Item = usize>) {
    let mut begin = 0;
    for (life, end) in ends.enumerate() {
        let mut seen = HashSet::new();
        let again = received[begin..end].iter().find(|line| !seen.insert(line.as_str()));
        assert_eq!(again, None, "{sink}: delivered again in life {life}");
        begin = end;
    }
}

fn assert_first_deliveries_in_order(sink: &str, received: &[String], log: &[Event]) {
    let number: HashMap<&str, usize> = log.iter().enumerate().map(|(n, event)| (&*event.line, n)).collect();
    let mut last: HashMap<(String, String), usize> = HashMap::new();
    let mut seen = HashSet::new();
    for line in received.iter().filter(|line| seen.insert(line.as_str())) {
        let Some(n) = number.get(line.as_str()).copied() else { continue };
        let before = last.insert(log[n].account(), n);
        assert!(before.is_none_or(|before| before < n), "{sink}: out of order: {line}");
    }
}
