//! `kfwatch sinks`: shows the state of each sink, stops one or resumes it, through the running daemon or, if none runs, in the store.
//! Sends a test through a sink of the configuration by itself: the daemon may not have read that yet.

use std::sync::Arc;

use clap::Subcommand;

use super::{
    CliError, ConfigArgs, init_logging, output,
    store_access::{StoreAccess, file, read_sinks},
};
use crate::{
    app::{self, SinkTestError, clock::SystemClock},
    config::{DEFAULT_SINK, LoadedConfig, LocalConfig, SinkTarget},
    dispatch::admin::{REMOVED, SinkAdmin, SinkAnswer, SinkChange, SinkCommand, SinkReport},
    domain::{
        clock::Clock,
        local_time::LocalZone,
        quantity::{counted, grouped},
        sink_state::SinkState,
    },
    store::StoreError,
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct SinksArgs {
    #[command(subcommand)]
    command: Option<SinksCommand>,

    #[command(flatten)]
    config: ConfigArgs,

    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    format: output::OutputFormat,
}

#[derive(Debug, Subcommand)]
enum SinksCommand {
    /// Send a test event or message through a sink of the configuration, also if it is stopped
    Test(SinkArgs),
    /// Stop delivery to a sink until it is resumed; its events are kept
    Stop(SinkArgs),
    /// Resume delivery to a stopped or suspended sink
    Resume(SinkArgs),
}

#[derive(Debug, clap::Args)]
struct SinkArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(value_name = "NAME")]
    sink: String,
}

impl SinksArgs {
    /// The result when a signal ends the command.
    pub(super) fn interrupted(&self) -> Result<(), CliError> {
        Err(match self.command {
            Some(_) => CliError::Unconfirmed,
            None => CliError::Interrupted,
        })
    }
}

pub(super) async fn run(args: SinksArgs) -> Result<(), CliError> {
    match args.command {
        Some(SinksCommand::Test(SinkArgs { config, sink })) => test(&config, &sink).await,
        Some(SinksCommand::Stop(SinkArgs { config, sink })) => {
            let at = SystemClock::default().now().wall;
            let answer = carry_out(&config.load_local()?, SinkCommand::Stop { sink, at }).await?;
            let SinkAnswer::Changed(done) = answer else { return Err(unexpected(&answer)) };
            note_if_removed(&done);
            let SinkChange { sink, events, .. } = done;
            let events = counted(events, "event");
            output::print(format!(
                "{sink}: stopped, with {events} to deliver; resume with \"kfwatch sinks resume {sink}\"\n"
            ))
            .await
        }
        Some(SinksCommand::Resume(SinkArgs { config, sink })) => {
            let done = change(&config.load_local()?, SinkCommand::Resume { sink }).await?;
            output::print(format!(
                "{}: resumed, with {} to deliver\n",
                done.sink,
                counted(done.events, "event")
            ))
            .await
        }
        None => {
            let config = args.config.load_local()?;
            match read_sinks(&config, SinkCommand::Show).await? {
                SinkAnswer::Sinks(sinks) => {
                    output::print_rows(&sinks, args.format, || table(&sinks, config.timezone)).await
                }
                answer => Err(unexpected(&answer)),
            }
        }
    }
}

/// Carries out a command that changes a sink, and notes what keeps the sink from getting events.
pub(super) async fn change(config: &LocalConfig, command: SinkCommand) -> Result<SinkChange, CliError> {
    match carry_out(config, command).await? {
        SinkAnswer::Changed(done) => {
            note_if_removed(&done);
            if let Some(reason) = &done.stopped_reason {
                let sink = &done.sink;
                output::message(format_args!(
                    "note: {sink} is stopped; resume with \"kfwatch sinks resume {sink}\": {reason}"
                ));
            }
            Ok(done)
        }
        answer => Err(unexpected(&answer)),
    }
}

fn note_if_removed(done: &SinkChange) {
    if !done.is_configured {
        let sink = &done.sink;
        output::message(format_args!(
            "note: {sink} is not in the configuration; the daemon delivers nothing to it"
        ));
    }
}

/// Sends a test through a sink, and says what became of it.
async fn test(args: &ConfigArgs, name: &str) -> Result<(), CliError> {
    let LoadedConfig { config, .. } = args.load()?;
    init_logging("warn", config.log.format)?;
    let Some(sink) = config.sinks.iter().find(|sink| sink.name == name) else {
        let known: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        return Err(anyhow::anyhow!(
            "there is no sink {name:?} in the configuration; known: {}",
            known.join(", ")
        )
        .into());
    };
    let tested = app::test_sink(&config, sink, Arc::new(SystemClock::default())).await;
    tested.map_err(|error| match error {
        SinkTestError::Unusable(error) => CliError::App(error),
        SinkTestError::Delivery(error) => {
            anyhow::anyhow!("test of sink {name:?} failed: {}", error.with_response()).into()
        }
    })?;
    output::print(format!("{name}: {}\n", tested_well(&sink.target))).await
}

