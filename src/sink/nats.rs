//! Events to NATS JetStream: one message each, confirmed by the stream that stores it.
//!
//! The subject says whose event it is and of which kind. The event's id is the message's `Nats-Msg-Id`, by which the stream
//! drops what comes again within its duplicate window. A message that is too large concerns the event; everything else is
//! the server's, the network's or the configuration's trouble, and another attempt may succeed.
//!
//! A [`Connection`] is made when there is something to deliver, and made anew after it failed once: only the dispatcher
//! decides when to try again, and nothing waits for a server anywhere but in the event log.

mod connection;
mod reason;
mod trusted;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, HeaderValue, ServerAddr, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use self::connection::Connection;
use super::{DeliveryError, damaged};
use crate::{
    store::StoredEvent,
    tls::{CaFileError, TlsRoots},
};

/// The media type of a CloudEvent in structured mode.
const MEDIA_TYPE: &str = "application/cloudevents+json";

/// Where to publish, and how.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Servers of one cluster, one of which is connected to: at least one, without user or password in them.
    pub servers: Vec<ServerAddr>,
    /// What subjects begin with: tokens separated by dots.
    pub subject_prefix: String,
    /// How to log in.
    pub login: Login,
    /// A file with PEM certificates to trust instead of those of the system; with it, the connection must be encrypted.
    pub ca_file: Option<PathBuf>,
    /// The longest time until a server is connected to, and until a confirmation.
    pub timeout: Duration,
    /// Events that may be sent and not confirmed.
    pub max_in_flight: usize,
}

impl NatsOptions {
    /// The servers, as they may be shown.
    pub fn servers(&self) -> String {
        self.servers.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>().join(", ")
    }

    /// What matches every subject that is published to.
    pub fn subjects(&self) -> String {
        format!("{}.>", self.subject_prefix)
    }

    fn requires_tls(&self) -> bool {
        self.ca_file.is_some() || self.servers.iter().any(ServerAddr::tls_required)
    }
}

/// How to log in to a server.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    None,
    /// With a JWT and the seed of its key, in the text of a file as nsc writes it.
    Credentials(SecretString),
    /// With the seed of a user's key.
    Nkey(SecretString),
    /// With a user name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// With a token.
    Token(SecretString),
}

impl Login {
    /// The text of a credentials file. The error says what is wrong with it, and shows nothing of it.
    pub fn credentials(text: &SecretString) -> Result<Self, &'static str> {
        // The library wants a newline at the end, which editors may have taken away.
        let text = SecretString::from(format!("{}\n", text.expose_secret().trim()));
        match async_nats::ConnectOptions::new().credentials(text.expose_secret()) {
            Ok(_) => Ok(Self::Credentials(text)),
            Err(_) => Err("holds no user JWT with its seed; write one with \"nsc generate creds\""),
        }
    }

    /// The seed of a user's key. The error says what is wrong with it, and shows nothing of it.
    pub fn nkey(seed: &SecretString) -> Result<Self, &'static str> {
        match nkeys::KeyPair::from_seed(seed.expose_secret()) {
            Ok(key) if key.public_key().starts_with('U') => Ok(Self::Nkey(seed.clone())),
            _ => Err("holds no seed of a user's key; it begins with SU, as \"nk -gen user\" writes it"),
        }
    }
}

/// A connection that is being made, or was made, or could not be.
type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, Arc<str>>>>;

/// A sink that publishes.
#[derive(Debug)]
pub struct NatsSink {
    options: Arc<NatsOptions>,
    connecting: Mutex<Option<Connecting>>,
}

impl NatsSink {
    /// Checks what only the TLS library can judge; connects to nothing yet.
    pub fn build(options: NatsOptions) -> Result<Self, CaFileError> {
        options.ca_file.as_deref().map(TlsRoots::from_file).transpose()?;
        Ok(Self { options: Arc::new(options), connecting: Mutex::new(None) })
    }

    /// Events that may be sent and not confirmed.
    pub fn max_in_flight(&self) -> usize {
        self.options.max_in_flight
    }

    /// Publishes one event, and waits for its confirmation.
    pub async fn deliver(&self, event: &StoredEvent) -> Result<(), DeliveryError> {
        let message = Message::of(event, &self.options.subject_prefix)?;
        let connected = self.connecting().await;
        let connection = connected
            .map_err(|reason| DeliveryError::Retryable { reason: (*reason).to_owned(), after: None })?;
        connection.publish(message).await
    }

