//! What a run tells the store when its accounts and sinks change: the only step of a reconcile that writes.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        accounts, build_sinks,
        desired::{RunPlan, RunState},
    },
    Run,
};
use crate::{
    config::Config,
    domain::{account::Account, plan::Step},
    store::{
        AccountId, RegisteredAccounts, RegisteredSink, RegistrationUpdate, StoreError, StoredAccount,
        UpdatedRegistrations,
    },
};

/// What the store returned for the parts that start or change.
#[derive(Default)]
pub(in crate::app) struct Registered {
    /// The kf accounts that are added, by appid.
    pub(super) kf_accounts: HashMap<Arc<str>, Vec<StoredAccount>>,
    /// All desired sinks, by name.
    pub(in crate::app) sinks: HashMap<Arc<str>, RegisteredSink>,
    /// Kf accounts that left the configuration while no daemon ran.
    pub(super) left: Vec<StoredAccount>,
}

impl Run {
    /// Registers all accounts and sinks of a run that starts, in one transaction. Stored ones that are not configured are retired if that
    /// is allowed.
    pub(in crate::app) async fn register_all(
        &self,
        desired: &RunState,
        config: &Config,
        may_retire: bool,
    ) -> Result<Registered, StoreError> {
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        for configured in &config.official_accounts {
            if let Some((appid, part)) = desired.official_accounts.get_key_value(configured.appid.as_str()) {
                counts.push((Arc::clone(appid), part.kf_accounts.len()));
                all.extend(accounts::with_names(&part.config, part.in_order()));
            }
        }
        if self.id.is_first() {
            build_sinks::log_removed(&self.store.sinks().await?, &config.sinks);
        }
        let (names, sinks) = self.sinks.registrations(desired);
        let now = self.context.clock.now().wall;
        let (registered, sinks) = if may_retire {
            let registered = self.store.register(all, sinks, now).await?;
            (registered.accounts, registered.sinks)
        } else {
            let (sinks, left) = (Some(sinks), Vec::new());
            let update = RegistrationUpdate { added: all, left, sinks, keeps_other_sinks: true };
            let UpdatedRegistrations { accounts, sinks } =
                self.store.update_registrations(update, now).await?;
            (RegisteredAccounts { configured: accounts, left: Vec::new() }, sinks)
        };
        let RegisteredAccounts { configured, left } = registered;
        let sinks = names.into_iter().zip(sinks).collect();
        Ok(Registered { kf_accounts: split(configured, counts), sinks, left })
    }

    /// Registers what a plan adds and removes, in one transaction. If this fails, nothing has changed.
    pub(in crate::app) async fn register(
        &self,
        plan: &RunPlan<'_>,
        desired: &RunState,
        may_retire: bool,
    ) -> Result<Registered, StoreError> {
        let mut added: Vec<Account> = Vec::new();
        let mut counts = Vec::new();
        let mut left = Vec::new();
        for step in &plan.official_accounts {
            let before = added.len();
            let appid = match *step {
                Step::Start(appid, part) => {
                    added.extend(accounts::with_names(&part.config, part.in_order()));
                    appid
                }
                Step::Change(appid, from, to) => {
                    let new = to.kf_accounts.difference(&from.kf_accounts).cloned();
                    let removed = |kf_account: &str| {
                        from.kf_accounts.contains(kf_account) && !to.kf_accounts.contains(kf_account)
                    };
                    left.extend(self.ids(appid, removed));
                    added.extend(accounts::with_names(&to.config, new));
                    appid
                }
                Step::Restart(appid, from, to) if from.may_restart() => {
                    let removed = |kf_account: &str| !to.kf_accounts.contains(kf_account);
                    left.extend(self.ids(appid, removed));
                    added.extend(accounts::with_names(&to.config, to.in_order()));
                    appid
                }
                Step::Stop(appid, _) => {
                    left.extend(self.ids(appid, |_| true));
                    continue;
                }
                Step::Restart(..) => continue,
            };
            counts.push((Arc::clone(appid), added.len() - before));
        }
        if !may_retire {
            left.clear();
        }
        let (names, sinks) = self.sinks.registrations(desired);
        let sinks = (!plan.sinks.is_empty()).then_some(sinks);
        if added.is_empty() && left.is_empty() && sinks.is_none() {
            return Ok(Registered::default());
        }
        let update = RegistrationUpdate { added, left, sinks, keeps_other_sinks: !may_retire };
        let updated = self.store.update_registrations(update, self.context.clock.now().wall).await?;
        let sinks = names.into_iter().zip(updated.sinks).collect();
        Ok(Registered { kf_accounts: split(updated.accounts, counts), sinks, left: Vec::new() })
    }

    /// The ids of the watched kf accounts of an official account whose names `which` selects.
    fn ids(&self, appid: &str, which: impl Fn(&str) -> bool) -> Vec<AccountId> {
        let running = self.official_accounts.get(appid);
        let accounts = running.map(|running| running.official_account.accounts()).unwrap_or_default();
        let selected = accounts.iter().filter(|account| which(&account.account().kf_account));
        selected.map(|account| account.id()).collect()
    }
}

/// Splits what the store returned by official account.
fn split(
    stored: Vec<StoredAccount>,
    counts: Vec<(Arc<str>, usize)>,
) -> HashMap<Arc<str>, Vec<StoredAccount>> {
    let mut stored = stored.into_iter();
    counts.into_iter().map(|(appid, count)| (appid, stored.by_ref().take(count).collect())).collect()
}
