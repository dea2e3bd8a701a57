//! What a user requests with `poll` and `check --online`, with and without a running daemon.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use crate::support::{
    process::{Ended, Home, Process, WeChat, appid, quiet, secret},
    wait::{PATIENCE, eventually},
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState, Scenario};
use serde_json::Value;

/// A schedule that does not fire during a test.
const NEVER: &str = "0 0 0 29 2 *";

/// A daemon that polls nothing by itself.
fn idle(wechat: &WeChat) -> (Home, Process) {
    let home = Home::watching(wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).without_collectors();
    let daemon = home.daemon();
    (home, daemon)
}

fn socket(home: &Home) -> PathBuf {
    home.path("kfwatch.db-control")
}

fn rows(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fault(endpoint: ApiCall, fault: Fault) -> FaultRule {
    FaultRule { endpoint: Some(endpoint), ..FaultRule::new(fault) }
}

/// Sends these bytes to the control socket, and returns the response until the daemon closes the connection.
fn send_raw(home: &Home, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(home)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The daemon may close the connection before it has read all bytes.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

/// Requests a poll. Returns the start of the response, and the stream with the rest.
fn ask(home: &Home) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(socket(home)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"POST /v1/poll HTTP/1.1\r\nhost: kfwatch\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (String::from_utf8(status.to_vec()).unwrap(), stream)
}

/// Requests a poll, which hangs, and fills the queue after it.
fn fill_command_queue(wechat: &WeChat, home: &Home) -> ((String, UnixStream), [(String, UnixStream); 4]) {
    let under_way = ask(home);
    eventually("the call", || (wechat.control().requests(ApiCall::GetSessionList) > 0).then_some(()));
    (under_way, [(); 4].map(|()| ask(home)))
}

#[test]
fn poll_command_runs_in_daemon_and_commits_nothing() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    wechat.control().open_session(&appid(0), "kf1@shop", "oA", Some(1_700_000_000)).unwrap();
    let (home, daemon) = idle(&wechat);
    for _ in 0..2 {
        let ended = home.run("poll --format json");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        let rows = rows(&ended);
        let names: Vec<&Value> = rows.iter().map(|row| &row["kf_account"]).collect();
        assert_eq!(names, ["kf1@shop", "kf2@shop", "kf1@branch"], "in the order of the configuration");
        assert_eq!(
            [&rows[0]["result"], &rows[0]["oldest_session_started_at"]],
            ["ok", "2023-11-14T22:13:20.000Z"]
        );
        assert_eq!(
            [&rows[0]["sessions"], &rows[0]["started"], &rows[0]["ended"]],
            [1, 1, 0],
            "found again each time"
        );
    }
    let table = home.run("poll").stdout;
    assert!(table.starts_with(" ACCOUNT") && table.lines().count() == 6, "{table}");
    assert_eq!(daemon.stdout(), "");
    assert_eq!(home.run("events --format json").stdout, "");
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 2, "one token for each official account");
    assert_eq!(
        daemon.metric("kfwatch_polls_total{official_account=\"shop\",kf_account=\"kf1@shop\"}"),
        Some(0.0)
    );
}

#[test]
fn concurrent_poll_commands_keep_one_poll_in_flight() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Slow(Duration::from_millis(300))));
    let home = Home::watching(&wechat, "");
    let _daemon = home.daemon();
    let polls: Vec<Process> = (0..4).map(|_| home.spawn("poll --format json")).collect();
    for poll in polls {
        let ended = poll.ended();
        assert_eq!((ended.code, rows(&ended).len()), (Some(0), 2), "{ended:?}");
    }
    assert_eq!(wechat.control().max_in_flight_of_any_kf_account(), 1);
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 1);
}

#[test]
fn commands_beyond_queue_are_refused() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Hang));
    let (home, _daemon) = idle(&wechat);
    let (under_way, waiting) = fill_command_queue(&wechat, &home);
    for (status, _) in waiting.iter().chain([&under_way]) {
        assert_eq!(status, "HTTP/1.1 200");
    }
    let ended = home.run("poll");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("4 commands are waiting already: try again when they are done"),
        "{ended:?}"
    );
}

#[test]
fn sinks_command_skips_poll_queue_and_abandoned_command_frees_slot() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Hang));
    let (home, _daemon) = idle(&wechat);
    let (under_way, waiting) = fill_command_queue(&wechat, &home);
    let ended = home.run("sinks --format json");
    assert_eq!((ended.code, rows(&ended).len()), (Some(0), 1), "{ended:?}");
    assert_eq!(ask(&home).0, "HTTP/1.1 503", "all of them are still there");
    drop(waiting);
    eventually("a free slot", || (ask(&home).0 == "HTTP/1.1 200").then_some(()));
    drop(under_way);
}

