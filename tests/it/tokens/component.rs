//! Official accounts that have authorized a component.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use kfwatch::{
    domain::error_class::ErrorClass,
    wechat::{
        Endpoint,
        error::CallError,
        token::{Component, MIN_FETCH_INTERVAL, TicketSource, TokenServer},
    },
};
use tempfile::TempDir;

use super::platform::{Account, COMPONENT, Platform};

const MINUTE: Duration = Duration::from_secs(60);

/// The platform with a component whose ticket is in a file.
struct Stage {
    platform: Platform,
    directory: TempDir,
    component: Arc<Component>,
}

impl Stage {
    async fn set() -> Self {
        Self::resumed(None).await
    }

    /// `last_fetch_ago`: how long ago the previous daemon fetched the component's token.
    async fn resumed(last_fetch_ago: Option<Duration>) -> Self {
        let platform = Platform::start().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        std::fs::write(&path, "ticket-1\n").unwrap();
        let component = platform.component(TicketSource::File { path, json_pointer: None }, last_fetch_ago);
        Self { platform, directory, component }
    }

    fn ticket(&self) -> PathBuf {
        self.directory.path().join("ticket")
    }

    /// Official accounts that have authorized the component, with their refresh tokens.
    fn accounts(&self, count: usize) -> Vec<Account> {
        let appids = self.platform.merchants(count);
        let account = |appid: &String| self.account(appid, Some(&format!("refresh-{appid}")));
        appids.iter().map(account).collect()
    }

    fn account(&self, appid: &str, refresh_token: Option<&str>) -> Account {
        self.platform.of_component(appid, &self.component, refresh_token)
    }

    fn stored(&self) -> Vec<String> {
        self.platform.journal.refresh_tokens.lock().unwrap().iter().map(|(_, token)| token.clone()).collect()
    }
}

#[tokio::test]
async fn fifty_official_accounts_at_once_fetch_one_component_token() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(50);
    for result in join_all(accounts.iter().map(Account::poll)).await {
        result.unwrap();
    }
    for account in &accounts {
        account.poll().await.unwrap();
    }
    assert_eq!(stage.platform.request_count("api_component_token"), 1);
    assert_eq!(stage.platform.request_count("api_authorizer_token"), 50);
    assert_eq!(stage.platform.journal.fetches.lock().unwrap().len(), 51);
    assert_eq!(stage.platform.journal.fetches.lock().unwrap()[0], COMPONENT);
    let reported = |endpoint| accounts.iter().map(|account| account.tally.of(endpoint)).sum::<usize>();
    assert_eq!((reported(Endpoint::ComponentToken), reported(Endpoint::AuthorizerToken)), (1, 50));
    let refreshed = accounts.iter().map(|account| account.tally.refreshed.load(Ordering::Relaxed));
    assert_eq!(refreshed.sum::<u64>(), 50, "the component's token does not count for official accounts");
    assert_eq!(stage.stored(), [""; 0], "a refresh token that stays the same is not stored again");
}

#[tokio::test]
async fn refused_component_token_is_fetched_once_and_calls_repeat() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(50);
    accounts[0].poll().await.unwrap();
    stage.platform.world().component_token = "another program's".to_owned();
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    for result in join_all(accounts[1..].iter().map(Account::poll)).await {
        result.unwrap();
    }
    assert_eq!(stage.platform.request_count("api_component_token"), 2);
}

#[tokio::test]
async fn refused_component_token_within_min_interval_costs_a_poll() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(2);
    accounts[0].poll().await.unwrap();
    stage.platform.world().component_token = "another program's".to_owned();
    for poll in ["the rejection", "the next poll, which may not fetch"] {
        let failure = accounts[1].failure().await;
        let what = (failure.endpoint, failure.error.errcode());
        assert_eq!(what, (Endpoint::AuthorizerToken, Some(40001)), "{poll}");
    }
    assert_eq!(stage.platform.request_count("api_component_token"), 1);
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    accounts[1].poll().await.unwrap();
}

#[tokio::test]
async fn refused_authorizer_token_is_fetched_again() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(1);
    accounts[0].poll().await.unwrap();
    stage.platform.world().merchants.values_mut().next().unwrap().access_token = String::new();
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    accounts[0].poll().await.unwrap();
    assert_eq!(stage.platform.request_count("api_authorizer_token"), 2);
    assert_eq!(stage.platform.request_count("api_component_token"), 1);
}

