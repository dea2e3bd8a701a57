//! `kfwatch events`: prints the event log, also while the daemon runs. Takes no lock and changes nothing. Its subcommands
//! [`dead`] and [`replay`] act on sinks.

mod csv;
mod dead;
mod replay;
mod table;

use std::time::Duration;

use clap::{Subcommand, ValueEnum, builder::PossibleValue};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::Value;

use self::{csv::csv, table::EventTable};
use super::{
    CliError, ConfigArgs,
    account_args::AccountArgs,
    output,
    since::{SinceArg, since},
    store_access::{ask_daemon, stores_to_read},
};
use crate::{
    app::clock::SystemClock,
    config::LocalConfig,
    control::{client::ControlClient, sessions::SessionReport},
    domain::{
        account::{Account, AccountState},
        account_filter::{AccountFilter, AccountNames},
        clock::Clock,
        event::EventType,
    },
    store::{AccountId, EventFilter, MergedLog, Store, StoredEvent},
};

/// Events read at a time.
const PAGE: usize = 1000;

/// How often `--follow` reads new events.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// The same with PostgreSQL, where each look reads the logs of all shards.
const FOLLOW_CLUSTER_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    command: Option<EventsCommand>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Only events observed since 2026-11-28, "2026-11-28 09:00", 09:00 (all in poll.timezone), 2h, 7d, or 2026-11-28T01:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SinceArg>,

    #[command(flatten)]
    accounts: AccountArgs,

    /// Only changes to a state that needs attention: unbound, invalid or blind
    #[arg(long, conflicts_with = "types")]
    problems: bool,

    /// Only events of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    types: Vec<EventType>,

    /// Keep printing new events as they are committed
    #[arg(short, long)]
    follow: bool,

    /// Show whole openids in the table, not only their first four and last four characters
    #[arg(long)]
    openids: bool,

    /// How to print events
    #[arg(long, value_enum, default_value = "table")]
    format: EventFormat,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// Deliver events to a sink again
    Replay(replay::ReplayArgs),
    /// Show, retry or drop the dead letters of a sink: events that it rejected for good
    Dead(dead::DeadArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventFormat {
    /// Aligned columns
    Table,
    /// One CloudEvent a line, as delivered
    Json,
    /// Comma-separated values with a header
    Csv,
}

impl ValueEnum for EventType {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let [word, aliases @ ..] = self.words();
        Some(PossibleValue::new(word).aliases(aliases))
    }
}

pub(super) async fn run(args: EventsArgs) -> Result<(), CliError> {
    match args.command {
        Some(EventsCommand::Replay(args)) => replay::run(args).await,
        Some(EventsCommand::Dead(args)) => dead::run(args).await,
        None => read(args).await,
    }
}

impl EventsArgs {
    /// The result when a signal ends the command.
    pub(super) fn interrupted(&self) -> Result<(), CliError> {
        match &self.command {
            None if self.follow => Ok(()),
            None => Err(CliError::Interrupted),
            Some(EventsCommand::Replay(_)) => Err(CliError::Unconfirmed),
            Some(EventsCommand::Dead(args)) => args.interrupted(),
        }
    }
}

async fn read(args: EventsArgs) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let stores = stores_to_read(&config.store).await?;
    let since = args.since.map(|since| since.resolve(config.timezone, SystemClock::default().now().wall));
    let known = try_join_all(stores.iter().map(Store::account_names)).await?.concat();
    let interval = if stores.len() > 1 { FOLLOW_CLUSTER_INTERVAL } else { FOLLOW_INTERVAL };
    let mut log = MergedLog::open(stores, since).await?;
    let mut filter = EventFilter {
        since,
        accounts: selected_accounts(known, &config, &args.accounts.into()).await?,
        types: args.types,
        ..EventFilter::default()
    };
    if args.problems {
        filter.types = vec![EventType::StateChanged];
    }
    let style = EventTable { zone: config.timezone, openids: args.openids };
    let mut printer = Printer { format: args.format, style, problems: args.problems, header: Header::Due };
    loop {
        let page = log.read(&filter, PAGE).await?;
        let is_last = page.len() < PAGE;
        if !printer.print(page).await? {
            return Ok(());
        }
        if is_last && !args.follow {
            return printer.end(since).await;
        }
        if is_last {
            tokio::time::sleep(interval).await;
        }
    }
}

