//! The poll command: polls every kf account of an official account once and reports the differences. Commits nothing: the next
//! scheduled poll finds the same differences again.

use jiff::Timestamp;

use super::{
    report::{NO_KF_ACCOUNT, PollReport, remedy_of_needed_list},
    requests::{CommandRequests, SessionListOutcome, wait_for_token},
};
use crate::{
    domain::{account::Account, event::millis},
    poll::OfficialAccount,
    wechat::error::CallFailure,
};
use std::sync::Arc;

/// Polls the kf accounts that the configuration names and those that the daemon discovered. Where no daemon has discovered any, it
/// discovers them itself.
pub(super) async fn poll(requests: &CommandRequests, of: &Arc<OfficialAccount>) -> Vec<PollReport> {
    wait_for_token(of).await;
    let mut accounts = of.accounts().to_vec();
    let mut failed_discovery = None;
    if of.has_discovered_none() {
        match requests.call(of, of.client().kf_list()).await {
            Ok(listed) => {
                accounts.extend(of.undiscovered(&listed.accounts));
                failed_discovery = accounts.is_empty().then(|| no_match(of));
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
        SessionListOutcome::Failed(failure) => PollReport {
            remedy: failure.error.remedy(failure.endpoint).map(|remedy| remedy.en.to_owned()),
            error: Some(failure.to_string()),
            ..report
        },
        SessionListOutcome::Busy => PollReport { error: Some(SessionListOutcome::BUSY.to_owned()), ..report },
    }
}

/// Patterns need getkflist, and it failed.
fn no_list(of: &OfficialAccount, failure: &CallFailure) -> PollReport {
    PollReport {
        error: Some(failure.to_string()),
        remedy: remedy_of_needed_list(failure).map(|remedy| remedy.en.to_owned()),
        ..without_sessions(&of.status.name, failure.class.as_str())
    }
}

/// The configuration names no kf account, and no pattern matches one.
fn no_match(of: &OfficialAccount) -> PollReport {
    PollReport {
        error: Some("getkflist lists no kf account that a pattern of kf_accounts matches".to_owned()),
        remedy: Some(NO_KF_ACCOUNT.en.to_owned()),
        ..without_sessions(&of.status.name, "no_kf_account")
    }
}

fn without_sessions(official_account: &str, result: &str) -> PollReport {
    PollReport {
        official_account: official_account.to_owned(),
        result: result.to_owned(),
        ..PollReport::default()
    }
}
