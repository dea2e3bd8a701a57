//! The collectors: what they call and how often, what backs off after a refusal, and what is shown. Tested with the
//! daemon against the simulator, and with a scripted clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet, secret},
    rehearsal::{self, NoJournal, ScriptedClock},
    simulator::eventually as eventually_async,
    wait::{PATIENCE, eventually},
};
use kfwatch::{
    domain::{
        account::Account,
        agents::{Binding, Collector, WaitingQueue},
        clock::Clock,
        collector_intervals::CollectorIntervals,
    },
    metrics::{
        Metrics,
        exposition::{self, Detail, Stored},
    },
    poll::{OfficialAccount, PollGuard, PollLimits, PollOutcome, Poller},
    schedule::collectors::{CollectedAccount, CollectorSet, Collectors},
    simulator::{ApiCall, Fault, FaultRule, KfState, Scenario, Simulator, SimulatorControl},
    status::{AccountTable, OfficialAccountStatus, WatchedAccount},
    store::Store,
    wechat::{
        client::OfficialAccountClient,
        token::{TokenProvider, TokenSource},
    },
};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

const MINUTE: Duration = Duration::from_secs(60);

const ENDPOINTS: [ApiCall; 4] =
    [ApiCall::GetKfList, ApiCall::GetOnlineKfList, ApiCall::GetWaitCase, ApiCall::QuotaGet];

/// A daemon without its schedule, which watches the kf accounts `kf1@shop`, `kf2@shop` and `kf3@shop`.
struct Rehearsal {
    simulator: Simulator,
    clock: Arc<ScriptedClock>,
    poller: Arc<Poller>,
    official_account: Arc<OfficialAccount>,
    _directory: TempDir,
}

impl Rehearsal {
    async fn new() -> Self {
        let mut scenario = quiet(&[("shop", 3)]);
        scenario.official_accounts[0].kf_accounts[0].nickname = Some("small \"wang\"".to_owned());
        Self::of(Scenario { ledger: false, ..scenario }, Duration::from_secs(20)).await
    }

    async fn of(scenario: Scenario, deadline: Duration) -> Self {
        let kf_accounts = scenario.accounts().remove(0).kf_accounts;
        let simulator = Simulator::start(scenario, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let clock = Arc::new(ScriptedClock::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let source = TokenSource::Stable { secret: SecretString::from(secret(0)).into() };
        let tokens = TokenProvider::new(appid(0).into(), source, Arc::new(NoJournal), None, clock.now());
        let observer = Arc::new(metrics.call_observer(Arc::default()));
        let client =
            OfficialAccountClient::new(rehearsal::client(&simulator, &clock), Arc::new(tokens), observer);
        let status = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::default());
        let official_account = Arc::new(OfficialAccount::new(Arc::new(status), client));
        let named = kf_accounts.iter().map(|kf_account| Account {
            official_account: "shop".into(),
            appid: appid(0).into(),
            kf_account: kf_account.as_str().into(),
        });
        let registered = store.register_accounts(named.collect()).await.unwrap();
        let watched = registered.configured.into_iter().map(|stored| {
            let (row, account) = (stored.id, stored.account.clone());
            let watch = stored.into_tracker();
            Arc::new(WatchedAccount::new(account, row, watch))
        });
        official_account.status.add_kf_accounts(watched.collect());
        let limits = PollLimits {
            deadline,
            blind_after: Duration::from_secs(300),
            backoff_policy: kfwatch::domain::backoff::BackoffPolicy::default(),
        };
        let poller = Poller::new(store, metrics, Arc::clone(&clock) as Arc<dyn Clock>, limits);
        let poller = Arc::new(poller);
        Self { simulator, clock, poller, official_account, _directory: directory }
    }

    fn control(&self) -> SimulatorControl {
        self.simulator.control()
    }

    fn pass(&self, duration: Duration) {
        self.clock.pass(duration);
        self.control().advance(duration);
    }

    fn refuse(&self, endpoint: ApiCall, fault: Fault) {
        self.control().inject(FaultRule { endpoint: Some(endpoint), ..FaultRule::new(fault) });
    }

    /// Runs one collection, and returns its outcome in short.
    async fn collect(&self, collector: Collector) -> &'static str {
        match self.poller.collect(&self.official_account, collector).await {
            PollOutcome::Succeeded => "ok",
            PollOutcome::BackedOff => "backed off",
            PollOutcome::Untrusted => "not trusted",
            PollOutcome::Failed(failure) => failure.error.code(),
            PollOutcome::NotStored(_) => "not stored",
        }
    }

