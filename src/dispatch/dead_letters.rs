//! The dead letters of one sink: burying what it refused for good, and bringing in what is to be delivered once more.

use std::{collections::HashSet, time::Duration};

use super::{MAX_REFUSALS, window::Window};
use crate::{
    domain::{clock::Moment, failure_streak::FailureStreak},
    store::{DeadLetter, LogPosition, Store, StoredEvent},
};

/// How many dead letters are brought in at a time: they stand before the log, and their texts in memory.
const AT_A_TIME: usize = 100;

/// How often it is looked for more of them, and how long a store that failed is left alone.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The dead letters of a sink.
pub(super) struct DeadLetters {
    sink: String,
    store: Store,
    /// When to look for those that are to be delivered once more; `None` if there are none.
    look_at: Option<Duration>,
    /// Those behind the cursor, which the log brings once more; `None` until they were looked for.
    behind: Option<HashSet<LogPosition>>,
    /// Never told as ended: each reason is told once in a while, however many events have it.
    told: FailureStreak<String>,
}

impl DeadLetters {
    /// Some may have been waiting since before a restart.
    pub(super) fn new(sink: String, store: Store) -> Self {
        Self { sink, store, look_at: Some(Duration::ZERO), behind: None, told: FailureStreak::default() }
    }

    /// There are some to be delivered once more.
    pub(super) fn are_wanted(&mut self) {
        self.look_at = Some(Duration::ZERO);
    }

    /// The cursor stands elsewhere.
    pub(super) fn look_anew(&mut self) {
        *self =
            Self { told: std::mem::take(&mut self.told), ..Self::new(self.sink.clone(), self.store.clone()) };
    }

    /// Whether the log brings one of them, which is dead no longer once it is confirmed.
    pub(super) fn has_behind(&self, event: &StoredEvent) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.contains(&event.id))
    }

    /// Brings in those that are to be delivered once more, if it is time to look for them.
    pub(super) async fn look(&mut self, window: &mut Window, now: Duration) {
        if self.look_at.is_none_or(|look_at| now < look_at) {
            return;
        }
        if self.behind.is_none() {
            let behind = self.store.dead_letters_behind(&self.sink, window.cursor()).await;
            self.behind = behind.ok().map(HashSet::from_iter);
        }
        match self.store.dead_letters_to_retry(&self.sink, LogPosition::BEGINNING, AT_A_TIME).await {
            Ok(letters) if letters.is_empty() => self.look_at = None,
            Ok(letters) => {
                self.look_at = Some(now + LOOK_AGAIN_AFTER);
                window.add_dead_letters(letters.into_iter().map(|letter| letter.event).collect());
            }
            Err(error) => {
                self.look_at = Some(now + LOOK_AGAIN_AFTER);
                tracing::debug!(sink = %self.sink, "Dead letters not read: {}", crate::chain(&error));
            }
        }
    }

    /// The sink has confirmed one. If the store fails, it comes again, with the same id.
    pub(super) async fn delivered(&mut self, event: &StoredEvent, now: Duration) {
        match self.store.dead_letter_delivered(&self.sink, event.id).await {
            Ok(()) => self.look_at = self.look_at.map(|_| now),
            Err(error) => {
                self.look_at = Some(now + LOOK_AGAIN_AFTER);
                tracing::debug!(sink = %self.sink, "Dead letter not removed: {}", crate::chain(&error));
            }
        }
    }

    /// How many there are with this one; a store that fails leaves it to the next attempt.
    pub(super) async fn bury(
        &mut self,
        event: &StoredEvent,
        reason: &str,
        answer: &str,
        now: Moment,
    ) -> Option<u64> {
        let letter = DeadLetter {
            sink: self.sink.clone(),
            event: event.clone(),
            reason: format!("{reason}: {answer}").trim_end_matches(": ").to_owned(),
            died_at: now.wall,
            retry: false,
        };
        let letters = match self.store.bury(letter).await {
            Ok(letters) => letters,
            Err(error) => {
                tracing::debug!(sink = %self.sink, "Dead letter not stored: {}", crate::chain(&error));
                return None;
            }
        };
        let (sink, event, attempts) = (&self.sink, event.id.0, MAX_REFUSALS);
        let what = "An event is given up, and kept as a dead letter";
        if self.told.failed(reason.to_owned(), now) {
            tracing::error!(%sink, event, attempts, "{what}: {reason}");
        } else {
            tracing::debug!(%sink, event, attempts, "{what}: {reason}");
        }
        Some(letters)
    }
}
