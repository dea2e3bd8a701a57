//! The real program with tokens from a token server and from a component.

use super::platform::{COMPONENT, COMPONENT_SECRET, Platform};
use crate::support::{process::Home, wait::eventually};

/// Names modules as well, because a filter for a module overrides the filter that silences its crate.
const LOUDEST: &str = "trace,hyper=trace,hyper::proto=trace,hyper_util=trace,hyper_util::client=trace,reqwest=trace,\
    reqwest::connect=trace,reqwest::async_impl=trace,tower_http=trace";

/// Two merchants of a component, one of them with a refresh token that is refused, and an official account whose token
/// comes from a server; the ticket comes from a server as well.
fn home(platform: &Platform) -> Home {
    let home = Home::new();
    let servers = platform.url.replace("http://", "http://me:s3cret-password@");
    let mut text = format!(
        "api.base_url = \"{}\"\npoll.schedule = \"* * * * * *\"\nweb.listen = \"127.0.0.1:0\"\n\
         log.level = \"{LOUDEST}\"\n\
         [[official_accounts]]\nname = \"depot\"\nappid = \"wx00000000000000ff\"\nkf_accounts = [\"kf@depot\"]\n\
         [official_accounts.token]\nsource = \"server\"\nurl = \"{servers}/token?key=s3cret-key\"\n\
         header_file = \"x.header\"\n",
        platform.url
    );
    for (appid, refresh_token) in
        platform.merchants(2).iter().zip(["refresh-wx0000000000000000", "refresh-wx-of-old"])
    {
        text += &format!(
            "[[official_accounts]]\nname = \"{appid}\"\nappid = \"{appid}\"\nkf_accounts = [\"kf@shop\"]\n\
             [official_accounts.token]\nsource = \"component\"\ncomponent_appid = \"{COMPONENT}\"\n\
             secret_file = \"platform.secret\"\nticket_url = \"{servers}/ticket?key=s3cret-key\"\n\
             header_file = \"x.header\"\nrefresh_token = \"{refresh_token}\"\n"
        );
    }
    home.write("config.toml", &text);
    home.write("platform.secret", COMPONENT_SECRET);
    home.write("x.header", "X-Key: s3cret-header\n");
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_show_no_secret_at_trace_level() {
    let platform = Platform::start().await;
    let home = home(&platform);
    for merchant in platform.world().merchants.values_mut() {
        merchant.rotates = true;
    }
    let daemon = home.spawn("run");
    eventually("a good poll of each", || {
        let text = daemon.get("/metrics").text();
        let up =
            text.lines().filter(|line| line.starts_with("wechat_kf_account_up{") && line.ends_with(" 1"));
        (up.count() == 3).then_some(())
    });
    // All failures at once: the ticket, the refresh tokens and the token server's answer are refused, and the errors quote them.
    platform.world().served = (200, r#"{"errcode":40013,"errmsg":"s3cret-header"}"#.to_owned());
    platform.world().accepted = String::new();
    platform.world().ticket = "ticket-2".to_owned();
    for merchant in platform.world().merchants.values_mut() {
        merchant.access_token = String::new();
        merchant.refresh_token = "refresh-wx-of-another".to_owned();
    }
    eventually("a redacted error in the log", || daemon.stderr().contains("[REDACTED]").then_some(()));
    let pages = ["/metrics", "/"].map(|path| daemon.get(path).text());
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("TRACE"), "the log level is not trace");
    for output in [&pages[0], &pages[1], &ended.stdout, &ended.stderr] {
        for secret in ["s3cret", "bWU6", "ticket-", "component-1", "refresh-wx", "access-wx", "served-"] {
            let at = output.find(secret);
            assert_eq!(at.map(|at| &output[at.saturating_sub(200)..(at + 100).min(output.len())]), None);
        }
    }
}
