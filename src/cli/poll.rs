//! `kfwatch poll`: polls every account once and compares the result with the stored snapshot. Commits neither snapshots nor events.

use super::{CliError, ConfigArgs, operations::OperationsRunner, output, signals::Shutdown};
use crate::control::report::PollReport;

#[derive(Debug, clap::Args)]
pub(super) struct PollArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::OutputFormat,
}

pub(super) async fn run(args: PollArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let loaded = args.config.load()?;
    let reports = OperationsRunner::prepare(&loaded).await?.polls(&loaded.config, &shutdown).await?;
    output::print_rows(&reports, args.format, || table(&reports)).await?;
    if reports.iter().all(|report| report.error.is_none()) { Ok(()) } else { Err(CliError::Incomplete) }
}

fn table(reports: &[PollReport]) -> String {
    let headings =
        ["official account", "kf account", "result", "sessions", "oldest since", "started", "ended"];
    let rows = reports.iter().map(|report| {
        vec![
            report.official_account.clone(),
            output::known(report.kf_account.as_ref()),
            report.result.clone(),
            output::known(report.sessions),
            output::known(report.oldest_session_started_at.as_ref()),
            output::known(report.started),
            output::known(report.ended),
        ]
    });
    output::table(&headings, rows) + &failures(reports)
}

/// The failed polls, each with its remedy.
fn failures(reports: &[PollReport]) -> String {
    let mut text = String::new();
    for report in reports {
        if let Some(error) = &report.error {
            let remedy = report.remedy.as_ref().map(|remedy| format!("\n    {remedy}")).unwrap_or_default();
            let kf_account = report.kf_account.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
            text.push_str(&format!("\n{}{kf_account}: {error}{remedy}", report.official_account));
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}
