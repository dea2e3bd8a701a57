//! Servers of PostgreSQL that are killed, that encrypt, and that are not what the store needs.

use std::fs;

use kfwatch::{
    store::{Cluster, LogPosition, PostgresOptions, StartPosition, StoreError},
    tls::CaFile,
};
use tokio_postgres::config::SslMode;

use crate::support::{
    certificates::Authority,
    postgres::{Schema, Server},
    store::*,
};

fn plain() -> Server {
    Server::start(|_| String::new())
}

/// Repeats a step as its callers do. A server takes longer to start than a step waits if the machine is busy.
async fn until_reachable<T>(step: impl AsyncFn() -> Result<T, StoreError>) -> T {
    // Each attempt waits for some seconds.
    for _ in 0..20 {
        match step().await {
            Err(StoreError::Unreachable { .. }) => {}
            done => return done.unwrap(),
        }
    }
    unreachable!("the server was restarted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn commits_wait_for_server_that_restarts() {
    let mut server = plain();
    let schema = Schema::on(server.config("localhost"));
    let store = schema.open().await;
    let account = register(&store, "a").await;
    sinks(&store, &["log"], StartPosition::Beginning, 0).await;
    for round in 1..=3 {
        commit(&store, &account, vec![started("o-1", round)]).await;
        server.kill();
        let restarted = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        });
        let position = LogPosition(2 * round);
        let (committed, ()) = tokio::join!(
            until_reachable(async || store.commit_poll(poll(&account, vec![started("o-2", round)])).await),
            until_reachable(async || store.advance_cursor("log", position).await),
        );
        assert_eq!(committed.sequence, 2 * round as u64);
        server = restarted.await.unwrap();
    }
    assert_eq!(sequences(&events(&store).await), [1, 2, 3, 4, 5, 6]);
    assert_eq!(store.sink("log").await.unwrap().backlog.events, 0);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn commit_fails_while_server_is_away_and_succeeds_afterwards() {
    let mut server = plain();
    let store = Schema::on(server.config("localhost")).open().await;
    let account = register(&store, "a").await;
    server.kill();
    let failed = store.commit_poll(poll(&account, vec![started("o-1", 1)])).await;
    assert!(matches!(failed, Err(StoreError::Unreachable { .. })), "{failed:?}");
    assert!(matches!(store.write_failure(), Some(StoreError::Unreachable { .. })));
    assert!(!store.write_stats().last_succeeded);
    server.restart();
    assert_eq!(commit(&store, &account, vec![started("o-1", 1)]).await.sequence, 1);
    assert!(store.write_stats().last_succeeded && store.write_failure().is_none());
    assert_eq!(sequences(&events(&store).await), [1]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn encrypted_connection_trusts_configured_authority_only() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let server = Server::start(|directory| {
        let identity = ours.identity("localhost");
        let certificate = Server::write_private_file(directory, "server.pem", &identity.certificate_pem);
        let key = Server::write_private_file(directory, "server.key", &identity.key_pem);
        let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
        format!("ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'")
    });
    let directory = tempfile::tempdir().unwrap();
    let connect = async |authority: &Authority, host: &str| {
        let ca_file = directory.path().join("ca.pem");
        fs::write(&ca_file, authority.pem()).unwrap();
        let mut server = server.config(host);
        server.ssl_mode(SslMode::Require);
        Cluster::connect(PostgresOptions {
            server,
            ca_file: Some(CaFile::new(ca_file, &[])),
            schema: "kfwatch".to_owned(),
        })
        .await
    };
    connect(&ours, "localhost").await.unwrap();
    for (authority, host, expected, remedy) in [
        (&theirs, "localhost", "signed by an unknown authority", "set ca_file"),
        (&ours, "elsewhere", "not valid for elsewhere", "use a name of the certificate"),
    ] {
        let text = error_chain(&connect(authority, host).await.unwrap_err());
        assert!(text.contains(expected) && text.contains(remedy), "{text}");
    }
}

/// Why a store cannot be opened.
async fn refusal(schema: Schema) -> String {
    error_chain(&Cluster::connect(schema.options()).await.unwrap_err())
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn server_without_fsync_is_refused() {
    let server = Server::start(|_| "fsync = off".to_owned());
    let text = refusal(Schema::on(server.config("localhost"))).await;
    assert!(text.contains("set fsync = on"), "{text}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn unsuitable_databases_are_refused() {
    let server = plain();
    let schema = Schema::on(server.config("localhost"));
    schema.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0").await;
    let mut latin = server.config("localhost");
    latin.dbname("latin");
    let text = refusal(Schema::on(latin)).await;
    assert!(text.contains("LATIN1") && text.contains("ENCODING 'UTF8'"), "{text}");

    let mut missing = server.config("localhost");
    missing.dbname("missing");
    let text = refusal(Schema::on(missing)).await;
    assert!(text.contains("check the name of the database") && text.contains("does not exist"), "{text}");

    Cluster::connect(schema.options()).await.unwrap();
    schema.execute("UPDATE cluster SET schema = 99").await;
    let text = refusal(schema).await;
    assert!(text.contains("newer kfwatch (schema 99") && text.contains("upgrade"), "{text}");
}
