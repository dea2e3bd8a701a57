//! GET getkflist, getonlinekflist and getwaitcase: the agents of an official account, and the customers who wait.

use std::sync::Arc;

use super::super::answer::Object;
use super::super::attendance::{Attendance, KfAccount, Presence};
use super::super::ledger::LedgerBook;
use super::super::scenario::{CountForm, KfState};
use super::super::world::OfficialAccount;

/// getwaitcase lists no more than these; its count is the true total.
const MAX_LISTED_WAITING: usize = 100;
/// An agent without sessions is online in some periods of this length and offline in others.
const ONLINE_PERIOD_MS: i64 = 300_000;
/// A customer who waits writes again after so long.
const WRITES_AGAIN_AFTER_MS: i64 = 30_000;

/// All kf accounts with their binding.
pub(in super::super) fn kf_list(official: &OfficialAccount, (now_ms, book): (i64, &LedgerBook)) -> Vec<u8> {
    let style = &official.style.agents;
    let accounts = official.kf_accounts();
    let key = if style.kf_list_under_online_key { "kf_online_list" } else { "kf_list" };
    let mut body = Object::new(&official.style, 64 + accounts.len() * 192);
    body.array(key, entries(official, accounts), |entry, account| {
        let Some(account) = account else {
            entry.text("kf_account", "");
            return entry.text("kf_nick", "");
        };
        let attendance = account.attendance(now_ms, book);
        entry.text("kf_account", &account.name);
        let picture = if style.short_headimg_key { "kf_headimg" } else { "kf_headimgurl" };
        entry.text(picture, "http://mmbiz.qpic.cn/mmbiz/headimg/300");
        number_or_text(entry, "kf_id", id(&account), style.kf_id_of_other_type);
        entry.text("kf_nick", &attendance.nickname);
        let agent = format!("agent_{}", account.id);
        let invitation = match attendance.state() {
            KfState::UnboundWaiting => "waiting",
            KfState::UnboundRejected => "rejected",
            KfState::UnboundExpired => "expired",
            KfState::Unbound | KfState::Invalid => return,
            KfState::Bound => return entry.text("kf_wx", &agent),
        };
        entry.text("invite_wx", &agent);
        let expires_s = attendance.invited_until_ms().div_euclid(1_000);
        number_or_text(entry, "invite_expire_time", expires_s, style.expiry_as_text);
        entry.text("invite_status", invitation);
    });
    body.finish()
}

/// The agents who are online.
pub(in super::super) fn online_kf_list(
    official: &OfficialAccount,
    (now_ms, book): (i64, &LedgerBook),
) -> Vec<u8> {
    let style = &official.style.agents;
    let accounts = official.kf_accounts();
    let mut body = Object::new(&official.style, 64 + accounts.len() * 96);
    let online = entries(official, accounts).filter_map(|account| {
        let Some(account) = account else { return Some((None, 0, 0)) };
        let attendance = account.attendance(now_ms, book);
        let status = status(&account, &attendance, now_ms).or(style.lists_offline.then_some(0))?;
        let sessions = i64::try_from(attendance.open.len()).unwrap_or(i64::MAX);
        let is_bound = attendance.is_bound();
        drop(attendance);
        is_bound.then_some((Some(account), status, sessions))
    });
    body.array("kf_online_list", online, |entry, (account, status, sessions)| {
        entry.text("kf_account", account.as_ref().map_or("", |account| &account.name));
        entry.number("status", status);
        let kf_id = account.as_deref().map_or(0, id);
        number_or_text(entry, "kf_id", kf_id, !style.kf_id_of_other_type);
        match style.accepted_case {
            CountForm::Absent => {}
            form => number_or_text(entry, "accepted_case", sessions, form == CountForm::Text),
        }
    });
    body.finish()
}

/// The customers who wait, in order of arrival.
pub(in super::super) fn wait_case(
    official: &OfficialAccount,
    (now_ms, book): (i64, &LedgerBook),
    start_ms: i64,
) -> Vec<u8> {
    let style = &official.style.agents;
    let mut waiting: Vec<(i64, Box<str>, Arc<str>)> = Vec::new();
    for account in official.kf_accounts() {
        let attendance = account.attendance(now_ms, book);
        if attendance.is_bound() {
            let visits = attendance.waiting.iter();
            let arrival = |arrives_ms| start_ms + arrives_ms;
            waiting.extend(
                visits.map(|visit| {
                    (arrival(visit.arrives_ms), visit.openid.clone(), Arc::clone(&account.name))
                }),
            );
        }
    }
    waiting.sort_unstable();
    let mut body = Object::new(&official.style, 64 + waiting.len().min(MAX_LISTED_WAITING) * 72);
    body.number("count", i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    let listed = waiting.iter().take(MAX_LISTED_WAITING);
    body.array("waitcaselist", listed, |entry, (arrived_ms, openid, kf_account)| {
        let waits_ms = now_ms - arrived_ms;
        let wrote_ms = now_ms - waits_ms.rem_euclid(WRITES_AGAIN_AFTER_MS);
        let (key, at_ms) =
            if style.old_wait_cases { ("createtime", *arrived_ms) } else { ("latest_time", wrote_ms) };
        number_or_text(entry, key, at_ms.div_euclid(1_000), style.waiting_since_as_text);
        if style.old_wait_cases {
            entry.text("kf_account", kf_account);
        }
        entry.text("openid", openid);
    });
    body.finish()
}

/// The kf accounts that WeChat knows; none stands for the nameless entry at the end.
fn entries(
    official: &OfficialAccount,
    accounts: Vec<Arc<KfAccount>>,
) -> impl Iterator<Item = Option<Arc<KfAccount>>> {
    let nameless = official.style.agents.nameless_entry.then_some(None);
    let known =
        |account: &Arc<KfAccount>| super::super::lock(&account.attendance).state() != KfState::Invalid;
    accounts.into_iter().filter(known).map(Some).chain(nameless)
}

/// None if the agent is not listed as online.
fn status(account: &KfAccount, attendance: &Attendance, now_ms: i64) -> Option<i64> {
    match attendance.presence {
        Presence::Absent => None,
        Presence::Listed(status) => Some(i64::from(status)),
        Presence::ByItself => {
            let idle_but_online = (now_ms.div_euclid(ONLINE_PERIOD_MS) + id(account)) % 4 != 0;
            (!attendance.open.is_empty() || idle_but_online).then_some(1)
        }
    }
}

fn id(account: &KfAccount) -> i64 {
    i64::try_from(account.id).unwrap_or(0)
}

fn number_or_text(entry: &mut Object<'_>, key: &str, value: i64, as_text: bool) {
    if as_text {
        entry.text(key, itoa::Buffer::new().format(value));
    } else {
        entry.number(key, value);
    }
}
