//! Replicas of the real binary on one PostgreSQL. While they are killed, paused, stopped and started, no event is lost and none is
//! invented, and no kf account is polled twice at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use kfwatch::{
    domain::{
        rebalance::{ClusterView, ShardMoves, ShardView, plan_moves},
        shard::ShardNumber,
    },
    simulator::{
        AccountToWatch, ApiCall, ComponentParameter, ComponentScript, CustomerFlow, Ledger, PollRecord,
        RandomDuration, RefreshTokenRotation, Scenario, TokenRoute,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, Row, error::SqlState};

use crate::{
    docs::metrics::assert_cluster_families,
    support::{
        events::Event,
        history::{self, History, Life},
        loopback::free_address,
        metrics_page::{OF_CLUSTER, Page},
        postgres::{Proxy, Schema, Server},
        process::{self, Home, Process, WeChat},
        prometheus::Prometheus,
        replay,
        site::{CLIENT_TIMEOUT_MS, Tokens},
        size::size_from,
        wait::{eventually, wall_ms},
        worlds::play_worlds,
    },
};

mod import;

/// How many shards there are.
const SHARDS: f64 = 64.0;

const EVERY_SECOND: &str = "* * * * * *";

const NEVER: &str = "0 0 0 29 2 *";

/// For this long after a replica was killed or paused nobody else owns its shards.
const STILL_OWNED_MS: i64 = 4_000;

/// A cluster is settled when nothing has moved for this long: several heartbeats.
const SETTLED: Duration = Duration::from_millis(3_500);

/// Replicas that watch the same simulated accounts.
struct Cluster {
    wechat: WeChat,
    accounts: Vec<(AccountToWatch, Tokens)>,
    /// Where the tokens of each of them come from.
    routes: Vec<TokenRoute>,
    schema: Schema,
    /// What stands between a replica and the database.
    proxies: BTreeMap<usize, Proxy>,
    directory: TempDir,
    replicas: BTreeMap<usize, Process>,
    runtime: Runtime,
    /// Where each replica listens.
    addresses: BTreeMap<usize, SocketAddr>,
    /// When the owner of each kf account was killed or paused.
    ends_ms: BTreeMap<String, Vec<i64>>,
    /// Since when shards may move.
    moving_since_ms: Option<i64>,
    /// From when until when they may have moved before.
    moves_ms: Vec<[i64; 2]>,
    begun_ms: i64,
}

impl Cluster {
    fn of(scenario: Scenario, schema: Schema) -> Self {
        let accounts: Vec<_> =
            scenario.accounts().into_iter().map(|account| (account, Tokens::File)).collect();
        let routes = accounts.iter().map(|(account, _)| scenario.token_route(&account.appid)).collect();
        Self {
            wechat: WeChat::play(scenario),
            accounts,
            routes,
            schema,
            proxies: BTreeMap::new(),
            directory: tempfile::tempdir().unwrap(),
            replicas: BTreeMap::new(),
            runtime: Runtime::new().unwrap(),
            addresses: (0..3).map(|replica| (replica, free_address())).collect(),
            ends_ms: BTreeMap::new(),
            moving_since_ms: None,
            moves_ms: Vec::new(),
            begun_ms: wall_ms(),
        }
    }

    /// Starts a replica.
    fn start(&mut self, replica: usize) {
        self.start_with(replica, EVERY_SECOND);
    }

    fn start_with(&mut self, replica: usize, schedule: &str) {
        self.note_move();
        let config = self.configure(replica, schedule);
        self.replicas.insert(replica, Process::start_ready(&config));
    }

    fn configure(&self, replica: usize, schedule: &str) -> PathBuf {
        let path = |name: &str| self.directory.path().join(format!("{replica}.{name}"));
        let schema = match self.proxies.get(&replica) {
            Some(proxy) => self.schema.clone().through(proxy),
            None => self.schema.clone(),
        };
        // A refresh token that WeChat has changed is lost if the answer comes too late. Then kfwatch rightly reads the list.
        let is_platform = self.routes.iter().any(|route| matches!(route, TokenRoute::Component { .. }));
        let timeout_ms = if is_platform { 60_000 } else { CLIENT_TIMEOUT_MS };
        let mut text = format!(
            "[web]\nlisten = \"{}\"\n{}[control]\nsocket = {:?}\n\
             [api]\nbase_url = \"{}\"\nconnect_timeout = \"1s\"\ntimeout = \"{timeout_ms}ms\"\n\
             [poll]\nschedule = \"{schedule}\"\n\
             [collectors]\nkf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n\
             [[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = {:?}\n",
            self.addresses[&replica],
            schema.sections(&format!("replica-{replica}")),
            path("sock"),
            self.wechat.simulator().base_url(),
            path("jsonl"),
        );
        for ((AccountToWatch { name, appid, kf_accounts, .. }, _), route) in
            self.accounts.iter().zip(&self.routes)
        {
            text += &format!(
                "[[official_accounts]]\nname = \"{name}\"\nappid = \"{appid}\"\nkf_accounts = {kf_accounts:?}\n\
                 [official_accounts.token]\n"
            );
            text += &match route {
                TokenRoute::Component {
                    component: ComponentScript { component_appid, secret, .. },
                    refresh_token,
                } => {
                    let ticket = self.directory.path().join("ticket");
                    fs::write(&ticket, self.wechat.control().ticket(component_appid).unwrap()).unwrap();
                    fs::write(self.directory.path().join("platform.secret"), secret).unwrap();
                    format!(
                        "source = \"component\"\ncomponent_appid = \"{component_appid}\"\nsecret_file = \"platform.secret\"\n\
                         ticket_file = {ticket:?}\nrefresh_token = \"{refresh_token}\"\n"
                    )
                }
                _ => format!("source = \"file\"\npath = {:?}\n", self.token_file(appid)),
            };
        }
        let file = path("toml");
        fs::write(&file, text).unwrap();
        file
    }

