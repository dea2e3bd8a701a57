//! What a configuration registers: at the start, and when it is reloaded.

use super::{
    accounts::{RegisteredAccounts, StoredAccount},
    delivery::{RegisteredSink, SinkRegistration},
    ids::AccountId,
};
use crate::domain::account::Account;

/// The result of registering a whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub accounts: RegisteredAccounts,
    /// In the order given.
    pub sinks: Vec<RegisteredSink>,
}

/// How a configuration differs from the registered one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrationUpdate {
    /// Accounts that are watched from now on, each given once.
    pub added: Vec<Account>,
    /// Accounts that are no longer configured. One that is also added stays configured.
    pub left: Vec<AccountId>,
    /// All configured sinks, if any differs.
    pub sinks: Option<Vec<SinkRegistration>>,
    /// Whether sinks that are not given stay as they are. Otherwise they count as removed.
    pub keeps_other_sinks: bool,
}

/// The result of a [`RegistrationUpdate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdatedRegistrations {
    /// What is stored about the added accounts, in the order given.
    pub accounts: Vec<StoredAccount>,
    /// The sinks, in the order given; empty if none were given.
    pub sinks: Vec<RegisteredSink>,
}
