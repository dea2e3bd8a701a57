//! Which alerts a fault sends to whom: the ten faults that operators meet, with the shipped rules and routes, a real Prometheus, a real
//! Alertmanager, the daemon, and a simulated WeChat API with 65 official accounts.
//!
//! All intervals are a tenth: those of the rules, of Alertmanager, of Prometheus and of kfwatch. The table shows times as they are
//! with the shipped intervals. Faults that do not disturb each other happen at the same time.

mod faults;
mod notifications;
mod stack;

use std::{fmt::Write as _, fs, path::Path, thread};

/// The result of one stack.
#[derive(Default)]
struct Report {
    /// Rows of the table.
    rows: Vec<String>,
    problems: Vec<String>,
}

/// Prints the table, and writes it to `target/ten-faults.md`.
#[test]
#[ignore = "takes a quarter of an hour; needs prometheus, prometheus-alertmanager and nats-server; tests/run.sh --long runs it"]
fn each_fault_is_reported_once_and_healthy_accounts_never() {
    let reports: Vec<Report> = thread::scope(|scope| {
        let stacks = faults::ALL.map(|play| scope.spawn(play));
        stacks.into_iter().map(|stack| stack.join().unwrap()).collect()
    });
    let mut table =
        "| fault | alert | to | sent | after | resolved | after the repair | messages | inhibited at the end |\n\
         |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in reports.iter().flat_map(|report| &report.rows) {
        writeln!(table, "{row}").unwrap();
    }
    println!("{table}");
    let target = Path::new(env!("CARGO_BIN_EXE_kfwatch")).ancestors().nth(2).unwrap();
    fs::write(target.join("ten-faults.md"), table).unwrap();
    let problems: Vec<&String> = reports.iter().flat_map(|report| &report.problems).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}
