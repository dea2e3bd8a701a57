//! Three webhooks, one of which may be dead: it accepts every request and answers none before the timeout. Measures what that
//! costs the two others and the commits, which come at a constant rate.

use std::time::{Duration, Instant};

use kfwatch::store::StartPosition;
use tokio::{net::TcpListener, task::JoinSet};

use super::{ACCOUNTS, Receiver, Report, Site, percentile, started, webhook, webhook_to};

/// Rounds of each kind, which alternate.
const ROUNDS: usize = 3;
const EVENTS: usize = 1000;

/// Time between two commits: a sweep that changes five hundred kf accounts per second.
const COMMIT_INTERVAL: Duration = Duration::from_millis(2);

/// Timeout of the dead webhook, so short that it is tried several times in a round.
const TIMEOUT: Duration = Duration::from_millis(300);

/// The measurements of one kind of rounds.
#[derive(Default)]
struct Latencies {
    commits: Vec<Duration>,
    receipts: Vec<Duration>,
}

pub(super) async fn latency(report: &mut Report) {
    let live = [Receiver::start().await, Receiver::start().await];
    let third = Receiver::start().await;
    let (dead, _hanging) = hanging().await;
    let mut kinds = [Latencies::default(), Latencies::default()];
    for _ in 0..ROUNDS {
        for (third, latencies) in [third.url(), dead.clone()].iter().zip(&mut kinds) {
            round(&live, third, latencies).await;
        }
    }
    let [alive, dead] = &mut kinds;
    for (what, alive, dead) in [
        (
            "from commit to receipt by two webhooks, one of three dead",
            &mut alive.receipts,
            &mut dead.receipts,
        ),
        ("a commit, one of three webhooks dead", &mut alive.commits, &mut dead.commits),
    ] {
        for (name, percent) in [("p50", 50), ("p99", 99)] {
            let [alive, dead] = [percentile(alive, percent), percentile(dead, percent)];
            report.row(
                [
                    &format!("{what}, {name}"),
                    &format!("{:.2} ms", dead * 1000.0),
                    &format!("all alive: {:.2} ms", alive * 1000.0),
                ],
                Some(dead / alive),
                "",
            );
        }
    }
}

/// Starts a server that accepts connections and answers nothing. Returns its URL and its task.
async fn hanging() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut taken = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            taken.push(connection);
        }
    });
    (url, tasks)
}

async fn round(live: &[Receiver; 2], third: &str, latencies: &mut Latencies) {
    let site = Site::new().await;
    let sinks = vec![
        ("a".to_owned(), webhook(&live[0], 8)),
        ("b".to_owned(), webhook(&live[1], 8)),
        ("c".to_owned(), webhook_to(third, 8, TIMEOUT)),
    ];
    let mut running = site.deliver_to_all(sinks, StartPosition::Now).await;
    let mut interval = tokio::time::interval(COMMIT_INTERVAL);
    for n in 0..EVENTS {
        interval.tick().await;
        let before = live.each_ref().map(Receiver::count);
        let account = &site.accounts[n % ACCOUNTS];
        let begun = Instant::now();
        site.store.commit_poll(started(account, (n / ACCOUNTS) as i64)).await.unwrap();
        let committed = Instant::now();
        latencies.commits.push(committed - begun);
        for (receiver, before) in live.iter().zip(before) {
            receiver.wait_for(before + 1).await;
            let received = *receiver.last.lock().unwrap();
            latencies.receipts.push(received.saturating_duration_since(committed));
        }
    }
    // Not drained, because the dead webhook would delay that.
    running.tasks.shutdown().await;
}
