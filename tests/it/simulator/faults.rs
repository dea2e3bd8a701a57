//! Every fault, on the wire and in the ledger.

use std::io;
use std::time::Duration;

use kfwatch::simulator::{ApiCall, ConnectionUse, Fault, FaultRule, PollRecord, RecordedResponse};
use tokio::io::AsyncReadExt as _;

use crate::support::simulator::{
    APPID, Client, KF1, Response, eventually, eventually_polled, poll_path, quiet, start,
};

/// Polls a kf account with one open session under this fault. Returns the response and the ledger's record of the poll.
async fn poll_with(fault: Fault) -> (io::Result<Response>, PollRecord) {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.open_session(APPID, KF1, "oA", Some(5)).unwrap();
    control.inject(FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        times: Some(1),
        ..FaultRule::new(fault)
    });
    let response = client.try_poll(KF1).await;
    eventually("the end of the poll", || simulator.ledger().polls.len() == 1).await;
    (response, simulator.ledger().polls.remove(0))
}

async fn body_of(fault: Fault) -> (String, RecordedResponse) {
    let (response, poll) = poll_with(fault).await;
    let response = response.unwrap();
    assert_eq!(response.status, 200);
    (String::from_utf8_lossy(&response.body).into_owned(), poll.response)
}

#[tokio::test]
async fn errcode_faults_are_sent_and_recorded() {
    for errcode in [-1, 40001, 40164, 42001, 45009, 45011, 48001, 50002, 65400, 12345] {
        let (body, answer) = body_of(Fault::Errcode(errcode)).await;
        assert!(body.starts_with(&format!(r#"{{"errcode":{errcode},"errmsg":""#)), "{body}");
        assert_eq!(answer, RecordedResponse::Refused(errcode));
    }
    let (body, answer) = body_of(Fault::ErrcodeAsText(45011)).await;
    assert!(body.starts_with(r#"{"errcode":"45011","#), "{body}");
    assert_eq!(answer, RecordedResponse::Refused(45011));
}

#[tokio::test]
async fn token_faults_are_recorded() {
    assert_eq!(body_of(Fault::ExpireTokens).await.1, RecordedResponse::Refused(42001));
    assert_eq!(body_of(Fault::RevokeTokens).await.1, RecordedResponse::Refused(40001));
    assert_eq!(body_of(Fault::CompetingTokenFetch).await.1, RecordedResponse::Listed(vec![0]));
}

#[tokio::test]
async fn http_faults_are_sent_and_recorded() {
    let (bad_gateway, poll) = poll_with(Fault::HttpStatus(502)).await;
    let bad_gateway = bad_gateway.unwrap();
    assert_eq!(bad_gateway.status, 502);
    assert!(bad_gateway.body.starts_with(b"<html>"));
    assert_eq!(poll.response, RecordedResponse::Failed(Fault::HttpStatus(502)));

    let unavailable = poll_with(Fault::Unavailable(3)).await.0.unwrap();
    assert_eq!((unavailable.status, unavailable.header("retry-after")), (503, Some("3")));

    let redirect = poll_with(Fault::Redirect("http://127.0.0.1:1/x".to_owned())).await.0.unwrap();
    assert_eq!((redirect.status, redirect.header("location")), (302, Some("http://127.0.0.1:1/x")));

    let html = poll_with(Fault::Html).await.0.unwrap();
    assert_eq!((html.status, html.header("content-type")), (200, Some("text/html; charset=utf-8")));

    let gbk = poll_with(Fault::EmptyGbkBody).await.0.unwrap();
    assert_eq!((gbk.body.len(), gbk.header("content-type")), (0, Some("text/html; charset=gbk")));

    let text = poll_with(Fault::TextPlain).await.0.unwrap();
    assert_eq!(text.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn body_faults_are_sent_and_recorded() {
    const GOOD: &str = r#""sessionlist":[{"createtime":5,"openid":"oA"}]}"#;
    let questionable = RecordedResponse::Questionable(Box::new(RecordedResponse::Listed(vec![0])));
    assert_eq!(body_of(Fault::EmptyBody).await, (String::new(), RecordedResponse::Failed(Fault::EmptyBody)));
    assert_eq!(body_of(Fault::Garbage).await.1, RecordedResponse::Failed(Fault::Garbage));
    let (marked, answer) = body_of(Fault::ByteOrderMark).await;
    assert_eq!((marked, answer), (format!("\u{feff}{{{GOOD}"), questionable.clone()));
    let (controls, answer) = body_of(Fault::ControlCharacters).await;
    assert_eq!((controls, answer), (format!("{{\"note\":\"a\u{1}b\tc\nd\",{GOOD}"), questionable.clone()));
    let (invalid, answer) = body_of(Fault::InvalidUtf8).await;
    assert!(invalid.contains('\u{fffd}') && invalid.ends_with(GOOD), "{invalid}");
    assert_eq!(answer, questionable);
    let (oversized, answer) = body_of(Fault::OversizedBody).await;
    assert_eq!(oversized.trim_start(), format!("{{{GOOD}"));
    assert!(oversized.len() > 10_000_000);
    assert_eq!(answer, questionable);
}

#[tokio::test]
async fn list_faults_are_sent_and_recorded() {
    let (absent, answer) = body_of(Fault::ListAbsent).await;
    assert_eq!((&*absent, answer), ("{}", RecordedResponse::Keyless));
    let (null, answer) = body_of(Fault::ListNull).await;
    assert_eq!((&*null, answer), (r#"{"sessionlist":null}"#, RecordedResponse::Keyless));
    let malformed = [
        (Fault::ListOfWrongType, r#"{"sessionlist":{"createtime":1,"openid":"o"}}"#),
        (
            Fault::EntryWithoutOpenid,
            r#"{"sessionlist":[{"createtime":5,"openid":"oA"},{"createtime":1795331551}]}"#,
        ),
        (
            Fault::CreatetimeNoNumber,
            r#"{"sessionlist":[{"createtime":5,"openid":"oA"},{"createtime":"soon","openid":"oNoNumber"}]}"#,
        ),
    ];
    for (fault, expected) in malformed {
        let recorded = RecordedResponse::Failed(fault.clone());
        assert_eq!(body_of(fault).await, (expected.to_owned(), recorded));
    }
}

#[tokio::test]
async fn truncated_body_ends_after_its_first_half() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    simulator.control().inject(FaultRule::new(Fault::TruncatedBody));
    let path = poll_path(&client.token, KF1);
    client.send("GET", &path, "").await.unwrap();
    let mut received = Vec::new();
    client.stream.read_to_end(&mut received).await.unwrap();
    let received = String::from_utf8(received).unwrap();
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 82"), "{head}");
    assert_eq!(body, r#"{"session"#);
}

#[tokio::test]
async fn close_fault_ends_and_reset_fault_resets_connection() {
    let (closed, poll) = poll_with(Fault::Close).await;
    assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!((poll.response, poll.answered_at_ms), (RecordedResponse::Failed(Fault::Close), None));
    let (reset, poll) = poll_with(Fault::Reset).await;
    assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(poll.response, RecordedResponse::Failed(Fault::Reset));
}

#[tokio::test]
async fn fault_can_be_limited_to_reused_connections() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let rule = FaultRule { on_connection: Some(ConnectionUse::Reused), ..FaultRule::new(Fault::Close) };
    simulator.control().inject(rule);
    let mut fresh = Client { token: client.token.clone(), ..Client::without_token(&simulator).await };
    assert_eq!(fresh.poll(KF1).await.errcode(), 0);
    assert!(fresh.try_poll(KF1).await.is_err());
    assert!(client.try_poll(KF1).await.is_err());
}

#[tokio::test]
async fn hanging_response_ends_with_its_client() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    simulator.control().inject(FaultRule::new(Fault::Hang));
    let path = poll_path(&client.token, KF1);
    client.send("GET", &path, "").await.unwrap();
    eventually_polled(&simulator, 1).await;
    assert!(simulator.ledger().polls.is_empty());
    drop(client);
    eventually("the end of the poll", || simulator.ledger().polls.len() == 1).await;
    let poll = simulator.ledger().polls.remove(0);
    assert_eq!((poll.answered_at_ms, poll.response), (None, RecordedResponse::Failed(Fault::Hang)));
}

#[tokio::test]
async fn slow_responses_arrive_completely() {
    const LONG: Duration = Duration::from_millis(80);
    for fault in [Fault::Slow(LONG), Fault::Drip(LONG)] {
        let (response, poll) = poll_with(fault).await;
        assert_eq!(response.unwrap().json()["sessionlist"].as_array().unwrap().len(), 1);
        assert_eq!(poll.response, RecordedResponse::Listed(vec![0]));
        assert!(poll.answered_at_ms.unwrap() - poll.received_at_ms >= 70, "{poll:?}");
    }
}
