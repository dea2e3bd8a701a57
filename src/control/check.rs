//! What a check asks WeChat, and what it concludes.
//!
//! It calls getkflist, getonlinekflist, getwaitcase, openapi/quota/get, getsessionlist for each kf account, and the token
//! calls where a token is due: nothing that changes anything at WeChat. Only what keeps polls from succeeding is a
//! problem. A call that polls can do without, and that is refused, is a note; where patterns find kf accounts, they cannot
//! do without getkflist.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{
    operations::{Asked, NEVER_FREE, Operated, Operations},
    report::{Checked, CheckedKfAccount, CheckedOfficialAccount, Problem, Severity},
};
use crate::{
    domain::{
        agents::{Binding, KfList, ListedAccount, OnlineAccount, Quota, WaitingQueue},
        cron::Schedule,
        error_class::ErrorClass,
        event::millis,
        remedy::Remedy,
    },
    poll::{OfficialAccount, WatchedAccount},
    wechat::{
        CallKind, Endpoint,
        error::{CallError, CallFailure},
    },
};

/// WeChat's day, by which quotas are counted. China has had one offset all year since 1991.
const CHINA_UTC_OFFSET_SECONDS: i64 = 8 * 3600;

const A_DAY_SECONDS: i64 = 24 * 3600;

/// In seconds.
const A_DAY: f64 = A_DAY_SECONDS as f64;

const QUOTA_TOO_SMALL: Remedy = Remedy {
    en: "poll less often (poll.schedule, or the official account's own), or watch fewer of its kf accounts",
    zh: "请降低轮询频率（poll.schedule 或该公众号自己的 schedule），或减少所监控的客服帐号",
};
const QUOTA_RUNS_OUT: Remedy = Remedy {
    en: "until midnight in China: poll less often, clear the quota in the console, or find out who else makes these calls",
    zh: "请在北京时间零点前降低轮询频率、在后台清零额度，或查明还有谁在调用该接口",
};
const CLOCK_WRONG: Remedy = Remedy {
    en: "let NTP set this machine's clock (timedatectl status, chronyc tracking): times in events and metrics are wrong by \
         that much",
    zh: "请用 NTP 校准本机时钟（timedatectl status、chronyc tracking）：事件与指标中的时间都有此误差",
};
/// No kf account is named, and none is found.
pub(super) const NO_KF_ACCOUNT: Remedy = Remedy {
    en: "add a kf account in the console, or correct kf_accounts in the configuration",
    zh: "请在公众平台添加客服帐号，或更正配置中的 kf_accounts",
};

/// How often a schedule ticks.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    a_day: u64,
    rest_of_day: u64,
}

impl Pace {
    pub(super) fn of(schedule: &Schedule, now: Timestamp) -> Self {
        let into_day = (now.as_second() + CHINA_UTC_OFFSET_SECONDS).rem_euclid(A_DAY_SECONDS);
        let end_of_day = Timestamp::from_second(now.as_second() - into_day + A_DAY_SECONDS);
        Self {
            a_day: schedule.ticks_per_day(now),
            rest_of_day: end_of_day.map_or(0, |end| schedule.ticks_between(now, end)),
        }
    }
}

impl Operations {
    /// Checks an official account and its kf accounts.
    pub(super) async fn check(&self, operated: &Operated, pace: Pace) -> Vec<Checked> {
        let of = &operated.official_account;
        let collected = Box::pin(self.collect(of)).await; // four calls at once are large
        let mut accounts = of.accounts().to_vec();
        // Where no daemon has discovered them, the list says whom one would watch.
        let listed = collected.kf_list.as_ref().map(|list| &*list.accounts);
        accounts.extend(of.undiscovered(listed.unwrap_or_default()));
        let asked = match collected.no_token() {
            // Each poll would fail in the same way.
            Some(_) => Vec::new(),
            None => self.ask_all(of, &accounts).await,
        };
        let lists = Lists::of(&collected);
        let mut asked = asked.iter();
        let kf_accounts =
            accounts.iter().map(|account| Checked::KfAccount(lists.kf_account(account, asked.next())));
        let official_account =
            Checked::OfficialAccount(official_account(operated, &collected, accounts.len(), pace));
        std::iter::once(official_account).chain(kf_accounts).collect()
    }

    async fn collect(&self, of: &OfficialAccount) -> Collected {
        let client = of.client();
        let (kf_list, online, waiting, quota) = tokio::join!(
            self.in_turn(of, client.kf_list()),
            self.in_turn(of, client.online_kf_list()),
            self.in_turn(of, client.wait_case()),
            self.in_turn(of, client.quota()),
        );
        Collected { kf_list, online, waiting, quota }
    }
}

