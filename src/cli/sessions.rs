//! `kfwatch sessions`: the open sessions of every kf account, beside the number that WeChat says the agent has accepted. Calls nothing.
//!
//! The daemon answers from memory. Without a daemon, the store has the sessions, and no nickname and nothing of getonlinekflist.

use anyhow::Context as _;
use futures_util::future::try_join_all;

use super::{
    CliError, ConfigArgs,
    account_args::{AccountArgs, Extent, ExtentArgs, MAX_SHOWN_WHOLE, REST_ON_DEMAND},
    init_logging, output,
    store_access::{ask_daemon, stores_to_read},
};
use crate::{
    config::LocalConfig,
    control::{
        client::ControlClient,
        sessions::{KfAccountSessions, OpenSession, SessionReport, reports},
    },
    domain::{
        account::AccountState,
        account_filter::{AccountFilter, AccountNames},
        local_time::LocalZone,
        openid::masked,
        quantity::counted,
    },
    status::AgentInfo,
    store::Store,
};

#[derive(Debug, clap::Args)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    accounts: AccountArgs,

    #[command(flatten)]
    extent: ExtentArgs,

    /// Show whole openids, not only their first four and last four characters
    #[arg(long)]
    openids: bool,

    /// How to print them
    #[arg(long, value_enum, default_value = "table")]
    format: SessionFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SessionFormat {
    /// Aligned columns
    Table,
    /// One JSON object a line
    Json,
    /// Comma-separated values with a header: one line for each session
    Csv,
}

/// A kf account with its open sessions.
struct Account {
    of: KfAccountSessions,
    sessions: Vec<OpenSession>,
}

/// The columns of CSV. New ones are added at the end, because readers may rely on positions.
const CSV_COLUMNS: [&str; 11] = [
    "official_account",
    "kf_account",
    "nickname",
    "state",
    "sessions",
    "accepted_cases",
    "online",
    "last_success_at",
    "openid",
    "started_at",
    "last_seen_at",
];

pub(super) async fn run(args: SessionsArgs) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    init_logging("warn", config.log.format)?;
    let filter = AccountFilter::from(args.accounts);
    let mut accounts = grouped_by_account(read(&config, &filter).await?);
    if !args.openids {
        let sessions = accounts.iter_mut().flat_map(|account| &mut account.sessions);
        sessions.for_each(|session| session.openid = masked(&session.openid));
    }
    let sound = |account: &Account| args.extent.includes_sound() || account.of.is_problem();
    match args.format {
        SessionFormat::Table => {
            let extent = args.extent.of_table(&filter, accounts.len());
            output::print(report(&accounts, extent, config.timezone)).await
        }
        SessionFormat::Json => {
            accounts.retain(sound);
            let rows: Vec<SessionReport> = accounts.into_iter().flat_map(Account::into_rows).collect();
            output::print_json(&rows).await
        }
        SessionFormat::Csv => {
            accounts.retain(sound);
            output::print(csv(&accounts).context("write CSV")?).await
        }
    }
}

/// Asks the daemon, or reads the store and says why something is missing.
async fn read(config: &LocalConfig, filter: &AccountFilter) -> Result<Vec<SessionReport>, CliError> {
    let request =
        async { ControlClient::new(config.control.path_of_daemon())?.sessions(filter.clone()).await };
    if let Some(rows) = ask_daemon(&config.control, request).await? {
        return Ok(rows);
    }
    let stores = stores_to_read(&config.store).await?;
    let stored = try_join_all(stores.iter().map(Store::stored_accounts)).await?.concat();
    let watched = || stored.iter().filter(|stored| stored.record.state != AccountState::Unwatched);
    let names = || {
        watched().map(|stored| AccountNames {
            official_account: &stored.account.official_account,
            kf_account: &stored.account.kf_account,
            nickname: None,
        })
    };
    if !filter.is_empty() && !names().any(|names| filter.selects(names)) {
        return Err(filter.unknown(names().map(|names| names.official_account), names()).into());
    }
    output::note(
        "no daemon runs: the sessions are as the last one stored them, and only a daemon knows nicknames, who is \
         online, and accepted_cases",
    );
    let selects = |(_, names): &(_, AccountNames<'_>)| filter.selects(*names);
    let selected = watched().zip(names()).filter(selects);
    let rows = selected.flat_map(|(stored, _)| {
        reports(&stored.account, &stored.clone().into_tracker(), (AgentInfo::default(), None))
    });
    Ok(rows.collect())
}

fn grouped_by_account(rows: Vec<SessionReport>) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    for row in rows {
        match (row, accounts.last_mut()) {
            (SessionReport::KfAccount(of), _) => accounts.push(Account { of, sessions: Vec::new() }),
            (SessionReport::Session(session), Some(account)) => account.sessions.push(session),
            // Each session follows its kf account.
            (SessionReport::Session(_), None) => {}
        }
    }
    accounts
}

