//! `kfwatch poll`: one poll of every account, compared with what is stored. Commits neither snapshots nor events.
//!
//! It takes the store's lock, so it refuses beside a running daemon: a classic token fetched here would void the
//! daemon's. That a token was fetched is recorded, so that a daemon started next keeps its distance. So is a refresh
//! token that WeChat changes: where there is no store to keep it in, official accounts that have one are not polled.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{ConfigArgs, Failure, init_logging, output};
use crate::{
    app::{self, Connections, clock::SystemClock},
    config::{Config, Loaded, Token},
    domain::{
        account::Account,
        clock::Clock,
        event::{Change, millis},
        watch::{Step, Watch},
    },
    metrics::Metrics,
    poll::{Claim, WatchedAccount},
    status::AccountStatus,
    store::{AccountRow, Store},
    wechat::error::CallFailure,
};

/// Options of `kfwatch poll`.
#[derive(Debug, clap::Args)]
pub(super) struct PollArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::Format,
}

/// The result of one poll.
#[derive(Serialize)]
struct Polled {
    official_account: String,
    kf_account: String,
    result: &'static str,
    sessions: Option<usize>,
    oldest_session_started_at: Option<String>,
    started: Option<usize>,
    ended: Option<usize>,
    error: Option<String>,
    remedy: Option<&'static str>,
}

/// Polls every account once and prints what came of it.
pub(super) async fn run(args: PollArgs) -> Result<(), Failure> {
    let Loaded { config, warnings } = args.config.load()?;
    init_logging("warn", config.log.format)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    // A store that does not exist is not created: it would belong to whoever polls, not to the daemon.
    let store = if config.store.path.exists() { Some(Store::open(&config.store.path)?) } else { None };
    let connections = match &store {
        Some(store) => Connections::build(&config, store, clock).await?,
        None => Connections::without_store(&config, clock)?,
    };
    let accounts = accounts(&config, store.as_ref(), &connections).await?;
    let polls = accounts.iter().map(|account| async move {
        match account {
            Ok(claim) => polled(claim.account(), claim.observe().await),
            Err(account) => not_polled(account),
        }
    });
    let results: Vec<Polled> =
        stream::iter(polls).buffered(config.api.max_in_flight_per_official_account).collect().await;
    if let Some(store) = store {
        store.close().await;
    }
    print(&results, args.format)?;
    if results.iter().all(|polled| polled.error.is_none()) { Ok(()) } else { Err(Failure::Incomplete) }
}

/// All accounts in the order of the configuration; those that must not be polled are errors.
async fn accounts(
    config: &Config,
    store: Option<&Store>,
    connections: &Connections,
) -> Result<Vec<Result<Claim, Account>>, Failure> {
    let stored = match store {
        Some(store) => store.stored_accounts().await?,
        None => Vec::new(),
    };
    let key = |account: &Account| (Arc::clone(&account.appid), Arc::clone(&account.kf_account));
    let mut known: HashMap<_, Watch> =
        stored.into_iter().map(|stored| (key(&stored.account), app::watch(stored))).collect();
    let metrics = Metrics::new([]).map_err(app::AppError::from)?;
    let mut claims = Vec::new();
    let lists = app::watched_accounts(config, store).await?;
    for (configured, accounts) in config.official_accounts.iter().zip(lists) {
        if store.is_none() && matches!(configured.token, Token::Component { .. }) {
            claims.extend(accounts.into_iter().map(Err));
            continue;
        }
        let official_account = connections.official_account(configured, &metrics);
        for account in accounts {
            let watch = known.remove(&key(&account)).unwrap_or_default();
            let status = Arc::new(AccountStatus::restored(account, Arc::default(), &watch));
            // Nothing is committed, so the row does not matter.
            let account = Arc::new(WatchedAccount::new(status, AccountRow(0), watch));
            claims.extend(official_account.claim(&account).map(Ok));
        }
    }
    Ok(claims)
}

impl Polled {
    /// Nothing is known of it yet.
    fn new(account: &Account) -> Self {
        Self {
            official_account: account.official_account.to_string(),
            kf_account: account.kf_account.to_string(),
            result: "ok",
            sessions: None,
            oldest_session_started_at: None,
            started: None,
            ended: None,
            error: None,
            remedy: None,
        }
    }
}

fn not_polled(account: &Account) -> Polled {
    Polled {
        result: "not_polled",
        error: Some("there is no store to keep a new refresh token in, which would be lost".to_owned()),
        remedy: Some("start the daemon once, which creates the store, or set store.path to its file"),
        ..Polled::new(account)
    }
}

fn polled(account: &WatchedAccount, result: Result<Step, CallFailure>) -> Polled {
    let polled = Polled::new(&account.status.account);
    match result {
        Ok(step) => {
            let snapshot = step.snapshot.unwrap_or_else(|| account.watch().snapshot);
            let count = |of: fn(&Change) -> bool| step.changes.iter().filter(|change| of(change)).count();
            let oldest = snapshot.oldest_createtime().and_then(|at| jiff::Timestamp::from_second(at).ok());
            Polled {
                sessions: Some(snapshot.len()),
                oldest_session_started_at: oldest.map(millis),
                started: Some(count(|change| matches!(change, Change::SessionStarted { .. }))),
                ended: Some(count(|change| matches!(change, Change::SessionEnded { .. }))),
                ..polled
            }
        }
        Err(failure) => Polled {
            result: failure.class.as_str(),
            remedy: failure.error.remedy(failure.endpoint).map(|remedy| remedy.en),
            error: Some(failure.to_string()),
            ..polled
        },
    }
}

fn print(results: &[Polled], format: output::Format) -> Result<(), Failure> {
    match format {
        output::Format::Json => {
            let lines: Result<Vec<String>, _> = results.iter().map(serde_json::to_string).collect();
            output::print(&(lines.map_err(anyhow::Error::from)?.join("\n") + "\n"))
        }
        output::Format::Table => {
            let headings =
                ["official account", "kf account", "result", "sessions", "oldest since", "new", "gone"];
            let number =
                |number: Option<usize>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
            let rows = results.iter().map(|polled| {
                vec![
                    polled.official_account.clone(),
                    polled.kf_account.clone(),
                    polled.result.to_owned(),
                    number(polled.sessions),
                    polled.oldest_session_started_at.clone().unwrap_or_else(|| "–".to_owned()),
                    number(polled.started),
                    number(polled.ended),
                ]
            });
            output::print(&(output::table(&headings, rows) + &troubles(results)))
        }
    }
}

/// What failed and what to do about it, one line for each different failure.
fn troubles(results: &[Polled]) -> String {
    let mut text = String::new();
    for polled in results {
        if let Some(error) = &polled.error {
            let remedy = polled.remedy.map(|remedy| format!("\n    {remedy}")).unwrap_or_default();
            text.push_str(&format!("\n{}/{}: {error}{remedy}", polled.official_account, polled.kf_account));
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}
