//! Checks everything that was read, and builds a [`Config`] from it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::api::check_api;
use super::backoff::check_backoff;
use super::environment::{Environment, LoadContext};
use super::layers::Layers;
use super::mistake::{Mistakes, quote_with};
use super::model::{
    Config, ControlConfig, LoadedConfig, LocalConfig, LogConfig, MetricsConfig, PollConfig, WebConfig,
};
use super::official_account::{AccountDefaults, OfficialAccounts};
use super::rate_limit::{check_rate_limit, warn_of_excess};
use super::raw;
use super::schedule::{CronText, MAX_EXPRESSIONS, report_mistakes, warn_of_large_steps};
use super::setting::{Section, Setting};
use super::sink::check_sinks;
use super::store::{StoreSections, check_store, find_control};
use super::table::Table;
use crate::domain::{collector_intervals::CollectorIntervals, language::Language, local_time::LocalZone};
use crate::logging::LogFormat;

const MAX_LISTEN: usize = 16;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the configuration, or all its mistakes.
pub(super) fn check(layers: Layers, environment: &Environment) -> Result<LoadedConfig, Mistakes> {
    let Layers { root: section, included, mut complete, base_dir, mut findings } = layers;
    let context = LoadContext { base_dir: &base_dir, environment };
    let mut root = Table::root(0, context, &mut findings);
    let mut keys = root.keys(section).unwrap_or_default();
    let main_accounts = (0, std::mem::take(&mut keys.official_accounts));
    let sinks = std::mem::take(&mut keys.sinks);
    let (rest, defaults) = check_main(keys, &mut root);

    let mut lists = vec![main_accounts];
    for (document, section) in included {
        let keys = Table::root(document, context, &mut findings).keys(section).unwrap_or_default();
        lists.push((document, keys.official_accounts));
    }
    let mut checked = OfficialAccounts::new(defaults);
    let mut official_accounts = Vec::new();
    for (document, list) in lists {
        let mut root = Table::root(document, context, &mut findings);
        complete &= !matches!(list, Setting::Wrong(_));
        let sections = root.take("official_accounts", list).unwrap_or_default();
        official_accounts.extend(checked.check(sections, &mut root.table("official_accounts")));
    }
    let mut root = Table::root(0, context, &mut findings);
    checked.check_totals(complete, &mut root);
    warn_of_excess(&official_accounts, root.findings);
    let names: HashSet<&str> = official_accounts.iter().map(|account| account.name.as_str()).collect();
    // A sink may name an official account that could not be read.
    let names = (complete && checked.are_all_valid(&official_accounts)).then_some(&names);
    let sinks = check_sinks(sinks, names, &mut root);
    let (config, warnings) = findings.finish(rest.map(|rest| Config { official_accounts, sinks, ..rest }))?;
    Ok(LoadedConfig { config, warnings })
}

/// Returns the sections about the log and the store, and the time zone for people, or their mistakes.
pub(super) fn check_local(layers: Layers, environment: &Environment) -> Result<LocalConfig, Mistakes> {
    let Layers { root: section, base_dir, mut findings, .. } = layers;
    let context = LoadContext { base_dir: &base_dir, environment };
    let mut root = Table::root(0, context, &mut findings);
    let keys = root.keys(section).unwrap_or_default();
    let log = check_log(keys.log, &mut root.table("log"));
    let sections = StoreSections { store: keys.store, cluster: keys.cluster, control: keys.control };
    let (store, control) = check_store(sections, &mut root);
    let timezone = check_local_zone(keys.poll, &mut root.table("poll"));
    Ok(findings.finish(store.map(|store| LocalConfig { log, store, control, timezone }))?.0)
}

/// Returns the control socket and drops all mistakes.
pub(super) fn control(layers: Layers, environment: &Environment) -> ControlConfig {
    let Layers { root: section, base_dir, mut findings, .. } = layers;
    let context = LoadContext { base_dir: &base_dir, environment };
    let mut root = Table::root(0, context, &mut findings);
    let keys = root.keys(section).unwrap_or_default();
    find_control(StoreSections { store: keys.store, cluster: keys.cluster, control: keys.control }, &mut root)
}

