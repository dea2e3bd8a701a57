//! What each endpoint answers when nothing goes wrong, or refuses with an errcode.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::answer::{self, Object};
use super::fault::Fault;
use super::ledger::{Answered, LedgerBook};
use super::lock;
use super::routes::{Endpoint, query_parameter};
use super::scenario::{KfState, Style};
use super::token::{Issued, Refusal};
use super::world::{KfAccount, OfficialAccount, Session};

/// getwaitcase lists no more than these; its count is the true total.
const MAX_LISTED_WAITING: usize = 100;
/// An agent without sessions is online in some periods of this length and offline in others.
const ONLINE_PERIOD_MS: i64 = 300_000;
/// How long an invitation stays open.
const INVITATION_LIFE_S: i64 = 86_400;

/// A body, or the errcode of a refusal.
pub(super) type Outcome = Result<Vec<u8>, i64>;

/// What a token call presents, in its query or in its JSON body.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Credentials<'a> {
    #[serde(borrow)]
    grant_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret: Option<Cow<'a, str>>,
    #[serde(default)]
    force_refresh: bool,
}

impl<'a> Credentials<'a> {
    pub(super) fn from_query(query: &'a str) -> Self {
        let parameter = |name| query_parameter(query, name);
        Credentials {
            grant_type: parameter("grant_type"),
            appid: parameter("appid"),
            secret: parameter("secret"),
            force_refresh: false,
        }
    }

