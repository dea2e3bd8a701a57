//! The parts of a poll, each against the least that anybody would have to do.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing better to do than to end")]

use std::{
    hint::black_box,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, Standing},
        diff::{EndReason, diff},
        event::{Change, Numbered, OwnedSession, session_id},
        snapshot::{Observed, Session, Snapshot},
        watch::{Sighting, Watch},
    },
    metrics::{
        Metrics,
        exposition::{self, Detail, Stored},
    },
    status::{AccountStatus, CallCounters, OfficialAccountStatus, Table},
    wechat::wire,
};

#[path = "support/median.rs"]
mod median;
#[path = "support/report.rs"]
mod report;

use median::median;
use report::Report;

const SCRAPED_ACCOUNTS: usize = 100_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    parse(&mut criterion);
    compare(&mut criterion);
    events(&mut criterion);
    criterion.final_summary();
    let mut report = Report::new();
    answers(&mut report);
    scrape(&mut report);
    report.print();
}

fn openid(n: usize) -> String {
    // As random as real ones: sorted by chance only.
    format!("oDF3iY{:022x}", (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 40)
}

fn answer(sessions: usize) -> String {
    let entry = |n: usize| format!(r#"{{"createtime":{},"openid":"{}"}}"#, 1_795_331_551 + n, openid(n));
    format!(r#"{{"sessionlist":[{}]}}"#, (0..sessions).map(entry).collect::<Vec<_>>().join(","))
}

fn read(body: &[u8]) -> usize {
    let text = wire::text(body);
    match wire::session_list(&text).unwrap() {
        wire::SessionList::Listed(observed) => observed.sessions().len(),
        wire::SessionList::Keyless => 0,
    }
}

#[derive(serde::Deserialize)]
struct Bare<'a> {
    #[serde(borrow)]
    sessionlist: Vec<BareSession<'a>>,
}

#[derive(serde::Deserialize)]
struct BareSession<'a> {
    #[expect(dead_code, reason = "read, as the least that a reader does")]
    createtime: i64,
    #[expect(dead_code, reason = "read, as the least that a reader does")]
    openid: &'a str,
}

fn read_bare(body: &[u8]) -> usize {
    serde_json::from_slice::<Bare<'_>>(body).unwrap().sessionlist.len()
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for sessions in [10, 100] {
        let body = answer(sessions).into_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("answer", sessions), &body, |b, body| b.iter(|| read(body)));
        group.bench_with_input(BenchmarkId::new("bare_serde_json", sessions), &body, |b, body| {
            b.iter(|| read_bare(body));
        });
        group
            .bench_with_input(BenchmarkId::new("memcpy", sessions), &body, |b, body| b.iter(|| body.clone()));
    }
}

fn observed(openids: &[String]) -> Observed<'_> {
    let session = |openid: &'_ String| Session { openid: openid.clone().into(), createtime: 1_795_331_551 };
    Observed::new(openids.iter().map(session).collect())
}

fn compare(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compare");
    for sessions in [10, 100, 1000] {
        let openids: Vec<String> = (0..sessions).map(openid).collect();
        let observed = observed(&openids);
        let snapshot = Snapshot::from(&observed);
        group.throughput(Throughput::Elements(sessions as u64));
        group.bench_function(BenchmarkId::new("equals", sessions), |b| b.iter(|| snapshot.equals(&observed)));
        group.bench_function(BenchmarkId::new("diff_unchanged", sessions), |b| {
            b.iter(|| diff(&snapshot, &observed).is_empty());
        });
        group.bench_function(BenchmarkId::new("pack", sessions), |b| b.iter(|| Snapshot::from(&observed)));
    }
}

fn account(kf_account: &str) -> Account {
    Account {
        official_account: "shop".into(),
        appid: "wx0123456789abcdef".into(),
        kf_account: kf_account.into(),
    }
}

