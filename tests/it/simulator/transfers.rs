//! Sessions that are transferred from one kf account to another.

use std::collections::BTreeSet;
use std::time::Duration;

use kfwatch::simulator::{
    KfAccountScript, KfState, RecordedResponse, Scenario, SimulatorControlError, TransferPolicy,
};
use serde_json::json;

use crate::support::simulator::{APPID, Client, KF1, lively, quiet, start};

const KF2: &str = "kf2@test";

fn two_agents(scenario: Scenario, renew_createtime: bool, probability: f64) -> Scenario {
    let mut scenario = Scenario { transfers: TransferPolicy { probability, renew_createtime }, ..scenario };
    scenario.official_accounts[0].kf_accounts[1].state = KfState::Bound;
    scenario
}

#[tokio::test]
async fn manually_transferred_session_is_listed_by_new_kf_account() {
    for (renew_createtime, is_kept) in [(false, true), (true, false)] {
        let simulator = start(two_agents(quiet(), renew_createtime, 0.0)).await;
        let control = simulator.control();
        let mut client = Client::connect(&simulator).await;
        control.open_session(APPID, KF1, "oA", Some(5)).unwrap();
        control.transfer_session(APPID, [KF1, KF2], "oA").unwrap();
        assert_eq!(client.poll(KF1).await.json(), json!({"sessionlist": []}));
        let listed = client.poll(KF2).await.json();
        let createtime = listed["sessionlist"][0]["createtime"].as_i64().unwrap();
        assert_eq!(createtime == 5, is_kept, "{listed}");

        let ledger = simulator.ledger();
        let [transfer] = &ledger.transfers[..] else { panic!("{:?}", ledger.transfers) };
        assert_eq!((&*transfer.from, &*transfer.to, &*transfer.openid), (KF1, KF2, "oA"));
        assert_eq!(transfer.createtimes, [5, createtime]);
        let [before, after] = &ledger.sessions[..] else { panic!("{:?}", ledger.sessions) };
        assert_eq!((&*before.kf_account, before.closed_at_ms), (KF1, Some(transfer.at_ms)));
        assert_eq!((&*after.kf_account, after.opened_at_ms, after.closed_at_ms), (KF2, transfer.at_ms, None));
        let no_session = SimulatorControlError::NoSession("oA".to_owned());
        assert_eq!(control.transfer_session(APPID, [KF1, KF2], "oA"), Err(no_session));
        control.close_session(APPID, KF2, "oA").unwrap();
    }
}

#[tokio::test]
async fn transfers_agree_with_ledger() {
    let mut scenario = two_agents(lively(), false, 0.5);
    scenario.official_accounts[0].kf_accounts.push(KfAccountScript {
        prefix: "kf5".to_owned(),
        nickname: None,
        state: KfState::Bound,
        customers: None,
    });
    let simulator = start(scenario).await;
    let mut client = Client::connect(&simulator).await;
    for round in 0..200 {
        simulator.control().advance(Duration::from_secs(3));
        client.poll([KF1, KF2, "kf5@test"][round % 3]).await;
    }
    let ledger = simulator.ledger();
    assert!(ledger.transfers.len() > 20, "{}", ledger.transfers.len());
    let targets: BTreeSet<&str> = ledger.transfers.iter().map(|transfer| &*transfer.to).collect();
    assert_eq!(targets, BTreeSet::from([KF1, KF2, "kf5@test"]));
    for poll in &ledger.polls {
        let RecordedResponse::Listed(listed) = &poll.response else { panic!("{poll:?}") };
        for (index, session) in ledger.sessions.iter().enumerate() {
            let is_open = session.kf_account == poll.kf_account
                && session.opened_at_ms <= poll.received_at_ms
                && session.closed_at_ms.is_none_or(|closed_at_ms| closed_at_ms > poll.received_at_ms);
            assert_eq!(listed.contains(&(index as u32)), is_open, "{session:?} {poll:?}");
        }
    }
}
