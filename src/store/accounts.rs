//! Accounts: how they are registered, what their polls commit, and what is stored about them.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Store, StoreError,
    types::{
        AccountId, Committed, LastSeenUpdate, PollCommit, Registered, RegisteredAccounts, RegisteredSink,
        RegistrationUpdate, SinkRegistration, StoredAccount, UpdatedRegistrations,
    },
};
use crate::domain::{account::Account, event::EventDraft};

/// Events that are rendered and wait for their commit: some three megabytes. The first poll of a kf account has events for
/// all its sessions; one with more events than this limit waits until no other is rendered.
pub(super) const MAX_RENDERED_EVENTS: usize = 4096;

impl Store {
    /// Registers everything that is configured, as [`register_accounts`](Self::register_accounts) and
    /// [`register_sinks`](Self::register_sinks) do. All or nothing; idempotent.
    pub async fn register(
        &self,
        accounts: Vec<Account>,
        sinks: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        on_backend!(self, store => store.register(accounts, Some(sinks), now).await)
    }

    /// Registers what a new configuration changes. Accounts are added as [`add_accounts`](Self::add_accounts) does. Accounts that
    /// left are marked as not configured and keep their state until [`remove_accounts`](Self::remove_accounts) commits that they are
    /// unwatched; if that does not happen, the next start finds them in [`RegisteredAccounts::left`]. One that is added again before
    /// continues from what is stored. Sinks are registered as [`register_sinks`](Self::register_sinks) does, except that others may be
    /// [kept](RegistrationUpdate::keeps_other_sinks): a new one that starts now gets the first event that is committed after this, and
    /// none before.
    ///
    /// All or nothing; idempotent; skips unknown accounts among those that left. The cost depends on what changes, not on the
    /// number of accounts.
    pub async fn update_registrations(
        &self,
        update: RegistrationUpdate,
        now: Timestamp,
    ) -> Result<UpdatedRegistrations, StoreError> {
        on_backend!(self, store => store.update_registrations(update, now).await)
    }

    /// Registers the configured accounts, each given once: inserts new ones, updates names of official accounts, and loads
    /// what is stored about all accounts that concern the daemon. Idempotent.
    pub async fn register_accounts(&self, accounts: Vec<Account>) -> Result<RegisteredAccounts, StoreError> {
        let registered =
            on_backend!(self, store => store.register(accounts, None, Timestamp::UNIX_EPOCH).await);
        Ok(registered?.accounts)
    }

    /// Registers the configured sinks and returns them in the same order. A new sink starts where its registration says;
    /// the others keep their cursors. Stored sinks that are not given count as removed from `now` on. Idempotent.
    pub async fn register_sinks(
        &self,
        registrations: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Vec<RegisteredSink>, StoreError> {
        let update = RegistrationUpdate { sinks: Some(registrations), ..RegistrationUpdate::default() };
        Ok(self.update_registrations(update, now).await?.sinks)
    }

    /// Registers additional accounts, each given once, and leaves the present ones as they are. Inserts new ones and loads
    /// what is stored about the others. Returns them in the same order. All or nothing; idempotent.
    pub async fn add_accounts(&self, accounts: Vec<Account>) -> Result<Vec<StoredAccount>, StoreError> {
        let update = RegistrationUpdate { added: accounts, ..RegistrationUpdate::default() };
        Ok(self.update_registrations(update, Timestamp::UNIX_EPOCH).await?.accounts)
    }

    /// The accounts that were registered and have not left since, in the order of their first registration.
    pub async fn watched_accounts(&self) -> Result<Vec<Account>, StoreError> {
        on_backend!(self, store => store.watched_accounts().await)
    }

    /// All accounts that were ever registered, as they are stored.
    pub async fn stored_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        on_backend!(self, store => store.stored_accounts().await)
    }

    /// The names of all accounts that were ever registered. They may have events, also if they are no longer watched.
    pub async fn account_names(&self) -> Result<Vec<(AccountId, Account)>, StoreError> {
        on_backend!(self, store => store.account_names().await)
    }

    /// Stores when accounts whose polls changed nothing were last seen. Idempotent; skips unknown accounts.
    pub async fn record_last_seen(&self, updates: Vec<LastSeenUpdate>) -> Result<(), StoreError> {
        on_backend!(self, store => store.record_last_seen(updates).await)
    }

    /// Commits what one poll changed: numbers and appends its events, applies them to the stored snapshot, and replaces the
    /// account's record. All or nothing.
    ///
    /// A change that the stored snapshot or state already shows makes no event. So a commit whose result was lost (because
    /// its future was dropped, for example) can be repeated.
    pub async fn commit_poll(&self, commit: PollCommit) -> Result<Committed, StoreError> {
        let events = commit.changes.len().min(MAX_RENDERED_EVENTS) as u32;
        // Released when the step has been applied.
        let permits = Arc::clone(&self.rendering).acquire_many_owned(events).await;
        let rendered = RenderedCommit::new(commit, permits.ok());
        on_backend!(self, store => store.commit_poll(rendered).await)
    }

    /// Commits the last changes of accounts that leave, each as [`commit_poll`](Self::commit_poll) does, and marks them as
    /// not configured: [`watched_accounts`](Self::watched_accounts) no longer returns them, and their snapshots expire. Each
    /// account is all or nothing; a call that fails can be repeated. Skips unknown accounts.
    pub async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        on_backend!(self, store => store.remove_accounts(leaving).await)
    }
}

/// A commit with its events, which only lack their numbers.
#[derive(Debug)]
pub(super) struct RenderedCommit {
    pub(super) commit: PollCommit,
    /// One for each change.
    pub(super) drafts: Vec<EventDraft>,
    /// Limits how many events are in memory.
    _permits: Option<OwnedSemaphorePermit>,
}

impl RenderedCommit {
    /// Renders the events of the changes. Called outside of the writer, which is the bottleneck.
    fn new(commit: PollCommit, permits: Option<OwnedSemaphorePermit>) -> Self {
        let drafts = commit.changes.iter().map(|change| EventDraft::new(&commit.account, change)).collect();
        Self { commit, drafts, _permits: permits }
    }

    /// The same without a limit, where there are few events.
    pub(super) fn unlimited(commit: PollCommit) -> Self {
        Self::new(commit, None)
    }
}