fn events(criterion: &mut Criterion) {
    let account = account("test1@test");
    let openid = openid(7);
    let at = |ms: i64| Timestamp::from_millisecond(1_795_331_551_000 + ms).unwrap();
    let change = Change::SessionEnded {
        session: OwnedSession { openid: openid.as_str().into(), createtime: 1_795_331_551 },
        reason: EndReason::Absent,
        ended_between: [at(600_123), at(615_456)],
    };
    let event = Numbered { account: &account, change: &change, sequence: 42, repeats: 0 };
    let mut group = criterion.benchmark_group("event");
    group
        .bench_function("session_id", |b| b.iter(|| session_id(&account, black_box(&openid), 1_795_331_551)));
    group.bench_function("render", |b| b.iter(|| black_box(&event).render()));
    let json = event.render();
    group.bench_function("memcpy_of_the_json", |b| b.iter(|| black_box(&json).clone()));
}

/// Median µs of one call.
fn micros<T>(calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let round = |_| {
        let begun = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    median(&(0..31).map(round).collect::<Vec<_>>())
}

fn answers(report: &mut Report) {
    for sessions in [10, 100] {
        let body = answer(sessions).into_bytes();
        let calls = 20_000 / sessions as u32;
        let (ours, bare) =
            (micros(calls, || read(black_box(&body))), micros(calls, || read_bare(black_box(&body))));
        let copy = micros(calls, || black_box(&body).clone());
        let what = format!("an answer of {sessions} sessions read");
        report.row(
            [&what, &format!("{ours:.2} µs"), &format!("bare serde_json: {bare:.2} µs")],
            Some(ours / bare),
            "",
        );
        report.row(["", "", &format!("memcpy: {copy:.3} µs")], Some(ours / copy), "");
    }
}

/// A page of metrics, streamed to nobody.
fn scrape(report: &mut Report) {
    let metrics = Metrics::new([]).unwrap();
    for accounts in [SCRAPED_ACCOUNTS / 10, SCRAPED_ACCOUNTS] {
        let table = table(accounts);
        let mut bytes = 0;
        let ours = micros(1, || {
            bytes = 0;
            exposition::write(&table, &metrics, &Stored::default(), Detail::PerAccount, |chunk| {
                bytes += black_box(&chunk).len();
                true
            });
        });
        let source = vec![b'x'; exposition::CHUNK];
        let mut chunk = Vec::with_capacity(exposition::CHUNK);
        let copy = micros(1, || {
            for _ in 0..bytes / source.len() {
                chunk.clear();
                chunk.extend_from_slice(black_box(&source));
                black_box(&chunk);
            }
        });
        let what = format!("/metrics of {accounts} accounts, {:.0} MB", bytes as f64 / 1e6);
        let target = if accounts == SCRAPED_ACCOUNTS { "≤ 40 ms" } else { "" };
        let baseline = format!("memcpy in chunks: {:.1} ms", copy / 1e3);
        report.row([&what, &format!("{:.1} ms", ours / 1e3), &baseline], Some(ours / copy), target);
    }
}

fn table(accounts: usize) -> Table {
    let openids: Vec<String> = (0..10).map(openid).collect();
    let watch = Watch {
        standing: Standing::default(),
        snapshot: Snapshot::from(&observed(&openids)),
        sighting: Sighting {
            baseline_taken: true,
            last_success_at: Some(Timestamp::from_second(1_795_331_551).unwrap()),
            ..Sighting::default()
        },
        ..Watch::default()
    };
    let status = |n| {
        let account = account(&format!("kf{n}@oa0"));
        Arc::new(AccountStatus::restored(account, Arc::<AtomicU64>::default(), &watch))
    };
    let accounts = (0..accounts).map(status).collect();
    let official_account = OfficialAccountStatus::new("shop".into(), Arc::<CallCounters>::default());
    official_account.set_accounts(accounts);
    Table::new(vec![Arc::new(official_account)])
}
