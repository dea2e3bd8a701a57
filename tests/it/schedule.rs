//! The schedule: ticks continue whatever happens to the clock, the API or the machine, and every account is polled.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    daemon::ManualDaemon,
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};
use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::Account,
        backoff::BackoffPolicy,
        clock::{Clock, Moment},
        cron::Schedule,
        tracker::AccountTracker,
    },
    metrics::Metrics,
    poll::{OfficialAccount, PollLimits, Poller},
    schedule::{
        cron_jobs::CronScheduler,
        queue::PollQueue,
        sweep::ScheduledAccount,
        ticker::{ManualTicks, Ticker, TickerContext},
    },
    simulator::{ApiCall, Fault, FaultRule},
    status::{OfficialAccountStatus, WatchedAccount},
    store::{AccountId, Store},
    wechat::{
        client::OfficialAccountClient,
        http::{ClientOptions, HttpVersion, WechatClient},
        token::{TokenJournal, TokenProvider, TokenSource},
    },
};
use tokio_util::sync::CancellationToken;

const EVERY_SECOND: &str = "* * * * * *";

/// A clock whose wall time the test sets; its monotonic time is the machine's.
#[derive(Clone)]
struct ScriptedClock {
    origin: Instant,
    /// The wall clock at `origin`.
    wall: Arc<Mutex<Timestamp>>,
}

impl ScriptedClock {
    fn starting_at(wall: &str) -> Self {
        Self { origin: Instant::now(), wall: Arc::new(Mutex::new(wall.parse().unwrap())) }
    }

    /// Sets the wall clock forward, or back.
    fn jump(&self, seconds: i64) {
        let mut wall = self.wall.lock().unwrap();
        *wall += Duration::from_secs(seconds.unsigned_abs()).saturating_mul(u32::from(seconds > 0));
        *wall -= Duration::from_secs(seconds.unsigned_abs()).saturating_mul(u32::from(seconds < 0));
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Moment {
        let monotonic = self.origin.elapsed();
        Moment { wall: *self.wall.lock().unwrap() + monotonic, monotonic }
    }
}

struct NoJournal;

impl TokenJournal for NoJournal {
    fn record_fetch<'a>(&'a self, _: &'a str, _: Moment) -> futures_util::future::BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn store_refresh_token<'a>(
        &'a self,
        _: &'a str,
        _: &'a secrecy::SecretString,
        _: Moment,
    ) -> futures_util::future::BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// A ticker with one account. Its jobs are taken from the queue and recorded, not polled.
struct Ticking {
    clock: ScriptedClock,
    ticks: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    /// The scripted wall time at which each job was taken.
    polls: Arc<Mutex<Vec<Timestamp>>>,
    drain: CancellationToken,
    /// Ends the remaining tasks of the scheduler when dropped.
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Ticking {
    fn start(clock: ScriptedClock, expression: &str, timezone: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new([]).unwrap());
        let (ticks, drain) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let polls = Arc::<Mutex<Vec<Timestamp>>>::default();
        let schedule = Schedule::parse(&[expression.to_owned()], timezone).unwrap();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let queue = Arc::new(PollQueue::new(1, 1));
        runtime.block_on(async {
            let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
            let limits = PollLimits {
                deadline: Duration::from_secs(1),
                blind_after: Duration::from_secs(300),
                backoff_policy: BackoffPolicy::default(),
            };
            let poller = Poller::new(store, Arc::clone(&metrics), Arc::clone(&shared), limits);
            let context = TickerContext {
                queue: Arc::clone(&queue),
                poller: Arc::new(poller),
                metrics: Arc::clone(&metrics),
                clock: Arc::clone(&shared),
                manual_ticks: ManualTicks::default(),
            };
            let scheduled =
                ScheduledAccount { official_account: official_account(&metrics, &ticks, &shared), lane: 0 };
            let ticker = Ticker::new(context, schedule, Duration::ZERO, Arc::clone(&ticks), vec![scheduled]);
            let scheduler = CronScheduler::start().await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(ticker.run(scheduler, drain.clone()));
            tasks.detach_all();
        });
        let taken = Arc::clone(&polls);
        let handle = runtime.handle().clone();
        std::thread::spawn(move || {
            handle.block_on(async {
                while let Some(job) = queue.next().await {
                    taken.lock().unwrap().push(shared.now().wall);
                    drop(job.guard);
                    queue.finish(job.lane);
                }
            });
        });
        Self { clock, ticks, metrics, polls, drain, _runtime: runtime, _directory: directory }
    }

    fn polls(&self) -> usize {
        self.polls.lock().unwrap().len()
    }

    /// Waits for `more` further polls.
    fn poll_again(&self, more: usize) {
        let wanted = self.polls() + more;
        eventually("further polls", || (self.polls() >= wanted).then_some(()));
    }

