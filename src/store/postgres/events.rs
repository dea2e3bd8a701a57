//! Reads the event log of the shard.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Shard, column, count};
use crate::store::{
    StoreError, convert,
    log::{OUT_OF_ORDER_MS, SMALL_LOG},
    types::{AccountId, EventFilter, EventPage, LogPosition, StoredEvent},
};

/// The columns that [`event`] reads.
macro_rules! event_columns {
    () => {
        "id, account, sequence, type, observed_at, json"
    };
}

/// Counts the events of a shard after a position, as [`crate::store::log`] describes.
macro_rules! count_events_after {
    ($shard:expr, $position:expr) => {
        concat!(
            "(WITH RECURSIVE runs (last, events) AS (
                 SELECT ",
            $position,
            "::bigint, 0::bigint
                 UNION ALL
                 SELECT l.last, l.last - f.first + 1 FROM runs r,
                     LATERAL (SELECT min(id) AS first FROM events WHERE shard = ",
            $shard,
            " AND id > r.last) f,
                     LATERAL (SELECT max(id) AS last FROM events
                              WHERE shard = ",
            $shard,
            " AND id < (f.first / 1000000000 + 1) * 1000000000) l
                 WHERE f.first IS NOT NULL)
             SELECT coalesce(sum(events), 0)::bigint FROM runs)"
        )
    };
}
pub(super) use count_events_after;
pub(super) use event_columns;

impl Shard {
    pub(in crate::store) async fn read_events_at(
        &self,
        positions: Vec<LogPosition>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let ids: Vec<i64> = positions.iter().map(|position| position.0).collect();
        let sql = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events WHERE shard = $1 AND id = ANY ($2) ORDER BY id"
        );
        self.read_for_delivery(sql, &[&ids]).await?.iter().map(event).collect()
    }

    pub(in crate::store) async fn read_events(
        &self,
        filter: EventFilter,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let last = self.newest_event().await?;
        let until = filter.until.map_or(last, |until| until.min(last));
        let accounts: Option<Vec<i64>> =
            filter.accounts.map(|accounts| accounts.iter().map(|account| account.0).collect());
        let types: Vec<i16> =
            filter.types.iter().map(|event_type| convert::event_type_code(*event_type) as i16).collect();
        let sql = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events e WHERE shard = $1 AND id > $2 AND id <= $3
                 AND ($4::bigint IS NULL OR observed_at >= $4)
                 AND ($5::bigint[] IS NULL OR account = ANY ($5))
                 AND (cardinality($6::smallint[]) = 0 OR type = ANY ($6))
                 AND (cardinality($7::text[]) = 0
                      OR (SELECT official_account FROM accounts a WHERE a.account = e.account) = ANY ($7))
             ORDER BY id LIMIT $8"
        );
        let rows = self
            .read_for_delivery(
                sql,
                &[
                    &filter.after.0,
                    &until.0,
                    &filter.since.map(convert::ms),
                    &accounts,
                    &types,
                    &filter.official_accounts,
                    &convert::limit(limit),
                ],
            )
            .await?;
        let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let next = match events.last() {
            Some(event) if events.len() >= limit => event.id,
            _ => until.max(filter.after),
        };
        Ok(EventPage { events, next })
    }

    /// The newest event of the log. The owner has committed it itself.
    async fn newest_event(&self) -> Result<LogPosition, StoreError> {
        if self.is_owner {
            return Ok(*self.owned.published.committed.borrow());
        }
        let rows = self.read("SELECT max(id) FROM events WHERE shard = $1", &[]).await?;
        let newest = rows.first().map(|row| column::<Option<i64>>(row, 0)).transpose()?.flatten();
        Ok(newest.map_or(LogPosition::BEGINNING, LogPosition))
    }

    pub(in crate::store) async fn position_before(
        &self,
        since: Timestamp,
    ) -> Result<LogPosition, StoreError> {
        if self.count_events().await? < SMALL_LOG {
            return Ok(LogPosition::BEGINNING);
        }
        let early_enough = convert::ms(since).saturating_sub(OUT_OF_ORDER_MS);
        // The last of the latest of the probes that are early enough.
        let sql = "WITH RECURSIVE probes (id, observed_at) AS (
                       (SELECT id, observed_at FROM events WHERE shard = $1 AND id >= 10000 ORDER BY id LIMIT 1)
                       UNION ALL
                       SELECT e.id, e.observed_at FROM probes p,
                           LATERAL (SELECT id, observed_at FROM events WHERE shard = $1 AND id >= p.id + 10000
                                    ORDER BY id LIMIT 1) e
                       WHERE p.observed_at < $2)
                   SELECT id FROM probes WHERE observed_at < $2 ORDER BY observed_at DESC, id DESC LIMIT 1";
        let rows = self.read(sql, &[&early_enough]).await?;
        rows.first().map_or(Ok(LogPosition::BEGINNING), |row| Ok(LogPosition(column(row, 0)?)))
    }

    pub(in crate::store) async fn count_events(&self) -> Result<u64, StoreError> {
        let rows = self.read(concat!("SELECT ", count_events_after!("$1", "0")), &[]).await?;
        rows.first().map_or(Ok(0), |row| count(row, 0))
    }
}

/// An event from a row that begins with `event_columns!`.
pub(super) fn event(row: &Row) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        id: LogPosition(column(row, 0)?),
        account: AccountId(column(row, 1)?),
        sequence: column::<i64>(row, 2)?.unsigned_abs(),
        event_type: convert::event_type(column::<i16>(row, 3)?.into())?,
        observed_at: convert::time(column(row, 4)?)?,
        json: column(row, 5)?,
    })
}
