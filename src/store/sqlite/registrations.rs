//! Registers configured accounts and sinks: all of them at the start, and what differs after a reload.

use jiff::Timestamp;

use super::{Sqlite, accounts, cursors};
use crate::{
    domain::account::Account,
    store::{
        error::StoreError,
        types::{Registered, RegistrationUpdate, SinkRegistration, UpdatedRegistrations},
    },
};

impl Sqlite {
    pub(in crate::store) async fn register(
        &self,
        accounts: Vec<Account>,
        sinks: Option<Vec<SinkRegistration>>,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        self.write(move |tx| {
            let accounts = accounts::register(tx, accounts)?;
            let sinks = sinks.map(|sinks| cursors::register(tx, &sinks, Some(now))).transpose()?;
            Ok(Registered { accounts, sinks: sinks.unwrap_or_default() })
        })
        .await
    }

    pub(in crate::store) async fn update_registrations(
        &self,
        update: RegistrationUpdate,
        now: Timestamp,
    ) -> Result<UpdatedRegistrations, StoreError> {
        self.write(move |tx| {
            // An account may return under another name of its official account, so the added ones come last.
            for id in update.left {
                accounts::unconfigure(tx, id)?;
            }
            let added = update.added.into_iter().map(|account| accounts::add(tx, account));
            let accounts = added.collect::<Result<_, _>>()?;
            let remove_at = (!update.keeps_other_sinks).then_some(now);
            let sinks = update.sinks.map(|sinks| cursors::register(tx, &sinks, remove_at)).transpose()?;
            Ok(UpdatedRegistrations { accounts, sinks: sinks.unwrap_or_default() })
        })
        .await
    }
}
