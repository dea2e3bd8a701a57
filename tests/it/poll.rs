//! Polls: what backs off after each failure and for how long, which events follow, and what is reported for unbound and blind
//! accounts. Real calls to the simulator, a real store, a scripted clock.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    rehearsal::{self, NoJournal, ScriptedClock},
    wait::PATIENCE,
};
use kfwatch::{
    domain::{
        account::{Account, AccountState},
        agents::Collector,
        backoff::{BackoffPolicy, ExponentialBackoff},
        clock::Clock,
    },
    metrics::Metrics,
    poll::{NoGuard, OfficialAccount, PollGuard, PollLimits, PollOutcome, Poller},
    simulator::{ApiCall, Fault, FaultRule, KfState, Scenario, Simulator, SimulatorControl},
    status::{OfficialAccountStatus, WatchedAccount},
    store::{EventFilter, Store},
    wechat::{
        client::OfficialAccountClient,
        token::{TokenProvider, TokenSource},
    },
};
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;

const TICK: Duration = Duration::from_secs(15);
const BLIND_AFTER: Duration = Duration::from_secs(300);

/// A daemon without its schedule: two official accounts with two kf accounts each.
struct Rehearsal {
    simulator: Simulator,
    clock: Arc<ScriptedClock>,
    store: Store,
    poller: Poller,
    accounts: Vec<(Arc<OfficialAccount>, Arc<WatchedAccount>)>,
    _directory: TempDir,
}

impl Rehearsal {
    async fn new() -> Self {
        Self::with(BackoffPolicy::default()).await
    }

