//! The effect of getkflist answers: kf accounts that come and go, unbound accounts that were never polled, and
//! customers who are transferred from one kf account to another. Polls are real calls to the simulator, with a real
//! store and a scripted clock. The lists are passed in directly.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crate::support::{
    rehearsal::{self, NoJournal, ScriptedClock},
    wait::PATIENCE,
};
use kfwatch::{
    app::App,
    config::{Config, Environment},
    domain::{
        account::{Account, AccountState, Conclusion},
        agents::{Binding, Invitation, InvitationStatus, KfList, ListedAccount},
        clock::Clock,
    },
    metrics::{
        Metrics,
        exposition::{self, Detail, Stored},
    },
    poll::{AccountDiscovery, DiscoveryPatterns, NoGuard, OfficialAccount, PollGuard, PollLimits, Poller},
    simulator::{KfState, Scenario, Simulator},
    status::{AccountTable, OfficialAccountStatus, WatchedAccount},
    store::{EventFilter, PruneLimits, Store},
    wechat::{
        client::OfficialAccountClient,
        token::{TokenProvider, TokenSource},
    },
};
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;

const TICK: Duration = Duration::from_secs(15);

/// An official account with four kf accounts in the simulator. The first is configured by name; the others are watched
/// while they are listed. They are identified by their numbers, from 0.
struct Rehearsal {
    simulator: Simulator,
    clock: Arc<ScriptedClock>,
    store: Store,
    poller: Poller,
    official_account: Arc<OfficialAccount>,
    appid: String,
    kf_accounts: Vec<String>,
    directory: TempDir,
}

impl Rehearsal {
    async fn new() -> Self {
        Self::with_most(1000).await
    }

