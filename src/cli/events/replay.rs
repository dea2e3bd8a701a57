//! `kfwatch events replay`: moves the cursor of a sink back, so that events are delivered again with the same ids.

use super::{
    super::{CliError, ConfigArgs, output, sinks},
    SinceArg, since,
};
use crate::{
    app::clock::SystemClock,
    dispatch::admin::{SinkChange, SinkCommand},
    domain::{clock::Clock, quantity::counted},
};

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,

    /// Replay events observed since 2026-11-28, "2026-11-28 09:00", 09:00 (all in poll.timezone), 2h, 7d, or 2026-11-28T01:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: SinceArg,
}

pub(super) async fn run(args: ReplayArgs) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let (now, zone) = (SystemClock::default().now().wall, config.timezone);
    let since = args.since.resolve(zone, now);
    let command = SinkCommand::Replay { sink: args.sink, since };
    let SinkChange { sink, events, from, .. } = sinks::change(&config, command).await?;
    output::print(match from {
        Some(from) => format!(
            "{sink}: {} of the log will be delivered again, if its filters select them; the first was observed at {} ({zone})\n",
            counted(events, "event"),
            zone.show_text(&from)
        ),
        None => format!(
            "{sink}: nothing to replay: the log contains no event since {} ({zone}) that it has acknowledged\n",
            zone.show(since)
        ),
    })
    .await
}
