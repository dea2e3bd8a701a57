//! The command line: exit codes, one clear line for each problem, a clean shutdown, and what each command does.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Stdio,
};

use crate::support::{
    delivery,
    process::{Ended, Home, Process, WeChat, appid, metric, quiet, secret},
    wait::{PATIENCE, eventually},
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};
use serde_json::Value;

/// Asserts that a refused command prints one line for each problem, and nothing else.
fn refused(ended: &Ended, code: i32, lines: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    let printed: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(printed.len(), lines.len(), "{ended:?}");
    for (line, expected) in printed.iter().zip(lines) {
        assert!(line.contains(expected), "{line:?} lacks {expected:?}");
    }
}

fn one_account() -> WeChat {
    WeChat::play(quiet(&[("shop", 1)]))
}

const SERIES: &str = "{official_account=\"shop\",kf_account=\"kf1@shop\"}";

fn metric_of_account(daemon: &Process, name: &str) -> Option<f64> {
    daemon.metric(&format!("{name}{SERIES}"))
}

fn eventually_up(daemon: &Process) {
    eventually("a good poll", || metric_of_account(daemon, "wechat_kf_account_up").filter(|up| *up > 0.0));
}

#[test]
fn missing_configuration_names_searched_places() {
    if !Path::new("/etc/kfwatch/config.toml").exists() {
        refused(&Home::new().run("run"), 78, &["config.toml"]);
    }
    refused(&Home::new().run("run -c nowhere.toml"), 78, &["nowhere.toml"]);
    refused(&Home::new().set("KFWATCH_CONFIG", "elsewhere.toml").run("check"), 78, &["elsewhere.toml"]);
}

#[test]
fn commands_report_all_configuration_mistakes() {
    let home = Home::new();
    home.write(
        "config.toml",
        "[poll]\nschedul = \"* * * * * *\"\n[api]\nca_file = \"ca.pem\"\n[[official_accounts]]\nname = \"shop\"\n\
         appid = \"wx0000000000000000\"\nkf_accounts = [\"kf1@shop\"]\ntoken.secret_file = \"nowhere\"\n",
    );
    home.write("ca.pem", "garbage\n");
    for command in ["run", "check", "poll"] {
        refused(
            &home.run(command),
            78,
            &[
                "config.toml:2: poll.schedul: unknown key",
                "config.toml:4: api.ca_file",
                "config.toml:9: official_accounts.token.secret_file",
            ],
        );
    }
    assert!(!home.path("kfwatch.db").exists());
}

#[test]
fn commands_on_the_store_report_mistakes_about_it() {
    let home = Home::new();
    home.write("config.toml", "[store]\npth = \"a.db\"\n[logs]\nlevel = \"info\"\n");
    for command in ["events", "events dead --sink log", "sinks", "backup copy.db", "restore copy.db"] {
        let expected = ["config.toml:2: store.pth: unknown key", "config.toml:3: logs: unknown key"];
        refused(&home.run(command), 78, &expected);
    }
}