    async fn with_most(most: usize) -> Self {
        let scenario = Scenario { ledger: false, ..Scenario::load(1, 4, 0, 0.0) };
        let configured = scenario.accounts().remove(0);
        let simulator = Simulator::start(scenario, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&store_path(directory.path())).unwrap();
        let clock = Arc::new(ScriptedClock::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let appid: Arc<str> = configured.appid.as_str().into();
        let source = TokenSource::Stable { secret: SecretString::from(configured.secret).into() };
        let tokens = TokenProvider::new(Arc::clone(&appid), source, Arc::new(NoJournal), None, clock.now());
        let observer = Arc::new(metrics.call_observer(Arc::default()));
        let client =
            OfficialAccountClient::new(rehearsal::client(&simulator, &clock), Arc::new(tokens), observer);
        let name: Arc<str> = "shop".into();
        let ticks = Arc::new(AtomicU64::new(100));
        let status = OfficialAccountStatus::new(Arc::clone(&name), Arc::default(), ticks);
        let official_account = Arc::new(OfficialAccount::new(Arc::new(status), client));
        let named = Account {
            official_account: name,
            appid: Arc::clone(&appid),
            kf_account: configured.kf_accounts[0].as_str().into(),
        };
        let patterns = DiscoveryPatterns {
            named: HashSet::from([Arc::clone(&named.kf_account)]),
            matching: vec!["kf*".parse().unwrap()],
            exclude: vec!["*secret*".parse().unwrap()],
            most,
        };
        let stored = store.register_accounts(vec![named]).await.unwrap().configured;
        let watched = stored
            .into_iter()
            .map(|stored| WatchedAccount::from_stored(stored, official_account.status.ticks()));
        official_account.status.add_kf_accounts(watched.collect());
        official_account.set_discovery(Some(AccountDiscovery::new(patterns, appid)));
        let limits = PollLimits {
            deadline: PATIENCE,
            blind_after: Duration::from_secs(300),
            backoff_policy: kfwatch::domain::backoff::BackoffPolicy::default(),
        };
        let poller = Poller::new(store.clone(), metrics, Arc::clone(&clock) as Arc<dyn Clock>, limits);
        let (appid, kf_accounts) = (configured.appid, configured.kf_accounts);
        Self { simulator, clock, store, poller, official_account, appid, kf_accounts, directory }
    }

    /// Applies a list of these kf accounts, all bound.
    async fn list(&self, kf_accounts: &[usize]) {
        let listed: Vec<_> = kf_accounts.iter().map(|&n| (n, Binding::Bound)).collect();
        self.list_with(&listed).await;
    }

    async fn list_with(&self, kf_accounts: &[(usize, Binding)]) {
        let accounts = kf_accounts.iter().map(|&(n, binding)| entry(&self.kf_accounts[n], binding));
        self.poller.apply_kf_list(&self.official_account, &complete(accounts)).await.unwrap();
    }

    fn account(&self, number: usize) -> Arc<WatchedAccount> {
        let accounts = self.official_account.accounts();
        let of_name =
            |account: &&Arc<WatchedAccount>| *account.account().kf_account == *self.kf_accounts[number];
        Arc::clone(accounts.iter().find(of_name).unwrap())
    }

    fn watched(&self) -> Vec<usize> {
        let number = |name: &str| self.kf_accounts.iter().position(|known| known == name).unwrap();
        self.official_account.accounts().iter().map(|account| number(&account.account().kf_account)).collect()
    }

    /// Polls each of these once, in this order.
    async fn poll(&self, kf_accounts: &[usize]) {
        self.clock.pass(TICK);
        self.simulator.control().advance(TICK);
        for &number in kf_accounts {
            let account = self.account(number);
            let guard = PollGuard::try_acquire(&self.official_account, &account).unwrap();
            self.poller.poll(&guard).await;
        }
    }

    fn open(&self, number: usize, openid: &str) {
        self.simulator.control().open_session(&self.appid, &self.kf_accounts[number], openid, None).unwrap();
    }

    fn close(&self, number: usize, openid: &str) {
        self.simulator.control().close_session(&self.appid, &self.kf_accounts[number], openid).unwrap();
    }

    fn set_state(&self, number: usize, state: KfState) {
        self.simulator.control().set_kf_state(&self.appid, &self.kf_accounts[number], state).unwrap();
    }

    /// Returns the events in short form.
    async fn reported(&self) -> Vec<String> {
        reported(&self.store, &self.kf_accounts).await
    }

    /// Returns the value of a series of this kf account, if there is one.
    fn metric(&self, name: &str, number: usize) -> Option<String> {
        let table = AccountTable::new(vec![Arc::clone(&self.official_account.status)]);
        let mut page = String::new();
        exposition::write(&table, &Stored::default(), Detail::PerAccount, |chunk| {
            page.push_str(std::str::from_utf8(&chunk).unwrap());
            true
        });
        let series =
            format!("{name}{{official_account=\"shop\",kf_account=\"{}\"}} ", self.kf_accounts[number]);
        page.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    }

    /// Shuts it down as a daemon shuts down. Returns the directory of its store, its kf accounts and its appid.
    async fn end(self) -> (TempDir, Vec<String>, String) {
        self.store.close().await;
        (self.directory, self.kf_accounts, self.appid)
    }
}

fn store_path(directory: &Path) -> PathBuf {
    directory.join("kfwatch.db")
}

fn complete(accounts: impl IntoIterator<Item = ListedAccount>) -> KfList {
    KfList { accounts: accounts.into_iter().collect(), complete: true }
}

fn entry(kf_account: &str, binding: Binding) -> ListedAccount {
    ListedAccount { kf_account: kf_account.into(), nickname: Some("小美".into()), binding }
}

async fn reported(store: &Store, kf_accounts: &[String]) -> Vec<String> {
    let events = store.read_events(EventFilter::default(), 10_000).await.unwrap().events;
    let short = |json: &str| {
        let event: Value = serde_json::from_str(json).unwrap();
        let data = &event["data"];
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| kf_accounts.iter().position(|name| data[key] == **name);
        let of = number("kf_account").unwrap();
        let what = match event["type"].as_str().unwrap() {
            "kf.session.started" if data["baseline"] == true => {
                assert_eq!(data.get("transferred_from"), None);
                format!("={}", text("openid"))
            }
            "kf.session.started" => {
                let from = number("transferred_from").map(|from| format!(" from {from}"));
                format!("+{}{}", text("openid"), from.unwrap_or_default())
            }
            "kf.session.ended" => format!("-{}", text("openid")),
            _ => {
                let errcode = data["errcode"].as_i64().map(|code| format!(" {code}")).unwrap_or_default();
                let invitation =
                    data.get("invitation").map(|reported| format!(" {reported}")).unwrap_or_default();
                format!("{}>{} by {}{errcode}{invitation}", text("from"), text("to"), text("source"))
            }
        };
        format!("{of}: {what}")
    };
    events.iter().map(|event| short(&event.json)).collect()
}

const UNBOUND: Binding = Binding::Unbound(None);

fn invited(status: InvitationStatus, expires_at: Option<&str>) -> Binding {
    Binding::Unbound(Some(Invitation {
        status,
        expires_at: expires_at.map(|time| time.parse::<jiff::Timestamp>().unwrap().into()),
    }))
}

#[tokio::test]
async fn listed_match_is_polled_from_next_tick() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.open(2, "o-early");
    let mut listed: Vec<_> =
        [0, 2, 1, 2].map(|n: usize| entry(&rehearsal.kf_accounts[n], Binding::Bound)).into();
    listed.extend(["other@shop", "kf-secret@shop"].map(|name| entry(name, Binding::Bound)));
    rehearsal.poller.apply_kf_list(&rehearsal.official_account, &complete(listed)).await.unwrap();
    assert_eq!(rehearsal.watched(), [0, 2, 1]);
    assert_eq!(rehearsal.metric("kfwatch_polls_total", 2).as_deref(), Some("0"));
    assert_eq!(
        rehearsal.metric("kfwatch_poll_overdue", 2).as_deref(),
        Some("0"),
        "earlier ticks do not count for it"
    );
    rehearsal.poll(&[0, 1, 2]).await;
    assert_eq!(rehearsal.reported().await, ["2: =o-early"]);
    assert_eq!(rehearsal.metric("wechat_kf_active_sessions", 2).as_deref(), Some("1"));
    rehearsal.list(&[2, 1, 0]).await;
    assert_eq!(rehearsal.watched(), [0, 2, 1], "the same list again changes nothing");
}

