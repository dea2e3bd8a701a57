//! One request and its answer: what goes wrong, what is answered. Synchronous; `server` does the waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::{HeaderMap, Method};

use super::Shared;
use super::answer::{self, Answer};
use super::caller::Caller;
use super::endpoints::component::Asked;
use super::endpoints::{agents, component, operator, quota, sessions, token};
use super::fault::{Fault, OnConnection};
use super::flight::Flight;
use super::ledger::Answered;
use super::lock;
use super::quota::Refusal;
use super::routes::Endpoint;
use super::token::Verdict;
use super::world::OfficialAccount;

/// A request, read to its end.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    pub(super) headers: &'a HeaderMap,
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
    let caller = Caller::identify(shared, endpoint, request);
    let _order = caller.official.and_then(OfficialAccount::in_order);
    let now_ms = shared.clock.now_ms();
    caller.count(shared, now_ms);
    if let Some(official) = caller.official {
        official.settle(now_ms, &shared.ledger);
    }
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
        let (answer, answered) = match self.endpoint {
            endpoint if endpoint.is_of_operator() => (self.answer_of_operator(), Answered::Keyless),
            _ => match self.right_answer(fault) {
                Ok((body, answered)) => (Answer::json(body), answered),
                Err(errcode) => (Answer::error(errcode, self.now_ms), Answered::Refused(errcode)),
            },
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

    /// Faults that act on the world rather than on the answer: on the tokens of whoever makes the call.
    fn disturb_tokens(&self, fault: Option<&Fault>) {
        let desk = match *self.caller {
            Caller { component: Some(component), .. } => &component.desk,
            Caller { official: Some(official), .. } => &official.desk,
            _ => return,
        };
        match fault {
            Some(Fault::ExpireTokens) => lock(desk).expire_all(self.now_ms),
            Some(Fault::RevokeTokens) => lock(desk).revoke_all(),
            Some(Fault::Meddle) => drop(lock(desk).issue_classic(self.now_ms)),
            _ => {}
        }
    }

    fn answer_of_operator(&self) -> Answer {
        let Caller { official, component, .. } = *self.caller;
        match self.endpoint {
            Endpoint::TicketServer => operator::ticket(component, self.request.headers, self.now_ms),
            _ => {
                let required = self.shared.token_server_header.as_ref();
                operator::token(official, required, self.request.headers, self.now_ms)
            }
        }
    }

    fn right_answer(&self, fault: Option<&Fault>) -> Result<(Vec<u8>, Answered), i64> {
        let wanted = if self.endpoint.is_post() { &Method::POST } else { &Method::GET };
        if self.request.method != wanted {
            return Err(if self.endpoint.is_post() { 43002 } else { 43001 });
        }
        let (Caller { credentials, component_call, .. }, now_ms) = (self.caller, self.now_ms);
        if self.endpoint.is_of_component() {
            let asked = Asked {
                endpoint: self.endpoint,
                query: self.request.query,
                call: component_call.as_ref(),
                component: self.caller.component,
                official: self.caller.official,
            };
            return Ok((component::answer(asked, &self.shared.world, now_ms)?, Answered::Keyless));
        }
        if !self.endpoint.takes_access_token() {
            let body = token::token(self.endpoint, credentials.as_ref(), self.caller.official, now_ms)?;
            return Ok((body, Answered::Keyless));
        }
        let official = self.authorized()?;
        lock(&official.limits)[self.endpoint as usize].take(now_ms).map_err(Refusal::errcode)?;
        let moment = (now_ms, &self.shared.ledger);
        let body = match self.endpoint {
            Endpoint::GetSessionList => {
                let account = self.caller.kf_account.as_deref();
                return sessions::session_list(official, account, fault, moment);
            }
            Endpoint::GetKfList => agents::kf_list(official, moment),
            Endpoint::GetOnlineKfList => agents::online_kf_list(official, moment),
            Endpoint::GetWaitCase => agents::wait_case(official, moment, self.shared.world.start_ms),
            _ => quota::quota_get(official, self.request.body, now_ms)?,
        };
        Ok((body, Answered::Keyless))
    }

    /// The official account whose valid token was presented, and which is granted this call.
    fn authorized(&self) -> Result<&OfficialAccount, i64> {
        let token = self.caller.access_token.as_deref().ok_or(41001)?;
        let official = self.caller.official.ok_or(40001)?;
        let desk = lock(&official.desk);
        match desk.judge(token, self.now_ms) {
            Verdict::Valid => {}
            Verdict::Expired => return Err(42001),
            Verdict::NotLatest => return Err(40001),
        }
        if desk.is_authorizer_token(token) {
            let component = self.shared.world.component_of(official);
            if component.is_some_and(|component| component.address_refused.load(Ordering::Relaxed)) {
                return Err(61004);
            }
        }
        if official.withheld[self.endpoint as usize].load(Ordering::Relaxed) {
            return Err(48001);
        }
        Ok(official)
    }
}
