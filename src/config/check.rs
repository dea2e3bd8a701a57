//! Checks everything that was read, and makes a [`Config`] of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::layers::Layers;
use super::locate::Key;
use super::mistake::{Mistakes, quote};
use super::official_account::{OfficialAccounts, note_schedule_error};
use super::report::Report;
use super::request_limit::{request_limit, warn_of_excess};
use super::setting::Setting;
use super::webhook::Around;
use super::{Config, Environment, Loaded, Log, LogFormat, Metrics, Poll, Store, Web, raw};
use super::{api, backoff, sink};
use crate::domain::{
    collector_intervals::CollectorIntervals,
    cron::{MAX_EXPRESSIONS, Schedule},
};

/// How many addresses the web server may listen on.
const MAX_LISTEN: usize = 16;

/// How large a store may become without saying so: 10 GiB, some 15 million events.
const DEFAULT_STORE_BYTES: usize = 10 << 30;

/// How large a store may be told to become: from 16 MiB, so that a burst of commits fits in what is kept free, to the 16 TiB
/// that SQLite allows.
const STORE_BYTES: RangeInclusive<usize> = 16 << 20..=16 << 40;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What `[poll]` gives to official accounts that do not say it themselves.
pub(super) struct Inherited {
    /// Cron expressions and time zone.
    pub(super) schedule: (Vec<String>, String),
    pub(super) max_requests_per_minute: Option<NonZeroU32>,
    /// How often getkflist is called, if it is.
    pub(super) kf_list: Option<Duration>,
}

/// All mistakes there are, or a configuration without any.
pub(super) fn check(layers: Layers, environment: &Environment) -> Result<Loaded, Mistakes> {
    let Layers { root: section, included, mut complete, base_dir, mut report } = layers;
    let root = Key::root(0);
    let mut keys = report.section(&root, section);
    let main_accounts = (0, std::mem::take(&mut keys.official_accounts));
    let sinks = std::mem::take(&mut keys.sinks);
    let (rest, inherited) = check_main(keys, &base_dir, &mut report);

    let mut lists = vec![main_accounts];
    for (document, section) in included {
        lists.push((document, report.section(&Key::root(document), section).official_accounts));
    }
    let mut checked = OfficialAccounts::new(&base_dir, environment, inherited);
    let mut official_accounts = Vec::new();
    for (document, list) in lists {
        let root = Key::root(document);
        let key = root.name("official_accounts");
        complete &= !matches!(list, Setting::Wrong(_));
        let sections = report.take(&key, list).unwrap_or_default();
        official_accounts.extend(checked.check(&key, sections, &mut report));
    }
    checked.check_totals(complete, &mut report);
    warn_of_excess(&official_accounts, &mut report);
    let names: HashSet<&str> = official_accounts.iter().map(|account| account.name.as_str()).collect();
    // One that was not understood may be one that a sink names.
    let names = (complete && checked.all_understood(&official_accounts)).then_some(&names);
    let around = Around { base_dir: &base_dir, environment };
    let sinks = sink::sinks(sinks, around, names, &mut report);
    let (config, warnings) = report.finish(rest.map(|rest| Config { official_accounts, sinks, ..rest }))?;
    Ok(Loaded { config, warnings })
}

/// Everything but the official accounts and the sinks, and what `[poll]` gives them.
fn check_main(keys: raw::Root, base_dir: &Path, report: &mut Report) -> (Option<Config>, Inherited) {
    let root = Key::root(0);
    let key = root.name("shutdown_timeout");
    let shortest = Duration::from_millis(1);
    let shutdown_timeout =
        report.duration(&key, keys.shutdown_timeout, Duration::from_secs(10), shortest..=HOUR);
    let web = report.section(&root.name("web"), keys.web);
    let web = check_web(web, report);
    let log = report.section(&root.name("log"), keys.log);
    let log = check_log(log, report);
    let store = report.section(&root.name("store"), keys.store);
    let store = check_store(store, base_dir, report);
    let api = report.section(&root.name("api"), keys.api);
    let api = api::api(api, base_dir, report);
    let poll = report.section(&root.name("poll"), keys.poll);
    let (poll, inherited) = check_poll(poll, report);
    let backoff_policy = report.section(&root.name("backoff"), keys.backoff);
    let backoff_policy = backoff::policy(backoff_policy, report);
    let collectors = report.section(&root.name("collectors"), keys.collectors);
    let collectors = check_collectors(collectors, report);
    let inherited = Inherited { kf_list: collectors.kf_list, ..inherited };
    let metrics = report.section(&root.name("metrics"), keys.metrics);
    let per_account =
        report.take(&root.name("metrics").name("per_account"), metrics.per_account).unwrap_or(true);
    let config = api.map(|api| Config {
        shutdown_timeout,
        web,
        log,
        store,
        api,
        poll,
        backoff_policy,
        collectors,
        metrics: Metrics { per_account },
        official_accounts: Vec::new(),
        sinks: Vec::new(),
    });
    (config, inherited)
}