    /// The connection that there is, or else one attempt to make it for all that wait for one.
    fn connecting(&self) -> Connecting {
        let mut slot = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connecting) = &*slot {
            match connecting.peek() {
                None => return connecting.clone(),
                Some(Ok(connection)) if connection.is_good() => return connecting.clone(),
                Some(_) => {}
            }
        }
        let open = Connection::open(Arc::clone(&self.options));
        slot.insert(open.map(|opened| opened.map(Arc::new).map_err(Arc::from)).boxed().shared()).clone()
    }
}

/// What is published of an event.
#[derive(Debug)]
struct Message {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

impl Message {
    /// An event without what its subject and its id are made of can never be delivered.
    fn of(event: &StoredEvent, prefix: &str) -> Result<Self, DeliveryError> {
        #[derive(Deserialize)]
        struct Event<'a> {
            id: &'a str,
            #[serde(borrow)]
            data: Data<'a>,
        }
        #[derive(Deserialize)]
        struct Data<'a> {
            official_account: &'a str,
        }
        let read: Event<'_> = serde_json::from_str(&event.json).map_err(|_| damaged())?;
        let id: HeaderValue = read.id.parse().map_err(|_| damaged())?;
        let official_account = read.data.official_account;
        if !is_token(official_account) {
            return Err(damaged());
        }
        let event_type = event.event_type.as_str();
        let kind = event_type.strip_prefix("kf.").unwrap_or(event_type);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        headers.insert("Content-Type", MEDIA_TYPE);
        Ok(Self {
            subject: format!("{prefix}.{official_account}.{kind}"),
            headers,
            payload: Bytes::copy_from_slice(event.json.as_bytes()),
        })
    }
}

/// Whether a text can stand between two dots of a subject: letters, digits, `-` and `_` mean nothing to NATS.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::event::EventType,
        store::{AccountId, LogPosition},
    };

    fn event(event_type: EventType, json: &str) -> StoredEvent {
        StoredEvent {
            id: LogPosition(1),
            account: AccountId(1),
            sequence: 1,
            event_type,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            json: json.to_owned(),
        }
    }

    #[test]
    fn the_subject_says_whose_event_it_is_and_of_which_kind() {
        let json = "{\"id\":\"af546c58\",\"data\":{\"official_account\":\"shop\",\"more\":1}}";
        for (event_type, expected) in [
            (EventType::SessionStarted, "acme.kf.shop.session.started"),
            (EventType::SessionEnded, "acme.kf.shop.session.ended"),
            (EventType::StateChanged, "acme.kf.shop.account.state_changed"),
        ] {
            let message = Message::of(&event(event_type, json), "acme.kf").unwrap();
            assert_eq!(message.subject, expected);
            assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "af546c58");
            assert_eq!(message.headers.get("Content-Type").unwrap().as_str(), "application/cloudevents+json");
            assert_eq!(message.payload, json);
        }
    }

    #[test]
    fn an_event_that_is_damaged_is_refused_for_its_own_sake() {
        for json in [
            "",
            "{\"id\":\"a\"",
            "{\"id\":\"a\"}",
            "{\"id\":\"a\",\"data\":{}}",
            "{\"id\":\"a\\nb\",\"data\":{\"official_account\":\"shop\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\"\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\"a.b\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\">\"}}",
        ] {
            let message = Message::of(&event(EventType::SessionStarted, json), "kf");
            assert!(matches!(message, Err(DeliveryError::Refused { .. })), "{json}");
        }
    }

    #[test]
    fn a_login_that_cannot_be_used_is_told_without_showing_it() {
        let account = nkeys::KeyPair::new_account().seed().unwrap();
        let user = nkeys::KeyPair::new_user().seed().unwrap();
        for text in ["", "s3cret", account.as_str()] {
            let text = SecretString::from(text);
            assert!(Login::nkey(&text).is_err());
            assert!(Login::credentials(&text).is_err());
        }
        let login = Login::nkey(&SecretString::from(user.as_str())).unwrap();
        assert!(!format!("{login:?}").contains(&user));
    }
}
