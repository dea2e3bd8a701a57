//! Third-party platforms: tickets, component tokens, and the authorizations of official accounts.

use std::time::Duration;

use kfwatch::simulator::{
    ApiCall, ComponentParameter, ComponentScript, Fault, FaultRule, RefreshTokenRotation, RequiredHeader,
    Scenario, Simulator, SimulatorControlError,
};
use serde_json::{Value, json};

use crate::support::simulator::{APPID, Client, KF1, quiet, start};

const COMPONENT: &str = "wxc0c0c0c0c0c0c0c0";
const COMPONENT_SECRET: &str = "c0c0";
const HOUR: Duration = Duration::from_secs(3_600);

fn platform(parameter: ComponentParameter, rotation: RefreshTokenRotation) -> Scenario {
    let component = ComponentScript {
        component_appid: COMPONENT.to_owned(),
        secret: COMPONENT_SECRET.to_owned(),
        authorizers: vec!["shop".to_owned()],
        component_parameter: parameter,
        rotate_refresh_tokens: rotation,
        ticket_header: None,
    };
    Scenario { components: vec![component], ..quiet() }
}

async fn start_platform(rotation: RefreshTokenRotation) -> Simulator {
    start(platform(ComponentParameter::Either, rotation)).await
}

async fn component_token(client: &mut Client, secret: &str, ticket: &str) -> Value {
    let body = json!({"component_appid": COMPONENT, "component_appsecret": secret,
                      "component_verify_ticket": ticket});
    client.post(ApiCall::ComponentToken.path(), &body.to_string()).await.json()
}

/// Connects a client whose token is a component_access_token.
async fn connect(simulator: &Simulator) -> Client {
    let mut client = Client::without_token(simulator).await;
    let ticket = simulator.control().ticket(COMPONENT).unwrap();
    let issued = component_token(&mut client, COMPONENT_SECRET, &ticket).await;
    assert_eq!(issued["expires_in"], 7200, "{issued}");
    client.token = issued["component_access_token"].as_str().unwrap().to_owned();
    client
}

async fn of_component(client: &mut Client, endpoint: ApiCall, body: Value) -> Value {
    let path = format!("{}?component_access_token={}", endpoint.path(), client.token);
    client.post(&path, &body.to_string()).await.json()
}

async fn authorizer_token(client: &mut Client, refresh_token: &str) -> Value {
    let body = json!({"component_appid": COMPONENT, "authorizer_appid": APPID,
                      "authorizer_refresh_token": refresh_token});
    of_component(client, ApiCall::AuthorizerToken, body).await
}

async fn authorizers(client: &mut Client, offset: u64, count: u64) -> Value {
    let body = json!({"component_appid": COMPONENT, "offset": offset, "count": count});
    of_component(client, ApiCall::AuthorizerList, body).await
}

#[tokio::test]
async fn ticket_leads_to_authorizer_token_and_sessions() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let mut client = connect(&simulator).await;
    let refresh_token = simulator.control().refresh_token(APPID).unwrap();
    let issued = authorizer_token(&mut client, &refresh_token).await;
    assert_eq!(
        (&issued["expires_in"], &issued["authorizer_refresh_token"]),
        (&json!(7200), &json!(refresh_token))
    );
    client.token = issued["authorizer_access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.body, br#"{"sessionlist":[]}"#);
    assert_eq!(client.ask(ApiCall::GetKfList).await.errcode(), 0);
    simulator.control().advance(2 * HOUR);
    assert_eq!(client.poll(KF1).await.errcode(), 42001);
}

#[tokio::test]
async fn wrong_component_calls_return_their_errcode() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let mut client = connect(&simulator).await;
    let ticket = simulator.control().ticket(COMPONENT).unwrap();
    let path = ApiCall::ComponentToken.path();
    let bodies = [
        ("no json".to_owned(), 47001),
        ("{}".to_owned(), 41018),
        (json!({"component_appid": "wx1", "component_appsecret": "s"}).to_string(), 61011),
        (json!({"component_appid": COMPONENT}).to_string(), 41004),
        (json!({"component_appid": COMPONENT, "component_appsecret": "wrong"}).to_string(), 40125),
        (json!({"component_appid": COMPONENT, "component_appsecret": COMPONENT_SECRET}).to_string(), 47001),
    ];
    for (body, errcode) in bodies {
        assert_eq!(client.post(path, &body).await.errcode(), errcode, "{body}");
    }
    assert_eq!(client.get(path).await.errcode(), 43002);
    assert_eq!(component_token(&mut client, COMPONENT_SECRET, "ticket@@@x").await["errcode"], 61006);
    assert_eq!(component_token(&mut client, "wrong", &ticket).await["errcode"], 40125);
    assert_eq!(authorizer_token(&mut client, "refreshtoken@@@x").await["errcode"], 61023);
    let unknown = json!({"component_appid": COMPONENT, "authorizer_appid": "wx1"});
    assert_eq!(of_component(&mut client, ApiCall::AuthorizerToken, unknown).await["errcode"], 40013);
    for (offset, count, errcode) in [(0, 0, 40097), (0, 501, 40097)] {
        assert_eq!(authorizers(&mut client, offset, count).await["errcode"], errcode);
    }
    client.token = "nonsense".to_owned();
    assert_eq!(authorizers(&mut client, 0, 1).await["errcode"], 40001);
}

