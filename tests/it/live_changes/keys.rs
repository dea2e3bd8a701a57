//! Each key that changes while the daemon runs has its effect without a restart.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState, SimulatorControl};

use super::{LiveDaemon, gate::Gate};
use crate::support::{
    delivery::times_logged,
    loopback::free_address,
    process::{Home, WeChat, appid, get, metric, quiet, request, secret},
    wait::{PATIENCE, eventually},
};

const KF_ACCOUNTS: [&str; 6] = ["kf1@shop", "kf2@shop", "kf3@shop", "kf4@shop", "kf5@shop", "kf6@shop"];

/// The keys that a test changes, each with the text of its section.
#[derive(Clone)]
struct Keys {
    top: String,
    web: String,
    log: String,
    store: String,
    api: String,
    poll: String,
    backoff: String,
    collectors: String,
    metrics: String,
    token: String,
}

impl Keys {
    fn text(&self) -> String {
        let Self { top, web, log, store, api, poll, backoff, collectors, metrics, token } = self;
        format!(
            "{top}\n[web]\n{web}\n[log]\n{log}\n[store]\n{store}\n[api]\n{api}\n[poll]\n{poll}\n[backoff]\n{backoff}\n\
             [collectors]\n{collectors}\n[metrics]\n{metrics}\n[[official_accounts]]\nname = \"shop\"\nappid = \"{}\"\n\
             kf_accounts = {KF_ACCOUNTS:?}\n[official_accounts.token]\n{token}\n",
            appid(0)
        )
    }
}

struct Stage {
    wechat: WeChat,
    gate: Gate,
    live: LiveDaemon,
    keys: Keys,
}

const COLLECTORS_OFF: &str = "kf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"";

impl Stage {
    fn start() -> Self {
        let wechat = WeChat::play(quiet(&[("shop", 6)]));
        let gate = Gate::to(wechat.address());
        let keys = Keys {
            top: String::new(),
            web: "listen = \"127.0.0.1:0\"".to_owned(),
            log: String::new(),
            store: String::new(),
            api: format!("base_url = \"http://{}\"", wechat.address()),
            poll: "schedule = \"* * * * * *\"".to_owned(),
            backoff: String::new(),
            collectors: COLLECTORS_OFF.to_owned(),
            metrics: String::new(),
            token: format!("source = \"stable\"\nsecret = \"{}\"", secret(0)),
        };
        let live = LiveDaemon::start(Home::new(), &keys.text());
        let stage = Self { wechat, gate, live, keys };
        stage.two_polls();
        stage
    }

    fn control(&self) -> SimulatorControl {
        self.wechat.control()
    }

    /// Reloads with a changed configuration, which stays. The command must name `changed`.
    fn change(&mut self, changed: &str, change: impl FnOnce(&mut Keys)) {
        change(&mut self.keys);
        let printed = self.live.reload(&self.keys.text());
        assert!(printed.contains(changed), "{changed}: {printed}");
    }

    fn polls(&self) -> u64 {
        self.control().polls_of(&appid(0), "kf1@shop").unwrap()
    }

    fn two_polls(&self) {
        let before = self.polls();
        eventually("two polls", || (self.polls() >= before + 2).then_some(()));
    }

    fn metric(&self, series: &str) -> Option<f64> {
        self.live.process.metric(series)
    }

    fn of_kf1(&self, name: &str) -> Option<f64> {
        self.metric(&format!("{name}{{official_account=\"shop\",kf_account=\"kf1@shop\"}}"))
    }

    fn eventually_value(&self, name: &str, value: f64) {
        eventually(name, || self.of_kf1(name).filter(|found| *found == value));
    }

    fn eventually_above(&self, name: &str, value: f64) {
        eventually(name, || self.of_kf1(name).filter(|found| *found > value));
    }
}

/// Whether the first kf account is up.
const UP: &str = "wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}";

#[test]
fn each_key_of_polling_changes_while_the_daemon_runs() {
    let mut stage = Stage::start();
    let started = stage.live.process.stderr();
    assert!(!started.contains("DEBUG"));

    change_poll(&mut stage);
    change_backoff(&mut stage);
    change_api(&mut stage);
    change_collectors_and_store(&mut stage);
    let calls = stage.control().requests_of(&appid(0), ApiCall::StableToken).unwrap();
    assert_eq!(calls, 1, "no token was fetched for any of this");
    stage.live.process.terminate();
}

