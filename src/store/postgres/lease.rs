//! Heartbeats and leases: which replicas are alive, and which of them owns a shard.
//!
//! A replica writes every second that it is alive. By the database's clock, it is alive for [`LIFETIME`] after that. By its own
//! monotonic clock, which starts before the heartbeat is sent, it trusts its leases for a second less. So it stops acting for its shards
//! before another replica may take them, whatever the clocks of the machines say.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    Database, Shard, column, commit,
    owned_shard::OwnedShard,
    replicas::{LivingReplica, REPLICAS, ReplicaInfo, latest_of_each_name},
    text,
};
use crate::{
    domain::{
        rebalance::{ClusterView, ShardView},
        shard::ShardNumber,
    },
    store::{StoreError, convert},
};

/// How long a replica counts as alive after a heartbeat. Also in the statements below, as nine seconds.
const LIFETIME: Duration = Duration::from_secs(9);

/// How much sooner it stops trusting its leases: clocks do not run equally fast, and what it has started takes a moment.
const MARGIN: Duration = Duration::from_secs(1);

/// What the database knows about the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The replicas that are alive, this one among them.
    pub replicas: Vec<LivingReplica>,
    /// What [`plan_moves`](crate::domain::rebalance::plan_moves) needs.
    pub view: ClusterView,
    /// Shards of a replica that this one replaces, to be acquired at once. In the view, this replica owns them.
    pub inherited: Vec<ShardNumber>,
    /// The shards whose owners are not alive, with these.
    pub expired: Vec<(ShardNumber, Uuid)>,
    /// The time of the database.
    pub database_time: Timestamp,
    /// Until when this replica trusts its leases, by the monotonic clock.
    pub trusted_until: Duration,
}

impl Heartbeat {
    /// Whether all living replicas have the same configuration.
    pub fn is_agreed(&self) -> bool {
        let mut fingerprints = self.replicas.iter().map(|replica| &replica.info.fingerprint);
        let first = fingerprints.next();
        fingerprints.all(|other| Some(other) == first)
    }
}

const HEARTBEAT: &str = "
WITH before AS (SELECT seen_at FROM replicas WHERE id = $1)
INSERT INTO replicas (id, name, address, version, started_at, seen_at, draining, fingerprint)
VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, seen_at = excluded.seen_at,
    draining = excluded.draining, fingerprint = excluded.fingerprint
RETURNING coalesce((SELECT seen_at FROM before) > clock_timestamp() - interval '9 s', false),
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const SHARDS: &str = concat!(
    "SELECT shard, epoch, weight, owner, CASE WHEN owner = $1 THEN ",
    last_id!(),
    " END FROM shards s ORDER BY shard"
);

/// A shard is free if its owner is not alive, if it has this replica's name, because then it ran here before, or if it is this replica,
/// which did not get the answer when it took the shard.
const ACQUIRE: &str = "
WITH free AS (
    SELECT s.shard FROM shards s LEFT JOIN replicas r ON r.id = s.owner
    WHERE s.shard = ANY ($2)
        AND (r.id IS NULL OR s.owner = $1 OR r.seen_at <= clock_timestamp() - interval '9 s' OR (r.name = $3 AND (r.started_at, r.id) < ($4, $1)))
    FOR UPDATE OF s SKIP LOCKED
)
UPDATE shards s SET owner = $1, epoch = epoch + 1 FROM free
WHERE s.shard = free.shard
    AND EXISTS (SELECT FROM replicas WHERE id = $1 AND seen_at > clock_timestamp() - interval '9 s')
RETURNING s.shard, s.epoch";