    async fn collect_all(&self) -> Vec<&'static str> {
        let mut outcomes = Vec::new();
        for collector in Collector::ALL {
            outcomes.push(self.collect(collector).await);
        }
        outcomes
    }

    fn collected(&self) -> CollectedAccount {
        CollectedAccount {
            official_account: Arc::clone(&self.official_account),
            poller: Arc::clone(&self.poller),
        }
    }

    /// Polls the first kf account.
    async fn poll(&self) -> &'static str {
        let guard =
            PollGuard::try_acquire(&self.official_account, &self.official_account.accounts()[0]).unwrap();
        match self.poller.poll(&guard).await {
            PollOutcome::Succeeded => "ok",
            PollOutcome::BackedOff => "backed off",
            PollOutcome::Untrusted => "not trusted",
            PollOutcome::Failed(failure) => failure.error.code(),
            PollOutcome::NotStored(_) => "not stored",
        }
    }

    fn requests(&self) -> [u64; 4] {
        ENDPOINTS.map(|endpoint| self.control().requests(endpoint))
    }

    fn last_success(&self, collector: Collector) -> Option<jiff::Timestamp> {
        self.official_account.status.readings().last_success_at(collector)
    }

    /// Returns the lines of the metrics page that contain this text.
    fn metrics(&self, part: &str) -> Vec<String> {
        let table = AccountTable::new(vec![Arc::clone(&self.official_account.status)]);
        let mut page = Vec::new();
        exposition::write(&table, &Stored::default(), Detail::PerAccount, |chunk| {
            page.extend(chunk);
            true
        });
        let page = String::from_utf8(page).unwrap();
        let series = page.lines().filter(|line| !line.starts_with('#') && line.contains(part));
        series.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn refused_collector_backs_off_alone() {
    for (code, calls) in
        [(48001, 11..=16), (65400, 11..=16), (40013, 11..=16), (45009, 2..=3), (89506, 1..=1)]
    {
        let rehearsal = Rehearsal::new().await;
        rehearsal.refuse(ApiCall::GetOnlineKfList, Fault::Errcode(code));
        for _ in 0..60 {
            assert_eq!(rehearsal.poll().await, "ok", "{code}: polls");
            let outcomes = rehearsal.collect_all().await;
            assert_eq!([outcomes[0], outcomes[2], outcomes[3]], ["ok"; 3], "{code}: the other collectors");
            assert_ne!(outcomes[1], "ok");
            rehearsal.pass(MINUTE);
        }
        let [kf_list, online, waiting, quota] = rehearsal.requests();
        assert_eq!([kf_list, waiting, quota], [60; 3], "{code}");
        assert!(calls.contains(&online), "{code}: {online} calls in an hour");
    }
}

#[tokio::test]
async fn collector_recovers_within_five_minutes_of_permission() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.refuse(ApiCall::GetKfList, Fault::Errcode(48001));
    for _ in 0..20 {
        assert_ne!(rehearsal.collect(Collector::KfList).await, "ok");
        rehearsal.pass(MINUTE);
    }
    rehearsal.control().clear_faults();
    rehearsal.pass(4 * MINUTE);
    assert_eq!(rehearsal.collect(Collector::KfList).await, "ok");
    rehearsal.refuse(ApiCall::GetKfList, Fault::Errcode(48001));
    assert_eq!(rehearsal.collect(Collector::KfList).await, "48001");
    rehearsal.pass(MINUTE);
    assert_eq!(rehearsal.collect(Collector::KfList).await, "48001", "the backoff starts again");
}

#[tokio::test]
async fn collectors_pause_while_official_account_backs_off() {
    let (poll, token) = (ApiCall::GetSessionList, ApiCall::StableToken);
    for (endpoint, code) in [(poll, 40164), (poll, 89507), (token, 40013), (token, 40243)] {
        let rehearsal = Rehearsal::new().await;
        rehearsal.refuse(endpoint, Fault::Errcode(code));
        rehearsal.poll().await;
        assert_eq!(rehearsal.collect_all().await, ["backed off"; 4], "{code}");
        assert_eq!(rehearsal.requests(), [0; 4], "{code}");
    }
}

#[tokio::test]
async fn collectors_continue_while_only_getsessionlist_backs_off() {
    for code in [45009, 45011, 65400, 65402, -1] {
        let rehearsal = Rehearsal::new().await;
        rehearsal.refuse(ApiCall::GetSessionList, Fault::Errcode(code));
        rehearsal.poll().await;
        assert_eq!(rehearsal.collect_all().await, ["ok"; 4], "{code}");
    }
}

