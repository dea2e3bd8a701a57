//! `kfwatch events`: the event log, beside a daemon that may be running. Takes no lock and changes nothing; what is asked of
//! sinks does ([`dead`], [`replay`]).

mod dead;
mod replay;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::{ConfigArgs, Failure, output};
use crate::{
    app::clock::SystemClock,
    config,
    domain::{clock::Clock, event::EventType},
    store::{EventFilter, EventLog, StoredEvent},
};

/// How many events are read at a time.
const PAGE: usize = 1000;

/// How often the log is looked at by `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// Options of `kfwatch events`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Only events observed since: a time such as 2026-11-22T07:00:00Z, or an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,

    /// Only events of this account: test1@test, shop/test1@test, or shop for all of the official account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,

    /// Only events of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    types: Vec<Kind>,

    /// Go on with events as they are committed
    #[arg(short, long)]
    follow: bool,

    /// How to print events
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deliver events to a sink once more
    Replay(replay::ReplayArgs),
    /// Show the events that a sink has refused for good, send them again, or drop them
    Dead(dead::DeadArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// One CloudEvent a line, as delivered
    Json,
    /// Comma-separated values with a heading
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(name = "started", alias = "kf.session.started", alias = "session.started")]
    Started,
    #[value(name = "ended", alias = "kf.session.ended", alias = "session.ended")]
    Ended,
    #[value(name = "state_changed", alias = "kf.account.state_changed", alias = "account.state_changed")]
    StateChanged,
}

impl From<Kind> for EventType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Started => Self::SessionStarted,
            Kind::Ended => Self::SessionEnded,
            Kind::StateChanged => Self::StateChanged,
        }
    }
}

/// From when on.
#[derive(Clone, Copy, Debug)]
enum Since {
    At(Timestamp),
    Ago(Duration),
}

/// Carries the command out.
pub(super) async fn run(args: EventsArgs) -> Result<(), Failure> {
    match args.command {
        Some(Command::Replay(args)) => replay::run(args).await,
        Some(Command::Dead(args)) => dead::run(args).await,
        None => read(args).await,
    }
}

impl Since {
    fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(age) => now.checked_sub(age).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Prints the events that match.
async fn read(args: EventsArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    let log = EventLog::open(&loaded.config.store.path)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let since = args.since.map(|since| since.before(clock.now().wall));
    let mut filter = EventFilter {
        after: since.map(|since| log.before(since)).transpose()?.unwrap_or_default(),
        since,
        account: args.account,
        types: args.types.into_iter().map(EventType::from).collect(),
        ..EventFilter::default()
    };
    let mut printer = Printer { format: args.format, begun: false };
    loop {
        let page = log.read(&filter, PAGE)?;
        if !printer.print(&page.events)? {
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
    format: Format,
    /// Whether the heading is printed.
    begun: bool,
}

impl Printer {
    /// Prints, and says whether somebody still reads.
    fn print(&mut self, events: &[StoredEvent]) -> Result<bool, Failure> {
        let text = match self.format {
            Format::Json => events.iter().map(|event| format!("{}\n", event.json)).collect(),
            Format::Csv => csv(events, !self.begun)?,
            Format::Table => table(events, !self.begun),
        };
        self.begun = true;
        if text.is_empty() { Ok(true) } else { output::print_while_read(&text) }
    }
}

/// A column: its heading, and where its value stands in an event.
type Column = (&'static str, &'static str);

/// New ones come last: readers may count them.
const CSV_COLUMNS: [Column; 23] = [
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

fn csv(events: &[StoredEvent], heading: bool) -> Result<String, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = || {
        if heading {
            writer.write_record(CSV_COLUMNS.map(|(heading, _)| heading))?;
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

/// Widths of the columns of the table: fixed, because rows are printed as they come.
const WIDTHS: [usize; 5] = [24, 13, 34, 28, 0];

fn table(events: &[StoredEvent], heading: bool) -> String {
    let mut text = String::new();
    let mut line = |fields: [&str; 5]| {
        let padded: Vec<String> =
            fields.iter().zip(WIDTHS).map(|(field, width)| format!("{field:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    if heading {
        line(["TIME", "EVENT", "ACCOUNT", "CUSTOMER", "DETAILS"]);
    }
    for event in events {
        let json = parsed(event);
        let of = |pointer| field(&json, pointer);
        let account = format!("{}/{}", of("/data/official_account"), of("/data/kf_account"));
        let (kind, details) = match event.event_type {
            EventType::SessionStarted if of("/data/baseline") == "true" => {
                ("started", format!("at {} (open when first seen)", of("/data/started_at")))
            }
            EventType::SessionStarted => {
                let from = prefixed(", transferred from ", &of("/data/transferred_from"));
                ("started", format!("at {}{from}", of("/data/started_at")))
            }
            EventType::SessionEnded => {
                let [min, max] = ["/data/duration_seconds/min", "/data/duration_seconds/max"].map(of);
                ("ended", format!("after {min} to {max} s, {}", of("/data/reason")))
            }
            EventType::StateChanged => {
                let errcode = of("/data/errcode");
                let because =
                    if errcode.is_empty() { String::new() } else { format!(" (errcode {errcode})") };
                let invitation = prefixed(", invitation: ", &of("/data/invitation/status"));
                ("state_changed", format!("{} to {}{because}{invitation}", of("/data/from"), of("/data/to")))
            }
        };
        line([&of("/time"), kind, &account, &of("/data/openid"), &details]);
    }
    text
}

/// Nothing where there is no text.
fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}

fn parsed(event: &StoredEvent) -> Value {
    // The log holds only what was rendered as JSON.
    serde_json::from_str(&event.json).unwrap_or_default()
}

fn field(event: &Value, pointer: &str) -> String {
    match event.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Since::At(at));
    }
    let wrong = || "write a time such as 2026-11-22T07:00:00Z, or an age such as 2h or 7d".to_owned();
    config::duration(text).map(Since::Ago).ok_or_else(wrong)
}