fn change_poll(stage: &mut Stage) {
    stage.change("schedule", |keys| keys.poll = "schedule = \"0 0 0 29 2 *\"".to_owned());
    // The last sweep of the former schedule ends.
    let overdue = stage.of_kf1("kfwatch_poll_overdue");
    assert_eq!(overdue, Some(0.0));
    stage.change("schedule", |keys| {
        keys.poll = "schedule = \"*/2 * * * * *\"\nspread = \"1s 800ms\"".to_owned()
    });
    stage.two_polls();
    stage.two_polls();
    let ledger = stage.control().ledger();
    let last: Vec<i64> =
        ledger.polls.iter().rev().take(KF_ACCOUNTS.len()).map(|poll| poll.received_at_ms).collect();
    let over = last.iter().max().unwrap() - last.iter().min().unwrap();
    assert!(over >= 100, "the polls of a tick are spread: {last:?}");
    stage.change("max_requests_per_minute", |keys| {
        keys.poll = "schedule = \"* * * * * *\"\nmax_requests_per_minute = 30".to_owned();
    });
    let overruns = stage.of_kf1("kfwatch_poll_overruns_total").unwrap();
    stage.eventually_above("kfwatch_poll_overruns_total", overruns);
    stage.change("max_requests_per_minute", |keys| keys.poll = "schedule = \"* * * * * *\"".to_owned());
    stage.two_polls();
    stage
        .control()
        .inject(FaultRule { kf_account: Some("kf1@shop".to_owned()), ..FaultRule::new(Fault::Errcode(-1)) });
    let failures = stage.of_kf1("kfwatch_poll_failures_total").unwrap();
    stage.eventually_above("kfwatch_poll_failures_total", failures);
    assert_eq!(stage.of_kf1("kfwatch_account_blind"), Some(0.0));
    stage.change("poll.blind_after", |keys| keys.poll += "\nblind_after = \"1s\"");
    stage.change("backoff", |keys| keys.backoff = "busy = [\"0s\", \"1s\"]".to_owned());
    stage.eventually_value("kfwatch_account_blind", 1.0);
    stage.control().clear_faults();
    stage.eventually_value("kfwatch_account_blind", 0.0);
}

fn change_backoff(stage: &mut Stage) {
    stage.change("backoff", |keys| keys.backoff = "unbound = [\"0s\", \"1s\"]".to_owned());
    stage.control().set_kf_state(&appid(0), "kf1@shop", KfState::Unbound).unwrap();
    stage.two_polls();
    stage.change("backoff", |keys| keys.backoff = "unbound = [\"1h\", \"1h\"]".to_owned());
    let other = || stage.control().polls_of(&appid(0), "kf2@shop").unwrap();
    let settled = eventually("a long backoff", || {
        let (polls, before) = (stage.polls(), other());
        eventually("three ticks", || (other() >= before + 3).then_some(()));
        (stage.polls() == polls).then_some(polls)
    });
    assert_eq!(stage.polls(), settled);
}

fn change_api(stage: &mut Stage) {
    let through_gate = stage.gate.connections();
    let url = stage.gate.url();
    stage.change("api", |keys| keys.api = format!("base_url = \"{url}\"\ntimeout = \"100s\""));
    eventually("a call to the new address", || (stage.gate.connections() > through_gate).then_some(()));
    stage.gate.hold("kf2@shop");
    stage.gate.eventually_holds("kf2@shop");
    let polls_of = |name: &str| stage.control().polls_of(&appid(0), name).unwrap();
    let before = polls_of("kf3@shop");
    eventually("others", || (polls_of("kf3@shop") >= before + 2).then_some(()));
    stage.change("api", |keys| keys.api += "\nmax_in_flight = 1\nmax_in_flight_per_official_account = 1");
    let overruns = "kfwatch_poll_overruns_total{official_account=\"shop\",kf_account=\"kf3@shop\"}";
    let before = stage.metric(overruns).unwrap();
    eventually("a queue", || stage.metric(overruns).filter(|overruns| *overruns >= before + 2.0));
    stage.change("api", |keys| keys.api = format!("base_url = \"{url}\"\ntimeout = \"100s\""));
    let polls_of = |name: &str| stage.control().polls_of(&appid(0), name).unwrap();
    let before = polls_of("kf3@shop");
    eventually("others", || (polls_of("kf3@shop") >= before + 2).then_some(()));
    assert_eq!(stage.gate.held("kf2@shop"), 1);
    stage.gate.release();
    stage.gate.hold("kf4@shop");
    stage.gate.eventually_holds("kf4@shop");
    stage.change("api", |keys| keys.api = keys.api.replace("\"100s\"", "\"1s\"\nconnect_timeout = \"1s\""));
    stage.gate.release();
    let failures = "kfwatch_poll_failures_total{official_account=\"shop\",kf_account=\"kf5@shop\"}";
    let before = stage.metric(failures).unwrap();
    stage.gate.hold("kf5@shop");
    eventually("a timeout", || stage.metric(failures).filter(|failures| *failures > before));
    stage.gate.release();
}