#[test]
fn invalid_certificate_is_a_configuration_error() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "").set("KFWATCH__API__CA_FILE", "ca.pem");
    home.write("ca.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    refused(&home.run("run"), 78, &["api.ca_file: the certificates in"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    let home = Home::new();
    for arguments in
        ["", "walk", "run --fast", "demo --for soon", "events --since yesterday", "poll --format xml"]
    {
        let ended = home.run(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[test]
fn missing_ca_store_falls_back_to_built_in_roots() {
    let wechat = one_account();
    let nothing = Home::new().path("nothing");
    let daemon = Home::watching(&wechat, "")
        .set("SSL_CERT_FILE", &nothing.to_string_lossy())
        .set("SSL_CERT_DIR", &nothing.to_string_lossy())
        .daemon();
    eventually_up(&daemon);
    let log = daemon.stderr();
    assert!(
        log.lines().any(|line| line.contains("WARN") && line.contains("using the built-in roots")),
        "{log}"
    );
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn taken_port_is_reported_with_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    let _listener = TcpListener::bind(taken).unwrap();
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replace("127.0.0.1:0", &taken.to_string()));
    let expected = format!("cannot listen on {taken}: another program uses it (`ss -ltnp sport = :");
    refused(&home.run("run"), 1, &[&expected]);
}

#[test]
fn unusable_store_is_reported_and_unchanged() {
    let wechat = one_account();
    let newer = {
        let home = Home::watching(&wechat, "");
        let daemon = home.daemon();
        eventually_up(&daemon);
        daemon.signal("TERM");
        assert_eq!(daemon.ended().code, Some(0));
        let mut bytes = fs::read(home.path("kfwatch.db")).unwrap();
        // The header's user_version.
        bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
        bytes
    };
    for (content, expected) in [
        (b"these are my notes\n".to_vec(), "is not a store of kfwatch (no SQLite file)"),
        (newer, "was written by a newer kfwatch (schema 99"),
    ] {
        let home = Home::watching(&wechat, "");
        fs::write(home.path("kfwatch.db"), &content).unwrap();
        refused(&home.run("run"), 1, &[expected]);
        refused(&home.run("poll"), 1, &[expected]);
        refused(&home.run("events"), 1, &[expected]);
        assert!(fs::read(home.path("kfwatch.db")).unwrap() == content, "the file was changed: {expected}");
    }
    let home = Home::watching(&wechat, "");
    fs::create_dir(home.path("kfwatch.db")).unwrap();
    refused(&home.run("run"), 1, &["is not a regular file: set store.path to a file"]);
    let home = Home::watching(&wechat, "").set("KFWATCH__STORE__PATH", "missing/kfwatch.db");
    refused(&home.run("run"), 1, &["does not exist: mount its file system, or create it for a new store"]);
}

#[test]
fn unreadable_store_is_reported() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    fs::write(home.path("kfwatch.db"), "").unwrap();
    fs::set_permissions(home.path("kfwatch.db"), fs::Permissions::from_mode(0o000)).unwrap();
    if is_root() {
        // Root can read every file.
        return;
    }
    refused(&home.run("run"), 1, &["no permission to read and write"]);
}

#[test]
fn second_daemon_is_refused() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    let expected = format!("is in use by another kfwatch (process {}): stop it first", daemon.id());
    refused(&home.run("run"), 1, &[&expected]);
    eventually_up(&daemon);
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 1, "the second process fetched no token");
}

#[test]
fn sigterm_and_sigint_drain_in_time_while_a_call_hangs() {
    for signal in ["TERM", "INT"] {
        let wechat = one_account();
        wechat.control().inject(hang(ApiCall::GetSessionList));
        let daemon = Home::watching(&wechat, "")
            .set("KFWATCH__SHUTDOWN_TIMEOUT", "2s")
            .set("KFWATCH__API__TIMEOUT", "10m")
            .daemon();
        eventually("a call", || (wechat.control().requests(ApiCall::GetSessionList) > 0).then_some(()));
        assert_eq!(daemon.get("/-/ready").status, 200);
        daemon.signal(signal);
        eventually("not ready", || (daemon.get("/-/ready").status == 503).then_some(()));
        assert_eq!(daemon.get("/-/healthy").status, 200);
        let ended = daemon.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended.stderr.contains("polls did not finish within their share of shutdown_timeout"),
            "{ended:?}"
        );
    }
}

#[test]
fn idle_daemon_drains_at_once() {
    let wechat = one_account();
    let daemon = Home::watching(&wechat, "").set("KFWATCH__SHUTDOWN_TIMEOUT", "1h").daemon();
    eventually_up(&daemon);
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("WARN") && !ended.stderr.contains("panicked"), "{ended:?}");
}

