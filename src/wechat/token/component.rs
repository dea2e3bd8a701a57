//! A third-party platform ("component") and its token, which all official accounts share that have authorized it.
//!
//! The platform's verify ticket gives its component_access_token, which in turn gives the tokens of the official accounts
//! (see [`super::authorizer`]). WeChat pushes a new ticket every ten minutes to another program of the operator. It is
//! read again for each fetch.
//!
//! WeChat's documentation disagrees on the query parameter of the token: `component_access_token` or `access_token`. The
//! component begins with the first, and switches when WeChat answers that the token is missing (41001).
//!
//! The minimum fetch interval counts attempts to fetch a token. One attempt for an official account may make several
//! calls: with the other parameter, with a new component token, and after an invalid refresh token (61023).

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};

use super::{
    access_token::AccessToken,
    appsecret::note_answer,
    authorizer_list::{AuthorizerList, PAGE_SIZE},
    cache::{FetchWait, FetchedToken, TokenCache, TokenFetcher},
    external::{self, TokenServer},
    journal::TokenJournal,
    min_fetch_interval::MinFetchInterval,
    observed_client::ObservedClient,
    shared::{self, SharedComponentToken, SharedTokens},
};
use crate::{
    domain::{clock::Moment, endpoint::Endpoint, error_class::ErrorClass},
    secrets::{RotatableSecret, sealed::SealError},
    wechat::{
        error::{CallError, CallFailure},
        wire::{WireError, tokens},
    },
};

/// "The access token is missing."
const TOKEN_MISSING: i64 = 41001;

/// The credentials of a component.
#[derive(Debug, PartialEq, Eq)]
pub struct ComponentCredentials {
    /// The component_appid.
    pub appid: Arc<str>,
    /// The component_appsecret.
    pub secret: RotatableSecret<SecretString>,
    /// Where to read the newest component_verify_ticket.
    pub ticket: TicketSource,
}

/// Where another program of the operator keeps the newest component_verify_ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum TicketSource {
    /// A file that the program rewrites. If it is JSON, the pointer says where the text is.
    File { path: PathBuf, json_pointer: Option<String> },
    /// An HTTP server.
    Server(TokenServer),
}

/// A component, shared by the official accounts that have authorized it.
pub struct Component {
    appid: Arc<str>,
    token: TokenCache<ComponentCredentials>,
    /// Whether `access_token` is the parameter that works.
    uses_short_parameter: AtomicBool,
    /// The last reading of WeChat's list, if any. Locked while a caller reads.
    list: tokio::sync::Mutex<Option<AuthorizerList>>,
    /// Where other replicas share the token; `None` if no other process uses it.
    shared: Option<SharedComponentToken>,
}

/// A call with the component's token.
pub(super) struct ComponentCall<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) fields: BTreeMap<&'a str, serde_json::Value>,
    /// The secret in the fields, to be removed from an errmsg.
    pub(super) secret: &'a str,
}

impl Component {
    /// `last_fetch_ago`: how long before `now` the last fetch of its token was recorded, if ever.
    pub fn new(
        credentials: Arc<ComponentCredentials>,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval =
            MinFetchInterval::new(Arc::clone(&credentials.appid), journal, last_fetch_ago, now);
        let appid = Arc::clone(&credentials.appid);
        let token = TokenCache::new(credentials, min_fetch_interval);
        let uses_short_parameter = AtomicBool::new(false);
        Self { appid, token, uses_short_parameter, list: Default::default(), shared: None }
    }

    /// Shares its token with other replicas.
    #[must_use]
    pub fn sharing(self, tokens: Arc<dyn SharedTokens>) -> Self {
        Self { shared: Some(SharedComponentToken::new(Arc::clone(&self.appid), tokens)), ..self }
    }

    /// Sets the credentials for later fetches of its token. Other credentials than the present ones make the token due for renewal;
    /// it stays in use until then and while fetching fails. The component_appid is the same.
    pub fn set_credentials(&self, credentials: Arc<ComponentCredentials>) {
        if *self.token.source() != *credentials {
            self.token.set_source(credentials);
            // The last reading of the list may have failed because of the earlier credentials.
            if let Ok(mut list) = self.list.try_lock() {
                *list = None;
            }
        }
    }

