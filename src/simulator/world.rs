//! What there is: official accounts and their kf accounts, components. Every account has its own lock; none is held
//! across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::attendance::{Attendance, Beginning, KfAccount, Session};
use super::clock::duration_ms;
use super::component::{Authorization, Component, Tickets};
use super::customers::{Customers, derived_seed};
use super::flight::InFlight;
use super::ledger::{LedgerBook, TransferRecord};
use super::quota::CallLimits;
use super::routes::Endpoint;
use super::scenario::{CustomerFlow, KfState, OfficialAccountScript, Scenario, Style, TransferPolicy};
use super::token::{TokenDesk, TokenLife};
use super::{lock, read, write};

/// Ids of kf accounts begin here, as WeChat's do.
const FIRST_KF_ID: usize = 1001;
/// Tokens of components carry numbers from here on, beyond those of official accounts.
const FIRST_COMPONENT_NUMBER: usize = 0x8000_0000;
/// The limit of endpoints whose real one is not known.
const OTHER_CALLS_PER_DAY: u64 = 100_000;

/// Everything that is simulated.
#[derive(Debug)]
pub(super) struct World {
    pub(super) start_ms: i64,
    seed: u64,
    customers: Arc<CustomerFlow>,
    official_accounts: Vec<OfficialAccount>,
    by_appid: HashMap<Box<str>, usize>,
    components: Vec<Component>,
}

/// One official account.
#[derive(Debug)]
pub(super) struct OfficialAccount {
    pub(super) name: Box<str>,
    pub(super) appid: Arc<str>,
    pub(super) secret: Box<str>,
    pub(super) style: Style,
    pub(super) desk: Mutex<TokenDesk>,
    /// What it has granted to a component, if there is one for it.
    pub(super) authorization: Option<Mutex<Authorization>>,
    /// What the operator's token server goes on giving while it is out of order.
    pub(super) stale_token: Mutex<Option<Box<str>>>,
    /// In the order of [`Endpoint::ALL`].
    pub(super) limits: Mutex<[CallLimits; Endpoint::ALL.len()]>,
    /// Whether it is not granted, in the order of [`Endpoint::ALL`].
    pub(super) withheld: [AtomicBool; Endpoint::ALL.len()],
    pub(super) secret_frozen: AtomicBool,
    pub(super) address_refused: AtomicBool,
    pub(super) requests: [AtomicU64; Endpoint::ALL.len()],
    pub(super) in_flight: InFlight,
    kf_accounts: RwLock<KfAccounts>,
    transfers: TransferPolicy,
    /// SpreadPlan of the kf accounts among which sessions are transferred; none without transfers.
    colleagues: Vec<usize>,
    order: Mutex<()>,
}

