//! No event is lost and none is invented. The events of the real binary are compared with the ledger of the simulator,
//! under all kinds of faults, and when the daemon is killed at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use kfwatch::simulator::{
    AccountToWatch, ApiCall, CustomerFlow, Fault, FaultRule, KfAccountScript, KfState, Ledger,
    OfficialAccountScript, RandomDuration, RecordedResponse, ResponseStyle, Scenario, Simulator,
    SimulatorControl, TokenPolicy,
};

use crate::support::{
    disk::SmallDisk,
    events::{Account, Event, Session, name_based},
    history::{self, Exchange, History, Life, Observed, Then},
    process::{Process, WeChat},
    replay::{self, Tally},
    site::{CLIENT_TIMEOUT_MS, Site, Tokens},
    size::size_from,
    wait::{PATIENCE, eventually, wall_ms},
    worlds::play_worlds,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[test]
fn ids_follow_the_published_rule() {
    let account = Account {
        official_account: "shop".into(),
        appid: "wx0123456789abcdef".into(),
        kf_account: "test1@test".into(),
    };
    let session = Session { openid: "oDF3iY9P32sK_5GgYiRkjsabcdef".into(), createtime: 1_795_331_551 };
    let session_id = account.session_id(&session);
    assert_eq!(session_id, "bb990e79-eb52-5233-a363-a2cf2b13422f");
    let id = |kind| name_based(&[&session_id, kind, "0"]);
    assert_eq!(id("kf.session.started"), "53bf2e6f-2586-56e7-801b-0ef62536be36");
    assert_eq!(id("kf.session.ended"), "af546c58-71de-57cd-b56c-6bd11593a69f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_observed_session_has_one_start_and_one_true_end() {
    const SESSIONS: usize = 3_000;

    let simulator = Simulator::start(troubled_world(), LOOPBACK).await.unwrap();
    let control = simulator.control();
    let accounts = troubled_world().accounts();
    let tokens = |account: &AccountToWatch| match account.name.as_str() {
        "silk" => Tokens::Classic,
        _ => Tokens::Stable,
    };
    let accounts: Vec<_> = accounts.into_iter().map(|account| (account.clone(), tokens(&account))).collect();
    let site = Site::new();
    site.configure(&simulator, &accounts);

    let from_ms = wall_ms();
    let daemon = Process::start_ready(&site.config());
    let mut people = People::new(&control, &accounts[0].0);
    eventually("thousands of sessions have come and gone", || {
        people.act();
        (people.rounds.is_multiple_of(100) && closed_sessions(&control.ledger()) >= SESSIONS).then_some(())
    });
    let finished = daemon.terminate();
    assert_eq!(finished.stdout, "", "the events go to the file alone");

    let lives = [Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS }];
    let ledger = history::whole_ledger(&control);
    let log = site.event_log();
    let histories = History::all(&accounts, &ledger, &lives);
    let tally = replay::compare_all(&histories, &log);
    assert_eq!(site.delivered(), log, "without a crash every event is delivered once, in order");
    report("truth", &ledger, &tally);
    assert_variety(&ledger, &tally);
    assert_comparison_detects_errors(&histories, &log);
}

#[test]
fn killed_daemon_loses_and_repeats_no_event() {
    let rounds = size_from("KFWATCH_KILL_ROUNDS", 100);
    let hits = play_worlds(11, rounds, kill_in_rounds);
    let [committed, torn]: [usize; 2] =
        [hits.iter().map(|hits| hits.committed).sum(), hits.iter().map(|hits| hits.torn).sum()];
    println!("kill: {rounds} rounds, {committed} with commits, {torn} torn");
    // On a busy machine fewer rounds get that far.
    assert!(committed * 10 > rounds, "too few rounds committed anything: {hits:?}");
    assert!(torn * 50 > rounds, "too few kills came in the middle of a tick's commits: {hits:?}");
}

/// Kills the daemon of one world in each round, and compares all its events with the ledger.
fn kill_in_rounds(seed: u64, rounds: usize) -> Hits {
    let mut moments = fastrand::Rng::with_seed(seed);
    let scenario = Scenario {
        seed,
        customers: lively(400),
        official_accounts: (0..2)
            .map(|index| official_account(["north", "south"][index], index, 12, ResponseStyle::default()))
            .collect(),
        faults: vec![
            probably(0.05, Fault::ListAbsent),
            probably(0.05, Fault::Errcode(-1)),
            probably(0.05, Fault::Slow(Duration::from_millis(50))),
            probably(0.02, Fault::Errcode(65402)),
        ],
        ..Scenario::default()
    };
    let accounts = scenario.accounts().into_iter().map(|account| (account, Tokens::File)).collect::<Vec<_>>();
    let wechat = WeChat::play(scenario);
    let control = wechat.control();
    let site = Site::new();
    site.configure(wechat.simulator(), &accounts);

    let mut lives = Vec::new();
    for _ in 0..rounds {
        let from_ms = wall_ms();
        killed_at_some_moment(Process::start(&site.config()), &control, &mut moments);
        lives.push(Life { from_ms, to_ms: wall_ms(), killed: true, client_timeout_ms: CLIENT_TIMEOUT_MS });
        // On a busy machine the simulator reads requests of a killed daemon late. They must not count as the next daemon's.
        history::wait_for_last_requests(wechat.simulator().address());
    }
    let from_ms = wall_ms();
    let daemon = Process::start_ready(&site.config());
    let polled = control.requests(ApiCall::GetSessionList);
    let everybody_twice =
        polled + 3 * accounts.iter().map(|(of, _)| of.kf_accounts.len() as u64).sum::<u64>();
    eventually("every account was polled again", || {
        (control.requests(ApiCall::GetSessionList) > everybody_twice).then_some(())
    });
    daemon.terminate();
    lives.push(Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS });

    let ledger = history::whole_ledger(&control);
    let log = site.event_log();
    let histories = History::all(&accounts, &ledger, &lives);
    let tally = replay::compare_all(&histories, &log);
    report("kill", &ledger, &tally);
    let duplicates = assert_delivered_at_least_once(&site.delivered(), &log);
    let hits = Hits::of(&histories, &log, &lives);
    println!("kill: {rounds} rounds with seed {seed}, {duplicates} events delivered again, {hits:?}");
    hits
}