#[tokio::test]
async fn scenario_sets_name_of_query_parameter() {
    for (parameter, accepted) in [
        (ComponentParameter::Either, [true, true]),
        (ComponentParameter::ComponentAccessToken, [true, false]),
        (ComponentParameter::AccessToken, [false, true]),
    ] {
        let simulator = start(platform(parameter, RefreshTokenRotation::Never)).await;
        let mut client = connect(&simulator).await;
        let body = json!({"component_appid": COMPONENT, "offset": 0, "count": 500}).to_string();
        for (name, is_accepted) in ["component_access_token", "access_token"].into_iter().zip(accepted) {
            let path = format!("{}?{name}={}", ApiCall::AuthorizerList.path(), client.token);
            let errcode = if is_accepted { 0 } else { 41001 };
            assert_eq!(client.post(&path, &body).await.errcode(), errcode, "{parameter:?} {name}");
        }
    }
}

#[tokio::test]
async fn component_token_expires_after_2_hours_and_ticket_after_12() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let control = simulator.control();
    let mut client = connect(&simulator).await;
    let first = control.ticket(COMPONENT).unwrap();
    control.advance(2 * HOUR);
    assert_eq!(authorizers(&mut client, 0, 1).await["errcode"], 42001);
    assert_ne!(control.ticket(COMPONENT).unwrap(), first);
    assert!(
        component_token(&mut client, COMPONENT_SECRET, &first).await["component_access_token"].is_string()
    );
    control.advance(10 * HOUR);
    assert_eq!(component_token(&mut client, COMPONENT_SECRET, &first).await["errcode"], 61005);
}

#[tokio::test]
async fn refresh_tokens_rotate_as_scripted() {
    for (rotation, errcode_of_the_old) in
        [(RefreshTokenRotation::WhenUsed, None), (RefreshTokenRotation::AtOnce, Some(61023))]
    {
        let simulator = start_platform(rotation).await;
        let mut client = connect(&simulator).await;
        let first = simulator.control().refresh_token(APPID).unwrap();
        let answer = authorizer_token(&mut client, &first).await;
        let second = answer["authorizer_refresh_token"].as_str().unwrap().to_owned();
        assert_ne!(second, first);
        let again = authorizer_token(&mut client, &first).await;
        assert_eq!(again.get("errcode").and_then(Value::as_i64), errcode_of_the_old);
        assert!(authorizer_token(&mut client, &second).await["authorizer_access_token"].is_string());
        assert_eq!(authorizer_token(&mut client, &first).await["errcode"], 61023, "the new one was used");
    }
}

#[tokio::test]
async fn invalidated_refresh_token_is_read_again_from_list() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let control = simulator.control();
    let mut client = connect(&simulator).await;
    let first = control.refresh_token(APPID).unwrap();
    control.invalidate_refresh_token(APPID).unwrap();
    assert_eq!(authorizer_token(&mut client, &first).await["errcode"], 61023);
    let list = authorizers(&mut client, 0, 500).await;
    assert_eq!((&list["total_count"], &list["list"][0]["authorizer_appid"]), (&json!(1), &json!(APPID)));
    assert!(list["list"][0]["auth_time"].is_i64());
    let second = list["list"][0]["refresh_token"].as_str().unwrap();
    assert!(authorizer_token(&mut client, second).await["authorizer_access_token"].is_string());
}

#[tokio::test]
async fn authorizer_list_is_paged() {
    let mut scenario = Scenario::load(5, 0, 0, 0.0);
    let names = scenario.official_accounts.iter().map(|official| official.name.clone()).collect();
    let template = platform(ComponentParameter::Either, RefreshTokenRotation::Never).components.remove(0);
    scenario.components = vec![ComponentScript { authorizers: names, ..template }];
    let simulator = start(scenario).await;
    let mut client = connect(&simulator).await;
    let mut appids = Vec::new();
    for offset in [0, 2, 4, 6] {
        let page = authorizers(&mut client, offset, 2).await;
        assert_eq!(page["total_count"], 5);
        let listed = page["list"].as_array().unwrap().iter();
        appids.extend(listed.map(|entry| entry["authorizer_appid"].as_str().unwrap().to_owned()));
    }
    assert_eq!(appids.len(), 5);
    assert!(appids.is_sorted(), "{appids:?}");
}

