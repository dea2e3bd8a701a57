//! What a person reads when tokens fail: exact output of the real program, in English and Chinese.

use kfwatch::simulator::{ApiCall, Fault, FaultRule};

use crate::support::{
    process::{Ended, Home, Process, WeChat, appid, quiet, secret},
    wait::eventually,
};

/// A schedule that does not fire during a test.
const NEVER: &str = "0 0 0 29 2 *";

/// The configuration of the first official account's token in [`Home::watching`].
fn own_token() -> String {
    format!("source = \"stable\"\nsecret = \"{}\"", secret(0))
}

fn replace(home: &Home, from: &str, to: &str) {
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    assert!(text.contains(from), "no {from:?} in {text}");
    home.write("config.toml", &text.replacen(from, to, 1));
}

/// A home with a store, whose daemon polls nothing by itself.
fn idle(wechat: &WeChat) -> Home {
    let home = Home::watching(wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).without_collectors();
    home.daemon().terminate();
    home
}

/// A text with `N` in place of the seconds of a wait, and without what differs between errmsgs.
fn comparable(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for n in 1..words.len() {
        let is_wait = matches!(words[n - 1], "waiting" | "wait");
        if is_wait && words[n].parse::<u8>().is_ok_and(|seconds| (1..=10).contains(&seconds)) {
            words[n] = "N";
        }
    }
    let lines = words.join(" ");
    lines.lines().map(|line| line.split(" hint: ").next().unwrap().to_owned() + "\n").collect()
}

/// What `check --online` says after its tables.
fn findings(ended: &Ended) -> String {
    let headings = ["What to fix:\n", "What usually ends without help:\n", "Nothing needs"];
    let at = headings.iter().filter_map(|heading| ended.stdout.find(heading)).min().unwrap();
    comparable(&ended.stdout[at..])
}

/// Asserts what `check --online` says after its tables, and on standard error.
fn assert_check(ended: &Ended, code: i32, expected: &str, stderr: &str) {
    assert_eq!((ended.code, findings(ended)), (Some(code), expected.to_owned()), "{ended:?}");
    assert_eq!(comparable(&ended.stderr), stderr, "{ended:?}");
}

const WRONG_SECRET: &str = "What to fix:
1. shop: stable_token: errcode 40125: invalid appsecret
   check appid and AppSecret; if the AppSecret was replaced, write the present one into its file, which is read again without a \
restart. A reset in the developer console ends the AppSecret of all programs that use it

";

const NEEDS_HUMAN: &str = "kfwatch: something needs a human\n";

const WAITED: &str = "note: waiting N s for the next token fetch of shop: kfwatch fetches tokens at most once in 10 s\n\
     kfwatch: something needs a human\n";

#[test]
fn repeated_check_waits_and_reports_the_cause_again() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = idle(&wechat);
    replace(&home, &secret(0), &"0".repeat(32));
    assert_check(&home.run("check --online"), 69, WRONG_SECRET, NEEDS_HUMAN);
    assert_check(&home.run("check --online"), 69, WRONG_SECRET, WAITED);
    let home = home.set("LANG", "zh_CN.UTF-8");
    let chinese = WRONG_SECRET.trim_end().to_owned()
        + "\n   请核对 appid 与 AppSecret；若 AppSecret 已更换，请将现用的写入其文件（无需重启，会重新读取）。在开发者后台重置会使所有使用它的程序失效\n\n";
    assert_check(&home.run("check --online"), 69, &chinese, WAITED);
    replace(&home, &"0".repeat(32), &secret(0));
    let ended = home.run("poll --format json");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 4, "each command fetched once");
}

#[test]
fn repeated_poll_waits_once_for_all_official_accounts() {
    let wechat = WeChat::play(quiet(&[("shop", 1), ("branch", 1), ("depot", 1)]));
    let home = idle(&wechat);
    wechat.control().freeze_secret(&appid(1)).unwrap();
    let frozen = "\nbranch/kf1@branch: stable_token: errcode 40243: invalid appsecret: appsecret is frozen
    unfreeze the AppSecret in the developer console; this takes effect after about ten minutes\n";
    for stderr in [
        "kfwatch: not every account could be polled\n",
        "note: waiting N s for the next token fetch of 3 official accounts: kfwatch fetches tokens at most once in 10 s\n\
         kfwatch: not every account could be polled\n",
    ] {
        let ended = home.run("poll");
        assert_eq!((ended.code, comparable(&ended.stderr).as_str()), (Some(1), stderr), "{ended:?}");
        let failures = &ended.stdout[ended.stdout.find("\nbranch/").unwrap()..];
        assert_eq!(comparable(failures), frozen, "{ended:?}");
    }
}