    fn missed(&self) -> f64 {
        let mut page = Vec::new();
        self.metrics.encode(&mut page).unwrap();
        crate::support::process::metric(
            &String::from_utf8(page).unwrap(),
            "kfwatch_schedule_missed_ticks_total",
        )
        .unwrap()
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

/// An official account with one kf account, which is never polled.
fn official_account(
    metrics: &Arc<Metrics>,
    ticks: &Arc<AtomicU64>,
    clock: &Arc<dyn Clock>,
) -> Arc<OfficialAccount> {
    let account = Account {
        official_account: "shop".into(),
        appid: "wx0000000000000000".into(),
        kf_account: "kf1@shop".into(),
    };
    let options = ClientOptions {
        base_url: "http://127.0.0.1:9".parse().unwrap(),
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        max_body_bytes: 1024,
        http_version: HttpVersion::Http1,
        ca: None,
        proxy: None,
    };
    let client = Arc::new(WechatClient::build(&options, Arc::clone(clock)).unwrap());
    let source = TokenSource::File { path: "nowhere".into(), json_pointer: None };
    let tokens =
        TokenProvider::new("wx0000000000000000".into(), source, Arc::new(NoJournal), None, clock.now());
    let observer = Arc::new(metrics.call_observer(Arc::default()));
    let client = OfficialAccountClient::new(client, tokens, observer);
    let status = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::clone(ticks));
    let official_account = Arc::new(OfficialAccount::new(Arc::new(status), client));
    let account = WatchedAccount::new(account, AccountId(1), AccountTracker::default());
    official_account.status.set_kf_accounts(vec![Arc::new(account)]);
    official_account
}

#[test]
fn clock_set_forward_loses_only_skipped_ticks() {
    let ticking = Ticking::start(ScriptedClock::starting_at("2026-11-22T07:00:00.25Z"), EVERY_SECOND, "UTC");
    ticking.poll_again(2);
    let before = ticking.missed();
    ticking.clock.jump(3600);
    ticking.poll_again(3);
    let missed = ticking.missed() - before;
    assert!((3590.0..3660.0).contains(&missed), "{missed}");
    assert_no_tick_twice(&ticking);
}

#[test]
fn clock_set_back_by_an_hour_keeps_polling() {
    let ticking = Ticking::start(ScriptedClock::starting_at("2026-11-22T07:00:00.25Z"), EVERY_SECOND, "UTC");
    ticking.poll_again(2);
    ticking.clock.jump(-3600);
    ticking.poll_again(3);
    assert!(ticking.polls.lock().unwrap().last().unwrap() < &"2026-11-22T06:30:00Z".parse().unwrap());
}

#[test]
fn clock_set_back_by_seconds_polls_each_second_once() {
    let ticking = Ticking::start(ScriptedClock::starting_at("2026-11-22T07:00:00.25Z"), EVERY_SECOND, "UTC");
    ticking.poll_again(3);
    ticking.clock.jump(-2);
    ticking.poll_again(4);
    assert_no_tick_twice(&ticking);
}

#[test]
fn local_hours_survive_end_of_summer_time() {
    // At 01:00 UTC three o'clock becomes two o'clock again. "Half past three" is at 02:30 UTC afterwards.
    let ticking =
        Ticking::start(ScriptedClock::starting_at("2026-10-25T00:59:59Z"), "0 30 3 * * *", "Europe/Berlin");
    eventually("the change", || (ticking.clock.now().wall >= time("2026-10-25T01:00:01Z")).then_some(()));
    ticking.clock.jump(29 * 60 + 58);
    // By then a tick at half past two would have run, with or without a trigger.
    eventually("half past two", || (ticking.clock.now().wall >= time("2026-10-25T01:30:03Z")).then_some(()));
    assert_eq!(ticking.polls(), 0, "half past two is not half past three");
    ticking.clock.jump(3600 - 5);
    ticking.poll_again(1);
    assert_eq!(ticking.ticks.load(Ordering::Relaxed), 1);
    assert!(ticking.polls.lock().unwrap()[0] >= time("2026-10-25T02:30:00Z"));
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Asserts at most one poll for each elapsed second, whatever the wall clock shows. A late tick and the next one, which may come
/// half a second early, can fall into the same second.
fn assert_no_tick_twice(ticking: &Ticking) {
    let polls = ticking.polls.lock().unwrap();
    assert!(polls.len() as u64 <= ticking.clock.origin.elapsed().as_secs() + 2, "{polls:?}");
}

fn of_account(daemon: &ManualDaemon, official_account: &str, kf_account: &str, name: &str) -> f64 {
    let series = format!("{name}{{official_account=\"{official_account}\",kf_account=\"{kf_account}\"}}");
    daemon.metric(&series).unwrap_or(0.0)
}

#[test]
fn hanging_accounts_cost_no_other_account_a_tick() {
    let wechat = WeChat::play(quiet(&[("shop", 4), ("stuck", 30)]));
    let control = wechat.control();
    control.inject(FaultRule { kf_account: Some("kf1@shop".to_owned()), ..hang() });
    control.inject(FaultRule { official_account: Some("stuck".to_owned()), ..hang() });
    let daemon = ManualDaemon::watching(
        &wechat,
        &[("KFWATCH__API__TIMEOUT", "60s"), ("KFWATCH__API__MAX_IN_FLIGHT", "24")],
    );
    let overruns =
        |official: &str, kf: &str| of_account(&daemon, official, kf, "kfwatch_poll_overruns_total");
    let polls = |official: &str, kf: &str| of_account(&daemon, official, kf, "kfwatch_polls_total");
    let others = ["kf2@shop", "kf3@shop", "kf4@shop"];
    let ticks = 8;
    for tick in 1..=ticks {
        daemon.tick();
        eventually("overruns of the accounts that hang, and of the queued ones", || {
            let [hanging, queued] = [overruns("shop", "kf1@shop"), overruns("stuck", "kf30@stuck")];
            (hanging >= f64::from(tick - 1) && queued >= f64::from(tick - 1)).then_some(())
        });
        eventually("polls of the others, or overruns", || {
            let served = |kf: &&str| polls("shop", kf) + overruns("shop", kf) >= f64::from(tick);
            others.iter().all(served).then_some(())
        });
    }
    assert_eq!(overruns("shop", "kf1@shop"), f64::from(ticks - 1));
    for kf_account in others {
        // A tick can come before the poll that was counted has ended.
        assert!(overruns("shop", kf_account) <= 1.0, "{kf_account}: {}", overruns("shop", kf_account));
    }
    assert!(of_account(&daemon, "shop", "kf1@shop", "kfwatch_poll_overdue") > 0.0);
    assert!(of_account(&daemon, "shop", "kf2@shop", "kfwatch_poll_overdue") < 1.0);
    assert_eq!(control.max_in_flight_of_any_kf_account(), 1);
    assert_eq!(control.max_in_flight_of_official_account(&appid(1)), Ok(16), "at most its share");
}

#[test]
fn slow_answers_keep_one_poll_in_flight() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    wechat.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        ..FaultRule::new(Fault::Slow(Duration::from_millis(500)))
    });
    let daemon = ManualDaemon::watching(&wechat, &[]);
    eventually("polls", || {
        daemon.tick();
        (of_account(&daemon, "shop", "kf3@shop", "kfwatch_polls_total") >= 3.0).then_some(())
    });
    assert!(of_account(&daemon, "shop", "kf3@shop", "kfwatch_poll_overruns_total") >= 1.0);
    assert_eq!(wechat.control().max_in_flight_of_any_kf_account(), 1);
}

#[test]
fn stopped_process_resumes_polling() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let daemon = Home::watching(&wechat, "").daemon();
    let polls = || wechat.control().polls_of(&appid(0), "kf1@shop").unwrap();
    eventually("polls", || (polls() >= 2).then_some(()));
    let begun = Instant::now();
    daemon.signal("STOP");
    // The process is stopped, so there is no event to wait for.
    std::thread::sleep(Duration::from_secs(4));
    let stalled = polls();
    daemon.signal("CONT");
    eventually("further polls", || (polls() >= stalled + 4).then_some(()));
    let missed = daemon.metric("kfwatch_schedule_missed_ticks_total").unwrap();
    let most = begun.elapsed().as_secs_f64() + 1.0;
    assert!((2.0..=most).contains(&missed), "{missed} of {most}");
}

