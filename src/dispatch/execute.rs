//! Executes commands in the dispatcher.

use std::sync::Arc;

use super::{
    Dispatcher, circuit_breaker::CircuitBreaker, commands::DispatcherCommand, cursor::Cursor, reader::Reader,
    replacement::Replacement, window::Window,
};
use crate::{
    domain::sink_state::{BY_OPERATOR, SinkState},
    store::{LogPosition, StoredSink},
};

impl Dispatcher {
    /// Executes a command. Only while no attempt is in flight.
    pub(super) async fn execute(&mut self, command: DispatcherCommand) {
        // The command must not start from a cursor that is older than the acknowledged events.
        self.cursor.finish(self.window.cursor()).await;
        match command {
            DispatcherCommand::Stop(reply) => {
                let now = self.clock.now().wall;
                let stopped = self.store.stop_sink(&self.name, BY_OPERATOR, now).await;
                if stopped.is_ok() {
                    self.stop_recorder.stop_by_operator();
                    tracing::info!(sink = %self.name, "Sink stopped {BY_OPERATOR}; {}", self.how_to_resume());
                }
                reply.send(stopped).ok();
            }
            DispatcherCommand::Resume(reply) => {
                let resumed = self.store.resume_sink(&self.name).await;
                if let Ok(cursor) = resumed {
                    tracing::info!(sink = %self.name, "Sink resumed");
                    self.stop_recorder.resume();
                    self.share.update(|circuit_breaker| *circuit_breaker = CircuitBreaker::default());
                    self.restart_after(cursor);
                }
                reply.send(resumed.map(drop)).ok();
            }
            DispatcherCommand::Replay(since, reply) => {
                let rewind = self.store.rewind_cursor(&self.name, since).await;
                if let Ok(rewind) = &rewind {
                    tracing::info!(sink = %self.name, events = rewind.events, "Cursor moved back; events will be delivered again");
                    self.restart_after(rewind.cursor);
                }
                reply.send(rewind).ok();
            }
            DispatcherCommand::RetryDeadLetters(reply) => {
                let retried = self.store.retry_dead_letters(&self.name).await;
                if let Ok(dead_letters) = retried {
                    tracing::info!(sink = %self.name, dead_letters, "Dead letters will be delivered again");
                    self.dead_letters.read_soon();
                }
                reply.send(retried).ok();
            }
            DispatcherCommand::DropDeadLetters(reply) => {
                let dropped = self.store.drop_dead_letters(&self.name).await;
                if let Ok(dead_letters) = dropped {
                    tracing::info!(sink = %self.name, dead_letters, "Dead letters dropped");
                    // The window may contain some of them.
                    self.restart_window();
                }
                reply.send(dropped).ok();
            }
            DispatcherCommand::NoteStop => {
                // An earlier command may have resumed the sink since it was stopped.
                if let Ok(StoredSink { state, .. }) = self.store.sink(&self.name).await
                    && state.is_stopped()
                {
                    self.stop_recorder.note_stored(state);
                }
            }
            DispatcherCommand::Replace(replacement) => self.replace(*replacement).await,
        }
    }

    /// Continues with other options. They are tried at once, so nothing remains of earlier failures.
    async fn replace(&mut self, Replacement { sink, filter, is_stopped }: Replacement) {
        tracing::info!(sink = %self.name, destination = sink.destination(), "Options of the sink changed");
        self.sink.store(sink);
        self.reader = Reader::new(self.name.clone(), filter, self.store.clone(), Arc::clone(&self.clock));
        self.share.forget_failures();
        self.restart_window();
        match self.status.read().state {
            SinkState::Stopped { reason } if reason == BY_OPERATOR => {}
            SinkState::Stopped { .. } | SinkState::Suspended { .. } if !is_stopped => self.end_stop().await,
            SinkState::Failing { .. } => self.status.set_state(SinkState::Delivering),
            _ => {}
        }
        self.log_stop();
    }

    /// Ends a stop that the registration has ended, or that was recorded after it because of the old options.
    async fn end_stop(&mut self) {
        if let Err(error) = self.store.resume_sink(&self.name).await {
            tracing::warn!(sink = %self.name, "End of the sink's stop not stored: {}", crate::chain(&error));
        }
        self.stop_recorder.resume();
        tracing::info!(sink = %self.name, "Sink resumed");
    }

    fn restart_after(&mut self, cursor: LogPosition) {
        self.window = Window::after(cursor);
        self.cursor = Cursor::new(self.name.clone(), cursor, self.store.clone());
        self.dead_letters.cursor_moved();
    }

    /// Reads the events after the cursor again, without those that are settled.
    fn restart_window(&mut self) {
        self.window.restart();
        self.dead_letters.cursor_moved();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use tokio::sync::oneshot;

    use super::*;
    use crate::dispatch::tests::{SteppedClock, dispatcher};

    #[tokio::test]
    async fn late_report_of_suspension_does_not_stop_resumed_sink() {
        let (mut dispatcher, handle, _directory) = dispatcher(&Arc::<SteppedClock>::default()).await;

        dispatcher.store.suspend_sink("log", "too large", Timestamp::UNIX_EPOCH).await.unwrap();
        dispatcher.execute(DispatcherCommand::NoteStop).await;
        assert_eq!(handle.status.read().state.as_str(), "suspended");
        for command in [DispatcherCommand::Resume(oneshot::channel().0), DispatcherCommand::NoteStop] {
            dispatcher.execute(command).await;
            assert_eq!(handle.status.read().state.as_str(), "delivering");
        }
    }
}
