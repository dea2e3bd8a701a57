//! A sink changes its options, leaves and returns in every stage of a delivery.

use std::{
    collections::HashSet,
    sync::{Arc, Barrier},
};

use kfwatch::simulator::SimulatorControl;

use super::{LiveDaemon, official_account};
use crate::support::{
    delivery::{file, open, webhook},
    event_log::EventLog,
    process::{Home, Process, WeChat, appid, quiet},
    receiver::{Answer, Delivery, Receiver},
    wait::eventually,
};

const KF_ACCOUNTS: [&str; 2] = ["kf1@shop", "kf2@shop"];

/// What the old receiver does when the sink changes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reaction {
    /// It has the first event and has not answered.
    Holds,
    /// It refuses each event.
    Refuses,
    /// It fails, so that the sink backs off.
    Fails,
    /// It has asked the sink to stop.
    Stops,
    /// It confirms everything. An operator has stopped the sink.
    IsStopped,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Options,
    RemovedAndAdded,
}

struct Stage {
    wechat: WeChat,
    live: LiveDaemon,
    /// All deliveries that earlier receivers have confirmed.
    confirmed: Vec<Delivery>,
}

impl Stage {
    fn start(receiver: &Receiver) -> Self {
        let wechat = WeChat::play(quiet(&[("shop", 2)]));
        let live =
            LiveDaemon::start(Home::new().without_collectors(), &configuration(&wechat, Some(receiver)));
        let polled = |kf_account| wechat.control().polls_of(&appid(0), kf_account).unwrap() > 1;
        eventually("the first polls", || {
            KF_ACCOUNTS.iter().all(|kf_account| polled(kf_account)).then_some(())
        });
        Self { wechat, live, confirmed: Vec::new() }
    }

    fn control(&self) -> SimulatorControl {
        self.wechat.control()
    }

    fn reload(&self, receiver: Option<&Receiver>) -> String {
        self.live.reload(&configuration(&self.wechat, receiver))
    }

    fn sinks(&self, command: &str) {
        let ended = self.live.home.run(&format!("sinks {command} crm"));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    fn failures(&self) -> f64 {
        self.live.process.metric("kfwatch_sink_delivery_failures_total{sink=\"crm\"}").unwrap()
    }

    /// Brings the sink into this stage with three new events, two of them of one kf account. Returns what ends a held request.
    fn reach(&self, reaction: Reaction, old: &Receiver, round: usize) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        let (held, before, failures) = (Arc::clone(&barrier), old.received().len(), self.failures());
        let first = format!("o{round}-1");
        match reaction {
            Reaction::Holds => old.answer(move |delivery| match openid(delivery) == first {
                true => Answer::Held(Arc::clone(&held)),
                false => Answer::status(204),
            }),
            Reaction::Refuses => old.answer(|_| Answer::status(422)),
            Reaction::Fails => old.answer(|_| Answer::status(500)),
            Reaction::Stops => old.answer(|_| Answer::status(410)),
            Reaction::IsStopped => self.sinks("stop"),
        }
        open(&self.control(), KF_ACCOUNTS[0], &format!("o{round}-1"));
        match reaction {
            Reaction::Holds => eventually("a request", || (old.received().len() > before).then_some(())),
            Reaction::Refuses | Reaction::Fails => {
                eventually("a failure", || (self.failures() > failures).then_some(()));
            }
            Reaction::Stops => {
                let stopped = || self.live.process.metric("kfwatch_sink_stopped{sink=\"crm\"}");
                eventually("the stop", || stopped().filter(|stopped| *stopped == 1.0));
            }
            Reaction::IsStopped => {}
        }
        open(&self.control(), KF_ACCOUNTS[0], &format!("o{round}-2"));
        open(&self.control(), KF_ACCOUNTS[1], &format!("o{round}-3"));
        barrier
    }

