//! The faults. Each function breaks one stack, repairs it, and returns the messages that were sent meanwhile.

use std::{
    cell::RefCell,
    thread::sleep,
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use kfwatch::simulator::{ApiCall, CustomerFlow, Fault, FaultRule, KfState, RandomDuration};

use super::{
    Report,
    notifications::{self, EVERYBODY, Expected, OPERATORS, Times},
    stack::{OFFICIAL_ACCOUNTS, Stack, shop, shops},
};
use crate::support::{
    delivery::{file, webhook},
    disk::SmallDisk,
    nats::Server,
    process::{Home, WeChat, appid},
    receiver::{Answer, Receiver},
    robot::{Robot, Vendor},
};

/// With the shipped intervals: ten minutes, an hour, and 50 minutes.
const HEALTHY: Duration = Duration::from_secs(60);
const BROKEN: Duration = Duration::from_secs(360);
const REPAIRED: Duration = Duration::from_secs(300);

/// Each plays on its own stack.
pub(super) const ALL: [fn() -> Report; 7] = [
    official_accounts_with_faults,
    address_refused,
    wechat_down,
    disk_full,
    daemon_killed,
    clock_wrong,
    sinks_failing,
];

/// Breaks the stack for a while, and reports the messages that were sent. `faulty` are the official accounts with a fault.
fn play(
    mut stack: Stack,
    faulty: &[usize],
    expected: &[Expected],
    break_it: impl FnOnce(&mut Stack),
    repair_it: impl FnOnce(&mut Stack),
) -> Report {
    sleep(HEALTHY);
    let broken = Instant::now();
    break_it(&mut stack);
    sleep(BROKEN);
    let inhibited: Vec<String> =
        stack.inhibited().into_iter().map(|(alert, count)| format!("{alert}: {count}")).collect();
    let repaired = Instant::now();
    repair_it(&mut stack);
    sleep(REPAIRED);
    let faulty: Vec<String> = faulty.iter().map(|&index| shop(index)).collect();
    let times = Times { broken, repaired };
    let mut report = notifications::report(&stack.receiver, expected, &faulty, &times, &inhibited.join(", "));
    if !report.problems.is_empty() {
        report.problems.push(stack.warnings());
    }
    report
}

fn about_account(
    fault: &'static str,
    alert: &'static str,
    index: usize,
    to: &'static [&'static str],
) -> Expected {
    Expected { fault, alert, label: Some(("official_account", shop(index))), to, resolves: true }
}

fn about_machine(fault: &'static str, alert: &'static str, to: &'static [&'static str]) -> Expected {
    Expected { fault, alert, label: None, to, resolves: true }
}

/// Unbound, a wrong secret, a quota that is used up, and no answers: one official account each.
fn official_accounts_with_faults() -> Report {
    const UNBOUND: usize = 1;
    const WRONG_SECRET: usize = 2;
    const WITHOUT_QUOTA: usize = 3;
    const HANGING: usize = 4;
    let mut scenario = shops();
    // A poll every four seconds: the quota lasts a little longer than HEALTHY.
    scenario.official_accounts[WITHOUT_QUOTA].session_lists_per_day = HEALTHY.as_secs() / 4 + 3;
    let wechat = WeChat::play(scenario);
    let unbound = format!("kf2@{}", shop(UNBOUND));
    let expected = [
        about_account("kf account unbound", "AccountUnbound", UNBOUND, OPERATORS),
        about_account("wrong secret", "TokenRefreshFailing", WRONG_SECRET, EVERYBODY),
        Expected {
            // Until midnight in China.
            resolves: false,
            ..about_account("quota used up", "QuotaExhausted", WITHOUT_QUOTA, EVERYBODY)
        },
        about_account("official account hangs", "OfficialAccountBlind", HANGING, EVERYBODY),
    ];
    let only =
        |index: usize, fault| FaultRule { official_account: Some(shop(index)), ..FaultRule::new(fault) };
    play(
        Stack::start(wechat, Home::new(), ""),
        &[UNBOUND, WRONG_SECRET, WITHOUT_QUOTA, HANGING],
        &expected,
        |stack| {
            let control = stack.wechat.control();
            control.set_kf_state(&appid(UNBOUND), &unbound, KfState::Unbound).unwrap();
            let refused = only(WRONG_SECRET, Fault::Errcode(40125));
            control.inject(FaultRule { endpoint: Some(ApiCall::StableToken), ..refused });
            control.expire_tokens(&appid(WRONG_SECRET)).unwrap();
            control.inject(only(HANGING, Fault::Hang));
        },
        |stack| {
            let control = stack.wechat.control();
            control.set_kf_state(&appid(UNBOUND), &unbound, KfState::Bound).unwrap();
            control.clear_faults();
        },
    )
}

/// The address of this machine is no longer on the IP allowlists, and the tokens expire.
fn address_refused() -> Report {
    let stack = Stack::start(WeChat::play(shops()), Home::new(), "");
    play(
        stack,
        &(0..OFFICIAL_ACCOUNTS).collect::<Vec<_>>(),
        &[about_machine("address refused (65)", "MostOfficialAccountsFailing", EVERYBODY)],
        |stack| {
            for index in 0..OFFICIAL_ACCOUNTS {
                stack.wechat.control().refuse_address(&appid(index)).unwrap();
                stack.wechat.control().expire_tokens(&appid(index)).unwrap();
            }
        },
        |stack| {
            for index in 0..OFFICIAL_ACCOUNTS {
                stack.wechat.control().allow_address(&appid(index)).unwrap();
            }
        },
    )
}