/// Returns the zone in which people read times. The schedule is not checked.
fn check_local_zone(section: Section<raw::Poll>, poll: &mut Table<'_>) -> LocalZone {
    let mut schedule = CronText::default();
    if let Some(timezone) = poll.take("timezone", section.keys.timezone) {
        schedule.timezone = timezone;
    }
    LocalZone::named(&schedule.timezone).unwrap_or_else(|| {
        report_mistakes(&schedule, poll);
        LocalZone::UTC
    })
}

/// Checks everything except the official accounts and the sinks.
fn check_main(keys: raw::Root, root: &mut Table<'_>) -> (Option<Config>, AccountDefaults) {
    let shutdown_timeouts = Duration::from_millis(1)..=HOUR;
    let shutdown_timeout =
        root.duration("shutdown_timeout", keys.shutdown_timeout, Duration::from_secs(10), shutdown_timeouts);
    let reload_intervals = Duration::from_secs(1)..=DAY;
    let reload_interval = root.interval("reload_interval", keys.reload_interval, None, reload_intervals);
    let web = check_web(keys.web, &mut root.table("web"));
    let log = check_log(keys.log, &mut root.table("log"));
    let sections = StoreSections { store: keys.store, cluster: keys.cluster, control: keys.control };
    let (store, control) = check_store(sections, root);
    let api = check_api(keys.api, &mut root.table("api"));
    let (poll, defaults) = check_poll(keys.poll, &mut root.table("poll"));
    let backoff_policy = check_backoff(keys.backoff, &mut root.table("backoff"));
    let collectors = check_collectors(keys.collectors, &mut root.table("collectors"));
    let metrics = check_metrics(keys.metrics, &mut root.table("metrics"));
    let defaults = AccountDefaults { kf_list: collectors.kf_list, ..defaults };
    let config = store.zip(api).map(|(store, api)| Config {
        shutdown_timeout,
        reload_interval,
        web,
        log,
        store,
        control,
        api,
        poll,
        backoff_policy,
        collectors,
        metrics,
        official_accounts: Vec::new(),
        sinks: Vec::new(),
    });
    (config, defaults)
}

fn check_web(section: Section<raw::Web>, web: &mut Table<'_>) -> WebConfig {
    let keys = web.keys(section).unwrap_or_default();
    let addresses =
        web.list("listen", keys.listen, MAX_LISTEN).unwrap_or_else(|| vec!["127.0.0.1:9877".to_owned()]);
    let mut listen: Vec<SocketAddr> = Vec::new();
    for (n, text) in addresses.iter().enumerate() {
        match text.parse::<SocketAddr>() {
            Ok(address) if listen.contains(&address) && address.port() != 0 => {
                web.wrong_element("listen", (n, text), "is listed twice; remove one");
            }
            Ok(address) => listen.push(address),
            Err(_) => {
                let remedy = listen_remedy(text);
                web.wrong_element("listen", (n, text), &format!("is not an address to listen on; {remedy}"));
            }
        }
    }
    for address in listen.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        let warning = "is reachable from other machines, without authentication";
        web.findings.warnings.push(format!("web.listen: {address} {warning}"));
    }
    let enable_reload = web.take("enable_reload", keys.enable_reload).unwrap_or(false);
    WebConfig { listen, enable_reload }
}

/// What to write instead of an address that is none: a port alone and `localhost` are what other programs take.
fn listen_remedy(text: &str) -> String {
    let port = text.strip_prefix("localhost").unwrap_or(text);
    match port.strip_prefix(':').unwrap_or(port).parse::<u16>() {
        Ok(port) => format!("write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for other machines too"),
        Err(_) => "write an IP address and a port, like \"127.0.0.1:9877\" or \"[::1]:9877\"".to_owned(),
    }
}