fn change_collectors_and_store(stage: &mut Stage) {
    let lists = || stage.control().requests(ApiCall::GetKfList);
    assert_eq!(lists(), 0);
    stage.change("collectors", |keys| {
        keys.collectors = COLLECTORS_OFF.replace("kf_list = \"off\"", "kf_list = \"10s\"")
    });
    let lists = || stage.control().requests(ApiCall::GetKfList);
    eventually("two lists", || (lists() >= 2).then_some(()));
    stage.change("collectors", |keys| keys.collectors = COLLECTORS_OFF.to_owned());
    stage.change("store", |keys| {
        keys.store =
            "event_retention = \"2d\"\ndead_letter_retention = \"3d\"\nevent_log_max_bytes = 20000000"
                .to_owned();
    });
}

/// A connection that is kept alive.
struct KeptAlive(TcpStream);

impl KeptAlive {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn is_healthy(&mut self) -> bool {
        if self.0.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: kfwatch\r\n\r\n").is_err() {
            return false;
        }
        let mut block = [0; 4096];
        let length = self.0.read(&mut block).unwrap_or(0);
        block[..length].starts_with(b"HTTP/1.1 200")
    }
}

#[test]
fn log_pages_and_reloads_change_while_the_daemon_runs() {
    let mut stage = Stage::start();

    change_log(&mut stage);
    change_metrics(&mut stage);
    change_web(&mut stage);
    change_reload_interval(&mut stage);
    stage.live.process.terminate();
}

fn change_log(stage: &mut Stage) {
    let reloaded = || times_logged(&stage.live.process.stderr(), "Configuration reloaded");
    let before = reloaded();
    stage.change("log.level", |keys| keys.log = "level = \"error\"".to_owned());
    stage.change("metrics", |keys| keys.metrics = "nicknames = false".to_owned());
    stage.change("log.level", |keys| keys.log = "level = \"info\"".to_owned());
    let reloaded = || times_logged(&stage.live.process.stderr(), "Configuration reloaded");
    eventually("the last change", || (reloaded() > before).then_some(()));
    assert_eq!(reloaded(), before + 1, "the others are below the level");
    stage.change("metrics", |keys| keys.metrics = String::new());
    stage.change("log.format", |keys| keys.log = "level = \"warn\"\nformat = \"json\"".to_owned());
    let lines = stage.live.process.stderr().lines().count();
    let printed = stage.live.reload_refused("[");
    assert!(printed.contains("config.toml"), "{printed}");
    let log =
        eventually("a line", || Some(stage.live.process.stderr()).filter(|log| log.lines().count() > lines));
    let last = log.lines().last().unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(last).is_ok(), "{last}");
    stage.change("log.level", |keys| keys.log = String::new());
}

fn change_metrics(stage: &mut Stage) {
    assert_eq!(stage.metric(UP), Some(1.0));
    stage.change("collectors", |keys| {
        keys.collectors = COLLECTORS_OFF.replace("kf_list = \"off\"", "kf_list = \"10s\"")
    });
    let has_nickname = || stage.live.process.get("/metrics").text().contains("nickname=\"kf1\"");
    eventually("a nickname", || has_nickname().then_some(()));
    stage.change("metrics", |keys| keys.metrics = "nicknames = false".to_owned());
    assert!(!stage.live.process.get("/metrics").text().contains("nickname=\"kf1\""));
    stage.change("metrics", |keys| keys.metrics = "per_account = false".to_owned());
    assert_eq!(stage.metric(UP), None);
    stage.change("metrics", |keys| keys.metrics = String::new());
    assert_eq!(stage.metric(UP), Some(1.0));
}

fn change_web(stage: &mut Stage) {
    let address = stage.live.process.address();
    let mut client = KeptAlive::connect(address);
    assert!(client.is_healthy());
    let second = free_address();
    let both = format!("listen = [\"127.0.0.1:0\", \"{second}\"]");
    for _ in 0..10 {
        stage.change(&second.to_string(), |keys| keys.web = both.clone());
        assert_eq!(get(second, "/-/healthy", "").status, 200);
        assert!(client.is_healthy(), "its connection stays");
        stage.change(&second.to_string(), |keys| keys.web = "listen = \"127.0.0.1:0\"".to_owned());
        eventually("the end of the second address", || TcpStream::connect(second).is_err().then_some(()));
        assert!(client.is_healthy(), "its connection stays");
    }
    stage.change(&second.to_string(), |keys| keys.web = both.clone());
    let everywhere = Keys {
        web: format!("listen = [\"127.0.0.1:0\", \"0.0.0.0:{}\"]", second.port()),
        ..stage.keys.clone()
    };
    let printed = stage.live.reload_refused(&everywhere.text());
    assert!(printed.contains("web.listen needs a restart"), "{printed}");
    assert_eq!(get(second, "/-/healthy", "").status, 200);
    assert_eq!(request(address, "POST /-/reload", "").status, 403);
    stage.change("web.enable_reload", |keys| keys.web += "\nenable_reload = true");
    let answer = request(address, "POST /-/reload", "");
    assert_eq!((answer.status, client.is_healthy()), (200, true), "{answer:?}");

    // The command would look for the daemon of the other store.
    let moved = Keys { store: "path = \"elsewhere.db\"".to_owned(), ..stage.keys.clone() };
    stage.live.home.write("config.toml", &moved.text());
    let answer = request(address, "POST /-/reload", "");
    assert!(answer.status == 500 && answer.text().contains("store.path needs a restart"), "{answer:?}");
}

