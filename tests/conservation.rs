//! Nothing is lost and nothing is invented: what the real binary tells of a simulated world is compared with what the
//! simulator's ledger knows of it, whatever goes wrong on the way, and whenever the daemon is killed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use kfwatch::simulator::{
    AccountToWatch, Answered, Control, CustomerFlow, Endpoint, Fault, FaultRule, KfAccountScript, KfState,
    Ledger, OfficialAccountScript, Scenario, Simulator, Spread, Style, TokenPolicy,
};

use self::support::{
    daemon::Daemon,
    events::{Account, Event, Session, name_based},
    eventually,
    history::{History, Life, Told},
    replay::{self, Tally},
    site::{Site, Tokens},
    wall_ms,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// For things that happen within a poll or two.
const SOON: Duration = Duration::from_secs(20);

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
async fn every_session_that_was_seen_has_one_start_and_every_one_that_vanished_one_true_end() {
    const SESSIONS: usize = 3_000;
    const LONGEST: Duration = Duration::from_secs(150);

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
    let daemon = Daemon::start(&site.config());
    let mut people = People::new(&control, &accounts[0].0);
    eventually("thousands of sessions have come and gone", LONGEST, || {
        people.go_on();
        (people.rounds.is_multiple_of(100) && closed_sessions(&control.ledger()) >= SESSIONS).then_some(())
    });
    let finished = daemon.terminate();
    assert_eq!(finished.code, Some(0), "{:#?}", finished.stderr);
    assert_eq!(finished.stdout, Vec::<String>::new(), "the events go to the file alone");

    let lives = [Life { from_ms, to_ms: wall_ms(), killed: false }];
    let ledger = whole_ledger(&control);
    let log = site.event_log();
    let histories = histories(&accounts, &ledger, &lives);
    let tally = compare_all(&histories, &log);
    assert_eq!(site.delivered(), log, "without a crash every event is delivered once, in order");
    report("truth", &ledger, &tally);
    assert_variety(&ledger, &tally);
    assert_the_comparison_notices_lies(&histories, &log);
}

/// Compares every account's history with its events; no event may be left over.
fn compare_all(histories: &[History], log: &[Event]) -> Tally {
    let ids: BTreeSet<&str> = log.iter().map(Event::id).collect();
    assert_eq!(ids.len(), log.len(), "an id was given twice");
    let mut by_account = by_account(log);
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for history in histories {
        let key = (history.account.appid.clone(), history.account.kf_account.clone());
        match replay::compare(history, &by_account.remove(&key).unwrap_or_default()) {
            Ok(right) => tally += right,
            Err(reason) => wrong.push(reason),
        }
    }
    assert!(wrong.is_empty(), "{} accounts are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(by_account.is_empty(), "events of accounts that nobody configured: {by_account:?}");
    tally
}

/// A comparison that accepts everything would prove nothing.
fn assert_the_comparison_notices_lies(histories: &[History], log: &[Event]) {
    let by_account = by_account(log);
    let of = |history: &History| {
        by_account[&(history.account.appid.clone(), history.account.kf_account.clone())].clone()
    };
    let busiest = histories.iter().max_by_key(|history| history.truth.len()).unwrap();
    let events = of(busiest);
    let refused = |what: &str, history: &History, lie: &[Event]| {
        assert!(replay::compare(history, lie).is_err(), "not noticed: {what}");
    };
    let edited = |at: usize, pointer: &str, value: serde_json::Value| {
        let mut lie = events.clone();
        *lie[at].json.pointer_mut(pointer).unwrap() = value;
        lie
    };
    for at in [0, events.len() / 2, events.len() - 1] {
        let mut lie = events.clone();
        let removed = lie.remove(at);
        refused("a lost event", busiest, &lie);
        lie.insert(at, removed.clone());
        lie.insert(at, removed);
        refused("an event told twice", busiest, &lie);
    }
    let end = events.iter().rposition(Event::is_end).unwrap();
    let lower_ms = events[end].ms("/data/ended_between/0").unwrap();
    for (what, shift_ms) in [("a lower bound that is too early", -5_000), ("one that is too late", 5_000)] {
        let shifted = jiff::Timestamp::from_millisecond(lower_ms + shift_ms).unwrap();
        let lie = edited(end, "/data/ended_between/0", format!("{shifted:.3}").into());
        refused(what, busiest, &lie);
    }
    refused("another sequence", busiest, &edited(end, "/sequence", "00000000000000000000".into()));
    refused("another id", busiest, &edited(end, "/id", events[0].id().into()));
    refused("another reason", busiest, &edited(end, "/data/reason", "left".into()));
    refused("a baseline that is none", busiest, &edited(first_start(&events), "/data/baseline", true.into()));

    // The events of a daemon that took an empty success for the end of all sessions, or a failure for an empty list.
    let mut sillier = busiest.clone();
    let failed = sillier.exchanges.iter().position(|exchange| {
        exchange.told == Told::Nothing && exchange.received_ms > events[events.len() / 3].ms("/time").unwrap()
    });
    sillier.exchanges[failed.unwrap()].told = Told::Listed(BTreeSet::new());
    refused("ends at a failed poll", &sillier, &events);
}

fn first_start(events: &[Event]) -> usize {
    events.iter().position(|event| event.json["data"]["baseline"] == false).unwrap()
}

/// The world was as troubled as it was meant to be: else the comparison would have shown less than it seems to.
fn assert_variety(ledger: &Ledger, tally: &Tally) {
    assert!(tally.started >= 1_500 && tally.ended >= 1_500, "{tally:?}");
    assert!(tally.replaced >= 5 && tally.state_changes >= 20 && tally.baseline > 0, "{tally:?}");
    let kinds = kinds_of_answers(ledger);
    let faults = [
        "http_status",
        "unavailable",
        "redirect",
        "html",
        "empty_body",
        "empty_gbk_body",
        "truncated_body",
        "close",
        "reset",
        "unanswered",
        "garbage",
        "list_of_wrong_type",
        "entry_without_openid",
        "createtime_no_number",
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
    assert!(good * 2 > ledger.polls.len(), "most polls were to be good: {kinds:?}");
}

fn kinds_of_answers(ledger: &Ledger) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for poll in &ledger.polls {
        let kind = match &poll.answer {
            Answered::Listed(_) => "listed".to_owned(),
            Answered::Keyless => "keyless".to_owned(),
            Answered::Questionable(_) => "questionable".to_owned(),
            Answered::Refused(errcode) => format!("errcode {errcode}"),
            Answered::Failed(fault) => (*fault).to_owned(),
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

fn histories(accounts: &[(AccountToWatch, Tokens)], ledger: &Ledger, lives: &[Life]) -> Vec<History> {
    let account = |official: &AccountToWatch, kf_account: &String| Account {
        official_account: official.name.clone(),
        appid: official.appid.clone(),
        kf_account: kf_account.clone(),
    };
    accounts
        .iter()
        .flat_map(|(official, _)| official.kf_accounts.iter().map(move |kf| account(official, kf)))
        .map(|account| History::of(&account, ledger, lives))
        .collect()
}

fn by_account(log: &[Event]) -> HashMap<(String, String), Vec<Event>> {
    let mut by_account = HashMap::<_, Vec<Event>>::new();
    for event in log {
        by_account.entry(event.account()).or_default().push(event.clone());
    }
    by_account
}

fn closed_sessions(ledger: &Ledger) -> usize {
    ledger.sessions.iter().filter(|session| session.closed_at_ms.is_some()).count()
}

/// The ledger once the daemon is gone and the last request is booked.
fn whole_ledger(control: &Control) -> Ledger {
    let ledger = eventually("every request is in the ledger", SOON, || {
        let ledger = control.ledger();
        (ledger.polls.len() as u64 == control.requests(Endpoint::GetSessionList)).then_some(ledger)
    });
    assert!(!ledger.incomplete);
    ledger
}

/// What people do while the daemon watches: agents bind and unbind their WeChat, a customer comes back at once.
struct People<'a> {
    control: &'a Control,
    official: &'a AccountToWatch,
    rounds: usize,
}

impl<'a> People<'a> {
    fn new(control: &'a Control, official: &'a AccountToWatch) -> Self {
        People { control, official, rounds: 0 }
    }

    /// Called every few milliseconds.
    fn go_on(&mut self) {
        let appid = &self.official.appid;
        let kf = |at: usize| &self.official.kf_accounts[at];
        let openid = "o/\"back\\slash\" \u{4f60}\u{597d}";
        if self.rounds.is_multiple_of(150) {
            let createtime = wall_ms() / 1_000 - 1_000 + (self.rounds / 150) as i64;
            // Nobody is there to leave at first.
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

/// Five official accounts, each with its own style, whose customers stay for seconds, and every kind of trouble.
fn troubled_world() -> Scenario {
    let styles = [
        ("flowers", 12, Style { shuffle: 0.2, duplicate: 0.2, ..Style::default() }),
        ("books", 12, Style { createtime_as_text: true, escaped_slashes: true, ..Style::default() }),
        ("tea", 12, Style { text_plain: true, explicit_ok: true, duplicate: 0.1, ..Style::default() }),
        ("silk", 10, Style { omit_empty_list: true, shuffle: 0.1, ..Style::default() }),
        ("paper", 2, Style::default()),
    ];
    let mut official_accounts: Vec<_> = styles
        .into_iter()
        .enumerate()
        .map(|(index, (name, kf_accounts, style))| official_account(name, index, kf_accounts, style))
        .collect();
    official_accounts[0].kf_accounts[11].state = KfState::Unbound;
    official_accounts[2].kf_accounts[11].state = KfState::Invalid;
    for kf in &mut official_accounts[3].kf_accounts {
        // Often nobody is there.
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

fn official_account(name: &str, index: usize, kf_accounts: usize, style: Style) -> OfficialAccountScript {
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

/// Customers who arrive after about so many milliseconds, and stay for one to eight seconds.
fn lively(gap_ms: u64) -> CustomerFlow {
    let spread = |mean, min, max| Spread {
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

/// Every kind of trouble, now and then.
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
        Fault::Slow(Duration::from_secs(4)),
    ];
    // Without a list these are not what the ledger says of them, so not where lists are left out.
    let questionable = [Fault::OversizedBody, Fault::InvalidUtf8, Fault::ControlCharacters];
    let questionable = questionable.into_iter().flat_map(|fault| {
        ["flowers", "books", "tea"].map(|name| of_account(name, probably(0.005, fault.clone())))
    });
    let tokens = [
        of_account("flowers", FaultRule { every: Some(160), ..sessions(Fault::ExpireTokens) }),
        of_account("books", FaultRule { every: Some(180), ..sessions(Fault::RevokeTokens) }),
        of_account("silk", FaultRule { every: Some(170), ..sessions(Fault::Meddle) }),
        of_account("tea", FaultRule { every: Some(200), ..sessions(Fault::Errcode(40001)) }),
        of_account("paper", FaultRule { every: Some(30), times: Some(1), ..sessions(Fault::Errcode(45011)) }),
        FaultRule { endpoint: Some(Endpoint::StableToken), every: Some(4), ..FaultRule::new(Fault::Html) },
    ];
    tokens
        .into_iter()
        .chain(questionable)
        .chain(often.map(|(probability, fault)| probably(probability, fault)))
        .chain(rarely.map(|fault| probably(0.005, fault)))
        .collect()
}

fn sessions(fault: Fault) -> FaultRule {
    FaultRule { endpoint: Some(Endpoint::GetSessionList), ..FaultRule::new(fault) }
}

fn probably(probability: f64, fault: Fault) -> FaultRule {
    FaultRule { probability: Some(probability), ..sessions(fault) }
}

fn of_account(name: &str, rule: FaultRule) -> FaultRule {
    FaultRule { official_account: Some(name.to_owned()), ..rule }
}