#[tokio::test]
async fn working_parameter_spelling_is_detected_and_kept() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(3);
    stage.platform.world().parameter = "access_token";
    for account in &accounts {
        account.poll().await.unwrap();
    }
    assert_eq!(
        stage.platform.request_count("api_authorizer_token"),
        4,
        "the second account uses the known spelling"
    );
    assert_eq!(accounts[0].tally.of(Endpoint::AuthorizerToken), 2, "each call is reported");
    stage.platform.world().parameter = "neither";
    stage.platform.clock.pass(Duration::from_secs(7200));
    assert_eq!(accounts[0].failure().await.error.errcode(), Some(41001));
    assert_eq!(stage.platform.request_count("api_authorizer_token"), 6);
}

#[tokio::test]
async fn rotated_refresh_token_is_stored_before_use() {
    let stage = Stage::set().await;
    let account = stage.accounts(1).remove(0);
    stage.platform.world().merchants.values_mut().next().unwrap().rotates = true;
    stage.platform.journal.fails.store(true, Ordering::Relaxed);
    let failure = account.failure().await;
    assert_eq!(
        failure.to_string(),
        "api_authorizer_token: the new refresh token could not be stored: no space left"
    );
    assert_eq!(failure.class, ErrorClass::Busy);
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    account.failure().await;
    assert_eq!(stage.platform.request_count("api_authorizer_token"), 1, "it must be stored first");
    assert_eq!(stage.platform.request_count("getsessionlist"), 0);

    stage.platform.journal.fails.store(false, Ordering::Relaxed);
    account.poll().await.unwrap();
    let appid = "wx0000000000000000";
    assert_eq!(stage.stored(), [format!("refresh-{appid}-1"), format!("refresh-{appid}-2")]);
    assert_eq!(stage.platform.request_count("api_get_authorizer_list"), 0, "no refresh token was lost");
}

