//! What tests with a scripted clock share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use kfwatch::{
    app::clock::SystemClock,
    domain::clock::{Clock, Moment},
    simulator::Simulator,
    wechat::{
        http::{ClientOptions, HttpVersion, WechatClient},
        token::TokenJournal,
    },
};
use secrecy::SecretString;

use crate::support::wait::PATIENCE;

/// The machine's clock plus an offset that the test advances.
#[derive(Default)]
pub(crate) struct ScriptedClock {
    machine: SystemClock,
    ahead_ms: AtomicU64,
}

impl Clock for ScriptedClock {
    fn now(&self) -> Moment {
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        let now = self.machine.now();
        Moment { wall: now.wall + ahead, monotonic: now.monotonic + ahead }
    }
}

impl ScriptedClock {
    /// Advances the clock.
    pub(crate) fn pass(&self, duration: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

/// A token journal that records nothing.
pub(crate) struct NoJournal;

impl TokenJournal for NoJournal {
    fn record_fetch<'a>(&'a self, _appid: &'a str, _at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn store_refresh_token<'a>(
        &'a self,
        _appid: &'a str,
        _token: &'a SecretString,
        _at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A client for the simulator that uses the scripted clock. No call fails because the machine is busy.
pub(crate) fn client(simulator: &Simulator, clock: &Arc<ScriptedClock>) -> Arc<WechatClient> {
    client_with_timeout(simulator, clock, PATIENCE)
}

pub(crate) fn client_with_timeout(
    simulator: &Simulator,
    clock: &Arc<ScriptedClock>,
    timeout: Duration,
) -> Arc<WechatClient> {
    let options = ClientOptions {
        base_url: simulator.base_url().parse().unwrap(),
        connect_timeout: timeout,
        timeout,
        max_body_bytes: 64 * 1024,
        http_version: HttpVersion::Http1,
        ca: None,
        proxy: None,
    };
    Arc::new(WechatClient::build(&options, Arc::clone(clock) as Arc<dyn Clock>).unwrap())
}
