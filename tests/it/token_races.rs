//! Competing token fetches, refused tokens and token outages: polling continues where it can, an official account fetches at
//! most one token in ten seconds (also across crashes), and no session ends because of it.
//!
//! `wechat.rs` and `tokens` test single calls; this module tests whole polls with a scripted clock, and crashes of the real
//! program.

use std::time::{Duration, Instant};

use crate::support::{
    events::Event,
    process::{Home, WeChat, appid, metric, quiet, secret},
    stage::Stage,
    wait::eventually,
};
use kfwatch::simulator::{
    ApiCall, CustomerFlow, Fault, FaultRule, RecordedResponse, Scenario, SimulatorControl,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The minimum time between two token fetches of an official account.
const MIN_FETCH_INTERVAL_MS: i64 = 10_000;

/// Sets up an official account with this token source. Each of its kf accounts has one session, which stays open.
async fn shop(source: &str, kf_accounts: usize, schedule: &str) -> Stage {
    let customers = CustomerFlow { initial: 1, ..CustomerFlow::default() };
    let scenario = Scenario { customers, ..quiet(&[("shop", kf_accounts)]) };
    let names = scenario.accounts().remove(0).kf_accounts;
    Stage::start(scenario, |base_url| {
        let token = match source {
            "server" => format!(
                "url = \"{base_url}/simulator/tokens/{}\"\njson_pointer = \"/access_token\"",
                appid(0)
            ),
            _ => format!("secret = \"{}\"", secret(0)),
        };
        format!(
            "api.base_url = \"{base_url}\"\napi.timeout = \"1m\"\napi.connect_timeout = \"1m\"\npoll.schedule = \"{schedule}\"\n[[official_accounts]]\n\
             name = \"shop\"\nappid = \"{}\"\nkf_accounts = {names:?}\n[official_accounts.token]\n\
             source = \"{source}\"\n{token}\n",
            appid(0)
        )
    })
    .await
}

/// Returns when tokens were fetched. Asserts that no two fetches were closer than [`MIN_FETCH_INTERVAL_MS`].
fn fetches(control: &SimulatorControl, endpoint: ApiCall) -> Vec<i64> {
    spaced(arrivals(control, endpoint))
}

/// The same without the repetitions of calls whose connection broke.
fn fetches_not_repeated(control: &SimulatorControl, endpoint: ApiCall) -> Vec<i64> {
    let mut at = arrivals(control, endpoint);
    at.dedup_by(|later, earlier| *later - *earlier < LATEST_MS);
    spaced(at)
}

fn arrivals(control: &SimulatorControl, endpoint: ApiCall) -> Vec<i64> {
    let calls = control.token_calls();
    calls.iter().filter(|call| call.endpoint == endpoint).map(|call| call.at_ms).collect()
}

/// The interval applies to when calls are sent. On a busy machine a call may arrive some seconds after it was sent.
const LATEST_MS: i64 = 5_000;

fn spaced(at: Vec<i64>) -> Vec<i64> {
    let too_soon = (0..at.len()).flat_map(|first| (first + 1..at.len()).map(move |last| [first, last]));
    let too_soon = too_soon
        .filter(|[first, last]| {
            at[*last] - at[*first] < MIN_FETCH_INTERVAL_MS * (last - first) as i64 - LATEST_MS
        })
        .count();
    assert_eq!(too_soon, 0, "fetched at {at:?}");
    at
}

/// Returns when the successful polls of this kf account were received.
fn good_polls(stage: &Stage, kf_account: &str) -> Vec<i64> {
    let polls = stage.ledger().polls;
    let good = polls.iter().filter(|poll| {
        *poll.kf_account == *kf_account && matches!(poll.response, RecordedResponse::Listed(_))
    });
    good.map(|poll| poll.received_at_ms).collect()
}

/// Returns the type of each event that does not belong to the baseline, with the states of a state change.
async fn events_after_baseline(stage: &Stage) -> Vec<String> {
    let short = |event: &Event| {
        let [kind, from, to] = ["/type", "/data/from", "/data/to"].map(|pointer| event.text(pointer));
        (event.json["data"]["baseline"] != true).then(|| format!("{kind} {from}>{to}"))
    };
    stage.events().await.values().flatten().filter_map(short).collect()
}

fn session_list_fault(fault: Fault, probability: f64) -> FaultRule {
    let probability = Some(probability);
    FaultRule { endpoint: Some(ApiCall::GetSessionList), probability, ..FaultRule::new(fault) }
}

#[tokio::test]
async fn competing_classic_token_fetches_do_not_stop_polls() {
    let mut stage = shop("classic", 3, "*/5 * * * * *").await;
    for _ in 0..400 {
        stage.run_for(3 * SECOND).await;
        stage.control.fetch_competing_token(&appid(0)).unwrap();
    }
    let fetched = fetches(&stage.control, ApiCall::Token).len();
    let ceiling = 1 + 1200 / 10;
    assert!((ceiling / 2..=ceiling).contains(&fetched), "{fetched} of {ceiling}");
    let good = good_polls(&stage, "kf1@shop");
    let longest = good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    println!(
        "competing fetches: {fetched} fetches of {ceiling}, {} good polls, at most {longest} ms apart",
        good.len()
    );
    assert!(good.len() >= 60 && longest <= 60_000, "{} good polls, {longest} ms apart", good.len());
    let replaced = stage.metric("kfwatch_token_replaced_total{official_account=\"shop\"}").unwrap();
    assert!(replaced >= 0.9 * fetched as f64, "{replaced} of {fetched} noticed");
    assert_eq!(events_after_baseline(&stage).await, [""; 0]);
}

#[tokio::test]
async fn occasional_token_refusals_cost_only_those_polls() {
    let mut stage = shop("stable", 10, "*/15 * * * * *").await;
    stage.run_for(MINUTE).await;
    let before = stage.ledger().polls.len();
    stage.control.inject(session_list_fault(Fault::Errcode(40001), 0.1));
    stage.run_for(HOUR).await;
    let polls = &stage.ledger().polls[before..];
    let refused = polls.iter().filter(|poll| poll.response == RecordedResponse::Refused(40001)).count();
    // A poll that fails twice in a row waits for two seconds at most before the third.
    assert_eq!(polls.len(), 10 * 240, "each kf account at each tick");
    assert!((120..=360).contains(&refused), "{refused} refused");
    let fetched = fetches(&stage.control, ApiCall::StableToken).len();
    println!("current token refused {refused} times: {fetched} fetches in an hour of 241 ticks");
    assert!(fetched <= 1 + 241, "{fetched}: once a tick at most");
    assert_eq!(stage.metric("kfwatch_token_replaced_total{official_account=\"shop\"}"), Some(0.0));
    assert_eq!(events_after_baseline(&stage).await, [""; 0]);
}

#[tokio::test]
async fn expired_token_of_thousand_accounts_is_fetched_once() {
    let mut stage = shop("stable", 1000, "*/15 * * * * *").await;
    stage.run_for(15 * SECOND).await;
    stage.control.expire_tokens(&appid(0)).unwrap();
    let before = stage.ledger().polls.len();
    stage.run_for(15 * SECOND).await;
    let polls = &stage.ledger().polls[before..];
    let good = polls.iter().filter(|poll| matches!(poll.response, RecordedResponse::Listed(_))).count();
    assert_eq!(good, 1000, "each poll is repeated with the new token");
    assert!(polls.len() <= 2000, "{}: repeated once", polls.len());
    assert_eq!(fetches(&stage.control, ApiCall::StableToken).len(), 2);
    assert_eq!(events_after_baseline(&stage).await, [""; 0]);
}

#[tokio::test]
async fn token_endpoint_outage_respects_backoff_and_recovers() {
    for (source, endpoint) in [("stable", ApiCall::StableToken), ("classic", ApiCall::Token)] {
        for (kf_accounts, fault) in
            [(1, Fault::HttpStatus(502)), (20, Fault::Close), (20, Fault::Errcode(-1))]
        {
            let named = format!("{source}, {kf_accounts} kf accounts, {fault:?}");
            let mut stage = shop(source, kf_accounts, "*/15 * * * * *").await;
            stage.run_for(MINUTE).await;
            stage.control.inject(FaultRule { endpoint: Some(endpoint), ..FaultRule::new(fault.clone()) });
            stage.control.revoke_tokens(&appid(0)).unwrap();
            let fetches =
                if (source, &fault) == ("stable", &Fault::Close) { fetches_not_repeated } else { fetches };
            let before = fetches(&stage.control, endpoint).len();
            stage.run_for(HOUR).await;
            let fetched = fetches(&stage.control, endpoint).len() - before;
            // One kf account: six calls while its backoff grows, then one a minute. Many kf accounts: one call a tick.
            let ceiling = if kf_accounts == 1 { 6 + 60 } else { 240 };
            println!("outage ({named}): {fetched} calls of {ceiling}");
            assert!((50..=ceiling).contains(&fetched), "{named}: {fetched} of {ceiling}");
            stage.control.clear_faults();
            stage.run_for(75 * SECOND).await;
            let up = stage.metric("wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}");
            assert_eq!(up, Some(1.0), "{named}: recovers without a restart");
            let change = |states: &str| format!("kf.account.state_changed {states}");
            let expected = [change("ok>blind"), change("blind>ok")];
            assert_eq!(
                events_after_baseline(&stage).await,
                expected.into_iter().cycle().take(2 * kf_accounts).collect::<Vec<_>>()
            );
        }
    }
}

#[tokio::test]
async fn token_server_is_called_each_minute_and_after_refusal() {
    let mut stage = shop("server", 20, "*/15 * * * * *").await;
    stage.run_for(HOUR).await;
    let asked = fetches(&stage.control, ApiCall::TokenServer).len();
    // The token is fetched again from the 45th second of its minute on.
    assert!((60..=81).contains(&asked), "{asked} in an hour");
    // The server keeps returning an invalid token: it is called at most once in ten seconds.
    stage.control.break_token_server(&appid(0)).unwrap();
    stage.control.revoke_tokens(&appid(0)).unwrap();
    stage.run_for(10 * MINUTE).await;
    let stale = fetches(&stage.control, ApiCall::TokenServer).len() - asked;
    println!("token server: {asked} calls in an hour, {stale} in ten minutes in which its token was refused");
    assert!((5..=40).contains(&stale), "{stale} in ten minutes");
    stage.control.repair_token_server(&appid(0)).unwrap();
    stage.run_for(135 * SECOND).await;
    let up = stage.metric("wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}");
    assert_eq!(up, Some(1.0), "recovers without a restart");
    assert!(
        events_after_baseline(&stage).await.iter().all(|event| event.contains("blind")),
        "no session ended"
    );
}

#[test]
fn daemon_calls_token_server_once_until_refusal() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let control = wechat.control();
    let home = Home::watching(&wechat, "");
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    let server = format!(
        "source = \"server\"\nurl = \"http://{}/simulator/tokens/{}\"\njson_pointer = \"/access_token\"",
        wechat.address(),
        appid(0)
    );
    let own = format!("source = \"stable\"\nsecret = \"{}\"", secret(0));
    assert!(text.contains(&own), "{text}");
    home.write("config.toml", &text.replace(&own, &server));
    let daemon = home.daemon();
    let polls = || control.polls_of(&appid(0), "kf1@shop").unwrap();
    eventually("several polls", || (polls() >= 5).then_some(()));
    assert_eq!(control.requests(ApiCall::TokenServer), 1);
    control.revoke_tokens(&appid(0)).unwrap();
    eventually("another token", || (control.requests(ApiCall::TokenServer) == 2).then_some(()));
    let before = polls();
    eventually("good polls", || {
        let up = daemon.metric("wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}");
        (up == Some(1.0) && polls() >= before + 2).then_some(())
    });
    assert_eq!(fetches(&control, ApiCall::TokenServer).len(), 2);
}

