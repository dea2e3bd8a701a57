//! Kf accounts and official accounts leave, return, get another name or another schedule in every stage of a poll.

use kfwatch::simulator::{ApiCall, SimulatorControl};

use super::{LiveDaemon, gate::Gate, official_account};
use crate::support::{
    event_log::EventLog,
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};

const SHOP: [&str; 4] = ["kf1@shop", "kf2@shop", "kf3@shop", "kf4@shop"];
const STAYS: &str = "kf1@stay";

/// A daemon that polls through a gate: an official account that changes, and one that stays.
struct Stage {
    wechat: WeChat,
    gate: Gate,
    live: LiveDaemon,
}

impl Stage {
    fn start(changing: &[String], limits: &str) -> Self {
        let wechat = WeChat::play(quiet(&[("shop", 4), ("stay", 1), ("late", 2)]));
        let gate = Gate::to(wechat.address());
        wechat.control().open_session(&appid(0), "kf1@shop", "oOpen", None).unwrap();
        wechat.control().open_session(&appid(1), STAYS, "oStays", None).unwrap();
        let configuration = configuration(&gate, changing, limits);
        let live = LiveDaemon::start(Home::new().without_collectors(), &configuration);
        Self { wechat, gate, live }
    }

    fn control(&self) -> SimulatorControl {
        self.wechat.control()
    }

    fn reload(&self, changing: &[String]) -> String {
        self.live.reload(&configuration(&self.gate, changing, ""))
    }

    fn polls(&self, index: usize, kf_account: &str) -> u64 {
        self.control().polls_of(&appid(index), kf_account).unwrap()
    }

    fn eventually_polled_again(&self, index: usize, kf_account: &str) {
        let before = self.polls(index, kf_account);
        eventually(&format!("{kf_account} is polled"), || {
            (self.polls(index, kf_account) >= before + 2).then_some(())
        });
    }

    /// Waits until three later ticks were served.
    fn three_ticks(&self) {
        let before = self.polls(1, STAYS);
        eventually("three ticks", || (self.polls(1, STAYS) >= before + 3).then_some(()));
    }

    fn assert_not_polled_any_more(&self, index: usize, kf_accounts: &[&str]) {
        let polls = || kf_accounts.iter().map(|kf_account| self.polls(index, kf_account)).collect::<Vec<_>>();
        let before = polls();
        self.three_ticks();
        assert_eq!(polls(), before, "{kf_accounts:?}");
    }

    fn eventually_up(&self, official_account: &str, kf_accounts: &[&str]) {
        for kf_account in kf_accounts {
            let up = || self.metric("wechat_kf_account_up", official_account, kf_account);
            eventually(&format!("{kf_account} is up"), || up().filter(|up| *up == 1.0));
        }
    }

    fn metric(&self, name: &str, official_account: &str, kf_account: &str) -> Option<f64> {
        let series = format!("{name}{{official_account=\"{official_account}\",kf_account=\"{kf_account}\"}}");
        self.live.process.metric(&series)
    }

    /// Ends the daemon, and asserts that nothing has happened to the account that stayed and that the log of events is sound.
    fn end(self) -> EventLog {
        let overruns = self.metric("kfwatch_poll_overruns_total", "stay", STAYS);
        assert_eq!(overruns, Some(0.0), "every tick found the account free");
        let failures = self.metric("kfwatch_poll_failures_total", "stay", STAYS);
        assert_eq!(failures, Some(0.0));
        eventually("the counter of polls is as in the ledger", || {
            let counted = self.metric("kfwatch_polls_total", "stay", STAYS).unwrap();
            (counted as u64 == self.polls(1, STAYS)).then_some(())
        });
        assert_eq!(self.control().requests_of(&appid(1), ApiCall::StableToken).unwrap(), 1);
        assert_eq!(self.control().max_in_flight_of_any_kf_account(), 1);
        self.live.eventually_changes(STAYS, &[]);
        let Self { live: LiveDaemon { home, process }, .. } = self;
        process.terminate();
        EventLog::of(&home)
    }
}

