//! From configured official accounts to accounts that can be polled, with what the store knows of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    AppError, BySchedule,
    journal::{NoJournal, StoreJournal},
};
use crate::{
    config::{self, Config},
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
        token::{TokenJournal, TokenKeeper},
    },
};

/// What calls to WeChat need: the connection pool, and when tokens were last fetched.
pub struct Connections {
    client: Arc<WechatClient>,
    journal: Arc<dyn TokenJournal>,
    token_fetches: HashMap<String, Timestamp>,
    clock: Arc<dyn Clock>,
}

impl Connections {
    /// Connections whose token fetches are recorded in the store.
    pub async fn build(config: &Config, store: &Store, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let client = client(&config.api, &clock)?;
        let journal = Arc::new(StoreJournal(store.clone()));
        Ok(Self { client, journal, token_fetches: store.token_fetches().await?, clock })
    }

    /// Connections where there is no store yet, and therefore nothing on record.
    pub fn without_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let client = client(&config.api, &clock)?;
        Ok(Self { client, journal: Arc::new(NoJournal), token_fetches: HashMap::new(), clock })
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
        let last_fetch = self.token_fetches.get(&configured.appid);
        // A recorded time that is yet to come was recorded by a clock since set back: as good as just now.
        let ago = last_fetch.map(|at| Duration::try_from(now.wall.duration_since(*at)).unwrap_or_default());
        let (appid, source) = (configured.appid.as_str().into(), configured.token.clone());
        let tokens = TokenKeeper::new(appid, source, Arc::clone(&self.journal), ago, now);
        let client = OfficialAccountClient::new(Arc::clone(&self.client), tokens, observer);
        let status = OfficialAccountStatus::new(configured.name.as_str().into(), calls);
        Arc::new(OfficialAccount::new(Arc::new(status), client))
    }
}

fn client(api: &config::Api, clock: &Arc<dyn Clock>) -> Result<Arc<WechatClient>, AppError> {
    let client = WechatClient::build(&client_options(api)?, Arc::clone(clock));
    Ok(Arc::new(client.map_err(|error| match &api.ca_file {
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
            let step = watch(left.clone()).unwatched(now, "configuration");
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
        departed: None,
    }
}