    async fn with(backoff_policy: BackoffPolicy) -> Self {
        let scenario = Scenario { ledger: false, ..Scenario::load(2, 2, 1, 0.0) };
        let configured = scenario.accounts();
        let simulator = Simulator::start(scenario, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let clock = Arc::new(ScriptedClock::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let client = rehearsal::client(&simulator, &clock);
        let mut accounts = Vec::new();
        for official_account in configured {
            let appid: Arc<str> = official_account.appid.as_str().into();
            let source = TokenSource::Stable { secret: SecretString::from(official_account.secret).into() };
            let tokens =
                TokenProvider::new(Arc::clone(&appid), source, Arc::new(NoJournal), None, clock.now());
            let observer = Arc::new(metrics.call_observer(Arc::default()));
            let name: Arc<str> = official_account.name.as_str().into();
            let shared = Arc::new(OfficialAccount::new(
                Arc::new(OfficialAccountStatus::new(Arc::clone(&name), Arc::default(), Arc::default())),
                OfficialAccountClient::new(Arc::clone(&client), Arc::new(tokens), observer),
            ));
            let named = official_account.kf_accounts.iter().map(|kf_account| Account {
                official_account: Arc::clone(&name),
                appid: Arc::clone(&appid),
                kf_account: kf_account.as_str().into(),
            });
            let registered = store.register_accounts(named.collect()).await.unwrap();
            let watched = registered.configured.into_iter().map(|stored| {
                let (row, account) = (stored.id, stored.account.clone());
                let watch = stored.into_tracker();
                Arc::new(WatchedAccount::new(account, row, watch))
            });
            shared.status.add_kf_accounts(watched.collect());
            accounts
                .extend(shared.accounts().iter().map(|account| (Arc::clone(&shared), Arc::clone(account))));
        }
        let limits = PollLimits { deadline: PATIENCE, blind_after: BLIND_AFTER, backoff_policy };
        let poller = Poller::new(store.clone(), metrics, Arc::clone(&clock) as Arc<dyn Clock>, limits);
        Self { simulator, clock, store, poller, accounts, _directory: directory }
    }

    fn control(&self) -> SimulatorControl {
        self.simulator.control()
    }

    fn names(&self, account: usize) -> (&str, &str) {
        let Account { appid, kf_account, .. } = &self.accounts[account].1.account();
        (appid, kf_account)
    }

    /// Makes getsessionlist return this errcode: for one kf account, or for all of the official account of account 0.
    fn refuse(&self, code: i64, kf_account: Option<usize>) {
        self.refuse_at(kf_account.unwrap_or(0), code, kf_account.is_some());
    }

    /// Makes getsessionlist return this errcode: for this account alone, or for all of its official account.
    fn refuse_at(&self, account: usize, code: i64, alone: bool) {
        self.control().inject(FaultRule {
            endpoint: Some(ApiCall::GetSessionList),
            official_account: Some(self.accounts[account].1.account().official_account.to_string()),
            kf_account: alone.then(|| self.names(account).1.to_owned()),
            ..FaultRule::new(Fault::Errcode(code))
        });
    }

    fn pass(&self, duration: Duration) {
        self.clock.pass(duration);
        self.control().advance(duration);
    }

    /// Polls every account once. Returns the outcomes in short form.
    async fn tick(&self) -> Vec<&'static str> {
        let mut outcomes = Vec::new();
        for (official_account, account) in &self.accounts {
            let guard = PollGuard::try_acquire(official_account, account).unwrap();
            outcomes.push(match self.poller.poll(&guard).await {
                PollOutcome::Succeeded => "ok",
                PollOutcome::BackedOff => "backed off",
                PollOutcome::Untrusted => "not trusted",
                PollOutcome::Failed(failure) => failure.error.code(),
                PollOutcome::NotStored(_) => "not stored",
            });
        }
        self.poller.log().flush();
        outcomes
    }

    /// Ticks for `duration`. Returns how often each account was polled.
    async fn ticks(&self, duration: Duration) -> Vec<u64> {
        let before = self.polls();
        let mut passed = Duration::ZERO;
        while passed < duration {
            self.pass(TICK);
            passed += TICK;
            self.tick().await;
        }
        self.polls().iter().zip(before).map(|(now, before)| now - before).collect()
    }

    fn polls(&self) -> Vec<u64> {
        (0..self.accounts.len())
            .map(|account| {
                let (appid, kf_account) = self.names(account);
                self.control().polls_of(appid, kf_account).unwrap()
            })
            .collect()
    }

    async fn events(&self) -> Vec<Value> {
        let events = self.store.read_events(EventFilter::default(), 10_000).await.unwrap().events;
        events.iter().map(|event| serde_json::from_str(&event.json).unwrap()).collect()
    }

    /// Returns the state changes of account 0 in short form.
    async fn state_changes(&self) -> Vec<String> {
        let kf_account = self.names(0).1;
        let appid = self.names(0).0;
        let text = |event: &Value, key: &str| event["data"][key].as_str().unwrap_or_default().to_owned();
        let events = self.events().await;
        let of_account = events.iter().filter(|event| {
            event["type"] == "kf.account.state_changed"
                && event["data"]["kf_account"] == kf_account
                && event["data"]["appid"] == appid
        });
        of_account
            .map(|event| {
                let errcode = event["data"]["errcode"].as_i64();
                format!("{}>{} {errcode:?} {}", text(event, "from"), text(event, "to"), text(event, "source"))
            })
            .collect()
    }
}

#[tokio::test]
async fn unbound_account_is_reported_and_backs_off_alone() {
    let rehearsal = Rehearsal::new().await;
    let (appid, kf_account) = rehearsal.names(0);
    assert_eq!(rehearsal.tick().await, ["ok"; 4]);
    rehearsal.control().set_kf_state(appid, kf_account, KfState::Unbound).unwrap();
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    assert_eq!(polled[1..], [40, 40, 40], "the others are polled at every tick");
    assert!((10..=16).contains(&polled[0]), "about once a minute, was {}", polled[0]);
    assert_eq!(rehearsal.state_changes().await, ["ok>unbound Some(65402) getsessionlist"]);
    rehearsal.control().set_kf_state(appid, kf_account, KfState::Bound).unwrap();
    rehearsal.ticks(Duration::from_secs(75)).await;
    assert_eq!(
        rehearsal.accounts[0].1.view(0).state,
        AccountState::Ok,
        "seen at the first tick after a minute"
    );
    assert_eq!(rehearsal.state_changes().await.last().unwrap(), "unbound>ok None getsessionlist");
}

#[tokio::test]
async fn unbound_account_ends_no_sessions() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    let (appid, kf_account) = rehearsal.names(0);
    for state in [KfState::Unbound, KfState::Invalid, KfState::Bound] {
        rehearsal.control().set_kf_state(appid, kf_account, state).unwrap();
        rehearsal.ticks(Duration::from_secs(90)).await;
    }
    let events = rehearsal.events().await;
    assert!(events.iter().all(|event| event["type"] != "kf.session.ended"));
    assert_eq!(
        rehearsal.state_changes().await,
        [
            "ok>unbound Some(65402) getsessionlist",
            "unbound>invalid Some(65401) getsessionlist",
            "invalid>ok None getsessionlist"
        ]
    );
}

