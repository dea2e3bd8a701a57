//! The simulated official accounts, kf accounts and components. Every account has its own lock. No lock lives across an
//! await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::api_call::ApiCall;
use super::clock::duration_ms;
use super::component::{Authorization, Component, Tickets};
use super::customers::Customers;
use super::in_flight::InFlightCounter;
use super::kf_account::{DepartingSession, KfAccount, KfAccountState, Session};
use super::ledger::{LedgerWriter, TransferRecord};
use super::quota::DayQuota;
use super::random::{RefreshTokenGenerator, derived_seed};
use super::scenario::{
    CustomerFlow, KfState, OfficialAccountScript, ResponseStyle, Scenario, TransferPolicy,
};
use super::token::{TokenIssuer, TokenLifetimes};
use super::{lock, read, write};

/// The id of the first kf account, as at WeChat.
const FIRST_KF_ID: usize = 1001;
/// The number in the tokens of the first component, above the numbers of all official accounts.
const FIRST_COMPONENT_NUMBER: usize = 0x8000_0000;

#[derive(Debug)]
pub(super) struct World {
    pub(super) start_ms: i64,
    seed: u64,
    customers: Arc<CustomerFlow>,
    official_accounts: Vec<OfficialAccount>,
    by_appid: HashMap<Box<str>, usize>,
    components: Vec<Component>,
}

#[derive(Debug)]
pub(super) struct OfficialAccount {
    pub(super) name: Box<str>,
    pub(super) appid: Arc<str>,
    pub(super) secret: Mutex<Box<str>>,
    pub(super) style: ResponseStyle,
    pub(super) token_issuer: Mutex<TokenIssuer>,
    /// What it grants to its component. None without a component.
    pub(super) authorization: Option<Mutex<Authorization>>,
    /// The invalid token that the operator's token server returns while it is broken.
    pub(super) stale_token: Mutex<Option<Box<str>>>,
    pub(super) session_list_quota: Mutex<DayQuota>,
    pub(super) secret_frozen: AtomicBool,
    pub(super) address_refused: AtomicBool,
    pub(super) requests: [AtomicU64; ApiCall::ALL.len()],
    pub(super) in_flight: InFlightCounter,
    kf_accounts: RwLock<KfAccounts>,
    transfers: TransferPolicy,
    /// Indices of the kf accounts among which sessions are transferred. Empty without transfers.
    transfer_targets: Vec<usize>,
    transfer_lock: Mutex<()>,
}

/// The kf accounts of an official account, in the order in which they were added.
#[derive(Debug, Default)]
struct KfAccounts {
    list: Vec<Arc<KfAccount>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl World {
    /// Creates the accounts of the scenario with their initial sessions.
    pub(super) fn new(scenario: &Scenario, start_ms: i64, ledger: &LedgerWriter) -> Self {
        let mut world = World {
            start_ms,
            seed: scenario.seed,
            customers: Arc::new(scenario.customers.clone()),
            official_accounts: Vec::with_capacity(scenario.official_accounts.len()),
            by_appid: HashMap::new(),
            components: Vec::with_capacity(scenario.components.len()),
        };
        for (number, script) in scenario.official_accounts.iter().enumerate() {
            let token_issuer = world.token_issuer(scenario, number, &script.appid);
            let official = OfficialAccount::new(scenario, script, token_issuer);
            for (index, kf) in script.kf_accounts.iter().enumerate() {
                let flow = kf.customers.clone().map_or_else(|| Arc::clone(&world.customers), Arc::new);
                let transfers = if official.transfer_targets.contains(&index) {
                    scenario.transfers.probability
                } else {
                    0.0
                };
                let nickname = kf.nickname.as_ref().unwrap_or(&kf.prefix);
                let customers_seed = world.seed_of("customers", &official, &kf.prefix);
                let account = official.add_kf_account(
                    &script.full_name(kf),
                    KfAccountState::new(
                        kf.state,
                        nickname,
                        Customers::new(flow, transfers, customers_seed),
                        world.seed_of("responses", &official, &kf.prefix),
                        start_ms,
                    ),
                );
                drop(account.current_state(start_ms, ledger));
            }
            world.by_appid.insert(script.appid.as_str().into(), number);
            world.official_accounts.push(official);
        }
        world.add_components(scenario);
        world
    }

    pub(super) fn official_accounts(&self) -> &[OfficialAccount] {
        &self.official_accounts
    }

    pub(super) fn by_appid(&self, appid: &str) -> Option<&OfficialAccount> {
        self.official_accounts.get(*self.by_appid.get(appid)?)
    }

    pub(super) fn component(&self, appid: &str) -> Option<&Component> {
        self.components.iter().find(|component| *component.appid == *appid)
    }

    /// The component that the official account grants, or has granted.
    pub(super) fn component_of(&self, official: &OfficialAccount) -> Option<&Component> {
        self.components.get(lock(official.authorization.as_ref()?).component)
    }

    /// The state of a kf account that is added later: bound, with no sessions except those that tests open.
    pub(super) fn new_kf_account_state(
        &self,
        official: &OfficialAccount,
        name: &str,
        now_ms: i64,
    ) -> KfAccountState {
        let flow = Arc::new(CustomerFlow { initial: 0, gap: None, ..CustomerFlow::clone(&self.customers) });
        let nickname = name.split('@').next().unwrap_or(name);
        let customers = Customers::new(flow, 0.0, self.seed_of("customers", official, name));
        KfAccountState::new(
            KfState::Bound,
            nickname,
            customers,
            self.seed_of("responses", official, name),
            now_ms,
        )
    }

    fn add_components(&mut self, scenario: &Scenario) {
        for (number, script) in scenario.components.iter().enumerate() {
            let appid = &script.component_appid;
            let token_issuer = self.token_issuer(scenario, FIRST_COMPONENT_NUMBER + number, appid);
            let tickets = Tickets::new(derived_seed(self.seed, &["tickets", appid]), self.start_ms);
            let mut component = Component::new(script, token_issuer, tickets);
            for wanted in &script.authorizers {
                let is_wanted =
                    |official: &OfficialAccount| *official.name == **wanted || *official.appid == **wanted;
                let Some(index) = self.official_accounts.iter().position(is_wanted) else { continue };
                let official = &mut self.official_accounts[index];
                let tokens = RefreshTokenGenerator::new(self.seed, &official.appid);
                let authorization =
                    Authorization::new(number, script.rotate_refresh_tokens, tokens, self.start_ms);
                official.authorization = Some(Mutex::new(authorization));
                component.authorizers.push(index);
            }
            self.components.push(component);
        }
    }

    fn token_issuer(&self, scenario: &Scenario, number: usize, appid: &str) -> TokenIssuer {
        let lifetimes = TokenLifetimes {
            lifetime_ms: duration_ms(scenario.tokens.lifetime),
            overlap_ms: duration_ms(scenario.tokens.overlap),
        };
        TokenIssuer::new(lifetimes, number, derived_seed(self.seed, &["tokens", appid]))
    }

    fn seed_of(&self, stream: &str, official: &OfficialAccount, kf_account: &str) -> u64 {
        derived_seed(self.seed, &[stream, &official.appid, kf_account])
    }
}

impl OfficialAccount {
    fn new(scenario: &Scenario, script: &OfficialAccountScript, token_issuer: TokenIssuer) -> Self {
        let bound = |(index, state): (usize, KfState)| (state == KfState::Bound).then_some(index);
        let states = script.kf_accounts.iter().map(|kf| kf.state).enumerate();
        let transfer_targets: Vec<usize> = if scenario.transfers.probability > 0.0 {
            states.filter_map(bound).collect()
        } else {
            Vec::new()
        };
        OfficialAccount {
            name: script.name.as_str().into(),
            appid: script.appid.as_str().into(),
            secret: Mutex::new(script.secret.as_str().into()),
            style: script.style.clone(),
            token_issuer: Mutex::new(token_issuer),
            authorization: None,
            stale_token: Mutex::new(None),
            session_list_quota: Mutex::new(DayQuota::new(script.session_lists_per_day)),
            secret_frozen: AtomicBool::new(false),
            address_refused: AtomicBool::new(false),
            requests: Default::default(),
            in_flight: InFlightCounter::default(),
            kf_accounts: RwLock::default(),
            transfers: scenario.transfers.clone(),
            // A single kf account has no other one to transfer to.
            transfer_targets: if transfer_targets.len() < 2 { Vec::new() } else { transfer_targets },
            transfer_lock: Mutex::new(()),
        }
    }

