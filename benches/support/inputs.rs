//! Inputs of the benches of parts: generated answers, accounts and events.

use std::sync::Arc;

use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, AccountCondition, AccountState, Conclusion},
        clock::UnixMs,
        diff::EndReason,
        event::{Change, OwnedSession},
        snapshot::{ObservedSessions, Session, Snapshot},
        tracker::{AccountTracker, LastSeen},
    },
    status::{AccountTable, OfficialAccountStatus, PollCounters, WatchedAccount},
    store::AccountId,
    wechat::wire,
};

/// The start of all sessions, in seconds of Unix time.
pub(crate) const CREATETIME: i64 = 1_795_331_551;

/// Returns an openid. Like real ones, openids are in no order.
pub(crate) fn openid(n: usize) -> String {
    format!("oDF3iY{:022x}", (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 40)
}

/// Returns so many openids.
pub(crate) fn openids(sessions: usize) -> Vec<String> {
    (0..sessions).map(openid).collect()
}

/// Returns the body of an answer with so many sessions.
pub(crate) fn answer(sessions: usize) -> String {
    let entry = |n: usize| format!(r#"{{"createtime":{},"openid":"{}"}}"#, CREATETIME + n as i64, openid(n));
    format!(r#"{{"sessionlist":[{}]}}"#, (0..sessions).map(entry).collect::<Vec<_>>().join(","))
}

/// Reads an answer as a poll does. Returns how many sessions it lists.
pub(crate) fn read(body: &[u8]) -> usize {
    let text = wire::text(body);
    match wire::session_list(&text).unwrap() {
        wire::SessionList::Listed(observed) => observed.sessions().len(),
        wire::SessionList::Keyless => 0,
    }
}

/// Returns these sessions as a poll reads them from an answer.
pub(crate) fn observed(openids: &[String]) -> ObservedSessions<'_> {
    let sessions =
        openids.iter().map(|openid| Session { openid: openid.as_str().into(), createtime: CREATETIME });
    ObservedSessions::new(sessions.collect())
}

/// Returns a kf account of the only official account.
pub(crate) fn account(kf_account: &str) -> Account {
    Account {
        official_account: "shop".into(),
        appid: "wx0123456789abcdef".into(),
        kf_account: kf_account.into(),
    }
}

/// Returns the change that ends a session.
pub(crate) fn ended(openid: &str) -> Change {
    let at = |ms: i64| Timestamp::from_millisecond(CREATETIME * 1000 + ms).unwrap();
    Change::SessionEnded {
        session: OwnedSession { openid: openid.into(), createtime: CREATETIME },
        reason: EndReason::Absent,
        ended_between: [at(600_123), at(615_456)],
    }
}

/// Returns the tracker of an account whose last poll listed these sessions.
pub(crate) fn watch(openids: &[String]) -> AccountTracker {
    let seen_at = Timestamp::from_second(CREATETIME).ok().map(UnixMs::from);
    AccountTracker {
        condition: AccountCondition::restored(AccountState::Ok, Some(Conclusion::Ok)),
        snapshot: Snapshot::from(&observed(openids)),
        last_seen: LastSeen {
            baseline_taken: true,
            keyless: false,
            listed_sent_at: seen_at,
            last_success_at: seen_at,
        },
        ..AccountTracker::default()
    }
}

/// Returns the table of one official account with so many kf accounts. Consecutive kf accounts have different values.
pub(crate) fn table(accounts: usize) -> AccountTable {
    let openids = openids(20);
    let trackers: Vec<AccountTracker> = (0..20).map(|sessions| watch(&openids[..sessions])).collect();
    let shared = account("");
    let watched = |n: usize| {
        let account = Account { kf_account: format!("kf{n}@oa0").into(), ..shared.clone() };
        let random = ((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
        let mut tracker = trackers[random as usize % 20].clone();
        let last_success_at = Timestamp::from_second(CREATETIME + i64::from(random) % 60);
        tracker.last_seen.last_success_at = last_success_at.ok().map(UnixMs::from);
        let watched = WatchedAccount::new(account, AccountId(0), tracker);
        let started = 300 + random % 100;
        watched.count(PollCounters {
            polls: 14_400 + random % 10,
            failures: random % 3,
            overruns: 0,
            started,
            ended: started - random % 20,
        });
        Arc::new(watched)
    };
    // Each in its own allocation, as in the daemon.
    let accounts: Vec<_> = (0..accounts).map(watched).collect();
    let official_account = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::default());
    official_account.add_kf_accounts(accounts);
    AccountTable::new(vec![Arc::new(official_account)])
}
