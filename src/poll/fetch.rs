//! Fetches the session list of a kf account. Scheduled polls and the commands `poll` and `check --online` all use it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    backoff::{conclusion, next_backoff},
    guard::PollGuard,
    official_account::OfficialAccount,
};
use crate::{
    domain::{
        active_backoff::end_after_success,
        backoff::BackoffPolicy,
        clock::{Clock, Moment},
        error_class::{ErrorClass, Scope},
        tracker::{AnswerContent, Fingerprint, SessionAnswer, TrackerUpdate},
    },
    wechat::{
        Endpoint,
        client::Response,
        error::{CallError, CallFailure},
        wire::{self, SessionList},
    },
};

/// How many intervals between permits a poll may wait in addition to its deadline. A poll may need two more permits: for
/// a token that came late, and for a retry with a new token. It queues for each.
const PERMIT_WAITS: u32 = 4;

/// Fetches session lists, compares them with the tracker, and backs off what fails. Commits nothing.
pub struct SessionFetcher {
    clock: Arc<dyn Clock>,
    limits: ArcSwap<FetchLimits>,
    /// A random key: no customer can choose an openid so that two answers have the same fingerprint.
    fingerprint_key: RandomState,
}

/// The limits of fetches.
struct FetchLimits {
    deadline: Duration,
    backoff_policy: BackoffPolicy,
}

impl SessionFetcher {
    /// A fetcher whose fetches take at most `deadline`, apart from waiting for permits.
    pub fn new(clock: Arc<dyn Clock>, deadline: Duration, backoff_policy: BackoffPolicy) -> Self {
        let limits = ArcSwap::from_pointee(FetchLimits { deadline, backoff_policy });
        Self { clock, limits, fingerprint_key: RandomState::new() }
    }

    /// Sets the limits of later fetches. Backoffs that run keep their end.
    pub(super) fn set_limits(&self, deadline: Duration, backoff_policy: BackoffPolicy) {
        self.limits.store(Arc::new(FetchLimits { deadline, backoff_policy }));
    }

    /// The longest time that a fetch for this official account may take. Waiting for permits is not WeChat's fault.
    pub fn deadline(&self, official_account: &OfficialAccount) -> Duration {
        let spacing = official_account.rate_limiter().map(|limiter| limiter.spacing()).unwrap_or_default();
        self.limits.load().deadline + spacing * PERMIT_WAITS
    }

    /// Fetches the sessions of the guarded account and compares them with what is known. A failure starts a backoff, a
    /// success ends it; an active backoff does not prevent the call.
    pub async fn fetch(&self, guard: &PollGuard) -> Result<TrackerUpdate, CallFailure> {
        let started_at = self.clock.now();
        let deadline = self.deadline(guard.official_account());
        let result = match tokio::time::timeout(deadline, self.call(guard)).await {
            Ok(response) => response.and_then(|response| self.compare(guard, &response)),
            Err(_) => Err(CallFailure::new(Endpoint::SessionList, CallError::Timeout, started_at)),
        };
        match &result {
            Ok(_) => end_backoff(guard, started_at),
            Err(failure) => self.back_off(guard, failure, started_at),
        }
        result
    }

    async fn call(&self, guard: &PollGuard) -> Result<Response, CallFailure> {
        let (official_account, account) = (guard.official_account(), guard.account());
        let has_permit = std::mem::take(&mut account.lock().has_permit);
        if !has_permit {
            official_account.acquire_permit().await;
        }
        official_account.client().session_list(&account.account().kf_account).await
    }

    /// An answer with the same fingerprint as the previous one is not parsed, and its sessions are not read.
    fn compare(&self, guard: &PollGuard, response: &Response) -> Result<TrackerUpdate, CallFailure> {
        let Response { body, sent_at, received_at, .. } = response;
        let fingerprint = Fingerprint::new(self.fingerprint_key.hash_one(body));
        let source = Endpoint::SessionList.as_str();
        let answer = |content| SessionAnswer { content, sent_at: *sent_at, received_at: *received_at };
        let data = guard.account().lock();
        if data.tracker.fingerprint == Some(fingerprint) {
            return Ok(data.tracker.after_answer(answer(AnswerContent::Unchanged), source));
        }
        drop(data);
        let text = wire::text(body);
        let sessions = wire::session_list(&text)
            .map_err(|error| guard.official_account().client().reject(response, error))?;
        let content = match &sessions {
            SessionList::Listed(sessions) => AnswerContent::Sessions(sessions, fingerprint),
            SessionList::Keyless => AnswerContent::NoList,
        };
        Ok(guard.account().lock().tracker.after_answer(answer(content), source))
    }

    fn back_off(&self, guard: &PollGuard, failure: &CallFailure, started_at: Moment) {
        let (official_account, account) = (guard.official_account(), guard.account());
        // Another program replaced the token: not the kf account's fault, and over within seconds unless it turns into a
        // worse failure. A growing backoff would starve the kf accounts whose polls happen to meet it.
        if failure.class == ErrorClass::Busy && failure.error.lacks_token() {
            return;
        }
        let policy = self.limits.load().backoff_policy;
        let next = |previous| next_backoff(&policy, previous, failure, self.clock.now());
        match failure.class.scope() {
            Scope::OfficialAccount => {
                let mut backoff = official_account.backoff();
                *backoff = Some(next(*backoff));
            }
            Scope::KfAccount => {
                let mut data = account.lock();
                data.backoff = Some(Box::new(next(data.backoff.as_deref().copied())));
            }
        }
        // A refusal that concerns the kf account alone shows that the official account works.
        if conclusion(failure.class).is_some() {
            end_after_success(&mut official_account.backoff(), started_at);
        }
    }
}

fn end_backoff(guard: &PollGuard, started_at: Moment) {
    guard.account().lock().backoff = None;
    end_after_success(&mut guard.official_account().backoff(), started_at);
}
