//! An operator's commands for sinks: list, stop, resume, replay, and list, retry or drop dead letters.
//!
//! In the daemon a sink's dispatcher executes them. A command that finds no daemon changes the store alone, and the next
//! daemon reads it. Each command is one transaction and may be repeated.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::{TryFutureExt, future::join_all};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{CommandReply, DispatcherCommand, DispatcherHandle};
use crate::{
    domain::{
        event::millis,
        sink_state::{BY_OPERATOR, SinkState},
    },
    status::{SinkActivity, SinkStatus},
    store::{self, DeadLetter, LogPosition, Store, StoreError, StoredSink},
};

/// How many dead letters are read at a time.
const DEAD_LETTERS_PER_READ: usize = 1000;

/// The state of a sink that is no longer in the configuration.
pub const REMOVED: &str = "removed";

/// An operator's command for sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum SinkCommand {
    /// List all sinks.
    Show,
    /// Stop a sink until it is resumed.
    Stop { sink: String, at: Timestamp },
    /// Resume a stopped or suspended sink.
    Resume { sink: String },
    /// Deliver again what was observed since.
    Replay { sink: String, since: Timestamp },
    /// List the dead letters of a sink.
    DeadLetters { sink: String },
    /// Deliver the dead letters of a sink again.
    RetryDeadLetters { sink: String },
    /// Remove the dead letters of a sink for good.
    DropDeadLetters { sink: String },
}

/// The result of a [`SinkCommand`].
#[derive(Clone, Debug, PartialEq)]
pub enum SinkAnswer {
    /// The sinks.
    Sinks(Vec<SinkReport>),
    /// Dead letters, in the order of the log.
    DeadLetters(Vec<DeadLetterReport>),
    /// What was changed.
    Changed(SinkChange),
}

/// The state of a sink. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Its name.
    pub sink: String,
    /// The word of its [`SinkState`], `removed` (from the configuration), or `unknown` while no daemon runs.
    pub state: String,
    /// Why it is stopped or suspended.
    pub stopped_reason: Option<String>,
    /// Events of the log after its cursor, selected by its filter or not.
    pub pending_events: u64,
    /// When the oldest of them was observed.
    pub oldest_pending_at: Option<String>,
    /// Stored events that it refused for good.
    pub dead_letters: u64,
    /// Dead letters that were removed because of their age.
    pub expired_dead_letters: u64,
    /// Events of the log, selected by its filter or not, that were removed before it had acknowledged them.
    pub lost_events: u64,
    /// When the first and the last of the newest of these were observed.
    pub lost_between: Option<[String; 2]>,
    /// When it last acknowledged an event since the daemon was started.
    pub last_delivery_at: Option<String>,
    /// When an attempt last failed for the sink as a whole since the daemon was started.
    pub last_failure_at: Option<String>,
    /// What failed.
    pub last_failure: Option<String>,
    /// Why the daemon cannot store anything at the moment, also not what this sink has acknowledged.
    #[serde(default)]
    pub store_failure: Option<String>,
}

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterReport {
    /// When it became a dead letter, in RFC 3339.
    pub died_at: String,
    /// The sink's last response.
    pub reason: String,
    /// Whether it is to be delivered again.
    pub retry: bool,
    /// The event; as text if it is damaged.
    pub event: Value,
}

/// What a command has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkChange {
    /// The sink.
    pub sink: String,
    /// The number of affected events or dead letters.
    pub events: u64,
    /// When the first event of a replay was observed, in RFC 3339.
    pub from: Option<String>,
    /// Why the sink receives none of them until it is resumed, if so.
    pub stopped_reason: Option<String>,
    /// Whether the sink is configured.
    pub is_configured: bool,
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum SinkAdminError {
    #[error("there is no sink {sink:?}; {}", list(.known))]
    Unknown { sink: String, known: Vec<String> },
    #[error("store")]
    Store(#[source] StoreError),
    #[error(
        "a part of the store was closed meanwhile, because its shard moves to another replica or the daemon stops: repeat the command"
    )]
    Closed(#[source] StoreError),
}

impl From<StoreError> for SinkAdminError {
    fn from(error: StoreError) -> Self {
        if error.is_no_longer_owned() { Self::Closed(error) } else { Self::Store(error) }
    }
}

fn list(known: &[String]) -> String {
    if known.is_empty() { "there are none yet".to_owned() } else { format!("known: {}", known.join(", ")) }
}

/// Executes commands for sinks.
#[derive(Debug, Default)]
pub struct SinkAdmin {
    /// Replaced as a whole.
    stores: ArcSwap<Vec<StoreSinks>>,
}

/// The sinks of one store: a file, or a shard.
#[derive(Debug)]
pub struct StoreSinks {
    store: Store,
    /// By sink; empty while no daemon runs.
    dispatchers: HashMap<String, DispatcherHandle>,
    /// Whether it is only read, because another replica owns it: commands that change something pass it over.
    is_read_only: bool,
}

