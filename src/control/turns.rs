//! Which commands may be carried out side by side, and whose turn it is.
//!
//! What only reads disturbs nobody, and begins at once. Polls and checks take turns, because they share the requests that may be
//! in flight; orders of one sink take turns, because the later one means what the earlier one has left. So many of these may be
//! under way, and so many wait; more are refused, so that there are always connections left for who only wants to look.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Lane, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::Command;
use crate::dispatch::admin::SinkCommand;

/// Commands that take turns and are under way side by side.
const MAX_UNDER_WAY: usize = 8;

/// Commands that wait for their turn. With those under way fewer than connections.
const MAX_WAITING: usize = 4;

/// What commands take turns at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    WeChat,
    Sink(String),
}

/// Who is under way, and who waits for whom.
pub(super) struct Turns {
    /// A lane is held by who is under way in it and by those who wait for it, and is forgotten without any.
    lanes: Mutex<HashMap<Subject, Arc<Lane<()>>>>,
    waiting: Arc<Semaphore>,
}

/// The place of a command that may be carried out, now or later. Given back when it is dropped.
pub(super) enum Turn {
    /// It disturbs nobody.
    Free,
    /// It has come.
    Now(OwnedMutexGuard<()>),
    /// It comes when those before are done.
    Later(Arc<Lane<()>>, OwnedSemaphorePermit),
}

/// Too many commands are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It would have to wait.
    #[error("{MAX_WAITING} commands wait already: try again when they are done")]
    Waiting,
    /// It would not have to wait, but for the others.
    #[error("{MAX_UNDER_WAY} commands are under way already: try again when one is done")]
    UnderWay,
}

impl Turns {
    /// Nobody is there.
    pub(super) fn new() -> Self {
        Self { lanes: Mutex::default(), waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// A place for a command, behind those that came before at the same.
    pub(super) fn place(&self, command: &Command) -> Result<Turn, Refused> {
        let Some(subject) = subject(command) else { return Ok(Turn::Free) };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        if let Some(lane) = lanes.get(&subject) {
            let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| Refused::Waiting)?;
            return Ok(Turn::Later(Arc::clone(lane), place));
        }
        if lanes.len() == MAX_UNDER_WAY {
            return Err(Refused::UnderWay);
        }
        let lane = Arc::<Lane<()>>::default();
        let turn = Arc::clone(&lane).try_lock_owned().map_err(|_| Refused::UnderWay)?;
        lanes.insert(subject, lane);
        Ok(Turn::Now(turn))
    }
}

impl Turn {
    /// Waits until it has come. It lasts until what this gives is dropped. Those who wait have it in the order in which they began
    /// to.
    pub(super) async fn come(self) -> Option<OwnedMutexGuard<()>> {
        match self {
            Self::Free => None,
            Self::Now(turn) => Some(turn),
            Self::Later(lane, _waiting) => Some(lane.lock_owned().await),
        }
    }
}

/// `None` for what only reads.
fn subject(command: &Command) -> Option<Subject> {
    match command {
        Command::Poll | Command::Check => Some(Subject::WeChat),
        Command::Sinks(command) => match command {
            SinkCommand::Show | SinkCommand::DeadLetters { .. } => None,
            SinkCommand::Resume { sink }
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

    fn resume(sink: impl ToString) -> Command {
        Command::Sinks(SinkCommand::Resume { sink: sink.to_string() })
    }

    #[test]
    fn polls_and_checks_take_turns_orders_of_a_sink_do_and_what_reads_does_not() {
        let turns = Turns::new();
        let drop_dead_letters = Command::Sinks(SinkCommand::DropDeadLetters { sink: "crm".to_owned() });
        for [first, second] in [[Command::Poll, Command::Check], [resume("crm"), drop_dead_letters]] {
            let under_way = turns.place(&first).unwrap().come().now_or_never().unwrap();
            let mut waiting = Box::pin(turns.place(&second).unwrap().come());
            assert!(waiting.as_mut().now_or_never().is_none(), "{second:?} waits for {first:?}");
            let other = turns.place(&resume("archive")).unwrap();
            assert!(other.come().now_or_never().is_some(), "an order of another sink waits for nobody");
            let dead_letters = SinkCommand::DeadLetters { sink: "crm".to_owned() };
            for read in [SinkCommand::Show, dead_letters] {
                assert!(matches!(turns.place(&Command::Sinks(read)), Ok(Turn::Free)));
            }
            drop(under_way);
            assert!(waiting.now_or_never().is_some());
        }
    }

    #[test]
    fn who_came_first_has_the_first_turn_and_nobody_overtakes_those_who_wait() {
        let turns = Turns::new();
        let under_way = turns.place(&Command::Poll).unwrap();
        let second = turns.place(&Command::Check).unwrap();
        drop(under_way);
        let mut third = Box::pin(turns.place(&Command::Poll).unwrap().come());
        let second = second.come().now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn more_than_may_wait_or_be_under_way_are_refused_and_who_goes_leaves_a_place() {
        let turns = Turns::new();
        let poll = || turns.place(&Command::Poll);
        let mut places: Vec<_> = (0..=MAX_WAITING).map(|_| poll().unwrap()).collect();
        assert_eq!(poll().err(), Some(Refused::Waiting));
        places.pop();
        places.push(poll().unwrap());
        let orders: Vec<_> = (1..MAX_UNDER_WAY).map(|sink| turns.place(&resume(sink)).unwrap()).collect();
        assert_eq!(turns.place(&resume("one more")).err(), Some(Refused::UnderWay));
        assert_eq!(turns.place(&resume(1)).err(), Some(Refused::Waiting));
        assert!(turns.place(&Command::Sinks(SinkCommand::Show)).is_ok(), "reading is always possible");
        drop((places, orders));
        assert!((0..MAX_UNDER_WAY).all(|sink| turns.place(&resume(sink)).is_ok()));
        assert_eq!(turns.lanes.lock().unwrap().len(), 1, "nobody is left in the others");
    }
}