    pub(super) fn appid(&self) -> &str {
        &self.appid
    }

    /// Returns the component's token to use now.
    pub(super) async fn token(&self, client: ObservedClient<'_>) -> Result<AccessToken, CallFailure> {
        self.token.current(self, client).await
    }

    /// How long the fetch of its token has to wait; `None` if there is a usable token.
    pub(super) fn fetch_wait(&self, now: Moment) -> Option<FetchWait> {
        self.token.fetch_wait(now)
    }

    /// Makes a call, and repeats it once with another token if the component's token is rejected.
    pub(super) async fn call<T>(
        &self,
        call: &ComponentCall<'_>,
        parse: impl Fn(&str) -> Result<T, WireError>,
        client: ObservedClient<'_>,
    ) -> Result<T, CallFailure> {
        let token = self.token(client).await?;
        let answer = self.call_with(&token, call, &parse, client).await;
        let Err(failure) = answer else { return answer };
        if !failure.error.rejects_token() {
            return Err(failure);
        }
        self.token.discard(&token, &failure);
        if let Some(shared) = &self.shared {
            shared.note_rejected(&token);
        }
        match self.token.other_than(&token, self, client).await {
            Ok(Some(other)) => self.call_with(&other, call, &parse, client).await,
            // The reason why no token can be fetched may be more serious than the rejection.
            Err(fetch) if fetch.class != ErrorClass::Busy => Err(fetch),
            Ok(None) | Err(_) => Err(failure),
        }
    }

    /// Returns the refresh token of an official account from WeChat's list, if the list has one. All callers within a
    /// minute share one reading, even a failed one.
    pub(super) async fn listed_refresh_token(
        &self,
        appid: &str,
        client: ObservedClient<'_>,
    ) -> Result<Option<SecretString>, CallFailure> {
        let mut last = self.list.lock().await;
        // Without a token the list cannot be read, and the minute must not begin.
        self.token(client).await?;
        let now = client.now();
        let list = match &mut *last {
            Some(list) if list.is_current(now) => list,
            outdated => outdated.insert(AuthorizerList::new(now)),
        };
        // The caller may be cancelled at any page.
        while let Some(offset) = list.next_offset() {
            let fields = BTreeMap::from([
                ("component_appid", self.appid().into()),
                ("offset", offset.into()),
                ("count", PAGE_SIZE.into()),
            ]);
            let call = ComponentCall { endpoint: Endpoint::AuthorizerList, fields, secret: "" };
            let page = self.call(&call, tokens::authorizer_page, client).await;
            list.add(page, self.appid(), client.now());
        }
        list.refresh_token(appid)
    }

    /// The refresh token of an official account as it is to be stored: sealed if replicas share the store.
    pub(super) fn refresh_token_to_store(
        &self,
        appid: &str,
        token: &SecretString,
    ) -> Result<SecretString, SealError> {
        match self.shared {
            None => Ok(token.clone()),
            Some(_) => Ok(seal_refresh_token(&self.token.source(), appid, token)?.into()),
        }
    }

    /// The refresh token of an official account from what was stored; `None` if that was sealed with another secret.
    pub(super) fn stored_refresh_token(&self, appid: &str, stored: SecretString) -> Option<SecretString> {
        match self.shared {
            None => Some(stored),
            Some(_) => {
                let credentials = self.token.source();
                let place = place_of_refresh_token(&credentials, appid);
                shared::open(&credentials.secret.value(), stored.expose_secret(), &place)
            }
        }
    }

    /// Makes a call with the parameter that worked last, and with the other one if WeChat misses the token.
    async fn call_with<T>(
        &self,
        token: &AccessToken,
        call: &ComponentCall<'_>,
        parse: &impl Fn(&str) -> Result<T, WireError>,
        client: ObservedClient<'_>,
    ) -> Result<T, CallFailure> {
        let short = self.uses_short_parameter.load(Ordering::Relaxed);
        let answer = exchange((parameter(short), token), call, parse, client).await;
        if !misses_token(&answer) {
            return answer;
        }
        let other = exchange((parameter(!short), token), call, parse, client).await;
        if misses_token(&other) {
            return answer;
        }
        // A failure without an errcode does not show whether the parameter works.
        if other.as_ref().err().is_none_or(|failure| failure.error.errcode().is_some()) {
            self.uses_short_parameter.store(!short, Ordering::Relaxed);
        }
        other
    }

