//! `kfwatch sinks`: how sinks stand, and letting one that was stopped get events again. By the running daemon, or, where none
//! runs, in the store.

use clap::Subcommand;

use super::{
    ConfigArgs, Failure, output,
    store_holder::{StoreHolder, look},
};
use crate::{
    config::Loaded,
    dispatch::admin::{Done, SinkAdmin, SinkAnswer, SinkCommand, SinkReport},
    store::StoreError,
};

/// Options of `kfwatch sinks`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct SinksArgs {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    config: ConfigArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let a sink that was stopped or suspended get events again
    Resume(ResumeArgs),
}

#[derive(Debug, clap::Args)]
struct ResumeArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(value_name = "NAME")]
    sink: String,
}

/// Prints how sinks stand, or resumes one.
pub(super) async fn run(args: SinksArgs) -> Result<(), Failure> {
    match args.command {
        Some(Command::Resume(ResumeArgs { config, sink })) => {
            let done = order(&config.load()?, SinkCommand::Resume { sink }).await?;
            output::print(&format!("{}: resumed, with {} events to deliver\n", done.sink, done.events))
        }
        None => match look(&args.config.load()?, SinkCommand::Show).await? {
            SinkAnswer::Sinks(sinks) => print(&sinks, args.format),
            answer => Err(misunderstood(&answer)),
        },
    }
}

/// Has something done to a sink.
pub(super) async fn order(loaded: &Loaded, command: SinkCommand) -> Result<Done, Failure> {
    match carry_out(loaded, command).await? {
        SinkAnswer::Done(done) => {
            if !done.is_configured {
                eprintln!(
                    "note: {} is not configured at present; the daemon delivers nothing to it",
                    done.sink
                );
            }
            if let Some(reason) = &done.stopped_reason {
                let sink = &done.sink;
                eprintln!("note: {sink} gets nothing until \"kfwatch sinks resume {sink}\": {reason}");
            }
            Ok(done)
        }
        answer => Err(misunderstood(&answer)),
    }
}

/// By the daemon that has the store, or here.
async fn carry_out(loaded: &Loaded, command: SinkCommand) -> Result<SinkAnswer, Failure> {
    match StoreHolder::find(loaded)? {
        StoreHolder::Daemon(daemon) => {
            daemon.client.sinks(command).await.map_err(|error| daemon.failed(error))
        }
        StoreHolder::Here(None) => Err(StoreError::Missing(loaded.config.store.path.clone()).into()),
        StoreHolder::Here(Some(store)) => {
            let answer = SinkAdmin::without_daemon(store.clone()).carry_out(command).await;
            store.close().await;
            answer.map_err(|error| anyhow::Error::new(error).into())
        }
    }
}

/// A bug: what is asked for tells what is answered.
pub(super) fn misunderstood(answer: &SinkAnswer) -> Failure {
    anyhow::anyhow!("an answer to another question: {answer:?}").into()
}

fn print(sinks: &[SinkReport], format: output::Format) -> Result<(), Failure> {
    match format {
        output::Format::Json => output::print_json(sinks),
        output::Format::Table => {
            let headings =
                ["sink", "state", "pending", "oldest pending", "last delivery", "dead letters", "lost"];
            let rows = sinks.iter().map(|sink| {
                vec![
                    sink.sink.clone(),
                    sink.state.clone(),
                    sink.pending_events.to_string(),
                    output::known(sink.oldest_pending_at.as_ref()),
                    output::known(sink.last_delivery_at.as_ref()),
                    sink.dead_letters.to_string(),
                    (sink.lost_events + sink.expired_dead_letters).to_string(),
                ]
            });
            output::print(&(output::table(&headings, rows) + &remarks(sinks)))
        }
    }
}

/// What is wrong, and what to do about it.
fn remarks(sinks: &[SinkReport]) -> String {
    let mut text = String::new();
    for report in sinks {
        let sink = &report.sink;
        let mut remark = |what: String| text.push_str(&format!("\n{sink}: {what}"));
        if let Some(reason) = &report.stopped_reason {
            remark(format!(
                "{}: {reason}\n    when that is mended: kfwatch sinks resume {sink}",
                report.state
            ));
        }
        if let (Some(at), Some(failure)) = (&report.last_failure_at, &report.last_failure) {
            let is_over = if report.state == "delivering" { "; it answered since" } else { "" };
            remark(format!("failed last at {at}: {failure}{is_over}"));
        }
        if report.dead_letters > 0 {
            remark(format!(
                "has refused {} events for good\n    look at them: kfwatch events dead --sink {sink}",
                report.dead_letters
            ));
        }
        if let Some([first, last]) = &report.lost_between {
            remark(format!(
                "{} events were removed before it had them, the newest from {first} to {last}",
                report.lost_events
            ));
        }
        if report.expired_dead_letters > 0 {
            remark(format!("{} dead letters were removed for their age", report.expired_dead_letters));
        }
        if report.state == "unknown" {
            remark("no daemon runs that could be asked how it delivers".to_owned());
        }
        if report.state == "removed" {
            remark(
                "is not configured at present; it goes on where it stood if it comes back within 7 days"
                    .to_owned(),
            );
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}
