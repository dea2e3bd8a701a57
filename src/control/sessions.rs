//! The sessions command: the open sessions of each kf account, beside what getonlinekflist says. Reads memory only.

#![expect(missing_docs, reason = "docs/en/reference/output.md describes each field, as a test checks")]

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{account::Account, agents::Collector, event::millis, tracker::AccountTracker},
    status::{AgentInfo, OfficialAccountStatus, WatchedAccount},
};

/// One line of the result. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionReport {
    /// A kf account; its sessions follow.
    KfAccount(KfAccountSessions),
    Session(OpenSession),
}

/// A kf account. Unknown values are `None`; the store alone knows neither nicknames nor what getonlinekflist said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KfAccountSessions {
    pub official_account: String,
    pub kf_account: String,
    pub nickname: Option<String>,
    pub state: String,
    /// Open sessions; `None` before the first successful poll.
    pub sessions: Option<u64>,
    /// When the response of the last successful poll was received.
    pub last_success_at: Option<String>,
    pub online: Option<bool>,
    /// How many sessions the agent has accepted, according to getonlinekflist; `None` if it does not list the agent.
    pub accepted_cases: Option<u64>,
    /// When getonlinekflist last answered.
    pub accepted_cases_at: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    pub official_account: String,
    pub kf_account: String,
    pub openid: String,
    pub started_at: String,
    /// When the request was sent whose response last listed the session.
    pub last_seen_at: Option<String>,
}

/// What getkflist and getonlinekflist said about a kf account, and when the latter did.
pub(crate) type AgentFacts = (AgentInfo, Option<Timestamp>);

impl KfAccountSessions {
    /// Whether its number of sessions is in doubt: the state is not `ok`, or the agent has accepted another number.
    pub(crate) fn is_problem(&self) -> bool {
        self.is_state_problem() || self.differs()
    }

    /// Whether its sessions are unknown or old.
    pub(crate) fn is_state_problem(&self) -> bool {
        self.state != "ok"
    }

    /// Whether the agent has accepted another number. Both numbers have their own times.
    pub(crate) fn differs(&self) -> bool {
        self.accepted_cases.is_some_and(|accepted| Some(accepted) != self.sessions)
    }
}

/// The report of a watched kf account.
pub(super) fn of_watched(of: &OfficialAccountStatus, watched: &WatchedAccount) -> Vec<SessionReport> {
    let online_at = of.readings().last_success_at(Collector::Online);
    let agent = watched.view(of.ticks()).agent;
    reports(watched.account(), &watched.tracker(), (agent, online_at))
}

/// The kf account, and then its open sessions, the longest first.
pub(crate) fn reports(account: &Account, tracker: &AccountTracker, agent: AgentFacts) -> Vec<SessionReport> {
    let (AgentInfo { nickname, online, accepted_cases, .. }, online_at) = agent;
    let AccountTracker { condition, snapshot, last_seen, .. } = tracker;
    let names = || (account.official_account.to_string(), account.kf_account.to_string());
    let (official_account, kf_account) = names();
    let head = KfAccountSessions {
        official_account,
        kf_account,
        nickname: nickname.map(|nickname| nickname.to_string()),
        state: condition.state.as_str().to_owned(),
        sessions: last_seen.baseline_taken.then_some(snapshot.len() as u64),
        last_success_at: last_seen.last_success_at.map(|at| millis(at.timestamp())),
        online,
        accepted_cases: accepted_cases.map(u64::from),
        accepted_cases_at: accepted_cases.and(online_at).map(millis),
    };
    let last_seen_at = last_seen.listed_sent_at.map(|at| millis(at.timestamp()));
    let mut sessions: Vec<_> = snapshot.iter().collect();
    sessions.sort_by_key(|session| session.createtime);
    let sessions = sessions.into_iter().map(|session| {
        let (official_account, kf_account) = names();
        SessionReport::Session(OpenSession {
            official_account,
            kf_account,
            openid: session.openid.into_owned(),
            // The response parser rejects times that a timestamp cannot represent.
            started_at: Timestamp::from_second(session.createtime).map(millis).unwrap_or_default(),
            last_seen_at: last_seen_at.clone(),
        })
    });
    std::iter::once(SessionReport::KfAccount(head)).chain(sessions).collect()
}