/// What was answered about the official account as a whole.
struct Collected {
    kf_list: Result<KfList, CallFailure>,
    online: Result<Vec<OnlineAccount>, CallFailure>,
    waiting: Result<WaitingQueue, CallFailure>,
    quota: Result<Quota, CallFailure>,
}

impl Collected {
    fn failures(&self) -> impl Iterator<Item = &CallFailure> {
        let failures = [
            self.kf_list.as_ref().err(),
            self.online.as_ref().err(),
            self.waiting.as_ref().err(),
            self.quota.as_ref().err(),
        ];
        failures.into_iter().flatten()
    }

    /// Why there is no access token that WeChat accepts, if there is none.
    fn no_token(&self) -> Option<&CallFailure> {
        let refused = self.failures().filter(|failure| failure.error.rejects_token()).count();
        let refused_everywhere = refused == CALLS_FOR_ALL;
        self.failures().find(|failure| refused_everywhere || failure.endpoint.kind() == CallKind::Token)
    }

    /// What failed, if there is a token.
    fn problems(&self, of: &OfficialAccount) -> Vec<Problem> {
        let problem = |failure: &CallFailure| match failure.endpoint {
            Endpoint::KfList if of.discovers() => Problem::of_needed_list(failure),
            _ => Problem::of_collector(failure),
        };
        self.failures().map(problem).collect()
    }
}

/// How many calls [`Collected`] has the answers of.
const CALLS_FOR_ALL: usize = 4;

fn official_account(
    operated: &Operated,
    collected: &Collected,
    kf_accounts: usize,
    pace: Pace,
) -> CheckedOfficialAccount {
    let of = &operated.official_account;
    let calls = |ticks: u64| ticks.saturating_mul(kf_accounts as u64);
    let most = of.rate_limiter().map_or(u64::MAX, |limit| (A_DAY / limit.spacing().as_secs_f64()) as u64);
    let calls_a_day = calls(pace.a_day).min(most);
    let standing = of.client().token_status();
    let quota = collected.quota.as_ref().ok();
    let mut problems: Vec<Problem> = match collected.no_token() {
        Some(failure) => vec![Problem::of_poll(failure)],
        None => collected.problems(of),
    };
    // Without the list nobody knows whether there is one.
    if kf_accounts == 0 && collected.kf_list.is_ok() {
        problems.push(Problem::for_a_human(
            "no_kf_account",
            "no kf account is known".to_owned(),
            NO_KF_ACCOUNT,
        ));
    }
    let clock_skew = of.client().clock_skew();
    problems.extend(clock_skew.and_then(|(seconds, wrong)| wrong.then(|| clock_problem(seconds))));
    problems
        .extend(quota.and_then(|quota| quota_problem(quota, calls_a_day, calls(pace.rest_of_day).min(most))));
    CheckedOfficialAccount {
        official_account: of.status.name.to_string(),
        token_source: operated.token_source.to_owned(),
        token_age_seconds: standing.map(|standing| standing.age.as_secs()),
        token_expires_in_seconds: standing
            .and_then(|standing| standing.expires_in)
            .map(|left| left.as_secs()),
        calls_a_day,
        quota_limit: quota.map(|quota| quota.limit),
        quota_used: quota.and_then(|quota| quota.used),
        quota_remaining: quota.map(|quota| quota.remaining),
        waiting: collected.waiting.as_ref().ok().map(|queue| queue.users),
        clock_skew_ms: clock_skew.map(|(seconds, _)| (seconds * 1e3) as i64),
        problems,
    }
}

fn clock_problem(ahead_seconds: f64) -> Problem {
    let side = if ahead_seconds > 0.0 { "ahead of" } else { "behind" };
    let error = format!("this machine's clock is {:.0} s {side} WeChat's", ahead_seconds.abs());
    Problem::for_a_human(Problem::CLOCK_SKEW, error, CLOCK_WRONG)
}

fn quota_problem(quota: &Quota, calls_a_day: u64, calls_today: u64) -> Option<Problem> {
    let Quota { limit, remaining, .. } = *quota;
    if calls_a_day > limit {
        let error = format!(
            "this configuration makes {calls_a_day} calls of getsessionlist a day, and WeChat allows {limit}"
        );
        return Some(Problem::for_a_human("quota_too_small", error, QUOTA_TOO_SMALL));
    }
    (calls_today > remaining).then(|| {
        let error = format!(
            "{calls_today} more calls of getsessionlist are to be made today, and WeChat allows {remaining} more"
        );
        Problem::for_a_human("quota_runs_out", error, QUOTA_RUNS_OUT)
    })
}

