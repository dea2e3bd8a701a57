//! Checks `[[sinks]]`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::environment::LoadContext;
use super::findings::Findings;
use super::mistake::quote;
use super::model::{SinkConfig, SinkStart, SinkTarget};
use super::names::{UniqueValues, check_name};
use super::nats::check_nats;
use super::official_account::MAX_OFFICIAL_ACCOUNTS;
use super::raw;
use super::setting::{Section, Setting, TextList};
use super::sources::KeyPath;
use super::webhook::check_webhook;
use crate::domain::event::EventType;

/// The maximum number of sinks; each one reads the event log separately.
pub const MAX_SINKS: usize = 32;

/// The permission bits of a new file of events, which are personal data.
const DEFAULT_MODE: u32 = 0o600;

/// The values of the key `type`.
const TYPES: [(&str, &str); 3] = [("jsonl", "jsonl"), ("webhook", "webhook"), ("nats", "nats")];

/// The values of the key `types`, the same as of `kfwatch events --type`.
const EVENT_TYPES: [(&str, EventType); 9] = [
    ("started", EventType::SessionStarted),
    ("ended", EventType::SessionEnded),
    ("state_changed", EventType::StateChanged),
    ("session.started", EventType::SessionStarted),
    ("session.ended", EventType::SessionEnded),
    ("account.state_changed", EventType::StateChanged),
    ("kf.session.started", EventType::SessionStarted),
    ("kf.session.ended", EventType::SessionEnded),
    ("kf.account.state_changed", EventType::StateChanged),
];

/// Checks the sinks of the main file; without any, events go to standard output. `names` are those of all official
/// accounts, or `None` if some could not be read.
pub(super) fn check_sinks(
    setting: Setting<Vec<Section<raw::Sink>>>,
    context: LoadContext<'_>,
    names: Option<&HashSet<&str>>,
    findings: &mut Findings,
) -> Vec<SinkConfig> {
    let root = KeyPath::root(0);
    let list = root.name("sinks");
    let sections = findings.take(&list, setting).unwrap_or_default();
    if sections.is_empty() {
        return vec![SinkConfig {
            name: "stdout".to_owned(),
            target: SinkTarget::Stdout,
            start: SinkStart::Now,
            types: Vec::new(),
            official_accounts: Vec::new(),
        }];
    }
    if sections.len() > MAX_SINKS {
        findings.wrong(&list, format!("has {} sinks, but at most {MAX_SINKS} are allowed", sections.len()));
    }
    let mut unique_names = UniqueValues::new("sink");
    let mut targets = HashMap::new();
    let sinks = sections.into_iter().enumerate().filter_map(|(n, section)| {
        let at = list.index(n);
        let sink = check_sink(&at, section, context, findings)?;
        unique_names.check(&at, "name", Some(&sink.name), findings);
        check_unique_target(&at, &sink.target, &mut targets, findings);
        if let Some(names) = names {
            check_official_accounts(&at.name("official_accounts"), &sink, names, findings);
        }
        Some(sink)
    });
    sinks.collect()
}

