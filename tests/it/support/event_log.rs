//! The event log, and checks of what sinks received from it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::support::{process::Home, receiver::Delivery};

/// The event log: one line of JSON for each event.
pub(crate) struct EventLog(Vec<String>);

impl EventLog {
    /// Reads the log and checks its own guarantees.
    pub(crate) fn of(home: &Home) -> Self {
        let printed = home.run("events --format json");
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let log = Self(printed.stdout.lines().map(str::to_owned).collect());
        log.check();
        log
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the events that a sink selects.
    pub(crate) fn only(&self, wants: impl Fn(&Value) -> bool) -> Self {
        Self(self.0.iter().filter(|line| wants(&parsed(line))).cloned().collect())
    }

    /// Checks that ids are unique, that sequences have no gaps, that no session starts or ends twice, and that no
    /// session ends before it starts.
    fn check(&self) {
        let mut ids = HashSet::new();
        let mut sequences: HashMap<String, u64> = HashMap::new();
        let mut open: HashMap<String, bool> = HashMap::new();
        for line in &self.0 {
            let event = parsed(line);
            assert!(ids.insert(text(&event, "/id")), "duplicate id: {line}");
            let sequence = sequences.entry(text(&event, "/source")).or_default();
            *sequence += 1;
            assert_eq!(text(&event, "/sequence"), format!("{sequence:020}"), "{line}");
            match text(&event, "/type").as_str() {
                "kf.session.started" => {
                    assert_eq!(open.insert(text(&event, "/subject"), true), None, "{line}")
                }
                "kf.session.ended" => {
                    assert_eq!(open.insert(text(&event, "/subject"), false), Some(true), "{line}");
                }
                _ => {}
            }
        }
    }

    /// Asserts that every event was received, and what [`assert_only_from_log`](Self::assert_only_from_log) asserts.
    /// Returns the number of repeats.
    pub(crate) fn assert_received<'a>(
        &self,
        sink: &str,
        received: impl IntoIterator<Item = &'a str>,
    ) -> usize {
        let (seen, repeats) = self.assert_only_from_log(sink, received);
        let missing = (0..self.len()).find(|n| !seen.contains(n)).map(|n| &self.0[n]);
        assert_eq!(missing, None, "{sink}: received {} of {}", seen.len(), self.len());
        repeats
    }

    /// Asserts that only events of the log were received, with exactly the bytes of the log, and that first deliveries
    /// are in order for each kf account. Returns the log positions of the received events, and the number of repeats.
    pub(crate) fn assert_only_from_log<'a>(
        &self,
        sink: &str,
        received: impl IntoIterator<Item = &'a str>,
    ) -> (HashSet<usize>, usize) {
        let number: HashMap<&str, usize> = self.0.iter().enumerate().map(|(n, line)| (&**line, n)).collect();
        let mut first: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut repeats = 0;
        for line in received {
            assert!(number.contains_key(line), "{sink}: not in the log: {line}");
            let n = number[line];
            if seen.insert(n) {
                first.entry(text(&parsed(line), "/source")).or_default().push(n);
            } else {
                repeats += 1;
            }
        }
        for (account, numbers) in &first {
            assert!(numbers.is_sorted(), "{sink}: {account}: {numbers:?}");
        }
        (seen, repeats)
    }

    /// Like `assert_received`, for a webhook. Also asserts that every event was confirmed, and in order.
    pub(crate) fn assert_posted(&self, sink: &str, received: &[Delivery]) -> usize {
        let confirmed = received.iter().filter(|delivery| delivery.confirmed);
        self.assert_received(sink, confirmed.map(|delivery| &*delivery.body));
        self.assert_attempted(sink, received)
    }

    /// Like `assert_posted`, for a webhook that may have confirmed an event before an earlier one that it had refused.
    /// Also asserts that its requests are valid.
    pub(crate) fn assert_attempted(&self, sink: &str, received: &[Delivery]) -> usize {
        for delivery in received {
            assert_eq!(delivery.path, "/kf", "no redirect is followed");
            assert_eq!(delivery.header("content-type"), "application/cloudevents+json; charset=utf-8");
            assert_eq!(delivery.id(), text(&delivery.json(), "/id"));
            assert!(delivery.signed, "{delivery:?}");
        }
        self.assert_received(sink, received.iter().map(|delivery| &*delivery.body))
    }

    /// Like `assert_received`, for the lines of rotated files, oldest first. A partial line that a kill left at the end
    /// of a file does not count.
    pub(crate) fn assert_written(&self, sink: &str, files: &[String]) -> usize {
        let whole_lines = files.iter().flat_map(|file| {
            let end = file.rfind('\n').map_or(0, |at| at + 1);
            let half = &file[end..];
            assert!(self.0.iter().any(|line| line.starts_with(half)), "{sink}: {half:?} is not from the log");
            file[..end].lines()
        });
        self.assert_received(sink, whole_lines)
    }
}

pub(crate) fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

pub(crate) fn text(event: &Value, pointer: &str) -> String {
    event.pointer(pointer).unwrap().as_str().unwrap().to_owned()
}

/// Official account and kf account.
pub(crate) fn account_of(event: &Value) -> (String, String) {
    (text(event, "/data/official_account"), text(event, "/data/kf_account"))
}
