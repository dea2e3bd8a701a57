//! What `kfwatch check` shows of a valid configuration: its official accounts, its schedules, and the calls that it makes.

use std::collections::HashSet;

use anyhow::Context as _;
use glob::Pattern;
use jiff::{SignedDuration, Timestamp};

use crate::{
    app::{self, clock::SystemClock},
    cli::{
        CliError,
        account_args::{Extent, ExtentArgs, REST_ON_DEMAND, unknown_in},
        output,
    },
    config::{Config, DailyCalls, OfficialAccountConfig, SinkTarget},
    domain::{
        account_filter::{AccountFilter, AccountNames},
        agents::Collector,
        clock::Clock,
        collector_intervals::CollectorIntervals,
        cron::Schedule,
        local_time::LocalZone,
        quantity::{counted, grouped},
    },
    metrics::exposition::{ConfiguredParts, SeriesCount},
};

/// Next ticks shown for each schedule.
const TICKS_SHOWN: usize = 3;

/// Schedules shown.
const SCHEDULES_SHOWN: usize = 5;

/// Patterns shown for each official account.
const PATTERNS_SHOWN: usize = 3;

/// An official account, and the calls that its schedule makes.
type Row<'a> = (&'a OfficialAccountConfig, DailyCalls);

/// Describes the selected official accounts of a configuration.
pub(super) fn overview(
    config: &Config,
    filter: &AccountFilter,
    extent: ExtentArgs,
) -> Result<String, CliError> {
    let now = SystemClock::default().now().wall;
    let rows = config.official_accounts.iter().zip(config.daily_calls(now));
    let rows: Vec<Row<'_>> = rows.filter(|(of, _)| is_selected(of, filter)).collect();
    if rows.is_empty() {
        return Err(unknown_in(config, filter).into());
    }
    let kf_accounts: usize = rows.iter().map(|(of, _)| of.kf_accounts.len()).sum();
    // The table has a row for each official account, also for one whose kf accounts getkflist must find.
    let extent = extent.of_table(filter, kf_accounts.max(rows.len()));
    let mut text = String::from("The configuration is valid.\n\n");
    if extent == Extent::Everything {
        text.push_str(&table(&rows));
        text.push('\n');
    }
    text.push_str(&schedules(&rows, now));
    text.push_str(&calls(&rows, kf_accounts));
    text.push_str(&collectors(&config.collectors, rows.len()));
    text.push_str(&series(config, &rows)?);
    let sinks: Vec<String> = config.sinks.iter().map(|sink| sink_shown(&sink.name, &sink.target)).collect();
    text.push_str(&format!("Store: {}\nSinks: {}\n", config.store.location, sinks.join(", ")));
    if extent == Extent::Summary {
        text.push('\n');
        text.push_str(REST_ON_DEMAND);
    }
    Ok(text)
}

fn is_selected(of: &OfficialAccountConfig, filter: &AccountFilter) -> bool {
    let names = of.kf_accounts.iter().map(|kf_account| names(&of.name, kf_account));
    filter.selects_all_of(&of.name) || names.into_iter().any(|names| filter.selects(names))
}

fn names<'a>(official_account: &'a str, kf_account: &'a str) -> AccountNames<'a> {
    AccountNames { official_account, kf_account, nickname: None }
}

fn table(rows: &[Row<'_>]) -> String {
    let cells = rows.iter().map(|(of, calls)| {
        let (calls_a_day, each) = (calls.for_kf_accounts(of.kf_accounts.len()), calls.per_kf_account);
        vec![
            of.name.clone(),
            watched(of),
            of.token.source().to_owned(),
            of.schedule.expressions().collect::<Vec<_>>().join(", "),
            of.max_requests_per_minute.map_or_else(|| "–".to_owned(), |most| grouped(most.get().into())),
            match of.patterns.is_empty() {
                true => grouped(calls_a_day),
                false => format!("{} + {} each", grouped(calls_a_day), grouped(each)),
            },
        ]
    });
    let headings = ["official account", "kf accounts", "token", "schedule", "max a minute", "calls a day"];
    output::wrapped_table(&headings, &["kf accounts", "schedule", "calls a day"], cells)
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

/// The different schedules with their next ticks, each in its own time zone.
fn schedules(rows: &[Row<'_>], now: Timestamp) -> String {
    let mut seen = HashSet::new();
    let schedules: Vec<&Schedule> =
        rows.iter().map(|(of, _)| &of.schedule).filter(|schedule| seen.insert(*schedule)).collect();
    let mut text = String::new();
    for schedule in schedules.iter().take(SCHEDULES_SHOWN) {
        let zone = LocalZone::from(schedule.timezone());
        let ticks = std::iter::successors(schedule.next_after(now), |tick| schedule.next_after(*tick));
        let ticks: Vec<String> = ticks.take(TICKS_SHOWN).map(|tick| zone.show(tick)).collect();
        let expressions = schedule.expressions().collect::<Vec<_>>().join(", ");
        text.push_str(&format!("Next ticks of {expressions} ({zone}):\n    {}\n", ticks.join(", ")));
    }
    if let more @ 1.. = schedules.len().saturating_sub(SCHEDULES_SHOWN) {
        text.push_str(&format!("and {} more\n", counted(more as u64, "schedule")));
    }
    text + "\n"
}

fn calls(rows: &[Row<'_>], kf_accounts: usize) -> String {
    let total = rows.iter().map(|(of, calls)| calls.for_kf_accounts(of.kf_accounts.len())).sum();
    let found = match rows.iter().any(|(of, _)| !of.patterns.is_empty()) {
        true => ", plus those that getkflist lists and a pattern matches, each with its calls",
        false => "",
    };
    format!(
        "{}, {} of getsessionlist on the busiest day in all{found}. Each official account has its own quota, which check --online \
         compares.\n",
        counted(kf_accounts as u64, "kf account"),
        counted(total, "call")
    )
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
        "Collectors: {}; {} a day for each official account, {} in all.\n",
        written.join(", "),
        counted(calls, "call"),
        grouped(calls * official_accounts as u64)
    )
}

/// The Prometheus series of the whole daemon, if only these accounts were configured.
fn series(config: &Config, rows: &[Row<'_>]) -> Result<String, CliError> {
    let kf_accounts: usize = rows.iter().map(|(of, _)| of.kf_accounts.len()).sum();
    let each = match config.metrics.per_account {
        true => "each kf account",
        false => "each kf account (metrics.per_account is off)",
    };
    let parts = ConfiguredParts {
        official_accounts: rows.len() as u64,
        kf_accounts: kf_accounts as u64,
        sinks: config.sinks.len() as u64,
    };
    let counted = SeriesCount::new(parts, &config.collectors, app::series_detail(config.metrics))
        .context("count the series")?;
    Ok(format!(
        "Prometheus series: up to {} for {each}, up to {} in all.\n",
        grouped(counted.per_kf_account),
        grouped(counted.in_all)
    ))
}

/// The name of a sink and where its events go.
pub(in crate::cli) fn sink_shown(name: &str, target: &SinkTarget) -> String {
    match target {
        SinkTarget::Stdout => format!("{name} (standard output)"),
        SinkTarget::File { path, .. } => format!("{name} ({})", path.display()),
        SinkTarget::Webhook(options) => format!("{name} ({})", options.receiver()),
        SinkTarget::Chat(options) => format!("{name} ({})", options.receiver()),
        SinkTarget::Nats(options) => format!("{name} ({} to {})", options.subjects(), options.servers()),
    }
}