#[tokio::test]
async fn unlisted_kf_account_vanishes_without_ending_sessions() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[0, 1, 2]).await;
    rehearsal.open(1, "o-stays");
    rehearsal.poll(&[0, 1, 2]).await;
    rehearsal.list(&[2]).await;
    assert_eq!(rehearsal.watched(), [0, 2], "a configured account is never removed");
    assert_eq!(rehearsal.reported().await, ["1: =o-stays", "1: ok>unwatched by getkflist"]);
    assert_eq!(rehearsal.metric("kfwatch_polls_total", 1), None);

    // Returns while its snapshot is kept: changes in between are detected.
    let week = Duration::from_secs(7 * 24 * 3600);
    let before = rehearsal.clock.now().wall - week;
    let limits = PruneLimits {
        events_before: before,
        unwatched_before: before,
        sinks_before: before,
        dead_letters_before: before,
        batch: 10,
    };
    assert_eq!(rehearsal.store.prune(limits).await.unwrap().snapshots, 0);
    rehearsal.list(&[1, 2]).await;
    rehearsal.close(1, "o-stays");
    rehearsal.open(1, "o-new");
    rehearsal.poll(&[1]).await;
    assert_eq!(
        rehearsal.reported().await[2..],
        ["1: unwatched>ok by getsessionlist", "1: -o-stays", "1: +o-new"]
    );
}

#[tokio::test]
async fn unusable_list_changes_nothing() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    rehearsal.list(&[]).await;
    assert_eq!(rehearsal.watched(), [0, 1, 2]);
    rehearsal.list(&[1]).await;
    assert_eq!(rehearsal.watched(), [0, 1]);
}

