//! Responses of getsessionlist in every style, and the errcodes of wrong calls.

use kfwatch::simulator::{ResponseStyle, SimulatorControlError};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::simulator::{APPID, Client, KF1, SECRET, poll_path, quiet, start, styled, token_path};

#[tokio::test]
async fn session_is_listed_until_closed() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    assert_eq!(client.poll(KF1).await.body, br#"{"sessionlist":[]}"#);
    control.open_session(APPID, KF1, "oA", Some(1_795_331_551)).unwrap();
    let listed = client.poll("kf1%40test").await;
    assert_eq!(listed.body, br#"{"sessionlist":[{"createtime":1795331551,"openid":"oA"}]}"#);
    assert_eq!(listed.header("content-type"), Some("application/json; encoding=utf-8"));
    assert!(listed.header("date").is_some());
    control.close_session(APPID, KF1, "oA").unwrap();
    assert_eq!(client.poll(KF1).await.body, br#"{"sessionlist":[]}"#);
    assert_eq!(
        control.close_session(APPID, KF1, "oA"),
        Err(SimulatorControlError::NoSession("oA".to_owned()))
    );
}

#[tokio::test]
async fn wrong_calls_return_their_errcode() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let token = client.token.clone();
    let gets = [
        ("/cgi-bin/token?grant_type=password&appid=a&secret=b".to_owned(), 40002),
        ("/cgi-bin/token?grant_type=client_credential&secret=b".to_owned(), 41002),
        (format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}"), 41004),
        (token_path("wx1", SECRET), 40013),
        (token_path(APPID, "wrong"), 40125),
        ("/cgi-bin/stable_token".to_owned(), 43002),
        (poll_path("", KF1), 41001),
        (poll_path("nonsense", KF1), 40001),
        (poll_path(&token, "kf2@test"), 65402),
        (poll_path(&token, "kf3@test"), 65402),
        (poll_path(&token, "kf4@test"), 65401),
        (poll_path(&token, "unknown@test"), 65401),
        (poll_path(&token, ""), 65401),
    ];
    for (path, errcode) in gets {
        assert_eq!(client.get(&path).await.errcode(), errcode, "{path}");
    }
    let stable =
        |secret| format!(r#"{{"grant_type":"client_credential","appid":"{APPID}","secret":"{secret}"}}"#);
    let posts = [
        (poll_path(&token, KF1), String::new(), 43001),
        ("/cgi-bin/stable_token".to_owned(), "no json".to_owned(), 47001),
        ("/cgi-bin/stable_token".to_owned(), "{}".to_owned(), 40002),
        ("/cgi-bin/stable_token".to_owned(), stable("wrong"), 40125),
        (
            format!("/cgi-bin/openapi/quota/get?access_token={token}"),
            r#"{"cgi_path":"/x"}"#.to_owned(),
            76021,
        ),
    ];
    for (path, body, errcode) in posts {
        assert_eq!(client.post(&path, &body).await.errcode(), errcode, "{path}");
    }
    let nowhere = client.get("/cgi-bin/nowhere").await;
    assert_eq!((nowhere.status, nowhere.header("content-type")), (404, Some("text/html; charset=utf-8")));
}

#[tokio::test]
async fn error_includes_hint_and_rid() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let error = client.poll("kf4@test").await.json();
    let message = error["errmsg"].as_str().unwrap();
    assert!(message.starts_with("invalid custom service account hint: ["), "{message}");
    let rid = message.split_once("] rid: ").unwrap().1;
    assert_eq!(rid.split('-').map(str::len).collect::<Vec<_>>(), [8, 8, 8]);
}

#[tokio::test]
async fn response_follows_style_of_its_account() {
    let style = ResponseStyle {
        createtime_as_text: true,
        escaped_slashes: true,
        omit_empty_list: true,
        explicit_ok: true,
        text_plain: true,
        shuffle: 0.0,
        duplicate: 1.0,
        ..ResponseStyle::default()
    };
    let simulator = start(styled(style)).await;
    let mut client = Client::connect(&simulator).await;
    let empty = client.poll(KF1).await;
    assert_eq!(empty.body, br#"{"errcode":0,"errmsg":"ok"}"#);
    assert_eq!(empty.header("content-type"), Some("text/plain"));
    simulator.control().open_session(APPID, KF1, "o/A", Some(5)).unwrap();
    let twice = r#"{"createtime":"5","openid":"o\/A"},{"createtime":"5","openid":"o\/A"}"#;
    let expected = format!(r#"{{"errcode":0,"errmsg":"ok","sessionlist":[{twice}]}}"#);
    assert_eq!(String::from_utf8(client.poll(KF1).await.body).unwrap(), expected);
}

#[tokio::test]
async fn shuffled_response_lists_same_sessions() {
    let simulator = start(styled(ResponseStyle { shuffle: 1.0, ..ResponseStyle::default() })).await;
    let mut client = Client::connect(&simulator).await;
    for number in 0..50 {
        simulator.control().open_session(APPID, KF1, &format!("o{number:02}"), Some(5)).unwrap();
    }
    let openids = |answer: Value| -> Vec<String> {
        let listed = answer["sessionlist"].as_array().unwrap().iter();
        listed.map(|session| session["openid"].as_str().unwrap().to_owned()).collect()
    };
    let [mut first, mut second] =
        [openids(client.poll(KF1).await.json()), openids(client.poll(KF1).await.json())];
    assert_ne!(first, second);
    first.sort();
    second.sort();
    assert_eq!(first, second);
}

#[tokio::test]
async fn stopped_simulator_refuses_connections() {
    let simulator = start(quiet()).await;
    let address = simulator.address();
    let mut client = Client::connect(&simulator).await;
    simulator.stop().await;
    assert!(client.try_poll(KF1).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
#[ignore = "needs python3 with wechatpy from PyPI; tests/run.sh runs it"]
async fn wechatpy_accepts_simulator() {
    #[expect(clippy::disallowed_methods, reason = "the interpreter that has wechatpy is the caller's choice")]
    let python = std::env::var("KFWATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let simulator = start(quiet()).await;
    simulator.control().open_session(APPID, KF1, "oA", Some(5)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/wechatpy_client.py");
    let arguments =
        [script, &simulator.base_url(), APPID, SECRET, KF1, "kf2@test", "kf4@test"].map(str::to_owned);
    let run = move || std::process::Command::new(python).args(arguments).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sessions = json!([{"createtime": 5, "openid": "oA"}]);
    assert_eq!(seen["expires_in"], 7200);
    assert_eq!(seen["accounts"][0]["kf_account"], KF1);
    assert!(seen["online"].is_array());
    assert_eq!(seen["wait_case"], json!({"count": 0, "waitcaselist": []}));
    assert_eq!(seen["sessions"], sessions);
    assert_eq!(seen["sessions_after_refusal"], sessions);
    assert_eq!([&seen["unbound"], &seen["invalid"], &seen["wrong_secret"]], [65402, 65401, 40125]);
}