#[tokio::test]
async fn busy_account_backs_off_alone() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.refuse(-1, Some(0));
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    assert_eq!(polled[1..], [40, 40, 40]);
    assert!((10..=16).contains(&polled[0]), "about once a minute, was {}", polled[0]);
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(75)).await;
    assert_eq!(rehearsal.ticks(Duration::from_secs(60)).await, [4; 4], "a success ends the backoff");
}

#[tokio::test]
async fn refused_official_account_backs_off_with_all_its_accounts() {
    for (code, most) in [(40164, 9), (48001, 5), (50002, 5), (65400, 5), (45009, 1), (89506, 1), (89507, 1)] {
        let rehearsal = Rehearsal::new().await;
        rehearsal.tick().await;
        rehearsal.refuse(code, None);
        let polled = rehearsal.ticks(Duration::from_secs(600)).await;
        assert_eq!(polled[2..], [40, 40], "{code}: the other official account");
        let calls = polled[0] + polled[1];
        assert!((1..=most).contains(&calls), "{code}: {calls} calls in ten minutes");
    }
}

#[tokio::test]
async fn minute_quota_backs_off_until_next_minute() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.refuse(45011, None);
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    assert!((9..=11).contains(&(polled[0] + polled[1])), "once a minute: {polled:?}");
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(75)).await;
    assert_eq!(rehearsal.tick().await, ["ok"; 4]);
}

#[tokio::test]
async fn day_quota_is_retried_every_half_hour() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.refuse(45009, None);
    let polled = rehearsal.ticks(Duration::from_secs(2 * 3600)).await;
    assert!((4..=6).contains(&(polled[0] + polled[1])), "{polled:?}");
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(1815)).await;
    assert_eq!(rehearsal.tick().await, ["ok"; 4]);
}

#[tokio::test]
async fn frozen_secret_backs_off_without_token_calls() {
    let rehearsal = Rehearsal::new().await;
    let (appid, _) = rehearsal.names(0);
    rehearsal.control().freeze_secret(appid).unwrap();
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    assert_eq!(polled, [0, 0, 40, 40]);
    let fetches = rehearsal.control().requests_of(appid, ApiCall::StableToken).unwrap();
    assert!((2..=6).contains(&fetches), "{fetches} fetches in ten minutes");
    rehearsal.control().unfreeze_secret(appid).unwrap();
    rehearsal.ticks(Duration::from_secs(315)).await;
    assert_eq!(rehearsal.tick().await, ["ok"; 4]);
}

#[tokio::test]
async fn silent_account_becomes_blind_and_recovers() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        ..FaultRule::new(Fault::HttpStatus(502))
    });
    rehearsal.ticks(BLIND_AFTER).await;
    assert!(rehearsal.state_changes().await.is_empty(), "not before BLIND_AFTER");
    rehearsal.ticks(Duration::from_secs(30)).await;
    assert_eq!(rehearsal.state_changes().await, ["ok>blind None getsessionlist"]);
    assert_eq!(rehearsal.accounts[0].1.view(0).sessions, Some(1), "the last known sessions stay");
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(75)).await;
    assert_eq!(rehearsal.state_changes().await.last().unwrap(), "blind>ok None getsessionlist");
    assert!(rehearsal.events().await.iter().all(|event| event["type"] != "kf.session.ended"));
}