/// What the lists of kf accounts say, by kf account; `None` where there is no list.
struct Lists<'a> {
    listed: HashMap<&'a str, &'a ListedAccount>,
    online: Option<HashMap<&'a str, &'a OnlineAccount>>,
}

impl<'a> Lists<'a> {
    fn of(collected: &'a Collected) -> Self {
        let listed = collected.kf_list.iter().flat_map(|list| &list.accounts);
        let online = collected.online.as_ref().ok().map(|online| {
            let by_name = online.iter().map(|account| (&*account.kf_account, account));
            by_name.collect()
        });
        Self { listed: listed.map(|account| (&*account.kf_account, account)).collect(), online }
    }

    fn kf_account(&self, account: &WatchedAccount, asked: Option<&Asked>) -> CheckedKfAccount {
        let account = &account.status.account;
        let name = &*account.kf_account;
        let listed = self.listed.get(name);
        let invitation = listed.and_then(|listed| match listed.binding {
            Binding::Unbound(invitation) => invitation,
            Binding::Bound => None,
        });
        let listed_bound = listed.map(|listed| listed.binding == Binding::Bound);
        let bound = says_bound(asked).or(listed_bound);
        CheckedKfAccount {
            official_account: account.official_account.to_string(),
            kf_account: name.to_owned(),
            nickname: listed.and_then(|listed| listed.nickname.as_deref()).map(str::to_owned),
            bound,
            invitation: invitation.map(|invitation| invitation.status.as_str().to_owned()),
            invitation_expires_at: invitation
                .and_then(|invitation| invitation.expires_at)
                .map(|at| millis(at.timestamp())),
            // Who is not online is not listed.
            online: self.online.as_ref().map(|online| online.get(name).is_some_and(|account| account.online)),
            result: asked.map_or("not_asked", Asked::result).to_owned(),
            sessions: match asked {
                Some(Asked::Listed(found)) => Some(found.sessions),
                _ => None,
            },
            problems: problems(asked, bound),
        }
    }
}

/// What the poll itself says about a binding: it wins over getkflist.
fn says_bound(asked: Option<&Asked>) -> Option<bool> {
    match asked? {
        Asked::Listed(_) => Some(true),
        Asked::Failed(failure) if failure.class == ErrorClass::UnboundAccount => Some(false),
        Asked::Failed(_) | Asked::NeverFree => None,
    }
}

fn problems(asked: Option<&Asked>, bound: Option<bool>) -> Vec<Problem> {
    let mut problems = Vec::new();
    match asked {
        Some(Asked::Failed(failure)) => problems.push(Problem::of_poll(failure)),
        Some(Asked::NeverFree) => problems.push(Problem {
            severity: Severity::Passing,
            code: "busy".to_owned(),
            error: NEVER_FREE.to_owned(),
            remedy: None,
            remedy_zh: None,
        }),
        Some(Asked::Listed(_)) | None => {}
    }
    if bound == Some(false) && says_bound(asked).is_none() {
        let unbound = CallError::Refused { code: UNBOUND, message: "".into() };
        problems.extend(unbound.remedy(Endpoint::SessionList).map(|remedy| {
            Problem::for_a_human(unbound.code(), "getkflist: no WeChat user is bound".to_owned(), remedy)
        }));
    }
    problems
}

/// The errcode of an account without a WeChat user.
const UNBOUND: i64 = 65402;

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u64, remaining: u64) -> Quota {
        Quota { limit, used: None, remaining }
    }

    #[test]
    fn a_quota_is_too_small_for_a_day_or_for_what_is_left_of_it() {
        let check = |quota, a_day, today| quota_problem(&quota, a_day, today).map(|problem| problem.code);
        assert_eq!(check(quota(5760, 5760), 5760, 5760), None);
        assert_eq!(check(quota(5759, 5759), 5760, 10).as_deref(), Some("quota_too_small"));
        assert_eq!(check(quota(5760, 9), 5760, 10).as_deref(), Some("quota_runs_out"));
        assert_eq!(check(quota(5760, 0), 5760, 0), None);
    }

    #[test]
    fn the_rest_of_the_day_ends_at_midnight_in_china() {
        let schedule = Schedule::parse(&["0 */10 * * * *".to_owned()], "Europe/Berlin").unwrap();
        let pace = Pace::of(&schedule, "2026-11-22T15:00:00Z".parse().unwrap());
        assert_eq!((pace.a_day, pace.rest_of_day), (144, 6));
        let pace = Pace::of(&schedule, "2026-11-22T16:00:00Z".parse().unwrap());
        assert_eq!(pace.rest_of_day, 144);
    }
}
