//! Events as comma-separated values.

use anyhow::Context as _;

use super::{field, parsed};
use crate::{cli::CliError, store::StoredEvent};

/// The header of a column and the JSON pointer of its value.
type CsvColumn = (&'static str, &'static str);

/// New columns are added at the end, because readers may rely on positions.
const CSV_COLUMNS: [CsvColumn; 23] = [
    ("time", "/time"),
    ("type", "/type"),
    ("id", "/id"),
    ("sequence", "/sequence"),
    ("official_account", "/data/official_account"),
    ("appid", "/data/appid"),
    ("kf_account", "/data/kf_account"),
    ("session_id", "/data/session_id"),
    ("openid", "/data/openid"),
    ("started_at", "/data/started_at"),
    ("baseline", "/data/baseline"),
    ("ended_after", "/data/ended_between/0"),
    ("ended_before", "/data/ended_between/1"),
    ("duration_min_seconds", "/data/duration_seconds/min"),
    ("duration_max_seconds", "/data/duration_seconds/max"),
    ("reason", "/data/reason"),
    ("from", "/data/from"),
    ("to", "/data/to"),
    ("errcode", "/data/errcode"),
    ("source", "/data/source"),
    ("transferred_from", "/data/transferred_from"),
    ("invitation_status", "/data/invitation/status"),
    ("invitation_expires_at", "/data/invitation/expires_at"),
];

pub(super) fn csv(events: &[StoredEvent], with_header: bool) -> Result<String, CliError> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut write = || {
        if with_header {
            writer.write_record(CSV_COLUMNS.map(|(header, _)| header))?;
        }
        for event in events {
            let event = parsed(event);
            writer.write_record(CSV_COLUMNS.map(|(_, pointer)| field(&event, pointer)))?;
        }
        writer.flush()?;
        Ok::<_, anyhow::Error>(())
    };
    write().context("write CSV")?;
    let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("write CSV: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