#[test]
fn interrupted_poll_command_releases_its_guards() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let control = wechat.control();
    let (home, _daemon) = idle(&wechat);
    control.inject(fault(ApiCall::GetSessionList, Fault::Hang));
    let poll = home.spawn("poll");
    eventually("the call", || (control.requests(ApiCall::GetSessionList) > 0).then_some(()));
    poll.signal("KILL");
    assert_eq!(poll.ended().code, None);
    control.clear_faults();
    let ended = home.run("poll --format json");
    assert_eq!((ended.code, &rows(&ended)[0]["result"]), (Some(0), &Value::from("ok")), "{ended:?}");
}

#[test]
fn stalled_reader_is_dropped_and_next_command_runs() {
    // More rows than the socket buffers can store.
    let wechat = WeChat::play(quiet(&[("shop", 1000), ("branch", 1000), ("stall", 1000)]));
    let (home, daemon) = idle(&wechat);
    let mut stream = UnixStream::connect(socket(&home)).unwrap();
    stream.write_all(b"POST /v1/poll HTTP/1.1\r\nhost: kfwatch\r\n\r\n").unwrap();
    eventually("the timeout", || daemon.stderr().contains("does not read the response").then_some(()));
    let ended = home.run("poll --format json");
    assert_eq!((ended.code, rows(&ended).len()), (Some(0), 3000), "{}", ended.stderr);
}

#[test]
fn poll_command_ignores_backoff_and_success_ends_it() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let control = wechat.control();
    control.refuse_address(&appid(0)).unwrap();
    let home = Home::watching(&wechat, "").set("KFWATCH__BACKOFF__ADDRESS_NOT_ALLOWED", "1h");
    let daemon = home.daemon();
    let ended = eventually("the refusal", || {
        let ended = home.run("poll --format json");
        ended.stdout.contains("40164").then_some(ended)
    });
    assert_eq!((ended.code, &rows(&ended)[0]["result"]), (Some(1), &Value::from("address_not_allowed")));
    control.allow_address(&appid(0)).unwrap();
    eventually("a poll by hand that succeeds", || (home.run("poll").code == Some(0)).then_some(()));
    let up = "wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("a scheduled poll", || daemon.metric(up).filter(|up| *up > 0.0));
}

#[test]
fn control_socket_is_private_removed_and_replaced() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (home, daemon) = idle(&wechat);
    let metadata = fs::symlink_metadata(socket(&home)).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    daemon.signal("KILL");
    assert_eq!(daemon.ended().code, None);
    assert!(socket(&home).exists(), "a killed daemon cannot remove it");
    let ended = eventually("a poll with a token", || {
        let ended = home.run("poll");
        (ended.code == Some(0)).then_some(ended)
    });
    assert_eq!(ended.stderr, "", "a stale socket does not count as a daemon");
    let daemon = home.daemon();
    assert!(send_raw(&home, b"GET /v1/poll HTTP/1.1\r\nhost: kfwatch\r\n\r\n").starts_with("HTTP/1.1 405 "));
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("WARN"), "{ended:?}");
    assert!(!socket(&home).exists());
}

#[test]
fn running_command_reports_drain() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Hang));
    let (home, daemon) = idle(&wechat);
    let poll = home.spawn("poll");
    eventually("the call", || (wechat.control().requests(ApiCall::GetSessionList) > 0).then_some(()));
    daemon.signal("TERM");
    let ended = poll.ended();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.ends_with(": the daemon is being stopped\n"), "{ended:?}");
    assert_eq!(daemon.ended().code, Some(0));
}

#[test]
fn unresponsive_daemon_is_reported_with_remedy() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (home, daemon) = idle(&wechat);
    fs::remove_file(socket(&home)).unwrap();
    for command in ["poll", "check --online"] {
        let ended = home.run(command);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        for expected in [
            "kfwatch.db (process ",
            &daemon.id().to_string(),
            "no process listens on its control socket",
            "try again",
        ] {
            assert!(ended.stderr.contains(expected), "{ended:?}");
        }
    }
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 0);
}