    /// Changes the sink in this stage. Returns the new receiver.
    fn round(&mut self, reaction: Reaction, change: Change, old: Receiver, round: usize) -> Receiver {
        let new = Receiver::start();
        let barrier = self.reach(reaction, &old, round);
        if let Change::RemovedAndAdded = change {
            self.reload(None);
        }
        let printed = self.reload(Some(&new));
        if reaction == Reaction::Holds {
            let deferred = matches!(change, Change::RemovedAndAdded);
            assert_eq!(printed.contains("removed a moment ago"), deferred, "{printed}");
            assert_eq!(new.received().len(), 0, "{change:?}: the old receiver has not answered");
            barrier.wait();
        }
        if reaction == Reaction::IsStopped {
            let events = || self.live.process.metric("kfwatch_sink_pending_events{sink=\"crm\"}");
            eventually("three pending events", || events().filter(|events| *events == 3.0));
            assert_eq!(new.received().len(), 0, "{change:?}: it stays stopped");
            self.sinks("resume");
        }
        let wanted: HashSet<String> = (1..=3).map(|n| format!("o{round}-{n}")).collect();
        let confirmed = || {
            let all = old.received().into_iter().chain(new.received());
            all.filter(|delivery| delivery.confirmed && wanted.contains(&openid(delivery)))
                .collect::<Vec<_>>()
        };
        eventually(&format!("{reaction:?}, {change:?}: all events"), || {
            let openids: HashSet<String> = confirmed().iter().map(openid).collect();
            (openids == wanted).then_some(())
        });
        self.confirmed.extend(old.received().into_iter().filter(|delivery| delivery.confirmed));
        new
    }
}

fn configuration(wechat: &WeChat, receiver: Option<&Receiver>) -> String {
    let sink = receiver
        .map(|receiver| webhook("crm", &receiver.url("kf"), "timeout = \"100s\""))
        .unwrap_or_default();
    format!(
        "shutdown_timeout = \"60s\"\n[api]\nbase_url = \"http://{}\"\n[poll]\nschedule = \"* * * * * *\"\n\
         [web]\nlisten = \"127.0.0.1:0\"\n{}\n{sink}[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"-\"\n",
        wechat.address(),
        official_account("shop", 0, &KF_ACCOUNTS, ""),
    )
}

/// The customer of the event, if it has one.
fn openid(delivery: &Delivery) -> String {
    delivery.json()["data"]["openid"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn sink_that_changes_or_returns_in_a_delivery_loses_and_repeats_nothing() {
    let mut receiver = Receiver::start();
    let mut stage = Stage::start(&receiver);
    let reactions =
        [Reaction::Holds, Reaction::Refuses, Reaction::Fails, Reaction::Stops, Reaction::IsStopped];
    let mut round = 0;
    for reaction in reactions {
        for change in [Change::Options, Change::RemovedAndAdded] {
            round += 1;
            receiver = stage.round(reaction, change, receiver, round);
        }
    }
    let Stage { live: LiveDaemon { home, process }, mut confirmed, .. } = stage;
    process.terminate();
    confirmed.extend(receiver.received());
    let repeats = EventLog::of(&home).assert_posted("crm", &confirmed);
    assert_eq!(repeats, 0, "nothing that was acknowledged is repeated");
    println!("deliveries: {round} changes, {} events", confirmed.len());
}

#[test]
fn sink_that_has_ended_starts_again_with_other_options() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::new().without_collectors();
    let configuration = |path: &str| {
        format!(
            "[api]\nbase_url = \"http://{}\"\n[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"\n{}\n{}{}",
            wechat.address(),
            official_account("shop", 0, &KF_ACCOUNTS, ""),
            file("log", path),
            file("other", "other.jsonl"),
        )
    };
    home.write("config.toml", &configuration("-"));
    let mut command = home.command("run");
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let process = Process::spawn(command);
    process.address();
    // The reader of standard output ends.
    drop(reader);
    open(&wechat.control(), KF_ACCOUNTS[0], "oFirst");
    eventually("the end of the sink", || process.stderr().contains("has ended").then_some(()));
    let live = LiveDaemon { home, process };
    live.reload(&configuration("events.jsonl"));
    open(&wechat.control(), KF_ACCOUNTS[0], "oSecond");
    let written = || std::fs::read_to_string(live.home.path("events.jsonl")).unwrap_or_default();
    eventually("both events", || {
        (written().contains("oFirst") && written().contains("oSecond")).then_some(())
    });
    live.process.terminate();
}