#[tokio::test]
async fn authorization_can_be_revoked_and_granted_again() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let control = simulator.control();
    let mut component = connect(&simulator).await;
    let first = control.refresh_token(APPID).unwrap();
    let issued = authorizer_token(&mut component, &first).await;
    let mut merchant = Client::without_token(&simulator).await;
    merchant.token = issued["authorizer_access_token"].as_str().unwrap().to_owned();

    control.revoke_authorization(APPID).unwrap();
    assert_eq!(merchant.poll(KF1).await.errcode(), 40001);
    assert_eq!(authorizer_token(&mut component, &first).await["errcode"], 61003);
    assert_eq!(authorizers(&mut component, 0, 500).await, json!({"total_count": 0, "list": []}));
    assert_eq!(control.refresh_token(APPID), Err(SimulatorControlError::NotGranted(APPID.to_owned())));

    control.grant_authorization(APPID).unwrap();
    assert_eq!(authorizer_token(&mut component, &first).await["errcode"], 61023);
    let second = control.refresh_token(APPID).unwrap();
    assert_eq!(authorizers(&mut component, 0, 500).await["list"][0]["refresh_token"], second);
    let issued = authorizer_token(&mut component, &second).await;
    merchant.token = issued["authorizer_access_token"].as_str().unwrap().to_owned();
    assert_eq!(merchant.poll(KF1).await.errcode(), 0);
}

#[tokio::test]
async fn component_address_off_allow_list_blocks_its_calls() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let control = simulator.control();
    let mut component = connect(&simulator).await;
    let issued = authorizer_token(&mut component, &control.refresh_token(APPID).unwrap()).await;
    let mut merchant = Client::connect(&simulator).await;
    control.refuse_address(COMPONENT).unwrap();
    assert_eq!(authorizers(&mut component, 0, 1).await["errcode"], 61004);
    assert_eq!(merchant.poll(KF1).await.errcode(), 0, "its own token is not affected");
    merchant.token = issued["authorizer_access_token"].as_str().unwrap().to_owned();
    assert_eq!(merchant.poll(KF1).await.errcode(), 61004);
    control.allow_address(COMPONENT).unwrap();
    assert_eq!(merchant.poll(KF1).await.errcode(), 0);
}

#[tokio::test]
async fn fault_of_component_call_expires_component_token_only() {
    let simulator = start_platform(RefreshTokenRotation::Never).await;
    let mut component = connect(&simulator).await;
    let mut merchant = Client::connect(&simulator).await;
    simulator.control().inject(FaultRule {
        endpoint: Some(ApiCall::AuthorizerToken),
        times: Some(1),
        ..FaultRule::new(Fault::ExpireTokens)
    });
    let refresh_token = simulator.control().refresh_token(APPID).unwrap();
    assert_eq!(authorizer_token(&mut component, &refresh_token).await["errcode"], 42001);
    assert_eq!(merchant.poll(KF1).await.errcode(), 0);
}

#[tokio::test]
async fn ticket_server_returns_newest_ticket_to_authorized_callers() {
    let mut scenario = platform(ComponentParameter::Either, RefreshTokenRotation::Never);
    scenario.components[0].ticket_header =
        Some(RequiredHeader { name: "X-Ticket-Key".to_owned(), value: "k1".to_owned() });
    let simulator = start(scenario).await;
    let control = simulator.control();
    let mut client = Client::without_token(&simulator).await;
    let path = format!("/simulator/tickets/{COMPONENT}");
    assert_eq!(client.get(&path).await.status, 403);
    assert_eq!(client.get_with(&path, "x-ticket-key: k2").await.status, 403);
    let admitted = client.get_with(&path, "x-ticket-key: k1").await;
    assert_eq!(admitted.body, control.ticket(COMPONENT).unwrap().as_bytes());
    control.advance(Duration::from_secs(600));
    assert_ne!(client.get_with(&path, "x-ticket-key: k1").await.body, admitted.body);
    assert_eq!(client.get("/simulator/tickets/wx1").await.status, 404);
    assert_eq!(control.requests_of(COMPONENT, ApiCall::TicketServer), Ok(4));
}

#[tokio::test]
async fn official_account_without_component_has_no_authorization() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let none = || SimulatorControlError::NoComponent(APPID.to_owned());
    assert_eq!(control.grant_authorization(APPID), Err(none()));
    assert_eq!(control.refresh_token(APPID), Err(none()));
    assert_eq!(control.ticket(COMPONENT), Err(SimulatorControlError::Unknown(COMPONENT.to_owned())));
}
