//! GET getkflist, getonlinekflist and getwaitcase: the agents of an official account, and its waiting customers.

use std::sync::Arc;

use crate::simulator::json_writer::JsonWriter;
use crate::simulator::kf_account::{AgentPresence, KfAccount, KfAccountState};
use crate::simulator::ledger::LedgerWriter;
use crate::simulator::lock;
use crate::simulator::scenario::{KfState, NumberForm};
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
    let key = if style.kf_list_under_online_key { "kf_online_list" } else { "kf_list" };
    let mut body = JsonWriter::new(&official.style, 64 + accounts.len() * 192);
    body.array(key, entries(official, accounts), |entry, account| {
        let Some(account) = account else {
            entry.text("kf_account", "");
            return entry.text("kf_nick", "");
        };
        let state = account.current_state(now_ms, ledger);
        entry.text("kf_account", &account.name);
        let picture = if style.short_headimg_key { "kf_headimg" } else { "kf_headimgurl" };
        entry.text(picture, "http://mmbiz.qpic.cn/mmbiz/headimg/300");
        entry.number_or_text("kf_id", id(&account), style.kf_id_of_other_type);
        entry.text("kf_nick", &state.nickname);
        let agent = format!("agent_{}", account.id);
        let invitation = match state.binding() {
            KfState::UnboundWaiting => "waiting",
            KfState::UnboundRejected => "rejected",
            KfState::UnboundExpired => "expired",
            KfState::Unbound | KfState::Invalid => return,
            KfState::Bound => return entry.text("kf_wx", &agent),
        };
        entry.text("invite_wx", &agent);
        let expires_s = state.invited_until_ms().div_euclid(1_000);
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
    let online = entries(official, accounts).filter_map(|account| {
        let Some(account) = account else { return Some((None, 0, 0)) };
        let state = account.current_state(now_ms, ledger);
        let status = online_status(&account, &state, now_ms).or(style.lists_offline.then_some(0))?;
        let sessions = i64::try_from(state.open.len()).unwrap_or(i64::MAX);
        let is_bound = state.is_bound();
        drop(state);
        is_bound.then_some((Some(account), status, sessions))
    });
    body.array("kf_online_list", online, |entry, (account, status, sessions)| {
        entry.text("kf_account", account.as_ref().map_or("", |account| &account.name));
        entry.number("status", status);
        let kf_id = account.as_deref().map_or(0, id);
        entry.number_or_text("kf_id", kf_id, !style.kf_id_of_other_type);
        match style.accepted_case {
            NumberForm::Absent => {}
            form => entry.number_or_text("accepted_case", sessions, form == NumberForm::Text),
        }
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
        let (key, at_ms) =
            if style.old_wait_cases { ("createtime", *arrived_ms) } else { ("latest_time", wrote_ms) };
        entry.number_or_text(key, at_ms.div_euclid(1_000), style.waiting_since_as_text);
        if style.old_wait_cases {
            entry.text("kf_account", kf_account);
        }
        entry.text("openid", openid);
    });
    body.finish()
}

/// The kf accounts that WeChat knows. None stands for the nameless entry at the end.
fn entries(
    official: &OfficialAccount,
    accounts: Vec<Arc<KfAccount>>,
) -> impl Iterator<Item = Option<Arc<KfAccount>>> {
    let nameless = official.style.agents.nameless_entry.then_some(None);
    let known = |account: &Arc<KfAccount>| lock(&account.state).binding() != KfState::Invalid;
    accounts.into_iter().filter(known).map(Some).chain(nameless)
}

/// Returns the status of a listed agent. None if getonlinekflist omits the agent.
fn online_status(account: &KfAccount, state: &KfAccountState, now_ms: i64) -> Option<i64> {
    match state.presence {
        AgentPresence::NotListed => None,
        AgentPresence::Listed(status) => Some(i64::from(status)),
        AgentPresence::Automatic => {
            let idle_but_online = (now_ms.div_euclid(ONLINE_PERIOD_MS) + id(account)) % 4 != 0;
            (!state.open.is_empty() || idle_but_online).then_some(1)
        }
    }
}

fn id(account: &KfAccount) -> i64 {
    i64::try_from(account.id).unwrap_or(0)
}
