//! The dead letters of one sink: stores events that it refused for good, and reads those that are to be delivered again.

use std::{collections::HashSet, time::Duration};

use super::{backoff::store_backoff, window::Window};
use crate::{
    domain::{clock::Moment, failure_streak::FailureStreak},
    store::{DeadLetter, LogPosition, Store, StoredEvent},
};

/// How often a sink may refuse an event before it becomes a dead letter.
pub(super) const MAX_REFUSALS: u32 = 5;

/// How many dead letters a sink may have before it is stopped: some six megabytes. A receiver that refuses so many refuses
/// everything, and then the log is the better place for further events. A dead letter that is refused again adds none.
pub(super) const MAX_DEAD_LETTERS: u64 = 10_000;

/// How many dead letters are read at a time: their events precede the log, and are in memory.
const READ_BATCH: usize = 100;

/// How long to wait before reading more of them.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The dead letters of a sink.
pub(super) struct DeadLetters {
    sink: String,
    store: Store,
    /// When to read those that are to be delivered again; `None` if there are none.
    read_at: Option<Duration>,
    /// Those after the cursor, which the log contains as well; `None` until they were read.
    after_cursor: Option<HashSet<LogPosition>>,
    /// Never ends: each reason is logged once in a while, however many events have it.
    logged: FailureStreak<String>,
}

impl DeadLetters {
    /// Some may be waiting for a retry since before a restart.
    pub(super) fn new(sink: String, store: Store) -> Self {
        Self {
            sink,
            store,
            read_at: Some(Duration::ZERO),
            after_cursor: None,
            logged: FailureStreak::default(),
        }
    }

    /// Has dead letters read at the next opportunity: some are to be delivered again.
    pub(super) fn read_soon(&mut self) {
        self.read_at = Some(Duration::ZERO);
    }

    /// Forgets what depends on the cursor.
    pub(super) fn cursor_moved(&mut self) {
        self.after_cursor = None;
        self.read_soon();
    }

    /// Whether an event of the log is also a dead letter, which an acknowledgement removes.
    pub(super) fn contains(&self, event: &StoredEvent) -> bool {
        self.after_cursor.as_ref().is_some_and(|after_cursor| after_cursor.contains(&event.id))
    }

    /// Adds those that are to be delivered again to the window, if it is time to read them.
    pub(super) async fn read(&mut self, window: &mut Window, now: Duration) {
        if self.read_at.is_none_or(|read_at| now < read_at) {
            return;
        }
        if self.after_cursor.is_none() {
            let after_cursor = self.store.dead_letters_after(&self.sink, window.cursor()).await;
            self.after_cursor = after_cursor.ok().map(HashSet::from_iter);
        }
        match self.store.dead_letters_to_retry(&self.sink, READ_BATCH).await {
            Ok(letters) if letters.is_empty() => self.read_at = None,
            Ok(letters) => {
                self.read_at = Some(now + READ_AGAIN_AFTER);
                window.add_dead_letters(letters.into_iter().map(|letter| letter.event).collect());
            }
            Err(error) => {
                self.read_at = Some(now + store_backoff());
                tracing::debug!(sink = %self.sink, "Dead letters not read: {}", crate::chain(&error));
            }
        }
    }

    /// Removes a dead letter that the sink has acknowledged. If the store fails, it is delivered again with the same id.
    pub(super) async fn remove(&mut self, event: &StoredEvent, now: Duration) {
        match self.store.remove_dead_letter(&self.sink, event.id).await {
            Ok(()) => self.read_at = self.read_at.map(|_| now),
            Err(error) => {
                self.read_at = Some(now + store_backoff());
                tracing::debug!(sink = %self.sink, "Dead letter not removed: {}", crate::chain(&error));
            }
        }
    }

    /// Stores a dead letter and returns how many the sink has now; `None` if the store failed.
    pub(super) async fn add(
        &mut self,
        event: &StoredEvent,
        reason: &str,
        response: &str,
        now: Moment,
    ) -> Option<u64> {
        let letter = DeadLetter {
            sink: self.sink.clone(),
            event: event.clone(),
            reason: format!("{reason}: {response}").trim_end_matches(": ").to_owned(),
            died_at: now.wall,
            retry: false,
        };
        let count = match self.store.add_dead_letter(letter).await {
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(sink = %self.sink, "Dead letter not stored: {}", crate::chain(&error));
                return None;
            }
        };
        let (sink, event, attempts) = (&self.sink, event.id.0, MAX_REFUSALS);
        let what = "Event stored as a dead letter";
        if self.logged.failed(reason.to_owned(), now) {
            tracing::error!(%sink, event, attempts, "{what}: {reason}");
        } else {
            tracing::debug!(%sink, event, attempts, "{what}: {reason}");
        }
        Some(count)
    }
}
