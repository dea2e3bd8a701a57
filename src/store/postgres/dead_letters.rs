//! Dead letters: events that sinks refused for good.

use tokio_postgres::Row;

use super::{
    Shard, column, count,
    events::{event, event_columns},
    text,
};
use crate::store::{
    StoreError, convert,
    types::{DeadLetter, LogPosition},
};

/// Dead letters of a sink. A condition follows.
macro_rules! dead_letters {
    ($condition:expr) => {
        concat!(
            "SELECT event AS ",
            event_columns!(),
            ", sink, reason, died_at, retry FROM dead_letters WHERE shard = $1 AND sink = $2 AND ",
            $condition
        )
    };
}

impl Shard {
    pub(in crate::store) async fn add_dead_letter(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        let DeadLetter { sink, event, reason, died_at, retry } = &letter;
        let sql = concat!(
            fenced!(
                "added AS (
                     INSERT INTO dead_letters (sink, shard, event, account, sequence, type, observed_at, json, reason, died_at, retry)
                     SELECT $4, $1, $5, $6, $7, $8, $9, $10, $11, $12, $13 WHERE EXISTS (SELECT FROM mine)
                     ON CONFLICT (sink, shard, event)
                     DO UPDATE SET reason = excluded.reason, died_at = excluded.died_at, retry = excluded.retry
                     RETURNING 1) ",
                is_owner!()
            ),
            // The statement does not see what it adds.
            ", (SELECT count(*) FROM dead_letters WHERE sink = $4 AND shard = $1 AND event <> $5) + (SELECT count(*) FROM added)"
        );
        let row = self
            .write_durably(
                sql,
                &[
                    sink,
                    &event.id.0,
                    &event.account.0,
                    &event.sequence.cast_signed(),
                    &(convert::event_type_code(event.event_type) as i16),
                    &convert::ms(event.observed_at),
                    &event.json,
                    &text(reason),
                    &convert::ms(*died_at),
                    retry,
                ],
            )
            .await?;
        count(&row, 1)
    }

    pub(in crate::store) async fn dead_letters(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sql = dead_letters!("event > $3 ORDER BY event LIMIT $4");
        self.read(sql, &[&sink, &after.0, &convert::limit(limit)]).await?.iter().map(letter).collect()
    }

    pub(in crate::store) async fn dead_letters_to_retry(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sql = dead_letters!("retry ORDER BY event LIMIT $3");
        self.read_for_delivery(sql, &[&sink, &convert::limit(limit)]).await?.iter().map(letter).collect()
    }

    pub(in crate::store) async fn dead_letters_after(
        &self,
        sink: &str,
        after: LogPosition,
    ) -> Result<Vec<LogPosition>, StoreError> {
        let sql = "SELECT event FROM dead_letters WHERE shard = $1 AND sink = $2 AND event > $3";
        let rows = self.read_for_delivery(sql, &[&sink, &after.0]).await?;
        rows.iter().map(|row| Ok(LogPosition(column(row, 0)?))).collect()
    }

    pub(in crate::store) async fn retry_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                "retried AS (
                     UPDATE dead_letters SET retry = true WHERE sink = $4 AND shard = $1 AND EXISTS (SELECT FROM mine)
                     RETURNING 1) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM retried)"
        );
        count(&self.write_durably(sql, &[&sink]).await?, 1)
    }

    pub(in crate::store) async fn remove_dead_letter(
        &self,
        sink: &str,
        event: LogPosition,
    ) -> Result<(), StoreError> {
        let sql = fenced!(
            "removed AS (
                 DELETE FROM dead_letters WHERE sink = $4 AND shard = $1 AND event = $5 AND EXISTS (SELECT FROM mine)) ",
            is_owner!()
        );
        self.write_durably(sql, &[&sink, &event.0]).await?;
        Ok(())
    }

    pub(in crate::store) async fn drop_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                "dropped AS (
                     DELETE FROM dead_letters WHERE sink = $4 AND shard = $1 AND EXISTS (SELECT FROM mine) RETURNING 1) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM dropped)"
        );
        count(&self.write_durably(sql, &[&sink]).await?, 1)
    }
}

/// A dead letter from a row of `dead_letters!`.
fn letter(row: &Row) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        event: event(row)?,
        sink: column(row, 6)?,
        reason: column(row, 7)?,
        died_at: convert::time(column(row, 8)?)?,
        retry: column(row, 9)?,
    })
}