    pub(super) fn kf_account(&self, name: &str) -> Option<Arc<KfAccount>> {
        let accounts = read(&self.kf_accounts);
        accounts.by_name.get(name).map(|index| Arc::clone(&accounts.list[*index]))
    }

    pub(super) fn kf_accounts(&self) -> Vec<Arc<KfAccount>> {
        read(&self.kf_accounts).list.clone()
    }

    pub(super) fn add_kf_account(&self, name: &str, state: KfAccountState) -> Arc<KfAccount> {
        let mut accounts = write(&self.kf_accounts);
        let account = Arc::new(KfAccount {
            appid: Arc::clone(&self.appid),
            name: name.into(),
            id: FIRST_KF_ID + accounts.list.len(),
            polls: AtomicU64::new(0),
            in_flight: InFlightCounter::default(),
            state: Mutex::new(state),
        });
        let index = accounts.list.len();
        accounts.by_name.insert(Arc::clone(&account.name), index);
        accounts.list.push(Arc::clone(&account));
        account
    }

    /// Locks transfers for the duration of a request, from the time at which it is answered until its response is
    /// complete. This keeps the responses for two kf accounts consistent with the times in the ledger. None without
    /// transfers.
    pub(super) fn lock_transfers(&self) -> Option<MutexGuard<'_, ()>> {
        (!self.transfer_targets.is_empty()).then(|| lock(&self.transfer_lock))
    }

    /// Carries out the planned transfers up to now.
    pub(super) fn apply_transfers(&self, now_ms: i64, ledger: &LedgerWriter) {
        if self.transfer_targets.is_empty() {
            return;
        }
        let accounts = self.kf_accounts();
        for (index, from) in accounts.iter().enumerate() {
            let departing = std::mem::take(&mut from.current_state(now_ms, ledger).departing);
            for DepartingSession { session, transfer } in departing {
                let others: Vec<usize> =
                    self.transfer_targets.iter().copied().filter(|it| *it != index).collect();
                let to = &accounts[others[transfer.pick % others.len()]];
                self.transfer(session, (from, to), transfer.at_ms, (now_ms, ledger));
            }
        }
    }

    /// Adds a session that has left `from` to `to`.
    pub(super) fn transfer(
        &self,
        mut session: Session,
        (from, to): (&KfAccount, &KfAccount),
        at_ms: i64,
        (now_ms, ledger): (i64, &LedgerWriter),
    ) {
        let previous = session.createtime;
        let createtime = if self.transfers.renew_createtime { at_ms.div_euclid(1_000) } else { previous };
        ledger.record_transfer(TransferRecord {
            appid: Arc::clone(&self.appid),
            openid: session.openid.clone(),
            from: Arc::clone(&from.name),
            to: Arc::clone(&to.name),
            at_ms,
            createtimes: [previous, createtime],
        });
        session.createtime = createtime;
        to.current_state(now_ms, ledger).receive(to, session, at_ms, ledger);
    }
}
