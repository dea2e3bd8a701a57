//! `kfwatch check`: is the configuration good, and what does it mean?

use std::{fmt::Write as _, sync::Arc};

use jiff::{Timestamp, tz::Offset};

use super::{ConfigArgs, Failure, output};
use crate::{
    app::clock::SystemClock,
    config::{Config, Loaded, OfficialAccount, SinkTarget},
    domain::clock::Clock,
};

/// How many of the next ticks are shown.
const TICKS_SHOWN: usize = 3;

/// Loads the configuration and says what it means.
pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let Loaded { config, warnings } = args.load()?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    output::print(&describe(&config, clock.now().wall))
}

fn describe(config: &Config, now: Timestamp) -> String {
    let mut text = String::from("The configuration is good.\n\n");
    let kf_accounts: usize = config.official_accounts.iter().map(|account| account.kf_accounts.len()).sum();
    let calls = config.calls_a_day(now);
    let rows = config.official_accounts.iter().zip(&calls).map(|(account, calls_a_day)| {
        vec![
            account.name.clone(),
            account.kf_accounts.len().to_string(),
            account.token.source().to_owned(),
            account.schedule.expressions().collect::<Vec<_>>().join(", "),
            next_ticks(account, now),
            account.max_requests_per_minute.map_or_else(|| "–".to_owned(), |most| most.to_string()),
            calls_a_day.to_string(),
        ]
    });
    let headings = [
        "official account",
        "kf accounts",
        "token",
        "schedule",
        "next ticks",
        "most calls a minute",
        "calls a day",
    ];
    text.push_str(&output::table(&headings, rows));
    let sinks = config.sinks.iter().map(|sink| match &sink.target {
        SinkTarget::Stdout => format!("{} (standard output)", sink.name),
        SinkTarget::File { path, .. } => format!("{} ({})", sink.name, path.display()),
    });
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\n{kf_accounts} kf accounts, {} calls of getsessionlist a day in all.\nStore: {}\nSinks: {}",
        calls.iter().sum::<u64>(),
        config.store.path.display(),
        sinks.collect::<Vec<_>>().join(", ")
    );
    text
}

/// In the schedule's own time zone, as its owner thinks of them.
fn next_ticks(account: &OfficialAccount, now: Timestamp) -> String {
    let schedule = &account.schedule;
    let ticks = std::iter::successors(schedule.next_after(now), |tick| schedule.next_after(*tick));
    let local = ticks.take(TICKS_SHOWN).map(|tick| {
        let offset = Offset::from_seconds(schedule.offset_at(tick)).unwrap_or(Offset::UTC);
        offset.to_datetime(tick).strftime("%m-%d %H:%M:%S").to_string()
    });
    format!("{} {}", local.collect::<Vec<_>>().join(", "), schedule.timezone())
}
