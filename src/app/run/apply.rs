//! How the official accounts of a run become the desired ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    super::{
        accounts,
        desired::{OfficialAccountPart, RunPlan},
        leaving::{Ending, LeavingGroup, LeavingTask},
        tasks::TaskName,
    },
    Registered, Run, RunningAccount, end_polls,
};
use crate::{
    domain::{plan::Step, quantity::counted, schedule_key::ScheduleKey},
    poll::OfficialAccount,
    status::WatchedAccount,
    store::StoredAccount,
    wechat::http::WechatClient,
};

/// How many official accounts a log line names.
const MAX_NAMED: usize = 3;

/// What official accounts are made of when they start or change.
pub(in crate::app) struct AccountInputs<'a> {
    pub(in crate::app) registered: Registered,
    pub(in crate::app) client: Arc<WechatClient>,
    /// Counts the ticks of each schedule.
    pub(in crate::app) ticks: &'a BTreeMap<ScheduleKey, Arc<AtomicU64>>,
}

impl AccountInputs<'_> {
    fn stored(&mut self, appid: &str) -> Vec<StoredAccount> {
        self.registered.kf_accounts.remove(appid).unwrap_or_default()
    }

    fn ticks(&self, part: &OfficialAccountPart) -> Arc<AtomicU64> {
        self.ticks.get(&part.schedule_key()).cloned().unwrap_or_default()
    }
}

impl Run {
    /// Makes the official accounts of this run equal the desired ones.
    pub(in crate::app) fn apply(
        &mut self,
        plan: &RunPlan<'_>,
        may_retire: bool,
        mut inputs: AccountInputs<'_>,
    ) {
        // Whether what leaves is recorded as unwatched.
        let (mut retired, mut silent) = (Vec::new(), Vec::new());
        for step in &plan.official_accounts {
            let left = if may_retire { &mut retired } else { &mut silent };
            match *step {
                Step::Start(appid, part) => {
                    self.start(appid, part, &inputs);
                    self.add(appid, inputs.stored(appid));
                }
                Step::Change(appid, from, to) => {
                    left.extend(self.change(appid, (from, to), &mut inputs));
                }
                Step::Restart(appid, from, to) if from.may_restart() => {
                    left.extend(self.restart(appid, (from, to), &mut inputs));
                }
                Step::Restart(appid, ..) => silent.extend(self.end_account(appid)),
                Step::Stop(appid, _) => left.extend(self.stop_account(appid)),
            }
        }
        let AccountInputs { registered, client, .. } = inputs;
        if !Arc::ptr_eq(&client, &self.factory.client()) {
            for RunningAccount { part, official_account, .. } in self.official_accounts.values() {
                self.factory.update(&client, official_account, &part.config, &part.config);
            }
        }
        self.factory.adopt(client);
        log_without_kf_accounts(&plan.official_accounts);
        let left = registered.left.into_iter().map(|stored| WatchedAccount::from_stored(stored, 0));
        retired.push(LeavingGroup { official_account: None, accounts: left.collect() });
        self.spawn_leaving(retired, Ending::Unwatched);
        self.spawn_leaving(silent, Ending::Silent);
    }

    /// Starts an official account without kf accounts.
    fn start(&mut self, appid: &Arc<str>, part: &OfficialAccountPart, inputs: &AccountInputs<'_>) {
        let (client, ticks) = (&inputs.client, inputs.ticks(part));
        let official_account =
            self.factory.official_account(client, &part.config, ticks, &self.context.metrics);
        accounts::set_discovery(&official_account, &part.config);
        let lane = self.context.queue.add_lane(Arc::clone(&self.poller));
        let running = RunningAccount { part: part.with_kf_accounts(BTreeSet::new()), official_account, lane };
        self.official_accounts.insert(Arc::clone(appid), running);
    }

    fn add(&mut self, appid: &str, stored: Vec<StoredAccount>) {
        let Some(running) = self.official_accounts.get(appid) else { return };
        let status = &running.official_account.status;
        let new = stored.into_iter().map(|stored| WatchedAccount::from_stored(stored, status.ticks()));
        status.add_kf_accounts(new.collect());
    }