    pub(super) fn from_json(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The two token calls. The account is the one that the appid names, if there is one.
pub(super) fn token(
    endpoint: Endpoint,
    credentials: Option<&Credentials<'_>>,
    official: Option<&OfficialAccount>,
    now_ms: i64,
) -> Outcome {
    let credentials = credentials.ok_or(47001)?;
    if credentials.grant_type.as_deref() != Some("client_credential") {
        return Err(40002);
    }
    if credentials.appid.as_deref().is_none_or(str::is_empty) {
        return Err(41002);
    }
    let secret = credentials.secret.as_deref().filter(|secret| !secret.is_empty()).ok_or(41004)?;
    let official = official.ok_or(40013)?;
    if *secret != *official.secret {
        return Err(40125);
    }
    if official.address_refused.load(Ordering::Relaxed) {
        return Err(40164);
    }
    if official.secret_frozen.load(Ordering::Relaxed) {
        return Err(40243);
    }
    let mut desk = lock(&official.desk);
    let issued = match endpoint {
        Endpoint::StableToken if credentials.force_refresh => desk.force_stable(now_ms),
        Endpoint::StableToken => desk.issue_stable(now_ms),
        _ => desk.issue_classic(now_ms),
    };
    let Issued { value, expires_in_s } = issued.map_err(|refusal| match refusal {
        Refusal::DayQuota => 45009,
        Refusal::MinuteQuota => 45011,
    })?;
    let mut body = Object::new(&official.style, 256);
    body.text("access_token", &value);
    body.number("expires_in", expires_in_s);
    Ok(body.finish())
}

/// The open sessions of a kf account, and what that was for the ledger.
pub(super) fn session_list(
    official: &OfficialAccount,
    account: Option<&KfAccount>,
    fault: Option<&Fault>,
    (now_ms, book): (i64, &LedgerBook),
) -> Result<(Vec<u8>, Answered), i64> {
    if !lock(&official.session_list_quota).take(now_ms) {
        return Err(45009);
    }
    let account = account.ok_or(65401)?;
    let mut attendance = account.attendance(now_ms, book);
    match attendance.state {
        KfState::Bound => {}
        KfState::Invalid => return Err(65401),
        _ => return Err(65402),
    }
    let style = &official.style;
    let odd = style.shuffle > 0.0 || style.duplicate > 0.0;
    let body = if odd {
        let mut whims = attendance.whims.clone();
        let listed = oddly_listed(&attendance.open, style, &mut whims);
        attendance.whims = whims;
        let listed: Vec<&Session> = listed.into_iter().map(|index| &attendance.open[index]).collect();
        answer::session_list(listed.into_iter(), style, fault)
    } else {
        answer::session_list(attendance.open.iter(), style, fault)
    };
    let listed = || attendance.open.iter().filter_map(|session| session.ledger_index).collect();
    let keyless = style.omit_empty_list && attendance.open.is_empty();
    let answered = match fault {
        Some(Fault::ListAbsent | Fault::ListNull) => Answered::Keyless,
        Some(fault @ (Fault::ListOfWrongType | Fault::EntryWithoutOpenid | Fault::CreatetimeNoNumber)) => {
            Answered::Failed(fault.as_str())
        }
        _ if !book.is_enabled() || keyless => Answered::Keyless,
        _ => Answered::Listed(listed()),
    };
    Ok((body, answered))
}

/// Positions of the sessions in the order of the answer: now and then another one, now and then one twice.
fn oddly_listed(open: &[Session], style: &Style, whims: &mut fastrand::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..open.len()).collect();
    if !order.is_empty() && whims.f64() < style.duplicate {
        order.push(whims.usize(..open.len()));
    }
    if whims.f64() < style.shuffle {
        whims.shuffle(&mut order);
    }
    order
}

/// All kf accounts with their binding.
pub(super) fn kf_list(official: &OfficialAccount, now_ms: i64, book: &LedgerBook) -> Vec<u8> {
    let accounts = official.kf_accounts();
    let known = accounts.iter().map(|account| (account, account.attendance(now_ms, book).state));
    let mut body = Object::new(&official.style, 64 + accounts.len() * 192);
    body.array(
        "kf_list",
        known.filter(|(_, state)| *state != KfState::Invalid),
        |entry, (account, state)| {
            entry.text("kf_account", &account.name);
            entry.text("kf_headimgurl", "http://mmbiz.qpic.cn/mmbiz/headimg/300");
            entry.number("kf_id", i64::try_from(account.id).unwrap_or(0));
            entry.text("kf_nick", &account.nickname);
            let agent = format!("agent_{}", account.id);
            let invitation = match state {
                KfState::UnboundWaiting => Some(("waiting", now_ms / 1_000 + INVITATION_LIFE_S)),
                KfState::UnboundRejected => Some(("rejected", now_ms / 1_000 - INVITATION_LIFE_S)),
                KfState::UnboundExpired => Some(("expired", now_ms / 1_000 - INVITATION_LIFE_S)),
                KfState::Unbound | KfState::Invalid => None,
                KfState::Bound => return entry.text("kf_wx", &agent),
            };
            if let Some((status, expires_s)) = invitation {
                entry.text("invite_wx", &agent);
                entry.number("invite_expire_time", expires_s);
                entry.text("invite_status", status);
            }
        },
    );
    body.finish()
}

/// The agents who are online.
pub(super) fn online_kf_list(official: &OfficialAccount, now_ms: i64, book: &LedgerBook) -> Vec<u8> {
    let accounts = official.kf_accounts();
    let online = accounts.iter().filter_map(|account| {
        let attendance = account.attendance(now_ms, book);
        let sessions = attendance.open.len();
        let idle_but_online = (now_ms.div_euclid(ONLINE_PERIOD_MS) + account.id as i64) % 4 != 0;
        (attendance.is_bound() && (sessions > 0 || idle_but_online)).then_some((account, sessions))
    });
    let mut body = Object::new(&official.style, 64 + accounts.len() * 96);
    body.array("kf_online_list", online, |entry, (account, sessions)| {
        entry.text("kf_account", &account.name);
        entry.number("status", 1);
        entry.text("kf_id", itoa::Buffer::new().format(account.id));
        entry.number("accepted_case", i64::try_from(sessions).unwrap_or(i64::MAX));
    });
    body.finish()
}

/// The customers who wait, in order of arrival.
pub(super) fn wait_case(
    official: &OfficialAccount,
    now_ms: i64,
    book: &LedgerBook,
    start_ms: i64,
) -> Vec<u8> {
    let mut waiting: Vec<(i64, Box<str>)> = Vec::new();
    for account in official.kf_accounts() {
        let attendance = account.attendance(now_ms, book);
        if attendance.is_bound() {
            waiting.extend(attendance.waiting.iter().map(|visit| (visit.arrives_ms, visit.openid.clone())));
        }
    }
    waiting.sort_unstable();
    let mut body = Object::new(&official.style, 64 + waiting.len().min(MAX_LISTED_WAITING) * 72);
    body.number("count", i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    body.array("waitcaselist", waiting.iter().take(MAX_LISTED_WAITING), |entry, (arrives_ms, openid)| {
        entry.number("latest_time", (start_ms + arrives_ms).div_euclid(1_000));
        entry.text("openid", openid);
    });
    body.finish()
}

/// How often an endpoint may be called, and was.
pub(super) fn quota_get(official: &OfficialAccount, request_body: &[u8], now_ms: i64) -> Outcome {
    #[derive(Deserialize)]
    struct Question<'a> {
        #[serde(borrow)]
        cgi_path: Cow<'a, str>,
    }
    let question: Question<'_> = serde_json::from_slice(request_body).map_err(|_| 47001)?;
    let endpoint = Endpoint::from_path(&question.cgi_path).ok_or(76021)?;
    let (limit, used) = if endpoint == Endpoint::GetSessionList {
        let mut quota = lock(&official.session_list_quota);
        (quota.limit(), quota.used(now_ms))
    } else {
        let used = official.requests[endpoint as usize].load(Ordering::Relaxed);
        (OTHER_CALLS_PER_DAY, used)
    };
    let mut body = Object::new(&official.style, 128);
    body.object("quota", |quota| {
        for (key, value) in [("daily_limit", limit), ("used", used), ("remain", limit.saturating_sub(used))] {
            quota.number(key, i64::try_from(value).unwrap_or(i64::MAX));
        }
    });
    Ok(body.finish())
}

/// Announced for endpoints whose limit is not simulated.
const OTHER_CALLS_PER_DAY: u64 = 100_000;