#[test]
fn crash_loop_respects_min_fetch_interval_of_stable_tokens() {
    check_crash_loop("stable", ApiCall::StableToken);
}

#[test]
fn crash_loop_respects_min_fetch_interval_of_classic_tokens() {
    check_crash_loop("classic", ApiCall::Token);
}

/// Kills the program again and again, after its first polls or while it waits for a token.
fn check_crash_loop(source: &str, endpoint: ApiCall) {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let home = Home::watching(&wechat, "");
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replace("source = \"stable\"", &format!("source = \"{source}\"")));
    let (mut starts_without_token, begun) = (0, Instant::now());
    for _ in 0..10 {
        let daemon = home.daemon();
        // Either it waits or it polls.
        eventually("polls", || {
            let page = daemon.get("/metrics").text();
            let polls = "kfwatch_polls_total{official_account=\"shop\",kf_account=\"kf1@shop\"}";
            let waits = daemon.stderr().contains("First polls wait");
            (waits || metric(&page, polls).is_some_and(|polls| polls >= 1.0)).then_some(())
        });
        starts_without_token += usize::from(daemon.stderr().contains("First polls wait"));
        daemon.signal("KILL");
        assert_eq!(daemon.ended().code, None);
    }
    let fetched = fetches(&wechat.control(), endpoint).len() as u64;
    let ceiling = 1 + begun.elapsed().as_secs() / 10;
    println!(
        "crash loop ({source}): {fetched} fetches of {ceiling} in 10 starts, {starts_without_token} of them too soon for one"
    );
    assert!(starts_without_token >= 3, "no run was short enough to test the interval");
    assert!(fetched <= ceiling, "{fetched} fetches");
    let daemon = home.daemon();
    eventually("a good poll", || {
        daemon
            .metric("wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}")
            .filter(|up| *up > 0.0)
    });
}
