//! From configured official accounts to accounts that can be polled, with what the store knows of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;

use super::{
    AppError, BySchedule,
    journal::{NoJournal, StoreJournal},
};
use crate::{
    config::{
        self, ComponentCredentials, Config, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT, TicketSource, TokenConfig,
        TokenSource,
    },
    domain::{
        account::Account,
        clock::{Clock, Moment},
    },
    metrics::Metrics,
    poll::{Discovery, Leaving, OfficialAccount, Patterns, Poller, WatchedAccount, watch},
    schedule::ticker::Scheduled,
    status::{CallCounters, OfficialAccountStatus},
    store::{Store, StoreError, StoredAccount},
    tls::TlsRoots,
    wechat::{
        CallObserver,
        client::OfficialAccountClient,
        http::{ClientOptions, WechatClient},
        rate_limit::RateLimiter,
        token::{Authorization, Component, TokenJournal, TokenProvider},
    },
};

/// What calls to WeChat need: the connection pool, the components, and what is on record of tokens.
pub struct Connections {
    client: Arc<WechatClient>,
    journal: Arc<dyn TokenJournal>,
    recorded: Recorded,
    /// By component_appid, as they are named first.
    components: Mutex<HashMap<Arc<str>, Arc<Component>>>,
    clock: Arc<dyn Clock>,
}

/// What the store knows of tokens.
#[derive(Default)]
struct Recorded {
    /// When a token was last fetched, by appid or component_appid.
    fetches: HashMap<String, Timestamp>,
    /// By appid.
    refresh_tokens: HashMap<String, SecretString>,
}

impl Connections {
    /// Connections whose token fetches and refresh tokens are recorded in the store.
    pub async fn build(config: &Config, store: &Store, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let recorded =
            Recorded { fetches: store.token_fetches().await?, refresh_tokens: store.refresh_tokens().await? };
        Self::with(config, Arc::new(StoreJournal::new(store.clone())), recorded, clock)
    }

    /// Connections where there is no store yet, and therefore nothing on record. Refresh tokens cannot be kept, so
    /// that official accounts which have authorized a component must not be called.
    pub fn without_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        Self::with(config, Arc::new(NoJournal), Recorded::default(), clock)
    }

    fn with(
        config: &Config,
        journal: Arc<dyn TokenJournal>,
        recorded: Recorded,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let client = client(config, &clock)?;
        Ok(Self { client, journal, recorded, components: Mutex::default(), clock })
    }

    /// One official account without kf accounts yet, polled at these ticks; its calls are counted for these metrics.
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

    /// One for all official accounts that name it.
    fn component(&self, credentials: &Arc<ComponentCredentials>, now: Moment) -> Arc<Component> {
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        let component = components.entry(Arc::clone(&credentials.appid)).or_insert_with(|| {
            let ago = self.recorded.last_fetch_ago(&credentials.appid, now);
            Arc::new(Component::new(Arc::clone(credentials), Arc::clone(&self.journal), ago, now))
        });
        Arc::clone(component)
    }
}

impl Recorded {
    fn last_fetch_ago(&self, appid: &str, now: Moment) -> Option<Duration> {
        let last_fetch = self.fetches.get(appid)?;
        // A recorded time that is yet to come was recorded by a clock since set back: as good as just now.
        Some(Duration::try_from(now.wall.duration_since(*last_fetch)).unwrap_or_default())
    }
}

fn client(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<WechatClient>, AppError> {
    let options = client_options(&config.api)?;
    let client = WechatClient::build(&options, Arc::clone(clock));
    let client = client.and_then(|client| {
        let asks_servers = config.official_accounts.iter().any(|configured| match &configured.token {
            TokenConfig::Own(source) => matches!(source, TokenSource::Server(_)),
            TokenConfig::Component { credentials, .. } => {
                matches!(credentials.ticket, TicketSource::Server(_))
            }
        });
        if asks_servers { client.with_servers(&options) } else { Ok(client) }
    });
    Ok(Arc::new(client?))
}

/// The client's options from the configuration.
fn client_options(api: &config::ApiConfig) -> Result<ClientOptions, AppError> {
    // Its PEM was checked when the configuration was read; what is in it only the TLS library can judge.
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
        proxy: api.proxy.as_ref().map(|proxy| proxy.url().clone()),
    })
}

/// All watched accounts.
pub(super) struct Watching {
    /// The official accounts, in the order of the configuration.
    pub(super) official_accounts: Vec<Arc<OfficialAccount>>,
    pub(super) by_schedule: BySchedule,
    /// Stored accounts that left the configuration.
    left: Vec<StoredAccount>,
}

