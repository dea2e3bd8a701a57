//! The parts of a poll and a scrape of /metrics. Each is compared with the least work that the task needs, and with ten times
//! the work.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{hint::black_box, time::Instant};

use kfwatch::{
    domain::{
        diff::diff,
        event::{ID_NAMESPACE, NumberedEvent, session_id},
        snapshot::Snapshot,
    },
    metrics::exposition::{self, Detail, Stored},
    status::AccountTable,
};
use uuid::Uuid;

#[path = "support/inputs.rs"]
mod inputs;
#[path = "support/median.rs"]
mod median;
#[path = "support/report.rs"]
mod report;

use inputs::{CREATETIME, account, answer, ended, observed, openids, read, table, watch};
use median::median;
use report::Report;

fn main() {
    let mut report = Report::new();
    answers(&mut report);
    snapshots(&mut report);
    events(&mut report);
    scrapes(&mut report);
    report.print();
}

/// Median µs per call of both, over rounds of `calls` calls that alternate.
fn micros<A, B>(calls: usize, mut ours: impl FnMut() -> A, mut limit: impl FnMut() -> B) -> [f64; 2] {
    let mut rounds = [const { Vec::new() }; 2];
    for _ in 0..31 {
        rounds[0].push(timed(calls, &mut ours));
        rounds[1].push(timed(calls, &mut limit));
    }
    rounds.map(|rounds| median(&rounds))
}

fn timed<T>(calls: usize, call: &mut impl FnMut() -> T) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    begun.elapsed().as_secs_f64() * 1e6 / calls as f64
}

/// A part that is measured with two amounts of work, of which one is ten times the other.
struct Part<'a> {
    /// The name of the part, with `{}` for the amount of work.
    what: &'a str,
    work: [usize; 2],
    /// The name of the limit.
    limit: &'a str,
    target: &'a str,
}

impl Part<'_> {
    /// Reports a row for each amount of work, and one for the growth of the cost. `measure` returns µs of ours and of the limit.
    fn measure(&self, report: &mut Report, mut measure: impl FnMut(usize) -> [f64; 2]) {
        let ours = self.work.map(|work| {
            let what = self.what.replace("{}", &work.to_string());
            let [ours, limit] = measure(work);
            let target = if work == self.work[1] { self.target } else { "" };
            let baseline = format!("{}: {}", self.limit, time(limit));
            report.row([&what, &time(ours), &baseline], Some(ours / limit), target);
            ours
        });
        let growth = self.work[1] as f64 / self.work[0] as f64;
        let baseline = format!("{growth:.0} times the work");
        report.row(["the cost grows", "", &baseline], Some(ours[1] / ours[0]), "≤ 11");
    }
}

fn time(micros: f64) -> String {
    match micros {
        ..1.0 => format!("{:.0} ns", micros * 1e3),
        ..1e3 => format!("{micros:.2} µs"),
        _ => format!("{:.1} ms", micros / 1e3),
    }
}

/// Calls in a round, so many that a round takes a few hundred µs.
fn calls(work: usize) -> usize {
    (20_000 / work).max(1)
}

#[derive(serde::Deserialize)]
struct Bare<'a> {
    #[serde(borrow)]
    sessionlist: Vec<BareSession<'a>>,
}

#[derive(serde::Deserialize)]
struct BareSession<'a> {
    #[expect(dead_code, reason = "deserialized, as every reader must do")]
    createtime: i64,
    #[expect(dead_code, reason = "deserialized, as every reader must do")]
    openid: &'a str,
}

fn answers(report: &mut Report) {
    let read_bare = |body: &[u8]| serde_json::from_slice::<Bare<'_>>(body).unwrap().sessionlist.len();
    let part = Part {
        what: "an answer of {} sessions read",
        work: [100, 1000],
        limit: "bare serde_json",
        target: "",
    };
    let of = |sessions| {
        let body = answer(sessions).into_bytes();
        let calls = calls(sessions);
        micros(calls, || read(black_box(&body)), || read_bare(black_box(&body)))
    };
    let [ours, bare] = of(10);
    report.row(
        ["an answer of 10 sessions read", &time(ours), &format!("bare serde_json: {}", time(bare))],
        Some(ours / bare),
        "",
    );
    part.measure(report, of);
}

