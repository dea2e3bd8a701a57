//! The operator's own token server.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use kfwatch::{
    domain::error_class::ErrorClass,
    wechat::{
        Endpoint,
        error::CallError,
        token::{MIN_FETCH_INTERVAL, TokenServer, TokenSource},
    },
};

use super::platform::Platform;

const MINUTE: Duration = Duration::from_secs(60);

fn source(platform: &Platform, path: &str) -> TokenSource {
    let url = format!("{}{path}", platform.url).parse().unwrap();
    TokenSource::Server(TokenServer { url, header: None, json_pointer: None })
}

/// Makes the server return this token, and WeChat accept no other.
fn replace_token(platform: &Platform, token: &str) {
    platform.world().served = (200, format!("{token}\n"));
    platform.world().accepted = token.to_owned();
}

#[tokio::test]
async fn server_token_is_cached_for_a_minute() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    for _ in 0..10 {
        account.poll().await.unwrap();
    }
    assert_eq!(platform.request_count("/token"), 1);
    platform.clock.pass(MINUTE);
    account.poll().await.unwrap();
    assert_eq!(platform.request_count("/token"), 2);
    assert_eq!(account.tally.of(Endpoint::TokenServer), 2, "each call is reported");
    assert_eq!(account.tally.refreshed.load(Ordering::Relaxed), 0, "its expiry is not known");
    assert_eq!(*platform.journal.fetches.lock().unwrap(), ["wx0123456789abcdef"; 2]);
}

#[tokio::test]
async fn refused_server_token_respects_min_fetch_interval() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    account.poll().await.unwrap();
    replace_token(&platform, "served-2");
    for poll in ["the rejection", "the next poll, which may not fetch"] {
        let failure = account.failure().await;
        assert_eq!((failure.class, failure.error.errcode()), (ErrorClass::Busy, Some(40001)), "{poll}");
    }
    assert_eq!(platform.request_count("/token"), 1);
    platform.clock.pass(MIN_FETCH_INTERVAL);
    account.poll().await.unwrap();
    platform.clock.pass(MIN_FETCH_INTERVAL);
    replace_token(&platform, "served-3");
    account.poll().await.unwrap();
    assert_eq!(platform.request_count("/token"), 3);
    assert_eq!(account.tally.dropped.load(Ordering::Relaxed), 2);
    assert_eq!(
        account.tally.replaced.load(Ordering::Relaxed),
        0,
        "other programs are expected to fetch tokens there"
    );
}

#[tokio::test]
async fn min_fetch_interval_survives_restart() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), Some(Duration::from_secs(3)));
    assert_eq!(account.failure().await.error, CallError::TokenNotYet);
    assert_eq!(platform.request_count("/token"), 0);
    platform.clock.pass(Duration::from_secs(7));
    account.poll().await.unwrap();
}