#[test]
fn second_signal_exits_at_once() {
    let wechat = one_account();
    wechat.control().inject(hang(ApiCall::GetSessionList));
    let daemon = Home::watching(&wechat, "")
        .set("KFWATCH__SHUTDOWN_TIMEOUT", "1h")
        .set("KFWATCH__API__TIMEOUT", "10m")
        .daemon();
    eventually("a call", || (wechat.control().requests(ApiCall::GetSessionList) > 0).then_some(()));
    daemon.signal("TERM");
    eventually("the drain", || daemon.stderr().contains("Draining").then_some(()));
    daemon.signal("INT");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("stopped by a second signal"), "{ended:?}");
}

#[test]
fn sighup_keeps_daemon_running() {
    let wechat = one_account();
    let mut daemon = Home::watching(&wechat, "").daemon();
    // The daemon has opened all its files before its first poll.
    eventually_up(&daemon);
    daemon.signal("HUP");
    eventually("the log line", || daemon.stderr().contains("SIGHUP").then_some(()));
    assert!(daemon.is_running());
}

#[test]
fn status_page_shows_every_account_with_its_state() {
    let wechat = WeChat::play(quiet(&[("shop", 3), ("branch", 1)]));
    let control = wechat.control();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Invalid).unwrap();
    let daemon = Home::watching(&wechat, "").daemon();
    let state_of = |page: &str, account: &str| {
        let row = page.split("<tr>").find(|row| row.contains(account)).unwrap().to_owned();
        ["ok", "unbound", "invalid", "unknown"].into_iter().find(|state| row.contains(&format!(">{state}<")))
    };
    for (account, state) in
        [("kf1@shop", "ok"), ("kf2@shop", "unbound"), ("kf3@shop", "invalid"), ("kf1@branch", "ok")]
    {
        eventually(account, || (state_of(&daemon.get("/").text(), account) == Some(state)).then_some(()));
    }
    assert_eq!(daemon.get("/nowhere").status, 404);
}

