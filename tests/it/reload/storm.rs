//! The storm: a busy WeChat, a daemon, and what happens to it.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use kfwatch::simulator::{
    AccountToWatch, ApiCall, CustomerFlow, Fault, FaultRule, RandomDuration, Scenario, SimulatorControl,
};

use crate::support::{
    delivery::pause,
    history::{self, History, Life},
    loopback::free_address,
    process::{Home, Process, WeChat, appid, get, metric, quiet, request},
    replay,
    site::{CLIENT_TIMEOUT_MS, Tokens},
    wait::{eventually, wall_ms},
};

use super::{
    accounts::{self, SteadyLife, Window},
    configuration::{
        Configuration, FOUND, GUEST, Mistake, OFFICIAL_ACCOUNTS, ROTATING, STEADY, Surroundings, app_secret,
        kf_account, token_file,
    },
    sinks::Sinks,
};

/// Longer than it takes to answer a fetch, so that none is in flight when the AppSecret is rotated.
const FETCH_MS: i64 = 1_500;

/// A running storm.
pub(crate) struct Storm {
    wechat: WeChat,
    home: Home,
    random: fastrand::Rng,
    surroundings: Surroundings,
    _taken: TcpListener,
    sinks: Sinks,
    daemon: Option<Process>,
    /// What the daemon runs with.
    configuration: Configuration,
    rounds: usize,
    windows: Vec<Window>,
    lives: Vec<Life>,
    steady_lives: Vec<SteadyLife>,
    /// How many tokens should be fetched with the AppSecret that is rotated: one at each start, and one for each rotation.
    tokens: u64,
    tally: Tally,
}

/// What a reload is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trigger {
    Command,
    Http,
    Hangup,
}

/// What happened.
#[derive(Debug, Default)]
struct Tally {
    applied: BTreeMap<Trigger, usize>,
    unchanged: usize,
    refused: BTreeMap<Mistake, usize>,
    kills: usize,
    kills_in_reload: usize,
    rotations: usize,
}

