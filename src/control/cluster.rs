//! Commands that concern the accounts and sinks of all replicas: each replica carries them out for the shards that it owns.

use std::fmt;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{ControlCommand, ResponseLine};
use crate::dispatch::admin::{SinkChange, SinkCommand};

/// Reaches the replicas of a cluster.
pub(crate) trait AskReplicas: Send + Sync {
    /// Has every replica carry out a command, and waits for the answers. Fails if they cannot be reached at all.
    fn ask(&self, command: String) -> BoxFuture<'_, Result<Vec<ReplicaAnswer>, String>>;
}

/// What a replica has answered.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaAnswer {
    /// The name of the replica.
    pub(crate) replica: String,
    /// The lines of its response; `None` if it did not answer in time.
    pub(crate) lines: Option<String>,
}

/// The answers of all replicas as one response.
#[derive(Debug, Default)]
pub(super) struct CombinedAnswer {
    pub(super) notes: Vec<String>,
    pub(super) rows: Vec<Value>,
    /// Why the response is not complete.
    pub(super) failures: Vec<String>,
    /// What the replicas say that know no such account. If one of them knows it, this does not matter.
    unknown: Vec<String>,
    knows_account: bool,
}

impl CombinedAnswer {
    pub(super) fn new(command: &ControlCommand, answers: Vec<ReplicaAnswer>) -> Self {
        let mut combined = Self::default();
        for ReplicaAnswer { replica, lines } in answers {
            match lines {
                None => combined
                    .fail(&replica, "it has not answered in time: it may have carried out the command"),
                Some(lines) => lines.lines().for_each(|line| combined.add(&replica, line)),
            }
        }
        if let ControlCommand::Sinks(command) = command {
            combined.add_up_changes(command);
        }
        combined
    }

    /// Why no account is selected, if that is so.
    pub(super) fn unknown_account(&self) -> Option<&str> {
        if self.knows_account { None } else { self.unknown.first().map(String::as_str) }
    }

    fn add(&mut self, replica: &str, line: &str) {
        match serde_json::from_str(line) {
            Ok(ResponseLine::Row(row)) => self.rows.push(row),
            Ok(ResponseLine::Note(note)) if !self.notes.contains(&note) => self.notes.push(note),
            Ok(ResponseLine::Note(_)) => {}
            Ok(ResponseLine::Failed(reason)) => self.fail(replica, &reason),
            Ok(ResponseLine::UnknownAccount(text)) => self.unknown.push(text),
            Ok(ResponseLine::Done) => self.knows_account = true,
            Err(error) => self.fail(replica, format!("its answer is malformed: {error}")),
        }
    }

    fn fail(&mut self, replica: &str, reason: impl fmt::Display) {
        self.failures.push(format!("replica {replica}: {reason}"));
    }

    /// Each replica says what has changed in its shards. How many events a stopped or resumed sink has to deliver, all say the same.
    fn add_up_changes(&mut self, command: &SinkCommand) {
        let changes = std::mem::take(&mut self.rows).into_iter();
        let mut changes = changes.filter_map(|row| serde_json::from_value::<SinkChange>(row).ok());
        let Some(mut sum) = changes.next() else { return };
        for change in changes {
            match command {
                SinkCommand::Stop { .. } | SinkCommand::Resume { .. } => {
                    sum.events = sum.events.max(change.events)
                }
                _ => sum.events += change.events,
            }
            sum.from = [sum.from, change.from].into_iter().flatten().min();
            sum.stopped_reason = sum.stopped_reason.or(change.stopped_reason);
        }
        self.rows.extend(serde_json::to_value(sum));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::account_filter::AccountFilter;

    fn answer(replica: &str, lines: &[Value]) -> ReplicaAnswer {
        let lines = lines.iter().map(|line| format!("{line}\n")).collect();
        ReplicaAnswer { replica: replica.to_owned(), lines: Some(lines) }
    }

    fn polls(answers: Vec<ReplicaAnswer>) -> CombinedAnswer {
        CombinedAnswer::new(&ControlCommand::Poll(AccountFilter::default()), answers)
    }

    #[test]
    fn account_is_unknown_only_if_no_replica_knows_it() {
        let unknown = || answer("a", &[json!({"unknown_account": "no such account"})]);
        let known = answer("b", &[json!({"row": 1}), json!("done")]);
        assert_eq!(polls(vec![unknown(), unknown()]).unknown_account(), Some("no such account"));
        let combined = polls(vec![unknown(), known]);
        assert_eq!((combined.unknown_account(), &combined.rows[..]), (None, &[json!(1)][..]));
    }

    #[test]
    fn replica_that_fails_or_does_not_answer_is_named() {
        let silent = ReplicaAnswer { replica: "b".to_owned(), lines: None };
        let failures = polls(vec![answer("a", &[json!({"failed": "full"})]), silent]).failures;
        assert_eq!(failures[0], "replica a: full");
        assert!(failures[1].starts_with("replica b: it has not answered in time"), "{failures:?}");
    }

    #[test]
    fn changes_of_a_sink_are_added_up() {
        let change = |events: u64, from: &str| {
            answer(
                "a",
                &[
                    json!({"row": {"sink": "crm", "events": events, "from": from, "stopped_reason": null, "is_configured": true}}),
                ],
            )
        };
        let answers = || vec![change(2, "2026-11-30T02:00:00Z"), change(3, "2026-11-30T01:00:00Z")];
        let combined =
            |command| CombinedAnswer::new(&ControlCommand::Sinks(command), answers()).rows.remove(0);
        let sink = || "crm".to_owned();
        let retried = combined(SinkCommand::RetryDeadLetters { sink: sink() });
        assert_eq!((&retried["events"], &retried["from"]), (&json!(5), &json!("2026-11-30T01:00:00Z")));
        assert_eq!(combined(SinkCommand::Resume { sink: sink() })["events"], 3);
    }
}
