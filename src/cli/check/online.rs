//! `kfwatch check --online`: checks every official account and kf account with WeChat.
//!
//! It prints the tables first and the numbered list of problems last, where it stays visible on a terminal.

use std::{collections::HashMap, fmt::Write as _};

use crate::{
    cli::{CliError, operations::OperationsRunner, output, signals::Shutdown},
    config::{Environment, LoadedConfig},
    control::report::{CheckReport, KfAccountCheck, OfficialAccountCheck, Problem, Severity},
};

/// The variables that set the language, in order of precedence.
const LANGUAGE_VARIABLES: [&str; 3] = ["LC_ALL", "LC_MESSAGES", "LANG"];

/// Kf accounts named for each problem.
const MAX_NAMED: usize = 10;

/// The language of remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// English
    En,
    /// English and Chinese
    Zh,
}

pub(super) async fn run(
    loaded: &LoadedConfig,
    format: output::OutputFormat,
    language: Option<Language>,
    shutdown: &Shutdown,
) -> Result<(), CliError> {
    let checked = OperationsRunner::prepare(loaded).await?.checks(&loaded.config, shutdown).await?;
    let language = language.unwrap_or_else(|| Language::from_environment(&Environment::from_process()));
    output::print_rows(&checked, format, || report(&checked, language)).await?;
    let worst = checked.iter().flat_map(CheckReport::problems).map(|problem| problem.severity).min();
    match worst {
        Some(Severity::Human) => Err(CliError::NeedsHuman),
        Some(Severity::Passing) => Err(CliError::Incomplete),
        Some(Severity::Note) | None => Ok(()),
    }
}

impl Language {
    fn from_environment(environment: &Environment) -> Self {
        let set = LANGUAGE_VARIABLES.into_iter().filter_map(|name| environment.get(name));
        match set.into_iter().find(|value| !value.is_empty()) {
            Some(value) if value.starts_with("zh") => Self::Zh,
            _ => Self::En,
        }
    }
}

fn report(checked: &[CheckReport], language: Language) -> String {
    let official_accounts = checked.iter().filter_map(|row| match row {
        CheckReport::OfficialAccount(row) => Some(official_account(row)),
        CheckReport::KfAccount(_) => None,
    });
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
    let mut text = output::table(&headings, official_accounts);
    let kf_accounts = checked.iter().filter_map(|row| match row {
        CheckReport::KfAccount(row) => Some(kf_account(row)),
        CheckReport::OfficialAccount(_) => None,
    });
    let headings = ["official account", "kf account", "nickname", "bound", "online", "sessions", "result"];
    text.push('\n');
    text.push_str(&output::table(&headings, kf_accounts));
    text.push('\n');
    text.push_str(&findings(checked, language));
    text
}

fn official_account(row: &OfficialAccountCheck) -> Vec<String> {
    vec![
        row.official_account.clone(),
        row.token_source.clone(),
        output::known(row.token_age_seconds.map(duration)),
        output::known(row.token_expires_in_seconds.map(duration)),
        row.calls_a_day.to_string(),
        output::known(row.quota_limit),
        output::known(row.quota_used),
        output::known(row.quota_remaining),
        output::known(row.waiting),
    ]
}

fn kf_account(row: &KfAccountCheck) -> Vec<String> {
    let yes_or_no = |is: bool| if is { "yes" } else { "no" };
    let bound = match (row.bound, &row.invitation, &row.invitation_expires_at) {
        (Some(false), Some(status), Some(at)) if status == "waiting" => {
            format!("no: invited until {}", to_the_minute(at))
        }
        (Some(false), Some(status), _) => format!("no: invitation {status}"),
        (bound, ..) => output::known(bound.map(yes_or_no)),
    };
    vec![
        row.official_account.clone(),
        row.kf_account.clone(),
        output::known(row.nickname.as_ref()),
        bound,
        output::known(row.online.map(yes_or_no)),
        output::known(row.sessions),
        row.result.clone(),
    ]
}

/// A time without seconds: `2026-11-23T21:06Z`.
fn to_the_minute(time: &str) -> String {
    time.get(..16).map_or_else(|| time.to_owned(), |minute| format!("{minute}Z"))
}

/// The two largest units of a duration: `1h 58m`.
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

/// The problems, the worst first. Kf accounts with the same problem share an entry.
fn findings(checked: &[CheckReport], language: Language) -> String {
    let mut text = String::new();
    let findings = group(checked);
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
            let _ = remedy.iter().try_for_each(|remedy| writeln!(text, "   {remedy}"));
            if language == Language::Zh {
                let _ = remedy_zh.iter().try_for_each(|remedy| writeln!(text, "   {remedy}"));
            }
        }
        text.push('\n');
    }
    if findings.iter().all(|finding| finding.problem.severity == Severity::Note) {
        text.push_str("Nothing needs to be fixed.\n");
    }
    text
}

/// A problem, and all kf accounts of one official account that have it.
struct Finding<'a> {
    problem: &'a Problem,
    official_account: &'a str,
    kf_accounts: Vec<&'a str>,
}

impl Finding<'_> {
    /// The accounts that have the problem, as a prefix of its text. Empty for a problem of this machine.
    fn accounts(&self) -> String {
        let official_account = self.official_account;
        match &self.kf_accounts[..] {
            [] if self.problem.concerns_this_machine() => String::new(),
            [] => format!("{official_account}: "),
            [kf_account] => format!("{official_account}/{kf_account}: "),
            all => {
                let named = all.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
                let more = if all.len() > MAX_NAMED { ", …" } else { "" };
                format!("{official_account}, {} kf accounts ({named}{more}): ", all.len())
            }
        }
    }
}

fn group(checked: &[CheckReport]) -> Vec<Finding<'_>> {
    let mut findings: Vec<Finding<'_>> = Vec::new();
    let mut places = HashMap::new();
    for row in checked {
        let (official_account, kf_account) = row.names();
        for problem in row.problems() {
            let of = (!problem.concerns_this_machine()).then_some(official_account);
            // Problems are compared by code, because the error text may contain a request id.
            let key = (of, kf_account.is_some(), problem.severity, &problem.code, &problem.remedy);
            let place = *places.entry(key).or_insert_with(|| {
                findings.push(Finding { problem, official_account, kf_accounts: Vec::new() });
                findings.len() - 1
            });
            if let Some(finding) = findings.get_mut(place) {
                finding.kf_accounts.extend(kf_account);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn language_variables_have_precedence() {
        let check = |variables: &[(&str, &str)], expected| {
            let environment = variables.iter().copied().collect();
            assert_eq!(Language::from_environment(&environment), expected, "{variables:?}");
        };
        check(&[], Language::En);
        check(&[("LANG", "zh_CN.UTF-8")], Language::Zh);
        check(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")], Language::En);
        check(&[("LC_MESSAGES", "zh_TW"), ("LANG", "de_DE"), ("LC_ALL", "")], Language::Zh);
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        assert_eq!([0, 59, 61, 7199, 90_000].map(duration), ["0s", "59s", "1m 1s", "1h 59m", "25h 0m"]);
    }
}
