//! Connections to the server, reconnected when they are lost.
//!
//! A replica has five, each with one use. Several callers may use one at a time; the server executes their statements one after
//! the other.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{
    Client, Row, Statement,
    config::{Host, TargetSessionAttrs},
    types::ToSql,
};

use super::{
    error::{Failure, classify},
    server,
    tls::{self, Tls},
};
use crate::{domain::backoff::ExponentialBackoff, store::StoreError, tls::CaFile};

/// How long a statement waits for its result. The server ends it after the same time.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The same of heartbeats: a lease lasts for eight seconds.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long it may take to connect to one of the servers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the settings of a new connection may take, or another caller that connects.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(3);

/// For how long a statement is retried: longer than [`STATEMENT_TIMEOUT`], so that one without an answer is retried at least once.
const RETRY_FOR: Duration = Duration::from_secs(15);

/// How long to wait before a retry.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::constant(Duration::from_millis(100), Duration::from_secs(5));

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Everything that must be on the disk before it is reported: polls first of all.
    Commits,
    /// Heartbeats. Nothing else may delay them.
    Heartbeats,
    /// What may be lost if the server crashes, because it is then done again: cursors, last-seen times. It does not wait for disks
    /// or standbys.
    AsyncCommits,
    /// Reads of pages, scrapes and commands.
    Reads,
    /// Reads of dispatchers, which are short.
    Delivery,
}

impl Purpose {
    fn statement_timeout(self) -> Duration {
        match self {
            Self::Heartbeats => HEARTBEAT_TIMEOUT,
            Self::Commits | Self::AsyncCommits | Self::Reads | Self::Delivery => STATEMENT_TIMEOUT,
        }
    }

    fn settings(self) -> &'static str {
        match self {
            // A plan that was made for empty tables stays for good, and is slow once they are full.
            Self::Commits => {
                "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
                 SET plan_cache_mode = force_generic_plan;
                 -- A role or a database may have another default.
                 SELECT set_config('synchronous_commit', 'on', false)
                 WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            }
            Self::Heartbeats | Self::AsyncCommits => "SET synchronous_commit = off",
            Self::Reads | Self::Delivery => "SET default_transaction_read_only = on",
        }
    }
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresOptions {
    /// The server, the database, the role and its password. Connections to other machines are encrypted, and the server's certificate
    /// is verified.
    pub server: tokio_postgres::Config,
    /// The root certificates for that, in PEM. Without it, those of the system.
    pub ca_file: Option<CaFile>,
    /// The schema of the store in the database.
    pub schema: String,
}

/// The servers and the database, without secrets.
impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.server.get_hosts().iter().map(|host| match host {
            Host::Tcp(host) => Cow::Borrowed(host.as_str()),
            Host::Unix(path) => path.to_string_lossy(),
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        write!(f, "{hosts}/{}", self.server.get_dbname().unwrap_or_default())?;
        write!(f, " (schema {})", self.schema)
    }
}

/// Connects to the server.
#[derive(Clone)]
pub(super) struct Connector {
    server: tokio_postgres::Config,
    tls: Tls,
    schema: String,
}

impl Connector {
    pub(super) fn new(options: PostgresOptions, application_name: &str) -> Result<Self, StoreError> {
        let PostgresOptions { mut server, ca_file, schema } = options;
        tls::require_tls(&mut server)?;
        // The next server is tried if one is a standby. A connection to a host that is gone is noticed.
        server
            .application_name(application_name)
            .connect_timeout(CONNECT_TIMEOUT)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(STATEMENT_TIMEOUT);
        Ok(Self { server, tls: Tls::load(ca_file.as_deref())?, schema })
    }