#[test]
fn too_long_socket_path_disables_socket_only() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let store = format!("{}.db", "k".repeat(120));
    let home = Home::watching(&wechat, "").set("KFWATCH__STORE__PATH", &store);
    let daemon = home.daemon();
    let advice =
        "is too long for the path of a socket (at most 107 bytes): set control.socket to a shorter one";
    eventually(advice, || daemon.stderr().contains(advice).then_some(()));
    let ended = home.run("poll");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(advice), "{ended:?}");
}

#[test]
fn garbage_on_control_socket_is_harmless() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (home, mut daemon) = idle(&wechat);
    let header =
        |bytes: usize| format!("POST /v1/poll HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(bytes)).into_bytes();
    for (bytes, status) in [
        (b"\0\xff\xfe garbage \r\n\r\n".to_vec(), "400"),
        (header(100_000), "431"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"POST /v2/poll HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"DELETE /v1/poll HTTP/1.1\r\n\r\n".to_vec(), "405"),
    ] {
        let answer = send_raw(&home, &bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let mut oversized = b"POST /v1/poll HTTP/1.1\r\ncontent-length: 4000000000\r\n\r\n".to_vec();
    oversized.resize(1_000_000, b'x');
    assert!(send_raw(&home, &oversized).starts_with("HTTP/1.1 200 "), "a body is never read");
    let silent: Vec<UnixStream> = (0..10).map(|_| UnixStream::connect(socket(&home)).unwrap()).collect();
    assert_eq!(home.run("poll").code, Some(0));
    drop(silent);
    assert!(daemon.is_running());
    let log = daemon.stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[test]
fn differing_configuration_is_noted() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let (home, _daemon) = idle(&wechat);
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replace("kf2@shop", "kf3@shop"));
    let ended = home.run("poll --format json");
    assert_eq!((ended.code, rows(&ended).len()), (Some(0), 2), "{ended:?}");
    let notes: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(notes.len(), 2, "{ended:?}");
    assert!(notes[0].starts_with("note: ") && notes[0].contains("shop/kf2@shop"), "{ended:?}");
    assert!(notes[1].starts_with("note: ") && notes[1].contains("shop/kf3@shop"), "{ended:?}");
}

/// Runs one check without a daemon.
fn check(wechat: &WeChat, arguments: &str) -> Ended {
    Home::watching(wechat, "").run(&format!("check --online {arguments}"))
}

/// Returns the output from the line that begins with `begin`.
fn from<'a>(ended: &'a Ended, begin: &str) -> &'a str {
    assert!(ended.stdout.contains(begin), "no {begin:?} in {ended:?}");
    &ended.stdout[ended.stdout.find(begin).unwrap()..]
}

#[test]
fn check_of_valid_setup_exits_with_0() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    wechat.control().open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    let ended = check(&wechat, "");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let line = |begin: &str| ended.stdout.lines().find(|line| line.starts_with(begin)).unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let shop = words(line(" shop "));
    assert_eq!([&*shop[1], &*shop[2]], ["stable", "0s"], "{shop:?}");
    assert_eq!(shop[5..], ["172,800", "100,000,000", "0", "100,000,000", "0"], "{shop:?}");
    let kf1 = words(from(&ended, " shop/kf1@shop").lines().next().unwrap());
    assert_eq!(kf1[2..], ["yes", "yes", "1", "ok"], "{ended:?}");
    assert!(ended.stdout.ends_with("\nNothing needs to be fixed.\n"), "{ended:?}");
}

#[test]
fn check_makes_one_read_only_call_per_account() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    assert_eq!(check(&wechat, "").code, Some(0));
    let requests = ApiCall::ALL.map(|endpoint| (endpoint, wechat.control().requests(endpoint)));
    let made: Vec<_> = requests.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        made,
        [
            (ApiCall::StableToken, 1),
            (ApiCall::GetSessionList, 3),
            (ApiCall::GetKfList, 1),
            (ApiCall::GetOnlineKfList, 1),
            (ApiCall::GetWaitCase, 1),
            (ApiCall::QuotaGet, 1),
        ]
    );
}

#[test]
fn check_uses_token_of_running_daemon() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let (home, daemon) = idle(&wechat);
    for _ in 0..2 {
        let ended = home.run("check --online --format json");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        let rows = rows(&ended);
        assert_eq!(
            rows.iter().map(|row| &row["kind"]).collect::<Vec<_>>(),
            ["official_account", "kf_account", "kf_account"]
        );
        assert_eq!([&rows[0]["token_source"], &rows[1]["kf_account"]], ["stable", "kf1@shop"]);
        assert!(rows[0]["token_expires_in_seconds"].as_u64().unwrap() > 7000, "{ended:?}");
        assert_eq!(rows[2]["problems"], Value::Array(Vec::new()));
    }
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 1);
    assert_eq!(wechat.control().requests(ApiCall::GetKfList), 2);
    assert_eq!(daemon.stdout(), "");
}