    /// Fetches the token from WeChat.
    async fn fetch_from_wechat(
        &self,
        credentials: &ComponentCredentials,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let endpoint = Endpoint::ComponentToken;
        let ticket = self.ticket(&credentials.ticket, min_fetch_interval, client).await?;
        let secret = credentials.secret.for_attempt();
        let secrets = [secret.expose_secret(), ticket.expose_secret()];
        let fields = BTreeMap::from([
            ("component_appid", self.appid().into()),
            ("component_appsecret", secrets[0].into()),
            ("component_verify_ticket", secrets[1].into()),
        ]);
        let request = client.client.post(client.client.url(endpoint), &fields);
        let parse = |answer: &str| {
            let issued = tokens::component_token(answer);
            Ok(issued.map_err(|error| CallError::from_wire(error, &secrets))?.into())
        };
        let exchange = client.client.exchange(endpoint, request);
        let fetched = client.call(endpoint, exchange, parse).await;
        note_answer(&credentials.secret, &fetched);
        fetched
    }

    /// Reads the ticket, and records the fetch: before a server is called, but after a file was read, since an unusable
    /// file causes no call.
    async fn ticket(
        &self,
        source: &TicketSource,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<SecretString, CallFailure> {
        let now = client.now();
        match source {
            TicketSource::File { path, json_pointer } => {
                let ticket = external::read_token_file(path, json_pointer.as_deref()).map_err(|problem| {
                    CallFailure::new(Endpoint::ComponentToken, CallError::TicketFile(problem.into()), now)
                })?;
                min_fetch_interval.record(now).await;
                Ok(ticket)
            }
            TicketSource::Server(server) => {
                min_fetch_interval.record(now).await;
                server.fetch(client).await
            }
        }
    }
}

impl TokenFetcher for Component {
    type Source = ComponentCredentials;

    fn endpoint(&self, _source: &ComponentCredentials) -> Endpoint {
        Endpoint::ComponentToken
    }

    async fn fetch(
        &self,
        credentials: &ComponentCredentials,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let fetch = async |min_fetch_interval: &mut MinFetchInterval| {
            self.fetch_from_wechat(credentials, min_fetch_interval, client).await
        };
        match &self.shared {
            None => fetch(min_fetch_interval).await,
            Some(shared) => shared.fetch(&credentials.secret, min_fetch_interval, client, fetch).await,
        }
    }
}

/// Seals the refresh token of an official account for a store that replicas share.
pub(crate) fn seal_refresh_token(
    credentials: &ComponentCredentials,
    appid: &str,
    token: &SecretString,
) -> Result<String, SealError> {
    shared::seal(&credentials.secret.value(), token, &place_of_refresh_token(credentials, appid))
}

fn place_of_refresh_token(credentials: &ComponentCredentials, appid: &str) -> String {
    format!("refresh token of {appid} for {}", credentials.appid)
}

fn parameter(short: bool) -> &'static str {
    if short { "access_token" } else { "component_access_token" }
}

fn misses_token<T>(answer: &Result<T, CallFailure>) -> bool {
    answer.as_ref().is_err_and(|failure| failure.error.errcode() == Some(TOKEN_MISSING))
}

async fn exchange<T>(
    (parameter, token): (&str, &AccessToken),
    call: &ComponentCall<'_>,
    parse: &impl Fn(&str) -> Result<T, WireError>,
    client: ObservedClient<'_>,
) -> Result<T, CallFailure> {
    let mut url = client.client.url(call.endpoint);
    url.query_pairs_mut().append_pair(parameter, token.expose());
    let request = client.client.post(url, &call.fields);
    let parse = |answer: &str| {
        parse(answer).map_err(|error| CallError::from_wire(error, &[token.expose(), call.secret]))
    };
    client.call(call.endpoint, client.client.exchange(call.endpoint, request), parse).await
}
