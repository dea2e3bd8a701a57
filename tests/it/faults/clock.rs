//! A wall clock that is set back: the schedule goes on, and no interval becomes empty.

use jiff::Timestamp;
use kfwatch::simulator::ApiCall;
use serde_json::Value;

use crate::support::{
    delivery::{home, times_logged},
    process::{Home, Process, WeChat, appid, metric, quiet},
    wait::{eventually, wall_ms},
    wall_clock::WallClock,
};

const DURATIONS: &str = "wechat_kf_session_duration_seconds_count";

/// A daemon that polls every second, and its clock.
fn clock_and_home(wechat: &WeChat) -> (WallClock, Home) {
    let clock = WallClock::build();
    let home = clock.of(home(wechat, ""));
    (clock, home)
}

/// Waits for this many more polls.
fn eventually_polled(wechat: &WeChat, polls: u64) {
    let enough = wechat.control().requests(ApiCall::GetSessionList) + polls;
    eventually("polls", || (wechat.control().requests(ApiCall::GetSessionList) >= enough).then_some(()));
}

/// Opens a session that began this many seconds ago, and waits until it is listed.
fn open_since(wechat: &WeChat, seconds: i64) {
    let createtime = wall_ms() / 1000 - seconds;
    wechat.control().open_session(&appid(0), "kf1@shop", "o1", Some(createtime)).unwrap();
    eventually_polled(wechat, 2);
}

fn close(wechat: &WeChat) {
    wechat.control().close_session(&appid(0), "kf1@shop", "o1").unwrap();
}

/// Waits for the event of a session's end, and returns its bounds in UNIX milliseconds.
fn eventually_ended(daemon: &Process) -> [i64; 2] {
    let event = eventually("the end", || {
        let events = daemon.stdout();
        let mut events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|event| event["type"] == "kf.session.ended")
    });
    let bound = |n: usize| event["data"]["ended_between"][n].as_str().unwrap().parse::<Timestamp>().unwrap();
    [0, 1].map(|n| bound(n).as_millisecond())
}

fn assert_ticks_go_on_after(set_back: i64) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (clock, home) = clock_and_home(&wechat);
    let daemon = home.daemon();
    let opened = clock.now_ms();
    open_since(&wechat, 0);
    clock.set_back(set_back);
    eventually("the warning", || daemon.stderr().contains("The clock was set back by").then_some(()));
    let ticks = |name: &str| metric(&daemon.get("/metrics").text(), name).unwrap();
    let (sweeps, missed) = (ticks("kfwatch_sweeps_total"), ticks("kfwatch_schedule_missed_ticks_total"));
    eventually_polled(&wechat, 8);
    let (sweeps, missed) =
        (ticks("kfwatch_sweeps_total") - sweeps, ticks("kfwatch_schedule_missed_ticks_total") - missed);
    let log = daemon.stderr();
    // A busy machine may miss some.
    assert!(missed < sweeps, "{missed} ticks missed in {sweeps} sweeps: {log}");
    assert_eq!(times_logged(&log, "The clock was set back by"), 1, "{log}");

    let before = clock.now_ms();
    close(&wechat);
    let [earliest, latest] = eventually_ended(&daemon);
    assert!(latest - earliest >= 100, "{earliest} to {latest}");
    assert!((before..=clock.now_ms()).contains(&latest), "{latest} since {before}");
    if clock.now_ms() < opened {
        assert_eq!(daemon.metric(DURATIONS), Some(0.0), "it ended before it started, by this clock");
    }
    daemon.terminate();
}

#[test]
fn clock_set_back_by_an_hour_disturbs_no_tick_and_no_interval() {
    assert_ticks_go_on_after(3600);
}

#[test]
fn clock_set_back_by_half_a_minute_disturbs_no_tick_and_no_interval() {
    assert_ticks_go_on_after(30);
}

#[test]
fn clock_set_back_before_restart_leaves_end_out_of_durations() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (clock, home) = clock_and_home(&wechat);
    let daemon = home.daemon();
    // Longer ago than the clock is set back, which is longer than the restart takes.
    open_since(&wechat, 600);
    daemon.terminate();
    clock.set_back(300);
    close(&wechat);
    let daemon = home.daemon();
    let [earliest, latest] = eventually_ended(&daemon);
    assert_eq!(latest - earliest, 1);
    assert_eq!(daemon.metric(DURATIONS), Some(0.0));
    assert_eq!(times_logged(&daemon.stderr(), "The clock was set back by"), 0);
    open_since(&wechat, 600);
    close(&wechat);
    eventually("a known duration", || daemon.metric(DURATIONS).filter(|ended| *ended >= 1.0));
    daemon.terminate();
}
