//! Prints results: tables for people, JSON for programs. A closed standard output is no error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::CliError;

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
pub(super) fn print_rows(
    rows: &[impl Serialize],
    format: OutputFormat,
    table: impl FnOnce() -> String,
) -> Result<(), CliError> {
    let lines = |row| serde_json::to_string(row).map(|line| line + "\n");
    print(&match format {
        OutputFormat::Json => {
            rows.iter().map(lines).collect::<Result<_, _>>().map_err(anyhow::Error::from)?
        }
        OutputFormat::Table => table(),
    })
}

/// Prints to standard output. A reader that exits early (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    print_while_open(text).map(|_| ())
}

/// Prints to standard output and returns whether it is still open.
pub(super) fn print_while_open(text: &str) -> Result<bool, CliError> {
    write_while_open(&mut std::io::stdout().lock(), text)
}

/// Writes to standard output, which may be wrapped, and returns whether it is still open.
pub(super) fn write_while_open(stdout: &mut impl Write, text: &str) -> Result<bool, CliError> {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("write to standard output").map_err(CliError::Other),
    }
}