#[tokio::test]
async fn partly_readable_list_adds_but_never_removes() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    let incomplete = |listed: &[usize]| KfList {
        accounts: listed.iter().map(|&n| entry(&rehearsal.kf_accounts[n], Binding::Bound)).collect(),
        complete: false,
    };
    for list in [incomplete(&[1, 3]), incomplete(&[])] {
        rehearsal.poller.apply_kf_list(&rehearsal.official_account, &list).await.unwrap();
        assert_eq!(rehearsal.watched(), [0, 1, 2, 3]);
    }
    rehearsal.list(&[1, 3]).await;
    assert_eq!(rehearsal.watched(), [0, 1, 3]);
}

#[tokio::test]
async fn named_account_loses_list_state_when_unlisted() {
    let rehearsal = Rehearsal::new().await;
    let known = || {
        let account = rehearsal.account(0);
        let agent = &account.view(0).agent;
        (agent.nickname.is_some(), agent.binding)
    };
    rehearsal.list(&[0, 1]).await;
    rehearsal.list(&[]).await;
    let incomplete =
        KfList { accounts: vec![entry(&rehearsal.kf_accounts[1], Binding::Bound)], complete: false };
    rehearsal.poller.apply_kf_list(&rehearsal.official_account, &incomplete).await.unwrap();
    assert_eq!(known(), (true, Some(Binding::Bound)));
    rehearsal.list(&[1]).await;
    assert_eq!(known(), (false, None));
}

#[tokio::test]
async fn failed_store_registration_is_retried_with_next_list() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    rehearsal.poll(&[1]).await;
    rehearsal.store.limit_pages(1).await.unwrap();
    // Names long enough to need new pages.
    let long = entry(&format!("kf{}@shop", "x".repeat(9000)), Binding::Bound);
    let listed = complete([entry(&rehearsal.kf_accounts[1], Binding::Bound), long]);
    assert!(rehearsal.poller.apply_kf_list(&rehearsal.official_account, &listed).await.is_err());
    assert_eq!(rehearsal.watched(), [0, 1]);
    rehearsal.store.limit_pages(u32::MAX).await.unwrap();
    rehearsal.poller.apply_kf_list(&rehearsal.official_account, &listed).await.unwrap();
    assert_eq!(rehearsal.official_account.accounts().len(), 3);
}

#[tokio::test]
async fn discovered_kf_accounts_are_limited_per_official_account() {
    let rehearsal = Rehearsal::with_most(3).await;
    rehearsal.list(&[3, 2, 1]).await;
    assert_eq!(rehearsal.watched(), [0, 3, 2]);
    rehearsal.list(&[1, 2, 3]).await;
    assert_eq!(rehearsal.watched(), [0, 3, 2], "watched accounts stay");
    rehearsal.list(&[1, 2]).await;
    assert_eq!(rehearsal.watched(), [0, 2, 1]);
}

#[tokio::test]
async fn hanging_poll_keeps_its_account_until_next_list() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    let hangs = rehearsal.account(1);
    let guard = PollGuard::try_acquire(&rehearsal.official_account, &hangs).unwrap();
    rehearsal.list(&[0]).await;
    assert_eq!(rehearsal.watched(), [0, 1]);
    rehearsal.open(1, "o-late");
    rehearsal.poller.poll(&guard).await;
    drop(guard);
    rehearsal.list(&[0]).await;
    assert_eq!(rehearsal.watched(), [0]);
    assert_eq!(
        rehearsal.reported().await,
        ["2: unknown>unwatched by getkflist", "1: =o-late", "1: ok>unwatched by getkflist"]
    );
}

#[tokio::test]
async fn removed_account_is_never_polled_again() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    let left = rehearsal.account(1);
    let guard = PollGuard::try_acquire(&rehearsal.official_account, &left).unwrap();
    let poll = async {
        rehearsal.poller.poll(&guard).await;
        drop(guard);
    };
    tokio::join!(rehearsal.list(&[0]), poll);
    assert_eq!(rehearsal.watched(), [0], "it was removed after the poll");
    assert_eq!(PollGuard::try_acquire(&rehearsal.official_account, &left).err(), Some(NoGuard::Left));
    assert_eq!(rehearsal.reported().await, ["1: ok>unwatched by getkflist"]);
    rehearsal.list(&[1]).await;
    rehearsal.poll(&[1]).await;
    assert_eq!(rehearsal.reported().await[1..], ["1: unwatched>ok by getsessionlist"]);
}

