//! One request and its answer: who calls, what goes wrong, what is answered. Synchronous; `server` does the waiting.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Method;

use super::Shared;
use super::answer::{self, Answer};
use super::endpoints::{self, Credentials};
use super::fault::{Call, Fault, OnConnection};
use super::flight::Flight;
use super::ledger::Answered;
use super::lock;
use super::routes::{Endpoint, query_parameter};
use super::token::{Verdict, official_account_number};
use super::world::{KfAccount, OfficialAccount};

/// A request, read to its end.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    pub(super) on_connection: OnConnection,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) delivery: Delivery,
    /// Lives until the answer is sent or the client gone.
    pub(super) flight: Option<Flight>,
}

/// How an answer reaches the client, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    After(Duration),
    Drip(Duration),
    Truncated,
    Never,
    Close,
    Reset,
}

impl Delivery {
    fn of(fault: Option<&Fault>) -> Self {
        match fault {
            Some(Fault::Slow(delay)) => Delivery::After(*delay),
            Some(Fault::Drip(over)) => Delivery::Drip(*over),
            Some(Fault::TruncatedBody) => Delivery::Truncated,
            Some(Fault::Hang) => Delivery::Never,
            Some(Fault::Close) => Delivery::Close,
            Some(Fault::Reset) => Delivery::Reset,
            _ => Delivery::Whole,
        }
    }
}

/// Decides everything about the answer.
pub(super) fn reply(shared: &Arc<Shared>, request: &Request<'_>) -> Reply {
    let Some(endpoint) = Endpoint::from_path(request.path) else {
        tracing::debug!(path = request.path, "Refused a request: no such path");
        return Reply { answer: Answer::not_found(), delivery: Delivery::Whole, flight: None };
    };
    let now_ms = shared.clock.now_ms();
    let caller = Caller::identify(shared, endpoint, request);
    caller.count(shared);
    let flight = Flight::depart(shared, &caller, now_ms);
    let fault = shared.faults.strike(&caller.call(request.on_connection, now_ms - shared.world.start_ms));
    let exchange = Exchange { shared, endpoint, request, caller: &caller, now_ms };
    let (answer, answered) = exchange.answer(fault.as_ref());
    tracing::debug!(
        endpoint = endpoint.path(),
        official_account = caller.official.map(|official| &*official.name),
        kf_account = caller.kf_name.as_deref(),
        fault = fault.as_ref().map(Fault::as_str),
        status = answer.status.as_u16(),
        "Answered a request"
    );
    let flight = flight.map(|flight| flight.carrying(answered));
    Reply { answer, delivery: Delivery::of(fault.as_ref()), flight }
}

/// Who calls, as far as the request tells.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    endpoint: Endpoint,
    access_token: Option<Cow<'a, str>>,
    /// None also if the body of a token call is no JSON.
    credentials: Option<Credentials<'a>>,
    pub(super) official: Option<&'a OfficialAccount>,
    kf_name: Option<Cow<'a, str>>,
    pub(super) kf_account: Option<Arc<KfAccount>>,
}

impl<'a> Caller<'a> {
    fn identify(shared: &'a Shared, endpoint: Endpoint, request: &Request<'a>) -> Self {
        let mut caller = Caller {
            endpoint,
            access_token: None,
            credentials: None,
            official: None,
            kf_name: None,
            kf_account: None,
        };
        match endpoint {
            Endpoint::Token => caller.credentials = Some(Credentials::from_query(request.query)),
            Endpoint::StableToken => caller.credentials = Credentials::from_json(request.body),
            _ => caller.access_token = query_parameter(request.query, "access_token"),
        }
        let appid = caller.credentials.as_ref().and_then(|credentials| credentials.appid.as_deref());
        let by_token = || {
            let number = official_account_number(caller.access_token.as_deref()?)?;
            shared.world.official_accounts().get(number)
        };
        caller.official = appid.map_or_else(by_token, |appid| shared.world.by_appid(appid));
        if endpoint == Endpoint::GetSessionList {
            caller.kf_name = query_parameter(request.query, "kf_account");
            let named = caller.official.zip(caller.kf_name.as_deref());
            caller.kf_account = named.and_then(|(official, name)| official.kf_account(name));
        }
        caller
    }

