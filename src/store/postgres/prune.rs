//! Removes what is older than its retention, or what exceeds the size limit, one batch at a time.

use super::{Shard, column, count, events::count_events_after};
use crate::store::{
    StoreError, convert,
    types::{LogPosition, PruneLimits, Pruned, SizeLimit, SizePruneOutcome},
};

impl Shard {
    pub(in crate::store) async fn prune(&self, limits: PruneLimits) -> Result<Pruned, StoreError> {
        let mut total = Pruned::default();
        loop {
            let batch = convert::limit(limits.batch.max(1));
            let sinks = self.delete_removed_sinks(convert::ms(limits.sinks_before)).await?;
            let dead_letters =
                self.expire_dead_letters(convert::ms(limits.dead_letters_before), batch).await?;
            let events = self.prune_events(convert::ms(limits.events_before), batch).await?;
            let snapshots = self.prune_snapshots(convert::ms(limits.unwatched_before), batch).await?;
            total += Pruned { events, snapshots, sinks, dead_letters };
            if [dead_letters, events, snapshots].iter().all(|removed| removed.cast_signed() < batch) {
                self.measure().await?;
                return Ok(total);
            }
        }
    }

    pub(in crate::store) async fn prune_to_size(
        &self,
        limit: SizeLimit,
    ) -> Result<SizePruneOutcome, StoreError> {
        if self.measure().await? <= limit.bytes {
            return Ok(SizePruneOutcome::SmallEnough);
        }
        let sql = "SELECT (SELECT min(id) FROM events WHERE shard = $1), l.sink, l.position
                   FROM (SELECT) one LEFT JOIN LATERAL (
                       SELECT c.sink, c.position FROM cursors c JOIN sinks s ON s.name = c.sink
                       WHERE c.shard = $1 AND s.removed_at IS NULL AND s.suspended_at IS NULL
                       ORDER BY c.position, c.sink LIMIT 1) l ON true";
        let rows = self.read(sql, &[]).await?;
        let Some(row) = rows.first() else { return Ok(SizePruneOutcome::NothingLeft) };
        let Some(oldest) = column::<Option<i64>>(row, 0)? else { return Ok(SizePruneOutcome::NothingLeft) };
        let most_lagging: Option<i64> = column(row, 2)?;
        if let Some(cursor) = most_lagging.filter(|cursor| *cursor < oldest) {
            return Ok(SizePruneOutcome::Blocked { sink: column(row, 1)?, cursor: LogPosition(cursor) });
        }
        let last = most_lagging
            .unwrap_or(i64::MAX)
            .min(oldest.saturating_add(convert::limit(limit.batch.max(1)) - 1));
        let events = self.remove_events(last).await?;
        Ok(SizePruneOutcome::Removed { events })
    }

