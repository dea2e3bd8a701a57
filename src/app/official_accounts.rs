//! Builds official accounts that can call WeChat: HTTP client, tokens, components, rate limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;

use super::{
    error::AppError,
    token_journal::{NullTokenJournal, StoreTokenJournal},
};
use crate::{
    config::{self, ComponentCredentials, Config, TicketSource, TokenConfig, TokenSource},
    domain::clock::{Clock, Moment},
    metrics::Metrics,
    poll::OfficialAccount,
    status::{CallCounters, OfficialAccountStatus},
    store::Store,
    tls::TlsRoots,
    wechat::{
        CallObserver,
        client::OfficialAccountClient,
        http::{ClientOptions, WechatClient},
        rate_limit::RateLimiter,
        token::{Authorization, Component, TokenJournal, TokenProvider},
    },
};

/// Builds official accounts. They share the HTTP client, the components and the token records of the store.
pub struct OfficialAccountFactory {
    client: Arc<WechatClient>,
    journal: Arc<dyn TokenJournal>,
    recorded: RecordedTokens,
    /// By component_appid. Each is built for the first official account that names it.
    components: Mutex<HashMap<Arc<str>, Arc<Component>>>,
    clock: Arc<dyn Clock>,
}

/// The token records of the store.
#[derive(Default)]
struct RecordedTokens {
    /// When a token was last fetched, by appid or component_appid.
    fetches: HashMap<String, Timestamp>,
    /// By appid.
    refresh_tokens: HashMap<String, SecretString>,
}

impl OfficialAccountFactory {
    /// A factory whose official accounts record their token fetches and refresh tokens in the store.
    pub async fn build(config: &Config, store: &Store, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let recorded = RecordedTokens {
            fetches: store.token_fetches().await?,
            refresh_tokens: store.refresh_tokens().await?,
        };
        Self::with_journal(config, Arc::new(StoreTokenJournal::new(store.clone())), recorded, clock)
    }

    /// A factory without a store. Refresh tokens cannot be stored, so official accounts that have authorized a component
    /// must not be called.
    pub fn without_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        Self::with_journal(config, Arc::new(NullTokenJournal), RecordedTokens::default(), clock)
    }

    fn with_journal(
        config: &Config,
        journal: Arc<dyn TokenJournal>,
        recorded: RecordedTokens,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let client = build_client(config, &clock)?;
        Ok(Self { client, journal, recorded, components: Mutex::default(), clock })
    }

    /// Builds an official account, without kf accounts yet. `ticks` counts the ticks of its schedule; `metrics` count its
    /// calls.
    pub fn official_account(
        &self,
        configured: &config::OfficialAccountConfig,
        ticks: Arc<AtomicU64>,
        metrics: &Metrics,
    ) -> Arc<OfficialAccount> {
        let calls = Arc::<CallCounters>::default();
        let observer: Arc<dyn CallObserver> = Arc::new(metrics.call_observer(Arc::clone(&calls)));
        let now = self.clock.now();
        let ago = self.recorded.last_fetch_ago(&configured.appid, now);
        let appid: Arc<str> = configured.appid.as_str().into();
        let journal = Arc::clone(&self.journal);
        let tokens = match &configured.token {
            TokenConfig::Own(source) => TokenProvider::new(appid, source.clone(), journal, ago, now),
            TokenConfig::Component { credentials, refresh_token } => {
                let component = self.component(credentials, now);
                let stored = self.recorded.refresh_tokens.get(&configured.appid);
                let refresh_token = stored.or(refresh_token.as_ref()).cloned();
                let authorization = Authorization { component, refresh_token };
                TokenProvider::with_component(appid, authorization, journal, ago, now)
            }
        };
        let rate_limiter =
            configured.max_requests_per_minute.map(|most| RateLimiter::new(most, Arc::clone(&self.clock)));
        let client = OfficialAccountClient::new(Arc::clone(&self.client), tokens, observer)
            .with_rate_limiter(rate_limiter);
        let status = OfficialAccountStatus::new(configured.name.as_str().into(), calls, ticks);
        Arc::new(OfficialAccount::new(Arc::new(status), client))
    }

    /// The component, shared by all official accounts that name it.
    fn component(&self, credentials: &Arc<ComponentCredentials>, now: Moment) -> Arc<Component> {
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        let component = components.entry(Arc::clone(&credentials.appid)).or_insert_with(|| {
            let ago = self.recorded.last_fetch_ago(&credentials.appid, now);
            Arc::new(Component::new(Arc::clone(credentials), Arc::clone(&self.journal), ago, now))
        });
        Arc::clone(component)
    }
}

impl RecordedTokens {
    fn last_fetch_ago(&self, appid: &str, now: Moment) -> Option<Duration> {
        let last_fetch = self.fetches.get(appid)?;
        // A time in the future means that the clock was set back since: treat it as now.
        Some(Duration::try_from(now.wall.duration_since(*last_fetch)).unwrap_or_default())
    }
}

fn build_client(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<WechatClient>, AppError> {
    let options = client_options(&config.api)?;
    let client = WechatClient::build(&options, Arc::clone(clock));
    let client = client.and_then(|client| {
        let uses_servers = config.official_accounts.iter().any(|configured| match &configured.token {
            TokenConfig::Own(source) => matches!(source, TokenSource::Server(_)),
            TokenConfig::Component { credentials, .. } => {
                matches!(credentials.ticket, TicketSource::Server(_))
            }
        });
        if uses_servers { client.with_servers(&options) } else { Ok(client) }
    });
    Ok(Arc::new(client?))
}

fn client_options(api: &config::ApiConfig) -> Result<ClientOptions, AppError> {
    // The configuration has checked that the file is PEM. Only the TLS library can check the certificates.
    let ca = api.ca_file.as_deref().map(TlsRoots::from_file).transpose().map_err(|error| {
        AppError::Unusable { what: "api.ca_file".to_owned(), reason: crate::chain(&error) }
    })?;
    Ok(ClientOptions {
        base_url: api.base_url.clone(),
        connect_timeout: api.connect_timeout,
        timeout: api.timeout,
        max_body_bytes: api.max_body_bytes,
        http_version: api.http_version,
        ca,
        proxy: api.proxy.as_ref().map(|proxy| proxy.url.clone()),
    })
}
