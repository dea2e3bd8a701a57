//! Connections to the server, made anew when they are lost.
//!
//! A replica has four, each with one use. Several callers may use one at a time; the server executes their statements one after
//! the other. Every statement of the store is complete in itself: no transaction waits for this process, so that a process that
//! is paused holds no lock.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, Row, Statement, types::ToSql};

use super::{
    error::{Failure, classify},
    server,
    tls::{self, Tls},
};
use crate::store::StoreError;

/// How long a statement waits for its result. The server ends it after the same time.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a statement is repeated that a lost connection or a busy server kept from its result.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause before the first repetition. It doubles up to [`MAX_PAUSE`], with a random part, so that replicas do not return at
/// once.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Everything that must be on the disk before it is reported: polls first of all.
    Commits,
    /// What may be lost with the server's last moments, because it is then done again: cursors, last-seen times. It does not wait for
    /// disks or standbys.
    Lazy,
    /// Reads of pages, scrapes and commands.
    Reads,
    /// Reads of dispatchers, which are short.
    Delivery,
}

impl Purpose {
    fn settings(self) -> &'static str {
        match self {
            // A plan that was made for empty tables stays for good, and is slow once they are full.
            Self::Commits => {
                "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
                 SET plan_cache_mode = force_generic_plan"
            }
            Self::Lazy => "SET synchronous_commit = off",
            Self::Reads | Self::Delivery => "SET default_transaction_read_only = on",
        }
    }
}

/// Where the store is.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The server, the database, the role and its password. Connections to other machines are encrypted, and the server's certificate
    /// is verified.
    pub server: tokio_postgres::Config,
    /// The root certificates for that, in PEM. Without it, those of the system.
    pub ca_file: Option<PathBuf>,
    /// The schema of the store in the database.
    pub schema: String,
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
        tls::require(&mut server)?;
        server.application_name(application_name).connect_timeout(CONNECT_TIMEOUT);
        Ok(Self { server, tls: Tls::load(ca_file.as_deref())?, schema })
    }

    /// Connects for what is done only once, such as a migration.
    pub(super) async fn connect_once(&self) -> Result<Session, StoreError> {
        Ok(self.connect(Purpose::Commits).await?)
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    async fn connect(&self, purpose: Purpose) -> Result<Session, Failure> {
        let connected = timeout(CONNECT_TIMEOUT, Session::connect(self, purpose)).await;
        connected.map_err(|_| Failure::timeout())?
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
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Connection {
    pub(super) fn new(connector: Arc<Connector>, purpose: Purpose) -> Self {
        Self { connector, purpose, session: tokio::sync::Mutex::new(None) }
    }

    /// Executes a statement. Repeats it for some seconds if the connection is lost or the server is busy, so that it must be
    /// idempotent.
    pub(super) async fn query(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut pauses = Pauses::new();
        loop {
            // Boxed, so that the futures of all callers stay small.
            match Box::pin(self.query_once(sql, parameters)).await {
                Ok(rows) => return Ok(rows),
                Err(failure) if failure.may_pass() && pauses.next().await => {}
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
        let queried = timeout(STATEMENT_TIMEOUT, session.query(sql, parameters)).await;
        let queried = queried.map_err(|_| Failure::timeout()).and_then(|queried| queried.map_err(classify));
        if queried.as_ref().is_err_and(Failure::ends_session) {
            self.close(&session).await;
        }
        queried
    }

    /// Forgets the session, unless another caller has already made a new one.
    async fn close(&self, lost: &Arc<Session>) {
        let mut current = self.session.lock().await;
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, lost)) {
            *current = None;
        }
    }

    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut current = self.session.lock().await;
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

/// The pauses between repetitions, until the patience is over.
pub(super) struct Pauses {
    end: Instant,
    pause: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { end: Instant::now() + PATIENCE, pause: MIN_PAUSE }
    }

    /// Waits for the next repetition; `false` if there should be none.
    pub(super) async fn next(&mut self) -> bool {
        let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        if Instant::now() + pause > self.end {
            return false;
        }
        sleep(pause).await;
        true
    }
}

/// A connection while it lasts.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    /// By their text.
    statements: Mutex<HashMap<&'static str, Statement>>,
}

impl Session {
    /// Connects, sets what the store relies on, and checks the server.
    async fn connect(connector: &Connector, purpose: Purpose) -> Result<Self, Failure> {
        let (client, connection) = connector.server.connect(connector.tls.clone()).await.map_err(classify)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer gets the error.
            connection.await.ok();
        });
        // It ends by itself, when it has told the server that the client is gone.
        driver.detach_all();
        let session = Self { client, statements: Mutex::default() };
        let schema = quoted(&connector.schema);
        let settings = format!(
            "SET search_path = {schema}; SET client_encoding = 'UTF8'; SET jit = off; SET statement_timeout = '{}s';
             SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '5s';
             SET client_connection_check_interval = '2s'; {}",
            STATEMENT_TIMEOUT.as_secs(),
            purpose.settings()
        );
        session.client.batch_execute(&settings).await.map_err(classify)?;
        server::check(&session.client).await?;
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