#[tokio::test]
async fn invalid_refresh_tokens_share_one_lookup() {
    let stage = Stage::set().await;
    let appids = stage.platform.merchants(50);
    let accounts: Vec<Account> =
        appids.iter().map(|appid| stage.account(appid, Some("refresh-wx-of-old"))).collect();
    for result in join_all(accounts.iter().map(Account::poll)).await {
        result.unwrap();
    }
    assert_eq!(stage.platform.request_count("api_get_authorizer_list"), 1);
    assert_eq!(stage.platform.request_count("api_authorizer_token"), 100);
    let mut stored = stage.stored();
    stored.sort();
    assert_eq!(stored, appids.iter().map(|appid| format!("refresh-{appid}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn renewed_authorization_recovers_later() {
    let stage = Stage::set().await;
    stage.platform.merchants(2);
    let appid = "wx0000000000000009";
    let account = stage.account(appid, Some("refresh-wx-of-old"));
    for _ in 0..3 {
        let failure = account.failure().await;
        assert_eq!((failure.class, failure.error.errcode()), (ErrorClass::NotAuthorized, Some(61023)));
        assert!(failure.remedy().unwrap().en.contains("authorize"));
        stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    }
    assert_eq!(stage.platform.request_count("api_get_authorizer_list"), 1, "at most once a minute");
    let merchant = stage.platform.world().merchants["wx0000000000000000"].clone();
    stage.platform.world().merchants.insert(appid.to_owned(), merchant);
    stage.platform.clock.pass(MINUTE);
    account.poll().await.unwrap();
    assert_eq!(stage.stored(), ["refresh-wx0000000000000000"]);
}

#[tokio::test]
async fn missing_refresh_token_pages_through_list() {
    let stage = Stage::set().await;
    let appids = stage.platform.merchants(1001);
    stage.account(&appids[1000], None).poll().await.unwrap();
    assert_eq!(stage.platform.request_count("api_get_authorizer_list"), 3);
    let failure = stage.account("wx9999999999999999", None).failure().await;
    assert_eq!((failure.class, failure.error), (ErrorClass::NotAuthorized, CallError::NoRefreshToken));
    assert_eq!(
        stage.platform.request_count("api_get_authorizer_list"),
        3,
        "one read of the list serves all accounts"
    );
}

#[tokio::test]
async fn cancelled_list_reading_resumes_at_its_page() {
    let stage = Stage::set().await;
    let appids = stage.platform.merchants(600);
    stage.account(&appids[0], Some(&format!("refresh-{}", appids[0]))).poll().await.unwrap();
    let account = stage.account(&appids[599], None);
    let first_page = stage.platform.delay_next();
    let mut poll = Box::pin(account.poll());
    stage.platform.poll_until_requested(&mut poll, "api_get_authorizer_list", 1).await;
    let second_page = stage.platform.delay_next();
    drop(first_page);
    stage.platform.poll_until_requested(&mut poll, "api_get_authorizer_list", 2).await;
    drop((poll, second_page));
    account.poll().await.unwrap();
    let world = stage.platform.world();
    let lists = world.asked.iter().filter(|asked| asked.path.ends_with("api_get_authorizer_list"));
    let offsets: Vec<_> = lists.map(|asked| asked.body["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [0, 500, 500]);
}

#[tokio::test]
async fn waiting_official_accounts_share_component_token_failure() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(20);
    stage.platform.world().ticket = "ticket-2".to_owned();
    let release = stage.platform.delay_next();
    let mut polls = join_all(accounts.iter().map(Account::failure));
    stage.platform.poll_until_requested(&mut polls, "api_component_token", 1).await;
    stage.platform.clock.pass(MIN_FETCH_INTERVAL);
    drop(release);
    for failure in polls.await {
        assert_eq!(failure.error.errcode(), Some(61006));
    }
    assert_eq!(stage.platform.request_count("api_component_token"), 1);
}

#[tokio::test]
async fn ticket_is_read_again_for_each_fetch() {
    let stage = Stage::set().await;
    let accounts = stage.accounts(2);
    stage.platform.world().ticket = "ticket-2".to_owned();
    let failure = accounts[0].failure().await;
    assert_eq!((failure.endpoint, failure.error.errcode()), (Endpoint::ComponentToken, Some(61006)));
    stage.platform.clock.pass(MIN_FETCH_INTERVAL / 2);
    assert_eq!(
        accounts[1].failure().await.error.errcode(),
        Some(61006),
        "a poll within the interval gets the reason"
    );
    assert_eq!(stage.platform.request_count("api_component_token"), 1);
    let failed = |n: usize| accounts[n].tally.failed.load(Ordering::Relaxed);
    assert_eq!((failed(0), failed(1)), (1, 0), "a fetch that was not made has not failed");

    std::fs::write(stage.ticket(), "ticket-2").unwrap();
    stage.platform.clock.pass(MIN_FETCH_INTERVAL / 2);
    for account in &accounts {
        account.poll().await.unwrap();
    }
    assert_eq!(
        stage.platform.request_count("api_component_token"),
        2,
        "no account waited for another's failure"
    );
}

#[tokio::test]
async fn missing_ticket_file_is_named() {
    let stage = Stage::set().await;
    std::fs::remove_file(stage.ticket()).unwrap();
    let failure = stage.accounts(1)[0].failure().await;
    assert!(failure.to_string().starts_with("api_component_token: ticket file: /"), "{failure}");
    assert_eq!(failure.class, ErrorClass::NotAuthorized);
    assert_eq!(stage.platform.request_count("api_component_token"), 0);
    std::fs::write(stage.ticket(), "ticket-1").unwrap();
    stage.accounts(1)[0].poll().await.unwrap();
}

#[tokio::test]
async fn ticket_can_come_from_a_server() {
    let platform = Platform::start().await;
    let url = format!("{}/ticket", platform.url).parse().unwrap();
    let server = TokenServer { url, header: None, json_pointer: None };
    let component = platform.component(TicketSource::Server(server), None);
    let appid = platform.merchants(1).remove(0);
    let account = platform.of_component(&appid, &component, None);
    account.poll().await.unwrap();
    assert_eq!(account.tally.of(Endpoint::TokenServer), 1);
}

#[tokio::test]
async fn component_min_fetch_interval_survives_restart() {
    let stage = Stage::resumed(Some(Duration::from_secs(3))).await;
    let account = stage.accounts(1).remove(0);
    let failure = account.failure().await;
    assert_eq!((failure.endpoint, failure.error), (Endpoint::ComponentToken, CallError::TokenNotYet));
    assert_eq!(stage.platform.request_count("api_component_token"), 0);
    stage.platform.clock.pass(Duration::from_secs(7));
    account.poll().await.unwrap();
}
