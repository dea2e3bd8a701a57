//! The daemon's wiring of configuration, store and components, for one official account and for thousands.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use kfwatch::{
    app::OfficialAccountFactory,
    config::{Config, Environment},
    domain::{backoff::BackoffPolicy, clock::Clock, tracker::AccountTracker},
    metrics::Metrics,
    poll::{OfficialAccount, PollGuard, SessionFetcher},
    status::WatchedAccount,
    store::{AccountId, Store},
    wechat::token::MIN_FETCH_INTERVAL,
};
use secrecy::ExposeSecret;

use super::platform::{COMPONENT, COMPONENT_SECRET, Platform};

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// An official account with a refresh token of its own in a file.
fn account(directory: &Path, n: usize) -> String {
    write(&directory.join(format!("{n}.refresh")), &format!("refresh-wx{n:016}\n"));
    format!(
        "[[official_accounts]]\nname = \"shop{n}\"\nappid = \"wx{n:016}\"\nkf_accounts = [\"kf@shop{n}\"]\n\
         [official_accounts.token]\nsource = \"component\"\ncomponent_appid = \"{COMPONENT}\"\n\
         secret_file = \"platform.secret\"\nticket_file = \"ticket\"\nrefresh_token_file = \"{n}.refresh\"\n"
    )
}

fn load(directory: &Path, main: &str) -> Config {
    write(&directory.join("platform.secret"), COMPONENT_SECRET);
    write(&directory.join("ticket"), "ticket-1");
    write(&directory.join("config.toml"), main);
    let loaded = Config::load(&directory.join("config.toml"), &Environment::default()).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    loaded.config
}

fn official_accounts(config: &Config, factory: &OfficialAccountFactory) -> Vec<Arc<OfficialAccount>> {
    let metrics = Metrics::new().unwrap();
    let (client, configured) = (factory.client(), config.official_accounts.iter());
    configured
        .map(|configured| factory.official_account(&client, configured, Arc::default(), &metrics))
        .collect()
}

/// Polls the kf account of the first official account.
async fn poll(platform: &Platform, config: &Config, official_account: &Arc<OfficialAccount>) {
    let account = kfwatch::app::accounts(&config.official_accounts[0]).next().unwrap();
    let watched = Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()));
    let guard = PollGuard::try_acquire(official_account, &watched).unwrap();
    let clock = Arc::clone(&platform.clock) as Arc<dyn Clock>;
    let fetcher = SessionFetcher::new(clock, Duration::from_secs(20), BackoffPolicy::default());
    fetcher.fetch(&guard).await.unwrap();
}

#[tokio::test]
async fn official_account_that_comes_back_knows_its_tokens() {
    let platform = Platform::start().await;
    platform.merchants(1);
    platform.world().merchants.values_mut().next().unwrap().rotates = true;
    let directory = tempfile::tempdir().unwrap();
    let text = format!("api.base_url = \"{}\"\n{}", platform.url, account(directory.path(), 0));
    let config = load(directory.path(), &text);
    let store = Store::open(config.store.location.file().unwrap()).unwrap();
    let clock = Arc::clone(&platform.clock) as Arc<dyn Clock>;
    let factory = OfficialAccountFactory::build(&config, &store, clock).await.unwrap();
    for _ in 0..2 {
        let official_account = official_accounts(&config, &factory).remove(0);
        poll(&platform, &config, &official_account).await;
        drop(official_account);
        factory.adopt(factory.client());
        let official_account = official_accounts(&config, &factory).remove(0);
        assert!(!official_account.token_wait().is_zero(), "the minimum interval has not passed");
        platform.clock.pass(MIN_FETCH_INTERVAL);
    }
    assert_eq!(platform.request_count("api_authorizer_token"), 2);
    assert_eq!(platform.request_count("api_get_authorizer_list"), 0, "the newest refresh token is known");
}

