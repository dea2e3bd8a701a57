//! A simulated WeChat API, for the demo, for tests and for load.
//!
//! It plays a [`Scenario`]: official accounts, their kf accounts, customers who come and go, tokens, third-party
//! platforms, quotas, faults, and also the token server and the ticket server of the operator. It speaks HTTP and shares no
//! type with the client, so that the two can agree only on what is on the wire. The history of sessions depends on the
//! scenario alone; requests do not change it. Tests intervene with a [`SimulatorControl`], and compare what a program
//! concluded with the [`Ledger`].
//!
//! The simulator checks its clients only as far as WeChat does. It keeps nothing when it stops.

#![expect(missing_docs, reason = "a field or variant whose name says what it is needs no comment")]

mod api_call;
mod clock;
mod component;
mod control;
mod customers;
mod date_header;
mod endpoints;
mod exchange;
mod fault;
mod in_flight;
mod json_writer;
mod kf_account;
mod ledger;
mod poll_recorder;
mod query;
mod quota;
mod random;
mod request;
mod response;
mod response_body;
mod scenario;
mod server;
mod token;
mod token_calls;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use self::api_call::ApiCall;
pub use self::control::{SimulatorControl, SimulatorControlError};
pub use self::fault::{ConnectionUse, Fault, FaultRule};
pub use self::ledger::{Ledger, PollRecord, RecordedResponse, SessionRecord, TransferRecord};
pub use self::scenario::{
    AccountToWatch, AgentListStyle, ComponentParameter, ComponentScript, CustomerFlow, KfAccountScript,
    KfState, OfficialAccountScript, RandomDuration, RefreshTokenRotation, RequiredHeader, ResponseStyle,
    Scenario, ScenarioError, TokenPolicy, TokenRoute, TokenServerScript, TransferPolicy,
};
pub use self::token_calls::TokenCall;

use self::clock::Clock;
use self::date_header::DateHeader;
use self::fault::FaultInjector;
use self::ledger::LedgerWriter;
use self::random::derived_seed;
use self::world::World;

/// A running simulator. Dropping it stops it and closes all its connections.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinSet<std::convert::Infallible>,
}

impl Simulator {
    /// Listens and starts the scenario. With port 0, the system chooses a port. Must run in a tokio runtime.
    pub async fn start(scenario: Scenario, listen: SocketAddr) -> io::Result<Simulator> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(scenario));
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Simulator { address, shared, server })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL that a client uses instead of `https://api.weixin.qq.com`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A handle that changes and inspects the simulation.
    pub fn control(&self) -> SimulatorControl {
        SimulatorControl::new(Arc::clone(&self.shared))
    }

    /// What has really happened so far, as [`SimulatorControl::ledger`] returns it.
    pub fn ledger(&self) -> Ledger {
        self.control().ledger()
    }

    /// Stops it, and waits until its task has ended.
    pub async fn stop(mut self) {
        self.server.shutdown().await;
    }
}

/// The state that all requests share.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    date: DateHeader,
    world: World,
    /// Required by the operator's token server.
    token_server_header: Option<RequiredHeader>,
    faults: FaultInjector,
    ledger: LedgerWriter,
    requests: [AtomicU64; ApiCall::ALL.len()],
    token_calls: Mutex<Vec<TokenCall>>,
}

impl Shared {
    fn new(scenario: Scenario) -> Self {
        let clock = Clock::starting_at(scenario.starts_at.map(Timestamp::as_millisecond));
        let ledger = LedgerWriter::new(scenario.ledger);
        let world = World::new(&scenario, clock.now_ms(), &ledger);
        Shared {
            clock,
            date: DateHeader::new(scenario.date_skew),
            world,
            token_server_header: scenario.token_server.header,
            faults: FaultInjector::new(scenario.faults, derived_seed(scenario.seed, &["faults"])),
            ledger,
            requests: Default::default(),
            token_calls: Mutex::default(),
        }
    }
}

// A poisoned lock is used anyway: the panic was reported, and it concerns a single response.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