impl Account {
    fn into_rows(self) -> impl Iterator<Item = SessionReport> {
        let sessions = self.sessions.into_iter().map(SessionReport::Session);
        std::iter::once(SessionReport::KfAccount(self.of)).chain(sessions)
    }
}

fn report(accounts: &[Account], extent: Extent, zone: LocalZone) -> String {
    // Of many accounts, some always differ: their numbers are from different moments.
    let is_shown = |account: &&Account| match extent {
        Extent::Everything => true,
        Extent::Problems | Extent::Summary if accounts.len() > MAX_SHOWN_WHOLE => {
            account.of.is_state_problem()
        }
        Extent::Problems | Extent::Summary => account.of.is_problem(),
    };
    let shown: Vec<&Account> = accounts.iter().filter(is_shown).collect();
    let mut text = String::new();
    if !shown.is_empty() {
        text.push_str(&table_of_accounts(&shown, zone));
        text.push('\n');
    }
    let sessions = || shown.iter().flat_map(|account| &account.sessions);
    if extent != Extent::Summary && sessions().next().is_some() {
        text.push_str(&table_of_sessions(sessions(), zone));
        text.push('\n');
    }
    text.push_str(&summary(accounts, zone));
    let differing = accounts.iter().filter(|account| account.of.differs()).count() as u64;
    if extent != Extent::Everything && accounts.len() > MAX_SHOWN_WHOLE && differing > 0 {
        text.push_str(&format!(
            "Of {}, the agent has accepted another number than were open at the last poll.\n",
            counted(differing, "kf account")
        ));
    }
    if extent == Extent::Summary {
        text.push_str(REST_ON_DEMAND);
    }
    text
}

fn table_of_accounts(accounts: &[&Account], zone: LocalZone) -> String {
    let headings = ["account", "nickname", "state", "sessions", "accepted", "online", "last poll"];
    let rows = accounts.iter().map(|Account { of, .. }| {
        vec![
            output::account(&of.official_account, Some(&of.kf_account)),
            output::known(of.nickname.as_ref()),
            of.state.clone(),
            output::known(of.sessions),
            output::known(of.accepted_cases),
            output::yes_or_no(of.online),
            output::local_time(of.last_success_at.as_ref(), zone),
        ]
    });
    output::table(&headings, rows)
}

fn table_of_sessions<'a>(sessions: impl Iterator<Item = &'a OpenSession>, zone: LocalZone) -> String {
    let rows = sessions.map(|session| {
        vec![
            output::account(&session.official_account, Some(&session.kf_account)),
            session.openid.clone(),
            zone.show_text(&session.started_at),
            output::local_time(session.last_seen_at.as_ref(), zone),
        ]
    });
    output::table(&["account", "customer", "since", "last seen"], rows)
}

/// How many sessions there are, and in which zone the times are. What is not known yet is not counted as none.
fn summary(accounts: &[Account], zone: LocalZone) -> String {
    let sessions: u64 = accounts.iter().filter_map(|account| account.of.sessions).sum();
    let not_polled = accounts.iter().filter(|account| account.of.sessions.is_none()).count() as u64;
    let kf_accounts = counted(accounts.len() as u64, "kf account");
    let mut text = match sessions {
        0 => format!("No open sessions: {kf_accounts}"),
        sessions => format!("{} of {kf_accounts}", counted(sessions, "open session")),
    };
    if not_polled > 0 {
        text.push_str(&format!(", {} not polled successfully yet", counted(not_polled, "kf account")));
    }
    format!("{text}. Times are in {zone}.\n")
}

fn csv(accounts: &[Account]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(CSV_COLUMNS)?;
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    for Account { of, sessions } in accounts {
        let of_account = [
            of.official_account.clone(),
            of.kf_account.clone(),
            text(&of.nickname),
            of.state.clone(),
            number(of.sessions),
            number(of.accepted_cases),
            of.online.map(|online| online.to_string()).unwrap_or_default(),
            text(&of.last_success_at),
        ];
        let of_session = |session: &OpenSession| {
            [session.openid.clone(), session.started_at.clone(), text(&session.last_seen_at)]
        };
        // A kf account without a session has a line, too.
        let mut lines: Vec<_> = sessions.iter().map(of_session).collect();
        if lines.is_empty() {
            lines.push(of_session(&OpenSession::default()));
        }
        for line in lines {
            writer.write_record(of_account.iter().chain(&line))?;
        }
    }
    Ok(String::from_utf8_lossy(&writer.into_inner()?).into_owned())
}