#[tokio::test]
async fn token_server_request_has_header_and_json_pointer() {
    let platform = Platform::start().await;
    platform.world().served = (200, r#"{"data":{"token":"served-1","expires_in":1}}"#.to_owned());
    let url = format!("{}/token?key=s3cret", platform.url).parse().unwrap();
    let header = ("x-key".parse().unwrap(), "Bearer s3cret".parse().unwrap());
    let json_pointer = Some("/data/token".to_owned());
    let source = TokenSource::Server(TokenServer { url, header: Some(header.into()), json_pointer });
    let account = platform.own(source, None);
    account.poll().await.unwrap();
    let asked = platform.world().asked[0].clone();
    assert_eq!((asked.key.as_deref(), asked.query["key"].as_str()), (Some("Bearer s3cret"), "s3cret"));
}

#[tokio::test]
async fn url_credentials_are_sent_as_basic_auth() {
    let platform = Platform::start().await;
    let url = platform.url.replace("http://", "http://me:s3cret@").parse().unwrap();
    let source = TokenSource::Server(TokenServer { url, header: None, json_pointer: None });
    platform.own(source, None).poll().await.unwrap();
    assert_eq!(platform.world().asked[0].key.as_deref(), Some("Basic bWU6czNjcmV0"));
}

#[tokio::test]
async fn token_server_failures_are_distinct_and_leak_nothing() {
    let platform = Platform::start().await;
    let url = format!("{}/token?key=s3cret", platform.url).parse().unwrap();
    let header = ("authorization".parse().unwrap(), "Bearer s3cret-too".parse().unwrap());
    let server = TokenServer { url, header: Some(header.into()), json_pointer: None };
    let account = platform.own(TokenSource::Server(server), None);
    let refused = |status| format!("token_server: {} answers with HTTP status {status}", platform.url);
    for (status, body, expected) in [
        (500, "s3cret", "token_server: HTTP status 500"),
        (429, "s3cret", "token_server: HTTP status 429"),
        (401, "s3cret", &refused(401)),
        (302, "served-1", &refused(302)),
        (200, "", "token_server: malformed response: does not contain exactly one token"),
        (200, "<p>s3cret", "token_server: malformed response: HTML or XML, not a token"),
        (200, r#"{"s3cret":1}"#, "token_server: malformed response: JSON, but no json_pointer is configured"),
        (
            200,
            r#"{"errcode":"40164","errmsg":"s3cret-too is not on the list"}"#,
            "token_server: errcode 40164: [REDACTED] is not on the list",
        ),
    ] {
        platform.world().served = (status, body.to_owned());
        let failure = account.failure().await;
        assert_eq!(failure.to_string(), expected);
        assert_eq!(failure.endpoint, Endpoint::TokenServer);
        platform.clock.pass(MIN_FETCH_INTERVAL);
    }
    assert_eq!(platform.request_count("/elsewhere"), 0, "no redirect is followed");
    assert_eq!(account.tally.failed.load(Ordering::Relaxed), 8);
    platform.world().served = (200, "served-1".to_owned());
    account.poll().await.unwrap();
}

#[tokio::test]
async fn valid_token_is_used_while_server_is_down() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    account.poll().await.unwrap();
    platform.world().served = (503, String::new());
    for _ in 0..5 {
        platform.clock.pass(MINUTE);
        account.poll().await.unwrap();
    }
    assert_eq!(platform.request_count("/token"), 6);
    platform.world().accepted = "served-2".to_owned();
    platform.clock.pass(MINUTE);
    let failure = account.failure().await;
    assert_eq!((failure.endpoint, failure.class), (Endpoint::SessionList, ErrorClass::Busy));
}

#[tokio::test]
async fn token_server_bypasses_wechat_proxy() {
    let platform = Platform::with_proxy(Some("http://127.0.0.1:9")).await;
    let account = platform.own(source(&platform, "/token"), None);
    let failure = account.failure().await;
    assert_eq!((failure.endpoint, failure.error.code()), (Endpoint::SessionList, "connect"));
    assert_eq!(platform.request_count("/token"), 1);
}

#[tokio::test]
async fn hanging_token_server_delays_one_poll_only() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    account.poll().await.unwrap();
    platform.clock.pass(MINUTE);
    let release = platform.delay_next();
    let mut slow = Box::pin(account.poll());
    platform.poll_until_requested(&mut slow, "/token", 2).await;
    platform.clock.pass(MIN_FETCH_INTERVAL);
    let others = join_all((0..20).map(|_| account.poll()));
    for answer in tokio::time::timeout(Duration::from_secs(4), others).await.unwrap() {
        answer.unwrap();
    }
    drop(release);
    slow.await.unwrap();
    assert_eq!(platform.request_count("/token"), 2);
}

#[tokio::test]
async fn waiters_share_failed_fetch_and_interval_starts_at_its_end() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    platform.world().served = (503, String::new());
    let release = platform.delay_next();
    let mut polls = join_all((0..20).map(|_| account.failure()));
    platform.poll_until_requested(&mut polls, "/token", 1).await;
    platform.clock.pass(MIN_FETCH_INTERVAL);
    drop(release);
    for failure in polls.await {
        assert_eq!(failure.to_string(), "token_server: HTTP status 503");
    }
    account.failure().await;
    assert_eq!(platform.request_count("/token"), 1);
    platform.clock.pass(MIN_FETCH_INTERVAL);
    account.failure().await;
    assert_eq!(platform.request_count("/token"), 2);
}

#[tokio::test]
async fn late_refusal_keeps_newer_token() {
    let platform = Platform::start().await;
    let account = platform.own(source(&platform, "/token"), None);
    account.poll().await.unwrap();
    platform.clock.pass(MIN_FETCH_INTERVAL);
    platform.world().accepted = "another".to_owned();
    let release = platform.delay_next();
    let mut late = Box::pin(account.poll());
    platform.poll_until_requested(&mut late, "getsessionlist", 2).await;
    platform.clock.pass(Duration::from_secs(1));
    account.failure().await;
    assert_eq!(platform.request_count("/token"), 2);
    drop(release);
    assert_eq!(late.await.unwrap_err().error.errcode(), Some(40001));
    platform.world().accepted = "served-1".to_owned();
    account.poll().await.unwrap();
    assert_eq!(account.tally.dropped.load(Ordering::Relaxed), 1);
}
