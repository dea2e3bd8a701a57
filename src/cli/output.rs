//! Printing results: tables for people, and what to do when nobody reads any more.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::Failure;

/// Formats for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    Table,
    /// One JSON object a line
    Json,
}

/// Aligned columns under headings.
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

/// A number of bytes as people read it.
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

/// Prints one JSON object a line.
pub(super) fn print_json(rows: &[impl Serialize]) -> Result<(), Failure> {
    let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    print(&(lines.map_err(anyhow::Error::from)?.join("\n") + "\n"))
}

/// Prints to standard output. A reader that has gone (`| head`) has seen enough: that is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_while_read(text).map(|_| ())
}

/// Prints to standard output and says whether somebody still reads.
pub(super) fn print_while_read(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("write to standard output").map_err(Failure::Other),
    }
}