#[test]
fn check_reports_unbound_account_with_remedy_in_both_languages() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    for kf_account in ["kf1@shop", "kf3@shop"] {
        wechat.control().set_kf_state(&appid(0), kf_account, KfState::Unbound).unwrap();
    }
    let ended = check(&wechat, "");
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(69), "kfwatch: something needs a human\n"),
        "{ended:?}"
    );
    let list = from(&ended, "What to fix:\n");
    assert!(
        list.contains("\n1. shop, 2 kf accounts (kf1@shop, kf3@shop): getsessionlist: errcode 65402"),
        "{list}"
    );
    assert!(list.contains("\n   bind a WeChat user to this kf account"), "{list}");
    assert!(!list.contains("请") && !list.contains("\n2. "), "{list}");
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().set_kf_state(&appid(0), "kf1@shop", KfState::Unbound).unwrap();
    assert!(from(&check(&wechat, "--lang zh"), "What to fix").contains("\n   请为该客服帐号绑定微信号"));
    let home = Home::watching(&wechat, "").set("LANG", "zh_CN.UTF-8");
    assert!(from(&home.run("check --online"), "What to fix").contains("\n   请为该客服帐号绑定微信号"));
}

#[test]
fn check_reports_missing_token_once_per_official_account() {
    let refused = |wechat: &WeChat, ended: Ended, code: &str, remedy: &str| {
        assert_eq!(ended.code, Some(69), "{ended:?}");
        let list = from(&ended, "What to fix:\n");
        assert!(list.contains(&format!("\n1. shop: stable_token: errcode {code}")), "{list}");
        assert!(list.contains(remedy) && !list.contains("\n2. "), "{list}");
        assert_eq!(ended.stdout.matches("not_asked").count(), 3, "{ended:?}");
        assert_eq!(wechat.control().requests_of(&appid(0), ApiCall::StableToken), Ok(1));
        assert_eq!(wechat.control().requests_of(&appid(0), ApiCall::GetSessionList), Ok(0));
        assert_eq!(wechat.control().requests_of(&appid(1), ApiCall::GetSessionList), Ok(1));
    };
    let site = || WeChat::play(quiet(&[("shop", 3), ("branch", 1)]));
    let wechat = site();
    wechat.control().refuse_address(&appid(0)).unwrap();
    refused(&wechat, check(&wechat, ""), "40164", "IP allowlist");
    let wechat = site();
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replacen(&secret(0), &"0".repeat(32), 1));
    refused(&wechat, home.run("check --online"), "40125", "AppSecret");
}

#[test]
fn check_notes_missing_permissions_that_polls_do_not_need() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    wechat.control().inject(fault(ApiCall::GetWaitCase, Fault::Errcode(48001)));
    let ended = check(&wechat, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let notes = from(&ended, "What kfwatch works without:\n");
    assert!(
        notes.contains("\n1. shop: getwaitcase: errcode 48001") && notes.contains("permission set"),
        "{notes}"
    );
    assert!(notes.ends_with("\nNothing needs to be fixed.\n"), "{notes}");
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Errcode(48001)));
    let ended = check(&wechat, "");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(
        from(&ended, "What to fix:")
            .contains("1. shop, 2 kf accounts (kf1@shop, kf2@shop): getsessionlist: errcode 48001")
    );
}

#[test]
fn check_ignores_single_busy_answer() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(fault(ApiCall::GetSessionList, Fault::Errcode(-1)));
    let ended = check(&wechat, "");
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(1), "kfwatch: not every account could be polled\n")
    );
    assert!(
        from(&ended, "What usually ends without help:\n")
            .contains("\n1. shop/kf1@shop: getsessionlist: errcode -1")
    );
}

#[test]
fn check_reports_insufficient_quota() {
    let mut scenario: Scenario = quiet(&[("shop", 1)]);
    scenario.official_accounts[0].session_lists_per_day = 80_000;
    let ended = check(&WeChat::play(scenario), "");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let list = from(&ended, "What to fix:\n");
    assert!(
        list.contains(
            "makes 86,400 calls of getsessionlist on its busiest day, and WeChat allows 80,000 a day"
        ),
        "{list}"
    );
    assert!(list.contains("poll less often"), "{list}");
}