#[tokio::test]
async fn last_collected_values_stay_visible_with_their_time() {
    let rehearsal = Rehearsal::new().await;
    assert!(rehearsal.metrics("collector=").is_empty(), "absent until known");
    assert_eq!(rehearsal.collect_all().await, ["ok"; 4]);
    let shown = rehearsal.metrics("");
    let (series, collected_at) = (rehearsal.metrics("wechat_kf_"), rehearsal.last_success(Collector::KfList));
    for endpoint in ENDPOINTS {
        rehearsal.refuse(endpoint, Fault::Html);
    }
    rehearsal.pass(MINUTE);
    assert_eq!(rehearsal.collect_all().await, ["malformed"; 4]);
    assert_eq!(rehearsal.metrics("wechat_kf_"), series);
    assert_eq!(rehearsal.metrics(""), shown);
    rehearsal.control().clear_faults();
    assert_eq!(rehearsal.collect_all().await, ["ok"; 4]);
    assert!(rehearsal.last_success(Collector::KfList) > collected_at);
}

#[tokio::test]
async fn collected_values_vanish_with_their_account() {
    let rehearsal = Rehearsal::new().await;
    let control = rehearsal.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    rehearsal.collect_all().await;
    let first = "official_account=\"shop\",kf_account=\"kf1@shop\"";
    assert_eq!(
        rehearsal.metrics("wechat_kf_account_info{official_account=\"shop\",kf_account=\"kf1@shop\""),
        [format!("wechat_kf_account_info{{{first},nickname=\"small \\\"wang\\\"\"}} 1")]
    );
    assert_eq!(
        rehearsal.metrics(&format!("wechat_kf_account_online{{{first}")),
        [format!("wechat_kf_account_online{{{first}}} 1")]
    );
    assert_eq!(
        rehearsal.metrics(&format!("wechat_kf_account_accepted_cases{{{first}")),
        [format!("wechat_kf_account_accepted_cases{{{first}}} 1")]
    );
    let second = "official_account=\"shop\",kf_account=\"kf2@shop\"";
    assert_eq!(
        rehearsal.metrics(&format!("wechat_kf_account_online{{{second}")),
        [format!("wechat_kf_account_online{{{second}}} 0")],
        "an account that is not listed is offline"
    );
    assert!(rehearsal.metrics(&format!("wechat_kf_account_accepted_cases{{{second}")).is_empty());
    let bindings: Vec<_> =
        rehearsal.official_account.accounts().iter().map(|account| account.view(0).agent.binding).collect();
    assert_eq!(bindings, [Some(Binding::Bound), Some(Binding::Unbound(None)), Some(Binding::Bound)]);
    assert_eq!(rehearsal.metrics("kfwatch_collector_last_success_timestamp_seconds").len(), 4);

    let removed = [rehearsal.official_account.accounts()[0].id()].into();
    rehearsal.official_account.status.remove_kf_accounts(&removed);
    assert!(rehearsal.metrics("kf1@shop").is_empty());
}

#[tokio::test]
async fn waiting_customers_and_remaining_quota_are_exported() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.collect_all().await;
    let waiting = "wechat_kf_waiting";
    assert_eq!(rehearsal.metrics(waiting), ["wechat_kf_waiting_customers{official_account=\"shop\"} 0"]);
    let queue = WaitingQueue { customers: 150, oldest_message_at: Some(1_700_000_000) };
    rehearsal.official_account.status.readings().waiting = Some(queue);
    let oldest = "wechat_kf_waiting_oldest_message_timestamp_seconds{official_account=\"shop\"} 1700000000";
    assert_eq!(
        rehearsal.metrics(waiting),
        ["wechat_kf_waiting_customers{official_account=\"shop\"} 150", oldest]
    );
    rehearsal.poll().await;
    rehearsal.pass(MINUTE);
    assert_eq!(rehearsal.collect(Collector::Quota).await, "ok");
    assert_eq!(
        rehearsal.metrics("wechat_kf_api_quota"),
        [
            "wechat_kf_api_quota_limit{official_account=\"shop\"} 100000000",
            "wechat_kf_api_quota_remaining{official_account=\"shop\"} 99999999"
        ]
    );
}