fn check_log(section: Section<raw::Log>, log: &mut Table<'_>) -> LogConfig {
    let keys = log.keys(section).unwrap_or_default();
    let level = log.take("level", keys.level).map_or_else(|| "info".to_owned(), |level| trimmed(&level));
    if let Err(problem) = check_filter(&level) {
        log.wrong("level", format!("{problem}; write it like \"info\" or \"info,kfwatch::wechat=debug\""));
    }
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = log.word("format", keys.format, &formats).unwrap_or(LogFormat::Text);
    let environment = log.context.environment;
    let languages = [
        ("auto", Language::from_locale(|variable| environment.get(variable))),
        ("en", Language::English),
        ("zh", Language::Chinese),
        ("both", Language::Both),
    ];
    let language = log.word("language", keys.language, &languages).unwrap_or(languages[0].1);
    LogConfig { level, format, language }
}

/// Removes white space around the parts of a log filter. tracing-subscriber takes the places of `=` and `[` from the trimmed part, and
/// cuts the untrimmed one there: it refuses or misreads the part, or panics if it cuts within a character.
fn trimmed(filter: &str) -> String {
    filter.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| quote_with(filter, &format!("is not a log filter: {e}")))?;
    // A misspelled level is a valid filter: it selects everything of a module with that name, and nothing else.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphabetic() || c == ' ');
    match filter.split(',').filter(bare).find(|part| !LEVELS.contains(&part.to_lowercase().as_str())) {
        Some(part) => Err(quote_with(part, &format!("is not one of the levels {}", LEVELS.join(", ")))),
        None => Ok(()),
    }
}

fn check_poll(section: Section<raw::Poll>, poll: &mut Table<'_>) -> (PollConfig, AccountDefaults) {
    let keys = poll.keys(section).unwrap_or_default();
    let mut schedule = CronText::default();
    if let Some(expressions) = poll.list("schedule", keys.schedule, MAX_EXPRESSIONS) {
        schedule.expressions = expressions;
    }
    if let Some(timezone) = poll.take("timezone", keys.timezone) {
        schedule.timezone = timezone;
    }
    match schedule.parse() {
        Ok(schedule) => warn_of_large_steps(&schedule, poll),
        Err(_) => {
            report_mistakes(&schedule, poll);
            // Official accounts with a schedule of their own are not blamed for this one.
            schedule = CronText::default();
        }
    }
    let spread = poll.duration("spread", keys.spread, Duration::ZERO, Duration::ZERO..=DAY);
    let blind_after_range = Duration::from_secs(1)..=30 * DAY;
    let blind_after = poll.duration("blind_after", keys.blind_after, 5 * MINUTE, blind_after_range);
    let max_requests_per_minute = check_rate_limit(keys.max_requests_per_minute, None, poll);
    let zone = LocalZone::named(&schedule.timezone).unwrap_or(LocalZone::UTC);
    (
        PollConfig { spread, blind_after, timezone: zone },
        AccountDefaults { schedule, max_requests_per_minute, kf_list: None },
    )
}

fn check_collectors(section: Section<raw::Collectors>, collectors: &mut Table<'_>) -> CollectorIntervals {
    let keys = collectors.keys(section).unwrap_or_default();
    let mut interval = |name: &str, setting, default| {
        collectors.interval(name, setting, Some(default), Duration::from_secs(10)..=7 * DAY)
    };
    CollectorIntervals {
        kf_list: interval("kf_list", keys.kf_list, 5 * MINUTE),
        online: interval("online", keys.online, MINUTE),
        waiting: interval("waiting", keys.waiting, MINUTE),
        quota: interval("quota", keys.quota, HOUR),
    }
}

fn check_metrics(section: Section<raw::Metrics>, metrics: &mut Table<'_>) -> MetricsConfig {
    let keys = metrics.keys(section).unwrap_or_default();
    MetricsConfig {
        per_account: metrics.take("per_account", keys.per_account).unwrap_or(true),
        nicknames: metrics.take("nicknames", keys.nicknames).unwrap_or(true),
    }
}