    fn count(&self, shared: &Shared) {
        let endpoint = self.endpoint as usize;
        shared.requests[endpoint].fetch_add(1, Ordering::Relaxed);
        if let Some(official) = self.official {
            official.requests[endpoint].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(account) = &self.kf_account {
            account.polls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn call(&self, on_connection: OnConnection, since_start_ms: i64) -> Call<'_> {
        Call {
            endpoint: self.endpoint,
            official_account: self.official.map(|official| [&*official.name, &*official.appid]),
            kf_account: self.kf_name.as_deref(),
            on_connection,
            since_start_ms,
        }
    }
}

struct Exchange<'a> {
    shared: &'a Shared,
    endpoint: Endpoint,
    request: &'a Request<'a>,
    caller: &'a Caller<'a>,
    now_ms: i64,
}

impl Exchange<'_> {
    /// The answer, and what it was for the ledger.
    fn answer(&self, fault: Option<&Fault>) -> (Answer, Answered) {
        if let Some((fault, answer)) =
            fault.and_then(|fault| Some((fault, answer::instead_of_answer(fault, self.now_ms)?)))
        {
            let answered = match fault {
                Fault::Errcode(0) | Fault::ErrcodeAsText(0) => Answered::Keyless,
                Fault::Errcode(errcode) | Fault::ErrcodeAsText(errcode) => Answered::Refused(*errcode),
                _ => Answered::Failed(fault.as_str()),
            };
            return (answer, answered);
        }
        self.disturb_tokens(fault);
        let (answer, answered) = match self.right_answer(fault) {
            Ok((body, answered)) => (Answer::json(body), answered),
            Err(errcode) => (Answer::error(errcode, self.now_ms), Answered::Refused(errcode)),
        };
        let text_plain = self.caller.official.is_some_and(|official| official.style.text_plain);
        let answer = if text_plain { answer.text_plain() } else { answer };
        match fault {
            Some(Fault::TruncatedBody) => (answer, Answered::Failed("truncated_body")),
            Some(fault) if fault.disfigures() => {
                (answer::disfigured(answer, fault), Answered::Questionable(Box::new(answered)))
            }
            Some(fault) => (answer::disfigured(answer, fault), answered),
            None => (answer, answered),
        }
    }

    /// Faults that act on the world rather than on the answer.
    fn disturb_tokens(&self, fault: Option<&Fault>) {
        let Some(official) = self.caller.official else { return };
        match fault {
            Some(Fault::ExpireTokens) => lock(&official.desk).expire_all(self.now_ms),
            Some(Fault::RevokeTokens) => lock(&official.desk).revoke_all(),
            Some(Fault::Meddle) => drop(lock(&official.desk).issue_classic(self.now_ms)),
            _ => {}
        }
    }

    fn right_answer(&self, fault: Option<&Fault>) -> Result<(Vec<u8>, Answered), i64> {
        let wanted = if self.endpoint.is_post() { &Method::POST } else { &Method::GET };
        if self.request.method != wanted {
            return Err(if self.endpoint.is_post() { 43002 } else { 43001 });
        }
        let (now_ms, book) = (self.now_ms, &self.shared.ledger);
        if matches!(self.endpoint, Endpoint::Token | Endpoint::StableToken) {
            let credentials = self.caller.credentials.as_ref();
            let body = endpoints::token(self.endpoint, credentials, self.caller.official, now_ms)?;
            return Ok((body, Answered::Keyless));
        }
        let official = self.authorized()?;
        let body = match self.endpoint {
            Endpoint::GetSessionList => {
                let account = self.caller.kf_account.as_deref();
                return endpoints::session_list(official, account, fault, (now_ms, book));
            }
            Endpoint::GetKfList => endpoints::kf_list(official, now_ms, book),
            Endpoint::GetOnlineKfList => endpoints::online_kf_list(official, now_ms, book),
            Endpoint::GetWaitCase => endpoints::wait_case(official, now_ms, book, self.shared.world.start_ms),
            Endpoint::QuotaGet => endpoints::quota_get(official, self.request.body, now_ms)?,
            Endpoint::Token | Endpoint::StableToken => Vec::new(),
        };
        Ok((body, Answered::Keyless))
    }

    /// The official account whose valid token was presented.
    fn authorized(&self) -> Result<&OfficialAccount, i64> {
        let token = self.caller.access_token.as_deref().ok_or(41001)?;
        let official = self.caller.official.ok_or(40001)?;
        match lock(&official.desk).judge(token, self.now_ms) {
            Verdict::Valid => Ok(official),
            Verdict::Expired => Err(42001),
            Verdict::NotLatest => Err(40001),
        }
    }
}