#[test]
fn client_that_sends_no_whole_request_is_disconnected() {
    let wechat = one_account();
    let daemon = Home::watching(&wechat, "").daemon();
    let parts = [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: kfwatch\r\n"];
    let clients = parts.map(|part| {
        let mut client = TcpStream::connect(daemon.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(part).unwrap();
        client
    });
    for (mut client, part) in clients.into_iter().zip(parts) {
        assert_eq!(client.read_to_end(&mut Vec::new()).ok(), Some(0), "{:?}", String::from_utf8_lossy(part));
    }
}

#[test]
fn closed_stdout_of_only_sink_ends_daemon_with_one_line() {
    let wechat = one_account();
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    let home = Home::watching(&wechat, "");
    let mut child = home.command("run").stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("kf.session.started"), "{first}");
    control.open_session(&appid(0), "kf1@shop", "oB", None).unwrap();
    let ended = child.wait_with_output().unwrap();
    let log = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("kfwatch: no sink is left to deliver events to"), "{log}");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[test]
fn check_shows_calls_per_day() {
    let wechat = WeChat::play(quiet(&[("shop", 2), ("branch", 1)]));
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", "*/15 * * * * *");
    let ended = home.run("check");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(
        ended.stdout.contains("3 kf accounts, 17,280 calls of getsessionlist on the busiest day in all"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.lines().any(|line| line.starts_with(" shop") && line.ends_with(" 11,520")),
        "{}",
        ended.stdout
    );
    let collectors = "Collectors: kf_list every 5m, online every 1m, waiting every 1m, quota every 1h; 3,192 calls a day for \
                      each official account, 6,384 in all.";
    assert!(ended.stdout.lines().any(|line| line == collectors), "{}", ended.stdout);
    assert_eq!(wechat.control().requests(ApiCall::StableToken), 0, "check makes no API call");
    let ended = home.without_collectors().run("check");
    let collectors = "Collectors: kf_list off, online off, waiting off, quota off; 0 calls a day for each official account, \
                      0 in all.";
    assert!(ended.stdout.lines().any(|line| line == collectors), "{}", ended.stdout);
}

#[test]
fn check_warns_of_schedule_beyond_rate_limit() {
    let wechat = WeChat::play(quiet(&[("shop", 100)]));
    let home = Home::watching(&wechat, "")
        .set("KFWATCH__POLL__SCHEDULE", "*/15 * * * * *")
        .set("KFWATCH__POLL__MAX_REQUESTS_PER_MINUTE", "100");
    let ended = home.run("check");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let warning = "warning: official account \"shop\": the schedule needs 400 calls a minute, but \
                   max_requests_per_minute is 100: each kf account is polled only about every 1m";
    assert!(ended.stderr.starts_with(warning), "{}", ended.stderr);
    let row = ended.stdout.lines().find(|line| line.starts_with(" shop")).unwrap();
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert!(columns.ends_with(&["100", "144,000"]), "the limit, and the calls a day that it permits: {row}");
}

#[test]
fn check_shows_patterns_and_their_cost() {
    let home = Home::new();
    home.write(
        "config.toml",
        "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0000000000000000\"\ntoken.secret = \"s3cret\"\n\
         kf_accounts = [\"kf1@shop\", \"*\"]\nexclude = [\"old*\"]\n",
    );
    let ended = home.run("check");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let row = ended.stdout.lines().find(|line| line.starts_with(" shop")).unwrap();
    assert!(row.contains("1 + * without old*"), "{row}");
    assert!(row.ends_with(" 5,760 + 5,760 each"), "{row}");
    assert!(
        ended.stdout.contains("plus those that getkflist lists and a pattern matches"),
        "{}",
        ended.stdout
    );
}

#[test]
fn patterns_without_matches_are_harmless() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replace("[\"kf1@shop\"]", "\"kf*\""));
    assert_eq!(home.run("poll").code, Some(0));
    let daemon = home.daemon();
    assert_eq!(daemon.get("/-/ready").status, 200);
    assert_eq!(daemon.get("/").status, 200);
    eventually("a sweep without accounts", || {
        daemon.metric("kfwatch_sweeps_total").filter(|sweeps| *sweeps > 0.0)
    });
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("waiting for getkflist"), "{}", ended.stderr);
}

#[test]
fn poll_works_without_store_and_creates_none() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    wechat.control().open_session(&appid(0), "kf1@shop", "oA", Some(1_700_000_000)).unwrap();
    let home = Home::watching(&wechat, "");
    let ended = home.run("poll --format json");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["kf_account"], "kf1@shop");
    assert_eq!([&lines[0]["result"], &lines[1]["result"]], ["ok", "ok"]);
    assert_eq!([&lines[0]["sessions"], &lines[1]["sessions"]], [1, 0]);
    assert_eq!(lines[0]["oldest_session_started_at"], "2023-11-14T22:13:20.000Z");
    assert!(!home.path("kfwatch.db").exists());
    wechat.control().set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    let ended = home.run("poll");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("shop/kf2@shop: getsessionlist: errcode 65402"), "{ended:?}");
    assert!(ended.stderr.contains("not every account could be polled"), "{ended:?}");
}

#[test]
fn poll_compares_with_store_and_commits_nothing() {
    let wechat = one_account();
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    // Its token is in a file: no minimum interval between two fetches applies.
    let home = delivery::home(&wechat, "");
    let daemon = home.daemon();
    eventually("the session", || daemon.stdout().contains("oA").then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.ended().code, Some(0));
    control.close_session(&appid(0), "kf1@shop", "oA").unwrap();
    control.open_session(&appid(0), "kf1@shop", "oB", None).unwrap();
    control.open_session(&appid(0), "kf1@shop", "oC", None).unwrap();
    let log = || home.run("events --format json").stdout;
    let before = log();
    assert_eq!(before.lines().count(), 1, "{before}");
    let polled = home.run("poll --format json");
    assert_eq!(polled.code, Some(0), "{polled:?}");
    let polled: Value = serde_json::from_str(&polled.stdout).unwrap();
    assert_eq!([&polled["sessions"], &polled["started"], &polled["ended"]], [2, 2, 1]);
    assert_eq!(log(), before);
    let daemon = home.daemon();
    eventually("the changes", || daemon.stdout().contains("oC").then_some(()));
    assert_eq!(log().lines().count(), 4, "found by the daemon as if `poll` had not run");
}