#[test]
fn command_waits_in_daemon_whose_token_fetch_failed() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::watching(&wechat, "");
    replace(&home, &secret(0), &"0".repeat(32));
    let daemon = home.daemon();
    eventually("the refusal", || daemon.stderr().contains("40125").then_some(()));
    assert_check(&home.run("check --online"), 69, WRONG_SECRET, WAITED);
    assert_eq!(errors(&daemon.terminate().stderr).len(), 1, "logged once");
}

/// The lines of a log that report failures.
fn errors(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(" failed: ") || line.contains("WARN")).collect()
}

#[test]
fn restarted_daemon_waits_for_tokens_with_one_line() {
    let names: Vec<String> = (0..50).map(|n| format!("merchant{n}")).collect();
    let official_accounts: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let wechat = WeChat::play(quiet(&official_accounts));
    let home = Home::watching(&wechat, "");
    let fetched = || wechat.control().requests(ApiCall::StableToken);
    let daemon = home.daemon();
    eventually("all tokens", || (fetched() == 50).then_some(()));
    daemon.signal("KILL");
    daemon.ended();
    let daemon = home.daemon();
    eventually("all tokens again", || (fetched() == 100).then_some(()));
    eventually("all polls", || {
        let page = daemon.get("/metrics").text();
        let up =
            page.lines().filter(|line| line.starts_with("wechat_kf_account_up{") && line.ends_with(" 1"));
        (up.count() == 100).then_some(())
    });
    let log = daemon.terminate().stderr;
    assert_eq!(errors(&log), [""; 0], "{log}");
    let waits: Vec<&str> = log.lines().filter(|line| line.contains("wait")).collect();
    let [wait] = waits[..] else { panic!("{waits:?}") };
    let (_, message) = wait.split_once("First polls ").unwrap();
    assert_eq!(
        comparable(message),
        "wait N s: kfwatch fetches tokens at most once in 10 s, also after a restart official_accounts=50\n"
    );
}

#[test]
fn restarted_daemon_with_wrong_secret_reports_only_that() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let home = Home::watching(&wechat, "");
    replace(&home, &secret(0), &"0".repeat(32));
    for fetched in [1, 2] {
        let daemon = home.daemon();
        eventually("the refusal", || daemon.stderr().contains("40125").then_some(()));
        let log = daemon.terminate().stderr;
        let [error] = errors(&log)[..] else { panic!("{log}") };
        assert!(error.contains("ERROR Poll failed: stable_token: errcode 40125: invalid appsecret"), "{log}");
        assert_eq!(wechat.control().requests(ApiCall::StableToken), fetched);
    }
}

/// A home whose official account gets its token from a server, whose URL has secrets.
fn of_token_server(wechat: &WeChat) -> Home {
    let home = Home::watching(wechat, "");
    let url = format!("http://me:s3cret@{}/simulator/tokens/{}?key=s3cret", wechat.address(), appid(0));
    let token = format!("source = \"server\"\nurl = \"{url}\"\njson_pointer = \"/access_token\"");
    replace(&home, &own_token(), &token);
    home
}

fn fault(fault: Fault) -> FaultRule {
    FaultRule { endpoint: Some(ApiCall::TokenServer), ..FaultRule::new(fault) }
}

#[test]
fn refusal_of_token_server_needs_a_human() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = of_token_server(&wechat);
    let server = wechat.simulator().base_url();
    let login = format!(
        "correct the login for {server} in the configuration (header_file, or the user name and password in the URL), or let that \
         server accept this host"
    );
    let url = format!(
        "correct the URL at {server} in the configuration (url, or ticket_url): the server must answer there with the token or the \
         ticket itself, without a redirect"
    );
    for (status, remedy) in [(401, &login), (403, &login), (404, &url), (302, &url)] {
        wechat.control().clear_faults();
        wechat.control().inject(fault(Fault::HttpStatus(status)));
        let expected = format!(
            "What to fix:\n1. shop: token_server: {server} answers with HTTP status {status}\n   {remedy}\n\n"
        );
        assert_check(&home.run("check --online"), 69, &expected, NEEDS_HUMAN);
    }
    let home = home.set("LANG", "zh_CN.UTF-8");
    let chinese = format!(
        "\n   请更正配置中 {server} 的 URL（url 或 ticket_url）：该处须直接返回令牌或票据，不得重定向\n\n"
    );
    assert!(findings(&home.run("check --online")).ends_with(&chinese));
    wechat.control().clear_faults();
    wechat.control().inject(fault(Fault::HttpStatus(503)));
    let expected = "What usually ends without help:
1. shop: token_server: HTTP status 503
   check the token server: it must be reachable from this host and answer with an access token of this official account
   请检查令牌服务器：须可从本机访问，并返回该公众号的 access token

";
    assert_check(&home.run("check --online"), 1, expected, "kfwatch: not every account could be polled\n");
}

