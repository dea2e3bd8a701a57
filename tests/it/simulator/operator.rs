//! The operator's own central token server.

use std::time::Duration;

use kfwatch::simulator::{ApiCall, Fault, FaultRule, RequiredHeader, Scenario, TokenServerScript};

use crate::support::simulator::{APPID, Client, KF1, quiet, start};

const PATH: &str = "/simulator/tokens/wx0123456789abcdef";

#[tokio::test]
async fn token_server_returns_valid_token() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let given = client.get(PATH).await.json();
    assert_eq!(given["access_token"].as_str(), Some(&*client.token), "the token of stable_token");
    simulator.control().advance(Duration::from_secs(7_200));
    let given = client.get(PATH).await.json();
    client.token = given["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    assert!(given["expires_in"].as_i64().unwrap() > 7_100, "{given}");
    assert_eq!(client.get("/simulator/tokens/wx1").await.status, 404);
    assert_eq!(simulator.control().requests_of(APPID, ApiCall::TokenServer), Ok(2));
    assert_eq!(simulator.control().requests(ApiCall::TokenServer), 3);
}

#[tokio::test]
async fn token_server_requires_its_header() {
    let header = Some(RequiredHeader { name: "Authorization".to_owned(), value: "Bearer k1".to_owned() });
    let token_server = TokenServerScript { header, ..TokenServerScript::default() };
    let simulator = start(Scenario { token_server, ..quiet() }).await;
    let mut client = Client::without_token(&simulator).await;
    assert_eq!(client.get(PATH).await.status, 403);
    assert_eq!(client.get_with(PATH, "Authorization: Bearer k2").await.status, 403);
    assert_eq!(client.get_with(PATH, "Authorization: Bearer k1").await.status, 200);
}

#[tokio::test]
async fn stale_token_server_keeps_returning_invalid_token() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::without_token(&simulator).await;
    control.break_token_server(APPID).unwrap();
    let stale = client.get(PATH).await.json();
    client.token = stale["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.errcode(), 40001);
    assert_eq!(client.get(PATH).await.json(), stale);
    control.repair_token_server(APPID).unwrap();
    client.token = client.get(PATH).await.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
}

#[tokio::test]
async fn token_server_has_its_own_faults() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let inject = |fault| {
        simulator.control().inject(FaultRule {
            endpoint: Some(ApiCall::TokenServer),
            official_account: Some("shop".to_owned()),
            times: Some(1),
            ..FaultRule::new(fault)
        });
    };
    inject(Fault::HttpStatus(503));
    assert_eq!(client.poll(KF1).await.errcode(), 0, "not a call of the token server");
    assert_eq!(client.get(PATH).await.status, 503);
    inject(Fault::Garbage);
    assert!(serde_json::from_slice::<serde_json::Value>(&client.get(PATH).await.body).is_err());
    inject(Fault::Close);
    assert!(client.request("GET", PATH, "").await.is_err());
}
