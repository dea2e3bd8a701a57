//! Quotas.

use serde_json::json;

use crate::support::simulator::{Client, KF1, quiet, start};

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
