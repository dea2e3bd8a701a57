//! `kfwatch events dead`: shows, retries or drops the dead letters of a sink.

use serde_json::Value;

use super::{
    super::{CliError, ConfigArgs, output, sinks, store_access},
    field,
};
use crate::{
    dispatch::admin::{DeadLetterReport, SinkAnswer, SinkCommand},
    domain::{local_time::LocalZone, openid::masked, quantity::counted},
};

#[derive(Debug, clap::Args)]
pub(super) struct DeadArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,

    /// Deliver all of them again; an event that is rejected again stays a dead letter
    #[arg(long, conflicts_with = "drop")]
    retry: bool,

    /// Remove all of them permanently
    #[arg(long)]
    drop: bool,

    /// How to print them; json includes the whole events
    #[arg(long, value_enum, default_value = "table")]
    format: output::OutputFormat,
}

impl DeadArgs {
    /// The result when a signal ends the command.
    pub(super) fn interrupted(&self) -> Result<(), CliError> {
        Err(if self.retry || self.drop { CliError::Unconfirmed } else { CliError::Interrupted })
    }
}

pub(super) async fn run(args: DeadArgs) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let sink = args.sink;
    if args.retry {
        let done = sinks::change(&config, SinkCommand::RetryDeadLetters { sink }).await?;
        let letters = counted(done.events, "dead letter");
        let text = format!("{}: {letters} will be delivered again\n", done.sink);
        return output::print(text).await;
    }
    if args.drop {
        let done = sinks::change(&config, SinkCommand::DropDeadLetters { sink }).await?;
        return output::print(format!("{}: {} dropped\n", done.sink, counted(done.events, "dead letter")))
            .await;
    }
    let zone = config.timezone;
    match store_access::read_sinks(&config, SinkCommand::DeadLetters { sink: sink.clone() }).await? {
        SinkAnswer::DeadLetters(letters) if letters.is_empty() => {
            output::print_rows(&letters, args.format, || format!("no dead letters of {sink}\n")).await
        }
        SinkAnswer::DeadLetters(letters) => {
            let headings = ["since", "event", "account", "customer", "reason"];
            let rows = letters.iter().map(|letter| row(letter, zone));
            let table = || output::timed(output::wrapped_table(&headings, &["reason"], rows), zone);
            output::print_rows(&letters, args.format, table).await
        }
        answer => Err(sinks::unexpected(&answer)),
    }
}

/// Without the id of the event, which JSON has: a line would be too long.
fn row(letter: &DeadLetterReport, zone: LocalZone) -> Vec<String> {
    let of = |pointer| field(&letter.event, pointer);
    let kind = match &letter.event {
        Value::String(_) => "(damaged)".to_owned(),
        _ => of("/type").trim_start_matches("kf.").to_owned(),
    };
    let account = match of("/data/official_account") {
        official_account if official_account.is_empty() => String::new(),
        official_account => format!("{official_account}/{}", of("/data/kf_account")),
    };
    let retry = if letter.retry { " (to be delivered again)" } else { "" };
    let reason = format!("{}{retry}", letter.reason);
    vec![zone.show_text(&letter.died_at), kind, account, masked(&of("/data/openid")), reason]
}
