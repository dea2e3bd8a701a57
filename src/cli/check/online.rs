//! `kfwatch check --online`: checks every official account and kf account with WeChat.
//!
//! It prints the tables first and the numbered list of problems last, where it stays visible on a terminal.

use std::fmt::Write as _;

use super::CheckArgs;
use crate::{
    cli::{
        CliError,
        account_args::{Extent, REST_ON_DEMAND},
        findings,
        language::Language,
        operations::OperationsRunner,
        output,
        signals::Shutdown,
    },
    config::LoadedConfig,
    control::report::{CheckReport, Problem, Severity},
    domain::{
        account_filter::AccountFilter,
        local_time::LocalZone,
        quantity::{counted, grouped},
    },
};

pub(super) async fn run(loaded: &LoadedConfig, args: CheckArgs, shutdown: &Shutdown) -> Result<(), CliError> {
    let filter = AccountFilter::from(args.accounts);
    let mut checked =
        OperationsRunner::prepare(loaded).await?.checks(&loaded.config, &filter, shutdown).await?;
    let worst = checked.iter().flat_map(CheckReport::problems).map(|problem| problem.severity).min();
    match args.format {
        output::OutputFormat::Table => {
            let language = args.lang.unwrap_or_else(Language::of_process);
            let kf_accounts = checked.iter().filter(|row| row.names().1.is_some()).count();
            let extent = args.extent.of_table(&filter, kf_accounts);
            output::print(report(&checked, extent, (language, loaded.config.poll.timezone))).await?;
        }
        output::OutputFormat::Json => {
            checked.retain(|row| args.extent.includes_sound() || !row.problems().is_empty());
            output::print_json(&checked).await?;
        }
    }
    match worst {
        Some(Severity::Human) => Err(CliError::NeedsHuman),
        Some(Severity::Passing) => Err(CliError::Incomplete),
        Some(Severity::Note) | None => Ok(()),
    }
}

fn report(checked: &[CheckReport], extent: Extent, (language, zone): (Language, LocalZone)) -> String {
    let is_shown = |row: &&CheckReport| match extent {
        Extent::Everything => true,
        Extent::Problems => !row.problems().is_empty(),
        Extent::Summary => false,
    };
    let shown = || checked.iter().filter(is_shown);
    let official_accounts: Vec<_> = shown().filter_map(official_account).collect();
    let kf_accounts: Vec<_> = shown().filter_map(|row| kf_account(row, zone)).collect();
    let mut text = String::new();
    if !official_accounts.is_empty() {
        let headings = [
            "official account",
            "token",
            "age",
            "valid for",
            "calls a day",
            "quota a day",
            "used",
            "left",
            "waiting",
        ];
        text.push_str(&output::table(&headings, official_accounts));
        text.push('\n');
    }
    if !kf_accounts.is_empty() {
        let headings = ["account", "nickname", "bound", "online", "sessions", "result"];
        let table = output::wrapped_table(&headings, &["bound"], kf_accounts);
        text.push_str(&output::timed(table, zone));
        text.push('\n');
    }
    if extent != Extent::Everything {
        text.push_str(&summary(checked));
    }
    text.push_str(&findings(checked, language));
    if extent == Extent::Summary {
        text.push_str(REST_ON_DEMAND);
    }
    text
}

fn official_account(row: &CheckReport) -> Option<Vec<String>> {
    let CheckReport::OfficialAccount(row) = row else { return None };
    Some(vec![
        row.official_account.clone(),
        row.token_source.clone(),
        output::known(row.token_age_seconds.map(duration)),
        output::known(row.token_expires_in_seconds.map(duration)),
        grouped(row.calls_a_day),
        output::known(row.quota_limit.map(grouped)),
        output::known(row.quota_used.map(grouped)),
        output::known(row.quota_remaining.map(grouped)),
        output::known(row.waiting.map(grouped)),
    ])
}

