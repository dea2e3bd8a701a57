//! Sinks change their options and leave while their dispatchers run: in each stage of a delivery, no event is lost, repeated
//! or out of order.

use std::{
    path::Path,
    sync::{Arc, Barrier, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use kfwatch::{
    dispatch::{
        DispatchContext, Dispatcher, DispatcherHandle, SinkEnded, SinkShare,
        admin::{SinkAdmin, SinkCommand, StoreSinks},
    },
    domain::{
        clock::{Clock, Moment},
        event::EventType,
        sink_state::{BY_OPERATOR, SinkState},
    },
    sink::{
        Sink,
        jsonl::{JsonlSink, JsonlTarget},
        webhook::{WebhookOptions, WebhookSink},
    },
    store::{EventFilter, RegisteredSink, SinkRegistration, StartPosition, Store, StoredAccount},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::support::{
    receiver::{Answer, Delivery, Receiver},
    store::{account, at, commit, ended, started},
    wait::eventually,
};

/// Longer than any test: what does not end by itself is in the way of a drain.
const GRACE: Duration = Duration::from_secs(600);

/// A clock that stands still: no backoff ends by itself.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Moment {
        Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::from_secs(1) }
    }
}

/// What a sink is configured to do.
struct Options {
    sink: Sink,
    destination: Option<String>,
    filter: EventFilter,
}

fn webhook(receiver: &Receiver) -> Options {
    webhook_with(receiver, Duration::from_secs(170))
}

fn webhook_with(receiver: &Receiver, timeout: Duration) -> Options {
    let options = WebhookOptions {
        url: receiver.url("kf").parse().unwrap(),
        keys: Vec::new().into(),
        headers: Vec::new(),
        ca_file: None,
        timeout,
        max_in_flight: 8,
    };
    let destination = Some(options.destination());
    let sink = Sink::Webhook(Box::new(WebhookSink::build(options, Arc::new(FixedClock)).unwrap()));
    Options { sink, destination, filter: EventFilter::default() }
}

fn file(path: &Path) -> Options {
    let target = JsonlTarget::File { path: path.to_owned(), mode: 0o600, group: None };
    let sink = Sink::Jsonl(Box::new(JsonlSink::new(target)));
    Options { sink, destination: None, filter: EventFilter::default() }
}

/// A store with three kf accounts, and the running dispatcher of the sink "crm".
struct Stage {
    runtime: Runtime,
    store: Store,
    accounts: Vec<StoredAccount>,
    admin: Arc<SinkAdmin>,
    running: Running,
    _directory: TempDir,
}

struct Running {
    handle: DispatcherHandle,
    removal: CancellationToken,
    task: JoinHandle<Result<(), SinkEnded>>,
}

