//! `kfwatch poll`: one poll of every account, compared with what is known of it. Commits neither snapshots nor events.

use super::{ConfigArgs, Failure, output, site::Site};
use crate::control::report::Polled;

/// Options of `kfwatch poll`.
#[derive(Debug, clap::Args)]
pub(super) struct PollArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::Format,
}

/// Polls every account once and prints what came of it.
pub(super) async fn run(args: PollArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    let results = Site::find(&loaded).await?.polls(&loaded.config).await?;
    print(&results, args.format)?;
    if results.iter().all(|polled| polled.error.is_none()) { Ok(()) } else { Err(Failure::Incomplete) }
}

fn print(results: &[Polled], format: output::Format) -> Result<(), Failure> {
    match format {
        output::Format::Json => output::print_json(results),
        output::Format::Table => {
            let headings =
                ["official account", "kf account", "result", "sessions", "oldest since", "new", "gone"];
            let rows = results.iter().map(|polled| {
                vec![
                    polled.official_account.clone(),
                    output::known(polled.kf_account.as_ref()),
                    polled.result.clone(),
                    output::known(polled.sessions),
                    output::known(polled.oldest_session_started_at.as_ref()),
                    output::known(polled.started),
                    output::known(polled.ended),
                ]
            });
            output::print(&(output::table(&headings, rows) + &troubles(results)))
        }
    }
}

/// What failed and what to do about it.
fn troubles(results: &[Polled]) -> String {
    let mut text = String::new();
    for polled in results {
        if let Some(error) = &polled.error {
            let remedy = polled.remedy.as_ref().map(|remedy| format!("\n    {remedy}")).unwrap_or_default();
            let kf_account = polled.kf_account.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
            text.push_str(&format!("\n{}{kf_account}: {error}{remedy}", polled.official_account));
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}