fn check_web(keys: raw::Web, report: &mut Report) -> Web {
    let root = Key::root(0);
    let web = root.name("web");
    let key = web.name("listen");
    let written =
        report.list(&key, keys.listen, MAX_LISTEN).unwrap_or_else(|| vec!["127.0.0.1:9877".to_owned()]);
    let mut listen: Vec<SocketAddr> = Vec::new();
    for (n, text) in written.iter().enumerate() {
        match text.parse::<SocketAddr>() {
            Ok(address) if listen.contains(&address) && address.port() != 0 => {
                report.wrong(&key.index(n), format!("{} is listed twice; remove one", quote(text)));
            }
            Ok(address) => listen.push(address),
            Err(_) => {
                let remedy = "write an IP address and a port, like \"127.0.0.1:9877\" or \"[::1]:9877\"";
                report.wrong(
                    &key.index(n),
                    format!("{} is not an address to listen on; {remedy}", quote(text)),
                );
            }
        }
    }
    for address in listen.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        report.warn(format!(
            "web.listen: {address} can be reached from other machines, without authentication"
        ));
    }
    Web { listen }
}

fn check_log(keys: raw::Log, report: &mut Report) -> Log {
    let root = Key::root(0);
    let log = root.name("log");
    let level = report.take(&log.name("level"), keys.level).unwrap_or_else(|| "info".to_owned());
    if let Err(problem) = check_filter(&level) {
        report.wrong(
            &log.name("level"),
            format!("{problem}; write it like \"info\" or \"info,kfwatch::wechat=debug\""),
        );
    }
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = report.word(&log.name("format"), keys.format, &formats).unwrap_or(LogFormat::Text);
    Log { level, format }
}

fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map_err(|e| format!("{} is not a filter: {e}", quote(filter)))?;
    // A level with a typing error is a valid filter: one for everything of a module with that name, and of no other.
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

fn check_store(keys: raw::Store, base_dir: &Path, report: &mut Report) -> Store {
    let root = Key::root(0);
    let store = root.name("store");
    let path = report.take(&store.name("path"), keys.path).unwrap_or_else(|| "kfwatch.db".to_owned());
    let key = store.name("event_retention");
    let event_retention =
        report.duration(&key, keys.event_retention, 30 * DAY, Duration::from_secs(1)..=3_650 * DAY);
    let key = store.name("event_log_max_bytes");
    let event_log_max_bytes =
        report.number(&key, keys.event_log_max_bytes, DEFAULT_STORE_BYTES, STORE_BYTES) as u64;
    let key = store.name("dead_letter_retention");
    let dead_letter_retention =
        report.duration(&key, keys.dead_letter_retention, 30 * DAY, Duration::from_secs(1)..=3_650 * DAY);
    Store { path: base_dir.join(path), event_retention, event_log_max_bytes, dead_letter_retention }
}

fn check_poll(keys: raw::Poll, report: &mut Report) -> (Poll, Inherited) {
    let root = Key::root(0);
    let poll = root.name("poll");
    let expressions = report.list(&poll.name("schedule"), keys.schedule, MAX_EXPRESSIONS);
    let expressions = expressions.unwrap_or_else(|| vec!["*/15 * * * * *".to_owned()]);
    let timezone =
        report.take(&poll.name("timezone"), keys.timezone).unwrap_or_else(|| "Asia/Shanghai".to_owned());
    if let Err(error) = Schedule::parse(&expressions, &timezone) {
        note_schedule_error(&poll, &error, report);
    }
    let spread = report.duration(&poll.name("spread"), keys.spread, Duration::ZERO, Duration::ZERO..=DAY);
    let key = poll.name("blind_after");
    let blind_after =
        report.duration(&key, keys.blind_after, Duration::from_secs(300), Duration::from_secs(1)..=30 * DAY);
    let max_requests_per_minute = request_limit(&poll, keys.max_requests_per_minute, None, report);
    (
        Poll { spread, blind_after },
        Inherited { schedule: (expressions, timezone), max_requests_per_minute, kf_list: None },
    )
}

fn check_collectors(keys: raw::Collectors, report: &mut Report) -> CollectorIntervals {
    let root = Key::root(0);
    let collectors = root.name("collectors");
    let mut interval = |name: &str, setting, default| {
        report.interval(&collectors.name(name), setting, default, Duration::from_secs(10)..=7 * DAY)
    };
    CollectorIntervals {
        kf_list: interval("kf_list", keys.kf_list, 5 * MINUTE),
        online: interval("online", keys.online, MINUTE),
        waiting: interval("waiting", keys.waiting, MINUTE),
        quota: interval("quota", keys.quota, HOUR),
    }
}
