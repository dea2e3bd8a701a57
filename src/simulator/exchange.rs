//! Computes the response to one request, and the fault that happens to it. Synchronous: `server` does the waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::Method;

use super::Shared;
use super::api_call::ApiCall;
use super::endpoints::component::ComponentRequest;
use super::endpoints::{agents, component, operator, quota, sessions, token};
use super::fault::Fault;
use super::ledger::RecordedResponse;
use super::lock;
use super::poll_recorder::PollRecorder;
use super::request::{HttpRequest, ResolvedRequest};
use super::response::{self, SimulatedResponse};
use super::world::OfficialAccount;

/// A response and how to send it.
#[derive(Debug)]
pub(super) struct PlannedResponse {
    pub(super) response: SimulatedResponse,
    /// What happens to the response while it is sent, or to the connection instead.
    pub(super) fault: Option<Fault>,
    /// Must live until the response is sent or the client has disconnected.
    pub(super) recorder: Option<PollRecorder>,
}

pub(super) fn plan_response(shared: &Arc<Shared>, request: &HttpRequest<'_>) -> PlannedResponse {
    let Some(endpoint) = ApiCall::from_path(request.path) else {
        tracing::debug!(path = request.path, "Refused a request: unknown path");
        return PlannedResponse { response: SimulatedResponse::not_found(), fault: None, recorder: None };
    };
    let resolved = ResolvedRequest::resolve(shared, endpoint, request);
    let _order = resolved.official.and_then(OfficialAccount::lock_transfers);
    let now_ms = shared.clock.now_ms();
    resolved.count(shared, now_ms);
    if let Some(official) = resolved.official {
        official.apply_transfers(now_ms, &shared.ledger);
    }
    let recorder = PollRecorder::start(shared, &resolved, now_ms);
    let target = resolved.fault_target(request.connection_use, now_ms - shared.world.start_ms);
    let fault = shared.faults.next_fault(&target);
    let exchange = Exchange { shared, request, resolved: &resolved, now_ms };
    let (response, recorded) = exchange.respond(fault.as_ref());
    tracing::debug!(
        endpoint = endpoint.path(),
        official_account = resolved.official.map(|official| &*official.name),
        kf_account = resolved.kf_name.as_deref(),
        fault = fault.as_ref().map(tracing::field::debug),
        status = response.status.as_u16(),
        "Answered a request"
    );
    let recorder = recorder.map(|recorder| recorder.with_response(recorded));
    PlannedResponse { response, fault, recorder }
}

struct Exchange<'a> {
    shared: &'a Shared,
    request: &'a HttpRequest<'a>,
    resolved: &'a ResolvedRequest<'a>,
    now_ms: i64,
}

