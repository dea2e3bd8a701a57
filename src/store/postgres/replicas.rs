//! The replicas of the cluster, as they are stored.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{column, connection::DatabaseSession, error::classify};
use crate::store::{StoreError, convert};

/// What a replica publishes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// The name that people give it. Each replica has its own.
    pub name: String,
    /// Where its page is.
    pub address: String,
    /// Its version of kfwatch.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// What it does, in short: two replicas with different ones disagree about which accounts and sinks are configured.
    pub fingerprint: Vec<u8>,
    /// Whether it is draining: the others acquire its shards.
    pub is_draining: bool,
}

/// A replica that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingReplica {
    /// Identifies it; a new one at each start.
    pub id: Uuid,
    /// What it publishes about itself.
    pub info: ReplicaInfo,
    /// When it said that, by the database's clock.
    pub seen_at: Timestamp,
    /// The ids of replicas with the same name that started before: it runs instead of them.
    pub replaces: Vec<Uuid>,
}

/// The replicas that are alive, and the one that asks.
pub(super) const REPLICAS: &str = "
SELECT id, name, address, version, started_at, (extract(epoch FROM seen_at) * 1000)::bigint, draining, fingerprint FROM replicas
WHERE id = $1 OR seen_at > clock_timestamp() - interval '9 s' ORDER BY name, started_at, id";

/// The names of the replicas that are alive.
pub(super) async fn living_names(session: &DatabaseSession) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM replicas WHERE seen_at > clock_timestamp() - interval '9 s'";
    let rows = session.client().query(sql, &[]).await.map_err(classify)?;
    rows.iter().map(|row| column(row, 0)).collect()
}

/// The replicas in rows of [`REPLICAS`], of which those with the same name follow each other in the order of their starts. Only the last
/// of each name runs; it replaces the others.
pub(super) fn latest_of_each_name(rows: &[Row]) -> Result<Vec<LivingReplica>, StoreError> {
    let mut replicas: Vec<LivingReplica> = Vec::new();
    for row in rows {
        let mut replica = living(row)?;
        if let Some(former) = replicas.pop_if(|former| former.info.name == replica.info.name) {
            replica.replaces = former.replaces;
            replica.replaces.push(former.id);
        }
        replicas.push(replica);
    }
    Ok(replicas)
}

/// Forgets replicas that have not been alive for a day.
pub(super) async fn forget_old_replicas(session: &DatabaseSession) -> Result<(), StoreError> {
    let sql = "DELETE FROM replicas WHERE seen_at < clock_timestamp() - interval '1 day'";
    session.client().execute(sql, &[]).await.map_err(classify)?;
    Ok(())
}

/// A replica from a row of [`REPLICAS`].
fn living(row: &Row) -> Result<LivingReplica, StoreError> {
    Ok(LivingReplica {
        id: column(row, 0)?,
        info: ReplicaInfo {
            name: column(row, 1)?,
            address: column(row, 2)?,
            version: column(row, 3)?,
            started_at: convert::time(column(row, 4)?)?,
            fingerprint: column(row, 7)?,
            is_draining: column(row, 6)?,
        },
        seen_at: convert::time(column(row, 5)?)?,
        replaces: Vec::new(),
    })
}
