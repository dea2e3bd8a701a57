//! Prints results to standard output, as tables for people and JSON for programs, and messages to standard error. A closed
//! standard output is no error, and neither is a broken standard error.

use std::fmt::Display;

use anyhow::Context as _;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use super::CliError;
use crate::{domain::local_time::LocalZone, stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// Aligned columns
    Table,
    /// One JSON object a line
    Json,
}

/// The width of a terminal that every table should fit.
pub(super) const WIDTH: u16 = 100;

/// Aligned columns. Headings are in capitals.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    wrapped_table(headings, &[], rows)
}

/// A [`table`] whose columns with these headings may continue on the next line, so that it fits [`WIDTH`]. The names in other
/// columns are never broken.
pub(super) fn wrapped_table(
    headings: &[&str],
    wrapped: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        if !wrapped.contains(heading) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
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

/// An account as every table and message names it: `shop/kf1@shop`, or `shop`.
pub(super) fn account(official_account: &str, kf_account: Option<&str>) -> String {
    match kf_account {
        Some(kf_account) => format!("{official_account}/{kf_account}"),
        None => official_account.to_owned(),
    }
}

/// "yes", "no", or a dash where it is not known.
pub(super) fn yes_or_no(value: Option<bool>) -> String {
    known(value.map(|is| if is { "yes" } else { "no" }))
}

/// A time in RFC 3339 as people read it, or a dash where it is not known.
pub(super) fn local_time(time: Option<&String>, zone: LocalZone) -> String {
    known(time.map(|time| zone.show_text(time)))
}

/// A table, and in which zone its times are. Without a time, only the table.
pub(super) fn timed(table: String, zone: LocalZone) -> String {
    // 09:00:00
    let is_time = |word: &str| word.len() >= 8 && word.split(':').count() == 3;
    let has_time = table.split_whitespace().any(is_time);
    if has_time { format!("{table}\nTimes are in {zone}.\n") } else { table }
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
    match format {
        OutputFormat::Json => print_json(rows).await,
        OutputFormat::Table => print(table()).await,
    }
}

/// Prints rows as one JSON object a line.
pub(super) async fn print_json(rows: &[impl Serialize]) -> Result<(), CliError> {
    let lines = rows.iter().map(|row| serde_json::to_string(row).map(|line| line + "\n"));
    print(lines.collect::<Result<_, _>>().map_err(anyhow::Error::from)?).await
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