impl Storm {
    pub(crate) fn begin(rounds: usize) -> Self {
        let seed = 23;
        let wechat = WeChat::play(scenario(seed));
        wechat.control().rotate_secret(&appid(ROTATING), &app_secret(0)).unwrap();
        let home = Home::new();
        for index in [STEADY, GUEST, FOUND] {
            let token = wechat.control().fetch_competing_token(&appid(index)).unwrap();
            (0..2).for_each(|which| home.write(&token_file(index, which), &token));
        }
        home.write("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let sinks = Sinks::new();
        let surroundings = Surroundings {
            base_url: wechat.simulator().base_url(),
            web: free_address(),
            other_web: free_address(),
            taken: taken.local_addr().unwrap(),
            receivers: sinks.urls(),
        };
        let mut storm = Self {
            wechat,
            home,
            random: fastrand::Rng::with_seed(seed),
            surroundings,
            _taken: taken,
            sinks,
            daemon: None,
            configuration: Configuration::whole(0),
            rounds,
            windows: Vec::new(),
            lives: Vec::new(),
            steady_lives: Vec::new(),
            tokens: 0,
            tally: Tally::default(),
        };
        storm.start();
        storm
    }

    /// Reloads in a row.
    pub(crate) fn rage(&mut self) {
        for round in 0..self.rounds {
            match round % 30 {
                14 => self.kill_in_reload(),
                29 => self.kill(),
                _ => {}
            }
            let pauses = if self.random.u8(0..4) == 0 { 0 } else { self.random.u64(0..900) };
            pause(pauses);
            let next = self.next_configuration();
            if self.random.u8(0..4) == 0 {
                self.refuse(&next);
            } else {
                let before = self.configuration.clone();
                self.apply(next);
                if self.random.u8(0..4) == 0 {
                    // What was removed returns while it still leaves.
                    self.apply(before.with_secret(self.configuration.secret));
                }
            }
        }
    }

    /// Ends the daemon when everything is delivered, and compares.
    pub(crate) fn end(mut self) {
        self.apply(Configuration::whole(self.configuration.secret));
        self.wait_until_everyone_is_polled();
        let tokens = self.tokens;
        eventually("each token was fetched", || (self.token_calls() == tokens).then_some(()));
        self.note_steady_life();
        self.control().inject(FaultRule {
            endpoint: Some(ApiCall::GetSessionList),
            ..FaultRule::new(Fault::Errcode(-1))
        });
        let web = self.surroundings.web;
        eventually("everything is delivered", || {
            let page = get(web, "/metrics", "").text();
            let pending = |sink| metric(&page, &format!("kfwatch_sink_pending_events{{sink=\"{sink}\"}}"));
            ["file", "moving", "hook", "extra"].iter().all(|sink| pending(*sink) == Some(0.0)).then_some(())
        });
        let ended = self.daemon.take().unwrap().terminate();
        assert_no_failure(&ended.stderr);
        self.end_life(false);
        assert_eq!(self.token_calls(), tokens, "a token was fetched without need");
        self.compare();
    }

    fn compare(&self) {
        let ledger = history::whole_ledger(&self.control());
        let log = self.sinks.event_log(&self.home);
        let accounts: Vec<(AccountToWatch, Tokens)> =
            scenario(0).accounts().into_iter().map(|account| (account, Tokens::File)).collect();
        let by_account = replay::by_account(&log);
        let histories = History::all(&accounts, &ledger, &self.lives).into_iter().map(|history| {
            let key = (history.account.appid.clone(), history.account.kf_account.clone());
            let events = by_account.get(&key).map(Vec::as_slice).unwrap_or_default();
            history.removed_at(&accounts::removals_in(events))
        });
        let histories: Vec<_> = histories.collect();
        let events = replay::compare_all(&histories, &log);
        let kills_ms: Vec<i64> =
            self.lives.iter().filter(|life| life.killed).map(|life| life.to_ms).collect();
        let removed = accounts::check_windows(&self.windows, &kills_ms, &ledger, &by_account);
        accounts::check_ticks(&self.steady_lives, &ledger);
        let repeats = self.sinks.check(&self.home, &log);
        let tally = &self.tally;
        assert!(tally.applied.len() == 3 && tally.refused.len() >= 3 && tally.rotations > 0, "{tally:?}");
        assert!(removed > 0 && tally.kills > 0 && tally.kills_in_reload > 0, "{removed} removals, {tally:?}");
        println!(
            "storm: {} rounds, {:?}, {} polls, {events:?}, {removed} removals, {repeats:?} delivered again, {} tokens",
            self.rounds,
            tally,
            ledger.polls.len(),
            self.tokens,
        );
    }

    fn next_configuration(&mut self) -> Configuration {
        let mut next = self.configuration.changed(&mut self.random);
        let may_rotate =
            self.token_calls() == self.tokens && wall_ms() - self.last_token_call_ms() > FETCH_MS;
        if may_rotate {
            next.secret += 1;
        }
        next
    }

    fn apply(&mut self, next: Configuration) {
        if next.secret != self.configuration.secret {
            self.rotate(next.secret);
        }
        let trigger = self.random_trigger(&next);
        let requested_ms = wall_ms();
        next.write(&self.home, &self.surroundings, None);
        let answer = self.ask(trigger);
        let applied = answer.unwrap_or_else(|reason| panic!("refused by {trigger:?}: {reason}: {next:?}"));
        self.adopt(next, requested_ms);
        *self.tally.applied.entry(trigger).or_default() += 1;
        self.tally.unchanged += usize::from(applied.contains("Nothing to do"));
        if self.random.u8(0..4) == 0 {
            self.assert_nothing_to_do();
        }
    }

    fn refuse(&mut self, next: &Configuration) {
        let mistake = Mistake::ALL[self.random.usize(0..Mistake::ALL.len())];
        let trigger = match self.random_trigger(&self.configuration.clone()) {
            // It looks for the daemon next to the store.
            Trigger::Command if mistake == Mistake::OtherStore => Trigger::Http,
            trigger => trigger,
        };
        next.write(&self.home, &self.surroundings, Some(mistake));
        let reason = self.ask(trigger).unwrap_err();
        assert!(reason.contains(mistake.reason()), "{mistake:?}: {reason}");
        *self.tally.refused.entry(mistake).or_default() += 1;
    }

    /// A signal has no answer: the log says when it is done, at a level that shows it.
    fn random_trigger(&mut self, next: &Configuration) -> Trigger {
        match self.random.u8(0..3) {
            0 if next.level != "warn" => Trigger::Hangup,
            0 | 1 => Trigger::Http,
            _ => Trigger::Command,
        }
    }

    /// Asks for a reload. Returns what has changed, or why it was refused.
    fn ask(&self, trigger: Trigger) -> Result<String, String> {
        match trigger {
            Trigger::Command => {
                let ended = self.home.run("reload");
                match ended.code {
                    Some(0) => Ok(ended.stdout),
                    Some(78) => Err(ended.stderr),
                    _ => panic!("{ended:?}"),
                }
            }
            Trigger::Http => {
                let answer = request(self.surroundings.web, "POST /-/reload", "");
                match answer.status {
                    200 => Ok(answer.text()),
                    500 => Err(answer.text()),
                    _ => panic!("{answer:?}"),
                }
            }
            Trigger::Hangup => {
                let daemon = self.daemon.as_ref().unwrap();
                let before = daemon.stderr().len();
                daemon.signal("HUP");
                eventually("a signal is answered", || {
                    let log = daemon.stderr().split_off(before);
                    // The line of an earlier reload may come late. The log is text or JSON.
                    let of_signal = |line: &&str| {
                        line.contains("trigger=SIGHUP") || line.contains("\"trigger\":\"SIGHUP\"")
                    };
                    let line = |text: &str| {
                        log.lines().filter(of_signal).find(|line| line.contains(text)).map(str::to_owned)
                    };
                    line("Configuration reloaded")
                        .map(Ok)
                        .or_else(|| line("Configuration not reloaded").map(Err))
                })
            }
        }
    }

    fn assert_nothing_to_do(&self) {
        // A part that was removed a moment ago may have to leave before it starts again.
        eventually("the daemon runs with its configuration", || {
            self.home.run("reload --dry-run").stdout.contains("Nothing to do").then_some(())
        });
    }

    fn adopt(&mut self, next: Configuration, requested_ms: i64) {
        self.steady_lives.last_mut().unwrap().restarts +=
            usize::from(next.spread != self.configuration.spread);
        self.windows.push(Window { requested_ms, answered_ms: wall_ms(), configuration: next.clone() });
        self.configuration = next;
    }

    fn rotate(&mut self, secret: u32) {
        self.control().rotate_secret(&appid(ROTATING), &app_secret(secret)).unwrap();
        self.tokens += 1;
        self.tally.rotations += 1;
    }

    /// Kills the daemon while it reloads, before, or after.
    fn kill_in_reload(&mut self) {
        let next = self.configuration.changed(&mut self.random);
        self.note_steady_life();
        let requested_ms = wall_ms();
        next.write(&self.home, &self.surroundings, None);
        self.daemon.as_ref().unwrap().signal("HUP");
        // The moment must not depend on the daemon.
        std::thread::sleep(Duration::from_millis(self.random.u64(0..60)));
        self.tally.kills_in_reload += 1;
        self.die();
        self.start_with(next, requested_ms);
    }

    fn kill(&mut self) {
        self.note_steady_life();
        self.tally.kills += 1;
        self.die();
        self.start();
    }

    fn die(&mut self) {
        let daemon = self.daemon.take().unwrap();
        assert_no_failure(&daemon.stderr());
        drop(daemon); // kill -9
        self.end_life(true);
        // On a busy machine requests of a killed daemon are read late. They must not count as the next daemon's.
        let peers = self.sinks.addresses().into_iter().chain([self.wechat.address()]);
        peers.for_each(history::wait_for_last_requests);
        let calls = self.token_calls();
        assert!(calls <= self.tokens, "{calls} tokens were fetched: {:?}", self.tokens);
        self.tokens = calls;
    }

    fn start(&mut self) {
        self.start_with(self.configuration.clone(), wall_ms());
    }

    fn start_with(&mut self, configuration: Configuration, requested_ms: i64) {
        configuration.write(&self.home, &self.surroundings, None);
        let from_ms = wall_ms();
        let mut daemon = self.home.spawn("run");
        let web = self.surroundings.web;
        eventually("the daemon is ready", || {
            assert!(daemon.is_running(), "the daemon ended: {}", daemon.stderr());
            (TcpStream::connect(web).is_ok() && get(web, "/-/ready", "").status == 200).then_some(())
        });
        self.daemon = Some(daemon);
        self.tokens += 1;
        self.lives.push(Life {
            from_ms,
            to_ms: i64::MAX,
            killed: true,
            client_timeout_ms: CLIENT_TIMEOUT_MS,
        });
        self.steady_lives.push(SteadyLife { ready_ms: wall_ms(), ..SteadyLife::default() });
        self.adopt(configuration, requested_ms);
        self.steady_lives.last_mut().unwrap().restarts = 0;
    }

    fn end_life(&mut self, killed: bool) {
        let life = self.lives.last_mut().unwrap();
        (life.to_ms, life.killed) = (wall_ms(), killed);
        self.sinks.note_end_of_life(&self.home);
    }

    /// Notes how many ticks the daemon has missed until now, and asserts that no poll has failed.
    fn note_steady_life(&mut self) {
        let page = get(self.surroundings.web, "/metrics", "").text();
        let value =
            |series: &str| metric(&page, series).unwrap_or_else(|| panic!("no {series}: {page}")) as usize;
        let overruns = (1..=OFFICIAL_ACCOUNTS[STEADY].1).map(|number| {
            let kf_account = kf_account(STEADY, number);
            let overruns = value(&format!(
                "kfwatch_poll_overruns_total{{official_account=\"steady\",kf_account=\"{kf_account}\"}}"
            ));
            (kf_account, overruns)
        });
        let overruns = overruns.collect();
        let failures =
            value("kfwatch_poll_failures_total{official_account=\"rotating\",kf_account=\"kf1@rotating\"}");
        assert_eq!(failures, 0, "the old token serves until the new one is there");
        let missed = value("kfwatch_schedule_missed_ticks_total");
        let life = self.steady_lives.last_mut().unwrap();
        (life.to_ms, life.missed, life.overruns) = (wall_ms(), missed, overruns);
    }

    fn wait_until_everyone_is_polled(&self) {
        let control = self.control();
        let polls = |(index, number)| control.polls_of(&appid(index), &kf_account(index, number)).unwrap();
        let accounts = OFFICIAL_ACCOUNTS.iter().enumerate();
        let accounts =
            accounts.flat_map(|(index, (_, count))| (1..=*count).map(move |number| (index, number)));
        let enough: Vec<_> = accounts.map(|account| (account, polls(account) + 2)).collect();
        eventually("every account is polled", || {
            enough.iter().all(|(account, enough)| polls(*account) >= *enough).then_some(())
        });
    }

    fn control(&self) -> SimulatorControl {
        self.wechat.control()
    }

    fn token_calls(&self) -> u64 {
        self.control().requests_of(&appid(ROTATING), ApiCall::StableToken).unwrap()
    }

    fn last_token_call_ms(&self) -> i64 {
        let is_ours = |call: &Option<std::sync::Arc<str>>| call.as_deref() == Some(&*appid(ROTATING));
        let calls = self.control().token_calls();
        calls.iter().rfind(|call| is_ours(&call.appid)).map_or(0, |call| call.at_ms)
    }
}

impl Drop for Storm {
    /// Shows what the daemon logged before a failure.
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.as_ref().filter(|_| std::thread::panicking()) {
            println!("{}", daemon.stderr());
        }
    }
}

