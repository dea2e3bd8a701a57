//! The store in a PostgreSQL database, which several replicas share.
//!
//! Official accounts are spread over shards. A shard has one owner, named by the replica's id and by an epoch that rises with each
//! owner. Every statement that writes for a shard first locks the shard's row and looks for its owner there. So a replica that was
//! paused or cut off writes nothing once another one has taken over. Only the owner adds events to a shard: it numbers them
//! itself, without gaps, in the order in which readers can see them.
//!
//! Every statement is complete in itself: no transaction waits for this process, so that no lock outlives a pause of it. There are
//! no advisory locks, no NOTIFY and no extensions, which poolers, standbys or hosted servers may lack.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};

use tokio::sync::OnceCell;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{StoreError, lease::StoreLease, published::Published, types::LogPosition};
use crate::domain::{lease::Lease, shard::ShardNumber};

/// Begins a statement that writes: only for the owner of the shard, whose row stays locked until the statement is committed. The
/// first three parameters are those of [`Shard::write`]. The statement returns one row, which begins with `is_owner!`.
macro_rules! fenced {
    ($($sql:expr),+) => {
        concat!(
            "WITH mine AS MATERIALIZED
                 (SELECT shard FROM shards WHERE shard = $1 AND owner = $2 AND epoch = $3 FOR SHARE), ",
            $($sql),+
        )
    };
}

/// The first column of a statement that begins with `fenced!`.
macro_rules! is_owner {
    () => {
        "SELECT EXISTS (SELECT FROM mine)"
    };
}

/// The id of the newest event of shard `s`, retained or not.
macro_rules! last_id {
    () => {
        "greatest(s.pruned_to, (SELECT max(id) FROM events e WHERE e.shard = s.shard))"
    };
}

mod accounts;
mod commands;
mod commit;
mod connection;
mod dead_letters;
mod error;
mod events;
mod group;
mod import;
mod lease;
mod numbering;
mod owned_shard;
mod prune;
mod registrations;
mod replicas;
mod schema;
mod server;
mod sinks;
mod tls;
mod tokens;
mod writer;

pub(super) use self::import::import;
pub use self::{
    connection::PostgresOptions,
    lease::Heartbeat,
    replicas::{LivingReplica, ReplicaInfo},
};
use self::{
    connection::{Connection, Connector, Purpose},
    owned_shard::OwnedShard,
    writer::Writer,
};

/// The connections of one replica to the store.
#[derive(Debug)]
pub(super) struct Database {
    /// The owner of its shards; a new one at each start.
    replica: Uuid,
    commits: Arc<Connection>,
    heartbeats: Connection,
    async_commits: Connection,
    reads: Connection,
    delivery: Connection,
    writer: Writer,
    /// The shards that it owns.
    owned_shards: Mutex<HashMap<ShardNumber, Weak<OwnedShard>>>,
    /// Until when it trusts its leases, by the monotonic clock.
    trusted_until: Mutex<Duration>,
    /// Whether the last heartbeat came in time, so that no other replica can be acquiring its shards.
    was_in_time: AtomicBool,
    /// Locked while shards are acquired.
    acquiring: tokio::sync::Mutex<()>,
}

impl Database {
    /// Connects, and creates or migrates the schema.
    pub(super) async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let (replica, connector) = Self::connector(options)?;
        let session = connector.connect_once().await?;
        schema::migrate(&session, connector.schema()).await?;
        replicas::forget_old_replicas(&session).await?;
        Ok(Self::new(replica, connector))
    }

    /// Connects to a schema of this version.
    pub(super) async fn connect_to_read(options: PostgresOptions) -> Result<Self, StoreError> {
        let (replica, connector) = Self::connector(options)?;
        schema::check(&connector.connect_once().await?, connector.schema()).await?;
        Ok(Self::new(replica, connector))
    }

    /// Connects, changes nothing, and returns the names of the replicas that are alive.
    pub(super) async fn examine(options: PostgresOptions) -> Result<Vec<String>, StoreError> {
        let (_, connector) = Self::connector(options)?;
        let session = connector.connect_once().await?;
        match schema::is_current(&session, connector.schema()).await? {
            true => replicas::living_names(&session).await,
            false => Ok(Vec::new()),
        }
    }

    fn connector(options: PostgresOptions) -> Result<(Uuid, Arc<Connector>), StoreError> {
        let replica = Uuid::new_v4();
        Ok((replica, Arc::new(Connector::new(options, &application_name(replica))?)))
    }

    fn new(replica: Uuid, connector: Arc<Connector>) -> Self {
        let connection = |purpose| Connection::new(Arc::clone(&connector), purpose);
        let commits = Arc::new(connection(Purpose::Commits));
        Self {
            replica,
            writer: Writer::start(Arc::clone(&commits), replica),
            commits,
            heartbeats: connection(Purpose::Heartbeats),
            async_commits: connection(Purpose::AsyncCommits),
            reads: connection(Purpose::Reads),
            delivery: connection(Purpose::Delivery),
            owned_shards: Mutex::default(),
            trusted_until: Mutex::default(),
            was_in_time: AtomicBool::new(true),
            acquiring: tokio::sync::Mutex::default(),
        }
    }

    /// The owner of its shards.
    pub(super) fn replica(&self) -> Uuid {
        self.replica
    }

    fn owned_shards(&self) -> MutexGuard<'_, HashMap<ShardNumber, Weak<OwnedShard>>> {
        self.owned_shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trusted_until(&self) -> MutexGuard<'_, Duration> {
        self.trusted_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the server knows the sessions of a replica.
