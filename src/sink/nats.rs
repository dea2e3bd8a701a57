//! Publishes events to NATS JetStream: one message each, acknowledged by the stream that stores it.
//!
//! The subject names the official account and the event type. The event's id is the message's `Nats-Msg-Id`, by which the
//! stream drops duplicates within its duplicate window. A message that is too large is rejected: its event
//! becomes a dead letter. Every other failure is a problem of the server, the network or the configuration, and is retried.
//!
//! A [`Connection`] is opened when there is an event to deliver, and replaced after its first failure. Only the dispatcher
//! decides when to retry, and undelivered events wait nowhere but in the event log.

mod connection;
mod message;
mod options;
mod reason;
mod tls_roots;

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

pub use self::options::{Login, NatsOptions, is_token};
use self::{connection::Connection, message::Message};
use super::error::DeliveryError;
use crate::{
    domain::event::TestEvent,
    store::StoredEvent,
    tls::{CaFileError, TlsRoots},
};

/// A connection that is being opened, is open, or could not be opened.
type SharedConnection = Shared<BoxFuture<'static, Result<Arc<Connection>, Arc<str>>>>;

/// A sink that publishes to NATS.
#[derive(Debug)]
pub struct NatsSink {
    options: Arc<NatsOptions>,
    connection: Mutex<Option<SharedConnection>>,
}

impl NatsSink {
    /// Checks the CA file; connects to nothing yet.
    pub fn build(options: NatsOptions) -> Result<Self, CaFileError> {
        options.ca_file.as_deref().map(TlsRoots::from_file).transpose()?;
        Ok(Self { options: Arc::new(options), connection: Mutex::new(None) })
    }

    /// The servers, without secrets.
    pub(super) fn servers(&self) -> String {
        self.options.servers()
    }

    /// How many events may be unacknowledged.
    pub fn max_in_flight(&self) -> usize {
        self.options.max_in_flight
    }

    /// Publishes one event and waits for its acknowledgement.
    pub async fn deliver(&self, event: &StoredEvent) -> Result<(), DeliveryError> {
        self.publish(Message::from_event(event, &self.options.subject_prefix)?).await
    }

    /// Publishes a test event on a subject of its own and waits for its acknowledgement.
    pub(super) async fn publish_test(&self, event: &TestEvent) -> Result<(), DeliveryError> {
        self.publish(Message::from_test(event, &self.options.subject_prefix)?).await
    }

    async fn publish(&self, message: Message) -> Result<(), DeliveryError> {
        let connection = self.connection().await;
        let connection = connection.map_err(|reason| DeliveryError::retryable((*reason).to_owned()))?;
        connection.publish(message).await
    }

    /// The usable connection, or else one attempt to open it, which all callers share.
    fn connection(&self) -> SharedConnection {
        let mut current = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*current {
            match connection.peek() {
                None => return connection.clone(),
                Some(Ok(opened)) if opened.is_usable() => return connection.clone(),
                Some(_) => {}
            }
        }
        let open = Connection::open(Arc::clone(&self.options));
        current.insert(open.map(|opened| opened.map(Arc::new).map_err(Arc::from)).boxed().shared()).clone()
    }
}
