//! Registers configured accounts and sinks: all of them at the start, and what differs after a reload.

use jiff::Timestamp;

use super::{
    Shard,
    accounts::{by_name, stored, stored_accounts},
    column, sinks,
};
use crate::{
    domain::{
        account::{Account, AccountState},
        sink_state::BY_OPERATOR,
    },
    store::{
        StoreError, convert,
        types::{
            LogPosition, Registered, RegisteredAccounts, RegisteredSink, RegistrationUpdate,
            SinkRegistration, StartPosition, StoredAccount, UpdatedRegistrations,
        },
    },
};

/// Marks accounts and sinks as configured or not, and adds those that are new. One statement, so that all or nothing is registered.
const REGISTER: &str = fenced!(
    "given AS (
         SELECT * FROM unnest($4::text[], $5::text[], $6::text[]) g (official_account, appid, kf_account)
     ), unconfigured AS (
         UPDATE accounts a SET configured = false
         WHERE a.shard = $1 AND a.configured AND ($7::bigint[] IS NULL OR a.account = ANY ($7))
             AND (a.appid, a.kf_account) NOT IN (SELECT appid, kf_account FROM given)
             AND EXISTS (SELECT FROM mine)
     ), configured AS (
         INSERT INTO accounts AS a (shard, official_account, appid, kf_account, configured)
         SELECT $1, g.official_account, g.appid, g.kf_account, true FROM given g WHERE EXISTS (SELECT FROM mine)
         ON CONFLICT (appid, kf_account) DO UPDATE SET configured = true, official_account = excluded.official_account
         WHERE NOT a.configured OR a.official_account <> excluded.official_account
         RETURNING a.account
     ), recorded AS (
         -- After a restore, the account may have had events that the backup lacks.
         INSERT INTO records (account, shard, state, sequence)
         SELECT account, $1, $8, (SELECT restores * 1000000::bigint FROM cluster) FROM configured
         ON CONFLICT DO NOTHING
     ), removed AS (
         UPDATE sinks SET removed_at = $9
         WHERE $10 AND removed_at IS NULL AND name <> ALL ($11::text[]) AND EXISTS (SELECT FROM mine)
     ), named AS (
         INSERT INTO sinks AS s (name, destination)
         SELECT w.name, w.destination FROM unnest($11::text[], $12::text[]) w (name, destination)
         WHERE EXISTS (SELECT FROM mine)
         ON CONFLICT (name) DO UPDATE SET removed_at = NULL, destination = excluded.destination,
             stopped_at = CASE WHEN s.destination IS NOT DISTINCT FROM excluded.destination OR s.stopped_reason = $14
                 THEN s.stopped_at END,
             stopped_reason = CASE WHEN s.destination IS NOT DISTINCT FROM excluded.destination OR s.stopped_reason = $14
                 THEN s.stopped_reason END,
             suspended_at = CASE WHEN s.destination IS NOT DISTINCT FROM excluded.destination OR s.stopped_reason = $14
                 THEN s.suspended_at END
     ), started AS (
         INSERT INTO cursors (sink, shard, position)
         SELECT w.name, $1, CASE WHEN w.starts_now THEN
             (SELECT ",
    last_id!(),
    " FROM shards s WHERE s.shard = $1)
             ELSE 0 END
         FROM unnest($11::text[], $13::boolean[]) w (name, starts_now) WHERE EXISTS (SELECT FROM mine)
         ON CONFLICT DO NOTHING
     ) ",
    is_owner!()
);

/// Which stored accounts are no longer configured.
enum Leaving {
    /// All that are not given.
    Others,
    /// These, as far as they are not given.
    Only(Vec<i64>),
}

impl Shard {
    pub(in crate::store) async fn register(
        &self,
        accounts: Vec<Account>,
        sinks: Option<Vec<SinkRegistration>>,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        let given = sinks.as_deref().map(|sinks| (sinks, true));
        self.store_registrations(&accounts, Leaving::Others, given, now).await?;
        let mut registered = RegisteredAccounts::default();
        let mut configured: Vec<Option<StoredAccount>> = vec![None; accounts.len()];
        let by_name = by_name(&accounts);
        for row in self.read(stored_accounts!("(a.configured OR r.state <> 'unwatched')"), &[]).await? {
            let account = stored(&row)?;
            match by_name.get(&(&*account.account.appid, &*account.account.kf_account)) {
                Some(&n) => configured[n] = Some(account),
                None if account.record.state != AccountState::Unwatched => {
                    registered.left.push(account);
                }
                None => {}
            }
        }
        registered.configured = configured.into_iter().flatten().collect();
        Ok(Registered { accounts: registered, sinks: self.registered_sinks(sinks).await? })
    }