    /// A file that all replicas read, so that none waits because another has just fetched a token.
    fn token_file(&self, appid: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{appid}.token"));
        if !path.exists() {
            fs::write(&path, self.wechat.control().fetch_competing_token(appid).unwrap()).unwrap();
        }
        path
    }

    fn metrics(&self, replica: usize) -> String {
        self.replicas[&replica].get("/metrics").text()
    }

    /// Executes a statement on a server.
    fn execute(&self, server: &Server, sql: &str) {
        self.runtime.block_on(async {
            let (client, connection) = server.config("localhost").connect(NoTls).await.unwrap();
            self.runtime.spawn(connection);
            client.batch_execute(sql).await.unwrap();
        });
    }

    /// Whether a server has no standby that receives from it.
    fn is_alone(&self, server: &Server) -> bool {
        self.runtime.block_on(async {
            let (client, connection) = server.config("localhost").connect(NoTls).await.unwrap();
            self.runtime.spawn(connection);
            client.query("SELECT FROM pg_stat_replication", &[]).await.unwrap().is_empty()
        })
    }

    /// Runs a command where a replica runs, and returns what it prints.
    fn run(&self, replica: usize, arguments: &[&str]) -> String {
        let ended = self.ended(replica, arguments);
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    }

    /// The same, with its exit code and its messages.
    fn ended(&self, replica: usize, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        let config = self.directory.path().join(format!("{replica}.toml"));
        command.args(arguments).arg("-c").arg(config).output().unwrap()
    }

    /// Waits until the living replicas own all shards and watch all kf accounts, and none moves any more.
    fn settle(&mut self, paused: Option<usize>) {
        let living: Vec<usize> = self.replicas.keys().copied().filter(|n| Some(*n) != paused).collect();
        let kf_accounts: usize = self.accounts.iter().map(|(account, _)| account.kf_accounts.len()).sum();
        let (mut before, mut since) = (Vec::new(), Instant::now());
        eventually("the cluster has settled", || {
            let pages: Vec<String> = living.iter().map(|replica| self.metrics(*replica)).collect();
            let value = |page: &String, series| process::metric(page, series).unwrap_or_default();
            let owned: Vec<f64> = pages.iter().map(|page| value(page, "kfwatch_shards_owned")).collect();
            let watched: usize = pages.iter().map(|page| watched_on(page).len()).sum();
            let is_complete = owned.iter().sum::<f64>() == SHARDS
                && watched == kf_accounts
                && pages.iter().all(|page| {
                    value(page, "kfwatch_cluster_shards_unowned") == 0.0
                        && value(page, "kfwatch_cluster_replicas") == living.len() as f64
                });
            if owned != before || !is_complete {
                (before, since) = (owned, Instant::now());
            }
            // A busy replica may take its time to release what it has too much.
            (since.elapsed() > SETTLED && self.is_balanced()).then_some(())
        });
        self.moves_ms.extend(self.moving_since_ms.take().map(|from| [from, wall_ms()]));
    }

    /// Notes that shards may move from now on, until the cluster has settled.
    fn note_move(&mut self) {
        self.moving_since_ms.get_or_insert(wall_ms());
    }

    /// Whether no replica has anything to acquire or to release.
    fn is_balanced(&self) -> bool {
        let (replicas, shards) = self.runtime.block_on(async {
            let client = self.schema.client().await;
            let replicas =
                "SELECT id FROM replicas WHERE seen_at > clock_timestamp() - interval '9 s' AND NOT draining";
            let shards = "SELECT shard, owner, weight FROM shards";
            (client.query(replicas, &[]).await.unwrap(), client.query(shards, &[]).await.unwrap())
        });
        let shard = |row: &Row| ShardView {
            number: ShardNumber::new(row.get(0)).unwrap(),
            owner: row.get(1),
            kf_accounts: row.get::<_, i32>(2).unsigned_abs(),
        };
        let view = ClusterView {
            replicas: replicas.iter().map(|row| row.get(0)).collect(),
            shards: shards.iter().map(shard).collect(),
        };
        view.replicas.iter().all(|replica| plan_moves(&view, *replica) == ShardMoves::default())
    }

