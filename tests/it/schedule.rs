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
        clock::{Clock, Moment, UnixMs},
        cron::Schedule,
        progress::ProgressMonitor,
        schedule_key::ScheduleKey,
        tracker::{AccountTracker, LastSeen},
    },
    metrics::Metrics,
    poll::{OfficialAccount, PollLimits, Poller},
    schedule::{
        cron_jobs::CronScheduler,
        queue::PollQueue,
        spread_plan::ScheduledAccount,
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
use tokio::sync::watch;
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

/// The kf account of each job, and when it was taken.
type TakenJobs = Arc<Mutex<Vec<(Arc<str>, Timestamp)>>>;

/// A ticker whose jobs are taken from the queue and recorded, not polled.
struct Ticking {
    clock: ScriptedClock,
    ticks: Arc<AtomicU64>,
    manual_ticks: ManualTicks,
    metrics: Arc<Metrics>,
    queue: Arc<PollQueue>,
    poller: Arc<Poller>,
    official_accounts: watch::Sender<Arc<Vec<ScheduledAccount>>>,
    /// The kf account of each job that was taken, and the scripted wall time then.
    taken: TakenJobs,
    progress: Mutex<ProgressMonitor>,
    stop: CancellationToken,
    ended: Arc<Mutex<Option<Result<(), String>>>>,
    /// Ends the remaining tasks of the scheduler when dropped.
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Ticking {
    /// A ticker for one kf account, whose polls are not spread.
    fn start(clock: ScriptedClock, expression: &str, timezone: &str) -> Self {
        let schedule = Schedule::parse(&[expression.to_owned()], timezone).unwrap();
        Self::spread(clock, ScheduleKey { schedule, spread: Duration::ZERO }, 1)
    }

    /// A ticker for one official account that ticks only when a test says so.
    fn manual(spread: Duration, kf_accounts: usize) -> Self {
        let schedule = Schedule::parse(&["0 0 0 29 2 *".to_owned()], "UTC").unwrap();
        Self::spread(
            ScriptedClock::starting_at("2026-11-22T07:00:00.25Z"),
            ScheduleKey { schedule, spread },
            kf_accounts,
        )
    }

    fn spread(clock: ScriptedClock, key: ScheduleKey, kf_accounts: usize) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::new().unwrap()));
        let (ticks, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let limits = PollLimits {
            deadline: Duration::from_secs(1),
            blind_after: Duration::from_secs(300),
            backoff_policy: BackoffPolicy::default(),
        };
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let poller = Arc::new(Poller::new(store, Arc::clone(&metrics), Arc::clone(&shared), limits));
        let (queue, manual_ticks) = (Arc::new(PollQueue::new(1)), ManualTicks::default());
        let context = TickerContext {
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&shared),
            manual_ticks: manual_ticks.clone(),
        };
        let mut ticking = Self {
            clock,
            ticks: Arc::clone(&ticks),
            manual_ticks,
            metrics,
            queue,
            poller,
            official_accounts: watch::channel(Arc::default()).0,
            taken: Arc::default(),
            progress: Mutex::new(ProgressMonitor::new(Duration::from_secs(60))),
            stop: stop.clone(),
            ended: Arc::default(),
            _runtime: runtime,
            _directory: directory,
        };
        ticking.watch(vec![ticking.official_account("shop", kf_accounts)]);
        let ticker = Ticker::new(context, key, ticks, ticking.official_accounts.subscribe());
        ticking.progress.get_mut().unwrap().add([ticker.progress_check()]);
        let ended = Arc::clone(&ticking.ended);
        ticking._runtime.block_on(async {
            let scheduler = CronScheduler::start().await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move {
                let result = ticker.run(scheduler, stop).await;
                *ended.lock().unwrap() = Some(result.map_err(|error| error.to_string()));
            });
            tasks.detach_all();
        });
        let (taken, queue) = (Arc::clone(&ticking.taken), Arc::clone(&ticking.queue));
        let handle = ticking._runtime.handle().clone();
        std::thread::spawn(move || {
            handle.block_on(async {
                while let Some((job, _)) = queue.next().await {
                    let kf_account = Arc::clone(&job.guard.account().account().kf_account);
                    taken.lock().unwrap().push((kf_account, shared.now().wall));
                    drop(job.guard);
                    queue.finish(job.lane);
                }
            });
        });
        ticking
    }

    /// An official account with a lane of its own.
    fn official_account(&self, name: &str, kf_accounts: usize) -> ScheduledAccount {
        self.official_account_polled_at(name, kf_accounts, None)
    }

    /// The same, whose last successful polls were at this time.
    fn official_account_polled_at(
        &self,
        name: &str,
        kf_accounts: usize,
        last_success_at: Option<UnixMs>,
    ) -> ScheduledAccount {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let official_account = official_account(&self.metrics, &self.ticks, &clock);
        let accounts = (1..=kf_accounts).map(|number| {
            let account = Account {
                official_account: name.into(),
                appid: "wx0000000000000000".into(),
                kf_account: format!("kf{number}@{name}").into(),
            };
            let last_seen = LastSeen { last_success_at, ..LastSeen::default() };
            let tracker = AccountTracker { last_seen, ..AccountTracker::default() };
            Arc::new(WatchedAccount::new(account, AccountId(1), tracker))
        });
        official_account.status.add_kf_accounts(accounts.collect());
        ScheduledAccount { official_account, lane: self.queue.add_lane(Arc::clone(&self.poller)) }
    }

    /// Replaces the official accounts of the schedule.
    fn watch(&self, official_accounts: Vec<ScheduledAccount>) {
        self.official_accounts.send_replace(Arc::new(official_accounts));
    }

    /// The kf accounts of the jobs that were taken since the last call, sorted.
    fn take_polled(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.taken.lock().unwrap());
        let mut names: Vec<String> = taken.iter().map(|(kf_account, _)| kf_account.to_string()).collect();
        names.sort();
        names
    }

    /// Waits until the ticker has ended, and returns what it returned.
    fn ended(&self) -> Result<(), String> {
        eventually("the end of the ticker", || self.ended.lock().unwrap().take())
    }

    /// The scripted wall time at which each job was taken.
    fn poll_times(&self) -> Vec<Timestamp> {
        self.taken.lock().unwrap().iter().map(|(_, at)| *at).collect()
    }

    fn polls(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// Triggers a tick, and waits for its polls.
    fn tick(&self, polls: usize) {
        // Before the tick: its polls may be over at once.
        let wanted = self.polls() + polls;
        self.manual_ticks.tick();
        eventually("the polls of the tick", || (self.polls() >= wanted).then_some(()));
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
        self.queue.close();
        self.stop.cancel();
    }
}