fn check_sink(
    at: &KeyPath<'_>,
    mut section: Section<raw::Sink>,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Option<SinkConfig> {
    if section.wrong.is_some() {
        findings.section(at, section);
        return None;
    }
    let key = at.name("type");
    let kind = findings.require(&key, std::mem::take(&mut section.keys.kind), "type = \"jsonl\"");
    let kind = kind.and_then(|kind| findings.word(&key, Setting::Given(kind), &TYPES));
    let mut keys = findings.section(at, section);
    let name = check_name(at, std::mem::take(&mut keys.name), "name = \"log\"", findings);
    let starts = [("now", SinkStart::Now), ("beginning", SinkStart::Beginning)];
    let start = findings.word(&at.name("start"), std::mem::take(&mut keys.start), &starts);
    let types = check_event_types(&at.name("types"), std::mem::take(&mut keys.types), findings);
    let official_accounts = std::mem::take(&mut keys.official_accounts);
    let official_accounts =
        findings.list(&at.name("official_accounts"), official_accounts, MAX_OFFICIAL_ACCOUNTS);
    reject_keys_of_other_types(at, &keys, kind?, findings);
    let target = match kind? {
        "webhook" => {
            let options = check_webhook(at, keys, context, findings)?;
            if let Some(name) = name.as_ref().filter(|_| options.keys.is_empty()) {
                findings.warn(format!(
                    "sink {name:?} does not sign its requests, so its receiver cannot detect forged events; set secret_file"
                ));
            }
            SinkTarget::Webhook(Box::new(options))
        }
        "nats" => SinkTarget::Nats(Box::new(check_nats(at, keys, context, findings)?)),
        _ => check_jsonl(at, keys, context, findings),
    };
    Some(SinkConfig {
        name: name?,
        target,
        start: start.unwrap_or(SinkStart::Now),
        types,
        official_accounts: official_accounts.unwrap_or_default(),
    })
}

fn reject_keys_of_other_types(at: &KeyPath<'_>, keys: &raw::Sink, kind: &str, findings: &mut Findings) {
    let jsonl: &[&str] = &["jsonl"];
    let webhook: &[&str] = &["webhook"];
    let nats: &[&str] = &["nats"];
    let servers: &[&str] = &["webhook", "nats"];
    let keys = [
        ("path", keys.path.is_absent(), jsonl),
        ("mode", keys.mode.is_absent(), jsonl),
        ("group", keys.group.is_absent(), jsonl),
        ("url", keys.url.is_absent(), servers),
        ("allow_insecure", keys.allow_insecure.is_absent(), servers),
        ("secret_file", keys.secret_file.is_absent(), servers),
        ("secret_env", keys.secret_env.is_absent(), servers),
        ("secret", keys.secret.is_absent(), servers),
        ("header_files", keys.header_files.is_absent(), webhook),
        ("ca_file", keys.ca_file.is_absent(), servers),
        ("timeout", keys.timeout.is_absent(), servers),
        ("max_in_flight", keys.max_in_flight.is_absent(), servers),
        ("subject_prefix", keys.subject_prefix.is_absent(), nats),
        ("credentials_file", keys.credentials_file.is_absent(), nats),
        ("nkey_file", keys.nkey_file.is_absent(), nats),
        ("user", keys.user.is_absent(), nats),
    ];
    findings.reject_inapplicable(at, ("type", kind), &keys);
}

/// Checks a sink that writes lines to a file or to standard output.
fn check_jsonl(
    at: &KeyPath<'_>,
    keys: raw::Sink,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> SinkTarget {
    let path = findings.take(&at.name("path"), keys.path).unwrap_or_else(|| "-".to_owned());
    if path == "-" {
        for (key, absent) in [("mode", keys.mode.is_absent()), ("group", keys.group.is_absent())] {
            if !absent {
                let problem = "has no effect on standard output; remove it, or set path to a file";
                findings.wrong(&at.name(key), problem);
            }
        }
        return SinkTarget::Stdout;
    }
    let mode = findings.take(&at.name("mode"), keys.mode);
    let mode = mode.map_or(DEFAULT_MODE, |mode| check_mode(&at.name("mode"), &mode, findings));
    let group = findings.take(&at.name("group"), keys.group);
    let invalid = |group: &&String| group.contains(|c: char| c.is_whitespace() || ":,".contains(c));
    if let Some(group) = group.as_ref().filter(invalid) {
        let problem = "is not the name of a group; write it like \"adm\"";
        findings.wrong(&at.name("group"), format!("{} {problem}", quote(group)));
    }
    SinkTarget::File { path: context.base_dir.join(path), mode, group }
}

fn check_mode(key: &KeyPath<'_>, text: &str, findings: &mut Findings) -> u32 {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    let problem = match mode {
        Some(mode) if mode & 0o600 == 0o600 => return mode,
        Some(_) => "does not let the owner read and write; write it like \"0640\"",
        None => "is not a file mode; write it in octal, like \"0640\"",
    };
    findings.wrong(key, format!("{} {problem}", quote(text)));
    DEFAULT_MODE
}

fn check_event_types(
    key: &KeyPath<'_>,
    setting: Setting<TextList>,
    findings: &mut Findings,
) -> Vec<EventType> {
    let mut types = Vec::new();
    let words = findings.list(key, setting, EVENT_TYPES.len()).unwrap_or_default();
    for (n, text) in words.into_iter().enumerate() {
        let event_type = EVENT_TYPES.into_iter().find(|(word, _)| *word == text);
        let problem = match event_type {
            Some((_, event_type)) if types.contains(&event_type) => "is listed twice; remove one",
            Some((_, event_type)) => {
                types.push(event_type);
                continue;
            }
            None => "is not one of \"started\", \"ended\", \"state_changed\"",
        };
        findings.wrong(&key.index(n), format!("{} {problem}", quote(&text)));
    }
    types
}

fn check_official_accounts(
    key: &KeyPath<'_>,
    sink: &SinkConfig,
    names: &HashSet<&str>,
    findings: &mut Findings,
) {
    for (n, name) in sink.official_accounts.iter().enumerate() {
        if !names.contains(name.as_str()) {
            let problem =
                "is not the name of an official account; write a name of one of the [[official_accounts]]";
            findings.wrong(&key.index(n), format!("{} {problem}", quote(name)));
        }
    }
}

/// Reports a file, or standard output, that another sink writes to. Servers may be shared, for example with other filters.
fn check_unique_target(
    at: &KeyPath<'_>,
    target: &SinkTarget,
    used: &mut HashMap<Option<PathBuf>, String>,
    findings: &mut Findings,
) {
    let key = at.name("path");
    let target = match target {
        SinkTarget::Stdout => None,
        SinkTarget::File { path, .. } => Some(path.clone()),
        SinkTarget::Webhook(_) | SinkTarget::Nats(_) => return,
    };
    if let Some(first) = used.insert(target, findings.location_of(&key)) {
        findings.wrong(&key, format!("is also the path of the sink at {first}; give each sink its own path"));
    }
}
