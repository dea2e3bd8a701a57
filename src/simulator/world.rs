//! What there is: official accounts, kf accounts, sessions. Every account has its own lock; none is held across an
//! await. The history of a kf account is played forward when somebody looks at it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::clock::duration_ms;
use super::customers::{Customers, Visit, derived_seed};
use super::flight::InFlight;
use super::ledger::{LedgerBook, SessionRecord};
use super::routes::Endpoint;
use super::scenario::{CustomerFlow, KfState, OfficialAccountScript, Scenario, Style};
use super::token::{Quota, TokenDesk, TokenLife};
use super::{lock, read, write};

/// Ids of kf accounts begin here, as WeChat's do.
const FIRST_KF_ID: usize = 1001;

/// Everything that is simulated.
#[derive(Debug)]
pub(super) struct World {
    pub(super) start_ms: i64,
    seed: u64,
    customers: Arc<CustomerFlow>,
    official_accounts: Vec<OfficialAccount>,
    by_appid: HashMap<Box<str>, usize>,
}

/// One official account.
#[derive(Debug)]
pub(super) struct OfficialAccount {
    pub(super) name: Box<str>,
    pub(super) appid: Arc<str>,
    pub(super) secret: Box<str>,
    pub(super) style: Style,
    pub(super) desk: Mutex<TokenDesk>,
    pub(super) session_list_quota: Mutex<Quota>,
    pub(super) secret_frozen: AtomicBool,
    pub(super) address_refused: AtomicBool,
    pub(super) requests: [AtomicU64; Endpoint::ALL.len()],
    pub(super) in_flight: InFlight,
    kf_accounts: RwLock<KfAccounts>,
}

/// The kf accounts of an official account, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct KfAccounts {
    list: Vec<Arc<KfAccount>>,
    by_name: HashMap<Arc<str>, usize>,
}

/// One kf account. One that is removed stays here as invalid, so that its requests are still recorded.
#[derive(Debug)]
pub(super) struct KfAccount {
    pub(super) appid: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) nickname: Box<str>,
    pub(super) id: usize,
    pub(super) polls: AtomicU64,
    pub(super) in_flight: InFlight,
    attendance: Mutex<Attendance>,
}

/// Who is with a kf account, or waits for it.
#[derive(Debug)]
pub(super) struct Attendance {
    pub(super) state: KfState,
    pub(super) open: Vec<Session>,
    pub(super) waiting: Vec<Visit>,
    /// For the oddities of answers: apart from the customers' stream, because it depends on the requests.
    pub(super) whims: fastrand::Rng,
    customers: Customers,
    upcoming: Option<Visit>,
    start_ms: i64,
    next_change_ms: i64,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) openid: Box<str>,
    pub(super) createtime: i64,
    pub(super) ledger_index: Option<u32>,
    leaves_ms: i64,
}

impl World {
    /// Plays the scenario up to its start: the sessions that are there from the beginning exist.
    pub(super) fn new(scenario: &Scenario, start_ms: i64, book: &LedgerBook) -> Self {
        let life = TokenLife {
            lifetime_ms: duration_ms(scenario.tokens.lifetime),
            overlap_ms: duration_ms(scenario.tokens.overlap),
        };
        let mut world = World {
            start_ms,
            seed: scenario.seed,
            customers: Arc::new(scenario.customers.clone()),
            official_accounts: Vec::with_capacity(scenario.official_accounts.len()),
            by_appid: HashMap::new(),
        };
        for (number, script) in scenario.official_accounts.iter().enumerate() {
            let token_seed = derived_seed(scenario.seed, &["tokens", &script.appid]);
            let official = OfficialAccount::new(script, TokenDesk::new(life, number, token_seed));
            for kf in &script.kf_accounts {
                let nickname = kf.nickname.as_ref().unwrap_or(&kf.prefix);
                let flow = kf.customers.clone().map_or_else(|| Arc::clone(&world.customers), Arc::new);
                let attendance = world.attendance(&official, &kf.prefix, kf.state, flow);
                let account = official.add_kf_account(&script.full_name(kf), nickname, attendance);
                drop(account.attendance(start_ms, book));
            }
            world.by_appid.insert(script.appid.as_str().into(), number);
            world.official_accounts.push(official);
        }
        world
    }

    pub(super) fn official_accounts(&self) -> &[OfficialAccount] {
        &self.official_accounts
    }

    pub(super) fn by_appid(&self, appid: &str) -> Option<&OfficialAccount> {
        self.official_accounts.get(*self.by_appid.get(appid)?)
    }

    /// A kf account that joins later: bound, and without customers but those that are opened by hand.
    pub(super) fn newcomer(&self, official: &OfficialAccount, name: &str) -> Attendance {
        let flow = CustomerFlow { initial: 0, gap: None, ..CustomerFlow::clone(&self.customers) };
        self.attendance(official, name, KfState::Bound, Arc::new(flow))
    }

