//! Sets up logging, to standard error: standard output is for data.
//!
//! Secrets, tokens, request URLs and customers' openids are never logged, at any level.

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Limits on the levels of libraries that log internals, the bytes of requests, or errors that the sink reports already.
const LIBRARY_LEVELS: [&str; 7] = [
    "tokio_cron_scheduler=warn",
    "hyper=warn",
    "hyper_util=warn",
    "h2=warn",
    "reqwest=warn",
    "rustls=warn",
    "async_nats=off",
];

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sets up logging for the process.
pub(crate) fn init(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(level).context("the log level is not a filter")?;
    for directive in LIBRARY_LEVELS {
        filter = filter.add_directive(directive.parse()?);
    }
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            // NO_COLOR turns colours off, too.
            let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            builder.with_ansi(colour).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| anyhow::anyhow!("logging is set up already"))
}