fn wechat_down() -> Report {
    let stack = Stack::start(WeChat::play(shops()), Home::new(), "");
    play(
        stack,
        &(0..OFFICIAL_ACCOUNTS).collect::<Vec<_>>(),
        &[about_machine("WeChat down (65)", "MostOfficialAccountsFailing", EVERYBODY)],
        |stack| stack.wechat.control().inject(FaultRule::new(Fault::Reset)),
        |stack| stack.wechat.control().clear_faults(),
    )
}

/// The first official account has customers, so that there is something to store.
fn with_customers() -> WeChat {
    let spread = |mean| RandomDuration {
        mean: Duration::from_secs(mean),
        min: Duration::from_secs(mean / 2),
        max: Duration::from_secs(2 * mean),
    };
    let mut scenario = shops();
    scenario.official_accounts[0].kf_accounts[0].customers =
        Some(CustomerFlow { gap: Some(spread(4)), stay: Some(spread(8)), ..CustomerFlow::default() });
    WeChat::play(scenario)
}

fn disk_full() -> Report {
    let Some(disk) = SmallDisk::mount(24) else { return not_run("disk full") };
    let store = format!("[store]\npath = {:?}\n", disk.path().join("kfwatch.db"));
    play(
        Stack::start(with_customers(), Home::new(), &store),
        &[],
        &[about_machine("disk full", "StoreFailing", EVERYBODY)],
        |_| disk.fill(),
        |_| disk.free_space(),
    )
}

/// Killed and restarted as by systemd, which sends no message, and then killed for good.
fn daemon_killed() -> Report {
    let mut stack = Stack::start(WeChat::play(shops()), Home::new(), "");
    sleep(HEALTHY);
    stack.kill();
    stack.restart();
    play(
        stack,
        &[],
        &[about_machine("kill -9, not restarted", "TargetDown", EVERYBODY)],
        Stack::kill,
        Stack::restart,
    )
}

fn clock_wrong() -> Report {
    let stack = Stack::start(WeChat::play(shops()), Home::new(), "");
    play(
        stack,
        &[],
        &[about_machine("clock 130 s off", "ClockSkewed", OPERATORS)],
        |stack| stack.wechat.control().set_date_skew(SignedDuration::from_secs(-130)),
        |stack| stack.wechat.control().set_date_skew(SignedDuration::ZERO),
    )
}

/// A full disk under a file, a webhook that fails, one that is gone, one that refuses events, a dead NATS server, and a dead robot.
fn sinks_failing() -> Report {
    let Some(disk) = SmallDisk::mount(2) else { return not_run("failing sinks") };
    let [failing, gone, strict] = [(); 3].map(|()| Receiver::start());
    let nats = RefCell::new(Server::start());
    nats.borrow().anyone().create_stream();
    let robot = RefCell::new(Robot::start(Vendor::WeCom));
    let home = Home::new();
    let sinks = [
        file("archive", disk.path().join("events.jsonl").to_str().unwrap()),
        webhook("failing", &failing.url("kf"), ""),
        webhook("gone", &gone.url("kf"), ""),
        webhook("strict", &strict.url("kf"), ""),
        format!(
            "[[sinks]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"{}\"\nsubject_prefix = \"kf\"\n",
            nats.borrow().url()
        ),
        robot.borrow().sink(&home, ""),
    ];
    let stack = Stack::start(with_customers(), home, &sinks.concat());
    let sink = |fault, alert, sink: &str| Expected {
        label: Some(("sink", sink.to_owned())),
        ..about_machine(fault, alert, OPERATORS)
    };
    let expected = [
        sink("disk of a file sink full", "SinkLagging", "archive"),
        sink("webhook answers 500", "SinkLagging", "failing"),
        sink("webhook answers 410", "SinkStopped", "gone"),
        sink("webhook answers 400", "DeadLetters", "strict"),
        sink("NATS server dead", "SinkLagging", "bus"),
        sink("chat robot dead", "SinkLagging", "wecom"),
    ];
    play(
        stack,
        &[],
        &expected,
        |stack| {
            disk.fill();
            failing.answer(|_| Answer::status(500));
            gone.answer(|_| Answer::status(410));
            strict.answer(|_| Answer::status(400));
            nats.borrow_mut().kill();
            robot.borrow_mut().receiver.kill();
            // An event for the robot, which ends before it is an alert.
            let kf_account = format!("kf3@{}", shop(1));
            let control = stack.wechat.control();
            control.set_kf_state(&appid(1), &kf_account, KfState::Unbound).unwrap();
            sleep(Duration::from_secs(10));
            control.set_kf_state(&appid(1), &kf_account, KfState::Bound).unwrap();
        },
        |stack| {
            disk.free_space();
            nats.borrow_mut().restart();
            robot.borrow_mut().receiver.restart();
            for receiver in [&failing, &gone, &strict] {
                receiver.answer(|_| Answer::status(204));
            }
            assert_eq!(stack.home.run("sinks resume gone").code, Some(0));
            assert_eq!(stack.home.run("events dead --retry --sink strict").code, Some(0));
        },
    )
}

/// Only root can mount a small file system.
fn not_run(fault: &str) -> Report {
    Report { rows: vec![format!("| {fault} | not run: needs root | | | | | | | |")], problems: Vec::new() }
}