#[tokio::test]
async fn skipped_ticks_count_towards_blindness() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.refuse(45009, None);
    rehearsal.ticks(BLIND_AFTER + Duration::from_secs(30)).await;
    assert_eq!(rehearsal.state_changes().await, ["ok>blind Some(45009) getsessionlist"]);
}

#[tokio::test]
async fn rarely_polled_unbound_account_is_not_blind() {
    let rarely = ExponentialBackoff::try_new(3 * BLIND_AFTER, 3 * BLIND_AFTER).unwrap();
    let rehearsal = Rehearsal::with(BackoffPolicy { unbound: rarely, ..BackoffPolicy::default() }).await;
    rehearsal.tick().await;
    rehearsal.refuse(65402, Some(0));
    let polled = rehearsal.ticks(Duration::from_secs(3600)).await;
    assert!((4..=6).contains(&polled[0]), "{polled:?}");
    assert_eq!(rehearsal.state_changes().await, ["ok>unbound Some(65402) getsessionlist"]);
}

#[tokio::test]
async fn unchanged_answer_has_the_same_fingerprint() {
    let rehearsal = Rehearsal::new().await;
    let fingerprint = async || {
        assert_eq!(rehearsal.tick().await[0], "ok");
        rehearsal.accounts[0].1.tracker().fingerprint
    };
    let first = fingerprint().await;
    assert!(first.is_some());
    assert_eq!(fingerprint().await, first);
    let (appid, kf_account) = rehearsal.names(0);
    rehearsal.control().open_session(appid, kf_account, "oNew", None).unwrap();
    let second = fingerprint().await;
    assert!(second.is_some() && second != first);
    rehearsal.control().close_session(appid, kf_account, "oNew").unwrap();
    assert_eq!(fingerprint().await, first);
}

#[tokio::test]
async fn account_has_one_poll_guard_at_a_time() {
    let rehearsal = Rehearsal::new().await;
    let (official_account, account) = &rehearsal.accounts[0];
    let guard = PollGuard::try_acquire(official_account, account);
    assert!(guard.is_ok());
    assert_eq!(PollGuard::try_acquire(official_account, account).err(), Some(NoGuard::Taken));
    let waiting = PollGuard::acquire(official_account, account);
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("two guards at a time"),
        () = std::future::ready(()) => {}
    }
    drop(guard);
    let guard = waiting.await;
    assert!(guard.is_some());
    assert_eq!(PollGuard::try_acquire(official_account, account).err(), Some(NoGuard::Taken));
    drop(guard);
    assert!(PollGuard::try_acquire(official_account, account).is_ok());
}

#[tokio::test]
async fn account_that_left_is_retired_when_its_guard_is_dropped() {
    let rehearsal = Rehearsal::new().await;
    let (official_account, account) = &rehearsal.accounts[0];
    let guard = PollGuard::try_acquire(official_account, account);
    account.leave();
    assert_eq!(PollGuard::try_acquire(official_account, account).err(), Some(NoGuard::Left));
    assert!(PollGuard::acquire(official_account, account).await.is_none());
    let retired = official_account.wait_until_retired(account);
    tokio::pin!(retired);
    tokio::select! {
        biased;
        () = &mut retired => panic!("a guard exists"),
        () = std::future::ready(()) => {}
    }
    drop(guard);
    retired.await;
    account.leave();
    assert!(account.is_retired() && account.has_left());
    let other = &rehearsal.accounts[1].1;
    other.leave();
    official_account.wait_until_retired(other).await;
}

