//! Checks `[[sinks]]`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::chat::check_chat;
use super::model::{SinkConfig, SinkStart, SinkTarget};
use super::names::{UniqueValues, check_name};
use super::nats::check_nats;
use super::official_account::MAX_OFFICIAL_ACCOUNTS;
use super::raw;
use super::setting::{Section, Setting, TextList};
use super::table::Table;
use super::webhook::check_webhook;
use crate::domain::event::EventType;

/// The sink that a configuration without sinks has: standard output.
pub const DEFAULT_SINK: &str = "stdout";

/// The maximum number of sinks; each one reads the event log separately.
const MAX_SINKS: usize = 32;

/// Elements of the key `types`, duplicates included, which are reported one by one.
const MAX_TYPES: usize = 9;

/// The permission bits of a new file of events, which are personal data.
const DEFAULT_MODE: u32 = 0o600;

/// Paths of standard output. Under systemd it is a socket, which no path opens.
const STDOUT_PATHS: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// The values of the key `type`.
const TYPES: [(&str, &str); 4] =
    [("jsonl", "jsonl"), ("webhook", "webhook"), ("nats", "nats"), ("chat", "chat")];

/// Checks the sinks of the main file; without any, events go to standard output. `names` are those of all official
/// accounts, or `None` if some could not be read.
pub(super) fn check_sinks(
    setting: Setting<Vec<Section<raw::Sink>>>,
    names: Option<&HashSet<&str>>,
    root: &mut Table<'_>,
) -> Vec<SinkConfig> {
    let sections = root.take("sinks", setting).unwrap_or_default();
    if sections.is_empty() {
        return vec![SinkConfig {
            name: DEFAULT_SINK.to_owned(),
            target: SinkTarget::Stdout,
            start: SinkStart::Now,
            types: Vec::new(),
            official_accounts: Vec::new(),
        }];
    }
    let mut list = root.table("sinks");
    if sections.len() > MAX_SINKS {
        list.wrong_table(format!("has {} sinks, but at most {MAX_SINKS} are allowed", sections.len()));
    }
    let mut unique_names = UniqueValues::new("sink");
    let mut targets = HashMap::new();
    let sinks = sections.into_iter().enumerate().filter_map(|(n, section)| {
        let mut table = list.element(n);
        let sink = check_sink(section, &mut table)?;
        unique_names.check("name", Some(&sink.name), &mut table);
        check_unique_target(&sink.target, &mut targets, &mut table);
        if let Some(names) = names {
            check_official_accounts(&sink, names, &mut table);
        }
        Some(sink)
    });
    sinks.collect()
}

fn check_sink(section: Section<raw::Sink>, sink: &mut Table<'_>) -> Option<SinkConfig> {
    let mut keys = sink.keys(section)?;
    let kind = sink.require("type", std::mem::take(&mut keys.kind), "type = \"jsonl\"");
    let kind = kind.and_then(|kind| sink.word("type", Setting::Given(kind), &TYPES));
    let name = check_name(std::mem::take(&mut keys.name), "name = \"log\"", sink);
    let starts = [("now", SinkStart::Now), ("beginning", SinkStart::Beginning)];
    let start = sink.word("start", std::mem::take(&mut keys.start), &starts);
    let has_types = !keys.types.is_absent();
    let mut types = check_event_types(std::mem::take(&mut keys.types), sink);
    let official_accounts = std::mem::take(&mut keys.official_accounts);
    let official_accounts = sink.list("official_accounts", official_accounts, MAX_OFFICIAL_ACCOUNTS);
    reject_keys_of_other_types(&keys, kind?, sink);
    let target = match kind? {
        "webhook" => {
            let options = check_webhook(keys, sink)?;
            if let Some(name) = name.as_ref().filter(|_| options.keys.value().is_empty()) {
                sink.findings.warnings.push(format!(
                    "sink {name:?} does not sign its requests, so its receiver cannot detect forged events; set secret_file"
                ));
            }
            SinkTarget::Webhook(Box::new(options))
        }
        "nats" => SinkTarget::Nats(Box::new(check_nats(keys, sink)?)),
        "chat" => {
            if !has_types {
                types.push(EventType::StateChanged);
            }
            SinkTarget::Chat(Box::new(check_chat(keys, sink)?))
        }
        _ => check_jsonl(keys, sink),
    };
    Some(SinkConfig {
        name: name?,
        target,
        start: start.unwrap_or(SinkStart::Now),
        types,
        official_accounts: official_accounts.unwrap_or_default(),
    })
}

