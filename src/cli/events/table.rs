//! Events as a table whose lines are printed as events arrive.

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{field, parsed};
use crate::{
    cli::output::{self, WIDTH},
    domain::{event::EventType, local_time::LocalZone, openid::masked},
    store::StoredEvent,
};

/// The column widths. They are fixed, because events to come are not known. With a detail of 22 characters a line has 100.
const WIDTHS: [usize; 5] = [20, 13, 28, 9, 0];

/// How events are written.
pub(super) struct EventTable {
    pub(super) zone: LocalZone,
    pub(super) openids: bool,
}

impl EventTable {
    pub(super) fn render(&self, events: &[StoredEvent], with_header: bool) -> String {
        let mut text = String::new();
        if with_header {
            let time = format!("TIME ({})", self.zone);
            text.push_str(&line([&time, "EVENT", "ACCOUNT", "CUSTOMER", "DETAILS"]));
            text.push('\n');
        }
        for event in events {
            let json = parsed(event);
            let get = |pointer| field(&json, pointer);
            let account = output::account(&get("/data/official_account"), Some(&get("/data/kf_account")));
            let openid = get("/data/openid");
            let customer = if self.openids { openid } else { masked(&openid) };
            let time = self.zone.show(event.observed_at);
            let (kind, details) = self.details(event, &json);
            text.push_str(&with_details(&line([&time, kind, &account, &customer, ""]), &details));
        }
        text
    }

    /// The event's name, and what its other columns do not say, in parts that may be empty.
    fn details(&self, event: &StoredEvent, json: &Value) -> (&'static str, Vec<String>) {
        let get = |pointer| field(json, pointer);
        let started_at = || {
            let started_at = get("/data/started_at");
            let parsed = started_at.parse();
            parsed.map_or(started_at, |started_at| self.zone.show_beside(started_at, event.observed_at))
        };
        match event.event_type {
            EventType::SessionStarted => {
                let word = if get("/data/baseline") == "true" { "open since" } else { "at" };
                let from = prefixed("from ", &get("/data/transferred_from"));
                ("started", vec![format!("{word} {}", started_at()), from])
            }
            EventType::SessionEnded => {
                let [min, max] = ["/data/duration_seconds/min", "/data/duration_seconds/max"].map(get);
                let reason = get("/data/reason");
                let other = if reason == "absent" { String::new() } else { reason };
                ("ended", vec![format!("after {min} to {max} s"), other])
            }
            EventType::StateChanged => {
                let cause = match get("/data/errcode") {
                    errcode if errcode.is_empty() => errcode,
                    errcode => format!(" ({errcode})"),
                };
                let change = match get("/data/from").as_str() {
                    // The first state of an account.
                    "unknown" => get("/data/to"),
                    from => format!("{from} to {}", get("/data/to")),
                };
                ("state_changed", vec![change + &cause, invitation(&get("/data/invitation/status"))])
            }
        }
    }
}

/// The state of the invitation in words that fit the line.
fn invitation(status: &str) -> String {
    match status {
        "" => "",
        "none" => "not invited",
        "waiting" => "invited",
        "rejected" => "declined",
        "expired" => "invitation expired",
        _ => "invited, result unknown",
    }
    .to_owned()
}

/// Adds the details to the other columns. Those that do not fit continue below the first.
fn with_details(columns: &str, details: &[String]) -> String {
    let details: Vec<&str> = details.iter().map(String::as_str).filter(|detail| !detail.is_empty()).collect();
    let in_one_line = format!("{columns}{}", details.join(", "));
    if in_one_line.width() <= usize::from(WIDTH) {
        return format!("{}\n", in_one_line.trim_end());
    }
    let separator = format!(",\n{}", " ".repeat(columns.width()));
    format!("{columns}{}\n", details.join(&separator))
}

/// Pads by display width, because a Chinese character takes two columns.
fn line(fields: [&str; 5]) -> String {
    let padded = fields.iter().zip(WIDTHS).map(|(field, width)| {
        let missing = width.saturating_sub(field.width());
        format!("{field}{}", " ".repeat(missing))
    });
    padded.collect::<Vec<String>>().join("  ")
}

/// Adds a prefix to a text that is not empty.
fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}