    /// Changes an official account that goes on. Returns its kf accounts that are not watched any more.
    fn change(
        &mut self,
        appid: &str,
        (from, to): (&OfficialAccountPart, &OfficialAccountPart),
        inputs: &mut AccountInputs<'_>,
    ) -> Option<LeavingGroup> {
        self.add(appid, inputs.stored(appid));
        let running = self.official_accounts.get_mut(appid)?;
        let official_account = &running.official_account;
        if from.discovers_differently(to) {
            accounts::set_discovery(official_account, &to.config);
        }
        // One that was discovered since the plan was made stays if the new patterns discover it.
        let patterns = accounts::patterns(&to.config);
        let is_discovered =
            |kf_account: &str| patterns.as_ref().is_some_and(|patterns| patterns.discover(kf_account));
        let group = leave(official_account, |kf_account| {
            !to.kf_accounts.contains(kf_account)
                && (from.kf_accounts.contains(kf_account) || !is_discovered(kf_account))
        });
        self.context.queue.drop_left(running.lane);
        self.factory.update(&inputs.client, official_account, &from.config, &to.config);
        if from.schedule_key() != to.schedule_key() {
            official_account.status.follow_schedule(inputs.ticks(to));
        }
        running.part = to.with_kf_accounts(BTreeSet::new());
        Some(group)
    }

    /// Starts an official account again that is polled no more, with its tokens. Returns its kf accounts that are not watched any more.
    fn restart(
        &mut self,
        appid: &Arc<str>,
        (from, to): (&OfficialAccountPart, &OfficialAccountPart),
        inputs: &mut AccountInputs<'_>,
    ) -> Option<LeavingGroup> {
        let former = self.official_accounts.remove(appid)?;
        self.context.queue.remove_lane(former.lane);
        self.start(appid, to, inputs);
        self.add(appid, inputs.stored(appid));
        let official_account = &self.official_accounts.get(appid)?.official_account;
        self.factory.keep_tokens(&former.official_account, official_account);
        self.factory.update(&inputs.client, official_account, &from.config, &to.config);
        let is_left = |kf_account: &str| !to.kf_accounts.contains(kf_account);
        Some(leave(&former.official_account, is_left))
    }

    /// Stops polling an official account that starts again when its polls in flight have finished. Readers see it until then.
    fn end_account(&mut self, appid: &str) -> Option<LeavingGroup> {
        let running = self.official_accounts.get_mut(appid)?;
        running.part.is_ending = true;
        Some(end_polls(&self.context.queue, running))
    }

    /// Stops polling an official account. Returns its kf accounts, whose polls in flight finish.
    fn stop_account(&mut self, appid: &str) -> Option<LeavingGroup> {
        let running = self.official_accounts.remove(appid)?;
        self.context.queue.remove_lane(running.lane);
        running.official_account.set_discovery(None);
        Some(leave(&running.official_account, |_| true))
    }

    fn spawn_leaving(&mut self, mut groups: Vec<LeavingGroup>, ending: Ending) {
        groups.retain(|group| !group.accounts.is_empty());
        if groups.is_empty() {
            return;
        }
        self.leaving.insert(&groups);
        let (store, poller, done) = (self.store.clone(), Arc::clone(&self.poller), self.left_sender.clone());
        let task = LeavingTask { store, poller, groups, ending, done };
        let stop = self.polls_done.clone();
        self.tasks.spawn_until_done(TaskName::Leaving, async move {
            stop.run_until_cancelled(task.run()).await;
        });
    }
}

/// Makes sure that no new poll of these kf accounts starts, and removes them from what readers see.
fn leave(official_account: &Arc<OfficialAccount>, which: impl Fn(&str) -> bool) -> LeavingGroup {
    let watched = official_account.accounts();
    let accounts: Vec<_> =
        watched.iter().filter(|account| which(&account.account().kf_account)).cloned().collect();
    accounts.iter().for_each(|account| account.leave());
    official_account.status.remove_kf_accounts(&accounts.iter().map(|account| account.id()).collect());
    LeavingGroup { official_account: Some(Arc::clone(official_account)), accounts }
}

/// Logs which new official accounts wait for getkflist.
fn log_without_kf_accounts(steps: &[Step<'_, Arc<str>, OfficialAccountPart>]) {
    let without = steps.iter().filter_map(|step| match step {
        Step::Start(_, part) if part.kf_accounts.is_empty() => Some(part.config.name.as_str()),
        _ => None,
    });
    let names: Vec<&str> = without.collect();
    if !names.is_empty() {
        let examples = names[..names.len().min(MAX_NAMED)].join(", ");
        tracing::info!(
            official_accounts = names.len(),
            examples,
            "No kf account of {} is known yet: waiting for getkflist",
            counted(names.len() as u64, "official account")
        );
    }
}
