//! Which commands may run at the same time.
//!
//! Commands that only read run at once. Commands on the same subject run one after another, in the order in which they arrived,
//! in the *lane* of that subject: all polls and checks share one, because they share the limit on requests in flight; all commands
//! that change one sink share one, because each builds on the result of the previous one; and all reloads share one. The number of lanes and the number of
//! waiting commands are limited. Both limits together stay below the limit on connections, so that read-only commands always
//! find a free connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Lane, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::ControlCommand;
use crate::dispatch::admin::SinkCommand;

/// Commands that run at the same time, each in its own lane.
const MAX_RUNNING: usize = 8;

/// Commands that wait for another one in their lane.
const MAX_WAITING: usize = 4;

/// What the commands of one lane act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    WeChat,
    Configuration,
    Sink(String),
}

/// The lanes that are in use.
pub(super) struct CommandLanes {
    /// Running and waiting commands share ownership of their lane; a lane without either is removed.
    lanes: Mutex<HashMap<Subject, Arc<Lane<()>>>>,
    waiting: Arc<Semaphore>,
}

/// A command's place in its lane. Dropping it frees the place.
pub(super) enum LanePlace {
    /// The command only reads and needs no lane.
    Unneeded,
    /// The command may run now.
    First(OwnedMutexGuard<()>),
    /// The command waits for those before it.
    Waiting(Arc<Lane<()>>, OwnedSemaphorePermit),
}

impl CommandLanes {
    pub(super) fn new() -> Self {
        Self { lanes: Mutex::default(), waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// Gives a command the next place in its lane, or says why there is none.
    pub(super) fn place(&self, command: &ControlCommand) -> Result<LanePlace, String> {
        let too_many_waiting =
            || format!("{MAX_WAITING} commands are waiting already: try again when they are done");
        let too_many_running =
            || format!("{MAX_RUNNING} commands are running already: try again when one is done");
        let Some(subject) = subject(command) else { return Ok(LanePlace::Unneeded) };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        if let Some(lane) = lanes.get(&subject) {
            let permit = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| too_many_waiting())?;
            return Ok(LanePlace::Waiting(Arc::clone(lane), permit));
        }
        if lanes.len() == MAX_RUNNING {
            return Err(too_many_running());
        }
        let lane = Arc::<Lane<()>>::default();
        let first = Arc::clone(&lane).try_lock_owned().map_err(|_| too_many_running())?;
        lanes.insert(subject, lane);
        Ok(LanePlace::First(first))
    }
}

impl LanePlace {
    /// Waits until the command may run. The lane is free again when the returned guard is dropped. The lock is fair: commands get it
    /// in the order in which they called this.
    pub(super) async fn wait(self) -> Option<OwnedMutexGuard<()>> {
        match self {
            Self::Unneeded => None,
            Self::First(guard) => Some(guard),
            Self::Waiting(lane, _permit) => Some(lane.lock_owned().await),
        }
    }
}

/// `None` for a command that only reads.
fn subject(command: &ControlCommand) -> Option<Subject> {
    match command {
        ControlCommand::Sessions(_) => None,
        ControlCommand::Poll(_) | ControlCommand::Check(_) => Some(Subject::WeChat),
        ControlCommand::Reload(_) => Some(Subject::Configuration),
        ControlCommand::Sinks(command) => match command {
            SinkCommand::Show | SinkCommand::DeadLetters { .. } => None,
            SinkCommand::Stop { sink, .. }
            | SinkCommand::Resume { sink }
            | SinkCommand::Replay { sink, .. }
            | SinkCommand::RetryDeadLetters { sink }
            | SinkCommand::DropDeadLetters { sink } => Some(Subject::Sink(sink.clone())),
        },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::account_filter::AccountFilter;

    fn poll() -> ControlCommand {
        ControlCommand::Poll(AccountFilter::default())
    }

    fn check() -> ControlCommand {
        ControlCommand::Check(AccountFilter::default())
    }

    fn resume(sink: impl ToString) -> ControlCommand {
        ControlCommand::Sinks(SinkCommand::Resume { sink: sink.to_string() })
    }

    #[test]
    fn commands_on_one_subject_run_in_turn_and_reads_at_once() {
        let lanes = CommandLanes::new();
        let drop_dead_letters =
            ControlCommand::Sinks(SinkCommand::DropDeadLetters { sink: "crm".to_owned() });
        for [first, second] in [[poll(), check()], [resume("crm"), drop_dead_letters]] {
            let running = lanes.place(&first).unwrap().wait().now_or_never().unwrap();
            let mut waiting = Box::pin(lanes.place(&second).unwrap().wait());
            assert!(waiting.as_mut().now_or_never().is_none(), "{second:?} waits for {first:?}");
            let other = lanes.place(&resume("archive")).unwrap();
            assert!(other.wait().now_or_never().is_some(), "a command on another sink does not wait");
            let dead_letters = SinkCommand::DeadLetters { sink: "crm".to_owned() };
            for read in [SinkCommand::Show, dead_letters] {
                assert!(matches!(lanes.place(&ControlCommand::Sinks(read)), Ok(LanePlace::Unneeded)));
            }
            drop(running);
            assert!(waiting.now_or_never().is_some());
        }
    }

    #[test]
    fn commands_run_in_order_of_arrival() {
        let lanes = CommandLanes::new();
        let first = lanes.place(&poll()).unwrap();
        let second = lanes.place(&check()).unwrap();
        drop(first);
        let mut third = Box::pin(lanes.place(&poll()).unwrap().wait());
        let second = second.wait().now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn excess_commands_are_refused_until_a_place_is_free() {
        let lanes = CommandLanes::new();
        let place_poll = || lanes.place(&poll());
        let mut polls: Vec<_> = (0..=MAX_WAITING).map(|_| place_poll().unwrap()).collect();
        assert_eq!(
            place_poll().err().unwrap(),
            "4 commands are waiting already: try again when they are done"
        );
        polls.pop();
        polls.push(place_poll().unwrap());
        let resumes: Vec<_> = (1..MAX_RUNNING).map(|sink| lanes.place(&resume(sink)).unwrap()).collect();
        let refused = lanes.place(&resume("one more")).err().unwrap();
        assert_eq!(refused, "8 commands are running already: try again when one is done");
        assert!(lanes.place(&resume(1)).err().unwrap().contains("waiting"));
        assert!(lanes.place(&ControlCommand::Sinks(SinkCommand::Show)).is_ok(), "reads are always accepted");
        drop((polls, resumes));
        assert!((0..MAX_RUNNING).all(|sink| lanes.place(&resume(sink)).is_ok()));
        assert_eq!(lanes.lanes.lock().unwrap().len(), 1, "empty lanes are removed");
    }
}
