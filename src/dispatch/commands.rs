//! Commands to a dispatcher. A command waits until no attempt is in flight, and no attempt starts while it waits, so that a
//! late acknowledgement is never taken for one of events that were sent after the command.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::{
    status::SinkStatus,
    store::{CursorRewind, StoreError},
};

/// How many commands may wait: people send them one by one.
pub(super) const MAX_QUEUED_COMMANDS: usize = 4;

/// A command, and where its result goes. The sender may have stopped waiting.
#[derive(Debug)]
pub(super) enum DispatcherCommand {
    /// Deliver nothing until the sink is resumed.
    Stop(CommandReply<()>),
    /// Deliver again to a stopped or suspended sink.
    Resume(CommandReply<()>),
    /// Deliver again what was observed since.
    Replay(Timestamp, CommandReply<CursorRewind>),
    /// Deliver the dead letters again.
    RetryDeadLetters(CommandReply<u64>),
    /// Remove the dead letters.
    DropDeadLetters(CommandReply<u64>),
    /// The store has suspended the sink for this reason.
    Suspended(String),
}

pub(super) type CommandReply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Sends commands to a dispatcher and reads its status.
#[derive(Clone, Debug)]
pub struct DispatcherHandle {
    sender: mpsc::Sender<DispatcherCommand>,
    pub(super) status: Arc<SinkStatus>,
}

impl DispatcherHandle {
    pub(super) fn new(sender: mpsc::Sender<DispatcherCommand>, status: Arc<SinkStatus>) -> Self {
        Self { sender, status }
    }

    /// The sink's status, which the dispatcher updates.
    pub fn status(&self) -> Arc<SinkStatus> {
        Arc::clone(&self.status)
    }

    /// Sends a command and waits for its result. `None` if the dispatcher has ended, or ends before that.
    pub(super) async fn send<T>(
        &self,
        command: impl FnOnce(CommandReply<T>) -> DispatcherCommand,
    ) -> Option<Result<T, StoreError>> {
        let (reply, result) = oneshot::channel();
        self.sender.send(command(reply)).await.ok()?;
        result.await.ok()
    }

    /// Reports that the store has suspended the sink. A dispatcher that has ended does not need to know.
    pub(super) async fn report_suspension(&self, reason: String) {
        self.sender.send(DispatcherCommand::Suspended(reason)).await.ok();
    }
}
