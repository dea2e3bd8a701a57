//! Accounts: registers and loads them, and stores when they were last seen.

use std::collections::HashMap;

use rusqlite::{Connection, Row, Transaction, params};

use super::{Sqlite, renumber};
use crate::{
    domain::{
        account::{Account, AccountState},
        snapshot::{ObservedSessions, Session, Snapshot},
        tracker::LastSeen,
    },
    store::{
        convert,
        error::StoreError,
        types::{AccountId, AccountRecord, LastSeenUpdate, RegisteredAccounts, StoredAccount},
    },
};

impl Sqlite {
    pub(in crate::store) async fn watched_accounts(&self) -> Result<Vec<Account>, StoreError> {
        let watched = self.readers.read(|connection| names(connection, "configured")).await?;
        Ok(watched.into_iter().map(|(_, account)| account).collect())
    }

    pub(in crate::store) async fn stored_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.readers.read(stored).await
    }

    pub(in crate::store) async fn account_names(&self) -> Result<Vec<(AccountId, Account)>, StoreError> {
        self.readers.read(|connection| names(connection, "true")).await
    }

    pub(in crate::store) async fn record_last_seen(
        &self,
        updates: Vec<LastSeenUpdate>,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(
                "UPDATE accounts SET listed_sent_at = coalesce(?2, listed_sent_at),
                        last_success_at = coalesce(?3, last_success_at)
                 WHERE id = ?1",
            )?;
            for LastSeenUpdate { id, listed_sent_at, last_success_at } in updates {
                let times = [listed_sent_at, last_success_at].map(|time| time.map(convert::ms));
                statement.execute((id.0, times[0], times[1]))?;
            }
            Ok(())
        })
        .await
    }
}

/// Merges the stored and the configured accounts in the order of their names, so that neither is in memory twice.
pub(super) fn register(
    tx: &Transaction<'_>,
    accounts: Vec<Account>,
) -> Result<RegisteredAccounts, StoreError> {
    let configured = accounts.into_iter().map(not_stored).collect();
    let mut registered = RegisteredAccounts { configured, left: Vec::new() };
    let outdated = match_stored(tx, &mut registered)?;
    for id in outdated.to_unconfigure {
        unconfigure(tx, id)?;
    }
    for n in outdated.to_configure {
        configure(tx, &registered.configured[n])?;
    }
    for account in registered.configured.iter_mut().filter(|account| account.id == NO_ROW) {
        account.id = insert(tx, &account.account)?;
    }
    registered.left.sort_unstable_by_key(|account| account.id);
    load_snapshots(tx, &mut registered)?;
    Ok(registered)
}

/// Rows that differ from the configuration.
#[derive(Default)]
struct Outdated {
    /// Indexes of configured accounts.
    to_configure: Vec<usize>,
    to_unconfigure: Vec<AccountId>,
}

/// Fills in the ids and records of the configured accounts that are stored, and finds the accounts that left. Only reads.
fn match_stored(tx: &Transaction<'_>, registered: &mut RegisteredAccounts) -> Result<Outdated, StoreError> {
    let RegisteredAccounts { configured, left } = registered;
    let mut by_name: Vec<usize> = (0..configured.len()).collect();
    by_name.sort_unstable_by(|&a, &b| name(&configured[a]).cmp(&name(&configured[b])));
    let mut by_name = by_name.into_iter().peekable();
    let mut outdated = Outdated::default();
    // SQLite's byte order is also the order of Rust's strings.
    let sql = format!("SELECT {COLUMNS} FROM accounts ORDER BY appid, kf_account");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let stored = (text(row, 2)?, text(row, 3)?);
        while by_name.next_if(|&n| name(&configured[n]) < stored).is_some() {}
        let is_configured: bool = row.get(4)?;
        if let Some(n) = by_name.next_if(|&n| name(&configured[n]) == stored) {
            let account = &mut configured[n];
            (account.id, account.record) = (AccountId(row.get(0)?), record(row)?);
            if !is_configured || *account.account.official_account != *text(row, 1)? {
                outdated.to_configure.push(n);
            }
        } else {
            let account = account(row)?;
            if is_configured {
                outdated.to_unconfigure.push(account.id);
            }
            if account.record.state != AccountState::Unwatched {
                left.push(account);
            }
        }
    }
    Ok(outdated)
}

/// What identifies an account.
fn name(stored: &StoredAccount) -> (&str, &str) {
    (&stored.account.appid, &stored.account.kf_account)
}

/// Registers an account and loads what is stored about it.
pub(super) fn add(tx: &Transaction<'_>, account: Account) -> Result<StoredAccount, StoreError> {
    let mut stored = not_stored(account);
    match load_record(tx, &stored.account)? {
        None => stored.id = insert(tx, &stored.account)?,
        Some((id, record)) => {
            (stored.id, stored.record) = (id, record);
            stored.snapshot = load_snapshot(tx, id)?;
            configure(tx, &stored)?;
        }
    }
    Ok(stored)
}