    /// Publishes the used bytes: the number of events and the mean size of the newest ones. The server's own sizes count the free
    /// space of tables, which shrinks only when they are rewritten.
    pub(super) async fn measure(&self) -> Result<u64, StoreError> {
        let sql = concat!(
            "SELECT (",
            count_events_after!("$1", "0"),
            " * coalesce((SELECT avg(pg_column_size(newest)) + 100
                          FROM (SELECT * FROM events WHERE shard = $1 ORDER BY id DESC LIMIT 100) newest), 0))::bigint"
        );
        let rows = self.read(sql, &[]).await?;
        let bytes = rows.first().map_or(Ok(0), |row| count(row, 0))?;
        self.owned.published.publish_used_bytes(bytes);
        Ok(bytes)
    }

    /// Deletes sinks that were removed before a time, with their cursors, gaps and dead letters.
    async fn delete_removed_sinks(&self, before: i64) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                "deleted AS (DELETE FROM sinks WHERE removed_at < $4 AND EXISTS (SELECT FROM mine) RETURNING 1) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM deleted)"
        );
        self.removed(sql, &[&before]).await
    }

    /// Removes a batch of dead letters that were stored before a time, and counts them at their sinks.
    async fn expire_dead_letters(&self, before: i64, batch: i64) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                "expired AS (
                     DELETE FROM dead_letters d
                     USING (SELECT sink, event FROM dead_letters WHERE shard = $1 AND died_at < $4 ORDER BY died_at LIMIT $5) old
                     WHERE d.shard = $1 AND d.sink = old.sink AND d.event = old.event AND EXISTS (SELECT FROM mine)
                     RETURNING d.sink
                 ), counted AS (
                     UPDATE sinks s SET expired_dead_letters = s.expired_dead_letters + e.letters
                     FROM (SELECT sink, count(*) AS letters FROM expired GROUP BY sink) e WHERE s.name = e.sink
                 ) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM expired)"
        );
        self.removed(sql, &[&before, &batch]).await
    }

    /// Removes the oldest events up to the first one that is still needed, so that the remaining ids have no gaps.
    async fn prune_events(&self, before: i64, batch: i64) -> Result<u64, StoreError> {
        let sql = "SELECT id, observed_at FROM events
                   WHERE shard = $1 AND id <= (
                       SELECT coalesce(min(c.position), 9223372036854775807) FROM cursors c JOIN sinks s ON s.name = c.sink
                       WHERE c.shard = $1 AND s.removed_at IS NULL AND s.suspended_at IS NULL)
                   ORDER BY id LIMIT $2";
        let mut last = None;
        for row in self.read(sql, &[&batch]).await? {
            if column::<i64>(&row, 1)? >= before {
                break;
            }
            last = Some(column(&row, 0)?);
        }
        match last {
            Some(last) => self.remove_events(last).await,
            None => Ok(0),
        }
    }

    /// Removes the oldest events. Suspended and removed sinks miss the ones that they have not acknowledged: that is recorded, and
    /// their cursors move past them. Events that follow the newest run of missed ones directly extend it.
    async fn remove_events(&self, last: i64) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                // Again, because a sink may have been resumed or rewound since.
                "delivered AS MATERIALIZED (
                     SELECT least($4, min(c.position)) AS last FROM mine
                     LEFT JOIN (cursors c JOIN sinks s ON s.name = c.sink AND s.removed_at IS NULL AND s.suspended_at IS NULL)
                         ON c.shard = $1
                     HAVING count(mine.shard) > 0
                 ), removed AS (
                     DELETE FROM events WHERE shard = $1 AND id <= (SELECT last FROM delivered) RETURNING id, observed_at
                 ), missed AS MATERIALIZED (
                     SELECT c.sink, c.position, min(e.id) AS first_event, max(e.id) AS last_event, count(*) AS events,
                         min(e.observed_at) AS first_observed_at, max(e.observed_at) AS last_observed_at
                     FROM cursors c JOIN removed e ON e.id > c.position
                     WHERE c.shard = $1
                     GROUP BY c.sink, c.position
                 ), extended AS (
                     UPDATE gaps g SET last_event = m.last_event, events = g.events + m.events,
                         last_observed_at = greatest(g.last_observed_at, m.last_observed_at)
                     FROM missed m WHERE g.sink = m.sink AND g.shard = $1 AND g.last_event = m.position
                     RETURNING g.sink
                 ), recorded AS (
                     INSERT INTO gaps (sink, shard, first_event, last_event, events, first_observed_at, last_observed_at)
                     SELECT sink, $1, first_event, last_event, events, first_observed_at, last_observed_at FROM missed
                     WHERE sink NOT IN (SELECT sink FROM extended)
                 ), moved AS (
                     UPDATE cursors c SET position = greatest(c.position, m.last_event)
                     FROM missed m WHERE c.sink = m.sink AND c.shard = $1
                 ), kept AS (
                     UPDATE shards SET pruned_to = greatest(pruned_to, (SELECT max(id) FROM removed))
                     WHERE shard IN (SELECT shard FROM mine)
                 ) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM removed)"
        );
        self.removed(sql, &[&last]).await
    }

    /// The account's rows stay: if it ever comes back, its sequence continues from a new baseline.
    async fn prune_snapshots(&self, before: i64, batch: i64) -> Result<u64, StoreError> {
        let sql = concat!(
            fenced!(
                "expired AS (
                     UPDATE records r
                     SET baseline_taken = false, keyless = false, listed_sent_at = NULL, unwatched_at = NULL
                     FROM (SELECT account FROM records JOIN accounts a USING (account)
                           WHERE a.shard = $1 AND NOT a.configured AND unwatched_at < $4 LIMIT $5) old
                     WHERE r.account = old.account AND EXISTS (SELECT FROM mine)
                     RETURNING r.account
                 ), emptied AS (DELETE FROM sessions s USING expired e WHERE s.account = e.account) ",
                is_owner!()
            ),
            ", (SELECT count(*) FROM expired)"
        );
        self.removed(sql, &[&before, &batch]).await
    }

    /// Executes a statement whose second column counts what it removed.
    async fn removed(
        &self,
        sql: &'static str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        count(&self.write_durably(sql, parameters).await?, 1)
    }
}
