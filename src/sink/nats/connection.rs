//! One connection to a server, from its making to its first failure.
//!
//! Once it broke, or left a message without an answer, it is given up: the next attempt makes a new one. The library would
//! connect again by itself, but it tells neither why it cannot, nor those who wait for a confirmation that none will come.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::{
    ConnectOptions, Event,
    jetstream::context::{Context, ContextBuilder},
};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::{Login, Message, NatsOptions, reason, trusted::Trusted};
use crate::sink::DeliveryError;

/// A connection that stands, or stood.
pub(super) struct Connection {
    jetstream: Context,
    options: Arc<NatsOptions>,
    heard: Arc<Heard>,
    /// A message was not answered.
    doubtful: AtomicBool,
    /// The library may look into it again.
    _trusted: Trusted,
}

/// What the connection itself says.
#[derive(Default)]
struct Heard {
    broken: CancellationToken,
    /// The last error that the server sent outside of an answer.
    complaint: Mutex<Option<String>>,
}

impl Connection {
    /// Connects and logs in. The error says what to do about it.
    pub(super) async fn open(options: Arc<NatsOptions>) -> Result<Self, String> {
        let heard = Arc::<Heard>::default();
        let trusted = Trusted::of(options.ca_file.as_deref()).map_err(|error| crate::chain(&error))?;
        let connecting = trusted.alone(prepare(&options, &heard)?).connect(options.servers.as_slice());
        // The library's own limit is for each server, and leaves out the look-up of names.
        let within = options.timeout.saturating_mul(options.servers.len() as u32);
        let client = match tokio::time::timeout(within, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(reason::not_connected(&error, &options)),
            Err(_) => return Err(reason::not_connected_in_time(&options)),
        };
        let jetstream = ContextBuilder::new()
            .timeout(options.timeout)
            .max_ack_inflight(options.max_in_flight)
            .build(client);
        Ok(Self { jetstream, options, heard, doubtful: AtomicBool::new(false), _trusted: trusted })
    }

    /// Whether another message may be sent through it.
    pub(super) fn is_good(&self) -> bool {
        !self.heard.broken.is_cancelled() && !self.doubtful.load(Ordering::Relaxed)
    }

    /// Sends a message and waits until a stream has stored it.
    pub(super) async fn publish(&self, message: Message) -> Result<(), DeliveryError> {
        let Message { subject, headers, payload } = message;
        let confirmed = async {
            let confirmation = self.jetstream.publish_with_headers(subject, headers, payload).await?;
            confirmation.await
        };
        let answered = tokio::select! {
            biased; // An answer that came before the connection broke counts.
            answered = tokio::time::timeout(self.options.timeout, confirmed) => answered,
            () = self.heard.broken.cancelled() => {
                return Err(retryable(reason::broken(self.heard.complaint(), &self.options)));
            }
        };
        let error = match answered {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => async_nats::jetstream::context::PublishErrorKind::TimedOut.into(),
        };
        if !reason::is_answer(&error) {
            self.doubtful.store(true, Ordering::Relaxed);
        }
        let has_jetstream = self.jetstream.client().server_info().jetstream;
        Err(reason::not_confirmed(&error, &self.options, self.heard.complaint(), has_jetstream))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_good", &self.is_good()).finish_non_exhaustive()
    }
}

impl Heard {
    fn hear(&self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed => self.broken.cancel(),
            Event::ServerError(error) => {
                *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            _ => {}
        }
    }

    fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn retryable(reason: String) -> DeliveryError {
    DeliveryError::Retryable { reason, after: None }
}

fn prepare(options: &NatsOptions, heard: &Arc<Heard>) -> Result<ConnectOptions, String> {
    let heard = Arc::clone(heard);
    let prepared = ConnectOptions::new()
        .name("kfwatch")
        .connection_timeout(options.timeout)
        .require_tls(options.requires_tls())
        // They would be connected to without what is required of the configured ones.
        .ignore_discovered_servers()
        // One attempt for each server, when it connects first and when the connection broke.
        .max_reconnects(options.servers.len())
        .client_capacity(options.max_in_flight)
        .event_callback(move |event| {
            heard.hear(event);
            std::future::ready(())
        });
    Ok(match &options.login {
        Login::None => prepared,
        Login::Credentials(text) => prepared
            .credentials(text.expose_secret())
            .map_err(|_| "its credentials cannot be used".to_owned())?,
        Login::Nkey(seed) => prepared.nkey(seed.expose_secret().to_owned()),
        Login::Password { user, password } => {
            prepared.user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        Login::Token(token) => prepared.token(token.expose_secret().to_owned()),
    })
}