#[test]
fn polls_are_spread_over_the_time_after_the_tick() {
    let wechat = WeChat::play(quiet(&[("shop", 40)]));
    let daemon = ManualDaemon::watching(&wechat, &[("KFWATCH__POLL__SPREAD", "4s")]);
    daemon.tick();
    eventually("a sweep", || (daemon.metric("kfwatch_sweeps_total") >= Some(1.0)).then_some(()));
    let ledger = wechat.control().ledger();
    let mut at: Vec<i64> = ledger.polls.iter().map(|poll| poll.received_at_ms).collect();
    at.sort_unstable();
    assert_eq!(at.len(), 40);
    let took = at[39] - at[0];
    assert!(took >= 2000, "{took} ms");
    let most_in_half_a_second =
        at.iter().map(|from| at.iter().filter(|at| (*from..from + 500).contains(*at)).count());
    assert!(most_in_half_a_second.max().unwrap() <= 20);
}

#[test]
fn busy_answer_is_retried_before_a_distant_tick() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let control = wechat.control();
    control.inject(FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        times: Some(1),
        ..FaultRule::new(Fault::Errcode(-1))
    });
    let daemon = ManualDaemon::watching(&wechat, &[]);
    daemon.tick();
    // The sweep ends with the repeated poll.
    eventually("the sweep", || (daemon.metric("kfwatch_sweeps_total") >= Some(1.0)).then_some(()));
    assert!(of_account(&daemon, "shop", "kf1@shop", "wechat_kf_account_up") > 0.0);
    let ledger = control.ledger();
    let [busy, good] = &ledger.polls[..] else { panic!("{:?}", ledger.polls) };
    let wait = good.received_at_ms - busy.received_at_ms;
    // A second, shortened at random by up to a fifth, in rounded milliseconds.
    assert!((799..60_000).contains(&wait), "{wait} ms");
    assert_eq!(daemon.metric("kfwatch_sweeps_total"), Some(1.0));
}

fn hang() -> FaultRule {
    FaultRule { endpoint: Some(ApiCall::GetSessionList), ..FaultRule::new(Fault::Hang) }
}
