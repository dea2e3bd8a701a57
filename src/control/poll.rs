//! The poll command: polls every kf account of an official account once and reports the differences. Commits nothing: the next
//! scheduled poll finds the same differences again.

use jiff::Timestamp;

use super::{
    report::{NO_KF_ACCOUNT, PollReport, remedy_of_needed_list},
    requests::{CommandRequests, SessionListOutcome},
    selection::{needs_list, selected_accounts, selected_of_list},
};
use crate::{
    domain::{account::Account, account_filter::AccountFilter, event::millis, remedy::RemedyText},
    poll::OfficialAccount,
    wechat::error::CallFailure,
};
use std::sync::Arc;

/// Polls the selected ones of the kf accounts that the configuration names and those that the daemon discovered. Where no daemon has
/// discovered any, it discovers them itself.
pub(super) async fn poll(
    requests: &CommandRequests,
    of: &Arc<OfficialAccount>,
    filter: &AccountFilter,
) -> Vec<PollReport> {
    let mut accounts = selected_accounts(of, filter);
    let mut failed_discovery = None;
    if needs_list(of, filter) {
        match requests.call(of, of.client().kf_list()).await {
            Ok(listed) => {
                accounts = selected_of_list(of, &listed.accounts, filter);
                let has_none = accounts.is_empty() && filter.selects_all_of(&of.status.name);
                failed_discovery = has_none.then(|| no_match(of));
            }
            Err(failure) => failed_discovery = Some(no_list(of, &failure)),
        }
    }
    let outcomes = requests.list_sessions(of, &accounts).await;
    let polled = accounts.iter().zip(outcomes);
    let reports = polled.map(|(account, outcome)| report(account.account(), outcome));
    failed_discovery.into_iter().chain(reports).collect()
}

fn report(account: &Account, outcome: SessionListOutcome) -> PollReport {
    let report = PollReport {
        kf_account: Some(account.kf_account.to_string()),
        ..without_sessions(&account.official_account, outcome.as_str())
    };
    match outcome {
        SessionListOutcome::Listed(listed) => {
            let oldest = listed.oldest_createtime.and_then(|at| Timestamp::from_second(at).ok());
            PollReport {
                sessions: Some(listed.sessions),
                oldest_session_started_at: oldest.map(millis),
                started: Some(listed.started),
                ended: Some(listed.ended),
                ..report
            }
        }
        SessionListOutcome::Failed(failure) => {
            failed(report, (failure.error.code(), failure.to_string()), failure.remedy())
        }
        SessionListOutcome::Busy => failed(report, ("busy", SessionListOutcome::BUSY.to_owned()), None),
    }
}

/// Patterns need getkflist, and it failed.
fn no_list(of: &OfficialAccount, failure: &CallFailure) -> PollReport {
    let report = without_sessions(&of.status.name, failure.class.as_str());
    failed(report, (failure.error.code(), failure.to_string()), remedy_of_needed_list(failure))
}

/// The configuration names no kf account, and no pattern matches one.
fn no_match(of: &OfficialAccount) -> PollReport {
    let code = "no_kf_account";
    let error = "getkflist lists no kf account that a pattern of kf_accounts matches".to_owned();
    failed(without_sessions(&of.status.name, code), (code, error), Some(NO_KF_ACCOUNT.into()))
}

fn failed(report: PollReport, (code, error): (&str, String), remedy: Option<RemedyText>) -> PollReport {
    let (remedy, remedy_zh) = remedy.map(|RemedyText { en, zh }| (en.into_owned(), zh.into_owned())).unzip();
    PollReport { code: Some(code.to_owned()), error: Some(error), remedy, remedy_zh, ..report }
}

fn without_sessions(official_account: &str, result: &str) -> PollReport {
    PollReport {
        official_account: official_account.to_owned(),
        result: result.to_owned(),
        ..PollReport::default()
    }
}
