//! Sets up logging, to standard error: standard output is for data.
//!
//! Secrets, tokens, request URLs and customers' openids are never logged, at any level.
//!
//! A log line never makes its task wait: it is queued for a thread, or dropped and counted ([`LineQueue`]).

use std::{
    fmt, io,
    panic::{self, PanicHookInfo},
};

use anyhow::Context as _;
use serde_json::json;
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        format::{Writer, debug_fn},
        time::{FormatTime, SystemTime},
    },
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

/// Sets up logging for the process.
pub(crate) fn init(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(level).context("the log level is not a filter")?;
    for directive in LIBRARY_LEVELS {
        filter = filter.add_directive(directive.parse()?);
    }
    let output = stdio::stderr();
    output.set_notice(match format {
        LogFormat::Text => text_notice,
        LogFormat::Json => json_notice,
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter(output));
    let set = match format {
        LogFormat::Text => {
            // NO_COLOR turns colours off, too.
            let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            builder
                .fmt_fields(debug_fn(write_field).delimited(" "))
                .with_ansi(colour)
                .with_target(false)
                .try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| anyhow::anyhow!("logging is set up already"))?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
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
    use super::*;

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
