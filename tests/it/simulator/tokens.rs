//! Tokens of an official account: how long they are valid, and what ends them early.

use std::time::Duration;

use kfwatch::simulator::ApiCall;

use crate::support::simulator::{APPID, Client, KF1, SECRET, quiet, start, token_path};

#[tokio::test]
async fn replaced_classic_token_is_valid_for_the_overlap_only() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::without_token(&simulator).await;
    let issued = client.classic_token().await;
    assert_eq!(issued["expires_in"], 7200);
    client.token = issued["access_token"].as_str().unwrap().to_owned();
    control.fetch_competing_token(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.advance(Duration::from_secs(300));
    assert_eq!(client.poll(KF1).await.errcode(), 40001);
}

#[tokio::test]
async fn stable_token_is_unaffected_by_classic_tokens() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    for _ in 0..3 {
        client.classic_token().await;
    }
    simulator.control().advance(Duration::from_secs(1_000));
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    let again = client.stable_token().await;
    assert_eq!(again["access_token"].as_str(), Some(&*client.token));
    let expires_in = again["expires_in"].as_i64().unwrap();
    assert!((6_190..=6_200).contains(&expires_in), "{expires_in}");
}

#[tokio::test]
async fn expired_and_revoked_tokens_have_their_own_errcodes() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.expire_tokens(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 42001);
    control.revoke_tokens(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 40001);
    client.token = client.stable_token().await["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.advance(Duration::from_secs(7_200));
    assert_eq!(client.poll(KF1).await.errcode(), 42001);
}

#[tokio::test]
async fn frozen_secret_and_refused_address_affect_token_calls_only() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.freeze_secret(APPID).unwrap();
    assert_eq!(client.classic_token().await["errcode"], 40243);
    control.unfreeze_secret(APPID).unwrap();
    control.refuse_address(APPID).unwrap();
    let refused = client.stable_token().await;
    assert_eq!(refused["errcode"], 40164);
    assert!(refused["errmsg"].as_str().unwrap().starts_with("invalid ip 203.0.113.7 "), "{refused}");
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.allow_address(APPID).unwrap();
    assert!(client.stable_token().await["access_token"].is_string());
}

#[tokio::test]
async fn token_requests_are_recorded_with_their_time() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.advance(Duration::from_secs(60));
    client.classic_token().await;
    client.get(&token_path("wx1", SECRET)).await;
    client.poll(KF1).await;
    let calls = control.token_calls();
    let endpoints: Vec<ApiCall> = calls.iter().map(|call| call.endpoint).collect();
    assert_eq!(endpoints, [ApiCall::StableToken, ApiCall::Token, ApiCall::Token]);
    assert_eq!(calls[1].appid.as_deref(), Some(APPID));
    assert_eq!(calls[2].appid, None, "of an unknown appid");
    let between_ms = calls[1].at_ms - calls[0].at_ms;
    assert!((60_000..70_000).contains(&between_ms), "{between_ms}");
}
