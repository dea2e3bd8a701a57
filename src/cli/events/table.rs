//! Events as a table whose lines are printed as events arrive.

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{field, parsed};
use crate::{
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
            text.push_str(&line([
                &format!("TIME ({})", self.zone),
                "EVENT",
                "ACCOUNT",
                "CUSTOMER",
                "DETAILS",
            ]));
        }
        for event in events {
            let json = parsed(event);
            let get = |pointer| field(&json, pointer);
            let account = format!("{}/{}", get("/data/official_account"), get("/data/kf_account"));
            let openid = get("/data/openid");
            let customer = if self.openids { openid } else { masked(&openid) };
            let time = self.zone.show(event.observed_at);
            let (kind, details) = self.details(event, &json);
            text.push_str(&line([&time, kind, &account, &customer, &details]));
        }
        text
    }

    /// The event's name, and what its other columns do not say.
    fn details(&self, event: &StoredEvent, json: &Value) -> (&'static str, String) {
        let get = |pointer| field(json, pointer);
        let started_at = || {
            let started_at = get("/data/started_at");
            let parsed = started_at.parse();
            parsed.map_or(started_at, |started_at| self.zone.show_beside(started_at, event.observed_at))
        };
        match event.event_type {
            EventType::SessionStarted if get("/data/baseline") == "true" => {
                ("started", format!("open since {}", started_at()))
            }
            EventType::SessionStarted => {
                let from = prefixed(" from ", &get("/data/transferred_from"));
                ("started", format!("at {}{from}", started_at()))
            }
            EventType::SessionEnded => {
                let [min, max] = ["/data/duration_seconds/min", "/data/duration_seconds/max"].map(get);
                let reason = match get("/data/reason").as_str() {
                    "absent" => String::new(),
                    reason => format!(", {reason}"),
                };
                ("ended", format!("after {min} to {max} s{reason}"))
            }
            EventType::StateChanged => {
                let cause = match get("/data/errcode") {
                    errcode if errcode.is_empty() => errcode,
                    errcode => format!(" ({errcode})"),
                };
                let invitation = prefixed(", invitation: ", &get("/data/invitation/status"));
                ("state_changed", format!("{} to {}{cause}{invitation}", get("/data/from"), get("/data/to")))
            }
        }
    }
}

/// Pads by display width, because a Chinese character takes two columns.
fn line(fields: [&str; 5]) -> String {
    let padded = fields.iter().zip(WIDTHS).map(|(field, width)| {
        let missing = width.saturating_sub(field.width());
        format!("{field}{}", " ".repeat(missing))
    });
    let cells: Vec<String> = padded.collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// Adds a prefix to a text that is not empty.
fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}
