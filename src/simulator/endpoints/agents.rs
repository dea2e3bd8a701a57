//! GET getkflist, getonlinekflist and getwaitcase: the agents of an official account, and its waiting customers.

use std::sync::Arc;

use crate::simulator::json_writer::JsonWriter;
use crate::simulator::kf_account::{KfAccount, KfAccountState};
use crate::simulator::ledger::LedgerWriter;
use crate::simulator::lock;
use crate::simulator::scenario::KfState;
use crate::simulator::world::OfficialAccount;

/// Limit of customers that getwaitcase lists. Its count is the true total.
const MAX_LISTED_WAITING: usize = 100;
/// An agent without sessions is online in some periods of this length, and offline in others.
const ONLINE_PERIOD_MS: i64 = 300_000;
/// Time between two messages of a waiting customer.
const MESSAGE_INTERVAL_MS: i64 = 30_000;

/// Lists all kf accounts with their bindings.
pub(crate) fn kf_list(official: &OfficialAccount, (now_ms, ledger): (i64, &LedgerWriter)) -> Vec<u8> {
    let style = &official.style.agents;
    let accounts = official.kf_accounts();
    let mut body = JsonWriter::new(&official.style, 64 + accounts.len() * 192);
    body.array("kf_list", known(accounts), |entry, account| {
        let state = account.current_state(now_ms, ledger);
        entry.text("kf_account", &account.name);
        entry.text("kf_headimgurl", "http://mmbiz.qpic.cn/mmbiz/headimg/300");
        entry.number_or_text("kf_id", id(&account), style.kf_id_of_other_type);
        entry.text("kf_nick", &state.nickname);
        let agent = format!("agent_{}", account.id);
        let invitation = match state.binding {
            KfState::UnboundWaiting => "waiting",
            KfState::UnboundRejected => "rejected",
            KfState::Unbound | KfState::Invalid => return,
            KfState::Bound => return entry.text("kf_wx", &agent),
        };
        entry.text("invite_wx", &agent);
        let expires_s = state.invited_until_ms.div_euclid(1_000);
        entry.number_or_text("invite_expire_time", expires_s, style.expiry_as_text);
        entry.text("invite_status", invitation);
    });
    body.finish()
}

/// Lists the agents who are online.
pub(crate) fn online_kf_list(official: &OfficialAccount, (now_ms, ledger): (i64, &LedgerWriter)) -> Vec<u8> {
    let style = &official.style.agents;
    let accounts = official.kf_accounts();
    let mut body = JsonWriter::new(&official.style, 64 + accounts.len() * 96);
    let online = known(accounts).filter_map(|account| {
        let state = account.current_state(now_ms, ledger);
        let is_online = is_online(&account, &state, now_ms);
        let sessions = i64::try_from(state.open.len()).unwrap_or(i64::MAX);
        let is_listed = state.is_bound() && (is_online || style.lists_offline);
        drop(state);
        is_listed.then_some((account, is_online, sessions))
    });
    body.array("kf_online_list", online, |entry, (account, is_online, sessions)| {
        entry.text("kf_account", &account.name);
        entry.number("status", i64::from(is_online));
        entry.number_or_text("kf_id", id(&account), !style.kf_id_of_other_type);
        entry.number_or_text("accepted_case", sessions, style.accepted_case_as_text);
    });
    body.finish()
}

/// Lists the waiting customers in order of arrival.
pub(crate) fn wait_case(
    official: &OfficialAccount,
    (now_ms, ledger): (i64, &LedgerWriter),
    start_ms: i64,
) -> Vec<u8> {
    let style = &official.style.agents;
    let mut waiting: Vec<(i64, Box<str>, Arc<str>)> = Vec::new();
    for account in official.kf_accounts() {
        let state = account.current_state(now_ms, ledger);
        if state.is_bound() {
            let visits = state.waiting.iter();
            let arrival = |arrives_ms| start_ms + arrives_ms;
            waiting.extend(
                visits.map(|visit| {
                    (arrival(visit.arrives_ms), visit.openid.clone(), Arc::clone(&account.name))
                }),
            );
        }
    }
    waiting.sort_unstable();
    let mut body = JsonWriter::new(&official.style, 64 + waiting.len().min(MAX_LISTED_WAITING) * 72);
    body.number("count", i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    let listed = waiting.iter().take(MAX_LISTED_WAITING);
    body.array("waitcaselist", listed, |entry, (arrived_ms, openid, kf_account)| {
        let waits_ms = now_ms - arrived_ms;
        let wrote_ms = now_ms - waits_ms.rem_euclid(MESSAGE_INTERVAL_MS);
        if style.old_wait_cases {
            entry.number("createtime", arrived_ms.div_euclid(1_000));
            entry.text("kf_account", kf_account);
        } else {
            entry.number("latest_time", wrote_ms.div_euclid(1_000));
        }
        entry.text("openid", openid);
    });
    body.finish()
}

/// The kf accounts that WeChat knows.
fn known(accounts: Vec<Arc<KfAccount>>) -> impl Iterator<Item = Arc<KfAccount>> {
    accounts.into_iter().filter(|account| lock(&account.state).binding != KfState::Invalid)
}

/// An agent is online while there are sessions, and without sessions in some periods only.
fn is_online(account: &KfAccount, state: &KfAccountState, now_ms: i64) -> bool {
    !state.open.is_empty() || (now_ms.div_euclid(ONLINE_PERIOD_MS) + id(account)) % 4 != 0
}

fn id(account: &KfAccount) -> i64 {
    i64::try_from(account.id).unwrap_or(0)
}