impl Stage {
    fn new(options: Options) -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let accounts = ["kf1", "kf2", "kf3"].map(account).to_vec();
        let accounts = runtime.block_on(store.register_accounts(accounts)).unwrap().configured;
        let registered = registered(&runtime, &store, &options);
        let running = run(&runtime, &store, options, &registered);
        let admin = Arc::new(SinkAdmin::default());
        admin.publish(vec![StoreSinks::new(store.clone(), [running.handle.clone()])]);
        Self { runtime, store, accounts, admin, running, _directory: directory }
    }

    fn replace(&self, options: Options) {
        let registered = registered(&self.runtime, &self.store, &options);
        self.running.handle.replace(options.sink, options.filter, &registered);
    }

    /// Removes the sink, and returns when its dispatcher has ended.
    fn remove(&mut self) {
        self.running.removal.cancel();
        self.runtime.block_on(self.running.handle.ended());
        self.runtime.block_on(&mut self.running.task).unwrap().unwrap();
    }

    /// Adds the sink again.
    fn start(&mut self, options: Options) {
        let registered = registered(&self.runtime, &self.store, &options);
        self.running = run(&self.runtime, &self.store, options, &registered);
        self.admin.publish(vec![StoreSinks::new(self.store.clone(), [self.running.handle.clone()])]);
    }

    /// A customer opens a session with a kf account: 1, 2 or 3.
    fn open(&self, kf_account: usize, openid: &str) {
        let changes = vec![started(openid, 1)];
        self.runtime.block_on(commit(&self.store, &self.accounts[kf_account - 1], changes));
    }

    fn close(&self, kf_account: usize, openid: &str) {
        let changes = vec![ended(openid, 1)];
        self.runtime.block_on(commit(&self.store, &self.accounts[kf_account - 1], changes));
    }

    fn command(&self, command: SinkCommand) {
        self.runtime.block_on(self.admin.execute(command)).unwrap();
    }

    fn stop_by_operator(&self) {
        self.command(SinkCommand::Stop { sink: "crm".to_owned(), at: at(0) });
    }

    fn resume(&self) {
        self.command(SinkCommand::Resume { sink: "crm".to_owned() });
    }

    /// Waits until the dispatcher has executed everything that it was sent.
    fn eventually_executed(&self) {
        self.command(SinkCommand::RetryDeadLetters { sink: "crm".to_owned() });
    }

    fn state(&self) -> SinkState {
        self.running.handle.status().read().state
    }

    fn stored_state(&self) -> SinkState {
        self.runtime.block_on(self.store.sink("crm")).unwrap().state
    }

    fn eventually_failed(&self, attempts: u64) {
        let status = self.running.handle.status();
        eventually("failures", || (status.failed_attempts() >= attempts).then_some(()));
    }

    fn eventually_stopped(&self) {
        eventually("the stop", || self.stored_state().is_stopped().then_some(()));
    }

    /// Waits until the stored cursor is after all events.
    fn eventually_delivered(&self) {
        let pending = || self.runtime.block_on(self.store.sink("crm")).unwrap().backlog.events;
        eventually("nothing pending", || (pending() == 0).then_some(()));
    }
}

fn registered(runtime: &Runtime, store: &Store, options: &Options) -> RegisteredSink {
    let registration = SinkRegistration {
        name: "crm".to_owned(),
        start: StartPosition::Now,
        destination: options.destination.clone(),
    };
    runtime.block_on(store.register_sinks(vec![registration], at(0))).unwrap().remove(0)
}

fn run(runtime: &Runtime, store: &Store, options: Options, registered: &RegisteredSink) -> Running {
    let context = DispatchContext { store: store.clone(), clock: Arc::new(FixedClock), lease: store.lease() };
    let (dispatcher, handle) =
        Dispatcher::new(SinkShare::new("crm".to_owned()), options.sink, options.filter, registered, context);
    let removal = CancellationToken::new();
    let task = runtime.spawn(dispatcher.run(removal.clone(), GRACE));
    Running { handle, removal, task }
}

fn openids(receiver: &Receiver) -> Vec<String> {
    let mut openids: Vec<String> = receiver.received().iter().map(openid).collect();
    openids.sort();
    openids
}

fn openid(delivery: &Delivery) -> String {
    delivery.json()["data"]["openid"].as_str().unwrap().to_owned()
}

fn eventually_received(receiver: &Receiver, count: usize) {
    eventually("requests", || (receiver.received().len() >= count).then_some(()));
}

fn eventually_confirmed(receiver: &Receiver, count: usize) {
    eventually("deliveries", || (receiver.confirmed() >= count).then_some(()));
}

/// Lets a receiver answer requests about this customer only when the test waits at the barrier, too.
fn hold(receiver: &Receiver, openid: &'static str) -> Arc<Barrier> {
    let barrier = Arc::new(Barrier::new(2));
    let held = Arc::clone(&barrier);
    receiver.answer(move |delivery| match self::openid(delivery) == openid {
        true => Answer::Held(Arc::clone(&held)),
        false => Answer::status(204),
    });
    barrier
}