/// Asserts that no part of the daemon has failed.
fn assert_no_failure(log: &str) {
    let failures =
        ["panicked", "unexpectedly", "not recorded", "not removed", "could not be completed", "not stored"];
    let failed = log.lines().find(|line| failures.iter().any(|failure| line.contains(failure)));
    assert_eq!(failed, None);
}

fn scenario(seed: u64) -> Scenario {
    let spread = |mean, min, max| RandomDuration {
        mean: Duration::from_millis(mean),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    };
    let slow = |probability, ms, endpoint| FaultRule {
        endpoint: Some(endpoint),
        probability: Some(probability),
        ..FaultRule::new(Fault::Slow(Duration::from_millis(ms)))
    };
    Scenario {
        seed,
        customers: CustomerFlow {
            initial: 2,
            gap: Some(spread(800, 50, 5_000)),
            wait: spread(300, 0, 2_000),
            stay: Some(spread(3_000, 1_000, 8_000)),
            returning: 0.4,
        },
        faults: vec![
            slow(0.15, 300, ApiCall::GetSessionList),
            slow(0.15, 60, ApiCall::GetSessionList),
            slow(0.5, 400, ApiCall::StableToken),
            slow(0.5, 700, ApiCall::GetKfList),
        ],
        ..quiet(&OFFICIAL_ACCOUNTS)
    }
}