/// The ids of the known accounts that the filter selects. `None` if it selects all.
async fn selected_accounts(
    known: Vec<(AccountId, Account)>,
    config: &LocalConfig,
    filter: &AccountFilter,
) -> Result<Option<Vec<AccountId>>, CliError> {
    if filter.is_empty() {
        return Ok(None);
    }
    let select = |filters: &[AccountFilter]| -> Vec<AccountId> {
        let is_selected = |account| filters.iter().any(|filter| filter.selects(names(account)));
        known.iter().filter(|(_, account)| is_selected(account)).map(|(id, _)| *id).collect()
    };
    let mut selected = select(std::slice::from_ref(filter));
    if selected.is_empty() && filter.account.is_some() {
        // It may be a nickname, which only a daemon knows.
        let request =
            async { ControlClient::new(config.control.path_of_daemon())?.sessions(filter.clone()).await };
        let rows = ask_daemon(&config.control, request).await?.unwrap_or_default();
        let with_nickname = rows.into_iter().filter_map(|row| match row {
            SessionReport::KfAccount(found) => Some(AccountFilter {
                account: Some(found.kf_account),
                official_account: Some(found.official_account),
            }),
            SessionReport::Session(_) => None,
        });
        selected = select(&with_nickname.collect::<Vec<_>>());
    }
    if selected.is_empty() {
        let official_accounts = known.iter().map(|(_, account)| &*account.official_account);
        return Err(filter
            .unknown(official_accounts, known.iter().map(|(_, account)| names(account)))
            .into());
    }
    Ok(Some(selected))
}

fn names(account: &Account) -> AccountNames<'_> {
    let Account { official_account, kf_account, .. } = account;
    AccountNames { official_account, kf_account, nickname: None }
}

struct Printer {
    format: EventFormat,
    style: EventTable,
    problems: bool,
    header: Header,
}

/// The first line of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Due,
    Printed,
}

impl Printer {
    /// Prints events and returns whether standard output is still open.
    async fn print(&mut self, mut events: Vec<StoredEvent>) -> Result<bool, CliError> {
        events.retain(|event| !self.problems || is_problem(event));
        let with_header = self.header == Header::Due;
        let text = match self.format {
            EventFormat::Json => events.iter().map(|event| format!("{}\n", event.json)).collect(),
            EventFormat::Csv => csv(&events, with_header)?,
            EventFormat::Table if events.is_empty() => return Ok(true),
            EventFormat::Table => self.style.render(&events, with_header),
        };
        self.header = Header::Printed;
        if text.is_empty() { Ok(true) } else { output::print_while_open(text).await }
    }

    /// Says so if a table has no event.
    async fn end(self, since: Option<Timestamp>) -> Result<(), CliError> {
        if self.format != EventFormat::Table || self.header == Header::Printed {
            return Ok(());
        }
        let zone = self.style.zone;
        let since = since.map(|since| format!(" since {} ({zone})", zone.show(since))).unwrap_or_default();
        output::print(format!("no events{since}\n")).await
    }
}

/// Whether an account got into a state that needs attention.
fn is_problem(event: &StoredEvent) -> bool {
    let state = field(&parsed(event), "/data/to");
    [AccountState::Unbound, AccountState::Invalid, AccountState::Blind]
        .iter()
        .any(|problem| problem.as_str() == state)
}

fn parsed(event: &StoredEvent) -> Value {
    // The log contains only events that were rendered as JSON.
    serde_json::from_str(&event.json).unwrap_or_default()
}

pub(super) fn field(event: &Value, pointer: &str) -> String {
    match event.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