/// The names of the accounts that an SQL condition selects, in the order of their first registration.
fn names(connection: &Connection, condition: &str) -> Result<Vec<(AccountId, Account)>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, official_account, appid, kf_account FROM accounts WHERE {condition} ORDER BY id"
    ))?;
    let rows = statement.query_map([], |row| {
        let account = Account { official_account: row.get(1)?, appid: row.get(2)?, kf_account: row.get(3)? };
        Ok((AccountId(row.get(0)?), account))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn stored(connection: &Connection) -> Result<Vec<StoredAccount>, StoreError> {
    let mut registered = RegisteredAccounts::default();
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        registered.configured.push(account(row)?);
    }
    load_snapshots(connection, &mut registered)?;
    Ok(registered.configured)
}

const COLUMNS: &str =
    "id, official_account, appid, kf_account, configured, state, conclusion, baseline_taken, keyless,
    listed_sent_at, last_success_at";

/// The id of an account that has no row yet.
const NO_ROW: AccountId = AccountId(0);

fn not_stored(account: Account) -> StoredAccount {
    StoredAccount { id: NO_ROW, account, record: AccountRecord::default(), snapshot: Snapshot::default() }
}

fn load_record(tx: &Connection, account: &Account) -> Result<Option<(AccountId, AccountRecord)>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE appid = ?1 AND kf_account = ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query((&account.appid, &account.kf_account))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((AccountId(row.get(0)?), record(row)?)))
}

fn account(row: &Row<'_>) -> Result<StoredAccount, StoreError> {
    let account = Account { official_account: row.get(1)?, appid: row.get(2)?, kf_account: row.get(3)? };
    let (id, record) = (AccountId(row.get(0)?), record(row)?);
    Ok(StoredAccount { id, account, record, snapshot: Snapshot::default() })
}

fn record(row: &Row<'_>) -> Result<AccountRecord, StoreError> {
    let conclusion = row.get_ref(6)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    Ok(AccountRecord {
        state: convert::state(text(row, 5)?)?,
        conclusion: conclusion.map(convert::conclusion).transpose()?,
        last_seen: LastSeen {
            baseline_taken: row.get(7)?,
            keyless: row.get(8)?,
            listed_sent_at: convert::optional_time(row.get(9)?)?,
            last_success_at: convert::optional_time(row.get(10)?)?,
        },
    })
}

/// The text of a column, without a copy.
fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str, StoreError> {
    Ok(row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?)
}

/// Marks a stored account as configured under its present name.
fn configure(tx: &Transaction<'_>, stored: &StoredAccount) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE accounts SET configured = true, official_account = ?2 WHERE id = ?1")?
        .execute(params![stored.id.0, stored.account.official_account])?;
    Ok(())
}

/// Marks a stored account as no longer configured.
pub(super) fn unconfigure(tx: &Transaction<'_>, id: AccountId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE accounts SET configured = false WHERE id = ?1")?.execute([id.0])?;
    Ok(())
}

fn insert(tx: &Transaction<'_>, account: &Account) -> Result<AccountId, StoreError> {
    let id = tx
        .prepare_cached(
            // After a restore, the account may have had events that the backup lacks.
            "INSERT INTO accounts
                 (official_account, appid, kf_account, configured, state, baseline_taken, keyless, sequence)
             VALUES (?1, ?2, ?3, true, ?4, false, false, ?5 * (SELECT coalesce(max(restores), 0) FROM lease))",
        )?
        .insert(params![
            account.official_account,
            account.appid,
            account.kf_account,
            AccountRecord::default().state.as_str(),
            renumber::SEQUENCES_SKIPPED,
        ])?;
    Ok(AccountId(id))
}

fn load_snapshot(tx: &Connection, id: AccountId) -> Result<Snapshot, StoreError> {
    let mut statement = tx.prepare_cached("SELECT openid, createtime FROM sessions WHERE account = ?1")?;
    let sessions = statement.query_map([id.0], |row| {
        Ok(Session { openid: row.get::<_, String>(0)?.into(), createtime: row.get(1)? })
    })?;
    Ok(Snapshot::from(&ObservedSessions::new(sessions.collect::<Result<_, _>>()?)))
}

/// One walk over all sessions in the order of accounts; a snapshot is packed as soon as its account is complete.
fn load_snapshots(tx: &Connection, registered: &mut RegisteredAccounts) -> Result<(), StoreError> {
    let all = registered.configured.iter_mut().chain(&mut registered.left);
    let mut accounts: HashMap<i64, &mut StoredAccount> = all.map(|account| (account.id.0, account)).collect();
    let mut statement = tx.prepare_cached(
        "SELECT account, openid, createtime FROM sessions ORDER BY account, openid, createtime",
    )?;
    let mut rows = statement.query([])?;
    let mut packer = Packer::default();
    let mut current = None;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if current != Some(id) {
            packer.finish(current.and_then(|id| accounts.remove(&id)));
            current = Some(id);
        }
        packer.add(text(row, 1)?, row.get(2)?);
    }
    packer.finish(current.and_then(|id| accounts.remove(&id)));
    Ok(())
}

/// Collects the sessions of one account in buffers that the next one uses again.
#[derive(Default)]
struct Packer {
    openids: String,
    /// Where each openid ends, and the createtime.
    sessions: Vec<(usize, i64)>,
}

impl Packer {
    fn add(&mut self, openid: &str, createtime: i64) {
        self.openids.push_str(openid);
        self.sessions.push((self.openids.len(), createtime));
    }

    fn finish(&mut self, account: Option<&mut StoredAccount>) {
        if let Some(account) = account {
            let mut begin = 0;
            let sessions = self.sessions.iter().map(|&(end, createtime)| {
                let openid = self.openids[std::mem::replace(&mut begin, end)..end].into();
                Session { openid, createtime }
            });
            account.snapshot = Snapshot::from(&ObservedSessions::new(sessions.collect()));
        }
        self.openids.clear();
        self.sessions.clear();
    }
}
