//! `kfwatch events dead`: the events that a sink has refused for good.

use serde_json::Value;

use super::{
    super::{ConfigArgs, Failure, output, sinks, store_holder},
    field,
};
use crate::dispatch::admin::{DeadLetterReport, SinkAnswer, SinkCommand};

/// Options of `kfwatch events dead`.
#[derive(Debug, clap::Args)]
pub(super) struct DeadArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,

    /// Deliver all of them once more; what is refused again is a dead letter again
    #[arg(long, conflicts_with = "drop")]
    retry: bool,

    /// Remove all of them for good
    #[arg(long)]
    drop: bool,

    /// How to print them; json has the whole events
    #[arg(long, value_enum, default_value = "table")]
    format: output::Format,
}

/// Prints the dead letters, or does something about them.
pub(super) async fn run(args: DeadArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    let sink = args.sink;
    if args.retry {
        let done = sinks::order(&loaded, SinkCommand::RetryDeadLetters { sink }).await?;
        return output::print(&format!(
            "{}: {} dead letters are delivered once more\n",
            done.sink, done.events
        ));
    }
    if args.drop {
        let done = sinks::order(&loaded, SinkCommand::DropDeadLetters { sink }).await?;
        return output::print(&format!("{}: {} dead letters are dropped\n", done.sink, done.events));
    }
    match store_holder::look(&loaded, SinkCommand::DeadLetters { sink }).await? {
        SinkAnswer::DeadLetters(letters) => print(&letters, args.format),
        answer => Err(sinks::misunderstood(&answer)),
    }
}

fn print(letters: &[DeadLetterReport], format: output::Format) -> Result<(), Failure> {
    match format {
        output::Format::Json if letters.is_empty() => Ok(()),
        output::Format::Json => output::print_json(letters),
        output::Format::Table => {
            let headings = ["died", "event", "id", "account", "customer", "reason"];
            output::print(&output::table(&headings, letters.iter().map(row)))
        }
    }
}

fn row(letter: &DeadLetterReport) -> Vec<String> {
    let of = |pointer| field(&letter.event, pointer);
    let kind = match &letter.event {
        Value::String(_) => "(damaged)".to_owned(),
        _ => of("/type").trim_start_matches("kf.").to_owned(),
    };
    let account = match of("/data/official_account") {
        official_account if official_account.is_empty() => String::new(),
        official_account => format!("{official_account}/{}", of("/data/kf_account")),
    };
    let retry = if letter.retry { " (to be delivered once more)" } else { "" };
    let reason = format!("{}{retry}", letter.reason);
    vec![letter.died_at.clone(), kind, of("/id"), account, of("/data/openid"), reason]
}
