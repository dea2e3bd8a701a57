//! What a person asks of sinks: how they stand, and to resume, replay, look through dead letters, send them again or drop them.
//!
//! The same in the daemon, where a sink's dispatcher carries out what concerns it, and in a command that finds no daemon,
//! where the store alone is changed and the next daemon finds it so. Each of it is one transaction, and can be repeated.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{DispatcherCommand, DispatcherCommands};
use crate::{
    domain::event::millis,
    status::SinkRow,
    store::{DeadLetter, LogPosition, Rewound, Store, StoreError, StoredSink},
};

/// How many dead letters are read at a time.
const PAGE: usize = 1000;

/// What can be asked of sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum SinkCommand {
    /// How every sink stands.
    Show,
    /// Let a sink that was stopped or suspended get events again.
    Resume {
        /// Its name.
        sink: String,
    },
    /// Deliver what was observed since once more.
    Replay {
        /// The sink's name.
        sink: String,
        /// From when on.
        since: Timestamp,
    },
    /// The dead letters of a sink.
    DeadLetters {
        /// Its name.
        sink: String,
    },
    /// Deliver the dead letters of a sink once more.
    RetryDeadLetters {
        /// Its name.
        sink: String,
    },
    /// Remove the dead letters of a sink for good.
    DropDeadLetters {
        /// Its name.
        sink: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkAnswer {
    /// How sinks stand.
    Sinks(Vec<SinkReport>),
    /// Dead letters, in the order of the log.
    DeadLetters(Vec<DeadLetterReport>),
    /// It was done.
    Done(Done),
}

/// How a sink stands. Moments are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Its name.
    pub sink: String,
    /// `delivering`, `failing`, `stopped`, `suspended`, or `removed` from the configuration; `unknown` while no daemon runs.
    pub state: String,
    /// Why it is stopped or suspended.
    pub stopped_reason: Option<String>,
    /// Events of the log behind what it has confirmed, wanted by it or not.
    pub pending_events: u64,
    /// When the oldest of them was observed.
    pub oldest_pending_at: Option<String>,
    /// Events that it refused for good, and that are kept.
    pub dead_letters: u64,
    /// Dead letters that were removed for their age.
    pub expired_dead_letters: u64,
    /// Events of the log, wanted by it or not, that were removed before it had confirmed them.
    pub lost_events: u64,
    /// Between when the newest of these were observed.
    pub lost_between: Option<[String; 2]>,
    /// When it last confirmed an event, if it has since the daemon was started.
    pub last_delivery_at: Option<String>,
    /// When an attempt last failed for the sink as a whole, if one has since the daemon was started.
    pub last_failure_at: Option<String>,
    /// What failed then.
    pub last_failure: Option<String>,
}

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterReport {
    /// When it was given up, in RFC 3339.
    pub died_at: String,
    /// What the sink said.
    pub reason: String,
    /// Whether it is to be delivered once more.
    pub retry: bool,
    /// The event; as text if it is damaged.
    pub event: Value,
}

/// What was done to a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The sink.
    pub sink: String,
    /// How many events or dead letters it concerns.
    pub events: u64,
    /// When the first of them was observed, in RFC 3339, where that is told.
    pub from: Option<String>,
    /// Why the sink gets none of them until it is resumed, if it does not.
    pub stopped_reason: Option<String>,
    /// Whether it is configured.
    pub is_configured: bool,
}