/// A home with one text of its configuration replaced.
fn edited(wechat: &WeChat, from: &str, to: &str) -> Home {
    let home = Home::watching(wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    assert!(text.contains(from), "no {from:?} in {text}");
    home.write("config.toml", &text.replace(from, to));
    home
}

/// A home whose kf accounts are all found by getkflist.
fn discovering(wechat: &WeChat) -> Home {
    edited(wechat, "kf_accounts = [\"kf1@shop\", \"kf2@shop\"]", "kf_accounts = [\"*\"]")
}

#[test]
fn check_reports_invalid_external_token_once() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let own = format!("source = \"stable\"\nsecret = \"{}\"", secret(0));
    let home = edited(&wechat, &own, "source = \"file\"\npath = \"shop.token\"");
    home.write("shop.token", "a-token-that-has-been-void-for-long");
    let ended = home.run("check --online");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let list = from(&ended, "What to fix:\n");
    assert!(list.contains("\n1. shop: getkflist: WeChat refused the token"), "{list}");
    assert!(!list.contains("\n2. ") && !list.contains("works without"), "{list}");
}

#[test]
fn check_reports_empty_page_of_wrong_credentials() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    wechat.control().inject(fault(ApiCall::StableToken, Fault::EmptyGbkBody));
    let ended = check(&wechat, "");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let list = from(&ended, "What to fix:\n");
    assert!(list.contains("\n1. shop: stable_token: malformed") && list.contains("AppSecret"), "{list}");
}

#[test]
fn poll_without_daemon_resolves_patterns() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = discovering(&wechat);
    let ended = home.run("poll --format json");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let found = rows(&ended);
    let names: Vec<&Value> = found.iter().map(|row| &row["kf_account"]).collect();
    assert_eq!(names, ["kf1@shop", "kf2@shop"]);
    wechat.control().inject(fault(ApiCall::GetKfList, Fault::Errcode(48001)));
    let ended = home.run("poll --format json");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let failed = rows(&ended);
    assert_eq!((failed.len(), &failed[0]["kf_account"]), (1, &Value::Null), "{ended:?}");
    assert!(failed[0]["error"].as_str().unwrap().starts_with("getkflist: errcode 48001"), "{ended:?}");
    assert!(failed[0]["remedy"].as_str().unwrap().contains("name the kf accounts"), "{ended:?}");
    let ended = home.run("poll");
    assert!(ended.stdout.contains("\nshop: getkflist: errcode 48001"), "{ended:?}");
    wechat.control().clear_faults();
    let ended = edited(&wechat, "\"kf1@shop\", \"kf2@shop\"", "\"other*\"").run("poll");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("\nshop: getkflist lists no kf account that"), "{ended:?}");
}

#[test]
fn refused_kf_list_of_patterns_is_reported() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    wechat.control().inject(fault(ApiCall::GetKfList, Fault::Errcode(48001)));
    let home = discovering(&wechat);
    let ended = home.run("check --online --lang zh");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let list = from(&ended, "What to fix:\n");
    assert!(list.contains("\n1. shop: getkflist: errcode 48001"), "{list}");
    assert!(list.contains("name the kf accounts") && list.contains("逐一列出"), "{list}");
    assert!(!list.contains("[collectors]") && !list.contains("\n2. "), "{list}");
}

#[test]
fn check_reports_clock_skew_once() {
    let wechat = WeChat::play(quiet(&[("shop", 1), ("branch", 1)]));
    wechat.control().set_date_skew(jiff::SignedDuration::from_secs(-300));
    let ended = check(&wechat, "");
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let list = from(&ended, "What to fix:\n");
    assert!(list.contains("\n1. this machine's clock is ") && !list.contains("\n2. "), "{list}");
}

#[test]
fn check_shows_no_token() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (home, daemon) = idle(&wechat);
    let shown: String = ["poll", "poll --format json", "check --online", "check --online --format json"]
        .map(|command| {
            let ended = home.run(command);
            ended.stdout + &ended.stderr
        })
        .concat();
    let shown = shown + &send_raw(&home, b"POST /v1/check HTTP/1.1\r\n\r\n") + &daemon.stderr();
    assert!(shown.contains("token_age_seconds"), "{shown}");
    assert!(!shown.contains("access_token") && !shown.contains(&secret(0)), "{shown}");
}
