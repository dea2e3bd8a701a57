//! Sources of tokens that change while the daemon runs.

use std::sync::Arc;

use kfwatch::{
    domain::clock::Clock,
    wechat::{
        Endpoint,
        token::{ComponentCredentials, MIN_FETCH_INTERVAL, TicketSource, TokenServer, TokenSource},
    },
};
use secrecy::SecretString;

use super::platform::{COMPONENT, COMPONENT_SECRET, Platform, authorization};

fn server(platform: &Platform, path: &str) -> TokenServer {
    let url = format!("{}{path}", platform.url).parse().unwrap();
    TokenServer { url, header: None, json_pointer: None }
}

fn own(platform: &Platform, path: &str) -> TokenSource {
    TokenSource::Server(server(platform, path))
}

fn tickets(platform: &Platform, path: &str) -> TicketSource {
    TicketSource::Server(server(platform, path))
}

fn credentials(secret: &str, ticket: TicketSource) -> Arc<ComponentCredentials> {
    let secret = SecretString::from(secret).into();
    Arc::new(ComponentCredentials { appid: COMPONENT.into(), secret, ticket })
}

#[tokio::test]
async fn token_of_earlier_source_that_arrives_late_is_renewed() {
    let platform = Platform::start().await;
    let account = platform.own(own(&platform, "/old"), None);
    let answer = platform.delay_next();
    let mut poll = Box::pin(account.poll());
    platform.poll_until_requested(&mut poll, "/old", 1).await;
    account.client.tokens().set_source(own(&platform, "/new"));
    drop(answer);
    poll.await.unwrap();
    assert_eq!(platform.request_count("/new"), 0, "the old token serves for the minimum interval");
    platform.clock.pass(MIN_FETCH_INTERVAL);
    for _ in 0..3 {
        account.poll().await.unwrap();
    }
    assert_eq!((platform.request_count("/old"), platform.request_count("/new")), (1, 1));
}

#[tokio::test]
async fn late_failure_of_earlier_source_is_no_cause_for_new_one() {
    let platform = Platform::start().await;
    platform.world().served = (502, String::new());
    let account = platform.own(own(&platform, "/old"), None);
    let answer = platform.delay_next();
    let mut poll = Box::pin(account.poll());
    platform.poll_until_requested(&mut poll, "/old", 1).await;
    account.client.tokens().set_source(own(&platform, "/new"));
    drop(answer);
    poll.await.unwrap_err();
    assert!(!account.client.token_wait(platform.clock.now()).without_cause.is_zero());
}

#[tokio::test]
async fn component_can_replace_own_source() {
    let platform = Platform::start().await;
    let account = platform.own(own(&platform, "/token"), None);
    account.poll().await.unwrap();
    let appid = "wx0123456789abcdef";
    platform.merchants(1);
    let merchant = platform.world().merchants["wx0000000000000000"].clone();
    platform.world().merchants.insert(appid.to_owned(), merchant);
    let component = platform.component(tickets(&platform, "/ticket"), None);
    platform.clock.pass(MIN_FETCH_INTERVAL);
    account.client.tokens().set_source(authorization(&component, Some("refresh-wx0000000000000000")));
    for _ in 0..3 {
        account.poll().await.unwrap();
    }
    assert_eq!(account.tally.of(Endpoint::AuthorizerToken), 1);
    assert_eq!(account.tally.of(Endpoint::TokenServer), 2, "a token and a ticket");
    assert!(account.client.token_status().unwrap().expires_in.is_some());
}

#[tokio::test]
async fn changed_credentials_fetch_component_token_once_and_no_other() {
    let platform = Platform::start().await;
    let component = platform.component(tickets(&platform, "/ticket"), None);
    let merchants = platform.merchants(4).into_iter().map(|appid| {
        let refresh_token = format!("refresh-{appid}");
        (platform.of_component(&appid, &component, Some(&refresh_token)), refresh_token)
    });
    let merchants: Vec<_> = merchants.collect();
    merchants[0].0.poll().await.unwrap();
    let same = credentials(COMPONENT_SECRET, tickets(&platform, "/ticket"));
    let changed = credentials(COMPONENT_SECRET, tickets(&platform, "/other/ticket"));
    for (number, credentials, component_tokens) in [(1, &same, 1), (2, &changed, 2), (3, &changed, 2)] {
        platform.clock.pass(MIN_FETCH_INTERVAL);
        for (account, refresh_token) in &merchants {
            component.set_credentials(Arc::clone(credentials));
            account.client.tokens().set_source(authorization(&component, Some(refresh_token)));
        }
        // The first has a token, the other needs one.
        for number in [0, number] {
            merchants[number].0.poll().await.unwrap();
            assert_eq!(merchants[number].0.tally.of(Endpoint::AuthorizerToken), 1);
        }
        assert_eq!(platform.request_count("api_component_token"), component_tokens);
    }
    assert_eq!(platform.request_count("/other/ticket"), 1);
}

#[tokio::test]
async fn configured_refresh_token_matters_while_none_is_stored() {
    let platform = Platform::start().await;
    let component = platform.component(tickets(&platform, "/ticket"), None);
    let appids = platform.merchants(2);
    platform.world().merchants.get_mut(&appids[0]).unwrap().rotates = true;
    for (appid, fetches) in [(&appids[0], 1), (&appids[1], 3)] {
        let account = platform.of_component(appid, &component, Some(&format!("refresh-{appid}")));
        account.poll().await.unwrap();
        account.client.tokens().set_source(authorization(&component, Some("another")));
        platform.clock.pass(MIN_FETCH_INTERVAL);
        account.poll().await.unwrap();
        assert_eq!(account.tally.of(Endpoint::AuthorizerToken), fetches, "one, and another of the list");
    }
    let sent = |token: &str| {
        let is_sent = |asked: &&super::platform::Asked| asked.body["authorizer_refresh_token"] == token;
        platform.world().asked.iter().filter(is_sent).count()
    };
    assert_eq!(sent("another"), 1);
}