    /// The kf accounts that a replica exports.
    fn watched_by(&self, replica: usize) -> BTreeSet<String> {
        watched_on(&self.metrics(replica))
    }

    /// Notes until when the present owner of these kf accounts may still act. What it was answered last may have no effect.
    fn note_end(&mut self, kf_accounts: impl IntoIterator<Item = String>, at_ms: i64) {
        for kf_account in kf_accounts {
            self.ends_ms.entry(kf_account).or_default().push(at_ms);
        }
    }

    /// Waits until a replica trusts its leases no longer, a second before another one may have them.
    fn note_loss(&mut self, replica: usize, watched: BTreeSet<String>) {
        eventually("it acts for nobody", || self.watched_by(replica).is_empty().then_some(()));
        self.note_end(watched, wall_ms());
    }

    /// Whether all replicas answer `/-/ready` with this status.
    fn all_answer_ready(&self, status: u16) -> bool {
        self.replicas.values().all(|replica| replica.get("/-/ready").status == status)
    }

    /// When the last disturbed replica certainly does nothing any more.
    fn last_end_ms(&self) -> i64 {
        self.ends_ms.values().flatten().copied().max().unwrap_or_default()
    }

    fn kill(&mut self, replica: usize) {
        self.note_move();
        let watched = self.watched_by(replica);
        drop(self.replicas.remove(&replica));
        self.note_end(watched, wall_ms() + STILL_OWNED_MS);
    }

    fn pause(&mut self, replica: usize) {
        self.note_move();
        let watched = self.watched_by(replica);
        self.replicas[&replica].signal("STOP");
        self.note_end(watched, wall_ms() + STILL_OWNED_MS);
    }

    fn resume(&mut self, replica: usize) {
        self.note_move();
        self.replicas[&replica].signal("CONT");
    }

    fn stop(&mut self, replica: usize) -> Duration {
        self.note_move();
        let begun = Instant::now();
        self.replicas.remove(&replica).unwrap().terminate();
        begun.elapsed()
    }

    /// Asserts that every open session has a start in the log that no end follows, and no other session has.
    fn assert_log_agrees_with_sessions(&self) {
        let mut open = BTreeSet::new();
        for event in self.log() {
            match event.text("/type") {
                "kf.session.started" => _ = open.insert(event.text("/data/session_id").to_owned()),
                "kf.session.ended" => _ = open.remove(event.text("/data/session_id")),
                _ => {}
            }
        }
        let stored = self.runtime.block_on(async {
            let client = self.schema.client().await;
            client.query_one("SELECT count(*) FROM sessions", &[]).await.unwrap().get::<_, i64>(0)
        });
        assert_eq!(open.len() as i64, stored);
    }

    /// Stops all replicas, and has the rest delivered.
    fn stop_all(&mut self) {
        let replicas: Vec<usize> = self.replicas.keys().copied().collect();
        replicas.into_iter().for_each(|replica| _ = self.stop(replica));
        self.deliver_the_rest();
    }

    /// Stops all replicas, and compares the events with what the simulator has answered.
    fn conclude(mut self) -> (replay::Tally, usize) {
        self.stop_all();
        let ledger = history::whole_ledger(&self.wechat.control());
        let log = self.log();
        let histories: Vec<History> =
            History::all(&self.accounts, &ledger, &[self.life(self.begun_ms, wall_ms(), false)])
                .into_iter()
                .map(|history| self.with_moves(&history, &ledger))
                .collect();
        let tally = replay::compare_all(&histories, &log);
        self.assert_one_poll_at_a_time(&ledger);
        (tally, self.repeats_of_delivery(&log))
    }

    /// The history of a kf account. While shards move, a poll of their former owner may end too late to count.
    fn with_moves(&self, history: &History, ledger: &Ledger) -> History {
        let mut history = History::of(&history.account, ledger, &self.lives(&history.account.kf_account));
        let last = self.moving_since_ms.map(|from| [from, i64::MAX]);
        let moves: Vec<_> = self.moves_ms.iter().copied().chain(last).collect();
        let may_move = |ms: i64| moves.iter().any(|[from, to]| (*from..=*to).contains(&ms));
        for exchange in &mut history.exchanges {
            // It was in flight when its shard began to move, or was made since.
            exchange.uncertain |= exchange.taken_ms.into_iter().any(may_move);
        }
        history
    }

    /// Has a replica that does not poll deliver what those that were stopped have not.
    fn deliver_the_rest(&mut self) {
        self.start_with(0, NEVER);
        eventually("everything is delivered", || {
            let page = self.metrics(0);
            let value = |series| process::metric(&page, series);
            let is_done = value("kfwatch_shards_owned") == Some(SHARDS)
                && value("kfwatch_sink_pending_events{sink=\"file\"}") == Some(0.0);
            is_done.then_some(())
        });
        self.stop(0);
    }

