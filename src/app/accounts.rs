//! From configured official accounts to accounts that can be polled, with what the store knows of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;

use super::{
    AppError, BySchedule,
    journal::{NoJournal, StoreJournal},
};
use crate::{
    config::{self, ComponentCredentials, Config, TicketSource, Token, TokenSource},
    domain::{
        account::{Account, Standing},
        clock::{Clock, Moment},
        event::EventType,
        watch::Watch,
    },
    metrics::Metrics,
    poll::{OfficialAccount, WatchedAccount},
    schedule::ticker::Scheduled,
    status::{AccountStatus, CallCounters, OfficialAccountStatus},
    store::{PollCommit, Record, Store, StoredAccount},
    wechat::{
        CallObserver,
        client::OfficialAccountClient,
        http::{ClientOptions, WechatClient},
        pace::Pace,
        token::{Authorization, Component, TokenJournal, TokenKeeper},
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
        Self::with(config, Arc::new(StoreJournal(store.clone())), recorded, clock)
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

    /// One official account without kf accounts yet; its calls are counted for these metrics.
    pub fn official_account(
        &self,
        configured: &config::OfficialAccount,
        metrics: &Metrics,
    ) -> Arc<OfficialAccount> {
        let calls = Arc::<CallCounters>::default();
        let observer: Arc<dyn CallObserver> = Arc::new(metrics.call_observer(Arc::clone(&calls)));
        let now = self.clock.now();
        let ago = self.recorded.last_fetch_ago(&configured.appid, now);
        let appid: Arc<str> = configured.appid.as_str().into();
        let journal = Arc::clone(&self.journal);
        let tokens = match &configured.token {
            Token::Own(source) => TokenKeeper::new(appid, source.clone(), journal, ago, now),
            Token::Component { credentials, refresh_token } => {
                let component = self.component(credentials, now);
                let stored = self.recorded.refresh_tokens.get(&configured.appid);
                let refresh_token = stored.or(refresh_token.as_ref()).cloned();
                let authorization = Authorization { component, refresh_token };
                TokenKeeper::of_component(appid, authorization, journal, ago, now)
            }
        };
        let pace = configured.max_requests_per_minute.map(|most| Pace::new(most, Arc::clone(&self.clock)));
        let client = OfficialAccountClient::new(Arc::clone(&self.client), tokens, observer).paced(pace);
        let status = OfficialAccountStatus::new(configured.name.as_str().into(), calls);
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
            Token::Own(source) => matches!(source, TokenSource::Server(_)),
            Token::Component { credentials, .. } => matches!(credentials.ticket, TicketSource::Server(_)),
        });
        if asks_servers { client.with_servers(&options) } else { Ok(client) }
    });
    Ok(Arc::new(client.map_err(|error| match &config.api.ca_file {
        // Its PEM was checked when the configuration was read; what is in it only the TLS library can judge.
        Some(path) => AppError::Unusable {
            what: "api.ca_file".to_owned(),
            reason: format!("the certificates in {} cannot be used: {error}", path.display()),
        },
        None => error.into(),
    })?))
}

/// The client's options from the configuration.
fn client_options(api: &config::Api) -> Result<ClientOptions, AppError> {
    let ca_pem = api.ca_file.as_ref().map(|path| {
        std::fs::read(path).map_err(|error| AppError::Unusable {
            what: "api.ca_file".to_owned(),
            reason: format!("{} cannot be read: {error}", path.display()),
        })
    });
    Ok(ClientOptions {
        base_url: api.base_url.clone(),
        connect_timeout: api.connect_timeout,
        timeout: api.timeout,
        max_body_bytes: api.max_body_bytes,
        http_version: api.http_version,
        ca_pem: ca_pem.transpose()?,
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
    /// Brings the configured accounts into the store and takes over what it knows of them.
    pub(super) async fn restore(
        config: &Config,
        store: &Store,
        metrics: &Metrics,
        connections: &Connections,
    ) -> Result<Self, AppError> {
        let accounts = config.official_accounts.iter().flat_map(accounts).collect();
        let registered = store.register_accounts(accounts).await?;
        let mut stored = registered.configured.into_iter();
        let mut watching =
            Self { official_accounts: Vec::new(), by_schedule: BySchedule::new(), left: registered.left };
        for (lane, configured) in config.official_accounts.iter().enumerate() {
            let official_account = connections.official_account(configured, metrics);
            let (ticks, scheduled) = watching.by_schedule.entry(configured.schedule.clone()).or_default();
            let of_this = stored.by_ref().take(configured.kf_accounts.len());
            let accounts = of_this.map(|stored| {
                let (row, account) = (stored.id, stored.account.clone());
                let watch = watch(stored);
                let status = AccountStatus::restored(account, Arc::clone(ticks), &watch);
                Arc::new(WatchedAccount::new(Arc::new(status), row, watch))
            });
            official_account.set_accounts(accounts.collect());
            scheduled.push(Scheduled { official_account: Arc::clone(&official_account), lane });
            watching.official_accounts.push(official_account);
        }
        Ok(watching)
    }

    /// Announces the accounts that left the configuration as unwatched.
    pub(super) async fn announce_left(
        &self,
        store: &Store,
        metrics: &Metrics,
        now: Moment,
    ) -> Result<(), AppError> {
        for left in &self.left {
            let step = watch(left.clone()).unwatched(now);
            let record = Record { state: step.standing.state, ..left.record };
            let changes = step.changes.len() as u64;
            let commit =
                PollCommit { id: left.id, account: left.account.clone(), changes: step.changes, record };
            store.commit_poll(commit).await?;
            metrics.events_committed(EventType::StateChanged, changes);
            tracing::info!(account = %left.account, "Left the configuration; its sessions do not end by that");
        }
        Ok(())
    }

    /// What readers are shown.
    pub(super) fn statuses(&self) -> Vec<Arc<OfficialAccountStatus>> {
        self.official_accounts.iter().map(|of| Arc::clone(&of.status)).collect()
    }
}

/// The kf accounts of an official account.
pub fn accounts(configured: &config::OfficialAccount) -> impl Iterator<Item = Account> {
    let official_account: Arc<str> = configured.name.as_str().into();
    let appid: Arc<str> = configured.appid.as_str().into();
    configured.kf_accounts.iter().map(move |kf_account| Account {
        official_account: Arc::clone(&official_account),
        appid: Arc::clone(&appid),
        kf_account: kf_account.as_str().into(),
    })
}

/// What the store knows of an account.
pub fn watch(stored: StoredAccount) -> Watch {
    Watch {
        standing: Standing::restored(stored.record.state, stored.record.conclusion),
        snapshot: stored.snapshot,
        sighting: stored.record.sighting,
    }
}
