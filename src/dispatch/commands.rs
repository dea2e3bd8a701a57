//! Commands to a dispatcher. A command waits until no attempt is in flight, and no attempt starts while it waits, so that a
//! late acknowledgement is never taken for one of events that were sent after the command.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::replacement::{Replacement, ReplacementSlot};
use crate::{
    sink::Sink,
    status::SinkStatus,
    store::{CursorRewind, EventFilter, RegisteredSink, StoreError},
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
    /// The store may have a stop that the dispatcher does not know: housekeeping or another replica has recorded it.
    NoteStop,
    /// Deliver with other options.
    Replace(Box<Replacement>),
}

pub(super) type CommandReply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Sends commands to a dispatcher and reads its status.
#[derive(Clone, Debug)]
pub struct DispatcherHandle {
    pub(super) sender: mpsc::Sender<DispatcherCommand>,
    pub(super) replacement: Arc<ReplacementSlot>,
    pub(super) sink: Arc<ArcSwap<Sink>>,
    pub(super) status: Arc<SinkStatus>,
}

impl DispatcherHandle {
    /// The sink's status, which the dispatcher updates.
    pub fn status(&self) -> Arc<SinkStatus> {
        Arc::clone(&self.status)
    }

    /// Makes the dispatcher deliver with these options as soon as its attempts in flight are finished, from its cursor on and
    /// without the backoffs of before. Does not wait. `registered` is what the registration of these options returned: if
    /// it has ended a stop, the dispatcher delivers again, unless an operator has stopped the sink. Ignored during a drain.
    pub fn replace(&self, sink: impl Into<Arc<Sink>>, filter: EventFilter, registered: &RegisteredSink) {
        let is_stopped = registered.state.is_stopped();
        self.replacement.put(Replacement { sink: sink.into(), filter, is_stopped });
    }

    /// Closes the sink's file, if it has one. The next delivery opens it again. Does not block.
    pub fn reopen_file(&self) {
        self.sink.load().reopen_file();
    }

    /// Returns when the dispatcher has ended: nothing is in flight any more, and its cursor is stored. Only then may another one
    /// deliver to the sink.
    pub async fn ended(&self) {
        self.sender.closed().await;
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

    /// Makes the dispatcher look whether the store has a stop of the sink. Does not wait: one with a full queue of commands looks after
    /// the next call.
    pub(super) fn note_stop(&self) {
        self.sender.try_send(DispatcherCommand::NoteStop).ok();
    }
}