impl Database {
    /// Records that this replica is alive, and returns what the database knows about the cluster. Extends the leases of the shards that
    /// it still owns, and ends those of the others. `sent_at` is the time of the monotonic clock.
    ///
    /// Fails with [`StoreError::SameName`] if a replica with the same name has started later.
    pub(in crate::store) async fn send_heartbeat(
        &self,
        info: &ReplicaInfo,
        sent_at: Duration,
    ) -> Result<Heartbeat, StoreError> {
        // A heartbeat that fails, or whose caller stops waiting, may be late.
        let was_in_time = self.was_in_time.swap(false, Ordering::Relaxed);
        let ReplicaInfo { name, address, version, started_at, fingerprint, is_draining } = info;
        let (name, address, version) = (text(name), text(address), text(version));
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&self.replica, &name, &address, &version, &convert::ms(*started_at), is_draining, fingerprint];
        let rows = self.heartbeats.query_once(HEARTBEAT, &parameters).await?;
        let Some(row) = rows.first() else { return Err(StoreError::corrupt("a heartbeat has no result")) };
        let (was_alive, database_time): (bool, _) = (column(row, 0)?, convert::time(column(row, 1)?)?);
        let replicas = self.heartbeats.query_once(REPLICAS, &[&self.replica]).await?;
        let replicas = latest_of_each_name(&replicas)?;
        if let Some(other) = replicas.iter().find(|other| other.info.name == name && other.id != self.replica)
        {
            let ended = StoreError::SameName { name, address: other.info.address.clone() };
            self.end_all(&ended);
            return Err(ended);
        }
        // Shards that are being acquired are owned, and not yet known.
        let acquiring = self.acquiring.try_lock();
        let known = self.known_shards();
        let shards = self.heartbeats.query_once(SHARDS, &[&self.replica]).await?;
        let shards = shards.iter().map(stored_shard).collect::<Result<Vec<_>, _>>()?;
        let is_sure = (was_in_time && was_alive) || known.is_empty();
        let certain = if is_sure { None } else { Some(self.lock_owned().await?) };
        let trusted_until = sent_at + (LIFETIME - MARGIN);
        self.renew(&known, &shards, certain.as_deref(), trusted_until);
        self.was_in_time.store(true, Ordering::Relaxed);
        if acquiring.is_ok() {
            self.release_forgotten(&shards).await;
        }
        Ok(self.heartbeat(replicas, &shards, database_time, trusted_until))
    }

    /// Makes this replica the owner of these shards, as far as no living replica owns them. A shard that is being written to is left
    /// to the next heartbeat.
    pub(in crate::store) async fn acquire_shards(
        self: &Arc<Self>,
        info: &ReplicaInfo,
        shards: &[ShardNumber],
    ) -> Result<Vec<Shard>, StoreError> {
        let _acquiring = self.acquiring.lock().await;
        let free = shards.iter().filter(|shard| !self.owns(**shard));
        let numbers: Vec<i16> = free.map(|shard| shard.get()).collect();
        let started_at = convert::ms(info.started_at);
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.replica, &numbers, &text(&info.name), &started_at];
        let acquired = self.commits.query(ACQUIRE, &parameters).await?;
        let numbers = acquired.iter().map(|row| column(row, 0)).collect::<Result<Vec<i16>, _>>()?;
        // In a statement of its own: the former owner may have committed while the first one waited.
        let last_ids: HashMap<i16, i64> =
            commit::last_ids(&self.commits, &numbers).await?.into_iter().collect();
        let trusted_until = *self.trusted_until();
        let open = |row: &Row| {
            let number = read_shard_number(row)?;
            let last_id = last_ids.get(&number.get()).copied().unwrap_or_default();
            Ok::<_, StoreError>(Shard::new(self, number, column(row, 1)?, last_id, trusted_until))
        };
        let opened = acquired.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        for shard in &opened {
            // If it fails, the size is measured when the shard is pruned.
            shard.measure().await.ok();
        }
        Ok(opened)
    }

    /// Ends the database sessions of a replica that is not alive. One of them may keep a shard locked for ever: the rest of its
    /// statement was lost on the network, and PostgreSQL waits for it.
    pub(in crate::store) async fn end_sessions_of(&self, replica: Uuid) -> Result<(), StoreError> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND usename = current_user";
        self.commits.query(sql, &[&super::application_name(replica)]).await?;
        Ok(())
    }

    /// The shards that this replica knows that it owns, each with the newest event that it has committed.
    fn known_shards(&self) -> Vec<(Arc<OwnedShard>, i64)> {
        let mut owned = self.owned_shards();
        owned.retain(|_, shard| shard.strong_count() > 0);
        let known = owned.values().filter_map(Weak::upgrade);
        known.map(|shard| (Arc::clone(&shard), shard.last_id())).collect()
    }

    /// The shards that this replica owns, except those that another one is acquiring at this moment.
    async fn lock_owned(&self) -> Result<Vec<ShardNumber>, StoreError> {
        let sql = "SELECT shard FROM shards WHERE owner = $1 FOR SHARE SKIP LOCKED";
        let rows = self.heartbeats.query_once(sql, &[&self.replica]).await?;
        rows.iter().map(read_shard_number).collect()
    }

    /// Extends or ends the leases of the shards that this replica owned before the database was asked. If it was not in time, another
    /// replica may be acquiring some of them: then only `certain` ones are extended.
    fn renew(
        &self,
        known: &[(Arc<OwnedShard>, i64)],
        stored: &[StoredShard],
        certain: Option<&[ShardNumber]>,
        trusted_until: Duration,
    ) {
        *self.trusted_until() = trusted_until;
        for (shard, last_id) in known {
            let Some(stored) = stored.iter().find(|stored| stored.number == shard.number) else { continue };
            if stored.owner != Some(self.replica) || stored.epoch != shard.epoch {
                shard.lease.end(StoreError::LeaseLost);
                continue;
            }
            if stored.last_id.is_some_and(|stored| stored < *last_id) {
                self.writer.check_for_lost_events(Arc::clone(shard));
            }
            if certain.is_none_or(|certain| certain.contains(&shard.number)) {
                shard.lease.lease.trust_until(trusted_until);
            }
        }
    }

    /// Releases the shards that this replica owns without knowing it: the answer was lost when it acquired or released them. If that
    /// fails, the next heartbeat does it.
    async fn release_forgotten(&self, shards: &[StoredShard]) {
        let is_forgotten =
            |shard: &&StoredShard| shard.owner == Some(self.replica) && !self.owns(shard.number);
        let forgotten: Vec<i16> =
            shards.iter().filter(is_forgotten).map(|shard| shard.number.get()).collect();
        if !forgotten.is_empty() {
            let sql = "UPDATE shards SET owner = NULL WHERE shard IN
                           (SELECT shard FROM shards WHERE shard = ANY ($1) AND owner = $2 FOR UPDATE SKIP LOCKED)";
            self.heartbeats.query_once(sql, &[&forgotten, &self.replica]).await.ok();
        }
    }

    /// What follows from what the database knows. A replica that restarts inherits the shards of the one with its name.
    fn heartbeat(
        &self,
        replicas: Vec<LivingReplica>,
        shards: &[StoredShard],
        database_time: Timestamp,
        trusted_until: Duration,
    ) -> Heartbeat {
        let (mut inherited, mut expired) = (Vec::new(), Vec::new());
        let mut owner_of = |shard: &StoredShard| {
            let owner = shard.owner?;
            if owner == self.replica {
                return self.owns(shard.number).then_some(owner);
            }
            let is_heir = |replica: &&LivingReplica| replica.id == owner || replica.replaces.contains(&owner);
            let Some(heir) = replicas.iter().find(is_heir) else {
                expired.push((shard.number, owner));
                return None;
            };
            if heir.id == self.replica {
                inherited.push(shard.number);
            }
            Some(heir.id)
        };
        let view = |shard: &StoredShard| ShardView {
            number: shard.number,
            owner: owner_of(shard),
            kf_accounts: shard.kf_accounts,
        };
        let shards = shards.iter().map(view).collect();
        let staying = replicas.iter().filter(|replica| !replica.info.is_draining);
        let view = ClusterView { replicas: staying.map(|replica| replica.id).collect(), shards };
        Heartbeat { replicas, view, inherited, expired, database_time, trusted_until }
    }

    /// Whether this replica knows that it owns a shard. It owns one that is being closed until that is done.
    fn owns(&self, shard: ShardNumber) -> bool {
        let shard = self.owned_shards().get(&shard).and_then(Weak::upgrade);
        shard.is_some_and(|shard| matches!(shard.lease.check(), Ok(()) | Err(StoreError::Closed)))
    }

    /// Ends all leases.
    fn end_all(&self, reason: &StoreError) {
        self.owned_shards()
            .values()
            .filter_map(Weak::upgrade)
            .for_each(|shard| shard.lease.end(reason.clone()));
    }
}

fn read_shard_number(row: &Row) -> Result<ShardNumber, StoreError> {
    let number: i16 = column(row, 0)?;
    ShardNumber::new(number).ok_or_else(|| StoreError::corrupt(format!("there is no shard {number}")))
}

/// A shard from a row of [`SHARDS`].
struct StoredShard {
    number: ShardNumber,
    epoch: i64,
    kf_accounts: u32,
    owner: Option<Uuid>,
    /// The id of its newest event, if this replica owns it.
    last_id: Option<i64>,
}

fn stored_shard(row: &Row) -> Result<StoredShard, StoreError> {
    Ok(StoredShard {
        number: read_shard_number(row)?,
        epoch: column(row, 1)?,
        kf_accounts: column::<i32>(row, 2)?.unsigned_abs(),
        owner: column(row, 3)?,
        last_id: column(row, 4)?,
    })
}