    /// Connects for what is done only once, such as a migration.
    pub(super) async fn connect_once(&self) -> Result<DatabaseSession, StoreError> {
        Ok(self.connect(Purpose::Commits).await?)
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    async fn connect(&self, purpose: Purpose) -> Result<DatabaseSession, Failure> {
        let servers = self.server.get_hosts().len().max(self.server.get_hostaddrs().len()).max(1);
        let limit = CONNECT_TIMEOUT * u32::try_from(servers).unwrap_or(1) + SETTINGS_TIMEOUT;
        let connected = timeout(limit, DatabaseSession::connect(self, purpose)).await;
        connected.map_err(|_| Failure::timeout(limit))?
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// One of the connections.
#[derive(Debug)]
pub(super) struct Connection {
    connector: Arc<Connector>,
    purpose: Purpose,
    /// `None` until it is needed. Locked while it is made, so that one caller connects and the others wait.
    session: tokio::sync::Mutex<Option<Arc<DatabaseSession>>>,
}

impl Connection {
    pub(super) fn new(connector: Arc<Connector>, purpose: Purpose) -> Self {
        Self { connector, purpose, session: tokio::sync::Mutex::new(None) }
    }

    /// Executes a statement, which must be idempotent. Retries for up to [`RETRY_FOR`] if the connection is lost or the server is busy.
    pub(super) async fn query(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut retries = Retries::new();
        loop {
            // Boxed, so that the futures of all callers stay small.
            match Box::pin(self.query_once(sql, parameters)).await {
                Ok(rows) => return Ok(rows),
                Err(failure) if failure.is_transient() && retries.back_off().await => {}
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Executes a statement once.
    pub(super) async fn query_once(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let session = self.session().await?;
        let limit = self.purpose.statement_timeout();
        let queried = timeout(limit, session.query(sql, parameters)).await;
        let queried =
            queried.map_err(|_| Failure::timeout(limit)).and_then(|queried| queried.map_err(classify));
        if queried.as_ref().is_err_and(Failure::ends_session) {
            self.discard(&session).await;
        }
        queried
    }

    /// Ends the session, also if an answer is still due, and forgets it unless another caller has already made a new one. This is no
    /// request to cancel: the server notices that nobody waits any more.
    async fn discard(&self, lost: &Arc<DatabaseSession>) {
        lost.driver.abort();
        let mut current = self.session.lock().await;
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, lost)) {
            *current = None;
        }
    }

    async fn session(&self) -> Result<Arc<DatabaseSession>, Failure> {
        // Those who wait for the one who connects do not try one after the other.
        let locked = timeout(SETTINGS_TIMEOUT, self.session.lock()).await;
        let mut current = locked.map_err(|_| Failure::timeout(SETTINGS_TIMEOUT))?;
        match &*current {
            Some(session) if !session.client.is_closed() => Ok(Arc::clone(session)),
            _ => {
                let session = Arc::new(self.connector.connect(self.purpose).await?);
                *current = Some(Arc::clone(&session));
                Ok(session)
            }
        }
    }
}

/// Retries of one statement, until [`RETRY_FOR`] is over.
pub(super) struct Retries {
    end: Instant,
    failures: u32,
}

impl Retries {
    pub(super) fn new() -> Self {
        Self { end: Instant::now() + RETRY_FOR, failures: 0 }
    }

    /// Waits until the next retry; `false` if there should be none.
    pub(super) async fn back_off(&mut self) -> bool {
        self.failures += 1;
        let wait = BACKOFF.wait(self.failures, fastrand::f64());
        if Instant::now() + wait > self.end {
            return false;
        }
        sleep(wait).await;
        true
    }
}

/// One established connection with its prepared statements.
#[derive(Debug)]
pub(super) struct DatabaseSession {
    client: Client,
    /// By their text.
    statements: Mutex<HashMap<&'static str, Statement>>,
    /// Moves bytes between the client and the socket.
    driver: AbortHandle,
}

impl DatabaseSession {
    /// Connects, sets what the store relies on, and checks the server.
    async fn connect(connector: &Connector, purpose: Purpose) -> Result<Self, Failure> {
        let (client, connection) = connector.server.connect(connector.tls.clone()).await.map_err(classify)?;
        let mut tasks = JoinSet::new();
        let driver = tasks.spawn(async move {
            // Whoever waits for an answer gets the error.
            connection.await.ok();
        });
        // It ends by itself, after it has closed the connection.
        tasks.detach_all();
        let session = Self { client, statements: Mutex::default(), driver };
        server::check(&session.client).await?;
        let schema = quoted(&connector.schema);
        let settings = format!(
            "SET search_path = {schema}; SET client_encoding = 'UTF8'; SET jit = off; SET statement_timeout = '{}s';
             SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '5s';
             SET client_connection_check_interval = '2s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
             SET tcp_keepalives_count = 3; {}",
            purpose.statement_timeout().as_secs(),
            purpose.settings()
        );
        session.client.batch_execute(&settings).await.map_err(classify)?;
        Ok(session)
    }

    async fn query(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let known = self.statements().get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await?;
                self.statements().insert(sql, statement.clone());
                statement
            }
        };
        self.client.query(&statement, parameters).await
    }

    fn statements(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Statement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, for what is done only once.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

/// The name of a schema as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
