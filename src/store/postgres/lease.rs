//! Beats and leases: which replicas are alive, and which of them owns a shard.
//!
//! A replica writes every second that it is alive. By the database's clock, it is alive for [`LIFETIME`] after that. By its own
//! monotonic clock, which starts before the beat is sent, it trusts its leases for a second less. So it stops to act for its shards
//! before another replica may take them, whatever the clocks of the machines say.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Database, Shard, column, text};
use crate::{
    domain::{
        shard::ShardNumber,
        shares::{ShardView, View},
    },
    store::{StoreError, convert},
};

/// How long a replica counts as alive after a beat. Also in the statements below, as nine seconds.
const LIFETIME: Duration = Duration::from_secs(9);

/// How much sooner it stops to trust its leases: clocks do not run equally fast, and what it has started takes a moment.
const MARGIN: Duration = Duration::from_secs(1);

/// What a replica says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The name that people give it: another one for each replica.
    pub name: String,
    /// Where its page is.
    pub address: String,
    /// Its version of kfwatch.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether it ends, so that others shall take its shards.
    pub is_draining: bool,
}

/// A replica that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingReplica {
    /// Identifies it: another one at each start.
    pub id: Uuid,
    /// What it says about itself.
    pub presence: Presence,
    /// When it said that, by the database's clock.
    pub seen_at: Timestamp,
}

/// What the database says at a beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The replicas that are alive, this one among them.
    pub replicas: Vec<LivingReplica>,
    /// What [`plan`](crate::domain::shares::plan) needs.
    pub view: View,
    /// The time of the database.
    pub database_time: Timestamp,
}

const BEAT: &str = "
WITH before AS (SELECT seen_at FROM replicas WHERE id = $1)
INSERT INTO replicas (id, name, address, version, started_at, seen_at, draining)
VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, seen_at = excluded.seen_at,
    draining = excluded.draining
RETURNING coalesce((SELECT seen_at FROM before) > clock_timestamp() - interval '9 s', false),
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const REPLICAS: &str = "
SELECT id, name, address, version, started_at, (extract(epoch FROM seen_at) * 1000)::bigint, draining FROM replicas
WHERE id = $1 OR seen_at > clock_timestamp() - interval '9 s' ORDER BY name, started_at";

const SHARDS: &str = "
SELECT s.shard, s.epoch, s.weight, s.owner FROM shards s LEFT JOIN replicas r ON r.id = s.owner
ORDER BY s.shard";

/// A shard is free if its owner is not alive, if it has this replica's name, because then it ran here before, or if it is this replica,
/// which did not get the answer when it took the shard.
const TAKE: &str = "
WITH free AS (
    SELECT s.shard FROM shards s LEFT JOIN replicas r ON r.id = s.owner
    WHERE s.shard = ANY ($2)
        AND (r.id IS NULL OR s.owner = $1 OR r.seen_at <= clock_timestamp() - interval '9 s' OR (r.name = $3 AND r.id <> $1))
    FOR UPDATE OF s SKIP LOCKED
)
UPDATE shards s SET owner = $1, epoch = epoch + 1 FROM free
WHERE s.shard = free.shard
    AND EXISTS (SELECT FROM replicas WHERE id = $1 AND seen_at > clock_timestamp() - interval '9 s')
RETURNING s.shard, s.epoch, greatest(s.pruned_to, (SELECT max(id) FROM events e WHERE e.shard = s.shard))";