    /// The lives of the processes that watched a kf account.
    fn lives(&self, kf_account: &str) -> Vec<Life> {
        let ends = self.ends_ms.get(kf_account).cloned().unwrap_or_default();
        let mut from_ms = self.begun_ms;
        let mut lives: Vec<Life> = Vec::new();
        for end in ends {
            lives.push(self.life(from_ms, end, true));
            from_ms = end;
        }
        lives.push(self.life(from_ms, wall_ms(), false));
        lives
    }

    fn life(&self, from_ms: i64, to_ms: i64, killed: bool) -> Life {
        Life { from_ms, to_ms, killed, client_timeout_ms: CLIENT_TIMEOUT_MS }
    }

    /// All events, in the order of the log of each shard.
    fn log(&self) -> Vec<Event> {
        let rows = self.runtime.block_on(async {
            let client = self.schema.client().await;
            client.query("SELECT json FROM events ORDER BY shard, id", &[]).await.unwrap()
        });
        rows.iter().map(|row| Event::parse(row.get(0))).collect()
    }

    /// What the replicas have delivered.
    fn delivered(&self) -> Vec<Event> {
        let mut delivered = Vec::new();
        for file in fs::read_dir(self.directory.path()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "jsonl") {
                delivered.extend(fs::read_to_string(file).unwrap().lines().map(Event::parse));
            }
        }
        delivered
    }

    /// Asserts that every event was delivered by some replica, with the bytes of the log. Returns how many were delivered again.
    fn repeats_of_delivery(&self, log: &[Event]) -> usize {
        let delivered = self.delivered();
        let lines = |events: &[Event]| events.iter().map(|event| event.line.clone()).collect::<BTreeSet<_>>();
        let unique = lines(&delivered);
        assert!(unique == lines(log), "{} of {} events were delivered", unique.len(), log.len());
        delivered.len() - unique.len()
    }

    /// Asserts that no kf account was polled by two replicas at the same time, except that an answer may be due to one that was killed
    /// or paused.
    fn assert_one_poll_at_a_time(&self, ledger: &Ledger) {
        let mut polls = BTreeMap::<&str, Vec<&PollRecord>>::new();
        for poll in &ledger.polls {
            polls.entry(&poll.kf_account).or_default().push(poll);
        }
        for (kf_account, mut polls) in polls {
            polls.sort_by_key(|poll| poll.received_at_ms);
            let ends = self.ends_ms.get(kf_account).map(Vec::as_slice).unwrap_or_default();
            for pair in polls.windows(2) {
                let [before, next] = [pair[0], pair[1]];
                let has_ended =
                    ends.iter().any(|end| (before.received_at_ms..=next.received_at_ms).contains(end));
                let overlap = before.answered_at_ms.is_none_or(|at| at > next.received_at_ms);
                assert!(
                    !overlap || has_ended,
                    "{kf_account} was polled twice at a time: {before:?}, {next:?}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn commands_reach_all_replicas() {
    let mut cluster = Cluster::of(world(1), Schema::configured());
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    let stopped =
        |replica: usize| process::metric(&cluster.metrics(replica), "kfwatch_sink_stopped{sink=\"file\"}");
    let printed = cluster.run(0, &["sinks", "stop", "file"]);
    assert!(printed.starts_with("file: stopped, with "), "{printed}");
    assert_eq!([stopped(0), stopped(1)], [Some(1.0); 2]);
    // The tests of rules and dashboards rely on this list.
    let page = Page::read(&cluster.metrics(0));
    for (family, labels) in OF_CLUSTER {
        let mut series =
            page.series_of(family).map(|series| series.keys().map(String::as_str).collect::<Vec<_>>());
        assert!(series.next().is_some_and(|found| found == labels), "{family}");
    }
    let printed = cluster.run(1, &["sinks", "resume", "file"]);
    assert!(printed.starts_with("file: resumed, with "), "{printed}");
    assert_eq!([stopped(0), stopped(1)], [Some(0.0); 2]);

    // The one that suspends a sink does not tell the others.
    let suspend = "UPDATE sinks SET suspended_at = 0, stopped_at = 0, stopped_reason = 'too slow'";
    cluster.runtime.block_on(cluster.schema.execute(suspend));
    eventually("all know of it", || ([stopped(0), stopped(1)] == [Some(1.0); 2]).then_some(()));
    let states = cluster.run(0, &["sinks"]);
    assert!(states.contains("suspended") && states.contains("too slow"), "{states}");
    cluster.run(1, &["sinks", "resume", "file"]);
    assert_eq!([stopped(0), stopped(1)], [Some(0.0); 2]);

    assert_cluster_families(&Page::of(&cluster.replicas[&0]));
    let polls = cluster.run(1, &["poll", "--format", "json"]);
    let polled: BTreeSet<String> =
        polls.lines().map(|poll| Event::parse(poll).text("/kf_account").to_owned()).collect();
    assert_eq!(polled.len(), 36, "{polled:?}");

    for replica in 0..2 {
        cluster.stop(replica);
    }
    let printed = cluster.run(0, &["events", "--format", "json"]);
    let printed: Vec<Event> = printed.lines().map(Event::parse).collect();
    for events in replay::by_account(&printed).values() {
        assert!(events.iter().map(|event| event.text("/sequence")).is_sorted(), "{events:?}");
    }
    let lines = |events: &[Event]| events.iter().map(|event| event.line.clone()).collect::<BTreeSet<_>>();
    let log = cluster.log();
    assert!(!log.is_empty() && lines(&printed) == lines(&log) && printed.len() == log.len());
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn check_tries_the_database_and_changes_nothing() {
    let mut cluster = Cluster::of(world(9), Schema::configured());
    let config = cluster.configure(0, EVERY_SECOND);
    cluster.run(0, &["check"]);
    cluster.run(0, &["check"]);
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = current_schema()";
    let schemas = cluster.runtime.block_on(async { cluster.schema.client().await.query(exists, &[]).await });
    assert_eq!(schemas.unwrap().len(), 0);

    cluster.start(0);
    cluster.settle(None);
    let checked = cluster.ended(0, &["check"]);
    let messages = String::from_utf8(checked.stderr).unwrap();
    assert!(
        checked.status.success() && messages.contains("by the replica replica-0 that runs"),
        "{messages}"
    );

    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("/postgres\"", "/absent\"")).unwrap();
    let checked = cluster.ended(0, &["check"]);
    let messages = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{messages}");
    assert!(messages.contains("check the name of the database"), "{messages}");
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn rolling_change_retires_a_kf_account_when_all_replicas_agree() {
    let mut cluster = Cluster::of(world(2), Schema::configured());
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    let removed = cluster.watched_by(0).into_iter().next().unwrap();
    for (account, _) in &mut cluster.accounts {
        account.kf_accounts.retain(|kf_account| *kf_account != removed);
    }
    let unwatched = |cluster: &Cluster| {
        let log = cluster.log();
        log.iter()
            .filter(|event| event.text("/data/to") == "unwatched")
            .map(|event| event.text("/data/kf_account").to_owned())
            .collect::<Vec<_>>()
    };
    let mismatch = |cluster: &Cluster, replica| {
        process::metric(&cluster.metrics(replica), "kfwatch_cluster_config_mismatch")
    };
    // The owner of the kf account goes first.
    cluster.configure(0, EVERY_SECOND);
    cluster.run(0, &["reload"]);
    eventually("both replicas see the difference", || {
        ((0..2).all(|replica| mismatch(&cluster, replica) == Some(1.0))).then_some(())
    });
    assert!(!cluster.watched_by(0).contains(&removed), "it is polled no more");
    assert_eq!(unwatched(&cluster), [""; 0]);
    cluster.configure(1, EVERY_SECOND);
    cluster.run(1, &["reload"]);
    eventually("the kf account is retired", || (unwatched(&cluster) == [removed.clone()]).then_some(()));
    cluster.settle(None);
    assert_eq!(mismatch(&cluster, 0), Some(0.0));
    assert_eq!(unwatched(&cluster), [removed]);
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn outage_of_the_database_stops_calls_and_loses_nothing() {
    let mut server = Server::start(|_| String::new());
    let mut cluster = Cluster::of(world(3), Schema::configured_on(server.config("127.0.0.1")));
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    for _ in 0..2 {
        let watched: Vec<BTreeSet<String>> = (0..2).map(|replica| cluster.watched_by(replica)).collect();
        cluster.note_move();
        server.kill();
        eventually("no replica is ready", || cluster.all_answer_ready(503).then_some(()));
        assert!(cluster.replicas.values().all(|replica| replica.get("/-/live").status == 200));
        assert!((0..2).all(|replica| cluster.watched_by(replica).is_empty()), "another replica may own them");
        let polled = || cluster.wechat.control().requests(ApiCall::GetSessionList);
        let (mut before, mut since) = (polled(), Instant::now());
        eventually("nobody polls", || {
            if polled() != before {
                (before, since) = (polled(), Instant::now());
            }
            (since.elapsed() > SETTLED).then_some(())
        });
        cluster.note_end(watched.into_iter().flatten(), wall_ms());
        server.restart();
        eventually("the replicas go on", || cluster.all_answer_ready(200).then_some(()));
        cluster.settle(None);
    }
    let (tally, _) = cluster.conclude();
    assert!(tally.started > 50, "{tally:?}");
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn promotion_of_a_synchronous_standby_loses_nothing() {
    // Commits wait for the standby from the moment at which it exists.
    let mut primary = Server::start(|_| String::new());
    let standby = primary.start_standby();
    let mut cluster = Cluster::of(world(4), Schema::configured_on(primary.config_of_both(&standby)));
    cluster.execute(&primary, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    cluster.execute(&primary, "SELECT pg_reload_conf()");
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    let watched: Vec<BTreeSet<String>> = (0..2).map(|replica| cluster.watched_by(replica)).collect();
    cluster.note_move();
    primary.kill();
    eventually("no replica is ready", || cluster.all_answer_ready(503).then_some(()));
    let ended_ms = wall_ms();
    standby.promote();
    eventually("the replicas go on", || cluster.all_answer_ready(200).then_some(()));
    cluster.note_end(watched.into_iter().flatten(), ended_ms);
    cluster.settle(None);
    let (tally, _) = cluster.conclude();
    assert!(tally.started > 50, "{tally:?}");
}

/// What the standby has not received is lost, although it was acknowledged. No number is used for another event, and the polls find again
/// what is still open.
#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn promotion_of_an_asynchronous_standby_uses_no_number_twice() {
    let mut primary = Server::start(|_| String::new());
    let standby = primary.start_standby();
    let mut cluster = Cluster::of(world(10), Schema::configured_on(primary.config_of_both(&standby)));
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    cluster.execute(&standby, "ALTER SYSTEM SET primary_conninfo = ''");
    cluster.execute(&standby, "SELECT pg_reload_conf()");
    eventually("the standby receives nothing", || cluster.is_alone(&primary).then_some(()));
    let logged = cluster.log().len();
    eventually("the primary acknowledges more", || (cluster.log().len() > logged + 40).then_some(()));
    cluster.note_move();
    primary.kill();
    standby.promote();
    eventually("the replicas notice it", || {
        let noticed = |replica: &Process| replica.stderr().contains("the database has lost");
        cluster.replicas.values().any(noticed).then_some(())
    });
    eventually("the replicas go on", || cluster.all_answer_ready(200).then_some(()));
    cluster.settle(None);
    cluster.stop_all();

    let mut ids = BTreeMap::<(String, String), BTreeSet<String>>::new();
    for event in cluster.delivered().iter().chain(&cluster.log()) {
        let number = (event.text("/subject").to_owned(), event.text("/sequence").to_owned());
        ids.entry(number).or_default().insert(event.id().to_owned());
    }
    let repeated: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
    cluster.assert_log_agrees_with_sessions();
}

/// One replica is cut off in several ways, while the others and WeChat can be reached.
#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn replica_that_is_cut_off_from_the_database_stops_and_comes_back() {
    let mut cluster = Cluster::of(world(11), Schema::configured());
    cluster.proxies.insert(0, Proxy::start());
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    let owned = |cluster: &Cluster, replica| {
        process::metric(&cluster.metrics(replica), "kfwatch_shards_owned").unwrap_or_default()
    };
    let before = owned(&cluster, 0);

    // It connects again. Answers that are slow delay commits, and move nothing.
    cluster.proxies[&0].delay(Duration::from_millis(100));
    cluster.proxies[&0].cut();
    cluster.settle(None);
    cluster.proxies[&0].delay(Duration::ZERO);
    assert_eq!(owned(&cluster, 0), before, "{}", cluster.replicas[&0].stderr());

    // Nothing arrives any more: it stops before the other one takes over.
    cluster.note_move();
    let watched = cluster.watched_by(0);
    cluster.proxies[&0].set_silent(true);
    cluster.note_loss(0, watched);
    eventually("the other one has all shards", || (owned(&cluster, 1) == SHARDS).then_some(()));
    assert_eq!(cluster.replicas[&0].get("/-/ready").status, 503);
    cluster.proxies[&0].set_silent(false);
    cluster.settle(None);
    assert!(owned(&cluster, 0) > 0.0);
    cluster.stop_all();
    assert!(cluster.repeats_of_delivery(&cluster.log()) < cluster.log().len());
    cluster.assert_one_poll_at_a_time(&history::whole_ledger(&cluster.wechat.control()));
    cluster.assert_log_agrees_with_sessions();
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn replica_without_a_free_connection_waits_for_one() {
    // Some more than two replicas need.
    let server = Server::start(|_| "max_connections = 16".to_owned());
    let mut cluster = Cluster::of(world(12), Schema::configured_on(server.config("127.0.0.1")));
    (0..2).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    cluster.note_move();
    let watched = cluster.watched_by(0);
    let sessions = cluster.runtime.block_on(async {
        let admin = cluster.schema.client().await;
        let end = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN replicas r
                       ON a.application_name = 'kfwatch/' || r.id WHERE r.name = 'replica-0'";
        let mut sessions = Vec::new();
        // They take what the replica had, until it has no connection left.
        let refused = |found: &Result<_, tokio_postgres::Error>| {
            found.as_ref().is_err_and(|error| error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
        };
        loop {
            let connected = server.config("127.0.0.1").connect(NoTls).await;
            if refused(&connected) {
                if admin.query(end, &[]).await.unwrap().is_empty() {
                    sessions.push(admin);
                    break sessions;
                }
                continue;
            }
            let (client, connection) = connected.unwrap();
            cluster.runtime.spawn(connection);
            sessions.push(client);
        }
    });
    cluster.note_loss(0, watched);
    eventually("the other one has all shards", || {
        let owned = process::metric(&cluster.metrics(1), "kfwatch_shards_owned");
        (owned == Some(SHARDS)).then_some(())
    });
    drop(sessions);
    cluster.settle(None);
    cluster.stop_all();
    assert!(cluster.repeats_of_delivery(&cluster.log()) < cluster.log().len());
    cluster.assert_one_poll_at_a_time(&history::whole_ledger(&cluster.wechat.control()));
    cluster.assert_log_agrees_with_sessions();
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn shard_with_damaged_content_keeps_no_other_one_from_being_polled() {
    let mut cluster = Cluster::of(world(7), Schema::configured());
    cluster.start(0);
    cluster.settle(None);
    let all = cluster.watched_by(0);
    cluster.stop(0);
    let of_first = "SELECT shard FROM accounts WHERE official_account = 'shop0'";
    let damaged = "SELECT kf_account FROM accounts WHERE shard IN";
    let damaged: BTreeSet<String> = cluster.runtime.block_on(async {
        let client = cluster.schema.client().await;
        let damage = format!("UPDATE records SET state = 'no state' WHERE account IN (SELECT account FROM accounts WHERE shard IN ({of_first}))");
        client.batch_execute(&damage).await.unwrap();
        let rows = client.query(&format!("{damaged} ({of_first})"), &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    });
    assert!(!damaged.is_empty() && damaged.len() < all.len());
    cluster.start(0);
    eventually("all other shards run", || {
        let watched = cluster.watched_by(0);
        (watched.len() == all.len() - damaged.len() && watched.is_disjoint(&damaged)).then_some(())
    });
    assert!(cluster.replicas[&0].stderr().contains("A shard cannot be started, trying again"));
    cluster.runtime.block_on(async {
        let client = cluster.schema.client().await;
        client.batch_execute("UPDATE records SET state = 'ok' WHERE state = 'no state'").await.unwrap();
    });
    eventually("the repaired shard runs", || (cluster.watched_by(0) == all).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn replicas_of_a_platform_share_its_token_and_the_refresh_tokens() {
    let mut cluster = Cluster::of(platform(8), Schema::configured());
    cluster.start(0);
    cluster.settle(None);
    let control = cluster.wechat.control();
    let requests = |call| control.requests(call);
    // Another one goes on with the refresh tokens that WeChat has changed. Only after shards have moved the list may have been read: a
    // busy replica that releases a shard may not wait for a refresh token that is on its way.
    cluster.kill(0);
    cluster.start(1);
    cluster.settle(None);
    assert_eq!((requests(ApiCall::ComponentToken), requests(ApiCall::AuthorizerList)), (1, 0));
    for replica in [0, 2] {
        cluster.start(replica);
    }
    cluster.settle(None);
    assert_eq!(requests(ApiCall::ComponentToken), 1, "one for all");

    control.revoke_tokens(COMPONENT).unwrap();
    let before = requests(ApiCall::AuthorizerToken);
    for (account, _) in &cluster.accounts {
        control.revoke_tokens(&account.appid).unwrap();
    }
    eventually("all have new tokens", || {
        let up = "wechat_kf_account_up{";
        let pages: Vec<String> = (0..3).map(|replica| cluster.metrics(replica)).collect();
        let series = pages.iter().flat_map(|page| page.lines()).filter(|line| line.starts_with(up));
        let are_up = series.map(|line| line.ends_with(" 1")).collect::<Vec<_>>();
        let has_refreshed = requests(ApiCall::AuthorizerToken) >= before + 12;
        (has_refreshed && are_up.len() == 36 && are_up.iter().all(|up| *up)).then_some(())
    });
    assert_eq!(requests(ApiCall::ComponentToken), 2);

    let content = cluster.runtime.block_on(cluster.schema.content());
    let refresh_tokens: Vec<String> =
        cluster.accounts.iter().map(|(account, _)| control.refresh_token(&account.appid).unwrap()).collect();
    assert!(content.contains("component_tokens") && content.contains("refresh_tokens"));
    assert!(!refresh_tokens.iter().any(|token| content.contains(token)), "they are sealed");
    let (tally, _) = cluster.conclude();
    assert!(tally.started > 50, "{tally:?}");
}

/// How often Prometheus scrapes, in seconds.
const SCRAPE: usize = 5;

#[test]
#[ignore = "needs PostgreSQL and Prometheus; tests/run.sh runs it"]
fn sums_in_prometheus_are_never_above_the_truth_while_shards_move() {
    let customers = CustomerFlow { gap: None, stay: None, ..world(6).customers };
    let mut cluster = Cluster::of(Scenario { customers, ..world(6) }, Schema::configured());
    (0..3).for_each(|replica| cluster.start(replica));
    let targets: Vec<String> = cluster.addresses.values().map(SocketAddr::to_string).collect();
    let home = Home::new();
    let prometheus = Prometheus::start(
        &home,
        &format!(
            "global: {{scrape_interval: {SCRAPE}s}}\nscrape_configs:\n  - job_name: kfwatch\n    \
             static_configs: [{{targets: {targets:?}}}]\n"
        ),
    );
    const SESSIONS: &str = "sum(max by (official_account, kf_account) (wechat_kf_active_sessions))";
    cluster.settle(None);
    let truth = cluster.wechat.control().ledger().sessions.len() as f64;
    eventually("Prometheus sees all sessions", || (prometheus.query(SESSIONS) == [truth]).then_some(()));
    let from = wall_ms() / 1_000;
    let takeovers = size_from("KFWATCH_TAKEOVERS", 3);
    for n in 0..takeovers {
        cluster.stop(n % 3);
        cluster.settle(None);
        cluster.start(n % 3);
        cluster.settle(None);
    }
    let seen = prometheus.each_second(SESSIONS, from, wall_ms() / 1_000);
    let highest = seen.iter().flatten().copied().fold(0.0, f64::max);
    let is_below = |value: &Option<f64>| value.is_none_or(|value| value < truth);
    let longest_below = seen.split(|value| !is_below(value)).map(<[_]>::len).max().unwrap_or_default();
    println!(
        "prometheus: {takeovers} takeovers, {truth} sessions, at most {highest}, below for at most {longest_below} s"
    );
    assert_eq!(highest, truth, "{seen:?}");
    // How long that takes depends on the machine.
    let scrape_ms = SCRAPE as i64 * 1_000;
    let may_move = |ms| cluster.moves_ms.iter().any(|[start, end]| (*start..=end + scrape_ms).contains(&ms));
    let below = (from..).zip(&seen).filter(|(_, value)| is_below(value)).map(|(second, _)| second * 1_000);
    assert!(below.into_iter().all(may_move), "{seen:?}");
}

/// The kf accounts on a page of metrics.
fn watched_on(page: &str) -> BTreeSet<String> {
    let series = page.lines().filter_map(|line| line.strip_prefix("wechat_kf_account_up{"));
    let kf_account = |labels: &str| {
        let (_, value) = labels.split_once("kf_account=\"")?;
        Some(value.split_once('"')?.0.to_owned())
    };
    series.filter_map(kf_account).collect()
}

const COMPONENT: &str = "wx00000000000000c1";

/// The same as a third-party platform, which changes its refresh tokens each time.
fn platform(seed: u64) -> Scenario {
    let world = world(seed);
    let component = ComponentScript {
        component_appid: COMPONENT.to_owned(),
        secret: "c1".repeat(16),
        authorizers: world.official_accounts.iter().map(|of| of.name.clone()).collect(),
        component_parameter: ComponentParameter::ComponentAccessToken,
        rotate_refresh_tokens: RefreshTokenRotation::AtOnce,
        ticket_header: None,
    };
    Scenario { components: vec![component], ..world }
}

/// Twelve official accounts, so that each of three replicas has some, whose customers stay for seconds.
fn world(seed: u64) -> Scenario {
    let names: Vec<String> = (0..12).map(|n| format!("shop{n}")).collect();
    let official_accounts: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 3)).collect();
    let spread = |mean, min, max| RandomDuration {
        mean: Duration::from_millis(mean),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    };
    let customers = CustomerFlow {
        initial: 2,
        gap: Some(spread(800, 50, 8_000)),
        wait: spread(300, 0, 2_000),
        stay: Some(spread(4_000, 1_000, 10_000)),
        returning: 0.4,
    };
    Scenario { seed, customers, ..process::quiet(&official_accounts) }
}

#[test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
fn replicas_that_end_and_pause_lose_and_invent_no_event() {
    let results = play_worlds(5, size_from("KFWATCH_CLUSTER_ROUNDS", 12), disturb_in_rounds);
    println!("cluster: {results:?}");
}

/// Disturbs one of three replicas in each round.
fn disturb_in_rounds(seed: u64, rounds: usize) -> (replay::Tally, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::of(world(seed), Schema::configured());
    (0..3).for_each(|replica| cluster.start(replica));
    cluster.settle(None);
    for _ in 0..rounds {
        let replica = random.usize(0..3);
        match random.u8(0..4) {
            0 => {
                cluster.kill(replica);
                cluster.settle(None);
                cluster.start(replica);
            }
            1 => {
                // It inherits its own shards.
                cluster.kill(replica);
                eventually("the last request was read", || (wall_ms() > cluster.last_end_ms()).then_some(()));
                cluster.start(replica);
            }
            2 => {
                cluster.pause(replica);
                cluster.settle(Some(replica));
                cluster.resume(replica);
            }
            _ => {
                cluster.stop(replica);
                cluster.settle(None);
                cluster.start(replica);
            }
        }
        cluster.settle(None);
    }
    cluster.conclude()
}
