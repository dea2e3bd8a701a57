//! A third-party platform ("component"): its own token, shared by all official accounts that have authorized it.
//!
//! The platform's verify ticket gives its component_access_token, and that gives the official accounts theirs (see
//! `authorizer`). WeChat pushes a new ticket every ten minutes to another program of the operator's; it is read anew
//! for each fetch.
//!
//! Pages of different years disagree whether the token goes into the query as `component_access_token` or as
//! `access_token`. The component begins with the former and remembers which one WeChat does not call missing (41001).
//!
//! The floor holds for attempts to fetch a token, its own or an official account's. One attempt for an official account
//! may make several calls: again with the other spelling, with a new component token, and after an invalid refresh
//! token (61023).

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::{
    AccessToken, TokenJournal,
    cache::{Fetched, MinFetchInterval, Source, TokenCache},
    caller::Caller,
    list::AuthorizerList,
    text::{self, TextServer},
};
use crate::{
    domain::{clock::Moment, error_class::ErrorClass},
    wechat::{
        Endpoint,
        error::{CallError, CallFailure},
        http::call_refused,
        wire::{self, WireError},
    },
};

/// "The access token is missing."
const TOKEN_MISSING: i64 = 41001;

/// What a component is known to WeChat by.
#[derive(Debug)]
pub struct ComponentCredentials {
    /// Its component_appid.
    pub appid: Arc<str>,
    /// Its component_appsecret.
    pub secret: SecretString,
    /// Where the newest component_verify_ticket is.
    pub ticket: TicketSource,
}

/// Where another program of the operator's keeps the newest component_verify_ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketSource {
    /// A file that it rewrites.
    File {
        /// Its path.
        path: PathBuf,
        /// Where in the file, if it is JSON.
        json_pointer: Option<String>,
    },
    /// A server.
    Server(TextServer),
}

/// A component, shared by the official accounts that have authorized it.
pub struct Component {
    credentials: Arc<ComponentCredentials>,
    token: TokenCache,
    /// Whether `access_token` is the parameter that works.
    renamed: AtomicBool,
    list: AuthorizerList,
}

/// A call that is made with the component's token.
pub(super) struct ComponentCall<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) fields: BTreeMap<&'a str, serde_json::Value>,
    /// What an errmsg must not show of the fields.
    pub(super) secret: &'a str,
}

impl Component {
    /// `last_fetch_ago`: how long ago a fetch of its token was last recorded, if ever; `now` is the moment of that
    /// reckoning.
    pub fn new(
        credentials: Arc<ComponentCredentials>,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval =
            MinFetchInterval::new(Arc::clone(&credentials.appid), journal, last_fetch_ago, now);
        let token = TokenCache::new(min_fetch_interval);
        Self { credentials, token, renamed: AtomicBool::new(false), list: AuthorizerList::default() }
    }

    pub(super) fn appid(&self) -> &str {
        &self.credentials.appid
    }

    /// Its token to use now.
    pub(super) async fn token(&self, caller: Caller<'_>) -> Result<AccessToken, CallFailure> {
        self.token.current(self, caller).await
    }

    /// Makes a call; when the component's token is refused, once more with another.
    pub(super) async fn call<T>(
        &self,
        call: &ComponentCall<'_>,
        read: impl Fn(&str) -> Result<T, WireError>,
        caller: Caller<'_>,
    ) -> Result<T, CallFailure> {
        let token = self.token(caller).await?;
        let answer = self.call_with(&token, call, &read, caller).await;
        let Err(refused) = answer else { return answer };
        if !refused.error.rejects_token() {
            return Err(refused);
        }
        self.token.discard(&token, refused.sent_at);
        match self.token.other_than(&token, self, caller).await {
            Ok(Some(other)) => self.call_with(&other, call, &read, caller).await,
            // Why no token is to be had may be worse than that the old one was refused.
            Err(fetch) if fetch.class != ErrorClass::Busy => Err(fetch),
            Ok(None) | Err(_) => Err(refused),
        }
    }