#[test]
fn events_filters_the_log_in_three_formats() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    control.open_session(&appid(0), "kf2@shop", "oB", None).unwrap();
    let home = Home::watching(&wechat, "");
    refused(&home.run("events"), 1, &["there is no store at"]);
    let daemon = home.daemon();
    eventually("the starts", || (daemon.stdout().lines().count() == 2).then_some(()));
    control.close_session(&appid(0), "kf1@shop", "oA").unwrap();
    eventually("the end", || (daemon.stdout().lines().count() == 3).then_some(()));
    let count = |arguments: &str| {
        let ended = home.run(&format!("events --format json {arguments}"));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments}: {ended:?}");
        for line in ended.stdout.lines() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["specversion"], "1.0");
        }
        ended.stdout.lines().count()
    };
    for (arguments, expected) in [
        ("", 3),
        ("--account kf1@shop", 2),
        ("--account shop/kf2@shop", 1),
        ("--type started", 2),
        ("--type ended", 1),
        ("--type started --type ended", 3),
        ("--type state_changed", 0),
        ("--since 1h", 3),
        ("--since 7d", 3),
        ("--since 2000-01-01T00:00:00Z", 3),
        ("--since 2999-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(count(arguments), expected, "{arguments}");
    }
    assert_eq!(home.run("events --format json").stdout, daemon.stdout(), "as delivered");
    let table = home.run("events").stdout;
    assert!(table.starts_with("TIME") && table.lines().count() == 4, "{table}");
    let csv = home.run("events --format csv").stdout;
    assert!(csv.starts_with("time,type,id,sequence,") && csv.lines().count() == 4, "{csv}");
    let follower = home.spawn("events --follow --format json --type ended");
    eventually("the old end", || follower.stdout().contains("oA").then_some(()));
    control.close_session(&appid(0), "kf2@shop", "oB").unwrap();
    eventually("the new end", || follower.stdout().contains("oB").then_some(()));
}

#[test]
fn closed_pipe_is_no_failure() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    // More than fits into the buffer of a pipe.
    for number in 0..400 {
        wechat
            .control()
            .open_session(&appid(0), "kf1@shop", &format!("oDF3iY9P32sK_5GgYi{number:010}"), None)
            .unwrap();
    }
    eventually("the sessions", || (daemon.stdout().lines().count() == 400).then_some(()));
    let mut child = home.command("events --format json").spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[test]
fn simulate_prints_a_working_configuration() {
    let home = Home::new();
    let simulator = home.spawn("simulate --listen 127.0.0.1:0 --load-accounts 3 --load-sessions 2");
    let configuration = eventually("the configuration", || {
        let text = simulator.stdout();
        text.contains("secret = ").then_some(text)
    });
    home.write("config.toml", &configuration);
    let daemon = Home::set(home, "KFWATCH__POLL__SCHEDULE", "* * * * * *");
    let daemon = daemon.set("KFWATCH__WEB__LISTEN", "127.0.0.1:0").daemon();
    eventually("six sessions", || (daemon.stdout().lines().count() == 6).then_some(()));
    simulator.signal("TERM");
    assert_eq!(simulator.ended().code, Some(0));
}