#[tokio::test]
async fn changed_limits_apply_to_later_polls() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.refuse(65402, Some(0));
    rehearsal.tick().await;
    let hour = Duration::from_secs(3600);
    let backoff_policy = BackoffPolicy {
        unbound: ExponentialBackoff::try_new(hour, hour).unwrap(),
        ..BackoffPolicy::default()
    };
    rehearsal.poller.set_limits(PollLimits { deadline: PATIENCE, blind_after: BLIND_AFTER, backoff_policy });
    let polled = rehearsal.ticks(2 * Duration::from_secs(60)).await;
    assert_eq!(polled[0], 1, "the backoff that runs keeps its end, the next lasts an hour");
}

#[tokio::test]
async fn unstored_changes_are_found_again() {
    let rehearsal = Rehearsal::new().await;
    assert_eq!(rehearsal.tick().await, ["ok"; 4]);
    let (appid, kf_account) = rehearsal.names(0);
    rehearsal.control().open_session(appid, kf_account, "o-new", None).unwrap();
    rehearsal.store.limit_pages(1).await.unwrap();
    // Openids long enough that the events need new pages.
    let long = "o".repeat(6000);
    rehearsal.control().open_session(appid, kf_account, &long, None).unwrap();
    assert_eq!(rehearsal.tick().await[0], "not stored");
    assert_eq!(rehearsal.accounts[0].1.view(0).sessions, Some(1), "the snapshot is unchanged");
    rehearsal.store.limit_pages(u32::MAX).await.unwrap();
    assert_eq!(rehearsal.tick().await[0], "ok");
    assert_eq!(rehearsal.accounts[0].1.view(0).sessions, Some(3));
    let events = rehearsal.events().await;
    let started = events.iter().filter(|event| event["data"]["baseline"] == false).count();
    assert_eq!(started, 2);
}

#[tokio::test]
async fn refused_kf_account_backs_off_alone() {
    for code in [-1, 65401, 65402, 47001, 41001, 65413, 12_345] {
        let rehearsal = Rehearsal::new().await;
        rehearsal.tick().await;
        rehearsal.refuse(code, Some(0));
        let polled = rehearsal.ticks(Duration::from_secs(300)).await;
        assert_eq!(polled[1..], [20, 20, 20], "{code}: the others");
        assert!((5..=10).contains(&polled[0]), "{code}: {} times", polled[0]);
    }
}

#[tokio::test]
async fn failures_do_not_change_other_backoffs() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    rehearsal.refuse_at(0, 65402, true);
    rehearsal.refuse_at(1, -1, true);
    rehearsal.refuse_at(2, 40164, false);
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    for kf_account in [0, 1] {
        assert!((10..=16).contains(&polled[kf_account]), "about once a minute: {polled:?}");
    }
    assert!((4..=9).contains(&(polled[2] + polled[3])), "about every two minutes: {polled:?}");
    rehearsal.control().clear_faults();
    rehearsal.refuse_at(2, 40164, false);
    rehearsal.ticks(Duration::from_secs(75)).await;
    let polled = rehearsal.ticks(Duration::from_secs(300)).await;
    assert_eq!(polled[..2], [20, 20], "no longer in backoff, although the other official account is");
    assert!(polled[2] + polled[3] <= 4, "their success does not end the backoff of that one: {polled:?}");
}

#[tokio::test]
async fn configured_backoff_is_applied() {
    let second = Duration::from_secs(1);
    let often = ExponentialBackoff::try_new(Duration::ZERO, second).unwrap();
    let rarely = ExponentialBackoff::try_new(300 * second, 300 * second).unwrap();
    let backoff_policy = BackoffPolicy { unbound: often, not_authorized: rarely, ..BackoffPolicy::default() };
    let rehearsal = Rehearsal::with(backoff_policy).await;
    rehearsal.tick().await;
    rehearsal.refuse_at(0, 65402, true);
    rehearsal.refuse_at(2, 48001, false);
    let polled = rehearsal.ticks(Duration::from_secs(600)).await;
    assert_eq!(polled[0], 40, "at every tick");
    assert!(
        (2..=3).contains(&(polled[2] + polled[3])),
        "every five minutes, minus at most a fifth: {polled:?}"
    );
}