fn renew(server: &str) -> String {
    format!(
        "let the token server {server} renew this token before it expires, and make sure that it does so for the appid of this \
         official account"
    )
}

fn rewrite(directory: &str) -> String {
    format!(
        "let the program that writes the token files in {directory} renew this one before its token expires, and make sure that it \
         does so for the appid of this official account"
    )
}

#[test]
fn stale_token_is_reported_with_where_it_comes_from() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let stale = |origin: &str, code: i64, remedy: &str| {
        format!(
            "What to fix:\n1. shop: getkflist: WeChat refused the token that {origin} gave ({code}): it is old, or belongs to \
             another appid\n   {remedy}\n\n"
        )
    };
    let home = of_token_server(&wechat);
    wechat.control().break_token_server(&appid(0)).unwrap();
    let server = wechat.simulator().base_url();
    assert_check(&home.run("check --online"), 69, &stale(&server, 40001, &renew(&server)), NEEDS_HUMAN);

    let home = Home::watching(&wechat, "");
    replace(&home, &own_token(), "source = \"file\"\npath = \"shop.token\"");
    let path = home.path("shop.token");
    let (file, directory) = (path.display().to_string(), path.parent().unwrap().display().to_string());
    home.write("shop.token", "the-token-of-yesterday");
    assert_check(&home.run("check --online"), 69, &stale(&file, 40001, &rewrite(&directory)), NEEDS_HUMAN);
    home.write("shop.token", &wechat.control().fetch_competing_token(&appid(0)).unwrap());
    wechat.control().expire_tokens(&appid(0)).unwrap();
    let home = home.set("LANG", "zh_CN.UTF-8");
    let chinese = stale(&file, 42001, &rewrite(&directory)).trim_end().to_owned()
        + &format!(
            "\n   请让在 {directory} 中写入令牌文件的程序在令牌过期前更新它，并确认它使用的是该公众号的 appid\n\n"
        );
    assert_check(&home.run("check --online"), 69, &chinese, NEEDS_HUMAN);
}

#[test]
fn stale_tokens_of_one_program_share_an_entry() {
    let wechat = WeChat::play(quiet(&[("a", 1), ("b", 1), ("c", 1)]));
    let home = Home::watching(&wechat, "");
    for (index, file) in ["tokens/a", "tokens/b", "c"].iter().enumerate() {
        let own = format!("source = \"stable\"\nsecret = \"{}\"", secret(index));
        replace(&home, &own, &format!("source = \"file\"\npath = \"{file}\""));
    }
    std::fs::create_dir(home.path("tokens")).unwrap();
    ["tokens/a", "tokens/b", "c"].iter().for_each(|file| home.write(file, "the-token-of-yesterday"));
    let at = |name: &str| home.path(name).display().to_string();
    let directory = home.path("c").parent().unwrap().display().to_string();
    let refused = |file: &str| {
        let file = at(file);
        format!(
            "getkflist: WeChat refused the token that {file} gave (40001): it is old, or belongs to another appid"
        )
    };
    let expected = format!(
        "What to fix:\n1. 2 official accounts (a, b): {}\n   {}\n2. c: {}\n   {}\n\n",
        refused("tokens/a"),
        rewrite(&at("tokens")),
        refused("c"),
        rewrite(&directory)
    );
    assert_check(&home.run("check --online"), 69, &expected, NEEDS_HUMAN);
}

/// The log of a daemon, once it has this line.
fn log_with(daemon: &Process, line: &str) -> String {
    eventually(line, || Some(daemon.stderr()).filter(|log| log.contains(line)))
}

#[test]
fn daemon_keeps_reporting_the_stale_token_between_fetches() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = of_token_server(&wechat).without_collectors();
    wechat.control().break_token_server(&appid(0)).unwrap();
    let daemon = home.daemon();
    let line = format!(
        "Poll failed: getsessionlist: WeChat refused the token that {} gave (40001): it is old, or belongs to another appid",
        wechat.simulator().base_url()
    );
    log_with(&daemon, &line);
    let polls = || daemon.metric("kfwatch_polls_total{official_account=\"shop\",kf_account=\"kf1@shop\"}");
    eventually("polls between two fetches", || polls().filter(|polls| *polls >= 4.0));
    let page = daemon.get("/").text();
    let log = daemon.terminate().stderr;
    assert_eq!(errors(&log).len(), 1, "{log}");
    assert!(log.contains(&renew(&wechat.simulator().base_url())) && page.contains("40001"), "{log}{page}");
    assert!(wechat.control().requests(ApiCall::TokenServer) <= 2, "at most once in ten seconds");
    assert!(!log.contains("s3cret") && !page.contains("s3cret"), "{log}{page}");
}