#[test]
fn demo_into_pipe_prints_cloudevents_and_a_summary() {
    let ended = Home::new().run("demo --for 5s --listen 127.0.0.1:0");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut types = BTreeMap::<String, usize>::new();
    for line in ended.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["specversion"], "1.0");
        *types.entry(event["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(types["kf.session.started"] >= 10, "{types:?}");
    assert_eq!(types["kf.account.state_changed"], 4, "three unbound accounts and an invalid one: {types:?}");
    let (_, summary) = ended.stderr.split_once("\nSummary\n").unwrap();
    let events: usize = types.values().sum();
    assert!(summary.starts_with(&format!("  events        {events}\n")), "{summary}");
    assert!(
        summary.contains(" polls of 24 kf accounts") && summary.contains("unbound       3\n"),
        "{summary}"
    );
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

/// Starts a demo on a pseudo-terminal.
fn demo_on_terminal(no_color: Option<&str>) -> std::process::Child {
    let command = concat!(env!("CARGO_BIN_EXE_kfwatch"), " demo --for 8s --listen 127.0.0.1:0");
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", command, "/dev/null"]).env("TERM", "xterm-256color");
    script.env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
    script.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn demo_on_terminal_prints_aligned_lines() {
    let demos = [demo_on_terminal(None), demo_on_terminal(Some("1"))];
    let [coloured, plain] = demos.map(|demo| {
        let ended = demo.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    });
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    assert!(!plain.contains('\u{1b}'), "{plain}");
    for absent in ["specversion", "INFO", "panicked"] {
        assert!(!plain.contains(absent), "{plain}");
    }
    for shown in
        ["status page   http://127.0.0.1:", "TIME      EVENT", "\r\nSummary\r\n", "unbound       3\r\n"]
    {
        assert!(plain.contains(shown), "no {shown:?} in {plain}");
    }
    let events: Vec<&str> = plain.lines().filter(|line| line.as_bytes().get(2) == Some(&b':')).collect();
    let count = |event: &str| events.iter().filter(|line| line.contains(event)).count();
    assert_eq!((count("account unbound"), count("account invalid")), (3, 1), "{plain}");
    assert!(count("session ") >= 10, "{plain}");
    for line in events {
        assert!(unicode_width::UnicodeWidthStr::width(line) <= 80, "{line}");
        // The customer begins in the same column of the terminal, whatever script the nickname uses.
        let mut width = 0;
        let customer = line.chars().skip_while(|character| {
            width += unicode_width::UnicodeWidthChar::width(*character).unwrap();
            width <= 55
        });
        let customer: String = customer.take(5).collect();
        assert_eq!(line.contains("session "), customer.ends_with('…'), "{line}");
    }
}

#[test]
fn moved_sink_file_is_created_again() {
    let wechat = one_account();
    let control = wechat.control();
    let home = Home::watching(
        &wechat,
        "[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\nmode = \"0640\"\n",
    );
    let daemon = home.daemon();
    let read = |name: &str| fs::read_to_string(home.path(name)).unwrap_or_default();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    eventually("the first event", || read("events.jsonl").contains("oA").then_some(()));
    fs::rename(home.path("events.jsonl"), home.path("events.jsonl.1")).unwrap();
    control.open_session(&appid(0), "kf1@shop", "oB", None).unwrap();
    eventually("the second event", || read("events.jsonl").contains("oB").then_some(()));
    assert_eq!([read("events.jsonl").lines().count(), read("events.jsonl.1").lines().count()], [1, 1]);
    assert_eq!(fs::metadata(home.path("events.jsonl")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(daemon.stdout(), "");
}

#[test]
fn refused_address_is_logged_once_and_backs_off() {
    assert_refusal_is_logged_once(|wechat| wechat.control().refuse_address(&appid(0)).unwrap(), "40164");
}

#[test]
fn frozen_secret_is_logged_once_and_backs_off() {
    assert_refusal_is_logged_once(|wechat| wechat.control().freeze_secret(&appid(0)).unwrap(), "40243");
}

#[test]
fn wrong_secret_is_logged_once_and_backs_off() {
    let wechat = WeChat::play(quiet(&[("shop", 3), ("branch", 1)]));
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replacen(&secret(0), &"0".repeat(32), 1));
    assert_logged_once(&wechat, &home.daemon(), "40125");
}

fn assert_refusal_is_logged_once(refuse: impl Fn(&WeChat), code: &str) {
    let wechat = WeChat::play(quiet(&[("shop", 3), ("branch", 1)]));
    refuse(&wechat);
    assert_logged_once(&wechat, &Home::watching(&wechat, "").daemon(), code);
}

/// Asserts that the token refusal of the first official account is logged once, and that the other one is not affected.
fn assert_logged_once(wechat: &WeChat, daemon: &Process, code: &str) {
    let control = wechat.control();
    let other = "kfwatch_polls_total{official_account=\"branch\",kf_account=\"kf1@branch\"}";
    eventually("polls of the other", || daemon.metric(other).filter(|polls| *polls >= 6.0));
    let page = daemon.get("/metrics").text();
    let value = |series: &str| metric(&page, series);
    let errors = format!(
        "kfwatch_api_errors_total{{official_account=\"shop\",endpoint=\"stable_token\",code=\"{code}\"}}"
    );
    assert_eq!(value(&errors), Some(1.0));
    assert_eq!(value("kfwatch_token_refresh_failures_total{official_account=\"shop\"}"), Some(1.0));
    assert_eq!(value(&format!("wechat_kf_account_up{SERIES}")), Some(0.0));
    assert_eq!(
        value("wechat_kf_account_up{official_account=\"branch\",kf_account=\"kf1@branch\"}"),
        Some(1.0)
    );
    assert_eq!(control.requests_of(&appid(0), ApiCall::StableToken), Ok(1), "backs off");
    assert_eq!(control.requests_of(&appid(0), ApiCall::GetSessionList), Ok(0));
    let log = daemon.stderr();
    let is_refusal = |line: &&str| line.contains(code) && !line.contains("First polls finished");
    let logged: Vec<&str> = log.lines().filter(is_refusal).collect();
    assert_eq!(logged.len(), 1, "{log}");
    assert!(logged[0].contains("ERROR") && logged[0].contains("remedy="), "{}", logged[0]);
}

#[test]
#[ignore = "slow"]
fn official_account_recovers_once_address_is_allowed() {
    assert_recovers(
        |wechat| wechat.control().refuse_address(&appid(0)).unwrap(),
        |wechat| {
            wechat.control().allow_address(&appid(0)).unwrap();
        },
    );
}

#[test]
#[ignore = "slow"]
fn official_account_recovers_once_secret_is_unfrozen() {
    assert_recovers(
        |wechat| wechat.control().freeze_secret(&appid(0)).unwrap(),
        |wechat| {
            wechat.control().unfreeze_secret(&appid(0)).unwrap();
        },
    );
}

fn assert_recovers(refuse: impl Fn(&WeChat), allow: impl Fn(&WeChat)) {
    let wechat = one_account();
    refuse(&wechat);
    let daemon = Home::watching(&wechat, "").daemon();
    eventually("the refusal", || daemon.stderr().contains("ERROR").then_some(()));
    allow(&wechat);
    // The first backoff lasts for 30 seconds or a minute.
    eventually_up(&daemon);
    delivery::eventually_logged_once(&daemon, "Calls succeed again");
}

fn hang(endpoint: ApiCall) -> FaultRule {
    FaultRule { endpoint: Some(endpoint), ..FaultRule::new(Fault::Hang) }
}

/// A merchant of a third-party platform. No ticket was pushed yet.
const MERCHANT: &str = "[[official_accounts]]\nname = \"merchant\"\nappid = \"wx00000000000000ff\"\nkf_accounts = [\"kf1@merchant\"]\n\
                        [official_accounts.token]\nsource = \"component\"\ncomponent_appid = \"wxaaaaaaaaaaaaaaaa\"\n\
                        secret_file = \"platform.secret\"\nticket_file = \"ticket\"\n";

fn with_merchant(wechat: &WeChat) -> Home {
    let home = Home::watching(wechat, MERCHANT);
    home.write("platform.secret", "s3cret");
    home
}

#[test]
fn command_before_first_run_creates_store_of_platform_only() {
    let wechat = one_account();
    let home = with_merchant(&wechat);
    let ended = home.run("poll");
    assert!(ended.stdout.contains("merchant/kf1@merchant: api_component_token: ticket file"), "{ended:?}");
    assert_eq!(fs::metadata(home.path("kfwatch.db")).unwrap().permissions().mode() & 0o777, 0o600);
    let home = Home::watching(&wechat, "");
    assert_eq!(home.run("poll").code, Some(0));
    assert!(!home.path("kfwatch.db").exists());
}

/// Whether this process may give files to other users.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn command_in_directory_of_another_user_names_sudo_command() {
    if !is_root() {
        return;
    }
    let wechat = one_account();
    let home = with_merchant(&wechat);
    let uid_of_daemon = 1;
    std::os::unix::fs::chown(home.path("."), Some(uid_of_daemon), None).unwrap();
    fs::copy(home.path("config.toml"), home.path("my config.toml")).unwrap();
    let program = env!("CARGO_BIN_EXE_kfwatch");
    let check = |home: &Home, arguments: &[&str], sudo: &str| {
        let ended = Process::spawn({
            let mut command = home.command("");
            command.args(arguments);
            command
        })
        .ended();
        let path = home.path("kfwatch.db");
        let expected = format!(
            "kfwatch: there is no store at {} to keep a new refresh token of merchant in: run `sudo -u daemon {program} {sudo}`, \
             which creates it",
            path.display()
        );
        assert_eq!(ended.stderr.lines().last(), Some(expected.as_str()), "{ended:?}");
        assert_eq!((ended.code, ended.stdout.as_str(), path.exists()), (Some(1), "", false), "{ended:?}");
    };
    check(&home, &["poll"], "poll");
    let zh = ["check", "--online", "--lang", "zh", "-c", "my config.toml"];
    check(&home, &zh, "check --online --lang zh -c 'my config.toml'");
    let named = home.path("config.toml").display().to_string();
    let home = home.set("KFWATCH_CONFIG", &named).set("LANG", "zh_CN.UTF-8");
    check(&home, &["check", "--online"], &format!("check --online -c {named}"));
    assert_eq!(wechat.control().requests(ApiCall::GetSessionList), 0);
}

#[test]
fn command_on_store_of_another_user_names_sudo_command() {
    if !is_root() {
        return;
    }
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    let as_nobody = |arguments: &str| {
        let mut command = home.command(arguments);
        command.uid(65534).gid(65534);
        Process::spawn(command).ended()
    };
    // Another user may read the configuration, but not the store.
    fs::set_permissions(home.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(home.path("config.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let program = env!("CARGO_BIN_EXE_kfwatch");
    if !std::process::Command::new(program)
        .arg("--version")
        .uid(65534)
        .output()
        .is_ok_and(|ended| ended.status.success())
    {
        return;
    }
    let daemon = home.daemon();
    eventually_up(&daemon);
    let socket = home.path("kfwatch.db-control");
    let store = home.path("kfwatch.db");
    let refused_at = |path: &Path, arguments: &str| {
        format!(
            "kfwatch: no permission to read and write {}: run `sudo -u root {program} {arguments}`",
            path.display()
        )
    };
    for arguments in ["check --online", "events"] {
        let ended = as_nobody(arguments);
        assert_eq!(ended.stderr.lines().last(), Some(refused_at(&store, arguments).as_str()), "{ended:?}");
    }
    let expected = format!(
        "kfwatch: no permission to use the control socket {} of the running daemon: run `sudo -u root {program} sinks`",
        socket.display()
    );
    assert_eq!(as_nobody("sinks").stderr.lines().last(), Some(expected.as_str()));
    drop(daemon);
    fs::set_permissions(home.path("."), fs::Permissions::from_mode(0o700)).unwrap();
}
