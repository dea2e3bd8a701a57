//! Accounts: loads them, commits their polls, and stores when they were last seen.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use tokio_postgres::Row;

use super::{Shard, column, group::AfterCommit};
use crate::{
    domain::{
        account::Account,
        snapshot::{ObservedSessions, Session, Snapshot},
        tracker::LastSeen,
    },
    store::{
        StoreError,
        accounts::RenderedCommit,
        convert,
        types::{AccountId, AccountRecord, Committed, LastSeenUpdate, PollCommit, StoredAccount},
    },
};

/// Accounts with their records and their sessions. A condition follows.
macro_rules! stored_accounts {
    ($condition:expr) => {
        concat!(
            "SELECT a.account, a.official_account, a.appid, a.kf_account, r.state, r.conclusion, r.baseline_taken,
                    r.keyless, r.listed_sent_at, r.last_success_at, s.openids, s.createtimes
             FROM accounts a JOIN records r USING (account)
             LEFT JOIN LATERAL (
                 SELECT array_agg(openid) AS openids, array_agg(createtime) AS createtimes FROM sessions
                 WHERE sessions.account = a.account
             ) s ON true
             WHERE a.shard = $1 AND ",
            $condition,
            " ORDER BY a.account"
        )
    };
}
pub(super) use stored_accounts;

impl Shard {
    pub(in crate::store) async fn watched_accounts(&self) -> Result<Vec<Account>, StoreError> {
        let sql = "SELECT official_account, appid, kf_account FROM accounts WHERE shard = $1 AND configured ORDER BY account";
        self.read(sql, &[]).await?.iter().map(|row| account(row, 0)).collect()
    }

    pub(in crate::store) async fn stored_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.read(stored_accounts!("true"), &[]).await?.iter().map(stored).collect()
    }

    pub(in crate::store) async fn account_names(&self) -> Result<Vec<(AccountId, Account)>, StoreError> {
        let sql = "SELECT account, official_account, appid, kf_account FROM accounts WHERE shard = $1 ORDER BY account";
        let rows = self.read(sql, &[]).await?;
        rows.iter().map(|row| Ok((AccountId(column(row, 0)?), account(row, 1)?))).collect()
    }

    pub(in crate::store) async fn record_last_seen(
        &self,
        updates: Vec<LastSeenUpdate>,
    ) -> Result<(), StoreError> {
        let accounts: Vec<i64> = updates.iter().map(|update| update.id.0).collect();
        let listed: Vec<Option<i64>> =
            updates.iter().map(|update| update.listed_sent_at.map(convert::ms)).collect();
        let succeeded: Vec<Option<i64>> =
            updates.iter().map(|update| update.last_success_at.map(convert::ms)).collect();
        // A commit may overtake this on the other connection, so times only rise.
        let sql = fenced!(
            // A record that a commit is changing gets newer times from it. To wait for it could be a deadlock.
            "free AS (
                 SELECT account FROM records WHERE account = ANY ($4) AND shard = $1 AND EXISTS (SELECT FROM mine)
                 FOR NO KEY UPDATE SKIP LOCKED
             ), updated AS (
                 UPDATE records r SET listed_sent_at = greatest(w.listed_sent_at, r.listed_sent_at),
                     last_success_at = greatest(w.last_success_at, r.last_success_at)
                 FROM free JOIN unnest($4::bigint[], $5::bigint[], $6::bigint[]) w (account, listed_sent_at, last_success_at)
                     USING (account)
                 WHERE r.account = w.account) ",
            is_owner!()
        );
        self.write_async(sql, &[&accounts, &listed, &succeeded]).await?;
        Ok(())
    }

    pub(in crate::store) async fn commit_poll(
        &self,
        rendered: RenderedCommit,
    ) -> Result<Committed, StoreError> {
        self.database.writer.commit(&self.owned, rendered, AfterCommit::Stays).await
    }

    pub(in crate::store) async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        let removals = leaving.into_iter().map(|commit| async {
            let rendered = RenderedCommit::unlimited(commit);
            match self.database.writer.commit(&self.owned, rendered, AfterCommit::Leaves).await {
                Ok(_) | Err(StoreError::UnknownAccount) => Ok(()),
                Err(error) => Err(error),
            }
        });
        try_join_all(removals).await?;
        self.store_weight().await
    }
}

/// An account from three columns.
fn account(row: &Row, first_column: usize) -> Result<Account, StoreError> {
    Ok(Account {
        official_account: column::<&str>(row, first_column)?.into(),
        appid: column::<&str>(row, first_column + 1)?.into(),
        kf_account: column::<&str>(row, first_column + 2)?.into(),
    })
}

/// An account from a row of `stored_accounts!`.
pub(super) fn stored(row: &Row) -> Result<StoredAccount, StoreError> {
    let conclusion: Option<&str> = column(row, 5)?;
    Ok(StoredAccount {
        id: AccountId(column(row, 0)?),
        account: account(row, 1)?,
        record: AccountRecord {
            state: convert::state(column(row, 4)?)?,
            conclusion: conclusion.map(convert::conclusion).transpose()?,
            last_seen: LastSeen {
                baseline_taken: column(row, 6)?,
                keyless: column(row, 7)?,
                listed_sent_at: convert::optional_time(column(row, 8)?)?,
                last_success_at: convert::optional_time(column(row, 9)?)?,
            },
        },
        snapshot: snapshot(row)?,
    })
}

fn snapshot(row: &Row) -> Result<Snapshot, StoreError> {
    let openids: Option<Vec<&str>> = column(row, 10)?;
    let createtimes: Option<Vec<i64>> = column(row, 11)?;
    let sessions = openids.unwrap_or_default().into_iter().zip(createtimes.unwrap_or_default());
    let sessions = sessions.map(|(openid, createtime)| Session { openid: openid.into(), createtime });
    Ok(Snapshot::from(&ObservedSessions::new(sessions.collect())))
}

/// What identifies accounts, with their places in a list.
pub(super) fn by_name(accounts: &[Account]) -> HashMap<(&str, &str), usize> {
    accounts.iter().enumerate().map(|(n, account)| ((&*account.appid, &*account.kf_account), n)).collect()
}
