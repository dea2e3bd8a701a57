//! Registers configured accounts and sinks: all of them at the start, and what differs after a reload.

use jiff::Timestamp;

use super::{accounts, cursors};
use crate::{
    domain::account::Account,
    store::{
        Store,
        error::StoreError,
        types::{
            Registered, RegisteredAccounts, RegisteredSink, RegistrationUpdate, SinkRegistration,
            StoredAccount, UpdatedRegistrations,
        },
    },
};

impl Store {
    /// Registers everything that is configured, as [`register_accounts`](Self::register_accounts) and
    /// [`register_sinks`](Self::register_sinks) do. All or nothing; idempotent.
    pub async fn register(
        &self,
        accounts: Vec<Account>,
        sinks: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        self.sqlite
            .write(move |tx| {
                let accounts = accounts::register(tx, accounts)?;
                Ok(Registered { accounts, sinks: cursors::register(tx, &sinks, now)? })
            })
            .await
    }

    /// Registers what a new configuration changes. Accounts are added as [`add_accounts`](Self::add_accounts) does. Accounts that
    /// left are marked as not configured and keep their state until [`remove_accounts`](Self::remove_accounts) commits that they are
    /// unwatched; if that does not happen, the next start finds them in [`RegisteredAccounts::left`]. One that is added again before
    /// continues from what is stored. Sinks are registered as [`register_sinks`](Self::register_sinks) does: a new one that starts
    /// now gets the first event that is committed after this, and none before.
    ///
    /// All or nothing; idempotent; skips unknown accounts among those that left. The cost depends on what changes, not on the
    /// number of accounts.
    pub async fn update_registrations(
        &self,
        update: RegistrationUpdate,
        now: Timestamp,
    ) -> Result<UpdatedRegistrations, StoreError> {
        self.sqlite
            .write(move |tx| {
                // An account may return under another name of its official account, so the added ones come last.
                for id in update.left {
                    accounts::unconfigure(tx, id)?;
                }
                let added = update.added.into_iter().map(|account| accounts::add(tx, account));
                let accounts = added.collect::<Result<_, _>>()?;
                let sinks = update.sinks.map(|sinks| cursors::register(tx, &sinks, now)).transpose()?;
                Ok(UpdatedRegistrations { accounts, sinks: sinks.unwrap_or_default() })
            })
            .await
    }

    /// Registers the configured accounts, each given once: inserts new ones, updates names of official accounts, and loads
    /// what is stored about all accounts that concern the daemon. Idempotent.
    pub async fn register_accounts(&self, accounts: Vec<Account>) -> Result<RegisteredAccounts, StoreError> {
        self.sqlite.write(move |tx| accounts::register(tx, accounts)).await
    }

    /// Registers the configured sinks and returns them in the same order. A new sink starts where its registration says;
    /// the others keep their cursors. Stored sinks that are not given count as removed from `now` on. Idempotent.
    pub async fn register_sinks(
        &self,
        registrations: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Vec<RegisteredSink>, StoreError> {
        self.sqlite.write(move |tx| cursors::register(tx, &registrations, now)).await
    }

    /// Registers additional accounts, each given once, and leaves the present ones as they are. Inserts new ones and loads
    /// what is stored about the others. Returns them in the same order. All or nothing; idempotent.
    pub async fn add_accounts(&self, accounts: Vec<Account>) -> Result<Vec<StoredAccount>, StoreError> {
        let added = RegistrationUpdate { added: accounts, ..RegistrationUpdate::default() };
        Ok(self.update_registrations(added, Timestamp::UNIX_EPOCH).await?.accounts)
    }
}
