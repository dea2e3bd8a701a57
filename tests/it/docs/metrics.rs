//! Every metric of a live page is in the reference with its type and its labels, and nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::markdown::{code_spans, page};

const REFERENCE: &str = "docs/en/reference/metrics.md";

/// Families that may be without series, because nothing is pending and nobody waits.
const SOMETIMES: [&str; 2] =
    ["kfwatch_sink_oldest_pending_timestamp_seconds", "wechat_kf_waiting_oldest_message_timestamp_seconds"];

/// Labels whose values are a closed set, which the reference lists.
const CLOSED: [&str; 3] = ["endpoint", "collector", "event_type"];

/// How long the demo may take until every family has appeared.
const PATIENCE: Duration = Duration::from_secs(60);

/// Families: their type and labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The demo, which ends with the test.
struct Demo {
    process: Child,
    address: String,
}

impl Demo {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kfwatch"))
            .args(["demo", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| Some(line.split_once("http://")?.1.strip_suffix("/metrics")?.to_owned()))
            .unwrap();
        // The log must be read, or the demo would wait for its reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn documented() -> Families {
    let rows = page(REFERENCE).sections().into_iter().flat_map(|section| section.rows);
    let families = rows.filter_map(|row| {
        let name = row[0].strip_prefix('`')?.strip_suffix('`')?.to_owned();
        let labels = row[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        Some((name, (row[1].clone(), labels)))
    });
    families.collect()
}

/// The labels of a series and their values.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let inner = series.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
    let pairs = inner.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name, value.trim_end_matches('"'))).filter(|(name, _)| *name != "le").collect()
}

/// The family of a series, whose name may have a suffix.
fn family<'a>(name: &'a str, families: &Families) -> &'a str {
    let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
    of_histogram.filter(|family| families.contains_key(*family)).unwrap_or(name)
}

fn exported(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') && !line.is_empty() {
            let name = family(line.split(['{', ' ']).next().unwrap(), &families).to_owned();
            let (_, known) = families.get_mut(&name).unwrap_or_else(|| panic!("no type of {name}"));
            known.extend(labels(line).into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    families
}

/// Whether each family has a series, except for those that may have none.
fn is_complete(text: &str, families: &Families) -> bool {
    let mut series = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(['{', ' ']));
    let names: BTreeSet<&str> =
        series.by_ref().filter_map(|mut parts| Some(family(parts.next()?, families))).collect();
    let may_lack = |name: &str| SOMETIMES.contains(&name);
    families.keys().all(|name| names.contains(name.as_str()) || may_lack(name))
}

#[test]
fn reference_lists_exactly_the_metrics_of_a_live_page() {
    let (demo, documented) = (Demo::start(), documented());
    let deadline = Instant::now() + PATIENCE;
    let (text, mut exported) = loop {
        let text = demo.metrics();
        let families = exported(&text);
        let is_whole =
            is_complete(&text, &families) && documented.keys().all(|name| families.contains_key(name));
        if is_whole || Instant::now() > deadline {
            break (text, families);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    for name in SOMETIMES {
        // Its labels are unknown while it has no series.
        let (_, labels) = exported.get_mut(name).unwrap();
        if labels.is_empty() {
            labels.clone_from(&documented[name].1);
        }
    }
    let names: BTreeSet<&String> = documented.keys().chain(exported.keys()).collect();
    for name in names {
        assert_eq!(documented.get(name), exported.get(name), "{name}: {REFERENCE} (left), page (right)");
    }
    let reference = page(REFERENCE).text;
    let codes: BTreeSet<&str> = code_spans(&reference).into_iter().collect();
    for (label, value) in text.lines().flat_map(labels).filter(|(label, _)| CLOSED.contains(label)) {
        assert!(codes.contains(value), "{label}=\"{value}\" is not in {REFERENCE}");
    }
}
