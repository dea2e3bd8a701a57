//! Checks `[[sinks]]`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::locate::Key;
use super::mistake::quote;
use super::nats::nats;
use super::official_account::{MAX_OFFICIAL_ACCOUNTS, check_name};
use super::report::Report;
use super::setting::{OneOrMore, Section, Setting};
use super::webhook::{Around, webhook};
use super::{Sink, SinkStart, SinkTarget, raw};
use crate::domain::event::EventType;

/// How many sinks there may be: each reads the event log on its own.
pub const MAX_SINKS: usize = 32;

/// The permission bits of a file that events are written to: they hold personal data.
const DEFAULT_MODE: u32 = 0o600;

/// The words of the key `type`.
const KINDS: [(&str, Kind); 3] = [("jsonl", Kind::Jsonl), ("webhook", Kind::Webhook), ("nats", Kind::Nats)];

/// The words of the key `types`: those of `kfwatch events --type`.
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Jsonl,
    Webhook,
    Nats,
}

/// The sinks of the main file; standard output when there is none. `names` are those of all official accounts, if they
/// are known.
pub(super) fn sinks(
    setting: Setting<Vec<Section<raw::Sink>>>,
    around: Around<'_>,
    names: Option<&HashSet<&str>>,
    report: &mut Report,
) -> Vec<Sink> {
    let root = Key::root(0);
    let list = root.name("sinks");
    let sections = report.take(&list, setting).unwrap_or_default();
    if sections.is_empty() {
        return vec![Sink {
            name: "stdout".to_owned(),
            target: SinkTarget::Stdout,
            start: SinkStart::Now,
            types: Vec::new(),
            official_accounts: Vec::new(),
        }];
    }
    if sections.len() > MAX_SINKS {
        report.wrong(&list, format!("has {} sinks, and {MAX_SINKS} are the most", sections.len()));
    }
    let mut used = Used::default();
    let sinks = sections.into_iter().enumerate().filter_map(|(n, section)| {
        let at = list.index(n);
        let sink = sink(&at, section, around, report)?;
        used.add(&at, &sink, report);
        if let Some(names) = names {
            check_official_accounts(&at.name("official_accounts"), &sink, names, report);
        }
        Some(sink)
    });
    sinks.collect()
}

fn sink(
    at: &Key<'_>,
    mut section: Section<raw::Sink>,
    around: Around<'_>,
    report: &mut Report,
) -> Option<Sink> {
    if section.wrong.is_some() {
        report.section(at, section);
        return None;
    }
    let key = at.name("type");
    let kind = std::mem::take(&mut section.keys.kind);
    let kind = report.require(&key, kind, "type = \"jsonl\"");
    let kind = kind.and_then(|kind| report.word(&key, Setting::Given(kind), &KINDS));
    let mut keys = report.section(at, section);
    let name = check_name(&at.name("name"), std::mem::take(&mut keys.name), "name = \"log\"", report);
    let starts = [("now", SinkStart::Now), ("beginning", SinkStart::Beginning)];
    let start = report.word(&at.name("start"), std::mem::take(&mut keys.start), &starts);
    let types = event_types(&at.name("types"), std::mem::take(&mut keys.types), report);
    let official_accounts = std::mem::take(&mut keys.official_accounts);
    let official_accounts =
        report.list(&at.name("official_accounts"), official_accounts, MAX_OFFICIAL_ACCOUNTS);
    refuse_keys_of_others(at, &keys, kind?, report);
    let target = match kind? {
        Kind::Jsonl => lines(at, keys, around.base_dir, report),
        Kind::Webhook => {
            let options = webhook(at, keys, around, report)?;
            if let Some(name) = name.as_ref().filter(|_| options.keys.is_empty()) {
                report.warn(format!(
                    "sink {name:?} signs nothing: its receiver cannot tell its events from forged ones; set secret_file"
                ));
            }
            SinkTarget::Webhook(Box::new(options))
        }
        Kind::Nats => SinkTarget::Nats(Box::new(nats(at, keys, around, report)?)),
    };
    Some(Sink {
        name: name?,
        target,
        start: start.unwrap_or(SinkStart::Now),
        types,
        official_accounts: official_accounts.unwrap_or_default(),
    })
}

