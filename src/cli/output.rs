//! Prints results to standard output, as tables for people and JSON for programs, and messages to standard error. A closed
//! standard output is no error, and neither is a broken standard error.

use std::fmt::Display;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::CliError;
use crate::stdio;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// Aligned columns
    Table,
    /// One JSON object a line
    Json,
}

pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    lines.concat()
}

/// A value, or a dash where it is not known.
pub(super) fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// A number of bytes with a decimal unit.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut number = bytes as f64 / 1000.0;
    let mut unit = 0;
    while number >= 999.95 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    if bytes < 1000 { format!("{bytes} bytes") } else { format!("{number:.1} {}", units[unit]) }
}

/// Prints rows as one JSON object a line, or as the text that `table` returns.
pub(super) async fn print_rows(
    rows: &[impl Serialize],
    format: OutputFormat,
    table: impl FnOnce() -> String,
) -> Result<(), CliError> {
    let lines = |row| serde_json::to_string(row).map(|line| line + "\n");
    let text = match format {
        OutputFormat::Json => {
            rows.iter().map(lines).collect::<Result<_, _>>().map_err(anyhow::Error::from)?
        }
        OutputFormat::Table => table(),
    };
    print(text).await
}

/// Prints to standard output. A reader that exits early (`| head`) is no error.
pub(super) async fn print(text: String) -> Result<(), CliError> {
    print_while_open(text).await.map(|_| ())
}

/// Prints to standard output and returns whether it is still open.
pub(super) async fn print_while_open(text: String) -> Result<bool, CliError> {
    let printing = move || stdio::write_all(std::io::stdout(), text.as_bytes());
    match tokio::task::spawn_blocking(printing).await.context("print")? {
        Ok(()) => Ok(true),
        Err(error) if error.is_broken_pipe() => Ok(false),
        Err(error) => Err(error).context("write to standard output").map_err(CliError::Other),
    }
}

/// Prints a note about a result to standard error.
pub(super) fn note(text: impl Display) {
    message(format_args!("note: {text}"));
}

/// Prints a message to standard error, after the log lines before it.
pub(super) fn message(text: impl Display) {
    stdio::stderr().send(format!("{text}\n").into_bytes());
}
