//! Events as readable lines in aligned columns, in colour where the terminal wants it.

use std::{collections::HashMap, sync::Arc};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::super::{CliError, events::field, output};
use crate::{
    domain::{event::EventType, openid::masked},
    store::StoredEvent,
    web::WebState,
};

/// The columns and their widths. With a detail of 15 characters a line has 80.
const COLUMNS: [(&str, usize); 6] =
    [("TIME", 8), ("EVENT", 15), ("OFFICIAL", 8), ("KF ACCOUNT", 16), ("CUSTOMER", 9), ("DETAIL", 0)];

const HEADING: Style = Style::new().dimmed();
const STARTED: Style = AnsiColor::Green.on_default();
const ENDED: Style = AnsiColor::Cyan.on_default();
const BASELINE: Style = Style::new().dimmed();
const RECOVERED: Style = AnsiColor::Green.on_default().bold();
const FAILED: Style = AnsiColor::Red.on_default().bold();

/// Prints events to standard output.
pub(super) struct EventPrinter {
    /// Where nicknames come from.
    web: Arc<WebState>,
    timezone: TimeZone,
    printed_heading: bool,
}

impl EventPrinter {
    pub(super) fn new(web: Arc<WebState>) -> Self {
        Self { web, timezone: TimeZone::system(), printed_heading: false }
    }

    /// Prints a line for each event and returns whether standard output is still open.
    pub(super) async fn print(&mut self, events: &[StoredEvent]) -> Result<bool, CliError> {
        if events.is_empty() {
            return Ok(true);
        }
        let mut text = String::new();
        if !self.printed_heading {
            self.printed_heading = true;
            text.push_str(&line(HEADING, COLUMNS.map(|(heading, _)| heading)));
        }
        let nicknames = nicknames(&self.web);
        for event in events {
            text.push_str(&event_line(event, &nicknames, &self.timezone));
        }
        if AutoStream::choice(&std::io::stdout()) == ColorChoice::Never {
            text = strip_str(&text).to_string();
        }
        output::print_while_open(text).await
    }
}

/// Nicknames by kf account.
type Nicknames = HashMap<String, Arc<str>>;

fn nicknames(web: &WebState) -> Nicknames {
    let accounts = web.table.views().into_iter();
    accounts
        .filter_map(|(account, view)| Some((account.kf_account.to_string(), view.agent.nickname?)))
        .collect()
}

fn event_line(event: &StoredEvent, nicknames: &Nicknames, timezone: &TimeZone) -> String {
    // The log contains only events that were rendered as JSON.
    let json: Value = serde_json::from_str(&event.json).unwrap_or_default();
    let get = |pointer| field(&json, pointer);
    let time_of_day = |text: &str| {
        let time: Result<Timestamp, _> = text.parse();
        time.map_or_else(
            |_| text.to_owned(),
            |time| time.to_zoned(timezone.clone()).strftime("%H:%M:%S").to_string(),
        )
    };
    let account_name = |kf_account: &str| {
        nicknames.get(kf_account).map_or_else(|| kf_account.to_owned(), |nickname| nickname.to_string())
    };
    let (style, name, detail) = match event.event_type {
        EventType::SessionStarted if get("/data/baseline") == "true" => {
            (BASELINE, "session open".to_owned(), format!("since {}", time_of_day(&get("/data/started_at"))))
        }
        EventType::SessionStarted => {
            let from = get("/data/transferred_from");
            let detail =
                if from.is_empty() { String::new() } else { format!("from {}", account_name(&from)) };
            (STARTED, "session started".to_owned(), detail)
        }
        EventType::SessionEnded => {
            let [min, max] = ["/data/duration_seconds/min", "/data/duration_seconds/max"].map(get);
            (ENDED, "session ended".to_owned(), format!("after {min}–{max} s"))
        }
        EventType::StateChanged => {
            let (to, errcode) = (get("/data/to"), get("/data/errcode"));
            let style = if to == "ok" { RECOVERED } else { FAILED };
            let detail = match errcode.is_empty() {
                true => format!("was {}", get("/data/from")),
                false => format!("errcode {errcode}"),
            };
            (style, format!("account {to}"), detail)
        }
    };
    let (time, kf_account) = (time_of_day(&get("/time")), account_name(&get("/data/kf_account")));
    let (official_account, customer) = (get("/data/official_account"), masked(&get("/data/openid")));
    line(style, [&time, &name, &official_account, &kf_account, &customer, &detail])
}

/// A line of the table, in one colour.
fn line(style: Style, fields: [&str; 6]) -> String {
    let cells: Vec<String> =
        fields.iter().zip(COLUMNS).map(|(field, (_, width))| padded(field, width)).collect();
    format!("{style}{}{style:#}\n", cells.join("  ").trim_end())
}

/// Fills a cell with spaces to its width on a terminal, where a Chinese character takes two columns. A text that is too long ends
/// with "…". Width 0 leaves the text as it is.
fn padded(text: &str, width: usize) -> String {
    let mut cell = text.to_owned();
    if width > 0 && cell.width() > width {
        while cell.width() >= width {
            cell.pop();
        }
        cell.push('…');
    }
    let missing = width.saturating_sub(cell.width());
    cell + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_padded_by_display_width() {
        for (text, cell) in [
            ("小明", "小明  "),
            ("kf2001", "kf2001"),
            ("客服小张", "客服… "),
            ("kf20012", "kf200…"),
            ("", "      "),
        ] {
            assert_eq!(padded(text, 6), cell);
            assert!(padded(text, 6).width() <= 6);
        }
        assert_eq!(padded("any length", 0), "any length");
    }

    #[test]
    fn longest_line_fits_80_columns() {
        let fields =
            ["12:34:56", "account unbound", "bookshop", "客服小张客服小张客服", "oDF3…cdef", "after 88–91 s"];
        let text = anstream::adapter::strip_str(&line(FAILED, fields)).to_string();
        assert!(text.trim_end().width() <= 80, "{text}");
    }
}
