//! Checks everything that was read, and builds a [`Config`] from it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::api::check_api;
use super::backoff::check_backoff;
use super::environment::{Environment, LoadContext};
use super::findings::Findings;
use super::layers::Layers;
use super::mistake::{Mistakes, quote};
use super::model::{
    Config, LoadedConfig, LocalConfig, LogConfig, MetricsConfig, PollConfig, StoreConfig, WebConfig,
};
use super::official_account::{AccountDefaults, CronText, OfficialAccounts, report_schedule_error};
use super::rate_limit::{check_rate_limit, warn_of_excess};
use super::raw;
use super::setting::Setting;
use super::sink::check_sinks;
use super::sources::KeyPath;
use crate::domain::{
    collector_intervals::CollectorIntervals,
    cron::{MAX_EXPRESSIONS, Schedule},
};
use crate::logging::LogFormat;

const MAX_LISTEN: usize = 16;

/// 10 GiB, about 15 million events.
const DEFAULT_STORE_BYTES: usize = 10 << 30;

/// The range of `event_log_max_bytes`: from 16 MiB, so that a burst of commits fits into the free space, to the 16 TiB that
/// SQLite allows.
const STORE_BYTES: RangeInclusive<usize> = 16 << 20..=16 << 40;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the configuration, or all its mistakes.
pub(super) fn check(layers: Layers, environment: &Environment) -> Result<LoadedConfig, Mistakes> {
    let Layers { root: section, included, mut complete, base_dir, mut findings } = layers;
    let root = KeyPath::root(0);
    let mut keys = findings.section(&root, section);
    let main_accounts = (0, std::mem::take(&mut keys.official_accounts));
    let sinks = std::mem::take(&mut keys.sinks);
    let context = LoadContext { base_dir: &base_dir, environment };
    let (rest, defaults) = check_main(keys, context, &mut findings);

    let mut lists = vec![main_accounts];
    for (document, section) in included {
        lists.push((document, findings.section(&KeyPath::root(document), section).official_accounts));
    }
    let mut checked = OfficialAccounts::new(context, defaults);
    let mut official_accounts = Vec::new();
    for (document, list) in lists {
        let root = KeyPath::root(document);
        let key = root.name("official_accounts");
        complete &= !matches!(list, Setting::Wrong(_));
        let sections = findings.take(&key, list).unwrap_or_default();
        official_accounts.extend(checked.check(&key, sections, &mut findings));
    }
    checked.check_totals(complete, &mut findings);
    warn_of_excess(&official_accounts, &mut findings);
    let names: HashSet<&str> = official_accounts.iter().map(|account| account.name.as_str()).collect();
    // A sink may name an official account that could not be read.
    let names = (complete && checked.are_all_valid(&official_accounts)).then_some(&names);
    let sinks = check_sinks(sinks, context, names, &mut findings);
    let (config, warnings) = findings.finish(rest.map(|rest| Config { official_accounts, sinks, ..rest }))?;
    Ok(LoadedConfig { config, warnings })
}

/// Returns the log and store sections, or their mistakes.
pub(super) fn check_local(layers: Layers, environment: &Environment) -> Result<LocalConfig, Mistakes> {
    let Layers { root: section, base_dir, mut findings, .. } = layers;
    let root = KeyPath::root(0);
    let context = LoadContext { base_dir: &base_dir, environment };
    let keys = findings.section(&root, section);
    let log = findings.section(&root.name("log"), keys.log);
    let log = check_log(log, &mut findings);
    let store = findings.section(&root.name("store"), keys.store);
    let store = check_store(store, context, &mut findings);
    Ok(findings.finish(Some(LocalConfig { log, store }))?.0)
}

/// Checks everything except the official accounts and the sinks.
fn check_main(
    keys: raw::Root,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> (Option<Config>, AccountDefaults) {
    let root = KeyPath::root(0);
    let key = root.name("shutdown_timeout");
    let shortest = Duration::from_millis(1);
    let shutdown_timeout =
        findings.duration(&key, keys.shutdown_timeout, Duration::from_secs(10), shortest..=HOUR);
    let web = findings.section(&root.name("web"), keys.web);
    let web = check_web(web, findings);
    let log = findings.section(&root.name("log"), keys.log);
    let log = check_log(log, findings);
    let store = findings.section(&root.name("store"), keys.store);
    let store = check_store(store, context, findings);
    let api = findings.section(&root.name("api"), keys.api);
    let api = check_api(api, context, findings);
    let poll = findings.section(&root.name("poll"), keys.poll);
    let (poll, defaults) = check_poll(poll, findings);
    let backoff_policy = findings.section(&root.name("backoff"), keys.backoff);
    let backoff_policy = check_backoff(backoff_policy, findings);
    let collectors = findings.section(&root.name("collectors"), keys.collectors);
    let collectors = check_collectors(collectors, findings);
    let defaults = AccountDefaults { kf_list: collectors.kf_list, ..defaults };
    let metrics = findings.section(&root.name("metrics"), keys.metrics);
    let per_account =
        findings.take(&root.name("metrics").name("per_account"), metrics.per_account).unwrap_or(true);
    let config = api.map(|api| Config {
        shutdown_timeout,
        web,
        log,
        store,
        api,
        poll,
        backoff_policy,
        collectors,
        metrics: MetricsConfig { per_account },
        official_accounts: Vec::new(),
        sinks: Vec::new(),
    });
    (config, defaults)
}

fn check_web(keys: raw::Web, findings: &mut Findings) -> WebConfig {
    let root = KeyPath::root(0);
    let web = root.name("web");
    let key = web.name("listen");
    let addresses =
        findings.list(&key, keys.listen, MAX_LISTEN).unwrap_or_else(|| vec!["127.0.0.1:9877".to_owned()]);
    let mut listen: Vec<SocketAddr> = Vec::new();
    for (n, text) in addresses.iter().enumerate() {
        match text.parse::<SocketAddr>() {
            Ok(address) if listen.contains(&address) && address.port() != 0 => {
                findings.wrong(&key.index(n), format!("{} is listed twice; remove one", quote(text)));
            }
            Ok(address) => listen.push(address),
            Err(_) => {
                let remedy = "write an IP address and a port, like \"127.0.0.1:9877\" or \"[::1]:9877\"";
                findings.wrong(
                    &key.index(n),
                    format!("{} is not an address to listen on; {remedy}", quote(text)),
                );
            }
        }
    }
    for address in listen.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        findings
            .warn(format!("web.listen: {address} is reachable from other machines, without authentication"));
    }
    WebConfig { listen }
}

