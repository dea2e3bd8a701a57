//! The functions whose instructions are counted. `tests/instructions.sh` runs this program under callgrind, once for each
//! function, and compares the counts with the committed ones. The program itself measures nothing.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    hint::black_box,
    time::Duration,
};

use kfwatch::{
    domain::{
        clock::Moment,
        diff::diff,
        event::{NumberedEvent, session_id},
        snapshot::Snapshot,
        tracker::{AnswerContent, Fingerprint, SessionAnswer},
    },
    metrics::exposition::{self, Detail, Stored},
};

#[path = "support/inputs.rs"]
mod inputs;

use inputs::{CREATETIME, account, answer, ended, observed, openid, openids, read, table, watch};

/// Calls of each function, so many that occasional work counts by its average.
const CALLS: usize = 100;

const NAMES: [&str; 8] = [
    "parse_10_sessions",
    "parse_100_sessions",
    "diff_100_unchanged_sessions",
    "pack_100_sessions",
    "unchanged_answer_of_100_sessions",
    "derive_session_id",
    "render_event",
    "metrics_of_1000_accounts",
];

#[expect(clippy::print_stdout, reason = "a benchmark reports on its terminal")]
fn main() {
    // With cargo's own options it has nothing to do.
    match std::env::args().nth(1) {
        Some(list) if list == "list" => NAMES.iter().for_each(|name| println!("{name} {CALLS}")),
        Some(name) if NAMES.contains(&&*name) => run(&name),
        _ => println!("instructions are counted by tests/instructions.sh"),
    }
}

fn run(name: &str) {
    let openids = openids(100);
    let (observed, watch) = (observed(&openids), watch(&openids));
    let account = account("test1@test");
    match name {
        "parse_10_sessions" => parse(10),
        "parse_100_sessions" => parse(100),
        "diff_100_unchanged_sessions" => {
            counted(&|| drop(black_box(diff(black_box(&watch.snapshot), black_box(&observed)))));
        }
        "pack_100_sessions" => counted(&|| drop(black_box(Snapshot::from(black_box(&observed))))),
        // The work of a poll without changes, between reading its answer and waiting for the next tick.
        "unchanged_answer_of_100_sessions" => {
            let wall = jiff::Timestamp::from_second(CREATETIME + 60).unwrap();
            let moment = Moment { wall, monotonic: Duration::from_secs(60) };
            let text = answer(100);
            let unchanged =
                SessionAnswer { content: AnswerContent::Unchanged, sent_at: moment, received_at: moment };
            counted(&|| {
                let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(black_box(&text));
                black_box(Fingerprint::new(hash));
                drop(black_box(black_box(&watch).after_answer(black_box(unchanged), "getsessionlist")));
            });
        }
        "derive_session_id" => {
            let openid = openid(7);
            counted(&|| _ = black_box(session_id(black_box(&account), black_box(&openid), CREATETIME)));
        }
        "render_event" => {
            let change = ended(&openid(7));
            let event = NumberedEvent { account: &account, change: &change, sequence: 42, repeats: 0 };
            counted(&|| drop(black_box(black_box(&event).render())));
        }
        _ => metrics(),
    }
}

fn parse(sessions: usize) {
    let body = answer(sessions);
    counted(&|| _ = black_box(read(black_box(body.as_bytes()))));
}

fn metrics() {
    let (table, stored) = (table(1000), Stored::default());
    counted(&|| {
        let emit = |chunk| !black_box::<Vec<u8>>(chunk).is_empty();
        exposition::write(black_box(&table), &stored, Detail::PerAccount, emit);
    });
}

/// Only what this function calls is counted: callgrind selects it by its name.
#[inline(never)]
fn counted(call: &dyn Fn()) {
    for _ in 0..CALLS {
        call();
    }
}