fn configuration(gate: &Gate, changing: &[String], limits: &str) -> String {
    format!(
        "[api]\nbase_url = \"{}\"\ntimeout = \"100s\"\n{limits}\n[poll]\nschedule = \"* * * * * *\"\n\
         [web]\nlisten = \"127.0.0.1:0\"\n{}{}",
        gate.url(),
        official_account("stay", 1, &[STAYS], ""),
        changing.concat()
    )
}

fn shop(kf_accounts: &[&str]) -> String {
    official_account("shop", 0, kf_accounts, "")
}

#[test]
fn removed_kf_account_is_unwatched_once_after_its_poll() {
    const ONE_EACH: &str = "max_in_flight_per_official_account = 1";
    let stage = Stage::start(&[shop(&SHOP)], ONE_EACH);
    let Stage { gate, live, .. } = &stage;
    stage.eventually_up("shop", &SHOP);
    let reload = |kf_accounts: &[&str]| live.reload(&configuration(gate, &[shop(kf_accounts)], ONE_EACH));

    // Queued: the only place of the official account is taken, and a tick has found kf2 waiting.
    gate.hold("kf1@shop");
    gate.eventually_holds("kf1@shop");
    let overruns = || stage.metric("kfwatch_poll_overruns_total", "shop", "kf2@shop").unwrap();
    let before = overruns();
    eventually("an overrun of the queued account", || (overruns() > before).then_some(()));
    let polls = stage.polls(0, "kf2@shop");
    reload(&["kf1@shop", "kf3@shop", "kf4@shop"]);
    live.eventually_changes("kf2@shop", &["ok>unwatched"]);

    // In flight: it becomes unwatched when it has been answered, and returns only then.
    reload(&["kf3@shop", "kf4@shop"]);
    stage.three_ticks();
    assert_eq!(live.state_changes("kf1@shop").len(), 0, "its poll is in flight");
    let series = stage.metric("wechat_kf_account_up", "shop", "kf1@shop");
    assert_eq!(series, None, "it has left for readers");
    let printed = reload(&["kf1@shop", "kf3@shop", "kf4@shop"]);
    assert!(printed.contains("removed a moment ago"), "{printed}");
    stage.three_ticks();
    assert_eq!((gate.held("kf1@shop"), stage.polls(0, "kf2@shop")), (1, polls), "still the same poll");
    gate.release();
    live.eventually_changes("kf1@shop", &["ok>unwatched", "unwatched>ok"]);
    stage.eventually_polled_again(0, "kf1@shop");
    assert_eq!(stage.metric("wechat_kf_account_up", "shop", "kf1@shop"), Some(1.0));
    assert_eq!(stage.polls(0, "kf2@shop"), polls, "never polled again");

    // Its commit waits for the store.
    let store = rusqlite::Connection::open(live.home.path("kfwatch.db")).unwrap();
    store.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    loop {
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        stage.control().open_session(&appid(0), "kf3@shop", "oCommit", None).unwrap();
        let before = stage.polls(0, "kf3@shop");
        eventually("the poll", || (stage.polls(0, "kf3@shop") > before).then_some(()));
        live.home.write("config.toml", &configuration(gate, &[shop(&["kf1@shop", "kf4@shop"])], ONE_EACH));
        let reloading = live.home.spawn("reload");
        let ticks = stage.polls(1, STAYS);
        eventually("a tick", || (stage.polls(1, STAYS) > ticks).then_some(()));
        store.execute_batch("COMMIT").unwrap();
        // On a busy machine, the store may have given up.
        if reloading.ended().code == Some(0) {
            break;
        }
    }
    live.eventually_changes("kf3@shop", &["ok>unwatched"]);
    stage.assert_not_polled_any_more(0, &["kf2@shop", "kf3@shop"]);
    stage.eventually_polled_again(0, "kf4@shop");
    let ended = live.events().iter().any(|event| event["type"] == "kf.session.ended");
    assert!(!ended, "no session ends by that");
    stage.end();
}

