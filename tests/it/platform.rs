//! Official accounts of a third-party platform, watched by the real program: from the ticket file to the polls, while tickets
//! are rewritten, refresh tokens rotate or become invalid, and the program is killed.
//!
//! The module `tokens` tests the single calls.

use std::{fmt::Write as _, time::Duration};

use crate::support::{
    process::{Home, Process, WeChat, appid, metric, quiet},
    wait::eventually,
};
use kfwatch::simulator::{
    ApiCall, ComponentParameter, ComponentScript, Fault, FaultRule, RefreshTokenRotation, Scenario,
    TokenRoute,
};

const COMPONENT: &str = "wx00000000000000c1";

/// Starts a simulator with so many merchants of one kf account each, and configures a daemon for them. The backoff is one
/// second, so that recovery is fast.
fn platform(merchants: usize, rotation: RefreshTokenRotation) -> (WeChat, Home) {
    let names: Vec<String> = (0..merchants).map(|number| format!("m{number}")).collect();
    let official_accounts: Vec<(&str, usize)> = names.iter().map(|name| (&**name, 1)).collect();
    let component = ComponentScript {
        component_appid: COMPONENT.to_owned(),
        secret: "c1".repeat(16),
        authorizers: names.clone(),
        component_parameter: ComponentParameter::ComponentAccessToken,
        rotate_refresh_tokens: rotation,
        ticket_header: None,
    };
    let scenario = Scenario { components: vec![component], ..quiet(&official_accounts) };
    let refresh_tokens: Vec<String> = (0..merchants)
        .map(|index| match scenario.token_route(&appid(index)) {
            TokenRoute::Component { refresh_token, .. } => refresh_token,
            other => unreachable!("{other:?}"),
        })
        .collect();
    let wechat = WeChat::play(scenario);
    let home = Home::new();
    let mut text = format!(
        "api.base_url = \"http://{}\"\npoll.schedule = \"* * * * * *\"\nweb.listen = \"127.0.0.1:0\"\n\
         [backoff]\nnot_authorized = \"1s\"\n",
        wechat.address()
    );
    for (index, (name, refresh_token)) in names.iter().zip(refresh_tokens).enumerate() {
        write!(
            text,
            "[[official_accounts]]\nname = \"{name}\"\nappid = \"{}\"\nkf_accounts = [\"kf1@{name}\"]\n\
             [official_accounts.token]\nsource = \"component\"\ncomponent_appid = \"{COMPONENT}\"\n\
             secret_file = \"platform.secret\"\nticket_file = \"ticket\"\nrefresh_token = \"{refresh_token}\"\n",
            appid(index)
        )
        .unwrap();
    }
    home.write("config.toml", &text);
    home.write("platform.secret", &"c1".repeat(16));
    (wechat, home)
}

fn push_ticket(wechat: &WeChat, home: &Home) {
    home.write("ticket", &wechat.control().ticket(COMPONENT).unwrap());
}

fn eventually_all_up(what: &str, daemon: &Process, merchants: usize) {
    eventually(what, || {
        let page = daemon.get("/metrics").text();
        let up = |index: usize| {
            let series =
                format!("wechat_kf_account_up{{official_account=\"m{index}\",kf_account=\"kf1@m{index}\"}}");
            metric(&page, &series) == Some(1.0)
        };
        (0..merchants).all(up).then_some(())
    });
}

/// Counts the log lines that contain all of these words. A line of several official accounts counts once for each.
fn logged(daemon: &Process, words: &[&str]) -> usize {
    let log = daemon.stderr();
    let accounts = |line: &str| match line.split_once(" official_accounts=") {
        Some((_, rest)) if line.contains(" examples=") => rest.split(' ').next().unwrap().parse().unwrap(),
        _ => 1,
    };
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(accounts).sum()
}

#[test]
fn missing_ticket_is_logged_and_recovers() {
    let (wechat, home) = platform(2, RefreshTokenRotation::Never);
    let control = wechat.control();
    let daemon = home.daemon();
    eventually("the refusals", || (logged(&daemon, &["ERROR", "ticket file", "remedy="]) == 2).then_some(()));
    assert_eq!(control.requests(ApiCall::ComponentToken), 0);
    push_ticket(&wechat, &home);
    eventually_all_up("the token chain", &daemon, 2);
    assert_eq!(control.requests(ApiCall::ComponentToken), 1, "shared by both");
    assert_eq!(control.requests(ApiCall::AuthorizerToken), 2);
    assert_eq!(logged(&daemon, &["ERROR"]), 2, "once each");
}