fn application_name(replica: Uuid) -> String {
    format!("kfwatch/{replica}")
}

/// One shard, which this replica owns or only reads.
#[derive(Debug)]
pub(super) struct Shard {
    database: Arc<Database>,
    is_owner: bool,
    /// What the writer knows of it.
    owned: Arc<OwnedShard>,
    /// Set when it is released.
    released: OnceCell<()>,
}

impl Shard {
    /// A shard that this replica has just acquired.
    fn new(
        database: &Arc<Database>,
        number: ShardNumber,
        epoch: i64,
        last_event: i64,
        trusted_until: Duration,
    ) -> Self {
        let lease = StoreLease::new(Arc::new(Lease::until(trusted_until)));
        let published = Arc::new(Published::new(LogPosition(last_event), 0));
        let owned = Arc::new(OwnedShard::new(number, epoch, lease, published));
        database.owned_shards().insert(number, Arc::downgrade(&owned));
        Self { database: Arc::clone(database), is_owner: true, owned, released: OnceCell::new() }
    }

    /// A shard that is only read. Its lease is never trusted.
    pub(super) fn to_read(database: &Arc<Database>, number: ShardNumber) -> Self {
        let lease = StoreLease::new(Arc::new(Lease::until(Duration::ZERO)));
        let owned = Arc::new(OwnedShard::new(number, 0, lease, Arc::new(Published::new(LogPosition(0), 0))));
        Self { database: Arc::clone(database), is_owner: false, owned, released: OnceCell::new() }
    }

    pub(super) fn number(&self) -> ShardNumber {
        self.owned.number
    }

    /// What the writer publishes about its commits.
    pub(super) fn published(&self) -> &Arc<Published> {
        &self.owned.published
    }

    /// What everything asks that acts for the accounts of the shard.
    pub(super) fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.owned.lease.lease)
    }

    /// Waits until the lease has ended, and returns why.
    pub(super) async fn lost(&self) -> StoreError {
        self.owned.lease.ended().await
    }

    /// The used bytes: a server does not report how much of the disk a shard takes.
    pub(super) fn size_bytes(&self) -> u64 {
        *self.owned.published.used_bytes.borrow()
    }

    /// Commits queued steps and releases the shard to another owner.
    pub(super) async fn close(&self) {
        if !self.is_owner {
            return;
        }
        let release = async || {
            self.owned.lease.end(StoreError::Closed);
            self.database.writer.drain().await;
            let sql = "UPDATE shards SET owner = NULL WHERE shard = $1 AND owner = $2 AND epoch = $3";
            let parameters: [&(dyn ToSql + Sync); 3] =
                [&self.owned.number.get(), &self.database.replica, &self.owned.epoch];
            // If it fails, the next heartbeat releases it.
            self.database.commits.query(sql, &parameters).await.ok();
        };
        self.released.get_or_init(release).await;
    }

    /// Executes a statement that begins with `fenced!`, and returns its row. Fails, and has changed nothing, if this replica no
    /// longer owns the shard.
    async fn write(
        &self,
        connection: &Connection,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        if !self.is_owner {
            return Err(StoreError::OpenToRead);
        }
        self.owned.lease.check()?;
        let fence: [&(dyn ToSql + Sync); 3] =
            [&self.owned.number.get(), &self.database.replica, &self.owned.epoch];
        let rows = connection.query(sql, &[&fence, parameters].concat()).await?;
        match rows.into_iter().next() {
            Some(row) if row.try_get(0).is_ok_and(|is_owner: bool| is_owner) => Ok(row),
            _ => {
                self.owned.lease.end(StoreError::LeaseLost);
                Err(StoreError::LeaseLost)
            }
        }
    }

    /// Writes what must be on the disk before it is reported.
    async fn write_durably(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        self.write(&self.database.commits, sql, parameters).await
    }

    /// Writes what may be lost if the server crashes, because it is then done again.
    async fn write_async(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        self.write(&self.database.async_commits, sql, parameters).await
    }

    /// Reads for pages, scrapes and commands, also while the shard moves to another replica. The first parameter is the shard.
    async fn read(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.read_through(&self.database.reads, sql, parameters).await
    }

    /// Reads for dispatchers. The first parameter is the shard.
    async fn read_for_delivery(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.owned.lease.check()?;
        self.read_through(&self.database.delivery, sql, parameters).await
    }

    async fn read_through(
        &self,
        connection: &Connection,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let shard: [&(dyn ToSql + Sync); 1] = [&self.owned.number.get()];
        connection.query(sql, &[&shard, parameters].concat()).await
    }
}

/// A column, whose type the statement determines.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, StoreError> {
    row.try_get(index).map_err(|error| StoreError::corrupt(error.to_string()))
}

/// A number of rows.
fn count(row: &Row, index: usize) -> Result<u64, StoreError> {
    Ok(column::<i64>(row, index)?.unsigned_abs())
}

/// A text as PostgreSQL takes it: NUL is the only character that it refuses.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
