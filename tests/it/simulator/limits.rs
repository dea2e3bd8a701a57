//! Quotas and permissions.

use std::time::Duration;

use kfwatch::simulator::{ApiCall, Scenario};
use serde_json::{Value, json};

use crate::support::simulator::{APPID, Client, KF1, quiet, start};

#[tokio::test]
async fn quota_is_counted_and_enforced() {
    let mut scenario = quiet();
    scenario.official_accounts[0].session_lists_per_day = 2;
    let simulator = start(scenario).await;
    let mut client = Client::connect(&simulator).await;
    for errcode in [0, 0, 45009] {
        assert_eq!(client.poll(KF1).await.errcode(), errcode);
    }
    let path = format!("/cgi-bin/openapi/quota/get?access_token={}", client.token);
    let quota = client.post(&path, r#"{"cgi_path":"/customservice/kfsession/getsessionlist"}"#).await.json();
    assert_eq!(quota["quota"], json!({"daily_limit": 2, "used": 2, "remain": 0}));
}

#[tokio::test]
async fn minute_limit_is_reported_and_ends_with_the_minute() {
    let scenario = Scenario { session_lists_per_minute: Some(2), ..quiet() };
    // The first second of a minute.
    let starts_at = Some("2026-11-22T15:00:01Z".parse().unwrap());
    let simulator = start(Scenario { starts_at, ..scenario }).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    for errcode in [0, 0, 45011] {
        assert_eq!(client.poll(KF1).await.errcode(), errcode);
    }
    let quota = quota(&mut client, ApiCall::GetSessionList).await;
    assert_eq!(quota["quota"]["used"], 2);
    assert_eq!(quota["rate_limit"], json!({"call_count": 2, "refresh_second": 60}));
    control.advance(Duration::from_secs(60));
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.limit_per_minute(APPID, ApiCall::GetSessionList, None).unwrap();
    for _ in 0..5 {
        assert_eq!(client.poll(KF1).await.errcode(), 0);
    }
}

#[tokio::test]
async fn each_endpoint_has_its_own_changeable_limit() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    client.ask(ApiCall::GetKfList).await;
    control.limit_per_day(APPID, ApiCall::GetKfList, 1).unwrap();
    assert_eq!(client.ask(ApiCall::GetKfList).await.errcode(), 45009);
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    let reported = quota(&mut client, ApiCall::GetKfList).await;
    assert_eq!(reported, json!({"quota": {"daily_limit": 1, "used": 1, "remain": 0}}));
    control.advance(Duration::from_secs(86_400));
    client.token = client.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.ask(ApiCall::GetKfList).await.errcode(), 0);
}

#[tokio::test]
async fn denied_endpoint_affects_no_other() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    for endpoint in [ApiCall::GetKfList, ApiCall::GetOnlineKfList, ApiCall::GetWaitCase] {
        control.revoke_permission(APPID, endpoint).unwrap();
        assert_eq!(client.ask(endpoint).await.errcode(), 48001);
        assert_eq!(client.poll(KF1).await.errcode(), 0);
        control.restore_permission(APPID, endpoint).unwrap();
        assert_eq!(client.ask(endpoint).await.errcode(), 0);
    }
    control.revoke_permission(APPID, ApiCall::GetSessionList).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 48001);
}

async fn quota(client: &mut Client, endpoint: ApiCall) -> Value {
    let path = format!("{}?access_token={}", ApiCall::QuotaGet.path(), client.token);
    client.post(&path, &json!({"cgi_path": endpoint.path()}).to_string()).await.json()
}