#[test]
fn check_before_first_run_keeps_rotated_refresh_tokens() {
    let (wechat, home) = platform(2, RefreshTokenRotation::AtOnce);
    let control = wechat.control();
    push_ticket(&wechat, &home);
    let ended = home.run("check --online");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.ends_with("\nNothing needs to be fixed.\n"), "{ended:?}");
    assert_eq!(control.requests(ApiCall::AuthorizerToken), 2);
    let daemon = home.daemon();
    eventually_all_up("the daemon", &daemon, 2);
    assert_eq!(
        control.requests(ApiCall::AuthorizerToken),
        4,
        "with the refresh tokens that the check stored"
    );
    assert_eq!(control.requests(ApiCall::AuthorizerList), 0);
    assert_eq!(logged(&daemon, &["First polls wait"]), 1);
    assert_eq!(logged(&daemon, &["ERROR"]), 0);
}

#[test]
fn failing_platform_tokens_are_logged_and_recover_without_restart() {
    let (wechat, home) = platform(2, RefreshTokenRotation::AtOnce);
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@m0", "o-stays", None).unwrap();
    push_ticket(&wechat, &home);
    let daemon = home.daemon();
    eventually_all_up("the first token chain", &daemon, 2);

    // All tokens expire, and the file still has the ticket of yesterday.
    control.advance(Duration::from_secs(25 * 3600));
    eventually("the old ticket", || {
        (logged(&daemon, &["ERROR", "api_component_token: errcode 6100", "remedy="]) == 2).then_some(())
    });
    push_ticket(&wechat, &home);
    eventually_all_up("the second token chain", &daemon, 2);
    assert_eq!(control.requests(ApiCall::AuthorizerList), 0, "rotated refresh tokens are known");

    // One merchant's refresh token is invalid: the list has the new one.
    control.invalidate_refresh_token(&appid(1)).unwrap();
    control.revoke_tokens(&appid(1)).unwrap();
    eventually("the list", || (control.requests(ApiCall::AuthorizerList) == 1).then_some(()));
    eventually_all_up("the third token chain", &daemon, 2);
    assert_eq!(control.requests(ApiCall::AuthorizerList), 1);

    let calls = control.token_calls();
    for index in [0, 1] {
        let of_merchant = calls.iter().filter(|call| {
            call.endpoint == ApiCall::AuthorizerToken && call.appid.as_deref() == Some(&*appid(index))
        });
        // A refused refresh token is replaced and used in one fetch.
        assert!((2..=5).contains(&of_merchant.count()), "{calls:?}");
    }
    assert!((3..=5).contains(&control.requests(ApiCall::ComponentToken)), "{calls:?}");
    println!(
        "chain: {} component tokens, {} authorizer tokens, 1 list",
        control.requests(ApiCall::ComponentToken),
        control.requests(ApiCall::AuthorizerToken)
    );
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout.lines().count(), 1, "the baseline, and no end: {}", ended.stdout);
}

/// Kills the program repeatedly while it fetches refresh tokens. Returns how often the list was requested until all merchants
/// were polled.
fn lists_after_kills(rotation: RefreshTokenRotation) -> u64 {
    const MERCHANTS: usize = 40;
    let (wechat, home) = platform(MERCHANTS, rotation);
    let control = wechat.control();
    push_ticket(&wechat, &home);
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..2 {
        // Responses take different times, so that the program is killed before some of them and after others.
        for kf in 0..MERCHANTS {
            control.inject(FaultRule {
                endpoint: Some(ApiCall::AuthorizerToken),
                official_account: Some(appid(kf)),
                ..FaultRule::new(Fault::Slow(Duration::from_millis(random.u64(0..400))))
            });
        }
        let before = control.requests(ApiCall::AuthorizerToken);
        let daemon = home.daemon();
        eventually("refreshes", || (control.requests(ApiCall::AuthorizerToken) > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.u64(20..300)));
        daemon.signal("KILL");
        assert_eq!(daemon.ended().code, None);
        control.clear_faults();
        println!(
            "{rotation:?}, round {round}: {} refreshes",
            control.requests(ApiCall::AuthorizerToken) - before
        );
    }
    let daemon = home.daemon();
    eventually_all_up("all merchants", &daemon, MERCHANTS);
    control.requests(ApiCall::AuthorizerList)
}

#[test]
fn killed_rotation_loses_no_refresh_token() {
    assert_eq!(lists_after_kills(RefreshTokenRotation::WhenUsed), 0);
}

#[test]
fn lost_refresh_token_is_recovered_from_list() {
    let lists = lists_after_kills(RefreshTokenRotation::AtOnce);
    println!("{lists} lists");
    assert!((1..=4).contains(&lists), "{lists} lists for forty merchants");
}