#[tokio::test]
async fn account_that_left_during_its_removal_is_unwatched_once() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    let leave = async |account: &Arc<WatchedAccount>| {
        account.leave();
        rehearsal.official_account.wait_until_retired(account).await;
        rehearsal.poller.remove_watched(&[account], "configuration").await.unwrap();
        rehearsal.official_account.status.remove_kf_accounts(&[account.id()].into());
    };
    let [left_first, removed_first] = [1, 2].map(|number| rehearsal.account(number));
    let guard = PollGuard::try_acquire(&rehearsal.official_account, &left_first).unwrap();
    let drop_guard = async { drop(guard) };
    tokio::join!(rehearsal.list(&[0, 2]), leave(&left_first), drop_guard);
    rehearsal.list(&[0]).await;
    leave(&removed_first).await;
    assert_eq!(rehearsal.watched(), [0]);
    assert_eq!(
        rehearsal.reported().await,
        ["1: unknown>unwatched by configuration", "2: unknown>unwatched by getkflist"]
    );
}

#[tokio::test]
async fn list_follows_changed_patterns() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    rehearsal.official_account.set_discovery(None);
    rehearsal.list(&[2]).await;
    assert_eq!(rehearsal.watched(), [0, 1]);
}

#[tokio::test]
async fn list_that_is_being_applied_ends_when_patterns_change() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    let guard = PollGuard::try_acquire(&rehearsal.official_account, &rehearsal.account(1)).unwrap();
    let change = async {
        rehearsal.official_account.set_discovery(None);
        drop(guard);
    };
    // The list waits for the guard to remove one kf account, and would then add the other one.
    tokio::join!(rehearsal.list(&[0, 2]), change);
    assert_eq!((rehearsal.watched(), rehearsal.reported().await), (vec![0, 1], Vec::new()));
}

#[tokio::test]
async fn account_that_is_discovered_while_patterns_change_is_removed() {
    let rehearsal = Rehearsal::new().await;
    let change = async { rehearsal.official_account.set_discovery(None) };
    // The list waits for the store.
    tokio::join!(rehearsal.list(&[1]), change);
    assert_eq!(rehearsal.watched(), [0]);
    assert_eq!(rehearsal.reported().await, ["1: unknown>unwatched by configuration"]);
    assert_eq!(rehearsal.store.watched_accounts().await.unwrap().len(), 1);
}

/// Builds the daemon on the store of a rehearsal without running it.
async fn restart(directory: &Path, appid: &str, kf_accounts: &str) -> App {
    let text = format!(
        "[web]\nlisten = \"127.0.0.1:0\"\n[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n\
         [[official_accounts]]\nname = \"renamed\"\nappid = \"{appid}\"\ntoken.secret = \"s3cret\"\n{kf_accounts}"
    );
    let config = Config::from_toml(&text, directory, &Environment::default()).unwrap().config;
    App::build(config, Arc::new(ScriptedClock::default())).await.unwrap()
}

fn watched_by(app: &App) -> Vec<String> {
    let (name, kf_accounts) = &app.watched()[0];
    kf_accounts.iter().map(|kf_account| format!("{name}/{kf_account}")).collect()
}

