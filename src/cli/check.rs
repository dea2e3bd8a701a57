//! `kfwatch check`: validates the configuration and shows its effect. With `--online`, also checks every account with WeChat.

mod online;

use std::fmt::Write as _;

use glob::Pattern;
use jiff::{SignedDuration, Timestamp, tz::Offset};

use super::{CliError, ConfigArgs, output, signals::Shutdown};
use crate::{
    app::clock::SystemClock,
    config::{Config, LoadedConfig, OfficialAccountConfig, SinkTarget},
    domain::{agents::Collector, clock::Clock, collector_intervals::CollectorIntervals},
    sink::jsonl,
    store::Store,
};

/// Next ticks shown for each official account.
const TICKS_SHOWN: usize = 3;

/// Patterns shown for each official account.
const PATTERNS_SHOWN: usize = 3;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Check tokens, quotas and every kf account with WeChat, and list what to fix; exits 69 if something needs a human
    #[arg(long)]
    online: bool,

    /// How to print the result of --online
    #[arg(long, value_enum, default_value = "table", requires = "online")]
    format: output::OutputFormat,

    /// The language of remedies: English, or English and Chinese [default: from LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, value_enum, requires = "online")]
    lang: Option<online::Language>,
}

pub(super) async fn run(args: CheckArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let loaded = args.config.load()?;
    if args.online {
        return online::run(&loaded, args.format, args.lang, &shutdown).await;
    }
    let LoadedConfig { config, warnings } = loaded;
    for warning in warnings {
        output::message(format_args!("warning: {warning}"));
    }
    for problem in problems_of_files(&config) {
        output::message(format_args!("warning: {problem}"));
    }
    output::print(describe(&config, SystemClock::default().now().wall)).await
}

/// What would keep the daemon from writing its files. No mistakes of the configuration: this may be another machine.
fn problems_of_files(config: &Config) -> Vec<String> {
    let store = Store::problems_at(&config.store.path).into_iter().map(|problem| format!("store: {problem}"));
    let sinks = config.sinks.iter().filter_map(|sink| match &sink.target {
        SinkTarget::File { path, .. } => {
            Some(format!("sink {:?}: {}: {}", sink.name, path.display(), jsonl::problem_at(path)?))
        }
        _ => None,
    });
    store.chain(sinks).collect()
}

fn describe(config: &Config, now: Timestamp) -> String {
    let mut text = String::from("The configuration is valid.\n\n");
    let official_accounts = || config.official_accounts.iter();
    let kf_accounts: usize = official_accounts().map(|account| account.kf_accounts.len()).sum();
    let calls = config.daily_calls(now);
    let named = |account: &OfficialAccountConfig| account.kf_accounts.len();
    let total: u64 =
        official_accounts().zip(&calls).map(|(account, calls)| calls.for_kf_accounts(named(account))).sum();
    let rows = official_accounts().zip(&calls).map(|(account, calls)| {
        let (calls_a_day, each) = (calls.for_kf_accounts(named(account)), calls.per_kf_account);
        let discovers = !account.patterns.is_empty();
        vec![
            account.name.clone(),
            watched(account),
            account.token.source().to_owned(),
            account.schedule.expressions().collect::<Vec<_>>().join(", "),
            next_ticks(account, now),
            account.max_requests_per_minute.map_or_else(|| "–".to_owned(), |most| most.to_string()),
            if discovers {
                format!("{calls_a_day} + {each} for each found")
            } else {
                calls_a_day.to_string()
            },
        ]
    });
    let headings = [
        "official account",
        "kf accounts",
        "token",
        "schedule",
        "next ticks",
        "max calls a minute",
        "calls a day",
    ];
    text.push_str(&output::table(&headings, rows));
    let sinks = config.sinks.iter().map(|sink| match &sink.target {
        SinkTarget::Stdout => format!("{} (standard output)", sink.name),
        SinkTarget::File { path, .. } => format!("{} ({})", sink.name, path.display()),
        SinkTarget::Webhook(options) => format!("{} ({})", sink.name, options.receiver()),
        SinkTarget::Nats(options) => {
            format!("{} ({} to {})", sink.name, options.subjects(), options.servers())
        }
    });
    let found = match official_accounts().any(|account| !account.patterns.is_empty()) {
        true => ", plus those that getkflist lists and a pattern matches",
        false => "",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\n{kf_accounts} kf accounts, {total} calls of getsessionlist a day in all{found}.\n{}\nStore: {}\nSinks: {}",
        collectors(&config.collectors, config.official_accounts.len()),
        config.store.path.display(),
        sinks.collect::<Vec<_>>().join(", ")
    );
    text
}

fn collectors(intervals: &CollectorIntervals, official_accounts: usize) -> String {
    let written = Collector::ALL.map(|collector| match intervals.get(collector) {
        Some(interval) => {
            let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
            format!("{} every {interval:#}", collector.as_str())
        }
        None => format!("{} off", collector.as_str()),
    });
    let calls = intervals.calls_a_day();
    format!(
        "Collectors: {}; {calls} calls a day for each official account, {} in all.",
        written.join(", "),
        calls * official_accounts as u64
    )
}

/// The number of named kf accounts, and the patterns.
fn watched(account: &OfficialAccountConfig) -> String {
    let shown = |patterns: &[Pattern]| {
        let first: Vec<&str> = patterns.iter().take(PATTERNS_SHOWN).map(Pattern::as_str).collect();
        let more = if patterns.len() > first.len() { ", …" } else { "" };
        first.join(", ") + more
    };
    let named = account.kf_accounts.len();
    match (&account.patterns[..], &account.exclude[..]) {
        ([], _) => named.to_string(),
        (patterns, []) => format!("{named} + {}", shown(patterns)),
        (patterns, exclude) => format!("{named} + {} without {}", shown(patterns), shown(exclude)),
    }
}

/// The next ticks in the schedule's own time zone.
fn next_ticks(account: &OfficialAccountConfig, now: Timestamp) -> String {
    let schedule = &account.schedule;
    let ticks = std::iter::successors(schedule.next_after(now), |tick| schedule.next_after(*tick));
    let local = ticks.take(TICKS_SHOWN).map(|tick| {
        let offset = Offset::from_seconds(schedule.offset_at(tick)).unwrap_or(Offset::UTC);
        offset.to_datetime(tick).strftime("%m-%d %H:%M:%S").to_string()
    });
    format!("{} {}", local.collect::<Vec<_>>().join(", "), schedule.timezone())
}