/// What a poll does with a session list: it compares the list with the snapshot, and packs it if it differs.
fn snapshots(report: &mut Report) {
    let part = |what, limit| Part { what, work: [100, 1000], limit, target: "" };
    part("an unchanged answer of {} sessions compared", "memcmp").measure(report, |sessions| {
        let openids = openids(sessions);
        let (observed, snapshot) = (observed(&openids), watch(&openids).snapshot);
        let (bytes, same) = (packed(&openids), packed(&openids));
        let calls = calls(sessions);
        micros(
            calls,
            || black_box(&snapshot).equals(black_box(&observed)),
            || black_box(&bytes) == black_box(&same),
        )
    });
    part("the difference of {} sessions to themselves", "memcmp").measure(report, |sessions| {
        let openids = openids(sessions);
        let (observed, snapshot) = (observed(&openids), watch(&openids).snapshot);
        let (bytes, same) = (packed(&openids), packed(&openids));
        let calls = calls(sessions);
        micros(
            calls,
            || diff(black_box(&snapshot), black_box(&observed)).is_empty(),
            || black_box(&bytes) == black_box(&same),
        )
    });
    part("a snapshot of {} sessions packed", "memcpy of it").measure(report, |sessions| {
        let openids = openids(sessions);
        let observed = observed(&openids);
        let bytes = packed(&openids);
        let calls = calls(sessions);
        micros(calls, || Snapshot::from(black_box(&observed)), || black_box(&bytes).clone())
    });
}

/// Returns as many bytes as a snapshot has: the openids, and twelve more for each.
fn packed(openids: &[String]) -> Vec<u8> {
    let bytes = openids.iter().flat_map(|openid| [openid.as_bytes(), &[0; 12]].concat());
    bytes.collect()
}

fn events(report: &mut Report) {
    let account = account("test1@test");
    let all: Vec<String> = openids(1000);
    let part = |what, limit| Part { what, work: [100, 1000], limit, target: "" };
    part("{} session ids derived", "SHA-1 of their names").measure(report, |sessions| {
        let names =
            all.iter().map(|openid| format!("wx0123456789abcdef\ntest1@test\n{openid}\n{CREATETIME}"));
        let names: Vec<String> = names.take(sessions).collect();
        let derive = |openid: &String| session_id(&account, black_box(openid), CREATETIME).as_u128();
        let hash = |name: &String| Uuid::new_v5(&ID_NAMESPACE, black_box(name).as_bytes()).as_u128();
        let calls = calls(sessions * 10);
        micros(
            calls,
            || all[..sessions].iter().map(derive).fold(0, u128::wrapping_add),
            || names.iter().map(hash).fold(0, u128::wrapping_add),
        )
    });
    part("{} events rendered", "memcpy of their JSON").measure(report, |sessions| {
        let changes: Vec<_> = all[..sessions].iter().map(|openid| ended(openid)).collect();
        let render = |change| NumberedEvent { account: &account, change, sequence: 42, repeats: 0 }.render();
        let texts: Vec<String> = changes.iter().map(render).collect();
        let calls = calls(sessions * 100);
        micros(
            calls,
            || changes.iter().map(|change| render(black_box(change)).len()).sum::<usize>(),
            || texts.iter().map(|text| black_box(text).clone().len()).sum::<usize>(),
        )
    });
}

/// A scrape whose bytes are dropped.
fn scrapes(report: &mut Report) {
    let part = Part {
        what: "/metrics of {} accounts",
        work: [10_000, 100_000],
        limit: "memcpy of the page in chunks",
        target: "≤ 40 ms",
    };
    let tables = part.work.map(table);
    let of = |accounts| if accounts == part.work[0] { &tables[0] } else { &tables[1] };
    let mut pages = Vec::new();
    part.measure(report, |accounts| {
        let page = || page(of(accounts));
        let bytes = page();
        pages.push(bytes);
        micros(1, page, || copied(bytes))
    });
    let walk = Part {
        what: "of it, reading the views of {} accounts",
        limit: "the whole scrape",
        target: "",
        ..part
    };
    walk.measure(report, |accounts| micros(1, || walked(of(accounts)), || page(of(accounts))));
    let growth = pages[1] as f64 / pages[0] as f64;
    report.row(["the page grows", "", "10 times the accounts, with longer names"], Some(growth), "");
}

/// Returns the size of a scrape in bytes.
fn page(table: &AccountTable) -> usize {
    let mut bytes = 0;
    exposition::write(table, &Stored::default(), Detail::PerAccount, |chunk| {
        bytes += black_box(&chunk).len();
        true
    });
    bytes
}

fn copied(bytes: usize) {
    let source = vec![b'x'; exposition::CHUNK];
    let mut chunk = Vec::with_capacity(exposition::CHUNK);
    for _ in 0..bytes / source.len() {
        chunk.clear();
        chunk.extend_from_slice(black_box(&source));
        black_box(&chunk);
    }
}

/// The least that a scrape has to read: the view of each account under its lock, and its name.
fn walked(table: &AccountTable) -> u64 {
    let mut sum = 0;
    for official_account in table.official_accounts().iter() {
        official_account.for_each_view(|account, view| {
            let known = u64::from(view.counters.polls) + u64::from(view.agent.online.is_some());
            sum += known + account.kf_account.len() as u64;
        });
    }
    sum
}
