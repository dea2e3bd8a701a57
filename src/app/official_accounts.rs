//! Builds official accounts that can call WeChat, and changes how they call it while they run: HTTP client, tokens, components,
//! rate limits.

use std::sync::{Arc, atomic::AtomicU64};

use arc_swap::ArcSwap;

use super::{components::Components, error::AppError, token_records::TokenRecords};
use crate::{
    config::{ApiConfig, Config, OfficialAccountConfig, TicketSource, TokenConfig, TokenSource},
    domain::clock::Clock,
    metrics::Metrics,
    poll::OfficialAccount,
    status::{CallCounters, OfficialAccountStatus},
    store::{Store, StoreError},
    tls::TlsRoots,
    wechat::{
        CallObserver,
        client::OfficialAccountClient,
        http::{ClientOptions, WechatClient},
        rate_limit::RateLimiter,
        token::{Authorization, ProviderSource, TokenJournal, TokenProvider},
    },
};

/// Builds and changes official accounts. They share the HTTP client, the components and the token records of the store.
pub struct OfficialAccountFactory {
    client: ArcSwap<WechatClient>,
    records: Arc<TokenRecords>,
    components: Arc<Components>,
    clock: Arc<dyn Clock>,
}

impl OfficialAccountFactory {
    /// A factory with an HTTP client of its own, whose official accounts record their token fetches and refresh tokens in the store.
    pub async fn build(config: &Config, store: &Store, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        Ok(Self::with_client(new_client(config, &clock)?, Arc::default(), store, clock).await?)
    }

    /// The same with this HTTP client and these components.
    pub(super) async fn with_client(
        client: Arc<WechatClient>,
        components: Arc<Components>,
        store: &Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let records = Arc::new(TokenRecords::load(store).await?);
        Ok(Self { client: ArcSwap::new(client), records, components, clock })
    }

    /// A factory without a store. Refresh tokens cannot be stored, so official accounts that have authorized a component
    /// must not be called.
    pub fn without_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let (client, records) = (new_client(config, &clock)?, Arc::new(TokenRecords::without_store()));
        Ok(Self { client: ArcSwap::new(client), records, components: Arc::default(), clock })
    }

    /// The HTTP client in use.
    pub fn client(&self) -> Arc<WechatClient> {
        self.client.load_full()
    }

    /// The HTTP client that this configuration needs: the one in use if it will do, so that its connections stay open. Changes
    /// nothing.
    pub fn prepare(&self, config: &Config) -> Result<Arc<WechatClient>, AppError> {
        let options = client_options(&config.api)?;
        let present = self.client();
        let will_do = *present.options() == options && (present.has_servers() || !needs_servers(config));
        if will_do { Ok(present) } else { build_client(&options, config, &self.clock) }
    }

    /// Makes a [prepared](Self::prepare) HTTP client the one in use, after all official accounts were built with it or
    /// [updated](Self::update).
    pub fn adopt(&self, client: Arc<WechatClient>) {
        self.client.store(client);
        self.components.forget_unused();
    }

    /// Builds an official account with this HTTP client, without kf accounts yet. `ticks` counts the ticks of its schedule;
    /// `metrics` count its calls. Its component, if it has one, gets the configured credentials.
    pub fn official_account(
        &self,
        client: &Arc<WechatClient>,
        configured: &OfficialAccountConfig,
        ticks: Arc<AtomicU64>,
        metrics: &Metrics,
    ) -> Arc<OfficialAccount> {
        let calls = Arc::<CallCounters>::default();
        let observer: Arc<dyn CallObserver> = Arc::new(metrics.call_observer(Arc::clone(&calls)));
        let now = self.clock.now();
        let ago = self.records.last_fetch_ago(&configured.appid, now);
        let appid = configured.appid.as_str().into();
        let tokens = TokenProvider::new(appid, self.token_source(configured), self.journal(), ago, now);
        let client = OfficialAccountClient::new(Arc::clone(client), Arc::new(tokens), observer)
            .with_rate_limiter(self.rate_limiter(configured));
        let status = OfficialAccountStatus::new(configured.name.as_str().into(), calls, ticks);
        Arc::new(OfficialAccount::new(Arc::new(status), client))
    }

    /// Makes an official account go on with the tokens of the one that had its appid before, fetched as that was configured.
    pub fn keep_tokens(&self, former: &OfficialAccount, official_account: &OfficialAccount) {
        let tokens = Arc::clone(former.client().tokens());
        let next = OfficialAccountClient::clone(&official_account.client()).with_tokens(tokens);
        official_account.set_client(Arc::new(next));
    }

    /// Changes how an official account calls WeChat: with this HTTP client, and as configured by `to` instead of `from`. What does
    /// not differ stays as it is. Official accounts whose configuration stays need it too, for the HTTP client.
    pub fn update(
        &self,
        client: &Arc<WechatClient>,
        official_account: &OfficialAccount,
        from: &OfficialAccountConfig,
        to: &OfficialAccountConfig,
    ) {
        let present = official_account.client();
        if from.token != to.token {
            present.tokens().set_source(self.token_source(to));
            // A person who corrects a secret need not wait until the failures of the wrong one are over.
            official_account.end_backoff();
        }
        let keeps_limit = from.max_requests_per_minute == to.max_requests_per_minute;
        if keeps_limit && Arc::ptr_eq(present.http_client(), client) {
            return;
        }
        let rate_limiter = if keeps_limit { present.rate_limiter().cloned() } else { self.rate_limiter(to) };
        let next = OfficialAccountClient::clone(&present).with_http_client(Arc::clone(client));
        official_account.set_client(Arc::new(next.with_rate_limiter(rate_limiter)));
    }

    fn token_source(&self, configured: &OfficialAccountConfig) -> ProviderSource {
        match &configured.token {
            TokenConfig::Own(source) => source.clone().into(),
            TokenConfig::Component { credentials, refresh_token } => {
                let authorization = Authorization {
                    component: self.components.get(credentials, &self.records, self.clock.now()),
                    stored_refresh_token: self.records.refresh_token(&configured.appid),
                    configured_refresh_token: refresh_token.clone(),
                };
                authorization.into()
            }
        }
    }

    fn rate_limiter(&self, configured: &OfficialAccountConfig) -> Option<Arc<RateLimiter>> {
        let most = configured.max_requests_per_minute?;
        Some(Arc::new(RateLimiter::new(most, Arc::clone(&self.clock))))
    }

    fn journal(&self) -> Arc<dyn TokenJournal> {
        Arc::<TokenRecords>::clone(&self.records)
    }
}

/// The HTTP client that this configuration needs.
pub(super) fn new_client(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<WechatClient>, AppError> {
    build_client(&client_options(&config.api)?, config, clock)
}

fn build_client(
    options: &ClientOptions,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<WechatClient>, AppError> {
    let client = WechatClient::build(options, Arc::clone(clock))?;
    Ok(Arc::new(if needs_servers(config) { client.with_servers(options)? } else { client }))
}

/// Whether tokens or tickets come from servers of the operator.
fn needs_servers(config: &Config) -> bool {
    config.official_accounts.iter().any(|configured| match &configured.token {
        TokenConfig::Own(source) => matches!(source, TokenSource::Server(_)),
        TokenConfig::Component { credentials, .. } => matches!(credentials.ticket, TicketSource::Server(_)),
    })
}

fn client_options(api: &ApiConfig) -> Result<ClientOptions, AppError> {
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
