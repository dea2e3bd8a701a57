//! Simulated time: its start, what depends on it, and the Date header.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kfwatch::simulator::Scenario;

use crate::support::simulator::{APPID, Client, KF1, Response, lively, quiet, start};

/// A Sunday evening in China, an hour before the day ends.
const EVENING: &str = "2026-11-22T15:00:00Z";

fn evening() -> Scenario {
    let starts_at: Timestamp = EVENING.parse().unwrap();
    Scenario { starts_at: Some(starts_at), ..quiet() }
}

fn date_of(response: &Response) -> Timestamp {
    let date = response.header("date").unwrap();
    jiff::fmt::rfc2822::parse(date).unwrap().timestamp()
}

fn assert_near(moment: Timestamp, expected: Timestamp) {
    let off = moment.duration_since(expected).abs();
    assert!(off <= SignedDuration::from_secs(5), "{moment} is not {expected}");
}

#[tokio::test]
async fn clock_starts_at_scenario_time() {
    let simulator = start(evening()).await;
    let mut client = Client::connect(&simulator).await;
    let started: Timestamp = EVENING.parse().unwrap();
    assert_near(date_of(&client.poll(KF1).await), started);
    simulator.control().open_session(APPID, KF1, "oA", None).unwrap();
    let listed = client.poll(KF1).await.json();
    let createtime = listed["sessionlist"][0]["createtime"].as_i64().unwrap();
    assert_near(Timestamp::from_second(createtime).unwrap(), started);
    simulator.control().advance(Duration::from_secs(86_400));
    assert_near(simulator.control().now(), started + SignedDuration::from_hours(24));
    assert_near(date_of(&client.poll(KF1).await), started + SignedDuration::from_hours(24));
}

#[tokio::test]
async fn customers_follow_simulated_clock() {
    let starts_at: Timestamp = EVENING.parse().unwrap();
    let simulator = start(Scenario { starts_at: Some(starts_at), ..lively() }).await;
    simulator.control().advance(Duration::from_secs(3_600));
    let ledger = simulator.ledger();
    assert!(ledger.sessions.len() > 200, "{}", ledger.sessions.len());
    let hour_ms = 3_600_000;
    let until_ms = starts_at.as_millisecond() + hour_ms + 60_000;
    for session in &ledger.sessions {
        assert!((starts_at.as_millisecond() - hour_ms..until_ms).contains(&session.opened_at_ms));
    }
}

#[tokio::test]
async fn date_header_is_skewed_on_request() {
    let scenario = Scenario { date_skew: SignedDuration::from_secs(90), ..evening() };
    let simulator = start(scenario).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    let started: Timestamp = EVENING.parse().unwrap();
    assert_near(date_of(&client.poll(KF1).await), started + SignedDuration::from_secs(90));
    control.set_date_skew(SignedDuration::from_secs(-90));
    assert_near(date_of(&client.poll(KF1).await), started - SignedDuration::from_secs(90));
    control.set_date_skew(SignedDuration::ZERO);
    assert_near(date_of(&client.poll(KF1).await), started);
}

#[tokio::test]
async fn day_quota_ends_at_midnight_in_china() {
    let mut scenario = evening();
    scenario.official_accounts[0].session_lists_per_day = 1;
    let simulator = start(scenario).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.advance(Duration::from_secs(59 * 60));
    assert_eq!(client.poll(KF1).await.errcode(), 45009);
    control.advance(Duration::from_secs(60));
    assert_eq!(client.poll(KF1).await.errcode(), 0);
}

#[test]
fn scenario_toml_sets_clock_and_transfers() {
    let text = r#"
        starts_at = "2026-11-22T15:00:00Z"
        date_skew = "-1m 30s"
        transfers = { probability = 0.1, renew_createtime = true }
    "#;
    let scenario = Scenario::from_toml(text).unwrap();
    assert_eq!(scenario.starts_at, Some(EVENING.parse().unwrap()));
    assert_eq!(scenario.date_skew, SignedDuration::from_secs(-90));
    assert!(scenario.transfers.renew_createtime);
}