    /// The refresh token of an official account in WeChat's list, if it is there.
    pub(super) async fn listed_refresh_token(
        &self,
        appid: &str,
        caller: Caller<'_>,
    ) -> Result<Option<SecretString>, CallFailure> {
        self.list.refresh_token(appid, self, caller).await
    }

    /// Makes a call with the parameter that worked last, and with the other one if WeChat misses the token.
    async fn call_with<T>(
        &self,
        token: &AccessToken,
        call: &ComponentCall<'_>,
        read: &impl Fn(&str) -> Result<T, WireError>,
        caller: Caller<'_>,
    ) -> Result<T, CallFailure> {
        let renamed = self.renamed.load(Ordering::Relaxed);
        let answer = exchange((parameter(renamed), token), call, read, caller).await;
        if !misses_token(&answer) {
            return answer;
        }
        let other = exchange((parameter(!renamed), token), call, read, caller).await;
        if misses_token(&other) {
            return answer;
        }
        // What failed without an errcode tells nothing.
        if other.as_ref().err().is_none_or(|failure| failure.error.errcode().is_some()) {
            self.renamed.store(!renamed, Ordering::Relaxed);
        }
        other
    }

    /// The ticket, with the fetch recorded: after a file was read, which calls nobody, but before a server is asked.
    async fn ticket(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        caller: Caller<'_>,
    ) -> Result<SecretString, CallFailure> {
        let now = caller.client.now();
        match &self.credentials.ticket {
            TicketSource::File { path, json_pointer } => {
                let ticket = text::from_file(path, json_pointer.as_deref()).map_err(|problem| {
                    CallFailure::new(self.endpoint(), CallError::TicketFile(problem.into()), now)
                })?;
                min_fetch_interval.record(now).await;
                Ok(ticket)
            }
            TicketSource::Server(server) => {
                min_fetch_interval.record(now).await;
                server.ask(caller).await
            }
        }
    }
}

impl Source for Component {
    fn endpoint(&self) -> Endpoint {
        Endpoint::ComponentToken
    }

    fn tells_expiry(&self) -> bool {
        true
    }

    fn fetch<'a>(
        &'a self,
        min_fetch_interval: &'a mut MinFetchInterval,
        caller: Caller<'a>,
    ) -> BoxFuture<'a, Result<Fetched, CallFailure>> {
        Box::pin(async move {
            let ticket = self.ticket(min_fetch_interval, caller).await?;
            let secrets = [self.credentials.secret.expose_secret(), ticket.expose_secret()];
            let fields = BTreeMap::from([
                ("component_appid", self.appid().into()),
                ("component_appsecret", secrets[0].into()),
                ("component_verify_ticket", secrets[1].into()),
            ]);
            let request = caller.client.post(caller.client.url(self.endpoint()), &fields);
            let read = |answer: &str| {
                let answer = wire::component::component_token(answer)
                    .map_err(|error| call_refused(error, &secrets))?;
                Ok(Fetched::new((*answer.component_access_token).into(), answer.expires_in))
            };
            caller.call(self.endpoint(), caller.client.exchange(request), read).await
        })
    }
}

fn parameter(renamed: bool) -> &'static str {
    if renamed { "access_token" } else { "component_access_token" }
}

fn misses_token<T>(answer: &Result<T, CallFailure>) -> bool {
    answer.as_ref().is_err_and(|failure| failure.error.errcode() == Some(TOKEN_MISSING))
}

async fn exchange<T>(
    (parameter, token): (&str, &AccessToken),
    call: &ComponentCall<'_>,
    read: &impl Fn(&str) -> Result<T, WireError>,
    caller: Caller<'_>,
) -> Result<T, CallFailure> {
    let mut url = caller.client.url(call.endpoint);
    url.query_pairs_mut().append_pair(parameter, token.expose());
    let request = caller.client.post(url, &call.fields);
    let read =
        |answer: &str| read(answer).map_err(|error| call_refused(error, &[token.expose(), call.secret]));
    caller.call(call.endpoint, caller.client.exchange(request), read).await
}
