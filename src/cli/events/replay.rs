//! `kfwatch events replay`: a sink gets events once more, with the same ids, as if it had never confirmed them.

use super::{
    super::{ConfigArgs, Failure, output, sinks},
    Since, since,
};
use crate::{
    app::clock::SystemClock,
    dispatch::admin::{Done, SinkCommand},
    domain::clock::Clock,
};

/// Options of `kfwatch events replay`.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,

    /// From when on: a time such as 2026-11-22T07:00:00Z, or an age such as 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Since,
}

/// Moves the sink back and says what that means.
pub(super) async fn run(args: ReplayArgs) -> Result<(), Failure> {
    let now = SystemClock::default().now().wall;
    let command = SinkCommand::Replay { sink: args.sink, since: args.since.before(now) };
    let Done { sink, events, from, .. } = sinks::order(&args.config.load()?, command).await?;
    output::print(&match from {
        Some(from) => format!(
            "{sink}: {events} events of the log are delivered once more, as far as it wants them; the first is of {from}\n"
        ),
        None => format!(
            "{sink}: has nothing to be delivered once more: what it has confirmed since then is not in the log\n"
        ),
    })
}