#[test]
fn idle_sink_delivers_later_events_with_new_options() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oA");
    stage.eventually_delivered();
    stage.replace(webhook(&new));
    stage.open(1, "oB");
    stage.eventually_delivered();
    assert_eq!((openids(&old), openids(&new)), (vec!["oA".to_owned()], vec!["oB".to_owned()]));
    let status = stage.running.handle.status();
    assert_eq!((status.delivered_events(), status.failed_attempts()), (2, 0), "counters stay");
}

#[test]
fn attempt_in_flight_finishes_first_and_nothing_is_repeated() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let barrier = hold(&old, "oHeld");
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oHeld");
    stage.open(1, "oNext");
    stage.open(2, "oOvertakes");
    eventually_confirmed(&old, 1);
    stage.replace(webhook(&new));
    stage.open(2, "oLater");
    eventually_received(&old, 2);
    assert_eq!(openids(&new).len(), 0, "an attempt is in flight");
    barrier.wait();
    stage.eventually_delivered();
    assert_eq!(openids(&old), ["oHeld", "oOvertakes"]);
    assert_eq!(openids(&new), ["oLater", "oNext"], "what was acknowledged after the cursor is not repeated");
}

#[test]
fn event_of_failed_attempt_goes_to_new_address() {
    let (old, new) = (Receiver::start(), Receiver::start());
    old.answer(|_| Answer::Hang);
    let stage = Stage::new(webhook_with(&old, Duration::from_millis(500)));
    stage.open(1, "oA");
    eventually_received(&old, 1);
    stage.replace(webhook(&new));
    stage.eventually_delivered();
    assert_eq!(openids(&new), ["oA"], "without a backoff");
}

#[test]
fn sink_that_backs_off_tries_new_options_at_once() {
    let (mut old, new) = (Receiver::start(), Receiver::start());
    old.kill();
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oA");
    stage.eventually_failed(1);
    assert_eq!(stage.state().as_str(), "failing");
    stage.replace(webhook(&new));
    stage.eventually_delivered();
    assert_eq!((openids(&new), stage.state()), (vec!["oA".to_owned()], SinkState::Delivering));
}

#[test]
fn refused_event_is_sent_with_new_options_at_once() {
    let (old, new) = (Receiver::start(), Receiver::start());
    old.answer(|_| Answer::status(422));
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oA");
    stage.open(1, "oB");
    stage.eventually_failed(1);
    stage.replace(webhook(&new));
    stage.eventually_delivered();
    assert_eq!((openids(&old).len(), openids(&new)), (1, vec!["oA".to_owned(), "oB".to_owned()]));
}

#[test]
fn stop_by_receiver_ends_only_with_another_url() {
    let (old, new) = (Receiver::start(), Receiver::start());
    old.answer(|_| Answer::status(410));
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oA");
    stage.eventually_stopped();
    stage.replace(webhook_with(&old, Duration::from_secs(1)));
    stage.eventually_executed();
    assert!(stage.state().is_stopped() && stage.stored_state().is_stopped());
    stage.replace(webhook(&new));
    stage.eventually_delivered();
    assert_eq!((openids(&old).len(), openids(&new)), (1, vec!["oA".to_owned()]));
    assert_eq!((stage.state(), stage.stored_state()), (SinkState::Delivering, SinkState::Delivering));
}

#[test]
fn stop_by_old_receiver_after_registration_ends() {
    let (old, new) = (Receiver::start(), Receiver::start());
    old.answer(|_| Answer::status(410));
    let stage = Stage::new(webhook(&old));
    let options = webhook(&new);
    let registered = registered(&stage.runtime, &stage.store, &options);
    stage.open(1, "oA");
    stage.eventually_stopped();
    stage.running.handle.replace(options.sink, options.filter, &registered);
    stage.eventually_delivered();
    assert_eq!((openids(&new), stage.stored_state()), (vec!["oA".to_owned()], SinkState::Delivering));
}

