//! Whether a server is what the store needs. Checked at each connection, because the next one may reach another server.

use tokio_postgres::Client;

use super::error::{Failure, FailureKind, classify};
use crate::store::StoreError;

/// The oldest version: earlier ones do not notice that a client has gone while they execute its statement.
const OLDEST_VERSION: i32 = 140_000;

/// Fails unless the server is a primary with a version, an encoding and an fsync with which it loses no acknowledged commit.
pub(super) async fn check(client: &Client) -> Result<(), Failure> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync'),
                    pg_is_in_recovery()",
            &[],
        )
        .await
        .map_err(classify)?;
    let (version, encoding, fsync): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
    if version < OLDEST_VERSION {
        return Err(Failure::wrong_server(format!(
            "it has version {}.{}: kfwatch needs PostgreSQL 14 or newer",
            version / 10_000,
            version % 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(Failure::wrong_server(format!(
            "the encoding of the database is {encoding}: create it with ENCODING 'UTF8'"
        )));
    }
    if fsync != "on" {
        return Err(Failure::wrong_server(
            "fsync is off, so that it can lose what it has acknowledged: set fsync = on in postgresql.conf",
        ));
    }
    if row.get(3) {
        return Err(Failure { kind: FailureKind::ServerUnavailable, error: StoreError::NotPrimary });
    }
    Ok(())
}
