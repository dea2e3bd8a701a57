//! `kfwatch check` without and with WeChat: calls, series, and what is unknown.

use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};

use super::{assert_prints, without_times};
use crate::support::{
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};

#[test]
fn check_shows_calls_of_busiest_day_and_series() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", "*/5 * 9-17 * * mon-fri");
    let expected = format!(
        "The configuration is valid.\n\n \
         OFFICIAL ACCOUNT  KF ACCOUNTS  TOKEN   SCHEDULE            MAX A MINUTE  CALLS A DAY\n \
         shop              2            stable  */5 * 9-17 * * 1-5  –             12,960\n \
         branch            1            stable  */5 * 9-17 * * 1-5  –             6,480\n\n\
         Next ticks of */5 * 9-17 * * 1-5 (Asia/Shanghai):\n    \
         YYYY-MM-DD hh:mm:ss, YYYY-MM-DD hh:mm:ss, YYYY-MM-DD hh:mm:ss\n\n\
         3 kf accounts, 19,440 calls of getsessionlist on the busiest day in all. Each official account has its own quota, which \
         check --online compares.\n\
         Collectors: kf_list every 5m, online every 1m, waiting every 1m, quota every 1h; 3,192 calls a day for each official \
         account, 6,384 in all.\n\
         Store: {}\n\
         Sinks: stdout (standard output)\n",
        home.path("kfwatch.db").display()
    );
    let mut checked = home.run("check");
    let series =
        checked.stdout.lines().find(|line| line.starts_with("Prometheus series: ")).unwrap().to_owned();
    assert!(series.starts_with("Prometheus series: up to 16 for each kf account, up to 2"), "{series}");
    checked.stdout = checked.stdout.replace(&format!("{series}\n"), "");
    assert_prints(&checked, 0, &expected, "");
    let one = home.run("check --account branch/kf1@branch").stdout;
    assert!(
        one.contains("\n1 kf account, 6,480 calls of getsessionlist on the busiest day in all."),
        "{one}"
    );
    assert!(!one.contains(" shop "), "{one}");
}

/// The number of series on a page without those of errors.
fn series(page: &str) -> Vec<&str> {
    let lines =
        page.lines().filter(|line| !line.starts_with('#') && !line.starts_with("kfwatch_api_errors_total"));
    lines.collect()
}

#[test]
fn daemon_exports_as_many_series_as_check_counts() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    for kf_account in ["kf1@shop", "kf2@shop"] {
        wechat.control().open_session(&appid(0), kf_account, "oA", None).unwrap();
    }
    wechat.control().open_session(&appid(1), "kf1@branch", "oA", None).unwrap();
    for (per_account, each) in [("true", 16), ("false", 0)] {
        let home = Home::watching(&wechat, "").set("KFWATCH__METRICS__PER_ACCOUNT", per_account);
        let checked = home.run("check").stdout;
        let in_all: usize = {
            let (_, rest) = checked.split_once(" up to ").unwrap();
            assert!(rest.starts_with(&format!("{each} for each kf account")), "{checked}");
            rest.split_once("up to ").unwrap().1.split(' ').next().unwrap().replace(',', "").parse().unwrap()
        };
        let daemon = home.daemon();
        let page = eventually("all values", || {
            let page = daemon.get("/metrics").text();
            let known = [
                "wechat_kf_oldest_session_timestamp_seconds{",
                "wechat_kf_api_quota_remaining{",
                "_accepted_cases{",
            ];
            let accounts = if each > 0 { 3 } else { 2 };
            let has_all =
                page.matches(known[0]).count() == accounts && known.iter().all(|name| page.contains(name));
            has_all.then_some(page)
        });
        let exported = series(&page);
        assert!(
            exported.len() <= in_all && exported.len() + 12 >= in_all,
            "{} of {in_all}: {page}",
            exported.len()
        );
        let of_one = exported.iter().filter(|line| line.contains("kf_account=\"kf1@shop\"")).count();
        assert_eq!(of_one, each);
        assert!(
            !page.contains("endpoint=\"token\"") && page.contains("endpoint=\"getsessionlist\""),
            "only called endpoints"
        );
    }
}

#[test]
fn refused_address_of_a_poll_names_both_allowlists() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let rule = FaultRule { endpoint: Some(ApiCall::GetSessionList), ..FaultRule::new(Fault::Errcode(61004)) };
    wechat.control().inject(rule);
    let en = "\n   add this host's public address (the errmsg names it) to the IP allowlist: of the official account in the developer \
              console, or, if a third-party platform issued the token, of the platform at open.weixin.qq.com\n";
    let zh = "   请将本机公网地址（见 errmsg）加入 IP 白名单：公众号自己的令牌在开发者后台设置；若令牌来自第三方平台，则在 \
              open.weixin.qq.com 的平台设置中加入\n";
    let home = Home::watching(&wechat, "");
    let checked = home.run("check --online").stdout;
    assert!(checked.contains(en) && !checked.contains(zh), "{checked}");
    let checked = home.set("LANG", "zh_CN.UTF-8").run("check --online").stdout;
    assert!(checked.contains(&format!("{en}{zh}")), "{checked}");
}

#[test]
fn account_that_does_not_exist_is_not_offline() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    wechat.control().set_kf_state(&appid(0), "kf2@shop", KfState::Invalid).unwrap();
    let home = Home::watching(&wechat, "");
    let row =
        |text: &str| without_times(text.lines().find(|line| line.contains("kf2@shop")).unwrap()).clone();
    let checked = row(&home.run("check --online").stdout);
    assert_eq!(checked, " shop/kf2@shop  –         –      –       –         invalid");
    let daemon = home.daemon();
    let state = |name: &str, kf_account: &str| {
        daemon.metric(&format!(
            "wechat_kf_account_{name}{{official_account=\"shop\",kf_account=\"{kf_account}\"}}"
        ))
    };
    eventually("the invalid account", || state("invalid", "kf2@shop").filter(|is| *is > 0.5));
    eventually("the collector", || state("online", "kf1@shop"));
    assert_eq!(state("online", "kf2@shop"), None);
    let page = daemon.get("/").text();
    let row = page.split("<tr>").find(|row| row.contains("kf2@shop")).unwrap();
    assert!(!row.contains("offline"), "{row}");
    assert!(
        page.contains(", 1 account needs attention · 20") && page.contains(" (Asia/Shanghai) · "),
        "{page}"
    );
    assert!(page.contains("100,000,000, <time "), "the quota has its age: {page}");
}