#[test]
fn stop_by_operator_lasts_until_resumed() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let stage = Stage::new(webhook(&old));
    let before = webhook(&new);
    let registered_before = registered(&stage.runtime, &stage.store, &before);
    stage.stop_by_operator();
    stage.open(1, "oA");
    stage.running.handle.replace(before.sink, before.filter, &registered_before);
    stage.eventually_executed();
    stage.replace(webhook(&new));
    stage.eventually_executed();
    assert_eq!(stage.state().stop_reason(), Some(BY_OPERATOR));
    assert_eq!(stage.stored_state().stop_reason(), Some(BY_OPERATOR));
    assert_eq!((openids(&old).len(), openids(&new).len()), (0, 0));
    stage.resume();
    stage.eventually_delivered();
    assert_eq!(openids(&new), ["oA"]);
}

#[test]
fn resumed_sink_stays_resumed_whatever_registration_found() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let stage = Stage::new(webhook(&old));
    stage.stop_by_operator();
    let options = webhook(&new);
    let registered = registered(&stage.runtime, &stage.store, &options);
    assert!(registered.state.is_stopped());
    stage.resume();
    stage.running.handle.replace(options.sink, options.filter, &registered);
    stage.open(1, "oA");
    stage.eventually_delivered();
    assert_eq!(openids(&new), ["oA"]);
}

#[test]
fn newest_of_several_replacements_counts() {
    let (old, second, third) = (Receiver::start(), Receiver::start(), Receiver::start());
    let barrier = hold(&old, "oHeld");
    let stage = Stage::new(webhook(&old));
    stage.open(1, "oHeld");
    stage.open(1, "oNext");
    eventually_received(&old, 1);
    stage.replace(webhook(&second));
    stage.replace(webhook(&third));
    barrier.wait();
    stage.eventually_delivered();
    assert_eq!((openids(&second).len(), openids(&third)), (0, vec!["oNext".to_owned()]));
}

#[test]
fn new_filter_applies_to_everything_after_the_cursor() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let barrier = hold(&old, "oHeld");
    let filter = EventFilter { types: vec![EventType::SessionStarted], ..EventFilter::default() };
    let stage = Stage::new(Options { filter, ..webhook(&old) });
    stage.open(1, "oHeld");
    stage.open(1, "oUnwanted");
    stage.close(1, "oHeld");
    eventually_received(&old, 1);
    let filter = EventFilter { types: vec![EventType::SessionEnded], ..EventFilter::default() };
    stage.replace(Options { filter, ..webhook(&new) });
    barrier.wait();
    stage.eventually_delivered();
    let types: Vec<String> =
        new.received().iter().map(|delivery| delivery.json()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!((openids(&old).len(), types), (1, vec!["kf.session.ended".to_owned()]));
}

#[test]
fn replaced_file_is_reopened_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
    let stage = Stage::new(file(&old));
    stage.open(1, "oA");
    stage.eventually_delivered();
    stage.replace(file(&new));
    stage.open(1, "oB");
    stage.eventually_delivered();
    // As logrotate's copytruncate leaves it, with a partial line of another writer.
    std::fs::write(&new, "{\"specver").unwrap();
    stage.admin.reopen_files();
    stage.open(1, "oC");
    stage.eventually_delivered();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert!(read(&old).contains("oA") && read(&old).lines().count() == 1);
    assert!(read(&new).contains("oC") && read(&new).lines().count() == 1, "{}", read(&new));
}