    pub(in crate::store) async fn update_registrations(
        &self,
        update: RegistrationUpdate,
        now: Timestamp,
    ) -> Result<UpdatedRegistrations, StoreError> {
        let RegistrationUpdate { added, left, sinks, keeps_other_sinks } = update;
        let left = Leaving::Only(left.into_iter().map(|id| id.0).collect());
        let given = sinks.as_deref().map(|sinks| (sinks, !keeps_other_sinks));
        self.store_registrations(&added, left, given, now).await?;
        let mut accounts: Vec<Option<StoredAccount>> = vec![None; added.len()];
        let by_name = by_name(&added);
        let appids: Vec<&str> = added.iter().map(|account| &*account.appid).collect();
        let kf_accounts: Vec<&str> = added.iter().map(|account| &*account.kf_account).collect();
        let sql =
            stored_accounts!("(a.appid, a.kf_account) IN (SELECT * FROM unnest($2::text[], $3::text[]))");
        for row in self.read(sql, &[&appids, &kf_accounts]).await? {
            let account = stored(&row)?;
            if let Some(&n) = by_name.get(&(&*account.account.appid, &*account.account.kf_account)) {
                accounts[n] = Some(account);
            }
        }
        let accounts = accounts.into_iter().flatten().collect();
        Ok(UpdatedRegistrations { accounts, sinks: self.registered_sinks(sinks).await? })
    }

    /// `sinks` come with whether others are removed.
    async fn store_registrations(
        &self,
        accounts: &[Account],
        leaving: Leaving,
        sinks: Option<(&[SinkRegistration], bool)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let official_accounts: Vec<&str> =
            accounts.iter().map(|account| &*account.official_account).collect();
        let appids: Vec<&str> = accounts.iter().map(|account| &*account.appid).collect();
        let kf_accounts: Vec<&str> = accounts.iter().map(|account| &*account.kf_account).collect();
        let leaving = match leaving {
            Leaving::Others => None,
            Leaving::Only(accounts) => Some(accounts),
        };
        let (sinks, removes_others) = sinks.unwrap_or_default();
        let names: Vec<&str> = sinks.iter().map(|sink| &*sink.name).collect();
        let destinations: Vec<Option<&str>> = sinks.iter().map(|sink| sink.destination.as_deref()).collect();
        let start_now: Vec<bool> = sinks.iter().map(|sink| sink.start == StartPosition::Now).collect();
        self.write_durably(
            REGISTER,
            &[
                &official_accounts,
                &appids,
                &kf_accounts,
                &leaving,
                &AccountState::default().as_str(),
                &convert::ms(now),
                &removes_others,
                &names,
                &destinations,
                &start_now,
                &BY_OPERATOR,
            ],
        )
        .await?;
        self.store_weight().await
    }

    /// Stores how many kf accounts the shard has, by which replicas balance the shards.
    pub(super) async fn store_weight(&self) -> Result<(), StoreError> {
        let sql = fenced!(
            "weighed AS (
                 UPDATE shards s SET weight = c.configured
                 FROM (SELECT count(*) AS configured FROM accounts WHERE shard = $1 AND configured) c
                 WHERE s.shard IN (SELECT shard FROM mine) AND s.weight <> c.configured) ",
            is_owner!()
        );
        self.write_durably(sql, &[]).await?;
        Ok(())
    }

    /// Sinks in the order given.
    async fn registered_sinks(
        &self,
        sinks: Option<Vec<SinkRegistration>>,
    ) -> Result<Vec<RegisteredSink>, StoreError> {
        let names: Vec<String> = sinks.unwrap_or_default().into_iter().map(|sink| sink.name).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT c.position, s.stopped_reason, s.suspended_at IS NOT NULL
                   FROM unnest($2::text[]) WITH ORDINALITY w (name, n) JOIN sinks s USING (name)
                   JOIN cursors c ON c.sink = s.name AND c.shard = $1 ORDER BY w.n";
        let rows = self.read(sql, &[&names]).await?;
        let registered = rows.iter().map(|row| {
            Ok(RegisteredSink { cursor: LogPosition(column(row, 0)?), state: sinks::state(row, 1)? })
        });
        registered.collect()
    }
}
