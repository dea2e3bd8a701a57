//! One connection to a server, until its first failure.
//!
//! A connection that broke, or left a message unacknowledged, is not used again: the next attempt opens a new one. The
//! library would reconnect by itself, but reports neither why it cannot nor that a pending acknowledgement will not come.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::{
    ConnectOptions, Event,
    jetstream::context::{Context, ContextBuilder},
};
use futures_util::FutureExt;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::{
    message::Message,
    options::{Login, NatsOptions},
    reason,
    tls_roots::NatsTlsRoots,
};
use crate::{domain::peer_text::PeerText, sink::error::DeliveryError};

/// A connection that is open, or was.
pub(super) struct Connection {
    jetstream: Context,
    options: Arc<NatsOptions>,
    events: Arc<ConnectionEvents>,
    /// Whether a message got no response.
    has_timed_out: AtomicBool,
    /// The library may read it again.
    _tls_roots: NatsTlsRoots,
}

/// Events of the connection itself.
#[derive(Default)]
struct ConnectionEvents {
    broken: CancellationToken,
    /// The last error that the server sent outside of a response.
    last_error: Mutex<Option<PeerText>>,
}

impl Connection {
    /// Connects and logs in. The error says what to do about it.
    pub(super) async fn open(options: Arc<NatsOptions>) -> Result<Self, String> {
        let events = Arc::<ConnectionEvents>::default();
        let tls_roots =
            NatsTlsRoots::load(options.ca_file.as_deref()).map_err(|error| crate::chain(&error))?;
        let connecting =
            tls_roots.apply(connect_options(&options, &events)?).connect(options.servers.as_slice());
        // The library's own time-out is for each server, and does not include name resolution.
        let within = options.timeout.saturating_mul(options.servers.len() as u32);
        // The library panics on some lines, such as "-ERR" alone.
        let connecting = AssertUnwindSafe(connecting).catch_unwind();
        let client = match tokio::time::timeout(within, connecting).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Ok(Err(error))) => {
                if reason::is_login_refused(&error) {
                    options.login.refused();
                }
                return Err(reason::not_connected(&error, &options));
            }
            Ok(Err(_)) => return Err(reason::not_understood(&options)),
            Err(_) => return Err(reason::not_connected_in_time(&options)),
        };
        options.login.accepted();
        let jetstream = ContextBuilder::new()
            .timeout(options.timeout)
            .max_ack_inflight(options.max_in_flight)
            .build(client);
        let has_timed_out = AtomicBool::new(false);
        Ok(Self { jetstream, options, events, has_timed_out, _tls_roots: tls_roots })
    }

    /// Whether another message may be sent.
    pub(super) fn is_usable(&self) -> bool {
        !self.events.broken.is_cancelled() && !self.has_timed_out.load(Ordering::Relaxed)
    }

    /// Sends a message and waits until a stream has stored it.
    pub(super) async fn publish(&self, message: Message) -> Result<(), DeliveryError> {
        let Message { subject, headers, payload } = message;
        let acknowledged = async {
            let acknowledgement = self.jetstream.publish_with_headers(subject, headers, payload).await?;
            acknowledgement.await
        };
        let outcome = tokio::select! {
            biased; // An acknowledgement that came before the connection broke counts.
            outcome = tokio::time::timeout(self.options.timeout, acknowledged) => outcome,
            () = self.events.broken.cancelled() => {
                let reason = reason::broken(self.events.last_error(), &self.options);
                return Err(DeliveryError::retryable(reason));
            }
        };
        let error = match outcome {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => async_nats::jetstream::context::PublishErrorKind::TimedOut.into(),
        };
        if !reason::is_response(&error) {
            self.has_timed_out.store(true, Ordering::Relaxed);
        }
        let has_jetstream = self.jetstream.client().server_info().jetstream;
        Err(reason::not_acknowledged(&error, &self.options, self.events.last_error(), has_jetstream))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_usable", &self.is_usable()).finish_non_exhaustive()
    }
}

impl ConnectionEvents {
    fn record(&self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed => self.broken.cancel(),
            Event::ServerError(error) => {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.to_string().into());
            }
            _ => {}
        }
    }

    fn last_error(&self) -> Option<PeerText> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn connect_options(options: &NatsOptions, events: &Arc<ConnectionEvents>) -> Result<ConnectOptions, String> {
    let events = Arc::clone(events);
    let prepared = ConnectOptions::new()
        .name("kfwatch")
        .connection_timeout(options.timeout)
        .require_tls(options.requires_tls())
        // Discovered servers would be connected to without the TLS that the configured ones require.
        .ignore_discovered_servers()
        // One attempt for each server, at the first connection and after a break.
        .max_reconnects(options.servers.len())
        .client_capacity(options.max_in_flight)
        .event_callback(move |event| {
            events.record(event);
            std::future::ready(())
        });
    Ok(match &*options.login.for_attempt() {
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