#[test]
fn update_changes_only_what_differs() {
    let configured = |text: &str| {
        let text = format!(
            "{text}\n[[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\n\
             kf_accounts = [\"kf@shop\"]\ntoken.secret = \"s\"\n"
        );
        Config::from_toml(&text, Path::new("/nowhere"), &Environment::default()).unwrap().config
    };
    let limit = "poll.max_requests_per_minute = 60";
    let config = configured(limit);
    let clock: Arc<dyn Clock> = Arc::new(kfwatch::app::clock::SystemClock::default());
    let factory = OfficialAccountFactory::without_store(&config, clock).unwrap();
    let official_account = official_accounts(&config, &factory).remove(0);
    let before = official_account.client();
    let reload = |to: &Config| {
        let client = factory.prepare(to).unwrap();
        factory.update(&client, &official_account, &config.official_accounts[0], &to.official_accounts[0]);
        factory.adopt(client);
        official_account.client()
    };

    let unchanged = reload(&configured(&format!("api.max_in_flight = 70\n{limit}")));
    assert!(Arc::ptr_eq(&before, &unchanged));

    let other_http_client = reload(&configured(&format!("api.timeout = \"9s\"\n{limit}")));
    assert!(!Arc::ptr_eq(before.http_client(), other_http_client.http_client()));
    assert!(Arc::ptr_eq(before.tokens(), other_http_client.tokens()));
    assert!(Arc::ptr_eq(before.rate_limiter().unwrap(), other_http_client.rate_limiter().unwrap()));

    let other_limit = reload(&configured("api.timeout = \"9s\"\npoll.max_requests_per_minute = 120"));
    assert!(Arc::ptr_eq(other_http_client.http_client(), other_limit.http_client()));
    assert_eq!(other_limit.rate_limiter().unwrap().spacing(), Duration::from_millis(500));
    assert!(reload(&configured("api.timeout = \"9s\"")).rate_limiter().is_none());
}

#[tokio::test]
async fn rotated_refresh_token_survives_restart() {
    let platform = Platform::start().await;
    platform.merchants(1);
    platform.world().merchants.values_mut().next().unwrap().rotates = true;
    let directory = tempfile::tempdir().unwrap();
    let config = load(
        directory.path(),
        &format!("api.base_url = \"{}\"\n{}", platform.url, account(directory.path(), 0)),
    );
    for run in 1..=2 {
        let store = Store::open(config.store.location.file().unwrap()).unwrap();
        let clock = Arc::clone(&platform.clock) as Arc<dyn Clock>;
        let factory = OfficialAccountFactory::build(&config, &store, clock).await.unwrap();
        poll(&platform, &config, &official_accounts(&config, &factory)[0]).await;
        let stored = store.refresh_tokens().await.unwrap();
        assert_eq!(stored["wx0000000000000000"].expose_secret(), format!("refresh-wx0000000000000000-{run}"));
        store.close().await;
        platform.clock.pass(MIN_FETCH_INTERVAL);
    }
    assert_eq!(platform.request_count("api_get_authorizer_list"), 0);
}

#[tokio::test]
async fn ten_thousand_official_accounts_of_one_component_are_built() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("accounts.d")).unwrap();
    for file in 0..10 {
        let mut text = String::new();
        for n in file * 1000..(file + 1) * 1000 {
            write!(text, "{}", account(directory.path(), n)).unwrap();
        }
        write(&directory.path().join(format!("accounts.d/{file}.toml")), &text);
    }
    let started = std::time::Instant::now();
    let config = load(directory.path(), "include = \"accounts.d/*.toml\"\n");
    let loaded = started.elapsed();
    let store = Store::open(config.store.location.file().unwrap()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(kfwatch::app::clock::SystemClock::default());
    let factory = OfficialAccountFactory::build(&config, &store, clock).await.unwrap();
    assert_eq!(official_accounts(&config, &factory).len(), 10_000);
    println!("loaded in {loaded:?}, ready after {:?}", started.elapsed());
}
