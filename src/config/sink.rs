//! Checks `[[sinks]]`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::locate::Key;
use super::mistake::quote;
use super::official_account::check_name;
use super::report::Report;
use super::setting::{Section, Setting};
use super::{Sink, SinkStart, SinkTarget, raw};

/// How many sinks there may be: each reads the event log on its own.
pub const MAX_SINKS: usize = 32;

/// The permission bits of a file that events are written to: they hold personal data.
const DEFAULT_MODE: u32 = 0o600;

/// The sinks of the main file; standard output when there is none.
pub(super) fn sinks(
    setting: Setting<Vec<Section<raw::Sink>>>,
    base_dir: &Path,
    report: &mut Report,
) -> Vec<Sink> {
    let root = Key::root(0);
    let list = root.name("sinks");
    let sections = report.take(&list, setting).unwrap_or_default();
    if sections.is_empty() {
        return vec![Sink { name: "stdout".to_owned(), target: SinkTarget::Stdout, start: SinkStart::Now }];
    }
    if sections.len() > MAX_SINKS {
        report.wrong(&list, format!("has {} sinks, and {MAX_SINKS} are the most", sections.len()));
    }
    let mut used = Used::default();
    let sinks = sections.into_iter().enumerate().filter_map(|(n, section)| {
        let at = list.index(n);
        sink(&at, section, base_dir, report).inspect(|sink| used.add(&at, sink, report))
    });
    sinks.collect()
}

fn sink(at: &Key<'_>, mut section: Section<raw::Sink>, base_dir: &Path, report: &mut Report) -> Option<Sink> {
    if section.wrong.is_some() {
        report.section(at, section);
        return None;
    }
    let kind = std::mem::take(&mut section.keys.kind);
    let kind = report.require(&at.name("type"), kind, "type = \"jsonl\"");
    if let Some(planned @ ("webhook" | "nats")) = kind.as_deref() {
        // Its other keys belong to it: to call them unknown would mislead.
        report.not_yet(&at.name("type"), &quote(planned));
        return None;
    }
    if let Some(other) = kind.filter(|kind| kind != "jsonl") {
        report.wrong(&at.name("type"), format!("{} is not one of \"jsonl\"", quote(&other)));
    }
    let keys = report.section(at, section);
    let name = check_name(&at.name("name"), keys.name, "name = \"log\"", report);
    let starts = [("now", SinkStart::Now), ("beginning", SinkStart::Beginning)];
    let start = report.word(&at.name("start"), keys.start, &starts).unwrap_or(SinkStart::Now);

    let path = report.take(&at.name("path"), keys.path).unwrap_or_else(|| "-".to_owned());
    let target = if path == "-" {
        for (key, absent) in [("mode", keys.mode.is_absent()), ("group", keys.group.is_absent())] {
            if !absent {
                report.wrong(
                    &at.name(key),
                    "has no effect on standard output; remove it, or set path to a file",
                );
            }
        }
        SinkTarget::Stdout
    } else {
        let mode = report.take(&at.name("mode"), keys.mode);
        let mode = mode.map_or(DEFAULT_MODE, |mode| check_mode(&at.name("mode"), &mode, report));
        let group = report.take(&at.name("group"), keys.group);
        if let Some(group) =
            group.as_ref().filter(|group| group.contains(|c: char| c.is_whitespace() || ":,".contains(c)))
        {
            report.wrong(&at.name("group"), format!("{} is not the name of a group", quote(group)));
        }
        SinkTarget::File { path: base_dir.join(path), mode, group }
    };
    Some(Sink { name: name?, target, start })
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
        };
        if let Some(first) = self.targets.insert(target, report.place_of(&path)) {
            report.wrong(&path, format!("is where the sink at {first} writes too; give each its own"));
        }
    }
}
