//! Accounts whose session changes at each commit.

use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, AccountState, Conclusion},
        diff::EndReason,
        event::{Change, OwnedSession},
        tracker::LastSeen,
    },
    store::{AccountRecord, PollCommit, Store, StoredAccount},
};
use tokio::task::JoinSet;

/// What one changed account adds to the store, for the baselines: the JSON of two events, and one changed row.
pub(crate) const EVENT_BYTES: usize = 720;
pub(crate) const ROW_BYTES: usize = 120;

/// Registers so many kf accounts of an official account.
pub(crate) async fn registered(store: &Store, appid: &str, count: usize) -> Vec<StoredAccount> {
    let account = |n| Account {
        official_account: "shop".into(),
        appid: appid.into(),
        kf_account: format!("kf{n}@test").into(),
    };
    store.register_accounts((0..count).map(account).collect()).await.unwrap().configured
}

/// Commits with so many callers that each wait for their last commit.
pub(crate) async fn commit_all(store: &Store, mut commits: Vec<PollCommit>, in_flight: usize) {
    let mut committing = JoinSet::new();
    let share = commits.len().div_ceil(in_flight);
    while !commits.is_empty() {
        let part = commits.split_off(commits.len().saturating_sub(share));
        let store = store.clone();
        committing.spawn(async move {
            for commit in part {
                store.commit_poll(commit).await.unwrap();
            }
        });
    }
    committing.join_all().await;
}

/// Ends the session of the previous round and starts another one. The start times are spread over a poll interval.
pub(crate) fn turnover(stored: &StoredAccount, round: i64) -> PollCommit {
    let began = |round: i64| 1_795_000_000 + round * 15 + stored.id.0 % 15;
    let at = |round| Timestamp::from_second(began(round)).unwrap();
    let session = |round| OwnedSession {
        openid: format!("oDF3iY9P32sK_5GgYi{:010}", stored.id.0).into(),
        createtime: began(round),
    };
    let started = Change::SessionStarted {
        session: session(round),
        observed_at: at(round + 1),
        baseline: false,
        transferred_from: None,
    };
    let ended = Change::SessionEnded {
        session: session(round - 1),
        reason: EndReason::Replaced,
        ended_between: [at(round), at(round + 1)],
    };
    let last_seen = LastSeen {
        baseline_taken: true,
        keyless: false,
        listed_sent_at: Some(at(round).into()),
        last_success_at: Some(at(round + 1).into()),
    };
    let record = AccountRecord { state: AccountState::Ok, conclusion: Some(Conclusion::Ok), last_seen };
    PollCommit { id: stored.id, account: stored.account.clone(), changes: vec![ended, started], record }
}