    fn attendance(
        &self,
        official: &OfficialAccount,
        name: &str,
        state: KfState,
        flow: Arc<CustomerFlow>,
    ) -> Attendance {
        let mut customers =
            Customers::new(flow, derived_seed(self.seed, &["customers", &official.appid, name]));
        let upcoming = customers.next_visit();
        let whims = fastrand::Rng::with_seed(derived_seed(self.seed, &["whims", &official.appid, name]));
        Attendance {
            state,
            open: Vec::new(),
            waiting: Vec::new(),
            whims,
            customers,
            upcoming,
            start_ms: self.start_ms,
            next_change_ms: i64::MIN,
        }
    }
}

impl OfficialAccount {
    fn new(script: &OfficialAccountScript, desk: TokenDesk) -> Self {
        OfficialAccount {
            name: script.name.as_str().into(),
            appid: script.appid.as_str().into(),
            secret: script.secret.as_str().into(),
            style: script.style.clone(),
            desk: Mutex::new(desk),
            session_list_quota: Mutex::new(Quota::per_day(script.session_lists_per_day)),
            secret_frozen: AtomicBool::new(false),
            address_refused: AtomicBool::new(false),
            requests: Default::default(),
            in_flight: InFlight::default(),
            kf_accounts: RwLock::default(),
        }
    }

    pub(super) fn kf_account(&self, name: &str) -> Option<Arc<KfAccount>> {
        let accounts = read(&self.kf_accounts);
        accounts.by_name.get(name).map(|index| Arc::clone(&accounts.list[*index]))
    }

    pub(super) fn kf_accounts(&self) -> Vec<Arc<KfAccount>> {
        read(&self.kf_accounts).list.clone()
    }

    pub(super) fn add_kf_account(
        &self,
        name: &str,
        nickname: &str,
        attendance: Attendance,
    ) -> Arc<KfAccount> {
        let mut accounts = write(&self.kf_accounts);
        let account = Arc::new(KfAccount {
            appid: Arc::clone(&self.appid),
            name: name.into(),
            nickname: nickname.into(),
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
}

impl KfAccount {
    /// Who is there now.
    pub(super) fn attendance(&self, now_ms: i64, book: &LedgerBook) -> MutexGuard<'_, Attendance> {
        let mut attendance = lock(&self.attendance);
        if now_ms >= attendance.next_change_ms {
            attendance.catch_up(self, now_ms, book);
        }
        attendance
    }

    fn record(&self, openid: &str, createtime: i64, opened_at_ms: i64) -> SessionRecord {
        SessionRecord {
            appid: Arc::clone(&self.appid),
            kf_account: Arc::clone(&self.name),
            openid: openid.into(),
            createtime,
            opened_at_ms,
            closed_at_ms: None,
        }
    }
}

impl Attendance {
    pub(super) fn is_bound(&self) -> bool {
        self.state == KfState::Bound
    }

    /// Opens a session by hand; it stays until it is closed by hand.
    pub(super) fn open(&mut self, account: &KfAccount, session: SessionToOpen<'_>, book: &LedgerBook) {
        let SessionToOpen { openid, createtime, now_ms } = session;
        let ledger_index = book.opened(|| account.record(openid, createtime, now_ms));
        self.open.push(Session { openid: openid.into(), createtime, ledger_index, leaves_ms: i64::MAX });
    }

    /// Closes every open session of the customer by hand; whether there was one.
    pub(super) fn close(&mut self, openid: &str, now_ms: i64, book: &LedgerBook) -> bool {
        let before = self.open.len();
        self.open.retain(|session| {
            let stays = *session.openid != *openid;
            if !stays {
                book.closed(session.ledger_index, now_ms);
            }
            stays
        });
        self.open.len() < before
    }

    fn catch_up(&mut self, account: &KfAccount, now_ms: i64, book: &LedgerBook) {
        let since_start_ms = now_ms - self.start_ms;
        while let Some(visit) = self.upcoming.take_if(|visit| visit.arrives_ms <= since_start_ms) {
            self.waiting.push(visit);
            self.upcoming = self.customers.next_visit();
        }
        for visit in self.waiting.extract_if(.., |visit| visit.accepted_ms <= since_start_ms) {
            let opened_at_ms = self.start_ms + visit.accepted_ms;
            let createtime = opened_at_ms.div_euclid(1_000);
            let ledger_index = book.opened(|| account.record(&visit.openid, createtime, opened_at_ms));
            let leaves_ms = self.start_ms.saturating_add(visit.leaves_ms);
            self.open.push(Session { openid: visit.openid, createtime, ledger_index, leaves_ms });
        }
        self.open.retain(|session| {
            let stays = now_ms < session.leaves_ms;
            if !stays {
                book.closed(session.ledger_index, session.leaves_ms);
            }
            stays
        });
        self.next_change_ms = self.next_change();
    }

    fn next_change(&self) -> i64 {
        let arrival = self.upcoming.iter().map(|visit| visit.arrives_ms);
        let acceptances = self.waiting.iter().map(|visit| visit.accepted_ms);
        let arrivals = arrival.chain(acceptances).map(|at_ms| self.start_ms.saturating_add(at_ms));
        let departures = self.open.iter().map(|session| session.leaves_ms);
        arrivals.chain(departures).min().unwrap_or(i64::MAX)
    }
}

/// A session opened by hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionToOpen<'a> {
    pub(super) openid: &'a str,
    pub(super) createtime: i64,
    pub(super) now_ms: i64,
}
