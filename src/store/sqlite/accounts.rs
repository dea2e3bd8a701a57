//! Bringing accounts in, at start and later, and noting when they were seen.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, Row, Transaction, params};

use super::{convert, renumber};
use crate::{
    domain::{
        account::{Account, AccountState},
        snapshot::{Observed, Session, Snapshot},
        watch::Sighting,
    },
    store::{
        error::StoreError,
        types::{AccountRow, Record, Registered, Seen, StoredAccount},
    },
};

pub(in crate::store) fn register(
    tx: &Transaction<'_>,
    accounts: &[Account],
) -> Result<Registered, StoreError> {
    let mut stored = load_accounts(tx)?;
    let configured = accounts
        .iter()
        .map(|account| {
            let known = stored.remove(&(account.appid.clone(), account.kf_account.clone()));
            bring_in(tx, account, known)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut left = Vec::new();
    for row in stored.into_values() {
        if row.configured {
            tx.prepare_cached("UPDATE accounts SET configured = false WHERE id = ?1")?
                .execute([row.stored.id.0])?;
        }
        if row.stored.record.state != AccountState::Unwatched {
            left.push(row.stored);
        }
    }
    left.sort_unstable_by_key(|account| account.id);
    let mut registered = Registered { configured, left };
    load_snapshots(tx, &mut registered)?;
    Ok(registered)
}

pub(in crate::store) fn add(
    tx: &Transaction<'_>,
    accounts: &[Account],
) -> Result<Vec<StoredAccount>, StoreError> {
    accounts
        .iter()
        .map(|account| {
            let mut known = load_account(tx, account)?;
            if let Some(known) = &mut known {
                known.stored.snapshot = load_snapshot(tx, known.stored.id)?;
            }
            bring_in(tx, account, known)
        })
        .collect()
}

pub(in crate::store) fn watched(connection: &Connection) -> Result<Vec<Account>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT official_account, appid, kf_account FROM accounts WHERE configured ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Account { official_account: row.get(0)?, appid: row.get(1)?, kf_account: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// All accounts that were ever brought in, for reading.
pub(in crate::store) fn stored(connection: &Connection) -> Result<Vec<StoredAccount>, StoreError> {
    let configured = load_accounts(connection)?.into_values().map(|row| row.stored).collect();
    let mut registered = Registered { configured, left: Vec::new() };
    load_snapshots(connection, &mut registered)?;
    Ok(registered.configured)
}

pub(in crate::store) fn record_sightings(tx: &Transaction<'_>, sightings: &[Seen]) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached(
        "UPDATE accounts SET listed_sent_at = coalesce(?2, listed_sent_at),
                last_success_at = coalesce(?3, last_success_at)
         WHERE id = ?1",
    )?;
    for Seen { id, listed_sent_at, last_success_at } in sightings {
        statement.execute((id.0, listed_sent_at.map(convert::ms), last_success_at.map(convert::ms)))?;
    }
    Ok(())
}

struct AccountsRow {
    stored: StoredAccount,
    configured: bool,
}

const COLUMNS: &str =
    "id, official_account, appid, kf_account, configured, state, conclusion, baseline_taken, keyless,
    listed_sent_at, last_success_at";

/// Appid and kf account.
type Key = (Arc<str>, Arc<str>);

fn load_accounts(tx: &Connection) -> Result<HashMap<Key, AccountsRow>, StoreError> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts"))?;
    let mut rows = statement.query([])?;
    let mut accounts = HashMap::new();
    while let Some(row) = rows.next()? {
        let loaded = account(row)?;
        let Account { appid, kf_account, .. } = &loaded.stored.account;
        accounts.insert((appid.clone(), kf_account.clone()), loaded);
    }
    Ok(accounts)
}

fn load_account(tx: &Connection, account: &Account) -> Result<Option<AccountsRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE appid = ?1 AND kf_account = ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query((&account.appid, &account.kf_account))?;
    rows.next()?.map(self::account).transpose()
}

fn account(row: &Row<'_>) -> Result<AccountsRow, StoreError> {
    let account = Account { official_account: row.get(1)?, appid: row.get(2)?, kf_account: row.get(3)? };
    let conclusion: Option<String> = row.get(6)?;
    let record = Record {
        state: convert::state(&row.get::<_, String>(5)?)?,
        conclusion: conclusion.as_deref().map(convert::conclusion).transpose()?,
        sighting: Sighting {
            baseline_taken: row.get(7)?,
            keyless: row.get(8)?,
            listed_sent_at: convert::optional_time(row.get(9)?)?,
            last_success_at: convert::optional_time(row.get(10)?)?,
        },
    };
    let stored =
        StoredAccount { id: AccountRow(row.get(0)?), account, record, snapshot: Snapshot::default() };
    Ok(AccountsRow { stored, configured: row.get(4)? })
}

/// The stored account under its configured name, and marked as configured: its snapshot is in use from now on.
fn bring_in(
    tx: &Transaction<'_>,
    account: &Account,
    known: Option<AccountsRow>,
) -> Result<StoredAccount, StoreError> {
    let Some(AccountsRow { mut stored, configured }) = known else {
        return insert(tx, account);
    };
    if !configured || stored.account.official_account != account.official_account {
        tx.prepare_cached("UPDATE accounts SET configured = true, official_account = ?2 WHERE id = ?1")?
            .execute(params![stored.id.0, account.official_account])?;
    }
    // The configuration's strings are shared by all accounts of one official account; the loaded ones are not.
    stored.account = account.clone();
    Ok(stored)
}

fn insert(tx: &Transaction<'_>, account: &Account) -> Result<StoredAccount, StoreError> {
    let record = Record::default();
    let id = tx
        .prepare_cached(
            // It may have come before, after the backup that was restored, and have had events then.
            "INSERT INTO accounts
                 (official_account, appid, kf_account, configured, state, baseline_taken, keyless, sequence)
             VALUES (?1, ?2, ?3, true, ?4, false, false, ?5 * (SELECT coalesce(max(restores), 0) FROM lease))",
        )?
        .insert(params![
            account.official_account,
            account.appid,
            account.kf_account,
            record.state.as_str(),
            renumber::SEQUENCES_SKIPPED,
        ])?;
    Ok(StoredAccount { id: AccountRow(id), account: account.clone(), record, snapshot: Snapshot::default() })
}

fn load_snapshot(tx: &Connection, id: AccountRow) -> Result<Snapshot, StoreError> {
    let mut statement = tx.prepare_cached("SELECT openid, createtime FROM sessions WHERE account = ?1")?;
    let sessions = statement.query_map([id.0], |row| {
        Ok(Session { openid: row.get::<_, String>(0)?.into(), createtime: row.get(1)? })
    })?;
    Ok(Snapshot::from(&Observed::new(sessions.collect::<Result<_, _>>()?)))
}

/// One walk over all sessions in the order of accounts; a snapshot is packed as soon as its account is complete.
fn load_snapshots(tx: &Connection, registered: &mut Registered) -> Result<(), StoreError> {
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
        let openid = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        packer.add(openid, row.get(2)?);
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
            account.snapshot = Snapshot::from(&Observed::new(sessions.collect()));
        }
        self.openids.clear();
        self.sessions.clear();
    }
}