/// It could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SinkAdminError {
    /// The store knows no such sink.
    #[error("there is no sink {sink:?}: {}", names(.known))]
    Unknown {
        /// What was asked for.
        sink: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The store failed.
    #[error("store")]
    Store(#[from] StoreError),
}

fn names(known: &[String]) -> String {
    if known.is_empty() { "there are none yet".to_owned() } else { format!("there are {}", known.join(", ")) }
}

/// Carries out what is asked of sinks.
#[derive(Debug)]
pub struct SinkAdmin {
    store: Store,
    /// Of the sinks that dispatchers run for; none while no daemon runs.
    dispatchers: HashMap<String, DispatcherCommands>,
}

impl SinkAdmin {
    /// In the daemon.
    pub fn new(store: Store, dispatchers: impl IntoIterator<Item = DispatcherCommands>) -> Self {
        let dispatchers = dispatchers.into_iter().map(|orders| (orders.status.name.clone(), orders));
        Self { store, dispatchers: dispatchers.collect() }
    }

    /// Where no daemon runs.
    pub fn without_daemon(store: Store) -> Self {
        Self::new(store, [])
    }

    /// Carries a command out.
    pub async fn carry_out(&self, command: SinkCommand) -> Result<SinkAnswer, SinkAdminError> {
        match command {
            SinkCommand::Show => {
                let sinks = self.store.sinks().await?;
                Ok(SinkAnswer::Sinks(sinks.into_iter().map(|sink| self.report(sink)).collect()))
            }
            SinkCommand::DeadLetters { sink } => {
                self.known(&sink).await?;
                Ok(SinkAnswer::DeadLetters(self.dead_letters(&sink).await?))
            }
            SinkCommand::Resume { sink } => {
                let pending = self.known(&sink).await?.pending.events;
                match self.ordered(&sink, DispatcherCommand::Resume).await {
                    Some(resumed) => resumed?,
                    None => self.store.resume_sink(&sink).await.map(drop)?,
                }
                self.done(sink, pending, None).await
            }
            SinkCommand::Replay { sink, since } => {
                self.known(&sink).await?;
                let Rewound { events, from } =
                    match self.ordered(&sink, |answer| DispatcherCommand::Replay(since, answer)).await {
                        Some(rewound) => rewound?,
                        None => self.store.rewind_cursor(&sink, since).await?.1,
                    };
                self.done(sink, events, from).await
            }
            SinkCommand::RetryDeadLetters { sink } => {
                self.known(&sink).await?;
                let letters = match self.ordered(&sink, DispatcherCommand::Retry).await {
                    Some(retried) => retried?,
                    None => self.store.retry_dead_letters(&sink).await?,
                };
                self.done(sink, letters, None).await
            }
            SinkCommand::DropDeadLetters { sink } => {
                self.known(&sink).await?;
                let letters = match self.ordered(&sink, DispatcherCommand::Drop).await {
                    Some(dropped) => dropped?,
                    None => self.store.drop_dead_letters(&sink).await?,
                };
                self.done(sink, letters, None).await
            }
        }
    }

    /// The store has suspended a sink: its dispatcher must know.
    pub async fn suspended(&self, sink: &str, reason: String) {
        if let Some(orders) = self.orders_of(sink) {
            orders.suspended(reason).await;
        }
    }

    /// `None` where no dispatcher runs for the sink.
    async fn ordered<T>(
        &self,
        sink: &str,
        order: impl FnOnce(tokio::sync::oneshot::Sender<Result<T, StoreError>>) -> DispatcherCommand,
    ) -> Option<Result<T, StoreError>> {
        self.orders_of(sink)?.give(order).await
    }

    fn orders_of(&self, sink: &str) -> Option<&DispatcherCommands> {
        self.dispatchers.get(sink)
    }

    async fn known(&self, sink: &str) -> Result<StoredSink, SinkAdminError> {
        let sinks = self.store.sinks().await?;
        let known = sinks.iter().map(|known| known.name.clone()).collect();
        let found = sinks.into_iter().find(|known| known.name == sink);
        found.ok_or_else(|| SinkAdminError::Unknown { sink: sink.to_owned(), known })
    }

    async fn done(
        &self,
        sink: String,
        events: u64,
        from: Option<Timestamp>,
    ) -> Result<SinkAnswer, SinkAdminError> {
        let stored = self.known(&sink).await?;
        let unstored = || self.orders_of(&sink)?.status.read().stopped;
        let stopped_reason = stored.stopped.or_else(unstored);
        Ok(SinkAnswer::Done(Done {
            sink,
            events,
            from: from.map(millis),
            stopped_reason,
            is_configured: stored.removed_at.is_none(),
        }))
    }

    async fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterReport>, StoreError> {
        let mut reports = Vec::new();
        let mut after = LogPosition::BEGINNING;
        loop {
            let page = self.store.dead_letters(sink, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(reports) };
            after = last.event.id;
            reports.extend(page.into_iter().map(dead_letter));
        }
    }

    fn report(&self, stored: StoredSink) -> SinkReport {
        let row = self.orders_of(&stored.name).map(|orders| orders.status.read());
        let state = match &stored {
            StoredSink { removed_at: Some(_), .. } => "removed",
            stored => stored.pending.halted().or(row.as_ref().map(SinkRow::state)).unwrap_or("unknown"),
        };
        let StoredSink { name, stopped, pending, gap, .. } = stored;
        let SinkRow { last_delivery_at, last_failure, stopped: unstored, .. } = row.unwrap_or_default();
        SinkReport {
            sink: name,
            state: state.to_owned(),
            stopped_reason: stopped.or(unstored),
            pending_events: pending.events,
            oldest_pending_at: pending.oldest.map(millis),
            dead_letters: pending.dead_letters,
            expired_dead_letters: pending.expired_dead_letters,
            lost_events: pending.lost_events,
            lost_between: gap.map(|gap| gap.observed_between.map(millis)),
            last_delivery_at: last_delivery_at.map(millis),
            last_failure_at: last_failure.as_ref().map(|(at, _)| millis(*at)),
            last_failure: last_failure.map(|(_, reason)| reason),
        }
    }
}

fn dead_letter(letter: DeadLetter) -> DeadLetterReport {
    let DeadLetter { event, reason, died_at, retry, .. } = letter;
    let event = serde_json::from_str(&event.json).unwrap_or(Value::String(event.json));
    DeadLetterReport { died_at: millis(died_at), reason, retry, event }
}
