//! Runs the commands that the server accepted, and writes the lines of their responses.
//!
//! Each command runs with the official accounts and sinks of the moment at which it starts. A client that disconnects or stops reading
//! ends its command, so that no kf account stays locked for it.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream, stream::FuturesUnordered};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ControlCommand, ReloadRow, ResponseLine,
    cluster::{AskReplicas, CombinedAnswer},
    lanes::LanePlace,
    operations::Operations,
};
use crate::{
    dispatch::admin::{SinkAdmin, SinkAnswer},
    domain::account_filter::UnknownAccount,
    reload::{ReloadOutcome, ReloadRequests, ReloadTrigger},
};

/// How long a client may leave a full queue of lines unread. Polls pause meanwhile, and their accounts stay locked.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client receives whose command the drain interrupts or prevents.
pub(super) const STOPPING: &str = "the daemon is being stopped";

/// What a client receives whose command panicked.
const PANICKED: &str = "the command panicked: this is a bug in kfwatch, please report it";

/// A command with its place and the way to its client.
pub(super) struct AcceptedCommand {
    pub(super) command: ControlCommand,
    pub(super) place: LanePlace,
    pub(super) response: ResponseWriter,
}

/// What commands act on.
pub(crate) struct CommandTargets {
    /// Polls and checks.
    pub(crate) operations: Operations,
    pub(crate) sinks: Arc<SinkAdmin>,
}

/// Runs accepted commands.
pub(crate) struct CommandExecutor {
    /// Replaced as a whole by a reload; a running command keeps those with which it has started. `None` while the daemon owns no
    /// accounts.
    pub(crate) targets: Arc<ArcSwapOption<CommandTargets>>,
    pub(crate) reloads: ReloadRequests,
    /// The other replicas, if the store is in PostgreSQL.
    pub(crate) replicas: Option<Arc<dyn AskReplicas>>,
}

