//! Kf accounts (binding, invitation, presence) and waiting customers.

use std::time::Duration;

use kfwatch::simulator::{AgentListStyle, ApiCall, KfState, RandomDuration, ResponseStyle};
use serde_json::{Value, json};

use crate::support::simulator::{APPID, Client, KF1, lively, quiet, start, styled};

#[tokio::test]
async fn kf_accounts_can_be_bound_unbound_removed_and_added() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.set_kf_state(APPID, "kf2@test", KfState::Bound).unwrap();
    assert_eq!(client.poll("kf2@test").await.errcode(), 0);
    control.set_kf_state(APPID, KF1, KfState::UnboundRejected).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 65402);
    control.set_kf_state(APPID, KF1, KfState::Invalid).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 65401);
    control.add_kf_account(APPID, KF1).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.add_kf_account(APPID, "new@test").unwrap();
    assert_eq!(client.poll("new@test").await.errcode(), 0);
}

#[tokio::test]
async fn kf_list_includes_bindings_and_invitations() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let list = client.ask(ApiCall::GetKfList).await.json();
    let list = list["kf_list"].as_array().unwrap();
    assert_eq!(list.len(), 3, "the invalid account is not listed");
    assert_eq!((&list[0]["kf_nick"], &list[0]["kf_wx"]), (&json!("M/ing"), &json!("agent_1001")));
    assert_eq!((list[1].get("kf_wx"), list[1].get("invite_status")), (None, None));
    assert_eq!(list[2]["invite_status"], "waiting");
    assert_eq!(list[2].get("kf_wx"), None);
}

#[tokio::test]
async fn customers_wait_until_an_agent_accepts_them() {
    let simulator = start(lively()).await;
    let mut client = Client::connect(&simulator).await;
    let mut waited = 0;
    for _ in 0..30 {
        simulator.control().advance(Duration::from_secs(5));
        let waiting = client.ask(ApiCall::GetWaitCase).await.json();
        let listed = waiting["waitcaselist"].as_array().unwrap();
        assert_eq!(waiting["count"], listed.len());
        waited += listed.len();
        let sessions = client.poll(KF1).await.json()["sessionlist"].as_array().unwrap().len();
        let online = client.ask(ApiCall::GetOnlineKfList).await.json();
        let accepted =
            online["kf_online_list"].as_array().unwrap().iter().find(|agent| agent["kf_account"] == KF1);
        assert_eq!(accepted.map_or(0, |agent| agent["accepted_case"].as_u64().unwrap()), sessions as u64);
    }
    assert!(waited > 5, "{waited}");
}

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);

async fn kf_list(client: &mut Client) -> Vec<Value> {
    client.ask(ApiCall::GetKfList).await.json()["kf_list"].as_array().unwrap().clone()
}

async fn online(client: &mut Client) -> Vec<Value> {
    client.ask(ApiCall::GetOnlineKfList).await.json()["kf_online_list"].as_array().unwrap().clone()
}

#[tokio::test]
async fn lists_follow_added_and_removed_kf_accounts() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.add_kf_account(APPID, "new@test").unwrap();
    control.set_kf_state(APPID, KF1, KfState::Invalid).unwrap();
    let list = kf_list(&mut client).await;
    let names: Vec<&str> = list.iter().map(|entry| entry["kf_account"].as_str().unwrap()).collect();
    assert_eq!(names, ["kf2@test", "kf3@test", "new@test"]);
    assert_eq!(list[2]["kf_nick"], "new");
    assert_eq!(client.poll(KF1).await.errcode(), 65401);
}

#[tokio::test]
async fn agent_lists_follow_style_of_their_account() {
    let agents = AgentListStyle {
        kf_id_of_other_type: true,
        expiry_as_text: true,
        accepted_case_as_text: true,
        lists_offline: true,
        ..AgentListStyle::default()
    };
    let simulator = start(styled(ResponseStyle { agents, ..ResponseStyle::default() })).await;
    let mut client = Client::connect(&simulator).await;
    let list = kf_list(&mut client).await;
    assert_eq!(list[0]["kf_id"], "1001");
    assert!(list[2]["invite_expire_time"].is_string());
    let online = online(&mut client).await.remove(0);
    assert_eq!((&online["kf_id"], &online["accepted_case"]), (&json!(1001), &json!("0")));
    assert!(online["status"].is_i64());
    simulator.control().set_kf_state(APPID, KF1, KfState::Unbound).unwrap();
    assert_eq!(self::online(&mut client).await, Vec::<Value>::new());
}

#[tokio::test]
async fn waiting_customers_can_have_the_old_shape() {
    let agents = AgentListStyle { old_wait_cases: true, ..AgentListStyle::default() };
    let mut scenario = lively();
    scenario.customers.wait = RandomDuration { mean: LONG, min: LONG, max: LONG };
    let mut old = scenario.clone();
    old.official_accounts[0].style.agents = agents;
    let (now, old) = (start(scenario).await, start(old).await);
    for simulator in [&now, &old] {
        simulator.control().advance(Duration::from_secs(120));
    }
    let now = Client::connect(&now).await.ask(ApiCall::GetWaitCase).await.json();
    let old = Client::connect(&old).await.ask(ApiCall::GetWaitCase).await.json();
    let (now, old) = (&now["waitcaselist"][0], &old["waitcaselist"][0]);
    assert_eq!((&now["openid"], now.get("kf_account")), (&old["openid"], None));
    assert_eq!((&old["kf_account"], old.get("latest_time")), (&json!(KF1), None));
    let arrived_s = old["createtime"].as_i64().unwrap();
    assert!(now["latest_time"].as_i64().unwrap() > arrived_s, "the last message, not the first");
}