/// A name, what the old receiver does, what is waited for before the removal, and how many events are acknowledged by then.
type RemovalStage = (&'static str, fn(&mut Receiver), fn(&Stage, &Receiver), usize);

/// A sink is removed in each stage and added again: its dispatcher ends, and the next one delivers the rest once.
#[test]
fn removed_sink_ends_in_every_stage_and_continues_when_added_again() {
    let stages: [RemovalStage; 6] = [
        ("idle", |_| {}, |stage, _| stage.eventually_delivered(), 1),
        ("committed a moment ago", |_| {}, |_, _| {}, 1),
        ("backing off", Receiver::kill, |stage, _| stage.eventually_failed(1), 0),
        ("refused", |old| old.answer(|_| Answer::status(422)), |stage, _| stage.eventually_failed(1), 0),
        ("stopped", |old| old.answer(|_| Answer::status(410)), |stage, _| stage.eventually_stopped(), 0),
        ("replaced", Receiver::kill, |stage, old| stage.replace(webhook(old)), 0),
    ];
    for (name, prepare, reach, delivered) in stages {
        let (mut old, new) = (Receiver::start(), Receiver::start());
        prepare(&mut old);
        let mut stage = Stage::new(webhook(&old));
        stage.open(1, "oA");
        reach(&stage, &old);
        stage.remove();
        assert_eq!(old.confirmed(), delivered, "{name}");
        stage.open(1, "oB");
        stage.start(webhook(&new));
        stage.eventually_delivered();
        let expected = if delivered == 1 { &["oB"][..] } else { &["oA", "oB"] };
        assert_eq!(openids(&new), expected, "{name}");
    }
}

#[test]
fn removed_sink_finishes_its_attempt_before_it_ends() {
    let (old, new) = (Receiver::start(), Receiver::start());
    let barrier = hold(&old, "oHeld");
    let mut stage = Stage::new(webhook(&old));
    stage.open(1, "oHeld");
    eventually_received(&old, 1);
    stage.running.removal.cancel();
    let handle = stage.running.handle.clone();
    let ended = stage.runtime.spawn(async move { handle.ended().await });
    assert!(!ended.is_finished(), "its attempt is in flight");
    barrier.wait();
    stage.runtime.block_on(ended).unwrap();
    stage.start(webhook(&new));
    stage.open(1, "oNext");
    stage.eventually_delivered();
    assert_eq!((openids(&old), openids(&new)), (vec!["oHeld".to_owned()], vec!["oNext".to_owned()]));
}

/// Options change all the time under load: every event arrives exactly once, in the order of its kf account.
#[test]
fn changes_under_load_neither_lose_nor_repeat_nor_reorder_events() {
    const REPLACEMENTS: usize = 20;
    const EVENTS: u64 = 1200;
    let arrivals = Arc::<Mutex<Vec<(String, String)>>>::default();
    let receivers = [Receiver::start(), Receiver::start()];
    for receiver in &receivers {
        let arrivals = Arc::clone(&arrivals);
        receiver.answer(move |delivery| {
            arrivals.lock().unwrap().push((delivery.account().1, openid(delivery)));
            Answer::status(204)
        });
    }
    let stage = Stage::new(webhook(&receivers[0]));
    let enough = CancellationToken::new();
    let commits = stage.accounts.iter().map(|account| {
        let (store, account, enough) = (stage.store.clone(), account.clone(), enough.clone());
        stage.runtime.spawn(async move {
            let mut openids = Vec::new();
            while !enough.is_cancelled() {
                let openid = format!("o{}", openids.len());
                commit(&store, &account, vec![started(&openid, 1)]).await;
                openids.push(openid);
            }
            openids
        })
    });
    let commits: Vec<_> = commits.collect();
    let delivered = || stage.running.handle.status().delivered_events();
    let mut replacements = 0;
    while replacements < REPLACEMENTS || delivered() < EVENTS {
        replacements += 1;
        stage.replace(webhook(&receivers[replacements % 2]));
        let before = delivered();
        eventually("further deliveries", || (delivered() > before).then_some(()));
    }
    enough.cancel();
    let expected = commits.into_iter().map(|commits| stage.runtime.block_on(commits).unwrap());
    let expected: Vec<Vec<String>> = expected.collect();
    stage.eventually_delivered();
    assert!(receivers.iter().all(|receiver| receiver.confirmed() > 0));
    let arrivals = arrivals.lock().unwrap();
    for (account, expected) in stage.accounts.iter().zip(&expected) {
        let of_account =
            arrivals.iter().filter(|(kf_account, _)| **kf_account == *account.account.kf_account);
        let openids: Vec<&String> = of_account.map(|(_, openid)| openid).collect();
        assert!(
            openids.into_iter().eq(expected),
            "{}: lost, repeated or reordered",
            account.account.kf_account
        );
    }
}