fn refuse_keys_of_others(at: &Key<'_>, keys: &raw::Sink, kind: Kind, report: &mut Report) {
    let of_jsonl: &[Kind] = &[Kind::Jsonl];
    let of_webhook: &[Kind] = &[Kind::Webhook];
    let of_nats: &[Kind] = &[Kind::Nats];
    let of_servers: &[Kind] = &[Kind::Webhook, Kind::Nats];
    for (key, absent, owners) in [
        ("path", keys.path.is_absent(), of_jsonl),
        ("mode", keys.mode.is_absent(), of_jsonl),
        ("group", keys.group.is_absent(), of_jsonl),
        ("url", keys.url.is_absent(), of_servers),
        ("allow_insecure", keys.allow_insecure.is_absent(), of_servers),
        ("secret_file", keys.secret_file.is_absent(), of_servers),
        ("secret_env", keys.secret_env.is_absent(), of_servers),
        ("secret", keys.secret.is_absent(), of_servers),
        ("header_files", keys.header_files.is_absent(), of_webhook),
        ("ca_file", keys.ca_file.is_absent(), of_servers),
        ("timeout", keys.timeout.is_absent(), of_servers),
        ("max_in_flight", keys.max_in_flight.is_absent(), of_servers),
        ("subject_prefix", keys.subject_prefix.is_absent(), of_nats),
        ("credentials_file", keys.credentials_file.is_absent(), of_nats),
        ("nkey_file", keys.nkey_file.is_absent(), of_nats),
        ("user", keys.user.is_absent(), of_nats),
    ] {
        if !absent && !owners.contains(&kind) {
            let words = |kinds: &[Kind]| {
                let words = KINDS.iter().filter(|(_, kind)| kinds.contains(kind));
                words.map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" | ")
            };
            let (owners, kind) = (words(owners), words(&[kind]));
            report.wrong(&at.name(key), format!("belongs to type = {owners}, not to {kind}; remove it"));
        }
    }
}

/// Standard output or a file.
fn lines(at: &Key<'_>, keys: raw::Sink, base_dir: &Path, report: &mut Report) -> SinkTarget {
    let path = report.take(&at.name("path"), keys.path).unwrap_or_else(|| "-".to_owned());
    if path == "-" {
        for (key, absent) in [("mode", keys.mode.is_absent()), ("group", keys.group.is_absent())] {
            if !absent {
                report.wrong(
                    &at.name(key),
                    "has no effect on standard output; remove it, or set path to a file",
                );
            }
        }
        return SinkTarget::Stdout;
    }
    let mode = report.take(&at.name("mode"), keys.mode);
    let mode = mode.map_or(DEFAULT_MODE, |mode| check_mode(&at.name("mode"), &mode, report));
    let group = report.take(&at.name("group"), keys.group);
    if let Some(group) =
        group.as_ref().filter(|group| group.contains(|c: char| c.is_whitespace() || ":,".contains(c)))
    {
        report.wrong(&at.name("group"), format!("{} is not the name of a group", quote(group)));
    }
    SinkTarget::File { path: base_dir.join(path), mode, group }
}

fn event_types(key: &Key<'_>, setting: Setting<OneOrMore>, report: &mut Report) -> Vec<EventType> {
    let mut types = Vec::new();
    for (n, written) in
        report.list(key, setting, EVENT_TYPES.len()).unwrap_or_default().into_iter().enumerate()
    {
        match EVENT_TYPES.into_iter().find(|(word, _)| *word == written) {
            Some((_, event_type)) if types.contains(&event_type) => {
                report.wrong(&key.index(n), format!("{} is listed twice; remove one", quote(&written)));
            }
            Some((_, event_type)) => types.push(event_type),
            None => {
                let problem = "is not one of \"started\", \"ended\", \"state_changed\"";
                report.wrong(&key.index(n), format!("{} {problem}", quote(&written)));
            }
        }
    }
    types
}

fn check_official_accounts(key: &Key<'_>, sink: &Sink, names: &HashSet<&str>, report: &mut Report) {
    for (n, name) in sink.official_accounts.iter().enumerate() {
        if !names.contains(name.as_str()) {
            let problem = "is not the name of one of the [[official_accounts]]";
            report.wrong(&key.index(n), format!("{} {problem}", quote(name)));
        }
    }
}

fn check_mode(key: &Key<'_>, written: &str, report: &mut Report) -> u32 {
    let mode = u32::from_str_radix(written, 8).ok().filter(|mode| *mode <= 0o777);
    match mode {
        Some(mode) if mode & 0o600 == 0o600 => mode,
        Some(_) => {
            report.wrong(
                key,
                format!("{} does not let the owner read and write; write it like \"0640\"", quote(written)),
            );
            DEFAULT_MODE
        }
        None => {
            report.wrong(
                key,
                format!("{} is not a file mode; write it in octal, like \"0640\"", quote(written)),
            );
            DEFAULT_MODE
        }
    }
}

/// Names and targets that are taken, each with its place.
#[derive(Default)]
struct Used {
    names: HashMap<String, String>,
    targets: HashMap<Option<PathBuf>, String>,
}

impl Used {
    fn add(&mut self, at: &Key<'_>, sink: &Sink, report: &mut Report) {
        let (name, path) = (at.name("name"), at.name("path"));
        if let Some(first) = self.names.insert(sink.name.clone(), report.place_of(&name)) {
            report.wrong(
                &name,
                format!("{:?} is the name of the sink at {first} too; give each its own", sink.name),
            );
        }
        let target = match &sink.target {
            SinkTarget::Stdout => None,
            SinkTarget::File { path, .. } => Some(path.clone()),
            // Two with other filters may send to the same place.
            SinkTarget::Webhook(_) | SinkTarget::Nats(_) => return,
        };
        if let Some(first) = self.targets.insert(target, report.place_of(&path)) {
            report.wrong(&path, format!("is where the sink at {first} writes too; give each its own"));
        }
    }
}