#[tokio::test]
async fn refused_official_account_is_logged_once_with_recovery() {
    let rehearsal = Rehearsal::new().await;
    let log = Log::capture();
    rehearsal.tick().await;
    rehearsal.refuse(40164, None);
    rehearsal.ticks(Duration::from_secs(600)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 1 + 1, "the refusal, and two blind accounts: {lines:#?}");
    assert!(lines[1].contains("2 kf accounts are blind"), "{}", lines[1]);
    assert!(lines[0].contains("ERROR") && lines[0].contains("remedy=") && lines[0].contains("203.0.113.7"));
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(300)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines[2].contains("Calls succeed again after") && lines[2].contains("failed polls in"),
        "{}",
        lines[2]
    );
}

#[tokio::test]
async fn collector_success_ends_only_collector_backoff() {
    let rehearsal = Rehearsal::new().await;
    let collect = async || {
        rehearsal.poller.collect(&rehearsal.accounts[0].0, Collector::Online).await;
        rehearsal.poller.log().flush();
    };
    rehearsal.tick().await;
    let log = Log::capture();
    rehearsal.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetOnlineKfList),
        ..FaultRule::new(Fault::Errcode(40164))
    });
    collect().await;
    rehearsal.control().clear_faults();
    rehearsal.pass(Duration::from_secs(120));
    collect().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("40164") && lines[1].contains("Calls succeed again after 1"), "{lines:#?}");

    rehearsal.refuse(45009, None);
    rehearsal.pass(Duration::from_secs(120));
    rehearsal.tick().await;
    // During the backoff, and after it.
    for wait in [120, 3600] {
        rehearsal.pass(Duration::from_secs(wait));
        collect().await;
    }
    assert_eq!(log.lines().len(), 3, "{:#?}", log.lines());
    rehearsal.control().clear_faults();
    rehearsal.tick().await;
    assert!(log.lines()[3].contains("Calls succeed again"), "{:#?}", log.lines());
}

#[tokio::test]
async fn alternating_reasons_are_logged_once_each() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    let log = Log::capture();
    for round in 0..20 {
        rehearsal.control().clear_faults();
        rehearsal.refuse(if round % 2 == 0 { 48001 } else { 65400 }, None);
        rehearsal.ticks(Duration::from_secs(300)).await;
    }
    let lines = log.lines().into_iter().filter(|line| !line.contains("blind")).collect::<Vec<_>>();
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[tokio::test]
async fn unbound_account_is_logged_once_with_remedy_and_recovery() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    let log = Log::capture();
    rehearsal.refuse(65402, Some(0));
    rehearsal.ticks(Duration::from_secs(3 * 3600)).await;
    rehearsal.control().clear_faults();
    rehearsal.ticks(Duration::from_secs(300)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("65402") && lines[0].contains("inviteworker"));
    assert!(lines[1].contains("Polls succeed again after") && lines[1].contains(" in 3h"), "{}", lines[1]);
}

#[tokio::test]
async fn full_disk_is_logged_once_for_all_accounts() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.tick().await;
    let log = Log::capture();
    rehearsal.store.limit_pages(1).await.unwrap();
    // Openids long enough that the events need new pages.
    let long = "o".repeat(6000);
    for account in 0..4 {
        let (appid, kf_account) = rehearsal.names(account);
        rehearsal.control().open_session(appid, kf_account, &long, None).unwrap();
    }
    for _ in 0..10 {
        rehearsal.pass(TICK);
        assert_eq!(rehearsal.tick().await, ["not stored"; 4]);
    }
    rehearsal.store.limit_pages(u32::MAX).await.unwrap();
    rehearsal.ticks(Duration::from_secs(60)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("Polls are not stored"), "{}", lines[0]);
    assert!(lines[1].contains("Polls are stored again after 40 failed commits in"), "{}", lines[1]);
}

/// Captures what this thread logs at level INFO and above.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn capture() -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&text);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || Lines(Arc::clone(&writer)))
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// Returns the lines that polls logged.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("kfwatch::poll")).map(str::to_owned).collect()
    }
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
