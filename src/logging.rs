//! Logs: to standard error, because standard output belongs to the user's data.
//!
//! Never logged, at any level: secrets, tokens, URLs of requests. Customers' openids stay below info.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// What is always quieter than asked for: libraries that log their inner life, the bytes of a request, or as an error what
/// its sink tells, each time anew.
const QUIETER: [&str; 7] = [
    "tokio_cron_scheduler=warn",
    "hyper=warn",
    "hyper_util=warn",
    "h2=warn",
    "reqwest=warn",
    "rustls=warn",
    "async_nats=off",
];

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is no tracing filter.
    #[error("the log level is not a filter")]
    Filter(#[from] ParseError),
    /// Something else in this process logs already.
    #[error("logging is set up already")]
    Twice,
}

/// Sets up logging for the process.
pub fn init(level: &str, format: LogFormat) -> Result<(), LoggingError> {
    let mut filter = EnvFilter::try_new(level)?;
    for directive in QUIETER {
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
    set.map_err(|_| LoggingError::Twice)
}
