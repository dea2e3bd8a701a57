//! `kfwatch events replay`: moves the cursor of a sink back, so that events are delivered again with the same ids.

use super::{
    super::{CliError, ConfigArgs, output, sinks},
    SinceArg, since,
};
use crate::{
    app::clock::SystemClock,
    dispatch::admin::{SinkChange, SinkCommand},
    domain::clock::Clock,
};

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,

    /// Replay events observed at or after a time such as 2026-11-22T07:00:00Z, or an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: SinceArg,
}

pub(super) async fn run(args: ReplayArgs) -> Result<(), CliError> {
    let now = SystemClock::default().now().wall;
    let command = SinkCommand::Replay { sink: args.sink, since: args.since.resolve(now) };
    let SinkChange { sink, events, from, .. } = sinks::change(&args.config.load_local()?, command).await?;
    output::print(match from {
        Some(from) => format!(
            "{sink}: {events} events of the log will be delivered again, if its filters select them; the first was observed at {from}\n"
        ),
        None => format!(
            "{sink}: nothing to replay: the log contains no event since then that it has acknowledged\n"
        ),
    })
    .await
}