#[tokio::test]
async fn hanging_collector_call_times_out() {
    let scenario = Scenario { ledger: false, ..quiet(&[("shop", 3)]) };
    let rehearsal = Rehearsal::of(scenario, Duration::from_millis(300)).await;
    rehearsal.refuse(ApiCall::GetWaitCase, Fault::Hang);
    assert_eq!(rehearsal.collect_all().await, ["ok", "ok", "timeout", "ok"]);
}

// On one thread: what a collection leaves behind is visible only after the collectors have noted its end.
#[tokio::test]
async fn running_collectors_follow_official_accounts_and_intervals() {
    // Two objects for the same appid count as two official accounts.
    let (first, second) = (Rehearsal::new().await, Rehearsal::new().await);
    let hour = Some(60 * MINUTE);
    let all = CollectorIntervals { kf_list: hour, online: hour, waiting: hour, quota: hour };
    let set = |intervals, of: &[&Rehearsal]| {
        let official_accounts = of.iter().map(|rehearsal| rehearsal.collected()).collect();
        CollectorSet { intervals, official_accounts: Arc::new(official_accounts) }
    };
    let requests = async |expected: [[u64; 4]; 2]| {
        eventually_async("the requests", || [first.requests(), second.requests()] == expected).await;
    };
    // The next collections are due an interval after the end of the last ones.
    let pass_once_collected = async |since: jiff::Timestamp| {
        let is_collected = |collector| second.last_success(collector).is_some_and(|at| at >= since);
        eventually_async("the end of the collections", || Collector::ALL.into_iter().all(is_collected)).await;
        first.clock.pass(120 * MINUTE);
    };
    let (changed, follow) = watch::channel(set(all, &[&first]));
    let (mut running, drain) = (JoinSet::new(), CancellationToken::new());
    running.spawn(Collectors::new(Arc::clone(&first.clock) as Arc<dyn Clock>, follow).run(drain.clone()));
    requests([[1; 4], [0; 4]]).await;
    changed.send_replace(set(all, &[&first, &second]));
    requests([[1; 4], [1; 4]]).await;
    // What became due meanwhile is collected as soon as the set changes.
    pass_once_collected(jiff::Timestamp::MIN).await;
    let passed_at = second.clock.now().wall;
    changed.send_replace(set(all, &[&second]));
    requests([[1; 4], [2; 4]]).await;
    pass_once_collected(passed_at).await;
    changed.send_replace(set(CollectorIntervals { waiting: None, ..all }, &[&second]));
    requests([[1; 4], [3, 3, 2, 3]]).await;
    changed.send_replace(set(all, &[&second]));
    requests([[1; 4], [3; 4]]).await;
    drain.cancel();
    running.join_next().await.unwrap().unwrap();
}

#[test]
fn collectors_call_at_start_and_intervals_only() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    let begun = Instant::now();
    let daemon = Home::watching(&wechat, "").set("KFWATCH__COLLECTORS__ONLINE", "10s").daemon();
    let control = wechat.control();
    for endpoint in ENDPOINTS {
        eventually("the first calls", || (control.requests(endpoint) >= 2).then_some(()));
    }
    for path in ["/", "/metrics", "/-/ready"].repeat(5) {
        daemon.get(path);
    }
    let asked = |endpoint| control.requests_of(&appid(0), endpoint).unwrap();
    eventually("the third collection", || (asked(ApiCall::GetOnlineKfList) >= 3).then_some(()));
    // Two collections are at least half an interval apart.
    let most = 1 + begun.elapsed().as_secs() / 5;
    assert!(asked(ApiCall::GetOnlineKfList) <= most, "{} of {most}", asked(ApiCall::GetOnlineKfList));
    assert!(begun.elapsed() >= Duration::from_secs(10));
    // The second collection of this one comes at least half a minute later.
    assert!(asked(ApiCall::GetWaitCase) <= 1 + begun.elapsed().as_secs() / 30);
    assert_eq!([asked(ApiCall::GetKfList), asked(ApiCall::QuotaGet)], [1, 1]);
}

#[test]
fn hanging_official_account_delays_no_other_collection() {
    let scenario = Scenario::load(300, 1, 1, 0.0);
    let hanging = Some(scenario.official_accounts[7].name.clone());
    let wechat = WeChat::play(scenario);
    let control = wechat.control();
    control.inject(FaultRule {
        official_account: hanging,
        endpoint: Some(ApiCall::GetOnlineKfList),
        ..FaultRule::new(Fault::Hang)
    });
    let home = ["KF_LIST", "ONLINE", "WAITING", "QUOTA"]
        .into_iter()
        .fold(Home::watching(&wechat, ""), |home, name| {
            home.set(&format!("KFWATCH__COLLECTORS__{name}"), "1h")
        })
        .set("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *");
    let _daemon = home.daemon();
    for endpoint in ENDPOINTS {
        eventually("a call for each", || (control.requests(endpoint) >= 300).then_some(()));
        assert_eq!(control.requests(endpoint), 300, "no call is repeated");
    }
}