impl StoreSinks {
    /// A store that is only read.
    pub fn to_read(store: Store) -> Self {
        Self { is_read_only: true, ..Self::new(store, []) }
    }

    /// A store with its dispatchers, to which commands go.
    pub fn new(store: Store, dispatchers: impl IntoIterator<Item = DispatcherHandle>) -> Self {
        let by_sink = dispatchers.into_iter().map(|handle| (handle.status.name.clone(), handle));
        Self { store, dispatchers: by_sink.collect(), is_read_only: false }
    }

    /// Has the dispatcher of a sink execute a command. If none runs, `directly` does the same in the store.
    async fn execute<T>(
        &self,
        sink: &str,
        command: impl FnOnce(CommandReply<T>) -> DispatcherCommand,
        directly: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(dispatcher) = self.dispatchers.get(sink)
            && let Some(done) = dispatcher.send(command).await
        {
            return done;
        }
        directly.await
    }
}

impl SinkAdmin {
    /// Knows a store and no dispatchers, as for a command while no daemon runs.
    pub fn new(store: Store) -> Self {
        let admin = Self::default();
        admin.publish(vec![StoreSinks::new(store, [])]);
        admin
    }

    /// Sends later commands to these.
    pub fn publish(&self, stores: Vec<StoreSinks>) {
        self.stores.store(Arc::new(stores));
    }

    /// Makes all sinks open their files again at their next delivery. Does not block.
    pub fn reopen_files(&self) {
        let stores = self.stores.load();
        stores.iter().flat_map(|of| of.dispatchers.values()).for_each(DispatcherHandle::reopen_file);
    }

    /// The status of a sink, if it has a dispatcher.
    pub fn status(&self, sink: &str) -> Option<Arc<SinkStatus>> {
        self.stores.load().iter().find_map(|of| of.dispatchers.get(sink)).map(DispatcherHandle::status)
    }

    /// Executes a command.
    pub async fn execute(&self, command: SinkCommand) -> Result<SinkAnswer, SinkAdminError> {
        let stores = self.stores.load_full();
        // Their owners execute what changes something in the others.
        let owned = stores.iter().filter(|of| !of.is_read_only);
        match command {
            SinkCommand::Show => {
                let sinks = self.stored().await?;
                Ok(SinkAnswer::Sinks(sinks.into_iter().map(|sink| self.report(sink)).collect()))
            }
            SinkCommand::DeadLetters { sink } => {
                self.find(&sink).await?;
                Ok(SinkAnswer::DeadLetters(self.dead_letters(&sink).await?))
            }
            SinkCommand::Stop { sink, at } => {
                let pending = self.find(&sink).await?.backlog.events;
                let stopped = owned.map(|of| {
                    let stop = of.store.stop_sink(&sink, BY_OPERATOR, at);
                    of.execute(&sink, DispatcherCommand::Stop, stop)
                });
                all_but_moved(stopped).await?;
                self.changed(sink, pending, None).await
            }
            SinkCommand::Resume { sink } => {
                let pending = self.find(&sink).await?.backlog.events;
                let resumed = owned.map(|of| {
                    let resume = of.store.resume_sink(&sink).map_ok(drop);
                    of.execute(&sink, DispatcherCommand::Resume, resume)
                });
                all_but_moved(resumed).await?;
                self.changed(sink, pending, None).await
            }
            SinkCommand::Replay { sink, since } => {
                self.find(&sink).await?;
                let command = |reply| DispatcherCommand::Replay(since, reply);
                let rewound =
                    owned.map(|of| of.execute(&sink, command, of.store.rewind_cursor(&sink, since)));
                let rewinds = all(rewound).await?;
                let from = rewinds.iter().filter_map(|rewind| rewind.from).min();
                self.changed(sink, rewinds.iter().map(|rewind| rewind.events).sum(), from).await
            }
            SinkCommand::RetryDeadLetters { sink } => {
                self.find(&sink).await?;
                let retried = owned.map(|of| {
                    let retry = of.store.retry_dead_letters(&sink);
                    of.execute(&sink, DispatcherCommand::RetryDeadLetters, retry)
                });
                let letters = all(retried).await?.iter().sum();
                self.changed(sink, letters, None).await
            }
            SinkCommand::DropDeadLetters { sink } => {
                self.find(&sink).await?;
                let dropped = owned.map(|of| {
                    let remove = of.store.drop_dead_letters(&sink);
                    of.execute(&sink, DispatcherCommand::DropDeadLetters, remove)
                });
                let letters = all(dropped).await?.iter().sum();
                self.changed(sink, letters, None).await
            }
        }
    }

