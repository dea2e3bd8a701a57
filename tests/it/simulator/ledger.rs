//! The ledger of polls and sessions, and the counts of requests.

use std::time::Duration;

use kfwatch::simulator::{ApiCall, Fault, FaultRule, RecordedResponse, Scenario, SessionRecord};

use crate::support::simulator::{
    APPID, Client, KF1, SECRET, eventually_polled, lively, poll_path, quiet, start, token_path,
};

#[tokio::test]
async fn ledger_records_answers_and_truth() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.open_session(APPID, KF1, "oA", Some(5)).unwrap();
    control.open_session(APPID, KF1, "oB", None).unwrap();
    client.poll(KF1).await;
    control.close_session(APPID, KF1, "oA").unwrap();
    client.poll(KF1).await;
    client.poll("kf2@test").await;
    let ledger = simulator.ledger();
    assert!(!ledger.incomplete);
    let answers: Vec<&RecordedResponse> = ledger.polls.iter().map(|poll| &poll.response).collect();
    let expected = [
        &RecordedResponse::Listed(vec![0, 1]),
        &RecordedResponse::Listed(vec![1]),
        &RecordedResponse::Refused(65402),
    ];
    assert_eq!(answers, expected);
    assert!(ledger.polls.iter().all(|poll| poll.received_at_ms <= poll.answered_at_ms.unwrap()));
    let [first, second] = &ledger.sessions[..] else { panic!("{:?}", ledger.sessions) };
    assert_eq!((&*first.openid, first.createtime), ("oA", 5));
    assert!(first.closed_at_ms.is_some_and(|closed_at_ms| closed_at_ms >= first.opened_at_ms));
    assert_eq!(second.closed_at_ms, None);
    assert_eq!(second.createtime, second.opened_at_ms / 1_000);
}

#[tokio::test]
async fn listed_sessions_are_exactly_the_open_ones() {
    let simulator = start(lively()).await;
    let mut client = Client::connect(&simulator).await;
    for _ in 0..100 {
        simulator.control().advance(Duration::from_secs(7));
        client.poll(KF1).await;
    }
    let ledger = simulator.ledger();
    let mut listings = 0;
    for poll in &ledger.polls {
        let RecordedResponse::Listed(listed) = &poll.response else { panic!("{poll:?}") };
        for (index, session) in ledger.sessions.iter().enumerate() {
            let opened = session.opened_at_ms <= poll.received_at_ms;
            let closed = session.closed_at_ms.is_some_and(|closed_at_ms| closed_at_ms <= poll.received_at_ms);
            let is_of_kf1 = *session.kf_account == *KF1;
            assert_eq!(
                listed.contains(&(index as u32)),
                is_of_kf1 && opened && !closed,
                "{session:?} {poll:?}"
            );
        }
        listings += listed.len();
    }
    assert!(listings > 50, "{listings}");
}

#[tokio::test]
async fn same_seed_plays_same_history() {
    let history = async |seed, polls| {
        let simulator = start(Scenario { seed, ..lively() }).await;
        let mut client = Client::connect(&simulator).await;
        for _ in 0..polls {
            simulator.control().advance(Duration::from_secs(1_200 / polls));
            client.poll(KF1).await;
        }
        let stays = |session: &SessionRecord| {
            let stay_ms = session.closed_at_ms? - session.opened_at_ms;
            (*session.kf_account == *KF1).then(|| (session.opened_at_ms, session.openid.clone(), stay_ms))
        };
        let ledger = simulator.ledger();
        let mut history: Vec<_> = ledger.sessions.iter().filter_map(stays).collect();
        history.sort();
        history.truncate(30);
        history.into_iter().map(|(_, openid, stay_ms)| (openid, stay_ms)).collect::<Vec<_>>()
    };
    let first = history(1, 3).await;
    assert_eq!(first.len(), 30);
    assert_eq!(first, history(1, 100).await);
    assert_ne!(first, history(2, 3).await);
}

#[tokio::test]
async fn concurrent_polls_of_one_kf_account_are_counted() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut patient = Client::connect(&simulator).await;
    let mut hurried = Client::connect(&simulator).await;
    for _ in 0..100 {
        patient.poll(KF1).await;
        hurried.poll(KF1).await;
    }
    assert_eq!(control.max_in_flight_of_any_kf_account(), 1);
    control.inject(FaultRule { times: Some(1), ..FaultRule::new(Fault::Hang) });
    let path = poll_path(&patient.token, KF1);
    patient.send("GET", &path, "").await.unwrap();
    eventually_polled(&simulator, 201).await;
    hurried.poll(KF1).await;
    assert_eq!(control.max_in_flight_of_any_kf_account(), 2);
    assert_eq!(control.max_in_flight_of_official_account(APPID), Ok(2));
}

#[tokio::test]
async fn requests_are_counted_per_endpoint() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    client.poll(KF1).await;
    client.poll(KF1).await;
    client.ask(ApiCall::GetWaitCase).await;
    client.get(&token_path("wx1", SECRET)).await;
    assert_eq!(control.requests(ApiCall::GetSessionList), 2);
    assert_eq!(control.polls_of(APPID, KF1), Ok(2));
    assert_eq!(control.requests_of(APPID, ApiCall::GetWaitCase), Ok(1));
    assert_eq!(control.requests_of(APPID, ApiCall::Token), Ok(0), "of an unknown appid");
    assert_eq!(control.requests(ApiCall::Token), 1);
}

#[tokio::test]
async fn disabled_ledger_is_marked_incomplete() {
    let simulator = start(Scenario { ledger: false, ..quiet() }).await;
    let mut client = Client::connect(&simulator).await;
    client.poll(KF1).await;
    let ledger = simulator.ledger();
    assert!(ledger.incomplete && ledger.polls.is_empty());
}
