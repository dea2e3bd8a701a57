//! Sends messages for people to a robot in a group chat of WeCom, DingTalk, Feishu or Slack.
//!
//! One message reports all events that wait, grouped by kf account ([`digest`](mod@digest), [`message`]), and acknowledges them all. Robots
//! may send few messages a minute, so the sink asks for a pause after each one: events that come meanwhile share the next. A
//! state of a kf account is reported at most once in ten minutes. If it comes back earlier, its event is postponed until then,
//! and reported together with what followed, so that the last line is always the present state. Which states were reported is not
//! stored: after a restart they may be reported again.
//!
//! Vendors differ in addresses, signatures, limits and answers: [`vendor`] has the table. No failure stops the sink, because each
//! can be corrected at the vendor or in a file. If a message may have been refused because of its text, the next one has no
//! nicknames: only they are chosen by others. A message never contains an openid. Nobody is notified by a name that looks like a
//! mention, and no key appears in a failure.

mod digest;
mod message;
mod options;
mod sent_secrets;
mod vendor;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Client, Response,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use self::{
    digest::{AccountDigest, ReportedStates, digest},
    message::MessageWriter,
    sent_secrets::SentSecrets,
    vendor::Verdict,
};
pub use self::{options::ChatOptions, vendor::Vendor};
use super::{
    Acknowledged,
    error::DeliveryError,
    http_client::{body_start, builder, reason},
};
use crate::{
    domain::{clock::Clock, local_time::LocalZone, peer_text::PeerText, retry_after::retry_after},
    secrets::RotatableSecret,
    store::StoredEvent,
    tls::{CaFileError, TlsRoots},
};

/// How many events one message covers: more than a dispatcher reads ahead.
pub(super) const MAX_BATCH: usize = 2000;

/// How long to wait when a robot has sent too much and the vendor does not say how long.
const RATE_LIMITED_FOR: Duration = Duration::from_secs(60);

/// The HTTP client of a chat sink could not be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum ChatBuildError {
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// Knows the nicknames of kf accounts.
pub trait Nicknames: Send + Sync {
    /// The nickname, if it is known.
    fn nickname(&self, official_account: &str, kf_account: &str) -> Option<Arc<str>>;
}

/// What a chat sink needs to know of its daemon.
#[derive(Clone)]
pub struct ChatContext {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The zone of the times in messages.
    pub zone: LocalZone,
    /// The nicknames in messages.
    pub nicknames: Arc<dyn Nicknames>,
}

/// A sink that sends messages to a group robot.
pub struct ChatSink {
    http: Client,
    options: ChatOptions,
    context: ChatContext,
    reported: Mutex<ReportedStates>,
    /// Whether the last message may have been refused because of a nickname.
    omit_nicknames: AtomicBool,
}

impl fmt::Debug for ChatSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChatSink").field(&self.options).finish()
    }
}

impl ChatSink {
    /// Builds the client; connects to nothing yet.
    pub fn build(options: ChatOptions, context: ChatContext) -> Result<Self, ChatBuildError> {
        let roots = TlsRoots::load(options.ca_file.as_deref())?;
        // Messages are rare: an idle connection would be closed by the vendor before the next one.
        let http = builder(options.timeout).pool_max_idle_per_host(0);
        let http = http.tls_certs_only(roots.http_certificates()).build()?;
        Ok(Self { http, options, context, reported: Mutex::default(), omit_nicknames: AtomicBool::default() })
    }

    /// Scheme, host and port of the vendor.
    pub(super) fn receiver(&self) -> String {
        self.options.receiver()
    }

    /// The time between two messages.
    pub(super) fn interval(&self) -> Duration {
        self.options.vendor.interval()
    }

    /// Reports the events in one message, except those of kf accounts whose last state was reported a moment ago.
    pub async fn deliver(&self, events: &[Arc<StoredEvent>]) -> Result<Acknowledged, DeliveryError> {
        let now = self.context.clock.now().monotonic;
        let (ready, later) = self.reported().split(digest(events), now);
        let postpone = |(account, wait): (AccountDigest, Duration)| {
            account.events.into_iter().map(move |event| (event, wait))
        };
        let postponed = later.into_iter().flat_map(postpone).collect();
        if !ready.is_empty() {
            self.send(&self.writer().report(&ready)).await?;
            self.reported().record(&ready, self.context.clock.now().monotonic);
        }
        Ok(Acknowledged { postponed })
    }

    /// Sends a message that says that it is a test.
    pub async fn send_test(&self, sink: &str) -> Result<(), DeliveryError> {
        self.send(&self.writer().test(sink)).await
    }

    fn writer(&self) -> MessageWriter<'_> {
        let ChatOptions { vendor, language, .. } = self.options;
        let ChatContext { zone, nicknames, .. } = &self.context;
        let nicknames = (!self.omit_nicknames.load(Ordering::Relaxed)).then_some(&**nicknames);
        MessageWriter { vendor, language, zone: *zone, nicknames }
    }

    async fn send(&self, text: &str) -> Result<(), DeliveryError> {
        let ChatOptions { vendor, url, secret, .. } = &self.options;
        let secret = secret.as_ref().map(RotatableSecret::for_attempt);
        let url = (*url.for_attempt()).clone();
        let request = vendor.request(url, text, secret.as_deref(), self.context.clock.now().wall);
        let secrets = SentSecrets::from_request(&request, secret.as_deref());
        let response = self
            .http
            .post(request.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .body(request.body)
            .send()
            .await;
        match response {
            Ok(response) => self.outcome(response, &secrets).await,
            Err(error) => {
                let reason = reason(error);
                Err(DeliveryError::retryable(format!("{}: {reason}", self.options.receiver())))
            }
        }
    }

    async fn outcome(&self, response: Response, secrets: &SentSecrets) -> Result<(), DeliveryError> {
        let vendor = self.options.vendor;
        let status = response.status();
        let retry_after_header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = retry_after_header.and_then(|value| retry_after(value, self.context.clock.now().wall));
        let body = body_start(response).await;
        let answer = vendor.answer(status, &body);
        let text = PeerText::new(&secrets.redact(&answer.text));
        let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
        let reason = format!("{} answers {}{text}", vendor.name(), answer.what);
        self.note(answer.verdict);
        match answer.verdict {
            Verdict::Delivered => Ok(()),
            Verdict::RateLimited => Err(DeliveryError::Retryable {
                reason: format!("{reason}: the robot sends too many messages"),
                after: Some(after.unwrap_or(RATE_LIMITED_FOR)),
            }),
            Verdict::MessageRefused => Err(DeliveryError::Refused { reason, response: PeerText::default() }),
            Verdict::Failed(None) => Err(DeliveryError::Retryable { reason, after }),
            Verdict::Failed(Some(remedy)) => {
                Err(DeliveryError::Retryable { reason: format!("{reason}: {remedy}"), after })
            }
        }
    }

    /// Notes what an answer means for the next message.
    fn note(&self, verdict: Verdict) {
        let text_is_suspect = match verdict {
            Verdict::Delivered => {
                self.options.note_accepted();
                false
            }
            // Its files are read before the next attempt: whoever corrects them need not restart anything. An answer that nobody
            // knows may be about the address, the signature or the text.
            Verdict::Failed(remedy) => {
                self.options.note_refused();
                remedy.is_none()
            }
            Verdict::MessageRefused => true,
            Verdict::RateLimited => return,
        };
        self.omit_nicknames.store(text_is_suspect, Ordering::Relaxed);
    }

    fn reported(&self) -> MutexGuard<'_, ReportedStates> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
