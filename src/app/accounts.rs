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
    schedule::{cron::Schedule, ticker::Scheduled},
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

    /// Calls for one official account, told to this observer.
    pub fn official_account(
        &self,
        configured: &config::OfficialAccount,
        observer: Arc<dyn CallObserver>,
    ) -> OfficialAccount {
        let now = self.clock.now();
        let last_fetch = self.token_fetches.get(&configured.appid);
        // A recorded time that is yet to come was recorded by a clock since set back: as good as just now.
        let ago = last_fetch.map(|at| Duration::try_from(now.wall.duration_since(*at)).unwrap_or_default());
        let (appid, source) = (configured.appid.as_str().into(), configured.token.clone());
        let tokens = TokenKeeper::new(appid, source, Arc::clone(&self.journal), ago, now);
        OfficialAccount::new(OfficialAccountClient::new(Arc::clone(&self.client), tokens, observer))
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
    /// What readers are shown, by official account.
    pub(super) statuses: Vec<Arc<OfficialAccountStatus>>,
    by_schedule: BySchedule,
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
            Self { statuses: Vec::new(), by_schedule: BySchedule::new(), left: registered.left };
        for (lane, configured) in config.official_accounts.iter().enumerate() {
            let calls = Arc::<CallCounters>::default();
            let observer = Arc::new(metrics.call_observer(Arc::clone(&calls)));
            let official_account = Arc::new(connections.official_account(configured, observer));
            let (ticks, scheduled) = watching.by_schedule.entry(configured.schedule.clone()).or_default();
            let of_this = stored.by_ref().take(configured.kf_accounts.len());
            let statuses = of_this.map(|stored| {
                let (row, account) = (stored.id, stored.account.clone());
                let watch = watch(stored);
                let status = Arc::new(AccountStatus::restored(account, Arc::clone(ticks), &watch));
                let account =
                    WatchedAccount::new(Arc::clone(&status), Arc::clone(&official_account), row, watch);
                scheduled.push(Scheduled { account: Arc::new(account), lane });
                status
            });
            let statuses = statuses.collect();
            watching.statuses.push(Arc::new(OfficialAccountStatus::new(
                configured.name.as_str().into(),
                calls,
                statuses,
            )));
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

    pub(super) fn accounts(&self) -> Vec<Arc<WatchedAccount>> {
        let scheduled = self.by_schedule.values().flat_map(|(_, scheduled)| scheduled);
        scheduled.map(|scheduled| Arc::clone(&scheduled.account)).collect()
    }

    pub(super) fn by_schedule(self) -> impl Iterator<Item = (Schedule, super::Ticked)> {
        self.by_schedule.into_iter()
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
