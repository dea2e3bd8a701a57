//! A simulated WeChat API, for trying kfwatch out, for tests and for load.
//!
//! Plays a [`Scenario`]: official accounts, their kf accounts, customers who come and go, tokens, third-party platforms,
//! quotas, faults; and beside WeChat the operator's own servers of tokens and tickets. It speaks HTTP and shares no type
//! with the client, so that the two can only agree on what is on the wire. The history of sessions depends on the scenario
//! alone; requests do not change it. Tests take a [`Control`] to intervene, and compare what a program made of it all with
//! the [`Ledger`].
//!
//! It does not judge its callers beyond what WeChat does, and keeps nothing when it stops.

mod answer;
mod attendance;
mod body;
mod caller;
mod clock;
mod component;
mod control;
mod customers;
mod date;
mod endpoints;
mod exchange;
mod fault;
mod flight;
mod ledger;
mod quota;
mod requests;
mod routes;
mod scenario;
mod server;
mod token;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::attendance::Presence;
pub use self::control::{Control, ControlError};
pub use self::fault::{Fault, FaultRule, OnConnection};
pub use self::ledger::{
    Answered, Ledger, MAX_LEDGER_LISTINGS, MAX_LEDGER_POLLS, MAX_LEDGER_SESSIONS, PollRecord, SessionRecord,
    TransferRecord,
};
pub use self::requests::{MAX_TOKEN_CALLS, TokenCall};
pub use self::routes::Endpoint;
pub use self::scenario::{
    AccountToWatch, AgentStyle, ComponentParameter, ComponentScript, CountForm, CustomerFlow,
    KfAccountScript, KfState, OfficialAccountScript, RequiredHeader, Rotation, Scenario, ScenarioError,
    Spread, Style, TokenPolicy, TokenRoute, TokenServerScript, TransferPolicy,
};

use self::clock::Clock;
use self::customers::derived_seed;
use self::date::DateHeader;
use self::fault::Faults;
use self::ledger::LedgerBook;
use self::requests::TokenCalls;
use self::world::World;

/// A running simulator. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<std::convert::Infallible>,
}

impl Simulator {
    /// Listens, and starts to play the scenario. Port 0 lets the system choose one. Needs a tokio runtime.
    pub async fn start(scenario: Scenario, listen: SocketAddr) -> io::Result<Simulator> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(scenario));
        #[expect(
            clippy::disallowed_methods,
            reason = "the simulator is a program of its own; this handle owns the task"
        )]
        let server = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Simulator { address, shared, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client takes in place of `https://api.weixin.qq.com`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A handle to intervene and to ask.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// What really happened up to now.
    pub fn ledger(&self) -> Ledger {
        self.control().ledger()
    }

    /// Ends it; when this returns, nothing of it runs any more.
    pub async fn stop(mut self) {
        self.server.abort();
        if let Err(error) = (&mut self.server).await
            && error.is_panic()
        {
            tracing::error!("The simulator's server panicked");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    date: DateHeader,
    world: World,
    /// Demanded by the operator's token server.
    token_server_header: Option<RequiredHeader>,
    faults: Faults,
    ledger: LedgerBook,
    requests: [AtomicU64; Endpoint::ALL.len()],
    token_calls: TokenCalls,
}

impl Shared {
    fn new(scenario: Scenario) -> Self {
        let clock = Clock::starting_at(scenario.starts_at.map(Timestamp::as_millisecond));
        let ledger = LedgerBook::new(scenario.ledger);
        let world = World::new(&scenario, clock.now_ms(), &ledger);
        Shared {
            clock,
            date: DateHeader::new(scenario.date_skew, scenario.omit_date),
            world,
            token_server_header: scenario.token_server.header,
            faults: Faults::new(scenario.faults, derived_seed(scenario.seed, &["faults"])),
            ledger,
            requests: Default::default(),
            token_calls: TokenCalls::default(),
        }
    }
}

// A panic while a lock was held has been reported by then, and is confined to one answer of a simulation.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
