//! The check command: what it asks WeChat about an official account, and the problems that it concludes.
//!
//! It calls getkflist, getonlinekflist, getwaitcase, openapi/quota/get, getsessionlist for each kf account, and the token endpoints
//! if a token is due. If a proxy refuses to connect, it asks the proxy once more for its status. None of these calls changes
//! anything at WeChat. Only what makes polls fail needs a human; a failed call that polls do not need is a note. Where patterns
//! find the kf accounts, polls need getkflist.

use std::{collections::HashMap, sync::Arc};

use super::{
    quota::{SECONDS_PER_DAY, TickCounts, quota_problem},
    report::{CheckReport, KfAccountCheck, NO_KF_ACCOUNT, OfficialAccountCheck, Problem, Severity},
    requests::{CommandRequests, SessionListOutcome},
    selection::selected_of_list,
};
use crate::{
    domain::{
        account_filter::AccountFilter,
        agents::{Binding, KfList, ListedAccount, OnlineAccount, Quota, WaitingQueue},
        cron::Schedule,
        error_class::ErrorClass,
        event::millis,
        remedy::{self, Remedy},
    },
    poll::OfficialAccount,
    status::WatchedAccount,
    wechat::{CallKind, Endpoint, error::CallFailure},
};

const CLOCK_WRONG: Remedy = Remedy {
    en: "let NTP set this machine's clock (timedatectl status, chronyc tracking): times in events and metrics are wrong by \
         that much",
    zh: "请用 NTP 校准本机时钟（timedatectl status、chronyc tracking）：事件与指标中的时间都有此误差",
};

/// An official account, with the parts of its configuration that a check reports.
pub(crate) struct ConfiguredOfficialAccount {
    pub(crate) official_account: Arc<OfficialAccount>,
    /// Where its token comes from, in the configuration's word.
    pub(crate) token_source: &'static str,
    /// When it is polled.
    pub(crate) schedule: Schedule,
}

/// Checks an official account and those of its kf accounts that the filter selects. The official account's report comes first.
pub(super) async fn check(
    requests: &CommandRequests,
    configured: &ConfiguredOfficialAccount,
    ticks: TickCounts,
    filter: &AccountFilter,
) -> Vec<CheckReport> {
    let of = &configured.official_account;
    let mut facts = Box::pin(OfficialAccountFacts::fetch(requests, of)).await; // four calls in flight are large
    // Without a daemon, nobody has discovered the accounts that patterns match.
    let listed = facts.kf_list.as_ref().map(|list| &*list.accounts);
    let listed = listed.unwrap_or_default();
    let accounts = selected_of_list(of, listed, filter);
    let total = of.accounts().len() + of.undiscovered(listed).len();
    let mut outcomes = match facts.token_failure() {
        // Each poll would fail in the same way.
        Some(_) => Vec::new(),
        None => requests.list_sessions(of, &accounts).await,
    };
    let failures =
        facts.failures_mut().into_iter().chain(outcomes.iter_mut().filter_map(|outcome| match outcome {
            SessionListOutcome::Failed(failure) => Some(failure),
            SessionListOutcome::Listed(_) | SessionListOutcome::Busy => None,
        }));
    of.client().explain_proxy_refusals(failures.collect()).await;
    let agents = AgentLists::new(&facts);
    let mut outcomes = outcomes.iter();
    let kf_accounts =
        accounts.iter().map(|account| CheckReport::KfAccount(agents.check(account, outcomes.next())));
    let official_account =
        CheckReport::OfficialAccount(check_official_account(configured, &facts, total, ticks));
    std::iter::once(official_account).chain(kf_accounts).collect()
}

/// What WeChat returned about the official account as a whole.
struct OfficialAccountFacts {
    kf_list: Result<KfList, CallFailure>,
    online: Result<Vec<OnlineAccount>, CallFailure>,
    waiting: Result<WaitingQueue, CallFailure>,
    quota: Result<Quota, CallFailure>,
}

