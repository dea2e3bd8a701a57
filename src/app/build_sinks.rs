//! Builds the configured sinks.

use std::sync::Arc;

use super::{error::AppError, nicknames::TableNicknames};
use crate::{
    config::{self, DEFAULT_SINK, SinkStart, SinkTarget},
    domain::{clock::Clock, event::TestEvent},
    sink::{
        DeliveryError, Sink,
        chat::{ChatContext, ChatSink},
        jsonl::{JsonlSink, JsonlTarget},
        nats::NatsSink,
        webhook::WebhookSink,
    },
    store::{EventFilter, SinkRegistration, StartPosition, StoredSink},
};

/// Logs which sinks have left the configuration since the last start, once.
pub(super) fn log_removed(stored: &[StoredSink], sinks: &[config::SinkConfig]) {
    let configured = |name: &str| sinks.iter().any(|sink| sink.name == name);
    for StoredSink { name, .. } in
        stored.iter().filter(|stored| stored.removed_at.is_none() && !configured(&stored.name))
    {
        if name == DEFAULT_SINK {
            tracing::info!(
                sink = %name,
                "Events no longer go to standard output: the configuration has other sinks now. For both, add a sink of type \
                 \"jsonl\""
            );
        } else {
            tracing::info!(
                sink = %name,
                "Sink removed from the configuration; if it returns within 7 days, it continues from its cursor"
            );
        }
    }
}

/// Sends a test through a sink of this configuration, with or without a running daemon.
pub(crate) async fn test_sink(
    config: &config::Config,
    sink: &config::SinkConfig,
    clock: Arc<dyn Clock>,
) -> Result<(), SinkTestError> {
    let now = clock.now().wall;
    let chat =
        ChatContext { clock, zone: config.poll.timezone, nicknames: Arc::new(TableNicknames::default()) };
    let built = prepare(sink, &chat)?;
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    Ok(built.test(&sink.name, &TestEvent::new(&sink.name, id, now)).await?)
}

/// Why a test of a sink failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkTestError {
    #[error(transparent)]
    Unusable(#[from] AppError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// What the store needs to know of a sink.
pub(super) fn registration(sink: &config::SinkConfig) -> SinkRegistration {
    let start = match sink.start {
        SinkStart::Now => StartPosition::Now,
        SinkStart::Beginning => StartPosition::Beginning,
    };
    let destination = match &sink.target {
        SinkTarget::Webhook(options) => Some(options.destination()),
        // They never respond that they want no more events. Other stops end only by a command.
        SinkTarget::Stdout | SinkTarget::File { .. } | SinkTarget::Nats(_) | SinkTarget::Chat(_) => None,
    };
    SinkRegistration { name: sink.name.clone(), start, destination }
}

/// Which events a sink receives.
pub(super) fn filter(sink: &config::SinkConfig) -> EventFilter {
    EventFilter {
        types: sink.types.clone(),
        official_accounts: sink.official_accounts.clone(),
        ..EventFilter::default()
    }
}

/// Builds a sink: all that can fail. Changes nothing and connects to nothing.
pub(super) fn prepare(sink: &config::SinkConfig, chat: &ChatContext) -> Result<Sink, AppError> {
    Ok(match &sink.target {
        SinkTarget::Stdout => Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::Stdout))),
        SinkTarget::File { path, mode, group } => {
            let group = group.as_ref().map(|group| group_id(&sink.name, group)).transpose()?;
            Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::File {
                path: path.clone(),
                mode: *mode,
                group,
            })))
        }
        SinkTarget::Webhook(options) => {
            let webhook = WebhookSink::build((**options).clone(), Arc::clone(&chat.clock));
            Sink::Webhook(Box::new(webhook.map_err(|error| bad_ca_file(&sink.name, &error))?))
        }
        SinkTarget::Nats(options) => {
            let nats = NatsSink::build((**options).clone());
            Sink::Nats(nats.map_err(|error| bad_ca_file(&sink.name, &error))?)
        }
        SinkTarget::Chat(options) => {
            let robot = ChatSink::build((**options).clone(), chat.clone());
            Sink::Chat(Box::new(robot.map_err(|error| bad_ca_file(&sink.name, &error))?))
        }
    })
}

/// The configuration has checked the PEM; only the TLS library can check its content.
fn bad_ca_file(sink: &str, error: &(dyn std::error::Error + 'static)) -> AppError {
    AppError::Unusable { what: format!("ca_file of sink {sink:?}"), reason: crate::chain(error) }
}

/// The number of the group that owns the file of a sink.
pub(crate) fn group_id(sink: &str, group: &str) -> Result<u32, AppError> {
    let unusable = |reason: String| AppError::Unusable { what: format!("group of sink {sink:?}"), reason };
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => {
            Err(unusable(format!("there is no group {group:?} on this system: create it, or remove the key")))
        }
        Err(error) => Err(unusable(format!("the group {group:?} cannot be looked up: {error}"))),
    }
}