fn kf_account(row: &CheckReport, zone: LocalZone) -> Option<Vec<String>> {
    let CheckReport::KfAccount(row) = row else { return None };
    let bound = match (row.bound, &row.invitation, &row.invitation_expires_at) {
        (Some(false), Some(status), Some(at)) if status == "waiting" => {
            format!("no: invited until {}", zone.show_text(at))
        }
        (Some(false), Some(status), _) => format!("no: invitation {status}"),
        (bound, ..) => output::yes_or_no(bound),
    };
    Some(vec![
        output::account(&row.official_account, Some(&row.kf_account)),
        output::known(row.nickname.as_ref()),
        bound,
        output::yes_or_no(row.online),
        output::known(row.sessions),
        row.result.clone(),
    ])
}

/// `3 official accounts and 2,000 kf accounts checked, 7 of them with a problem.`
fn summary(checked: &[CheckReport]) -> String {
    let count = |of: fn(&CheckReport) -> bool| checked.iter().filter(|row| of(row)).count() as u64;
    let kf_accounts = count(|row| matches!(row, CheckReport::KfAccount(_)));
    let official_accounts = count(|row| matches!(row, CheckReport::OfficialAccount(_)));
    let problems = count(|row| !row.problems().is_empty());
    format!(
        "{} and {} checked, {} of them with a problem.\n\n",
        counted(official_accounts, "official account"),
        counted(kf_accounts, "kf account"),
        grouped(problems)
    )
}

/// The two largest units of a duration: `1h 58m`.
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

/// The problems, the worst first. Accounts with the same problem share an entry.
fn findings(checked: &[CheckReport], language: Language) -> String {
    let mut text = String::new();
    let problems = checked.iter().flat_map(|row| {
        let name = |problem: &Problem| (!problem.concerns_this_machine()).then(|| row.names());
        row.problems().iter().map(move |problem| {
            // Problems are compared by code, because the error text may contain a request id.
            ((problem.severity, &problem.code, &problem.remedy), problem, name(problem))
        })
    });
    let findings = findings::group(problems);
    for (severity, heading) in [
        (Severity::Human, "What to fix:"),
        (Severity::Passing, "What usually ends without help:"),
        (Severity::Note, "What kfwatch works without:"),
    ] {
        let mut findings = findings.iter().filter(|finding| finding.problem.severity == severity).peekable();
        if findings.peek().is_none() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{heading}");
        for (number, finding) in (1..).zip(findings) {
            let Problem { error, remedy, remedy_zh, .. } = finding.problem;
            let _ = writeln!(text, "{number}. {}{error}", finding.accounts());
            for remedy in language.remedies(remedy.as_deref(), remedy_zh.as_deref()) {
                let _ = writeln!(text, "   {remedy}");
            }
        }
        text.push('\n');
    }
    if findings.iter().all(|finding| finding.problem.severity == Severity::Note) {
        text.push_str("Nothing needs to be fixed.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::KfAccountCheck;

    fn unbound(kf_account: &str) -> CheckReport {
        let problem = Problem {
            severity: Severity::Human,
            code: "65402".to_owned(),
            error: format!("errcode 65402: unbound rid: {kf_account}"),
            remedy: Some("bind it".to_owned()),
            remedy_zh: Some("请绑定".to_owned()),
        };
        CheckReport::KfAccount(KfAccountCheck {
            official_account: "shop".to_owned(),
            kf_account: kf_account.to_owned(),
            problems: vec![problem],
            ..KfAccountCheck::default()
        })
    }

    #[test]
    fn kf_accounts_with_same_problem_share_an_entry() {
        let checked: Vec<CheckReport> = (1..=12).map(|n| unbound(&format!("kf{n}@shop"))).collect();
        assert_eq!(
            findings(&checked, Language::Zh),
            "What to fix:\n1. shop, 12 kf accounts (kf1@shop, kf2@shop, kf3@shop, kf4@shop, kf5@shop, kf6@shop, kf7@shop, \
             kf8@shop, kf9@shop, kf10@shop, …): errcode 65402: unbound rid: kf1@shop\n   bind it\n   请绑定\n\n"
        );
        assert_eq!(findings(&[], Language::En), "Nothing needs to be fixed.\n");
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        assert_eq!([0, 59, 61, 7199, 90_000].map(duration), ["0s", "59s", "1m 1s", "1h 59m", "25h 0m"]);
    }
}