    /// Makes the dispatchers of a sink look whether the store has a stop of it. Does not wait.
    pub fn note_stop(&self, sink: &str) {
        let stores = self.stores.load();
        stores.iter().filter_map(|of| of.dispatchers.get(sink)).for_each(DispatcherHandle::note_stop);
    }

    /// The same for those of these sinks that deliver.
    pub fn note_stops(&self, stopped: &[String]) {
        let delivers = |sink: &&String| self.status(sink).is_some_and(|status| !status.is_stopped());
        stopped.iter().filter(delivers).for_each(|sink| self.note_stop(sink));
    }

    async fn stored(&self) -> Result<Vec<StoredSink>, StoreError> {
        let stores: Vec<Store> = self.stores.load().iter().map(|of| of.store.clone()).collect();
        store::sinks_of(&stores).await
    }

    async fn find(&self, name: &str) -> Result<StoredSink, SinkAdminError> {
        let sinks = self.stored().await?;
        let known = sinks.iter().map(|sink| sink.name.clone()).collect();
        let found = sinks.into_iter().find(|sink| sink.name == name);
        found.ok_or_else(|| SinkAdminError::Unknown { sink: name.to_owned(), known })
    }

    async fn changed(
        &self,
        sink: String,
        events: u64,
        from: Option<Timestamp>,
    ) -> Result<SinkAnswer, SinkAdminError> {
        let stored = self.find(&sink).await?;
        let state = stored.state.with_dispatcher(self.activity(&sink).unwrap_or_default().state);
        Ok(SinkAnswer::Changed(SinkChange {
            sink,
            events,
            from: from.map(millis),
            stopped_reason: state.stop_reason().map(str::to_owned),
            is_configured: stored.removed_at.is_none(),
        }))
    }

    async fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterReport>, StoreError> {
        let mut reports = Vec::new();
        for of in self.stores.load_full().iter() {
            let mut after = LogPosition::BEGINNING;
            loop {
                let page = of.store.dead_letters(sink, after, DEAD_LETTERS_PER_READ).await?;
                let Some(last) = page.last() else { break };
                after = last.event.id;
                reports.extend(page.into_iter().map(dead_letter_report));
            }
        }
        Ok(reports)
    }

    /// `None` if no dispatcher runs.
    fn activity(&self, sink: &str) -> Option<SinkActivity> {
        self.status(sink).map(|status| status.read())
    }

    fn write_failure(&self) -> Option<StoreError> {
        self.stores.load().iter().find_map(|of| of.store.write_failure())
    }

    fn report(&self, stored: StoredSink) -> SinkReport {
        let activity = self.activity(&stored.name);
        let is_unknown = activity.is_none();
        let StoredSink { name, removed_at, state, backlog, missed } = stored;
        let SinkActivity { state: live, last_delivery_at, last_failure } = activity.unwrap_or_default();
        let state = state.with_dispatcher(live);
        let word = match &state {
            _ if removed_at.is_some() => REMOVED,
            SinkState::Delivering if is_unknown => "unknown",
            state => state.as_str(),
        };
        SinkReport {
            sink: name,
            state: word.to_owned(),
            stopped_reason: state.stop_reason().map(str::to_owned),
            pending_events: backlog.events,
            oldest_pending_at: backlog.oldest.map(millis),
            dead_letters: backlog.dead_letters,
            expired_dead_letters: backlog.expired_dead_letters,
            lost_events: backlog.lost_events,
            lost_between: missed.map(|missed| missed.observed_between.map(millis)),
            last_delivery_at: last_delivery_at.map(millis),
            last_failure_at: last_failure.as_ref().map(|(at, _)| millis(*at)),
            last_failure: last_failure.map(|(_, reason)| reason),
            store_failure: self.write_failure().map(|error| crate::chain(&error)),
        }
    }
}

/// Waits for all, so that a store for which a command fails delays no other.
async fn all<T>(
    commands: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    join_all(commands).await.into_iter().collect()
}

/// The same for what all shards share: a shard that moves to another replica at this moment is passed over if another one has stored it.
async fn all_but_moved(
    commands: impl Iterator<Item = impl Future<Output = Result<(), StoreError>>>,
) -> Result<(), StoreError> {
    let results = join_all(commands).await;
    let is_stored = results.iter().any(Result::is_ok);
    let mut failures = results.into_iter().filter_map(Result::err);
    failures.find(|error| !(is_stored && error.is_no_longer_owned())).map_or(Ok(()), Err)
}

fn dead_letter_report(letter: DeadLetter) -> DeadLetterReport {
    let DeadLetter { event, reason, died_at, retry, .. } = letter;
    let event = serde_json::from_str(&event.json).unwrap_or(Value::String(event.json));
    DeadLetterReport { died_at: millis(died_at), reason, retry, event }
}