impl Exchange<'_> {
    /// Returns the response, and what the ledger records.
    fn respond(&self, fault: Option<&Fault>) -> (SimulatedResponse, RecordedResponse) {
        if let Some((fault, response)) =
            fault.and_then(|fault| Some((fault, response::fault_response(fault, self.now_ms)?)))
        {
            let recorded = match fault {
                Fault::Errcode(0) | Fault::ErrcodeAsText(0) => RecordedResponse::Keyless,
                Fault::Errcode(errcode) | Fault::ErrcodeAsText(errcode) => {
                    RecordedResponse::Refused(*errcode)
                }
                _ => RecordedResponse::Failed(fault.clone()),
            };
            return (response, recorded);
        }
        self.apply_token_fault(fault);
        let (response, recorded) = if self.resolved.endpoint.is_of_operator() {
            (self.operator_response(), RecordedResponse::Keyless)
        } else {
            match self.wechat_response(fault) {
                Ok((body, recorded)) => (SimulatedResponse::json(body), recorded),
                Err(errcode) => {
                    (SimulatedResponse::error(errcode, self.now_ms), RecordedResponse::Refused(errcode))
                }
            }
        };
        let text_plain = self.resolved.official.is_some_and(|official| official.style.text_plain);
        let response = if text_plain { response.text_plain() } else { response };
        match fault {
            Some(Fault::TruncatedBody) => (response, RecordedResponse::Failed(Fault::TruncatedBody)),
            Some(fault) if fault.alters_form() => {
                (response.altered_by(fault), RecordedResponse::Questionable(Box::new(recorded)))
            }
            Some(fault) => (response.altered_by(fault), recorded),
            None => (response, recorded),
        }
    }

    /// Applies the faults that act on tokens rather than on the response.
    fn apply_token_fault(&self, fault: Option<&Fault>) {
        let issuer = match *self.resolved {
            ResolvedRequest { component: Some(component), .. } => &component.token_issuer,
            ResolvedRequest { official: Some(official), .. } => &official.token_issuer,
            _ => return,
        };
        match fault {
            Some(Fault::ExpireTokens) => lock(issuer).expire_all(self.now_ms),
            Some(Fault::RevokeTokens) => lock(issuer).revoke_all(),
            Some(Fault::CompetingTokenFetch) => drop(lock(issuer).issue_classic(self.now_ms)),
            _ => {}
        }
    }

    fn operator_response(&self) -> SimulatedResponse {
        let ResolvedRequest { official, component, .. } = *self.resolved;
        match self.resolved.endpoint {
            ApiCall::TicketServer => operator::ticket(component, self.request.headers, self.now_ms),
            _ => {
                let required = self.shared.token_server_header.as_ref();
                operator::token(official, required, self.request.headers, self.now_ms)
            }
        }
    }

    fn wechat_response(&self, fault: Option<&Fault>) -> Result<(Vec<u8>, RecordedResponse), i64> {
        let (resolved, endpoint, now_ms) = (self.resolved, self.resolved.endpoint, self.now_ms);
        let method = if endpoint.is_post() { &Method::POST } else { &Method::GET };
        if self.request.method != method {
            return Err(if endpoint.is_post() { 43002 } else { 43001 });
        }
        if endpoint.is_of_component() {
            let request = ComponentRequest {
                endpoint,
                query: self.request.query,
                body: resolved.component_body.as_ref(),
                component: resolved.component,
                official: resolved.official,
            };
            let body = component::respond(request, &self.shared.world, now_ms)?;
            return Ok((body, RecordedResponse::Keyless));
        }
        if !endpoint.takes_access_token() {
            let body = token::token(endpoint, resolved.credentials.as_ref(), resolved.official, now_ms)?;
            return Ok((body, RecordedResponse::Keyless));
        }
        let official = self.authorized()?;
        let moment = (now_ms, &self.shared.ledger);
        let body = match endpoint {
            ApiCall::GetSessionList => {
                lock(&official.session_list_quota).count_call(now_ms)?;
                return sessions::session_list(official, resolved.kf_account.as_deref(), fault, moment);
            }
            ApiCall::GetKfList => agents::kf_list(official, moment),
            ApiCall::GetOnlineKfList => agents::online_kf_list(official, moment),
            ApiCall::GetWaitCase => agents::wait_case(official, moment, self.shared.world.start_ms),
            _ => quota::quota_get(official, self.request.body, now_ms)?,
        };
        Ok((body, RecordedResponse::Keyless))
    }

    /// Returns the official account of the token, if the token is valid.
    fn authorized(&self) -> Result<&OfficialAccount, i64> {
        let token = self.resolved.access_token.as_deref().ok_or(41001)?;
        let official = self.resolved.official.ok_or(40001)?;
        let issuer = lock(&official.token_issuer);
        issuer.validate(token, self.now_ms)?;
        if issuer.is_authorizer_token(token) {
            let component = self.shared.world.component_of(official);
            if component.is_some_and(|component| component.address_refused.load(Ordering::Relaxed)) {
                return Err(61004);
            }
        }
        Ok(official)
    }
}