/// Kills the daemon while it starts, at any moment of its work, or, most often, while the answers of a tick are
/// committed. It sleeps for fixed times on purpose: the moment of the kill must not depend on the daemon.
fn killed_at_some_moment(mut daemon: Process, control: &SimulatorControl, moments: &mut fastrand::Rng) {
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    let polled = control.requests(ApiCall::GetSessionList);
    match moments.u8(0..8) {
        0 => pause(moments.u64(0..60)),
        1 | 2 => {
            daemon.wait_until_ready();
            pause(moments.u64(50..=900));
        }
        _ => {
            daemon.wait_until_ready();
            eventually("a tick has begun", || {
                (control.requests(ApiCall::GetSessionList) > polled).then_some(())
            });
            pause(moments.u64(0..25));
        }
    }
    drop(daemon); // kill -9
}

/// Where the kills hit.
#[derive(Debug, Default)]
struct Hits {
    /// Rounds in which something was committed.
    committed: usize,
    /// Rounds in which, of the last answers with a change before the kill, some were committed and some were not.
    torn: usize,
    /// The numbers of such answers that were committed, and that were not.
    last_answers: [usize; 2],
}

impl Hits {
    fn of(histories: &[History], log: &[Event], lives: &[Life]) -> Hits {
        let times: Vec<_> = log.iter().map(|event| (event.account(), event.ms("/time").unwrap())).collect();
        let mut hits = Hits::default();
        for life in lives.iter().filter(|life| life.killed) {
            let within = |ms: i64, [from, to]: [i64; 2]| (from..=to).contains(&ms);
            hits.committed +=
                usize::from(times.iter().any(|(_, ms)| within(*ms, [life.from_ms, life.to_ms])));
            let mut last_answers = [0, 0];
            for history in histories {
                let last = history.exchanges.windows(2).map(|pair| [&pair[0], &pair[1]]).find(|[_, last]| {
                    last.then == Then::Killed && within(last.received_ms, [life.from_ms, life.to_ms])
                });
                let Some([before, last]) = last else { continue };
                if !matches!((&before.observed, &last.observed), (Observed::Listed(a), Observed::Listed(b)) if a != b)
                {
                    continue;
                }
                let key = (history.account.appid.clone(), history.account.kf_account.clone());
                let committed = times.iter().any(|(of, ms)| *of == key && within(*ms, last.taken_ms));
                last_answers[usize::from(!committed)] += 1;
            }
            hits.torn += usize::from(!last_answers.contains(&0));
            (0..2).for_each(|which| hits.last_answers[which] += last_answers[which]);
        }
        hits
    }
}