impl CommandExecutor {
    /// Runs commands until `stop`, then ends the remaining ones with a reason.
    pub(super) async fn run(&self, mut accepted: mpsc::Receiver<AcceptedCommand>, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(command) = accepted.recv() => running.push(self.run_one(command, &stop)),
                Some(()) = running.next() => {}
            }
        }
        accepted.close();
        while let Ok(command) = accepted.try_recv() {
            running.push(self.run_one(command, &stop));
        }
        while running.next().await.is_some() {}
    }

    /// Waits for the command's place and runs it, until `stop` or until the client disconnects.
    async fn run_one(&self, accepted: AcceptedCommand, stop: &CancellationToken) {
        let AcceptedCommand { command, place, response } = accepted;
        let run = async {
            let _lane = place.wait().await;
            if command.changes_something() {
                tracing::info!(?command, "Running a control command");
            } else {
                tracing::debug!(?command, "Running a control command");
            }
            self.execute(command, &response).await;
        };
        tokio::select! {
            biased; // Nothing starts after `stop`.
            () = stop.cancelled() => response.fail(STOPPING),
            () = response.lines.closed() => tracing::info!("Control command dropped: its client disconnected"),
            () = response.fail_if_it_panics(run) => {}
        }
    }

    /// Stops those of these sinks that deliver, because another replica has stopped or suspended them.
    pub(crate) fn note_stops(&self, stopped_sinks: &[String]) {
        if let Some(targets) = &*self.targets.load() {
            targets.sinks.note_stops(stopped_sinks);
        }
    }

    async fn execute(&self, command: ControlCommand, response: &ResponseWriter) {
        match &self.replicas {
            Some(replicas) if command.concerns_all_replicas() => {
                self.ask_replicas(&**replicas, command, response).await;
            }
            _ => self.carry_out(command, response).await,
        }
    }

    /// Has all replicas carry out a command, and responds with what they answer.
    async fn ask_replicas(
        &self,
        replicas: &dyn AskReplicas,
        command: ControlCommand,
        response: &ResponseWriter,
    ) {
        let asked = match serde_json::to_string(&command) {
            Ok(text) => replicas.ask(text).await,
            Err(error) => Err(format!("cannot write the command: {error}")),
        };
        let combined = match asked {
            Ok(answers) => CombinedAnswer::new(&command, answers),
            Err(reason) => return response.fail(&reason),
        };
        for note in &combined.notes {
            response.note(Some(note.clone())).await;
        }
        if let Some(unknown) = combined.unknown_account() {
            response.end(&ResponseLine::UnknownAccount(unknown.to_owned()));
        } else if combined.failures.is_empty() {
            response.send(stream::iter(combined.rows)).await;
        } else {
            response.fail(&combined.failures.join("; "));
        }
    }

    /// Carries out a command of another replica for the shards of this one. Returns the lines of the response.
    pub(crate) async fn answer(&self, command: &str) -> String {
        let (lines, mut receiver) = mpsc::channel(1);
        let response = ResponseWriter { lines };
        let carried_out = async {
            match serde_json::from_str(command) {
                // This replica has no shards at the moment, so that there is nothing to do.
                Ok(_) if self.targets.load().is_none() => response.send(stream::empty::<()>()).await,
                Ok(command) => {
                    tracing::info!(?command, "Running a control command of a replica");
                    response.fail_if_it_panics(self.carry_out(command, &response)).await;
                }
                Err(error) => response.fail(&format!("it does not know the command: {error}")),
            }
            drop(response);
        };
        let collected = async {
            let mut text = Vec::new();
            while let Some(line) = receiver.recv().await {
                text.extend_from_slice(&line);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        tokio::join!(carried_out, collected).1
    }

    async fn carry_out(&self, command: ControlCommand, response: &ResponseWriter) {
        if let ControlCommand::Reload(mode) = command {
            return match self.reloads.outcome(mode, ReloadTrigger::Command).await {
                Ok(outcome) => response.send(stream::iter(reload_rows(outcome))).await,
                Err(error) => response.fail(&error.to_string()),
            };
        }
        let Some(targets) = self.targets.load_full() else {
            return response.fail("the daemon owns no accounts at the moment; try again later");
        };
        let CommandTargets { operations, sinks } = &*targets;
        match command {
            ControlCommand::Poll(filter) => {
                response.note(operations.token_wait(&filter)).await;
                response.send_selected(operations.polls(filter)).await;
            }
            ControlCommand::Check(filter) => {
                response.note(operations.token_wait(&filter)).await;
                response.send_selected(operations.checks(filter)).await;
            }
            ControlCommand::Sessions(filter) => {
                response.send_selected(operations.sessions(filter)).await;
            }
            ControlCommand::Sinks(command) => match sinks.execute(command).await {
                Ok(SinkAnswer::Sinks(sinks)) => response.send(stream::iter(sinks)).await,
                Ok(SinkAnswer::DeadLetters(letters)) => response.send(stream::iter(letters)).await,
                Ok(SinkAnswer::Changed(done)) => response.send(stream::iter([done])).await,
                Err(error) => response.fail(&crate::chain(&error)),
            },
            ControlCommand::Reload(_) => {}
        }
    }
}

/// One row for each change or reason: all of them may be too long for one line.
fn reload_rows(outcome: ReloadOutcome) -> Vec<ReloadRow> {
    match outcome {
        Ok(report) => {
            let changes = report.changes.into_iter().map(ReloadRow::Change);
            let deferred = report.deferred.into_iter().map(ReloadRow::Deferred);
            changes.chain(deferred).chain(report.warnings.into_iter().map(ReloadRow::Warning)).collect()
        }
        Err(refusal) => refusal.reasons.into_iter().map(ReloadRow::Refused).collect(),
    }
}

/// Writes the lines of one response.
pub(super) struct ResponseWriter {
    pub(super) lines: mpsc::Sender<Bytes>,
}

impl ResponseWriter {
    async fn note(&self, note: Option<String>) {
        if let Some(note) = note
            && let Ok(note) = line(&ResponseLine::<()>::Note(note))
        {
            // A client that does not read it is noticed with the first result.
            self.lines.send_timeout(note, STALL_TIMEOUT).await.ok();
        }
    }

    async fn send<T: Serialize>(&self, rows: impl Stream<Item = T>) {
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            let sent = match line(&ResponseLine::Row(row)) {
                Ok(line) => self.lines.send_timeout(line, STALL_TIMEOUT).await.is_ok(),
                Err(error) => return self.fail(&format!("cannot write a result: {error}")),
            };
            if !sent {
                tracing::info!("Control command dropped: its client does not read the response");
                return;
            }
        }
        if let Ok(done) = line(&ResponseLine::<()>::Done) {
            self.lines.send_timeout(done, STALL_TIMEOUT).await.ok();
        }
    }

    async fn send_selected<T: Serialize>(&self, rows: Result<impl Stream<Item = T>, UnknownAccount>) {
        match rows {
            Ok(rows) => self.send(rows).await,
            Err(unknown) => self.end(&ResponseLine::UnknownAccount(unknown.to_string())),
        }
    }

    /// Waits for a command. If it panics, the log and the client say so, and the daemon goes on.
    async fn fail_if_it_panics(&self, command: impl Future<Output = ()>) {
        if AssertUnwindSafe(command).catch_unwind().await.is_err() {
            tracing::error!("A control command panicked: this is a bug in kfwatch, please report it");
            self.fail(PANICKED);
        }
    }

    fn fail(&self, reason: &str) {
        self.end(&ResponseLine::Failed(reason.to_owned()));
    }

    /// If the queue is full, the client sees a truncated response instead.
    fn end(&self, last: &ResponseLine<()>) {
        if let Ok(last) = line(last) {
            self.lines.try_send(last).ok();
        }
    }
}

fn line<T: Serialize>(line: &ResponseLine<T>) -> serde_json::Result<Bytes> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}