fn change_reload_interval(stage: &mut Stage) {
    let address = stage.live.process.address();
    stage.change("reload_interval", |keys| keys.top = "reload_interval = \"1s\"".to_owned());
    let mistaken = Keys { poll: "schedule = \"nonsense\"".to_owned(), ..stage.keys.clone() };
    stage.live.home.write("config.toml", &mistaken.text());
    let successful = || metric(&get(address, "/metrics", "").text(), "kfwatch_config_last_reload_successful");
    eventually("the mistake", || successful().filter(|successful| *successful == 0.0));
    let polls = stage.polls();
    eventually("some seconds", || (stage.polls() >= polls + 6).then_some(()));
    let log = stage.live.process.stderr();
    let mistakes =
        log.lines().filter(|line| line.contains("Configuration not reloaded") && line.contains("interval"));
    assert_eq!(mistakes.count(), 1, "{log}");
    stage.keys.metrics = "per_account = false".to_owned();
    stage.live.home.write("config.toml", &stage.keys.text());
    eventually("the changed file", || (stage.metric(UP).is_none()).then_some(()));
    assert_eq!(successful(), Some(1.0));
    assert_eq!(
        times_logged(&stage.live.process.stderr(), "config.toml: "),
        times_logged(&log, "config.toml: ")
    );
    assert_eq!(stage.control().requests_of(&appid(0), ApiCall::StableToken).unwrap(), 1);
}

#[test]
fn tokens_change_their_source_while_the_daemon_runs() {
    let mut stage = Stage::start();
    let control = stage.control();
    let calls = |call| control.requests(call);
    assert_eq!(calls(ApiCall::StableToken), 1);
    let failures = || stage.of_kf1("kfwatch_poll_failures_total");
    assert_eq!(failures(), Some(0.0));

    // The same secret in a file: another source, so that its token is fetched once.
    stage.live.home.write("shop.secret", &secret(0));
    stage
        .change("token", |keys| keys.token = "source = \"stable\"\nsecret_file = \"shop.secret\"".to_owned());
    let none = stage.live.reload(&stage.keys.text());
    assert!(none.contains("Nothing to do"), "{none}");
    stage.two_polls();
    let after_file = calls(ApiCall::StableToken);
    assert!(after_file <= 2, "{after_file}");
    // The content of the file changes, to a wrong secret: the old token serves.
    stage.live.home.write("shop.secret", &"0".repeat(32));
    let printed = stage.live.reload(&stage.keys.text());
    assert!(printed.contains("token"), "{printed}");
    eventually("the wrong secret", || (calls(ApiCall::StableToken) > after_file).then_some(()));
    stage.two_polls();
    assert_eq!(stage.of_kf1("kfwatch_poll_failures_total"), Some(0.0), "the old token serves");

    stage.change("token", |keys| keys.token = format!("source = \"classic\"\nsecret = \"{}\"", secret(0)));
    eventually("a classic token", || (calls(ApiCall::Token) == 1).then_some(()));
    stage.two_polls();

    let token = control.fetch_competing_token(&appid(0)).unwrap();
    stage.live.home.write("shop.token", &token);
    stage.change("token", |keys| keys.token = "source = \"file\"\npath = \"shop.token\"".to_owned());
    control.expire_tokens(&appid(0)).unwrap();
    let failed = || stage.of_kf1("kfwatch_poll_failures_total").unwrap();
    let before = failed();
    eventually("the token of the file is used", || (failed() > before).then_some(()));
    let token = control.fetch_competing_token(&appid(0)).unwrap();
    stage.live.home.write("shop.token", &token);
    stage.eventually_value("wechat_kf_account_up", 1.0);

    let url = format!("http://{}{}{}", stage.wechat.address(), ApiCall::TokenServer.path(), appid(0));
    stage.change("token", |keys| {
        keys.token = format!("source = \"server\"\nurl = \"{url}\"\njson_pointer = \"/access_token\"");
    });
    eventually("the token server", || (calls(ApiCall::TokenServer) > 0).then_some(()));
    stage.eventually_value("wechat_kf_account_up", 1.0);
    assert_eq!(calls(ApiCall::Token), 1);
    stage.live.process.terminate();
}
