//! `kfwatch poll`: polls every account once and compares the result with the stored snapshot. Commits neither snapshots nor events.

use std::collections::BTreeMap;

use super::{
    CliError, ConfigArgs,
    account_args::{AccountArgs, Extent, ExtentArgs, REST_ON_DEMAND},
    findings,
    language::Language,
    operations::OperationsRunner,
    output,
    signals::Shutdown,
};
use crate::{
    control::report::PollReport,
    domain::{
        account_filter::AccountFilter,
        local_time::LocalZone,
        quantity::{counted, grouped},
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct PollArgs {
    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    accounts: AccountArgs,

    #[command(flatten)]
    extent: ExtentArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::OutputFormat,

    /// The language of remedies: English, or English and Chinese [default: from LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, value_enum)]
    lang: Option<Language>,
}

pub(super) async fn run(args: PollArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let loaded = args.config.load()?;
    let filter = AccountFilter::from(args.accounts);
    let runner = OperationsRunner::prepare(&loaded).await?;
    let mut reports = runner.polls(&loaded.config, &filter, &shutdown).await?;
    let text = || {
        let extent = args.extent.of_table(&filter, reports.len());
        let language = args.lang.unwrap_or_else(Language::of_process);
        report(&reports, extent, (language, loaded.config.poll.timezone))
    };
    let has_failed = reports.iter().any(|report| report.error.is_some());
    match args.format {
        output::OutputFormat::Table => output::print(text()).await?,
        output::OutputFormat::Json => {
            reports.retain(|report| args.extent.includes_sound() || report.error.is_some());
            output::print_json(&reports).await?;
        }
    }
    if has_failed { Err(CliError::Incomplete) } else { Ok(()) }
}

fn report(reports: &[PollReport], extent: Extent, (language, zone): (Language, LocalZone)) -> String {
    let shown: Vec<&PollReport> = reports
        .iter()
        .filter(|report| match extent {
            Extent::Everything => true,
            Extent::Problems => report.error.is_some(),
            Extent::Summary => false,
        })
        .collect();
    let mut text = if shown.is_empty() { String::new() } else { table(&shown, zone) };
    if extent != Extent::Everything {
        text.push_str(&summary(reports));
    }
    text.push_str(&failures(reports, language));
    if extent == Extent::Summary {
        text.push('\n');
        text.push_str(REST_ON_DEMAND);
    }
    text
}

fn table(reports: &[&PollReport], zone: LocalZone) -> String {
    let headings = ["account", "result", "sessions", "oldest since", "started", "ended"];
    let rows = reports.iter().map(|report| {
        vec![
            output::account(&report.official_account, report.kf_account.as_deref()),
            report.result.clone(),
            output::known(report.sessions),
            output::local_time(report.oldest_session_started_at.as_ref(), zone),
            output::known(report.started),
            output::known(report.ended),
        ]
    });
    output::timed(output::table(&headings, rows), zone)
}

/// How many polls had each result: `2,000 kf accounts: 1,998 ok, 2 unbound; 5,120 open sessions.`
fn summary(reports: &[PollReport]) -> String {
    let mut results: BTreeMap<&str, u64> = BTreeMap::new();
    reports.iter().for_each(|report| *results.entry(&report.result).or_default() += 1);
    let mut results: Vec<(&str, u64)> = results.into_iter().collect();
    results.sort_by_key(|(result, _)| *result != "ok");
    let results: Vec<String> =
        results.into_iter().map(|(result, count)| format!("{} {result}", grouped(count))).collect();
    let kf_accounts = reports.iter().filter(|report| report.kf_account.is_some()).count() as u64;
    let sessions = reports.iter().filter_map(|report| report.sessions).sum();
    let (kf_accounts, sessions) = (counted(kf_accounts, "kf account"), counted(sessions, "open session"));
    format!("{kf_accounts}: {}; {sessions}.\n", results.join(", "))
}

/// The failures, each with its remedy. Kf accounts with the same one share an entry.
fn failures(reports: &[PollReport], language: Language) -> String {
    let failed = reports.iter().filter_map(|report| {
        let error = report.error.as_ref()?;
        let account = (report.official_account.as_str(), report.kf_account.as_deref());
        // Errors are compared by code, because their texts may contain a request id.
        Some(((&report.code, &report.remedy), (error, report), Some(account)))
    });
    let findings = findings::group(failed);
    let entries = findings.iter().map(|finding| {
        let (error, PollReport { remedy, remedy_zh, .. }) = finding.problem;
        let remedies = language.remedies(remedy.as_deref(), remedy_zh.as_deref());
        let remedies: String = remedies.map(|remedy| format!("    {remedy}\n")).collect();
        format!("{}{error}\n{remedies}", finding.accounts())
    });
    let text: String = entries.collect();
    if text.is_empty() { text } else { format!("\n{text}") }
}
