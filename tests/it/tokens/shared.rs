//! The token of a component that replicas share. The place where they share it is in memory here, with the scripted clock; the tests of
//! the store check the real one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use kfwatch::{
    domain::{
        clock::{Clock, Moment},
        shared_token::{SealedToken, SharedToken},
    },
    wechat::{
        error::CallError,
        token::{ClaimTerms, Component, MIN_FETCH_INTERVAL, SharedTokens, TicketSource},
    },
};
use tempfile::TempDir;

use super::platform::{Account, COMPONENT, Platform};
use crate::support::rehearsal::ScriptedClock;

const HOUR: Duration = Duration::from_secs(3600);

/// Shares in memory. There is no claim that another replica has not ended, because the tests let one act after the other.
struct Shared {
    clock: Arc<ScriptedClock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generation: i64,
    newest: Option<(SealedToken, Moment)>,
    claimed_at: Option<Moment>,
    is_down: bool,
}

impl Shared {
    fn locked<T>(&self, act: impl FnOnce(&mut State, Moment) -> T) -> Result<T, String> {
        let mut state = self.state.lock().unwrap();
        if state.is_down { Err("down".to_owned()) } else { Ok(act(&mut state, self.clock.now())) }
    }
}

impl SharedTokens for Shared {
    fn read<'a>(&'a self, appid: &'a str) -> BoxFuture<'a, Result<SharedToken, String>> {
        assert_eq!(appid, COMPONENT);
        let read = self.locked(|state, now| SharedToken {
            generation: state.generation,
            newest: state.newest.as_ref().map(|(token, at)| (token.clone(), now.since(at))),
            claimed_ago: state.claimed_at.as_ref().map(|at| now.since(at)),
            is_claimed: false,
        });
        std::future::ready(read).boxed()
    }

    fn claim<'a>(
        &'a self,
        _appid: &'a str,
        generation: i64,
        terms: ClaimTerms,
    ) -> BoxFuture<'a, Result<bool, String>> {
        let claimed = self.locked(|state, now| {
            let is_free = state.claimed_at.is_none_or(|at| now.since(&at) >= terms.min_interval);
            let may_claim = generation == state.generation && is_free;
            if may_claim {
                state.claimed_at = Some(now);
            }
            may_claim
        });
        std::future::ready(claimed).boxed()
    }

    fn publish<'a>(
        &'a self,
        _appid: &'a str,
        generation: i64,
        token: Option<SealedToken>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let published = self.locked(|state, now| {
            if let Some(token) = token {
                assert_eq!(generation, state.generation);
                (state.generation, state.newest) = (generation + 1, Some((token, now)));
            }
        });
        std::future::ready(published).boxed()
    }
}

/// Two replicas, each with an official account of the same component.
struct Stage {
    platform: Platform,
    shared: Arc<Shared>,
    accounts: [Account; 2],
    _directory: TempDir,
}

impl Stage {
    async fn set() -> Self {
        let platform = Platform::start().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        std::fs::write(&path, "ticket-1\n").unwrap();
        let shared = Arc::new(Shared { clock: Arc::clone(&platform.clock), state: Mutex::default() });
        let appids = <[String; 2]>::try_from(platform.merchants(2)).unwrap();
        let accounts = appids.map(|appid| {
            let ticket = TicketSource::File { path: path.clone(), json_pointer: None };
            let component = Arc::into_inner(platform.component(ticket, None)).unwrap();
            let component =
                Arc::new(Component::sharing(component, Arc::clone(&shared) as Arc<dyn SharedTokens>));
            platform.of_component(&appid, &component, Some(&format!("refresh-{appid}")))
        });
        Self { platform, shared, accounts, _directory: directory }
    }

    fn fetches(&self) -> usize {
        self.platform.request_count("api_component_token")
    }

    /// Makes WeChat reject all tokens.
    fn invalidate_all(&self) {
        let mut world = self.platform.world();
        world.component_token = "another".to_owned();
        world.merchants.values_mut().for_each(|merchant| merchant.access_token.clear());
    }

    async fn poll_all(&self) {
        for account in &self.accounts {
            account.poll().await.unwrap();
        }
    }
}

#[tokio::test]
async fn replicas_fetch_one_token_and_renew_it_once() {
    let stage = Stage::set().await;
    stage.poll_all().await;
    assert_eq!(stage.fetches(), 1);
    let sealed = stage.shared.state.lock().unwrap().newest.clone().unwrap().0.sealed;
    assert!(!sealed.contains("component-"), "{sealed}");
    stage.platform.clock.pass(2 * HOUR);
    stage.poll_all().await;
    assert_eq!(stage.fetches(), 2);
}

#[tokio::test]
async fn token_that_wechat_rejects_is_replaced_once_for_all() {
    let stage = Stage::set().await;
    stage.poll_all().await;
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    stage.invalidate_all();
    stage.poll_all().await;
    assert_eq!(stage.fetches(), 2);
}

#[tokio::test]
async fn replica_waits_as_long_as_the_others_after_a_fetch() {
    let stage = Stage::set().await;
    stage.accounts[0].poll().await.unwrap();
    stage.invalidate_all();
    // The second one takes the shared token, which is rejected.
    let failure = stage.accounts[1].failure().await;
    assert!(failure.error.lacks_token(), "{failure:?}");
    assert_eq!(stage.fetches(), 1);
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    stage.poll_all().await;
    assert_eq!(stage.fetches(), 2);
}

#[tokio::test]
async fn no_token_is_fetched_while_nobody_knows_whether_another_replica_does() {
    let stage = Stage::set().await;
    stage.shared.state.lock().unwrap().is_down = true;
    let failure = stage.accounts[0].failure().await;
    assert_eq!(failure.error, CallError::TokenNotShared("down".into()));
    assert_eq!(stage.fetches(), 0);
    stage.shared.state.lock().unwrap().is_down = false;
    stage.poll_all().await;
    assert_eq!(stage.fetches(), 1);
}