fn check_log(keys: raw::Log, findings: &mut Findings) -> LogConfig {
    let root = KeyPath::root(0);
    let log = root.name("log");
    let level = findings.take(&log.name("level"), keys.level).unwrap_or_else(|| "info".to_owned());
    if let Err(problem) = check_filter(&level) {
        findings.wrong(
            &log.name("level"),
            format!("{problem}; write it like \"info\" or \"info,kfwatch::wechat=debug\""),
        );
    }
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = findings.word(&log.name("format"), keys.format, &formats).unwrap_or(LogFormat::Text);
    LogConfig { level, format }
}

fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map_err(|e| format!("{} is not a log filter: {e}", quote(filter)))?;
    // A misspelled level is a valid filter: it selects everything of a module with that name, and nothing else.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphabetic() || c == ' ');
    match filter
        .split(',')
        .map(str::trim)
        .filter(bare)
        .find(|part| !LEVELS.contains(&part.to_lowercase().as_str()))
    {
        Some(part) => Err(format!("{} is not one of the levels {}", quote(part), LEVELS.join(", "))),
        None => Ok(()),
    }
}

fn check_store(keys: raw::Store, context: LoadContext<'_>, findings: &mut Findings) -> StoreConfig {
    let root = KeyPath::root(0);
    let store = root.name("store");
    let path = findings.take(&store.name("path"), keys.path).unwrap_or_else(|| "kfwatch.db".to_owned());
    let key = store.name("event_retention");
    let event_retention =
        findings.duration(&key, keys.event_retention, 30 * DAY, Duration::from_secs(1)..=3_650 * DAY);
    let key = store.name("event_log_max_bytes");
    let event_log_max_bytes =
        findings.number(&key, keys.event_log_max_bytes, DEFAULT_STORE_BYTES, STORE_BYTES) as u64;
    let key = store.name("dead_letter_retention");
    let dead_letter_retention =
        findings.duration(&key, keys.dead_letter_retention, 30 * DAY, Duration::from_secs(1)..=3_650 * DAY);
    StoreConfig {
        path: context.base_dir.join(path),
        event_retention,
        event_log_max_bytes,
        dead_letter_retention,
    }
}

fn check_poll(keys: raw::Poll, findings: &mut Findings) -> (PollConfig, AccountDefaults) {
    let root = KeyPath::root(0);
    let poll = root.name("poll");
    let expressions = findings.list(&poll.name("schedule"), keys.schedule, MAX_EXPRESSIONS);
    let expressions = expressions.unwrap_or_else(|| vec!["*/15 * * * * *".to_owned()]);
    let timezone =
        findings.take(&poll.name("timezone"), keys.timezone).unwrap_or_else(|| "Asia/Shanghai".to_owned());
    if let Err(error) = Schedule::parse(&expressions, &timezone) {
        report_schedule_error(&poll, &error, findings);
    }
    let spread = findings.duration(&poll.name("spread"), keys.spread, Duration::ZERO, Duration::ZERO..=DAY);
    let key = poll.name("blind_after");
    let blind_after = findings.duration(
        &key,
        keys.blind_after,
        Duration::from_secs(300),
        Duration::from_secs(1)..=30 * DAY,
    );
    let max_requests_per_minute = check_rate_limit(&poll, keys.max_requests_per_minute, None, findings);
    let schedule = CronText { expressions, timezone };
    (PollConfig { spread, blind_after }, AccountDefaults { schedule, max_requests_per_minute, kf_list: None })
}

fn check_collectors(keys: raw::Collectors, findings: &mut Findings) -> CollectorIntervals {
    let root = KeyPath::root(0);
    let collectors = root.name("collectors");
    let mut interval = |name: &str, setting, default| {
        findings.interval(&collectors.name(name), setting, default, Duration::from_secs(10)..=7 * DAY)
    };
    CollectorIntervals {
        kf_list: interval("kf_list", keys.kf_list, 5 * MINUTE),
        online: interval("online", keys.online, MINUTE),
        waiting: interval("waiting", keys.waiting, MINUTE),
        quota: interval("quota", keys.quota, HOUR),
    }
}