#[test]
fn account_that_leaves_while_its_token_is_fetched_is_unwatched_once() {
    let stage = Stage::start(&[shop(&SHOP)], "");
    let Stage { gate, live, .. } = &stage;
    stage.eventually_up("shop", &SHOP);
    stage.eventually_up("stay", &[STAYS]);
    gate.hold("stable_token");
    let late = |kf_accounts: &[&str]| official_account("late", 2, kf_accounts, "");
    stage.reload(&[shop(&SHOP), late(&["kf1@late", "kf2@late"])]);
    gate.eventually_holds("stable_token");
    stage.reload(&[shop(&SHOP), late(&["kf2@late"])]);
    stage.three_ticks();
    stage.reload(&[shop(&SHOP)]);
    stage.three_ticks();
    assert_eq!(live.state_changes("kf1@late").len() + live.state_changes("kf2@late").len(), 0);
    gate.release();
    for kf_account in ["kf1@late", "kf2@late"] {
        live.eventually_changes(kf_account, &["ok>unwatched"]);
    }
    stage.assert_not_polled_any_more(2, &["kf1@late", "kf2@late"]);
    assert_eq!([stage.polls(2, "kf1@late"), stage.polls(2, "kf2@late")], [1, 1], "the poll that waited");
    assert_eq!(stage.control().requests_of(&appid(2), ApiCall::StableToken).unwrap(), 1);
    stage.end();
}

#[test]
fn official_account_is_moved_and_renamed_while_it_is_polled() {
    let stage = Stage::start(&[shop(&SHOP)], "");
    let Stage { gate, live, .. } = &stage;
    stage.eventually_up("shop", &SHOP);
    stage.eventually_up("stay", &[STAYS]);

    // To another schedule: the poll in flight stays the only one, and nothing starts anew.
    gate.hold("kf1@shop");
    gate.eventually_holds("kf1@shop");
    let counted = stage.metric("kfwatch_polls_total", "shop", "kf2@shop").unwrap();
    stage.reload(&[official_account("shop", 0, &SHOP, "schedule = \"*/2 * * * * *\"")]);
    stage.eventually_polled_again(0, "kf2@shop");
    assert_eq!(gate.held("kf1@shop"), 1);
    gate.release();
    stage.eventually_polled_again(0, "kf1@shop");
    assert!(stage.metric("kfwatch_polls_total", "shop", "kf2@shop").unwrap() > counted);
    stage.reload(&[shop(&SHOP)]);

    // To another name: its series change, its sessions, states and token do not.
    gate.hold("kf1@shop");
    gate.eventually_holds("kf1@shop");
    stage.reload(&[official_account("store", 0, &SHOP, "")]);
    stage.three_ticks();
    gate.release();
    SHOP.iter().for_each(|kf_account| stage.eventually_polled_again(0, kf_account));
    stage.eventually_up("store", &SHOP);
    assert_eq!(stage.metric("wechat_kf_account_up", "shop", "kf1@shop"), None);
    assert_eq!(
        stage.control().requests_of(&appid(0), ApiCall::StableToken).unwrap(),
        1,
        "it keeps its token"
    );
    assert_eq!(live.events().len(), 2, "nothing has happened: {:?}", live.events());

    // A kf account leaves together with the name.
    stage.reload(&[official_account("third", 0, &SHOP[..3], "")]);
    live.eventually_changes("kf4@shop", &["ok>unwatched"]);
    stage.eventually_polled_again(0, "kf1@shop");

    // A renamed official account is removed before its last poll with the old name has ended.
    gate.hold("kf1@shop");
    gate.eventually_holds("kf1@shop");
    stage.reload(&[official_account("fourth", 0, &SHOP[..3], "")]);
    stage.reload(&[]);
    stage.three_ticks();
    assert_eq!(live.state_changes("kf1@shop").len(), 0);
    gate.release();
    for kf_account in &SHOP[..3] {
        live.eventually_changes(kf_account, &["ok>unwatched"]);
    }
    stage.assert_not_polled_any_more(0, &SHOP);
    assert_eq!(stage.end().len(), 2 + 4);
}