impl OfficialAccountFacts {
    async fn fetch(requests: &CommandRequests, of: &OfficialAccount) -> Self {
        let client = of.client();
        let (kf_list, online, waiting, quota) = tokio::join!(
            requests.call(of, client.kf_list()),
            requests.call(of, client.online_kf_list()),
            requests.call(of, client.wait_case()),
            requests.call(of, client.quota()),
        );
        Self { kf_list, online, waiting, quota }
    }

    fn errors(&self) -> [Option<&CallFailure>; 4] {
        [
            self.kf_list.as_ref().err(),
            self.online.as_ref().err(),
            self.waiting.as_ref().err(),
            self.quota.as_ref().err(),
        ]
    }

    fn failures(&self) -> impl Iterator<Item = &CallFailure> {
        self.errors().into_iter().flatten()
    }

    fn failures_mut(&mut self) -> Vec<&mut CallFailure> {
        let Self { kf_list, online, waiting, quota } = self;
        let errors =
            [kf_list.as_mut().err(), online.as_mut().err(), waiting.as_mut().err(), quota.as_mut().err()];
        errors.into_iter().flatten().collect()
    }

    /// Why there is no access token that WeChat accepts, if there is none.
    fn token_failure(&self) -> Option<&CallFailure> {
        let refused = |failure: &&CallFailure| failure.error.rejects_token();
        let always_refused = self.errors().into_iter().all(|failure| failure.as_ref().is_some_and(refused));
        self.failures().find(|failure| always_refused || failure.endpoint.kind() == CallKind::Token)
    }

    fn problems(&self, of: &OfficialAccount) -> Vec<Problem> {
        if let Some(failure) = self.token_failure() {
            return vec![Problem::from_poll(failure)];
        }
        let problem = |failure: &CallFailure| match failure.endpoint {
            Endpoint::KfList if of.discovers() => Problem::from_needed_list(failure),
            _ => Problem::from_collector(failure),
        };
        self.failures().map(problem).collect()
    }
}

fn check_official_account(
    configured: &ConfiguredOfficialAccount,
    facts: &OfficialAccountFacts,
    kf_accounts: usize,
    ticks: TickCounts,
) -> OfficialAccountCheck {
    let of = &configured.official_account;
    let rate_limit = of
        .rate_limiter()
        .map_or(u64::MAX, |limit| (SECONDS_PER_DAY as f64 / limit.spacing().as_secs_f64()) as u64);
    let calls = |ticks: u64| ticks.saturating_mul(kf_accounts as u64).min(rate_limit);
    let calls_a_day = calls(ticks.busiest_day);
    let token = of.client().token_status();
    let quota = facts.quota.as_ref().ok();
    let clock_skew = of.client().clock_skew();
    let mut problems = facts.problems(of);
    // Without the list nobody knows whether there is a kf account.
    if kf_accounts == 0 && facts.kf_list.is_ok() {
        problems.push(Problem::for_human(
            "no_kf_account",
            "no kf account is known".to_owned(),
            NO_KF_ACCOUNT,
        ));
    }
    problems.extend(clock_skew.and_then(|(seconds, wrong)| wrong.then(|| clock_problem(seconds))));
    problems.extend(quota.and_then(|quota| quota_problem(quota, calls_a_day, calls(ticks.rest_of_day))));
    OfficialAccountCheck {
        official_account: of.status.name.to_string(),
        token_source: configured.token_source.to_owned(),
        token_age_seconds: token.map(|token| token.age.as_secs()),
        token_expires_in_seconds: token.and_then(|token| token.expires_in).map(|left| left.as_secs()),
        calls_a_day,
        quota_limit: quota.map(|quota| quota.limit),
        quota_used: quota.and_then(|quota| quota.used),
        quota_remaining: quota.map(|quota| quota.remaining),
        waiting: facts.waiting.as_ref().ok().map(|queue| queue.customers),
        clock_skew_ms: clock_skew.map(|(seconds, _)| (seconds * 1e3) as i64),
        problems,
    }
}

