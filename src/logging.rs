//! Sets up logging, to standard error: standard output is for data. Level and format can change while the process runs.
//!
//! Secrets, tokens, request URLs and customers' openids are never logged, at any level.
//!
//! A log line never makes its task wait: it is queued for a thread, or dropped and counted ([`LineQueue`]).

use std::{
    fmt, io,
    panic::{self, PanicHookInfo},
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use serde_json::json;
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Registry,
    field::MakeExt,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{Format, Full, Json, Writer, debug_fn},
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    domain::{peer_text::sanitized, quantity::counted},
    stdio::{self, LineQueue},
};

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

/// Changes level and format of the log. Clones change the same log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    format: Arc<ArcSwap<LogFormat>>,
}

impl LogHandle {
    /// Uses this level and this format from now on. A level that is not a filter changes nothing.
    pub fn set(&self, level: &str, format: LogFormat) -> anyhow::Result<()> {
        self.filter.reload(filter(level)?).context("replace the log filter")?;
        self.format.store(Arc::new(format));
        stdio::stderr().set_notice(notice(format));
        Ok(())
    }
}

/// Sets up logging for the process.
pub(crate) fn init(level: &str, format: LogFormat) -> anyhow::Result<LogHandle> {
    let (handle, subscriber) = subscriber(filter(level)?, format, || LogWriter(stdio::stderr()));
    stdio::stderr().set_notice(notice(format));
    subscriber.try_init().map_err(|_| anyhow::anyhow!("logging is set up already"))?;
    // The filter decides, which may change.
    log::set_max_level(log::LevelFilter::Trace);
    panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

fn subscriber(
    filter: EnvFilter,
    format: LogFormat,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> (LogHandle, impl Subscriber + Send + Sync) {
    // NO_COLOR turns colours off, too.
    let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let (filter, filter_handle) = reload::Layer::new(filter);
    let format = Arc::new(ArcSwap::from_pointee(format));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colour)
        .fmt_fields(debug_fn(write_field).delimited(" "))
        .event_format(LineFormat::new(Arc::clone(&format)));
    let handle = LogHandle { filter: filter_handle, format };
    (handle, tracing_subscriber::registry().with(filter).with(lines))
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let mut filter = EnvFilter::try_new(level).context("the log level is not a filter")?;
    for directive in LIBRARY_LEVELS {
        filter = filter.add_directive(directive.parse()?);
    }
    Ok(filter)
}

fn notice(format: LogFormat) -> fn(u64) -> String {
    match format {
        LogFormat::Text => text_notice,
        LogFormat::Json => json_notice,
    }
}

/// Formats lines in the current format. Without spans, whose fields would have been formatted for one of the two.
struct LineFormat {
    current: Arc<ArcSwap<LogFormat>>,
    text: Format<Full>,
    json: Format<Json>,
}

impl LineFormat {
    fn new(current: Arc<ArcSwap<LogFormat>>) -> Self {
        let json = Format::default().json().flatten_event(true);
        Self {
            current,
            text: Format::default().with_target(false),
            json: json.with_current_span(false).with_span_list(false),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match **self.current.load() {
            LogFormat::Text => self.text.format_event(context, writer, event),
            LogFormat::Json => self.json.format_event(context, writer, event),
        }
    }
}

/// Writes a field of a line: the message alone, others as `name=value`. A value is quoted if it has spaces, quotes or nothing,
/// whatever its type.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = sanitized(&format!("{value:?}"));
    match field.name() {
        "message" => writer.write_str(&text),
        // What the `log` crate adds: the place in a library.
        name if name.starts_with("log.") => Ok(()),
        name => {
            let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&text);
            let is_word = |text: &str| !text.is_empty() && !text.contains([' ', '"', '=', '\\']);
            match (is_word(bare), bare.len() < text.len()) {
                (true, _) => write!(writer, "{name}={bare}"),
                (false, true) => write!(writer, "{name}={text}"),
                (false, false) => write!(writer, "{name}={text:?}"),
            }
        }
    }
}

/// Queues each line that the formatter writes, which it does in one call.
struct LogWriter(&'static LineQueue);

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.offer(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why lines are missing.
const DROPPED: &str = "dropped, because standard error did not accept";

fn dropped(lines: u64) -> String {
    let (were, them) = if lines == 1 { ("was", "it") } else { ("were", "them") };
    format!("{} {were} {DROPPED} {them}", counted(lines, "log line"))
}

fn text_notice(lines: u64) -> String {
    format!("{}  WARN {} dropped_lines={lines}\n", now(), dropped(lines))
}

fn json_notice(lines: u64) -> String {
    let message = dropped(lines);
    let notice = json!({
        "timestamp": now(), "level": "WARN", "message": message, "dropped_lines": lines, "target": module_path!()
    });
    format!("{notice}\n")
}

/// The time as the formatter writes it.
fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// Logs a panic. The standard library's hook would write to standard error directly, and wait for it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = panic.location().map(tracing::field::display),
        backtrace = backtrace().as_deref(),
        "Panicked: {}",
        panic.payload_as_str().unwrap_or("no message").replace('\n', " ")
    );
}

/// The stack, if `RUST_BACKTRACE` asks for it.
fn backtrace() -> Option<String> {
    let backtrace = std::backtrace::Backtrace::capture();
    (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Lines that a test reads.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> String {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            String::from_utf8(bytes).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn level_and_format_change_while_the_process_runs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (handle, subscriber) =
            subscriber(filter("info").unwrap(), LogFormat::Text, move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let log = || {
            tracing::info!(poll = 1, "Polled");
            tracing::debug!("Sent");
            lines.take()
        };
        let text = log();
        assert!(text.ends_with("  INFO Polled poll=1\n") && text.lines().count() == 1, "{text}");
        handle.clone().set("debug", LogFormat::Json).unwrap();
        let json: Vec<serde_json::Value> =
            log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json.len(), 2);
        assert_eq!((&json[0]["message"], &json[0]["poll"]), (&"Polled".into(), &1.into()));
        assert!(handle.set("info,kfwatch=loud", LogFormat::Text).is_err());
        assert_eq!(log().matches("{\"timestamp\"").count(), 2, "a wrong level changes nothing");
        handle.set("off", LogFormat::Text).unwrap();
        assert_eq!(log(), "");
    }

    #[test]
    fn notices_look_like_log_lines() {
        let text = text_notice(3);
        let (time, rest) = text.split_once("  WARN ").unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{text}");
        let message = "3 log lines were dropped, because standard error did not accept them";
        assert_eq!(rest, format!("{message} dropped_lines=3\n"));
        assert_eq!(dropped(1), "1 log line was dropped, because standard error did not accept it");
        let json: serde_json::Value = serde_json::from_str(&json_notice(3)).unwrap();
        assert_eq!((&json["level"], &json["dropped_lines"]), (&"WARN".into(), &3.into()));
        assert!(json_notice(3).ends_with("}\n"));
    }
}