fn reject_keys_of_other_types(keys: &raw::Sink, kind: &str, sink: &mut Table<'_>) {
    let jsonl: &[&str] = &["jsonl"];
    let webhook: &[&str] = &["webhook"];
    let nats: &[&str] = &["nats"];
    let chat: &[&str] = &["chat"];
    let servers: &[&str] = &["webhook", "nats"];
    let remote: &[&str] = &["webhook", "nats", "chat"];
    let keys = [
        ("path", keys.path.is_absent(), jsonl),
        ("mode", keys.mode.is_absent(), jsonl),
        ("group", keys.group.is_absent(), jsonl),
        ("vendor", keys.vendor.is_absent(), chat),
        ("url_file", keys.url_file.is_absent(), chat),
        ("url_env", keys.url_env.is_absent(), chat),
        ("url", keys.url.is_absent(), remote),
        ("allow_insecure", keys.allow_insecure.is_absent(), remote),
        ("secret_file", keys.secret_file.is_absent(), remote),
        ("secret_env", keys.secret_env.is_absent(), remote),
        ("secret", keys.secret.is_absent(), remote),
        ("lang", keys.lang.is_absent(), chat),
        ("header_files", keys.header_files.is_absent(), webhook),
        ("ca_file", keys.ca_file.is_absent(), remote),
        ("timeout", keys.timeout.is_absent(), remote),
        ("max_in_flight", keys.max_in_flight.is_absent(), servers),
        ("subject_prefix", keys.subject_prefix.is_absent(), nats),
        ("credentials_file", keys.credentials_file.is_absent(), nats),
        ("nkey_file", keys.nkey_file.is_absent(), nats),
        ("user", keys.user.is_absent(), nats),
    ];
    sink.reject_inapplicable(("type", kind), &keys);
}

/// Checks a sink that writes lines to a file or to standard output.
fn check_jsonl(keys: raw::Sink, sink: &mut Table<'_>) -> SinkTarget {
    let path = sink.take("path", keys.path).unwrap_or_else(|| "-".to_owned());
    if STDOUT_PATHS.contains(&path.as_str()) {
        for (key, absent) in [("mode", keys.mode.is_absent()), ("group", keys.group.is_absent())] {
            if !absent {
                sink.wrong(key, "has no effect on standard output; remove it, or set path to a file");
            }
        }
        return SinkTarget::Stdout;
    }
    let mode = sink.take("mode", keys.mode);
    let mode = mode.map_or(DEFAULT_MODE, |mode| check_mode(&mode, sink));
    let group = sink.take("group", keys.group);
    let invalid = |group: &&String| group.contains(|c: char| c.is_whitespace() || ":,".contains(c));
    if let Some(group) = group.as_ref().filter(invalid) {
        sink.wrong_value("group", group, "is not the name of a group; write it like \"adm\"");
    }
    SinkTarget::File { path: sink.context.base_dir.join(path), mode, group }
}

fn check_mode(text: &str, sink: &mut Table<'_>) -> u32 {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    let problem = match mode {
        Some(mode) if mode & 0o600 == 0o600 => return mode,
        Some(_) => "does not let the owner read and write; write it like \"0640\"",
        None => "is not a file mode; write it in octal, like \"0640\"",
    };
    sink.wrong_value("mode", text, problem);
    DEFAULT_MODE
}

fn check_event_types(setting: Setting<TextList>, sink: &mut Table<'_>) -> Vec<EventType> {
    let mut types = Vec::new();
    let words = sink.list("types", setting, MAX_TYPES).unwrap_or_default();
    for (n, text) in words.into_iter().enumerate() {
        let event_type = EventType::ALL.into_iter().find(|known| known.words().contains(&text.as_str()));
        let problem = match event_type {
            Some(event_type) if types.contains(&event_type) => "is listed twice; remove one",
            Some(event_type) => {
                types.push(event_type);
                continue;
            }
            None => "is not one of \"started\", \"ended\", \"state_changed\"",
        };
        sink.wrong_element("types", (n, &text), problem);
    }
    types
}

fn check_official_accounts(sink: &SinkConfig, names: &HashSet<&str>, table: &mut Table<'_>) {
    for (n, name) in sink.official_accounts.iter().enumerate() {
        if !names.contains(name.as_str()) {
            let problem =
                "is not the name of an official account; write a name of one of the [[official_accounts]]";
            table.wrong_element("official_accounts", (n, name), problem);
        }
    }
}

/// Reports a file, or standard output, that another sink writes to. Servers may be shared, for example with other filters.
fn check_unique_target(
    target: &SinkTarget,
    used: &mut HashMap<Option<PathBuf>, String>,
    sink: &mut Table<'_>,
) {
    let target = match target {
        SinkTarget::Stdout => None,
        SinkTarget::File { path, .. } => Some(path.clone()),
        SinkTarget::Webhook(_) | SinkTarget::Nats(_) | SinkTarget::Chat(_) => return,
    };
    if let Some(first) = used.insert(target, sink.location_of("path")) {
        sink.wrong("path", format!("is also the path of the sink at {first}; give each sink its own path"));
    }
}