impl Database {
    /// Says that this replica is alive, and returns what the database says. Extends the leases of the shards that it still owns, and
    /// ends those of the others. `sent_at` is the time of the monotonic clock.
    ///
    /// Fails with [`StoreError::SameName`] if a replica with the same name has started later.
    pub(in crate::store) async fn beat(
        &self,
        presence: &Presence,
        sent_at: Duration,
    ) -> Result<Beat, StoreError> {
        let Presence { name, address, version, started_at, is_draining } = presence;
        let (name, address, version) = (text(name), text(address), text(version));
        let rows = self
            .lazy
            .query(BEAT, &[&self.replica, &name, &address, &version, &convert::ms(*started_at), is_draining])
            .await?;
        let Some(row) = rows.first() else { return Err(StoreError::corrupt("a beat has no result")) };
        let (was_alive, database_time): (bool, _) = (column(row, 0)?, convert::time(column(row, 1)?)?);
        let replicas = self.lazy.query(REPLICAS, &[&self.replica]).await?;
        let replicas = replicas.iter().map(living).collect::<Result<Vec<_>, _>>()?;
        let mut later = replicas.iter().filter(|other| {
            other.presence.name == name && (other.presence.started_at, other.id) > (*started_at, self.replica)
        });
        if let Some(other) = later.next() {
            self.end_all(&StoreError::LeaseLost);
            let LivingReplica { presence: Presence { name, address, .. }, .. } = other.clone();
            return Err(StoreError::SameName { name, address });
        }
        let shards = self.lazy.query(SHARDS, &[]).await?;
        self.renew(&shards, was_alive, sent_at + (LIFETIME - MARGIN))?;
        let view = |row: &Row| {
            let number = number(row)?;
            let owner = column::<Option<Uuid>>(row, 3)?.filter(|owner| {
                let owner = replicas.iter().find(|replica| replica.id == *owner);
                owner.is_some_and(|owner| match owner.id == self.replica {
                    true => self.holds(number),
                    false => owner.presence.name != name,
                })
            });
            let kf_accounts = column::<i32>(row, 2)?.unsigned_abs();
            Ok::<_, StoreError>(ShardView { number, owner, kf_accounts })
        };
        let shards = shards.iter().map(view).collect::<Result<_, _>>()?;
        let staying = replicas.iter().filter(|replica| !replica.presence.is_draining);
        let view = View { replicas: staying.map(|replica| replica.id).collect(), shards };
        Ok(Beat { replicas, view, database_time })
    }

    /// Makes this replica the owner of these shards, as far as no living replica owns them. A shard that is being written to is left
    /// to the next beat.
    pub(in crate::store) async fn take(
        self: &Arc<Self>,
        presence: &Presence,
        shards: &[ShardNumber],
    ) -> Result<Vec<Shard>, StoreError> {
        let free = shards.iter().filter(|shard| !self.holds(**shard));
        let numbers: Vec<i16> = free.map(|shard| shard.get()).collect();
        let rows = self.commits.query(TAKE, &[&self.replica, &numbers, &text(&presence.name)]).await?;
        let trusted_until = *self.trusted_until();
        let mut taken = Vec::new();
        for row in &rows {
            let last = column::<Option<i64>>(row, 2)?.unwrap_or_default();
            taken.push(Shard::new(self, number(row)?, column(row, 1)?, last, trusted_until).await?);
        }
        Ok(taken)
    }

    /// Ends the sessions of a replica that is not alive. One of them may keep a shard locked for ever: of a statement whose end never
    /// arrived, because the network was cut between two packets.
    pub(in crate::store) async fn end_sessions_of(&self, replica: Uuid) -> Result<(), StoreError> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND usename = current_user";
        self.commits.query(sql, &[&super::application_name(replica)]).await?;
        Ok(())
    }

    /// Extends or ends the leases of the shards that this replica holds.
    fn renew(&self, shards: &[Row], was_alive: bool, trusted_until: Duration) -> Result<(), StoreError> {
        let mut held = self.held();
        held.retain(|_, log| log.strong_count() > 0);
        // If it was not alive, another replica may be taking one of its shards at this moment. The next beat tells.
        let is_sure = was_alive || held.is_empty();
        if is_sure {
            *self.trusted_until() = trusted_until;
        }
        for row in shards {
            let Some(log) = held.get(&number(row)?).and_then(Weak::upgrade) else { continue };
            let is_owner = column::<Option<Uuid>>(row, 3)? == Some(self.replica);
            if !is_owner || column::<i64>(row, 1)? != log.epoch {
                log.lease.end(StoreError::LeaseLost);
            } else if is_sure {
                log.lease.lease.trust_until(trusted_until);
            }
        }
        Ok(())
    }

    /// Whether this replica knows that it owns a shard.
    fn holds(&self, shard: ShardNumber) -> bool {
        self.held().get(&shard).is_some_and(|log| log.strong_count() > 0)
    }

    /// Ends all leases.
    fn end_all(&self, reason: &StoreError) {
        self.held().values().filter_map(Weak::upgrade).for_each(|log| log.lease.end(reason.clone()));
    }
}

fn number(row: &Row) -> Result<ShardNumber, StoreError> {
    let number: i16 = column(row, 0)?;
    ShardNumber::new(number).ok_or_else(|| StoreError::corrupt(format!("there is no shard {number}")))
}

/// A replica from a row of [`REPLICAS`].
fn living(row: &Row) -> Result<LivingReplica, StoreError> {
    Ok(LivingReplica {
        id: column(row, 0)?,
        presence: Presence {
            name: column(row, 1)?,
            address: column(row, 2)?,
            version: column(row, 3)?,
            started_at: convert::time(column(row, 4)?)?,
            is_draining: column(row, 6)?,
        },
        seen_at: convert::time(column(row, 5)?)?,
    })
}
