//! `kfwatch events`: prints the event log, also while the daemon runs. Takes no lock and changes nothing. Its subcommands
//! [`dead`] and [`replay`] act on sinks.

mod dead;
mod replay;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum, builder::PossibleValue};
use jiff::Timestamp;
use serde_json::Value;

use super::{CliError, ConfigArgs, output};
use crate::{
    app::clock::SystemClock,
    config,
    domain::{clock::Clock, event::EventType},
    store::{EventFilter, EventLog, StoredEvent},
};

/// Events read at a time.
const PAGE: usize = 1000;

/// How often `--follow` reads new events.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    command: Option<EventsCommand>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Only events observed at or after a time such as 2026-11-22T07:00:00Z, or within an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SinceArg>,

    /// Only events of this account: test1@test, shop/test1@test, or shop for all kf accounts of the official account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,

    /// Only events of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    types: Vec<EventType>,

    /// Keep printing new events as they are committed
    #[arg(short, long)]
    follow: bool,

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

/// The start of a time range.
#[derive(Clone, Copy, Debug)]
enum SinceArg {
    At(Timestamp),
    Ago(Duration),
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

impl SinceArg {
    fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(age) => now.checked_sub(age).unwrap_or(Timestamp::MIN),
        }
    }
}

async fn read(args: EventsArgs) -> Result<(), CliError> {
    let log = EventLog::open(&args.config.load_local()?.store.path)?;
    let since = args.since.map(|since| since.resolve(SystemClock::default().now().wall));
    let mut filter = EventFilter {
        after: since.map(|since| log.before(since)).transpose()?.unwrap_or_default(),
        since,
        account: args.account,
        types: args.types,
        ..EventFilter::default()
    };
    let mut printer = Printer { format: args.format, printed_header: false };
    loop {
        let page = log.read(&filter, PAGE)?;
        if !printer.print(&page.events).await? {
            return Ok(());
        }
        filter.after = page.next;
        if page.events.len() < PAGE {
            if !args.follow {
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

struct Printer {
    format: EventFormat,
    printed_header: bool,
}

impl Printer {
    /// Prints events and returns whether standard output is still open.
    async fn print(&mut self, events: &[StoredEvent]) -> Result<bool, CliError> {
        let text = match self.format {
            EventFormat::Json => events.iter().map(|event| format!("{}\n", event.json)).collect(),
            EventFormat::Csv => csv(events, !self.printed_header)?,
            EventFormat::Table => table(events, !self.printed_header),
        };
        self.printed_header = true;
        if text.is_empty() { Ok(true) } else { output::print_while_open(text).await }
    }
}

/// The header of a column and the JSON pointer of its value.
type CsvColumn = (&'static str, &'static str);

/// New columns are added at the end, because readers may rely on positions.
const CSV_COLUMNS: [CsvColumn; 23] = [
    ("time", "/time"),
    ("type", "/type"),
    ("id", "/id"),
    ("sequence", "/sequence"),
    ("official_account", "/data/official_account"),
    ("appid", "/data/appid"),
    ("kf_account", "/data/kf_account"),
    ("session_id", "/data/session_id"),
    ("openid", "/data/openid"),
    ("started_at", "/data/started_at"),
    ("baseline", "/data/baseline"),
    ("ended_after", "/data/ended_between/0"),
    ("ended_before", "/data/ended_between/1"),
    ("duration_min_seconds", "/data/duration_seconds/min"),
    ("duration_max_seconds", "/data/duration_seconds/max"),
    ("reason", "/data/reason"),
    ("from", "/data/from"),
    ("to", "/data/to"),
    ("errcode", "/data/errcode"),
    ("source", "/data/source"),
    ("transferred_from", "/data/transferred_from"),
    ("invitation_status", "/data/invitation/status"),
    ("invitation_expires_at", "/data/invitation/expires_at"),
];

fn csv(events: &[StoredEvent], with_header: bool) -> Result<String, CliError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = || {
        if with_header {
            writer.write_record(CSV_COLUMNS.map(|(header, _)| header))?;
        }
        for event in events {
            let event = parsed(event);
            writer.write_record(CSV_COLUMNS.map(|(_, pointer)| field(&event, pointer)))?;
        }
        writer.flush()?;
        Ok::<_, anyhow::Error>(())
    };
    write().context("write CSV")?;
    let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("write CSV: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The column widths of the table. They are fixed, because rows are printed as events arrive.
const WIDTHS: [usize; 5] = [24, 13, 34, 28, 0];

fn table(events: &[StoredEvent], with_header: bool) -> String {
    let mut text = String::new();
    let mut line = |fields: [&str; 5]| {
        let padded: Vec<String> =
            fields.iter().zip(WIDTHS).map(|(field, width)| format!("{field:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    if with_header {
        line(["TIME", "EVENT", "ACCOUNT", "CUSTOMER", "DETAILS"]);
    }
    for event in events {
        let json = parsed(event);
        let get = |pointer| field(&json, pointer);
        let account = format!("{}/{}", get("/data/official_account"), get("/data/kf_account"));
        let (kind, details) = match event.event_type {
            EventType::SessionStarted if get("/data/baseline") == "true" => {
                ("started", format!("at {} (open when first seen)", get("/data/started_at")))
            }
            EventType::SessionStarted => {
                let from = prefixed(", transferred from ", &get("/data/transferred_from"));
                ("started", format!("at {}{from}", get("/data/started_at")))
            }
            EventType::SessionEnded => {
                let [min, max] = ["/data/duration_seconds/min", "/data/duration_seconds/max"].map(get);
                ("ended", format!("after {min} to {max} s, {}", get("/data/reason")))
            }
            EventType::StateChanged => {
                let errcode = get("/data/errcode");
                let cause = if errcode.is_empty() { String::new() } else { format!(" (errcode {errcode})") };
                let invitation = prefixed(", invitation: ", &get("/data/invitation/status"));
                ("state_changed", format!("{} to {}{cause}{invitation}", get("/data/from"), get("/data/to")))
            }
        };
        line([&get("/time"), kind, &account, &get("/data/openid"), &details]);
    }
    text
}

/// Adds a prefix to a text that is not empty.
fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
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

fn since(text: &str) -> Result<SinceArg, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(SinceArg::At(at));
    }
    let wrong = || "write a time such as 2026-11-22T07:00:00Z, or an age such as 2h or 7d".to_owned();
    config::parse_duration(text).map(SinceArg::Ago).ok_or_else(wrong)
}