#[test]
fn busy_kf_list_is_retried_before_its_interval() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetKfList),
        times: Some(1),
        ..FaultRule::new(Fault::Errcode(-1))
    });
    let begun = Instant::now();
    let _daemon = Home::watching(&wechat, "").set("KFWATCH__COLLECTORS__KF_LIST", "1h").daemon();
    eventually("the repeat", || (wechat.control().requests(ApiCall::GetKfList) >= 2).then_some(()));
    assert!(begun.elapsed().as_secs() >= 15, "{:?}", begun.elapsed());
}

#[test]
fn hanging_official_accounts_leave_collector_slots_to_others() {
    let scenario = Scenario::load(300, 1, 1, 0.0);
    let wechat = WeChat::play(scenario.clone());
    let control = wechat.control();
    for of in &scenario.official_accounts[..30] {
        for endpoint in ENDPOINTS {
            control.inject(FaultRule {
                official_account: Some(of.name.clone()),
                endpoint: Some(endpoint),
                ..FaultRule::new(Fault::Hang)
            });
        }
    }
    let home = Home::watching(&wechat, "")
        .set("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *")
        .set("KFWATCH__API__TIMEOUT", "5m");
    let _daemon = home.daemon();
    // No hanging call ends before the test gives up, so no other call may wait for one.
    assert!(PATIENCE < Duration::from_secs(300));
    eventually("a call for each of the others", || {
        (control.requests(ApiCall::QuotaGet) >= 270).then_some(())
    });
}

#[test]
fn disabled_collectors_make_no_calls() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let daemon = Home::watching(&wechat, "").without_collectors().daemon();
    polled(&daemon, 4.0);
    assert_eq!(ENDPOINTS.map(|endpoint| wechat.control().requests(endpoint)), [0; 4]);
    assert!(!daemon.get("/metrics").text().contains("kfwatch_collector_last_success_timestamp_seconds{"));
}

#[test]
fn refused_collector_is_logged_once_with_remedy() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let refused = |endpoint| FaultRule { endpoint: Some(endpoint), ..FaultRule::new(Fault::Errcode(48001)) };
    wechat.control().inject(refused(ApiCall::GetKfList));
    let daemon = Home::watching(&wechat, "").set("KFWATCH__COLLECTORS__KF_LIST", "10s").daemon();
    polled(&daemon, 15.0);
    assert_eq!(wechat.control().requests(ApiCall::GetKfList), 1, "backs off for a minute");
    let log = daemon.stderr();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("48001")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("collector=kf_list") && lines[0].contains("remedy="), "{}", lines[0]);
    assert!(daemon.metric("wechat_kf_waiting_customers{official_account=\"shop\"}").is_some());
}

#[test]
fn drain_waits_for_hanging_collection_only_briefly() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let hangs = FaultRule { endpoint: Some(ApiCall::GetWaitCase), ..FaultRule::new(Fault::Hang) };
    wechat.control().inject(hangs);
    let daemon = Home::watching(&wechat, "").set("KFWATCH__SHUTDOWN_TIMEOUT", "2s").daemon();
    eventually("the call", || (wechat.control().requests(ApiCall::GetWaitCase) >= 1).then_some(()));
    polled(&daemon, 2.0);
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn status_page_shows_collected_values() {
    let mut scenario = quiet(&[("shop", 2)]);
    scenario.official_accounts[0].kf_accounts[0].nickname = Some("<Wang>".to_owned());
    scenario.official_accounts[0].kf_accounts[1].state = KfState::UnboundRejected;
    let wechat = WeChat::play(scenario);
    wechat.control().open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    let daemon = Home::watching(&wechat, "").daemon();
    for part in ["&lt;Wang&gt;", "online", "declined the invitation", "Waiting customers", " of 100,000,000"]
    {
        eventually(part, || daemon.get("/").text().contains(part).then_some(()));
    }
}

/// Waits until the first kf account has been polled this often.
fn polled(daemon: &Process, times: f64) {
    let polls = "kfwatch_polls_total{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("polls", || daemon.metric(polls).filter(|polls| *polls >= times));
}