/// What a successful test shows.
fn tested_well(target: &SinkTarget) -> String {
    match target {
        SinkTarget::Stdout => {
            "nothing to test: its events go to the standard output of the daemon".to_owned()
        }
        SinkTarget::File { path, .. } => format!("{} can be written", path.display()),
        SinkTarget::Webhook(options) => format!("{} has accepted the test event", options.receiver()),
        SinkTarget::Nats(options) => format!("a stream has stored the test event at {}", options.servers()),
        SinkTarget::Chat(options) => {
            format!("{} has accepted the test message; look into the group", options.vendor.name())
        }
    }
}

async fn carry_out(config: &LocalConfig, command: SinkCommand) -> Result<SinkAnswer, CliError> {
    match StoreAccess::acquire(&config.log, &config.store, &config.control)? {
        StoreAccess::Daemon(daemon) => {
            daemon.client.sinks(command).await.map_err(|error| daemon.request_failed(error))
        }
        StoreAccess::Direct(None) => {
            Err(StoreError::Missing(file(&config.store, &config.control)?.to_owned()).into())
        }
        StoreAccess::Direct(Some(store)) => {
            let answer = SinkAdmin::new(store.clone()).execute(command).await;
            store.close().await;
            answer.map_err(|error| anyhow::Error::new(error).into())
        }
    }
}

/// A bug: each command has one kind of answer. Shows only its kind: dead letters contain openids.
pub(super) fn unexpected(answer: &SinkAnswer) -> CliError {
    let kind = match answer {
        SinkAnswer::Sinks(_) => "sinks",
        SinkAnswer::DeadLetters(_) => "dead letters",
        SinkAnswer::Changed(_) => "a change",
    };
    anyhow::anyhow!("unexpected response with {kind}").into()
}

fn table(sinks: &[SinkReport], zone: LocalZone) -> String {
    if sinks.is_empty() {
        return "no sinks yet: a daemon registers them when it starts\n".to_owned();
    }
    let headings = ["sink", "state", "pending", "oldest pending", "last delivery", "dead letters", "lost"];
    let rows = sinks.iter().map(|sink| {
        vec![
            sink.sink.clone(),
            sink.state.clone(),
            // A removed sink waits for nothing.
            output::known((sink.state != REMOVED).then(|| grouped(sink.pending_events))),
            output::local_time(sink.oldest_pending_at.as_ref().filter(|_| sink.state != REMOVED), zone),
            output::local_time(sink.last_delivery_at.as_ref(), zone),
            grouped(sink.dead_letters),
            grouped(sink.lost_events + sink.expired_dead_letters),
        ]
    });
    output::timed(output::table(&headings, rows), zone) + &remarks(sinks, zone)
}

/// The problems of each sink, with what to do about them.
fn remarks(sinks: &[SinkReport], zone: LocalZone) -> String {
    let mut text = String::new();
    if let Some(failure) = sinks.iter().find_map(|report| report.store_failure.as_ref()) {
        text.push_str(&format!("\nnothing is stored: {failure}"));
    }
    for report in sinks {
        let sink = &report.sink;
        let mut remark = |what: String| text.push_str(&format!("\n{sink}: {what}"));
        if let Some(reason) = &report.stopped_reason {
            remark(format!(
                "{}\n    {}: kfwatch sinks resume {sink}",
                SinkState::describe(&report.state, reason),
                SinkState::when_to_resume(reason)
            ));
        }
        if let (Some(at), Some(failure)) = (&report.last_failure_at, &report.last_failure) {
            let is_over =
                if report.state == SinkState::Delivering.as_str() { "; it has recovered since" } else { "" };
            remark(format!("last failure at {}: {failure}{is_over}", zone.show_text(at)));
        }
        if report.dead_letters > 0 {
            remark(format!(
                "{}: rejected for good\n    show them: kfwatch events dead --sink {sink}",
                counted(report.dead_letters, "dead letter")
            ));
        }
        if let Some([first, last]) = &report.lost_between {
            remark(format!(
                "{} removed from the log before delivery, the newest between {} and {}",
                counted(report.lost_events, "event"),
                zone.show_text(first),
                zone.show_text(last)
            ));
        }
        if report.expired_dead_letters > 0 {
            remark(format!("{} removed because of age", counted(report.expired_dead_letters, "dead letter")));
        }
        if report.state == "unknown" {
            remark("no daemon is running, so the state of deliveries is unknown".to_owned());
        }
        if report.state == REMOVED && sink == DEFAULT_SINK {
            remark(
                "nothing is wrong: it was the sink of a configuration without [[sinks]]; it is forgotten after 7 days"
                    .to_owned(),
            );
        } else if report.state == REMOVED {
            let pending = counted(report.pending_events, "event");
            remark(format!(
                "not in the configuration; if it returns within 7 days, it continues from its cursor, with {pending}"
            ));
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}