/// An official account without kf accounts, which is never called.
fn official_account(
    metrics: &Arc<Metrics>,
    ticks: &Arc<AtomicU64>,
    clock: &Arc<dyn Clock>,
) -> Arc<OfficialAccount> {
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
    let client = OfficialAccountClient::new(client, Arc::new(tokens), observer);
    let status = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::clone(ticks));
    Arc::new(OfficialAccount::new(Arc::new(status), client))
}

#[test]
fn changed_official_accounts_are_polled_from_the_next_tick() {
    let ticking = Ticking::manual(Duration::ZERO, 2);
    ticking.tick(2);
    assert_eq!(ticking.take_polled(), ["kf1@shop", "kf2@shop"]);
    let (branch, outlet) = (ticking.official_account("branch", 1), ticking.official_account("outlet", 1));
    ticking.watch(vec![branch.clone(), outlet]);
    ticking.tick(2);
    assert_eq!(ticking.take_polled(), ["kf1@branch", "kf1@outlet"]);
    ticking.watch(vec![branch]);
    ticking.tick(1);
    assert_eq!(ticking.take_polled(), ["kf1@branch"]);
}

#[test]
fn official_account_whose_last_tick_nobody_served_is_polled_at_once() {
    // The tick after the first one is an hour later.
    let clock = ScriptedClock::starting_at("2026-11-22T06:59:58Z");
    let ticking = Ticking::start(clock, "0 0 * * * *", "UTC");
    let is_polled = || (ticking.polls() >= 1).then_some(());
    eventually("the poll of the tick", is_polled);
    assert_eq!(ticking.take_polled(), ["kf1@shop"]);
    let polled_at =
        |name, at: &str| ticking.official_account_polled_at(name, 1, Some(UnixMs::from(time(at))));
    ticking.watch(vec![
        polled_at("polled", "2026-11-22T07:00:00.5Z"),
        polled_at("missed", "2026-11-22T06:00:00.5Z"),
        ticking.official_account("new", 1),
    ]);
    eventually("the poll that was missed", is_polled);
    assert_eq!(ticking.take_polled(), ["kf1@missed"]);
}

/// A spread that lasts longer than a test, and so many kf accounts that the first polls come at once.
const LONG_SPREAD: (Duration, usize) = (Duration::from_secs(100), 1000);

#[test]
fn sweep_that_is_spread_continues_with_its_accounts() {
    let (spread, kf_accounts) = LONG_SPREAD;
    let ticking = Ticking::manual(spread, kf_accounts);
    ticking.tick(1);
    ticking.watch(vec![ticking.official_account("branch", 1)]);
    ticking.poll_again(1);
    // The rest of a sweep is queued when the next one starts.
    ticking.manual_ticks.tick();
    eventually("all polls", || (ticking.polls() >= kf_accounts).then_some(()));
    let polled = ticking.take_polled();
    assert_eq!(polled.iter().filter(|kf_account| kf_account.ends_with("@shop")).count(), kf_accounts);
}

#[test]
fn ticker_that_stops_queues_rest_of_its_sweep() {
    let (spread, kf_accounts) = LONG_SPREAD;
    let ticking = Ticking::manual(spread, kf_accounts);
    ticking.tick(1);
    ticking.stop.cancel();
    assert_eq!(ticking.ended(), Ok(()));
    eventually("all polls", || (ticking.polls() == kf_accounts).then_some(()));
}

#[test]
fn ticker_of_closed_queue_ends_without_polls() {
    let (spread, kf_accounts) = LONG_SPREAD;
    let ticking = Ticking::manual(spread, kf_accounts);
    ticking.tick(1);
    ticking.queue.close();
    ticking.stop.cancel();
    assert_eq!(ticking.ended(), Ok(()));
    assert!(ticking.polls() < kf_accounts);
}

#[test]
fn progress_check_ends_with_its_ticker() {
    let ticking = Ticking::manual(Duration::ZERO, 1);
    let mut monitor = ticking.progress.lock().unwrap();
    let mut now = ticking.clock.now();
    monitor.check(now);
    ticking.stop.cancel();
    assert_eq!(ticking.ended(), Ok(()));
    for _ in 0..3 {
        now.monotonic += Duration::from_secs(3600);
        assert_eq!(monitor.check(now), []);
    }
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
    assert!(*ticking.poll_times().last().unwrap() < time("2026-11-22T06:30:00Z"));
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
    assert!(ticking.poll_times()[0] >= time("2026-10-25T02:30:00Z"));
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Asserts at most one poll for each elapsed second, whatever the wall clock shows. A late tick and the next one, which may come
/// half a second early, can fall into the same second.
fn assert_no_tick_twice(ticking: &Ticking) {
    let polls = ticking.poll_times();
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