#[tokio::test]
async fn restart_polls_discovered_accounts_before_any_list() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2, 3]).await;
    rehearsal.open(2, "o-open");
    rehearsal.poll(&[0, 1, 2, 3]).await;
    rehearsal.list(&[1, 2]).await;
    let (directory, kf_accounts, appid) = rehearsal.end().await;

    let named = &kf_accounts[0];
    let app = restart(directory.path(), &appid, &format!("kf_accounts = [\"{named}\", \"*\"]")).await;
    let expected: Vec<String> = kf_accounts[..3].iter().map(|name| format!("renamed/{name}")).collect();
    assert_eq!(watched_by(&app), expected);
    let web = app.web();
    app.run(std::future::ready(())).await.unwrap();
    let view = web.table.official_accounts()[0].kf_accounts()[2].view(0);
    assert_eq!((view.state, view.sessions), (AccountState::Ok, Some(1)), "with their last known values");

    let app =
        restart(directory.path(), &appid, &format!("kf_accounts = [\"{}\", \"none*\"]", kf_accounts[1]))
            .await;
    assert_eq!(watched_by(&app), [format!("renamed/{}", kf_accounts[1])]);
    let reader = Store::open_to_read(&store_path(directory.path())).unwrap();
    let all_left = async {
        while reader.count_events().await.unwrap() != 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all_left = Box::pin(tokio::time::timeout(PATIENCE, all_left));
    app.run(async { all_left.await.unwrap() }).await.unwrap();
    let store = Store::open(&store_path(directory.path())).unwrap();
    assert_eq!(
        reported(&store, &kf_accounts).await,
        [
            "2: =o-open",
            "3: ok>unwatched by getkflist",
            "0: ok>unwatched by configuration",
            "2: ok>unwatched by configuration"
        ]
    );
}

#[tokio::test]
async fn first_start_with_patterns_is_ready_without_accounts() {
    let directory = tempfile::tempdir().unwrap();
    let app = restart(directory.path(), "wx0123456789abcdef", "kf_accounts = \"*\"\nexclude = \"a*\"").await;
    assert!(watched_by(&app).is_empty());
    let web = app.web();
    for detail in [Detail::PerAccount, Detail::PerOfficialAccount] {
        let mut written = 0;
        exposition::write(&web.table, &Stored::default(), detail, |chunk| {
            written += chunk.len();
            true
        });
        assert!(written > 0);
    }
    app.run(std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn unbound_from_list_is_reported_before_any_poll() {
    let rehearsal = Rehearsal::new().await;
    let waiting = invited(InvitationStatus::Waiting, Some("2026-11-23T07:00:00Z"));
    rehearsal.set_state(1, KfState::Unbound);
    rehearsal.list_with(&[(0, Binding::Bound), (1, waiting)]).await;
    rehearsal.list_with(&[(0, Binding::Bound), (1, waiting)]).await;
    let by_list =
        "1: unknown>unbound by getkflist {\"expires_at\":\"2026-11-23T07:00:00Z\",\"status\":\"waiting\"}";
    assert_eq!(rehearsal.reported().await, [by_list]);
    assert_eq!(rehearsal.metric("wechat_kf_account_unbound", 1).as_deref(), Some("1"));
    assert_eq!(rehearsal.metric("wechat_kf_account_unbound", 0).as_deref(), Some("0"));

    rehearsal.poll(&[1]).await;
    assert_eq!(rehearsal.reported().await.len(), 1, "65402 adds no event");
    assert_eq!(rehearsal.account(1).tracker().condition.conclusion, Some(Conclusion::Unbound));
    rehearsal.list_with(&[(1, Binding::Bound)]).await;
    assert_eq!(
        rehearsal.metric("wechat_kf_account_unbound", 1).as_deref(),
        Some("1"),
        "65402 wins over the list"
    );

    rehearsal.set_state(1, KfState::Bound);
    rehearsal.poll(&[1]).await;
    rehearsal.list_with(&[(1, UNBOUND)]).await;
    assert_eq!(rehearsal.reported().await[1..], ["1: unbound>ok by getsessionlist"]);
    assert_eq!(rehearsal.metric("wechat_kf_account_unbound", 1).as_deref(), Some("0"));
}

#[tokio::test]
async fn unbound_from_list_is_cleared_by_list_after_restart() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list_with(&[(0, UNBOUND), (1, UNBOUND)]).await;
    rehearsal.list_with(&[(0, UNBOUND), (1, Binding::Bound)]).await;
    let expected = [
        "0: unknown>unbound by getkflist {\"status\":\"none\"}",
        "1: unknown>unbound by getkflist {\"status\":\"none\"}",
        "1: unbound>unknown by getkflist",
    ];
    let mut found = rehearsal.reported().await;
    found[..2].sort();
    assert_eq!(found, expected);
    assert_eq!(rehearsal.metric("wechat_kf_account_unbound", 1).as_deref(), Some("0"));
    let stored = rehearsal.store.stored_accounts().await.unwrap();
    let of_0 = stored.iter().find(|stored| *stored.account.kf_account == *rehearsal.kf_accounts[0]).unwrap();
    let known_to_list = Some(Conclusion::ListedUnbound);
    assert_eq!((of_0.record.state, of_0.record.conclusion), (AccountState::Unbound, known_to_list));
    assert_eq!(of_0.clone().into_tracker().condition, rehearsal.account(0).tracker().condition);
}

#[tokio::test]
async fn unbound_event_includes_invitation_state_of_list() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.poll(&[0]).await;
    rehearsal.list_with(&[(0, invited(InvitationStatus::Rejected, None)), (1, Binding::Bound)]).await;
    assert!(rehearsal.reported().await.is_empty(), "ok wins over the list");
    rehearsal.set_state(0, KfState::Unbound);
    rehearsal.set_state(1, KfState::Unbound);
    rehearsal.poll(&[0, 1]).await;
    assert_eq!(
        rehearsal.reported().await,
        [
            "0: ok>unbound by getsessionlist 65402 {\"status\":\"rejected\"}",
            "1: unknown>unbound by getsessionlist 65402"
        ]
    );
}