/// The kf accounts of an official account, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct KfAccounts {
    list: Vec<Arc<KfAccount>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl World {
    /// Plays the scenario up to its start: the sessions that are there from the beginning exist.
    pub(super) fn new(scenario: &Scenario, start_ms: i64, book: &LedgerBook) -> Self {
        let mut world = World {
            start_ms,
            seed: scenario.seed,
            customers: Arc::new(scenario.customers.clone()),
            official_accounts: Vec::with_capacity(scenario.official_accounts.len()),
            by_appid: HashMap::new(),
            components: Vec::with_capacity(scenario.components.len()),
        };
        for (number, script) in scenario.official_accounts.iter().enumerate() {
            let desk = world.token_desk(scenario, number, &script.appid);
            let official = OfficialAccount::new(scenario, script, desk);
            for (place, kf) in script.kf_accounts.iter().enumerate() {
                let flow = kf.customers.clone().map_or_else(|| Arc::clone(&world.customers), Arc::new);
                let transfers =
                    if official.colleagues.contains(&place) { scenario.transfers.probability } else { 0.0 };
                let nickname = kf.nickname.as_ref().unwrap_or(&kf.prefix);
                let customers_seed = world.seed_of("customers", &official, &kf.prefix);
                let account = official.add_kf_account(
                    &script.full_name(kf),
                    Attendance::new(Beginning {
                        state: kf.state,
                        nickname,
                        customers: Customers::new(flow, transfers, customers_seed),
                        whims_seed: world.seed_of("whims", &official, &kf.prefix),
                        start_ms,
                    }),
                );
                drop(account.attendance(start_ms, book));
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

    /// The component that acts, or acted, for the official account.
    pub(super) fn component_of(&self, official: &OfficialAccount) -> Option<&Component> {
        self.components.get(lock(official.authorization.as_ref()?).component)
    }

    /// A kf account that joins later: bound, and without customers but those that are opened by hand.
    pub(super) fn newcomer(&self, official: &OfficialAccount, name: &str, now_ms: i64) -> Attendance {
        let flow = Arc::new(CustomerFlow { initial: 0, gap: None, ..CustomerFlow::clone(&self.customers) });
        Attendance::new(Beginning {
            state: KfState::Bound,
            nickname: name.split('@').next().unwrap_or(name),
            customers: Customers::new(flow, 0.0, self.seed_of("customers", official, name)),
            whims_seed: self.seed_of("whims", official, name),
            start_ms: now_ms,
        })
    }

    fn add_components(&mut self, scenario: &Scenario) {
        for (number, script) in scenario.components.iter().enumerate() {
            let appid = &script.component_appid;
            let desk = self.token_desk(scenario, FIRST_COMPONENT_NUMBER + number, appid);
            let tickets = Tickets::new(derived_seed(self.seed, &["tickets", appid]), self.start_ms);
            let mut component = Component::new(script, desk, tickets);
            for wanted in &script.authorizers {
                let is_wanted =
                    |official: &OfficialAccount| *official.name == **wanted || *official.appid == **wanted;
                let Some(place) = self.official_accounts.iter().position(is_wanted) else { continue };
                let official = &mut self.official_accounts[place];
                let authorization = scenario.authorization(number, &official.appid, self.start_ms);
                official.authorization = Some(Mutex::new(authorization));
                component.authorizers.push(place);
            }
            self.components.push(component);
        }
    }

    fn token_desk(&self, scenario: &Scenario, number: usize, appid: &str) -> TokenDesk {
        let life = TokenLife {
            lifetime_ms: duration_ms(scenario.tokens.lifetime),
            overlap_ms: duration_ms(scenario.tokens.overlap),
        };
        TokenDesk::new(life, number, derived_seed(self.seed, &["tokens", appid]))
    }

    fn seed_of(&self, stream: &str, official: &OfficialAccount, kf_account: &str) -> u64 {
        derived_seed(self.seed, &[stream, &official.appid, kf_account])
    }
}

impl OfficialAccount {
    fn new(scenario: &Scenario, script: &OfficialAccountScript, desk: TokenDesk) -> Self {
        let bound = |(place, state): (usize, KfState)| (state == KfState::Bound).then_some(place);
        let states = script.kf_accounts.iter().map(|kf| kf.state).enumerate();
        let colleagues: Vec<usize> = if scenario.transfers.probability > 0.0 {
            states.filter_map(bound).collect()
        } else {
            Vec::new()
        };
        let limits = Endpoint::ALL.map(|endpoint| match endpoint {
            Endpoint::GetSessionList => {
                CallLimits::new(script.session_lists_per_day, scenario.session_lists_per_minute)
            }
            _ => CallLimits::new(OTHER_CALLS_PER_DAY, None),
        });
        OfficialAccount {
            name: script.name.as_str().into(),
            appid: script.appid.as_str().into(),
            secret: script.secret.as_str().into(),
            style: script.style.clone(),
            desk: Mutex::new(desk),
            authorization: None,
            stale_token: Mutex::new(None),
            limits: Mutex::new(limits),
            withheld: Default::default(),
            secret_frozen: AtomicBool::new(false),
            address_refused: AtomicBool::new(false),
            requests: Default::default(),
            in_flight: InFlight::default(),
            kf_accounts: RwLock::default(),
            transfers: scenario.transfers.clone(),
            // A session cannot pass from the only one to itself.
            colleagues: if colleagues.len() < 2 { Vec::new() } else { colleagues },
            order: Mutex::new(()),
        }
    }

    pub(super) fn kf_account(&self, name: &str) -> Option<Arc<KfAccount>> {
        let accounts = read(&self.kf_accounts);
        accounts.by_name.get(name).map(|index| Arc::clone(&accounts.list[*index]))
    }

    pub(super) fn kf_accounts(&self) -> Vec<Arc<KfAccount>> {
        read(&self.kf_accounts).list.clone()
    }

    pub(super) fn add_kf_account(&self, name: &str, attendance: Attendance) -> Arc<KfAccount> {
        let mut accounts = write(&self.kf_accounts);
        let account = Arc::new(KfAccount {
            appid: Arc::clone(&self.appid),
            name: name.into(),
            id: FIRST_KF_ID + accounts.list.len(),
            polls: AtomicU64::new(0),
            in_flight: InFlight::default(),
            attendance: Mutex::new(attendance),
        });
        let index = accounts.list.len();
        accounts.by_name.insert(Arc::clone(&account.name), index);
        accounts.list.push(Arc::clone(&account));
        account
    }

    /// Held from the moment at which a request is answered until its answer is made, if sessions are transferred: what
    /// two requests for two kf accounts are told then agrees with the moments that the ledger has for them.
    pub(super) fn in_order(&self) -> Option<MutexGuard<'_, ()>> {
        (!self.colleagues.is_empty()).then(|| lock(&self.order))
    }

    /// Delivers the sessions that have left one kf account for another up to now.
    pub(super) fn settle(&self, now_ms: i64, book: &LedgerBook) {
        if self.colleagues.is_empty() {
            return;
        }
        let accounts = self.kf_accounts();
        for (place, from) in accounts.iter().enumerate() {
            let leaving = std::mem::take(&mut from.attendance(now_ms, book).leaving);
            for leaving in leaving {
                let others: Vec<usize> = self.colleagues.iter().copied().filter(|at| *at != place).collect();
                let to = &accounts[others[leaving.handover.pick % others.len()]];
                self.transfer(leaving.session, (from, to), leaving.handover.at_ms, (now_ms, book));
            }
        }
    }

    /// Delivers a session that has left.
    pub(super) fn transfer(
        &self,
        mut session: Session,
        (from, to): (&KfAccount, &KfAccount),
        at_ms: i64,
        (now_ms, book): (i64, &LedgerBook),
    ) {
        let former = session.createtime;
        let createtime = if self.transfers.renew_createtime { at_ms.div_euclid(1_000) } else { former };
        book.transferred(TransferRecord {
            appid: Arc::clone(&self.appid),
            openid: session.openid.clone(),
            from: Arc::clone(&from.name),
            to: Arc::clone(&to.name),
            at_ms,
            createtimes: [former, createtime],
        });
        session.createtime = createtime;
        to.attendance(now_ms, book).take_over(to, session, at_ms, book);
    }
}