fn clock_problem(ahead_seconds: f64) -> Problem {
    let side = if ahead_seconds > 0.0 { "ahead of" } else { "behind" };
    let error = format!("this machine's clock is {:.0} s {side} WeChat's", ahead_seconds.abs());
    Problem::for_human(Problem::CLOCK_SKEW, error, CLOCK_WRONG)
}

/// getkflist and getonlinekflist by kf account; `None` for a list that could not be fetched.
struct AgentLists<'a> {
    listed: Option<HashMap<&'a str, &'a ListedAccount>>,
    online: Option<HashMap<&'a str, &'a OnlineAccount>>,
}

impl<'a> AgentLists<'a> {
    fn new(facts: &'a OfficialAccountFacts) -> Self {
        let listed = facts
            .kf_list
            .as_ref()
            .ok()
            .map(|list| list.accounts.iter().map(|account| (&*account.kf_account, account)).collect());
        let online = facts
            .online
            .as_ref()
            .ok()
            .map(|online| online.iter().map(|account| (&*account.kf_account, account)).collect());
        Self { listed, online }
    }

    fn check(&self, account: &WatchedAccount, outcome: Option<&SessionListOutcome>) -> KfAccountCheck {
        let account = account.account();
        let name = &*account.kf_account;
        let listed = self.listed.as_ref().and_then(|listed| listed.get(name));
        let invitation = listed.and_then(|listed| match listed.binding {
            Binding::Unbound(invitation) => invitation,
            Binding::Bound => None,
        });
        let listed_bound = listed.map(|listed| listed.binding == Binding::Bound);
        let bound = observed_binding(outcome).or(listed_bound);
        // An account that is offline may be missing from the list.
        let is_online =
            |online: &HashMap<&str, &OnlineAccount>| online.get(name).is_some_and(|account| account.online);
        KfAccountCheck {
            official_account: account.official_account.to_string(),
            kf_account: name.to_owned(),
            nickname: listed.and_then(|listed| listed.nickname.as_deref()).map(str::to_owned),
            bound,
            invitation: invitation.map(|invitation| invitation.status.as_str().to_owned()),
            invitation_expires_at: invitation
                .and_then(|invitation| invitation.expires_at)
                .map(|at| millis(at.timestamp())),
            online: self.online.as_ref().filter(|_| !is_invalid(outcome)).map(is_online),
            result: outcome.map_or("not_asked", SessionListOutcome::as_str).to_owned(),
            sessions: match outcome {
                Some(SessionListOutcome::Listed(listed)) => Some(listed.sessions),
                _ => None,
            },
            problems: problems(outcome, bound),
        }
    }
}

/// Whether getsessionlist says that the account does not exist. Nobody is offline then.
fn is_invalid(outcome: Option<&SessionListOutcome>) -> bool {
    matches!(outcome, Some(SessionListOutcome::Failed(failure)) if failure.class == ErrorClass::InvalidAccount)
}

/// Whether getsessionlist says that the account is bound. This takes precedence over getkflist.
fn observed_binding(outcome: Option<&SessionListOutcome>) -> Option<bool> {
    match outcome? {
        SessionListOutcome::Listed(_) => Some(true),
        SessionListOutcome::Failed(failure) if failure.class == ErrorClass::UnboundAccount => Some(false),
        SessionListOutcome::Failed(_) | SessionListOutcome::Busy => None,
    }
}

fn problems(outcome: Option<&SessionListOutcome>, bound: Option<bool>) -> Vec<Problem> {
    let mut problems = Vec::new();
    match outcome {
        Some(SessionListOutcome::Failed(failure)) => problems.push(Problem::from_poll(failure)),
        Some(SessionListOutcome::Busy) => problems.push(Problem {
            severity: Severity::Passing,
            code: "busy".to_owned(),
            error: SessionListOutcome::BUSY.to_owned(),
            remedy: None,
            remedy_zh: None,
        }),
        Some(SessionListOutcome::Listed(_)) | None => {}
    }
    if bound == Some(false) && observed_binding(outcome).is_none() {
        let error = "getkflist: no WeChat user is bound".to_owned();
        problems.push(Problem::for_human("65402", error, remedy::UNBOUND));
    }
    problems
}