#[tokio::test]
async fn transfer_is_detected_in_either_poll_order() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    rehearsal.open(1, "o-moves");
    rehearsal.poll(&[0, 1, 2]).await;
    rehearsal.close(1, "o-moves");
    rehearsal.open(2, "o-moves");
    rehearsal.poll(&[0, 1, 2]).await;
    rehearsal.close(2, "o-moves");
    rehearsal.open(0, "o-moves");
    rehearsal.poll(&[0, 1, 2]).await;
    assert_eq!(
        rehearsal.reported().await,
        [
            "1: =o-moves",
            "1: -o-moves",
            "2: +o-moves from 1",
            // Not from 1, where the customer was earlier.
            "0: +o-moves from 2",
            "2: -o-moves"
        ]
    );
}

#[tokio::test]
async fn customer_seen_twice_was_transferred_from_the_first() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    rehearsal.open(0, "o-both");
    rehearsal.poll(&[0, 1]).await;
    rehearsal.open(1, "o-both");
    rehearsal.poll(&[0, 1]).await;
    assert_eq!(rehearsal.reported().await, ["0: =o-both", "1: +o-both from 0"]);
}

#[tokio::test]
async fn baseline_and_old_sessions_are_no_transfers() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1]).await;
    rehearsal.open(0, "o-a");
    rehearsal.poll(&[0]).await;
    rehearsal.open(1, "o-a");
    rehearsal.poll(&[1]).await;
    rehearsal.close(0, "o-a");
    rehearsal.close(1, "o-a");
    rehearsal.poll(&[0, 1]).await;
    rehearsal.poll(&[0, 1]).await;
    rehearsal.open(1, "o-a");
    rehearsal.poll(&[0, 1]).await;
    assert_eq!(rehearsal.reported().await, ["0: =o-a", "1: =o-a", "0: -o-a", "1: -o-a", "1: +o-a"]);
}

#[tokio::test]
async fn transfer_origin_is_the_latest_listing() {
    let rehearsal = Rehearsal::new().await;
    rehearsal.list(&[1, 2]).await;
    rehearsal.open(0, "o-a");
    rehearsal.poll(&[0, 1, 2]).await;
    // Account 0 is not listed again from now on.
    rehearsal.set_state(0, KfState::Unbound);
    rehearsal.open(1, "o-a");
    rehearsal.poll(&[0, 1, 2]).await;
    rehearsal.close(1, "o-a");
    rehearsal.open(2, "o-a");
    rehearsal.poll(&[1, 2]).await;
    assert_eq!(rehearsal.reported().await.last().unwrap(), "2: +o-a from 1");
}