impl Watching {
    /// Brings the configured accounts, and those discovered before, into the store and takes over what it knows of them.
    pub(super) async fn restore(
        config: &Config,
        store: &Store,
        metrics: &Metrics,
        connections: &Connections,
    ) -> Result<Self, AppError> {
        let to_watch = watched_accounts(config, Some(store)).await?;
        let counts: Vec<usize> = to_watch.iter().map(Vec::len).collect();
        let registered = store.register_accounts(to_watch.into_iter().flatten().collect()).await?;
        let mut stored = registered.configured.into_iter();
        let mut watching =
            Self { official_accounts: Vec::new(), by_schedule: BySchedule::new(), left: registered.left };
        for (lane, (configured, count)) in config.official_accounts.iter().zip(counts).enumerate() {
            let (ticks, scheduled) = watching.by_schedule.entry(configured.schedule.clone()).or_default();
            let official_account = connections.official_account(configured, Arc::clone(ticks), metrics);
            let of_this = stored.by_ref().take(count);
            let accounts = of_this.map(|stored| WatchedAccount::restored(stored, &official_account.status));
            official_account.set_accounts(accounts.collect());
            if let Some(patterns) = patterns(configured) {
                let appid = configured.appid.as_str().into();
                official_account.set_discovery(Discovery::new(patterns, appid));
                log_waiting(&configured.name, count);
            }
            scheduled.push(Scheduled { official_account: Arc::clone(&official_account), lane });
            watching.official_accounts.push(official_account);
        }
        Ok(watching)
    }

    /// Announces the accounts that left the configuration as unwatched.
    pub(super) async fn announce_left(&mut self, poller: &Poller) -> Result<(), AppError> {
        let leaving = std::mem::take(&mut self.left).into_iter().map(|left| Leaving {
            row: left.id,
            account: left.account.clone(),
            watch: watch(left),
        });
        Ok(poller.unwatch(leaving.collect(), "configuration").await?)
    }

    /// What readers are shown.
    pub(super) fn statuses(&self) -> Vec<Arc<OfficialAccountStatus>> {
        self.official_accounts.iter().map(|of| Arc::clone(&of.status)).collect()
    }
}

/// The kf accounts of each official account: those that are named, and those discovered before that match its patterns
/// still. They are watched without waiting for the next list.
pub async fn watched_accounts(
    config: &Config,
    store: Option<&Store>,
) -> Result<Vec<Vec<Account>>, StoreError> {
    let patterns: Vec<Option<Patterns>> = config.official_accounts.iter().map(patterns).collect();
    let mut known: HashMap<Arc<str>, Vec<Account>> = HashMap::new();
    if let Some(store) = store.filter(|_| patterns.iter().any(Option::is_some)) {
        for account in store.watched_accounts().await? {
            known.entry(Arc::clone(&account.appid)).or_default().push(account);
        }
    }
    let lists = config.official_accounts.iter().zip(patterns).map(|(configured, patterns)| {
        let mut list: Vec<Account> = accounts(configured).collect();
        if let (Some(patterns), Some(known)) = (patterns, known.get(configured.appid.as_str())) {
            let found = known.iter().map(|known| &*known.kf_account);
            list.extend(of_names(configured, found.filter(|kf_account| patterns.discover(kf_account))));
            list.truncate(patterns.most);
        }
        list
    });
    Ok(lists.collect())
}

/// What discovers its kf accounts beside those that are named.
pub(super) fn patterns(configured: &config::OfficialAccountConfig) -> Option<Patterns> {
    (!configured.patterns.is_empty()).then(|| Patterns {
        named: configured.kf_accounts.iter().map(|kf_account| kf_account.as_str().into()).collect(),
        matching: configured.patterns.clone(),
        exclude: configured.exclude.clone(),
        most: MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT,
    })
}

fn log_waiting(official_account: &str, watched: usize) {
    if watched == 0 {
        tracing::info!(%official_account, "No kf account is known yet: waiting for getkflist");
    }
}

/// The kf accounts of an official account that are named.
pub fn accounts(configured: &config::OfficialAccountConfig) -> impl Iterator<Item = Account> {
    of_names(configured, configured.kf_accounts.iter().map(String::as_str))
}

/// Accounts of these names, which share the strings of their official account.
fn of_names<'a>(
    configured: &config::OfficialAccountConfig,
    kf_accounts: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = Account> {
    let official_account: Arc<str> = configured.name.as_str().into();
    let appid: Arc<str> = configured.appid.as_str().into();
    kf_accounts.map(move |kf_account| Account {
        official_account: Arc::clone(&official_account),
        appid: Arc::clone(&appid),
        kf_account: kf_account.into(),
    })
}