/// Asserts that the file has every event of the log, with the same bytes each time, in first deliveries in the order of
/// the log, and nothing else. Returns the number of repeats.
fn assert_delivered_at_least_once(delivered: &[Event], log: &[Event]) -> usize {
    let mut seen = BTreeSet::new();
    let first: Vec<&str> =
        delivered.iter().map(|event| &*event.line).filter(|line| seen.insert(*line)).collect();
    let committed: Vec<&str> = log.iter().map(|event| &*event.line).collect();
    assert_eq!(first.len(), committed.len(), "the file does not have the events of the log");
    assert!(first == committed, "first deliveries are in the order of the log");
    delivered.len() - first.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_ended_during_downtime_get_honest_interval() {
    let shop = Shop::open().await;
    shop.arrive("oFirst");
    shop.arrive("oSecond");
    let mut lives = Vec::new();
    let from_ms = wall_ms();
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 2.0);
    daemon.terminate();
    lives.push(Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS });

    shop.leave("oFirst");
    let from_ms = wall_ms();
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 1.0);
    daemon.terminate();
    lives.push(Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS });

    let ledger = history::whole_ledger(&shop.control);
    let tally = replay::compare_all(&History::all(&shop.accounts, &ledger, &lives), &shop.site.event_log());
    assert_eq!((tally.started, tally.baseline, tally.ended, tally.state_changes), (2, 2, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_restores_gauges_before_first_answer() {
    let shop = Shop::open().await;
    shop.arrive("oFirst");
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 1.0);
    eventually("the unbound account was polled", || {
        (daemon.metric(&series("wechat_kf_account_unbound", UNBOUND)) == Some(1.0)).then_some(())
    });
    daemon.terminate();

    let stopped_ms = wall_ms();
    shop.control.inject(FaultRule::new(Fault::Hang));
    let daemon = Process::start_ready(&shop.site.config());
    assert_eq!(daemon.get("/-/ready").status, 200);
    assert_eq!(daemon.metric(&series("wechat_kf_active_sessions", BOUND)), Some(1.0));
    assert_eq!(daemon.metric(&series("wechat_kf_account_unbound", BOUND)), Some(0.0));
    assert_eq!(daemon.metric(&series("wechat_kf_account_unbound", UNBOUND)), Some(1.0));
    assert_eq!(daemon.metric(&series("wechat_kf_account_up", BOUND)), Some(0.0), "nothing was polled yet");
    let last_success = daemon.metric(&series("kfwatch_poll_last_success_timestamp_seconds", BOUND)).unwrap();
    let age = stopped_ms as f64 / 1_000.0 - last_success;
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&age), "the last success was {age} s before the restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_kf_account_ends_no_session_and_resumes_later() {
    let shop = Shop::open().await;
    shop.arrive("oFirst");
    shop.arrive("oSecond");
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 2.0);
    let listed_ms = wall_ms();
    daemon.terminate();

    let mut without = shop.accounts.clone();
    without[0].0.kf_accounts.retain(|kf_account| kf_account != BOUND);
    shop.site.configure(&shop.simulator, &without);
    for _ in 0..2 {
        let daemon = Process::start_ready(&shop.site.config());
        let metrics = daemon.get("/metrics").text();
        assert!(!metrics.contains(BOUND), "a removed account keeps no series");
        assert!(metrics.contains(UNBOUND));
        daemon.terminate();
    }
    shop.leave("oFirst");
    shop.site.configure(&shop.simulator, &shop.accounts);
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 1.0);
    daemon.terminate();

    let log = shop.site.event_log();
    let ours: Vec<&Event> = log.iter().filter(|event| event.text("/data/kf_account") == BOUND).collect();
    let kind = |event: &&Event| event.text("/type").rsplit('.').next().unwrap().to_owned();
    let reported: Vec<_> = ours.iter().map(kind).collect();
    assert_eq!(reported, ["started", "started", "state_changed", "state_changed", "ended"]);
    let changes = ours[2..4].iter().map(|event| [event.text("/data/from"), event.text("/data/to")]);
    assert_eq!(changes.collect::<Vec<_>>(), [["ok", "unwatched"], ["unwatched", "ok"]]);
    assert_eq!(
        (ours[2].text("/data/source"), ours[2].json["data"]["errcode"].is_null()),
        ("configuration", true)
    );
    let closed_ms = shop.control.ledger().sessions[0].closed_at_ms.unwrap();
    let [lower_ms, upper_ms] = [0, 1].map(|at| ours[4].ms(&format!("/data/ended_between/{at}")).unwrap());
    assert!(lower_ms <= listed_ms + 2_000 && (lower_ms..=upper_ms).contains(&closed_ms), "{}", ours[4].line);
    let sequences = ours.iter().map(|event| event.text("/sequence").parse::<usize>().unwrap());
    assert!(sequences.eq(1..=5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_freezes_snapshots_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let shop = Shop::open_at(Site::with_store_in(disk.path())).await;
    shop.arrive("oFirst");
    let from_ms = wall_ms();
    let daemon = Process::start_ready(&shop.site.config());
    shop.wait_for_sessions(&daemon, 1.0);

    let full_from_ms = wall_ms();
    disk.fill();
    // The store may still write to the space that it has allocated: several sessions are needed to fill it.
    let mut arrived = 0;
    eventually("the store fails", || {
        (0..40).for_each(|number| shop.arrive(&format!("o{}", arrived + number)));
        arrived += 40;
        let polls = shop.polls();
        eventually("another poll", || (shop.polls() > polls).then_some(()));
        daemon.stderr().contains("Polls are not stored").then_some(())
    });
    assert!(daemon.metric("kfwatch_store_failures_total") >= Some(1.0));
    let known = daemon.metric(&series("wechat_kf_active_sessions", BOUND));
    // Events that were committed before are delivered. Repeats may still arrive, because the store cannot record the
    // delivery.
    let delivered = || {
        let delivered = shop.site.delivered();
        delivered.iter().map(|event| event.id().to_owned()).collect::<BTreeSet<_>>().len()
    };
    let committed = shop.site.event_log().len();
    eventually("the committed events", || (delivered() >= committed).then_some(()));
    let (failures, polls) = (daemon.metric("kfwatch_store_failures_total"), shop.polls());
    shop.leave("oFirst");
    eventually("polls go on", || (shop.polls() >= polls + 3).then_some(()));
    assert_eq!(
        daemon.metric(&series("wechat_kf_active_sessions", BOUND)),
        known,
        "the snapshot does not change"
    );
    assert!(daemon.metric("kfwatch_store_failures_total") > failures);
    assert_eq!((shop.site.event_log().len(), delivered()), (committed, committed));
    assert_eq!(daemon.get("/-/healthy").status, 200);
    let log = daemon.stderr();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("Polls are not stored")).collect();
    assert_eq!(said.len(), 1, "it is logged once, not at every poll: {said:#?}");
    assert!(said[0].contains("full"), "{said:?}");

    disk.free_space();
    shop.wait_for_sessions(&daemon, arrived as f64);
    let freed_ms = wall_ms();
    daemon.terminate();

    let ledger = history::whole_ledger(&shop.control);
    let lives = [Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS }];
    let mut histories = History::all(&shop.accounts, &ledger, &lives);
    for exchange in histories.iter_mut().flat_map(|history| &mut history.exchanges) {
        // It may have been taken later than it was received.
        let [earliest, latest] = exchange.taken_ms;
        exchange.uncertain |= earliest <= freed_ms && latest >= full_from_ms;
    }
    let log = shop.site.event_log();
    let tally = replay::compare_all(&histories, &log);
    assert_eq!((tally.started, tally.ended), (arrived + 1, 1));
    assert_eq!(shop.site.delivered(), log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_daemon_names_owner_of_the_store() {
    let shop = Shop::open().await;
    let daemon = Process::start_ready(&shop.site.config());
    let second = Process::start(&shop.site.config()).ended();
    assert_eq!(second.code, Some(1));
    assert_eq!(second.stderr.lines().count(), 1, "{second:?}");
    assert!(second.stderr.contains(&daemon.id().to_string()), "{second:?}");
    shop.arrive("oFirst");
    shop.wait_for_sessions(&daemon, 1.0);
}

const BOUND: &str = "kf1@shop_cn";
const UNBOUND: &str = "kf2@shop_cn";

/// One official account with two kf accounts. Only customers whom the test sends come and go.
struct Shop {
    simulator: Simulator,
    control: SimulatorControl,
    accounts: Vec<(AccountToWatch, Tokens)>,
    site: Site,
}

impl Shop {
    async fn open() -> Shop {
        Shop::open_at(Site::new()).await
    }

    async fn open_at(site: Site) -> Shop {
        let mut official = official_account("shop", 0, 2, ResponseStyle::default());
        official.kf_accounts[1].state = KfState::Unbound;
        let scenario = Scenario { official_accounts: vec![official], ..Scenario::default() };
        let accounts: Vec<_> =
            scenario.accounts().into_iter().map(|account| (account, Tokens::File)).collect();
        let simulator = Simulator::start(scenario, LOOPBACK).await.unwrap();
        site.configure(&simulator, &accounts);
        Shop { control: simulator.control(), simulator, accounts, site }
    }

    fn appid(&self) -> &str {
        &self.accounts[0].0.appid
    }

    fn arrive(&self, openid: &str) {
        self.control.open_session(self.appid(), BOUND, openid, None).unwrap();
    }

    fn leave(&self, openid: &str) {
        self.control.close_session(self.appid(), BOUND, openid).unwrap();
    }

    fn polls(&self) -> u64 {
        self.control.polls_of(self.appid(), BOUND).unwrap()
    }

    fn wait_for_sessions(&self, daemon: &Process, sessions: f64) {
        eventually("the daemon knows of all sessions", || {
            (daemon.metric(&series("wechat_kf_active_sessions", BOUND)) == Some(sessions)).then_some(())
        });
    }
}

fn series(family: &str, kf_account: &str) -> String {
    format!("{family}{{official_account=\"shop\",kf_account=\"{kf_account}\"}}")
}

/// A comparison that accepts everything would prove nothing.
fn assert_comparison_detects_errors(histories: &[History], log: &[Event]) {
    let by_account = replay::by_account(log);
    let of = |history: &History| {
        by_account[&(history.account.appid.clone(), history.account.kf_account.clone())].clone()
    };
    let busiest = histories.iter().max_by_key(|history| history.truth.len()).unwrap();
    let events = of(busiest);
    let refused = |what: &str, history: &History, altered: &[Event]| {
        assert!(replay::compare(history, altered).is_err(), "not noticed: {what}");
    };
    let edited = |at: usize, pointer: &str, value: serde_json::Value| {
        let mut altered = events.clone();
        *altered[at].json.pointer_mut(pointer).unwrap() = value;
        altered
    };
    for at in [0, events.len() / 2, last_certain(busiest, &events)] {
        let mut altered = events.clone();
        let removed = altered.remove(at);
        refused("a lost event", busiest, &altered);
        altered.insert(at, removed.clone());
        altered.insert(at, removed);
        refused("a repeated event", busiest, &altered);
    }
    let end = events.iter().rposition(Event::is_end).unwrap();
    let lower_ms = events[end].ms("/data/ended_between/0").unwrap();
    for (what, shift_ms) in
        [("a lower bound that is too early", -5_000), ("a lower bound that is too late", 5_000)]
    {
        let shifted = jiff::Timestamp::from_millisecond(lower_ms + shift_ms).unwrap();
        let altered = edited(end, "/data/ended_between/0", format!("{shifted:.3}").into());
        refused(what, busiest, &altered);
    }
    refused("another sequence", busiest, &edited(end, "/sequence", "00000000000000000000".into()));
    refused("another id", busiest, &edited(end, "/id", events[0].id().into()));
    refused("another reason", busiest, &edited(end, "/data/reason", "left".into()));
    refused("a baseline that is none", busiest, &edited(first_start(&events), "/data/baseline", true.into()));

    // The events of a daemon that takes a failed poll for the end of all sessions.
    let (history, failed) =
        histories.iter().find_map(|history| Some((history, failed_after_a_list(history)?))).unwrap();
    let mut misread = history.clone();
    misread.exchanges[failed].observed = Observed::Listed(BTreeSet::new());
    refused("ends at a failed poll", &misread, &of(history));
}

/// Returns the index of the last event that follows from a certain answer. On a busy machine the last answers of a daemon can
/// be uncertain; then an event that is missing at the end is right.
fn last_certain(history: &History, events: &[Event]) -> usize {
    let is_certain = |event: &Event| {
        let ms = event.ms("/time").unwrap();
        let mut uncertain = history.exchanges.iter().filter(|exchange| exchange.uncertain);
        !uncertain.any(|exchange| (exchange.taken_ms[0]..=exchange.taken_ms[1]).contains(&ms))
    };
    events.iter().rposition(is_certain).unwrap()
}

/// Returns the index of a failed poll directly after a list of open sessions, both of them certain.
fn failed_after_a_list(history: &History) -> Option<usize> {
    let certain = |exchange: &Exchange| !exchange.uncertain && exchange.then == Then::GoesOn;
    let pair = history.exchanges.windows(2).position(|pair| {
        let listed = matches!(&pair[0].observed, Observed::Listed(sessions) if !sessions.is_empty());
        listed && pair[1].observed == Observed::Nothing && pair.iter().all(certain)
    });
    pair.map(|at| at + 1)
}

fn first_start(events: &[Event]) -> usize {
    events.iter().position(|event| event.json["data"]["baseline"] == false).unwrap()
}

/// Asserts that the scenario had enough variety. Otherwise the comparison would prove less than it seems to.
fn assert_variety(ledger: &Ledger, tally: &Tally) {
    assert!(tally.started >= 1_500 && tally.ended >= 1_500, "{tally:?}");
    assert!(tally.replaced >= 5 && tally.state_changes >= 20 && tally.baseline > 0, "{tally:?}");
    let kinds = kinds_of_answers(ledger);
    let faults = [
        "HttpStatus",
        "Unavailable",
        "Redirect",
        "Html",
        "EmptyBody",
        "EmptyGbkBody",
        "TruncatedBody",
        "Close",
        "Reset",
        "not sent",
        "Garbage",
        "ListOfWrongType",
        "EntryWithoutOpenid",
        "CreatetimeNoNumber",
        "keyless",
        "questionable",
        "errcode -1",
        "errcode 40001",
        "errcode 42001",
        "errcode 47001",
        "errcode 65401",
        "errcode 65402",
        "errcode 45011",
        "errcode 99999",
    ];
    let missing: Vec<_> = faults.into_iter().filter(|fault| !kinds.contains_key(*fault)).collect();
    assert!(missing.is_empty(), "these never happened: {missing:?}");
    let good = kinds["listed"] + kinds["keyless"];
    assert!(good * 2 > ledger.polls.len(), "most polls should succeed: {kinds:?}");
}

fn kinds_of_answers(ledger: &Ledger) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for poll in &ledger.polls {
        let kind = match &poll.response {
            RecordedResponse::Listed(_) => "listed".to_owned(),
            RecordedResponse::Keyless => "keyless".to_owned(),
            RecordedResponse::Questionable(_) => "questionable".to_owned(),
            RecordedResponse::Refused(errcode) => format!("errcode {errcode}"),
            RecordedResponse::Failed(fault) => format!("{fault:?}").split('(').take(1).collect(),
            RecordedResponse::NotSent => "not sent".to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

fn report(test: &str, ledger: &Ledger, tally: &Tally) {
    println!(
        "{test}: {} sessions, {} polls, {tally:?}, answers: {:?}",
        ledger.sessions.len(),
        ledger.polls.len(),
        kinds_of_answers(ledger)
    );
}

fn closed_sessions(ledger: &Ledger) -> usize {
    ledger.sessions.iter().filter(|session| session.closed_at_ms.is_some()).count()
}

/// What people do while the daemon watches: agents bind and unbind their WeChat, and customers come back at once.
struct People<'a> {
    control: &'a SimulatorControl,
    official: &'a AccountToWatch,
    rounds: usize,
}

impl<'a> People<'a> {
    fn new(control: &'a SimulatorControl, official: &'a AccountToWatch) -> Self {
        People { control, official, rounds: 0 }
    }

    /// Called every few milliseconds.
    fn act(&mut self) {
        let appid = &self.official.appid;
        let kf = |at: usize| &self.official.kf_accounts[at];
        let openid = "o/\"back\\slash\" \u{4f60}\u{597d}";
        if self.rounds.is_multiple_of(150) {
            let createtime = wall_ms() / 1_000 - 1_000 + (self.rounds / 150) as i64;
            // There may be no customer at first.
            self.control.close_session(appid, kf(0), openid).ok();
            self.control.open_session(appid, kf(0), openid, Some(createtime)).unwrap();
        }
        for (at, period) in [(1, 700), (2, 1_100), (3, 1_900)] {
            let state = if self.rounds / period % 2 == 1 { KfState::UnboundWaiting } else { KfState::Bound };
            if self.rounds.is_multiple_of(period) {
                self.control.set_kf_state(appid, kf(at), state).unwrap();
            }
        }
        self.rounds += 1;
    }
}

/// Five official accounts, each with its own style, whose customers stay for seconds, with every kind of fault.
fn troubled_world() -> Scenario {
    let styles = [
        ("flowers", 12, ResponseStyle { shuffle: 0.2, duplicate: 0.2, ..ResponseStyle::default() }),
        (
            "books",
            12,
            ResponseStyle { createtime_as_text: true, escaped_slashes: true, ..ResponseStyle::default() },
        ),
        (
            "tea",
            12,
            ResponseStyle { text_plain: true, explicit_ok: true, duplicate: 0.1, ..ResponseStyle::default() },
        ),
        ("silk", 10, ResponseStyle { omit_empty_list: true, shuffle: 0.1, ..ResponseStyle::default() }),
        ("paper", 2, ResponseStyle::default()),
    ];
    let mut official_accounts: Vec<_> = styles
        .into_iter()
        .enumerate()
        .map(|(index, (name, kf_accounts, style))| official_account(name, index, kf_accounts, style))
        .collect();
    official_accounts[0].kf_accounts[11].state = KfState::Unbound;
    official_accounts[2].kf_accounts[11].state = KfState::Invalid;
    for kf in &mut official_accounts[3].kf_accounts {
        // Often without customers.
        kf.customers = Some(lively(2_500));
    }
    Scenario {
        seed: 7,
        tokens: TokenPolicy { lifetime: Duration::from_secs(40), overlap: Duration::from_secs(3) },
        customers: lively(900),
        official_accounts,
        faults: troubles(),
        ..Scenario::default()
    }
}

fn official_account(
    name: &str,
    index: usize,
    kf_accounts: usize,
    style: ResponseStyle,
) -> OfficialAccountScript {
    let kf_account = |number: usize| KfAccountScript {
        prefix: format!("kf{number}"),
        nickname: None,
        state: KfState::Bound,
        customers: None,
    };
    OfficialAccountScript {
        name: name.to_owned(),
        appid: format!("wx{index:016x}"),
        secret: format!("{index:032x}"),
        wechat_id: format!("{name}_cn"),
        session_lists_per_day: 1_000_000,
        style,
        kf_accounts: (1..=kf_accounts).map(kf_account).collect(),
    }
}

/// Customers arrive about every `gap_ms`, and stay for one to eight seconds.
fn lively(gap_ms: u64) -> CustomerFlow {
    let spread = |mean, min, max| RandomDuration {
        mean: Duration::from_millis(mean),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    };
    CustomerFlow {
        initial: 2,
        gap: Some(spread(gap_ms, 50, 10 * gap_ms)),
        wait: spread(300, 0, 2_000),
        stay: Some(spread(3_000, 1_000, 8_000)),
        returning: 0.4,
    }
}

/// Every kind of fault, now and then.
fn troubles() -> Vec<FaultRule> {
    let often = [
        (0.02, Fault::ByteOrderMark),
        (0.02, Fault::TextPlain),
        (0.05, Fault::Slow(Duration::from_millis(300))),
        (0.03, Fault::Drip(Duration::from_millis(200))),
        (0.04, Fault::ListAbsent),
        (0.03, Fault::ListNull),
        (0.01, Fault::Errcode(0)),
        (0.01, Fault::ErrcodeAsText(0)),
        (0.01, Fault::Close),
        (0.01, Fault::Reset),
        (0.01, Fault::Errcode(-1)),
    ];
    let rarely = [
        Fault::ErrcodeAsText(-1),
        Fault::Errcode(65402),
        Fault::ErrcodeAsText(65402),
        Fault::Errcode(65401),
        Fault::Errcode(99999),
        Fault::Errcode(47001),
        Fault::HttpStatus(502),
        Fault::HttpStatus(503),
        Fault::Unavailable(1),
        Fault::Redirect("http://127.0.0.1:9/".to_owned()),
        Fault::Html,
        Fault::EmptyBody,
        Fault::EmptyGbkBody,
        Fault::TruncatedBody,
        Fault::Garbage,
        Fault::ListOfWrongType,
        Fault::EntryWithoutOpenid,
        Fault::CreatetimeNoNumber,
        Fault::Hang,
        Fault::Slow(Duration::from_secs(7)),
    ];
    // Counted instead of random, so that every fault occurs; with different periods, so that they mix.
    let rarely = rarely.into_iter().zip((170..).step_by(7));
    let rarely = rarely.map(|(fault, every)| FaultRule { every: Some(every), ..sessions(fault) });
    // Without a list these answers are not what the ledger records, so they are not used where lists are left out.
    let questionable = [Fault::OversizedBody, Fault::InvalidUtf8, Fault::ControlCharacters];
    let questionable = questionable.into_iter().flat_map(|fault| {
        ["flowers", "books", "tea"].map(|name| of_account(name, probably(0.005, fault.clone())))
    });
    let tokens = [
        of_account("flowers", FaultRule { every: Some(160), ..sessions(Fault::ExpireTokens) }),
        of_account("books", FaultRule { every: Some(180), ..sessions(Fault::RevokeTokens) }),
        of_account("silk", FaultRule { every: Some(170), ..sessions(Fault::CompetingTokenFetch) }),
        of_account("tea", FaultRule { every: Some(200), ..sessions(Fault::Errcode(40001)) }),
        of_account("paper", FaultRule { every: Some(30), times: Some(1), ..sessions(Fault::Errcode(45011)) }),
        FaultRule { endpoint: Some(ApiCall::StableToken), every: Some(4), ..FaultRule::new(Fault::Html) },
    ];
    tokens
        .into_iter()
        .chain(questionable)
        .chain(often.map(|(probability, fault)| probably(probability, fault)))
        .chain(rarely)
        .collect()
}

fn sessions(fault: Fault) -> FaultRule {
    FaultRule { endpoint: Some(ApiCall::GetSessionList), ..FaultRule::new(fault) }
}

fn probably(probability: f64, fault: Fault) -> FaultRule {
    FaultRule { probability: Some(probability), ..sessions(fault) }
}

fn of_account(name: &str, rule: FaultRule) -> FaultRule {
    FaultRule { official_account: Some(name.to_owned()), ..rule }
}
