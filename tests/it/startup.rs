//! The first minute of a daemon: what `kfwatch check` finds on this machine, what the log says at the start and after the first polls,
//! and what refused starts advise.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    process::Command,
};

use kfwatch::simulator::KfState;

use crate::{
    commands::without_times,
    support::{
        process::{Ended, Home, WeChat, appid, quiet, secret},
        wait::eventually,
    },
};

/// A schedule with no tick in the next months.
const NEVER: &str = "0 0 29 2 *";

/// Returns the lines of a log that contain this text, without their times.
fn lines_with(log: &str, text: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(text));
    lines.filter_map(|line| Some(line.split_once(' ')?.1.trim_start().to_owned())).collect()
}

/// Replaces what differs from run to run.
fn normalized(text: &str, home: &Home) -> String {
    text.replace(&home.path("").display().to_string(), "HOME/")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs a command as the user nobody, without any capability. The home becomes readable to all.
fn run_as_nobody(home: &Home, arguments: &str) -> Ended {
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    let options =
        ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let kfwatch = home.command(arguments);
    command.args(options).arg(kfwatch.get_program()).args(kfwatch.get_args());
    let output = command.current_dir(home.path("")).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn start_is_summarized_in_one_line() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).set("LANG", "zh_CN.UTF-8");
    let log = home.daemon().terminate().stderr;
    assert_eq!(
        lines_with(&normalized(&log, &home), " Starting"),
        ["INFO Starting; the next poll is at 2028-02-29 00:00:00 Asia/Shanghai config=HOME/config.toml \
          store=HOME/kfwatch.db sinks=\"stdout (standard output)\""]
    );
    let sinks = "[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n\
                 [[sinks]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"http://me:s3cret@127.0.0.1:1/s3cret\"\n";
    let home = Home::watching(&wechat, sinks).set("KFWATCH__POLL__SCHEDULE", NEVER);
    let home = home.set("KFWATCH__POLL__TIMEZONE", "Europe/Berlin");
    let log = home.daemon().terminate().stderr;
    assert_eq!(
        lines_with(&normalized(&log, &home), " Starting"),
        [
            "INFO Starting; the next poll is at 2028-02-29 00:00:00 Europe/Berlin config=HOME/config.toml store=HOME/kfwatch.db \
          sinks=\"log (HOME/events.jsonl), crm (http://127.0.0.1:1)\""
        ]
    );
}

#[test]
fn first_polls_are_summarized_once_with_causes() {
    let wechat = WeChat::play(quiet(&[("shop", 3), ("tea", 1)]));
    let control = wechat.control();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Invalid).unwrap();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    let daemon = Home::watching(&wechat, "").without_collectors().daemon();
    let polls = "kfwatch_polls_total{official_account=\"tea\",kf_account=\"kf1@tea\"}";
    eventually("a second sweep", || daemon.metric(polls).filter(|polls| *polls >= 3.0));
    assert_eq!(
        lines_with(&daemon.terminate().stderr, "First polls"),
        [
            "INFO First polls finished: 2 of 4 kf accounts succeeded, open sessions: 1, failures: 65401 (1), 65402 (1) \
             kf_accounts=4 succeeded=2 sessions=1 failures=2 not_polled=0"
        ]
    );
}

#[test]
fn account_that_was_never_polled_shows_no_sessions_as_zero() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::watching(&wechat, "").without_collectors();
    let home = home.set("KFWATCH__POLL__SCHEDULE", NEVER);
    let daemon = home.daemon();
    let metrics = daemon.get("/metrics").text();
    for family in [
        "wechat_kf_active_sessions",
        "wechat_kf_oldest_session_timestamp_seconds",
        "kfwatch_poll_last_success_timestamp_seconds",
    ] {
        assert!(!metrics.contains(&format!("\n{family}{{")), "{family}");
    }
    let page = daemon.get("/").text();
    assert!(
        page.contains("2 kf accounts, 2 not polled yet, – open sessions, 0 accounts need attention"),
        "{page}"
    );
    assert!(page.contains(r#"<td class="n">–</td>"#), "{page}");
    daemon.terminate();
    let polled = Home::watching(&wechat, "").without_collectors().daemon();
    let text = "2 kf accounts, 0 open sessions, 0 accounts need attention";
    eventually("the polls", || polled.get("/").text().contains(text).then_some(()));
}

/// A configuration that needs a missing directory for its store, another one for a sink, and a port.
fn unprepared(wechat: &WeChat, port: u16) -> Home {
    let home = Home::watching(
        wechat,
        "[store]\npath = \"data/kfwatch.db\"\n[[sinks]]\nname = \"log\"\ntype = \"jsonl\"\n",
    );
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")) + "path = \"events/kf.jsonl\"\n";
    home.write("config.toml", &text);
    home
}

#[test]
fn check_reports_what_the_daemon_will_lack() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let home = unprepared(&wechat, port);
    let checked = home.run("check");
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.starts_with("The configuration is valid."), "{checked:?}");
    assert_eq!(
        normalized(&checked.stderr, &home),
        format!(
            "kfwatch: store: the directory HOME/data does not exist: mount its file system, or create it for a new store\n\
             kfwatch: sink \"log\": HOME/events/kf.jsonl: the directory HOME/events does not exist: create it\n\
             kfwatch: web.listen: cannot listen on 127.0.0.1:{port}: another program uses it (`ss -ltnp sport = :{port}` shows \
             which): stop that program, or set web.listen to another port: Address already in use (os error 98)\n"
        )
    );
    let elsewhere = home.run("check --no-environment");
    assert_eq!((elsewhere.code, elsewhere.stderr.as_str()), (Some(0), ""), "{elsewhere:?}");
    // A tick may have passed.
    assert_eq!(without_times(&elsewhere.stdout), without_times(&checked.stdout));
    drop(taken);
    fs::create_dir(home.path("data")).unwrap();
    fs::create_dir(home.path("events")).unwrap();
    let prepared = home.run("check");
    assert_eq!((prepared.code, prepared.stderr.as_str()), (Some(0), ""), "{prepared:?}");
    assert!(!home.path("data/kfwatch.db").exists(), "check creates nothing");
}

#[test]
fn check_warns_of_long_socket_path_and_notes_running_daemon() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let store = format!("{}.db", "k".repeat(120));
    let home = Home::watching(&wechat, "").set("KFWATCH__STORE__PATH", &store);
    let checked = home.run("check");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(
        normalized(&checked.stderr, &home),
        format!(
            "warning: the daemon will accept no commands (kfwatch poll, sinks and others): HOME/{store}-control is too long for \
             the path of a socket (at most 107 bytes): set control.socket to a shorter one\n"
        )
    );
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    let address = daemon.address();
    let home = home.set("KFWATCH__WEB__LISTEN", &address.to_string());
    let checked = home.run("check");
    let note = format!(
        "note: {address} is in use, by the kfwatch that runs with this store (process {})\n",
        daemon.id()
    );
    assert_eq!((checked.code, checked.stderr), (Some(0), note));
}

#[test]
fn check_warns_of_token_files_that_do_not_exist() {
    let home = Home::new().set("KFWATCH__WEB__LISTEN", "127.0.0.1:0");
    let account = |n: usize| {
        format!(
            "[[official_accounts]]\nname = \"shop{n}\"\nappid = \"wx000000000000000{n}\"\nkf_accounts = [\"test1@test\"]\n\
             [official_accounts.token]\nsource = \"file\"\npath = \"tokens/{n}\"\n"
        )
    };
    home.write("config.toml", &(0..4).map(account).collect::<String>());
    let checked = home.run("check");
    let missing = |n: usize| {
        format!(
            "warning: HOME/tokens/{n} does not exist yet: start the program that writes it, or correct its path\n"
        )
    };
    let expected = (0..3).map(missing).collect::<String>()
        + "warning: files of tokens or tickets that do not exist yet: 1 more\n";
    assert_eq!((checked.code, normalized(&checked.stderr, &home)), (Some(0), expected));
    let elsewhere = home.run("check --no-environment");
    assert_eq!((elsewhere.code, elsewhere.stderr.as_str()), (Some(0), ""));
}

#[test]
fn configuration_can_be_checked_without_its_secrets() {
    let home = Home::new();
    let account = |token: &str| {
        format!(
            "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\nkf_accounts = [\"test1@test\"]\n\
             [official_accounts.token]\n{token}\n"
        )
    };
    for token in
        ["secret_file = \"/run/credentials/kfwatch.service/shop.secret\"", "secret_env = \"SHOP_SECRET\""]
    {
        home.write("config.toml", &format!("[api]\nca_file = \"ca.pem\"\n{}", account(token)));
        let here = home.run("check");
        assert_eq!((here.code, here.stderr.lines().count()), (Some(78), 2), "{here:?}");
        let elsewhere = home.run("check --no-environment");
        assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
        assert_eq!(
            elsewhere.stdout,
            "The configuration is valid. This machine does not have all its files and variables, which were left out.\n"
        );
    }
    home.write(
        "config.toml",
        &format!("[log]\nformat = \"xml\"\n{}", account("secret_file = \"shop.secret\"")),
    );
    let refused = home.run("check --no-environment");
    let expected = "kfwatch: config.toml:2: log.format: \"xml\" is not one of \"text\", \"json\"\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(78), expected));
}

#[test]
fn running_daemon_is_named_before_its_port() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    let home = home.set("KFWATCH__WEB__LISTEN", &daemon.address().to_string());
    let second = home.run("run");
    let expected = format!(
        "kfwatch: store: HOME/kfwatch.db is in use by another kfwatch (process {}): stop it first, or let it run\n",
        daemon.id()
    );
    assert_eq!((second.code, normalized(&second.stderr, &home)), (Some(1), expected));
}

#[test]
fn damaged_store_is_answered_with_restore() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    for (content, expected) in [
        (
            "these are my notes",
            "kfwatch: store: HOME/kfwatch.db is not a store of kfwatch (no SQLite file): if it is a damaged one, restore a backup \
             with `kfwatch restore FILE`; otherwise correct store.path\n",
        ),
        (
            "SQLite format 3\0 and garbage",
            "kfwatch: store: the store is damaged: restore a backup with `kfwatch restore FILE`; without one, move the file away \
             with its -wal and -shm, and start with a new store: file is not a database: Error code 26: file is not a database\n",
        ),
    ] {
        fs::write(home.path("kfwatch.db"), content).unwrap();
        let ended = home.run("run");
        assert_eq!((ended.code, normalized(&ended.stderr, &home)), (Some(1), expected.to_owned()));
    }
}

#[test]
fn privileged_port_is_answered_with_capability() {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if !is_root() || first_free.trim() == "0" {
        // Nobody else can become the user nobody, and no port needs a privilege.
        return;
    }
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &text.replace("127.0.0.1:0", "127.0.0.1:80"));
    chown(home.path(""), Some(65534), Some(65534)).unwrap();
    chown(home.path("config.toml"), Some(65534), Some(65534)).unwrap();
    let ended = run_as_nobody(&home, "run");
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (
            Some(1),
            "kfwatch: cannot listen on 127.0.0.1:80: a port below 1024 needs a privilege: set web.listen to a higher port, such as \
             9877, with a reverse proxy in front of it if need be; or give the privilege in a drop-in of the systemd unit: \
             AmbientCapabilities=CAP_NET_BIND_SERVICE, CapabilityBoundingSet=CAP_NET_BIND_SERVICE and PrivateUsers=no: Permission \
             denied (os error 13)\n"
        )
    );
}

#[test]
fn missing_permission_is_answered_with_the_command_as_owner() {
    if !is_root() {
        return;
    }
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER);
    home.daemon().terminate();
    chown(home.path("config.toml"), Some(65534), None).unwrap();
    chown(home.path("kfwatch.db"), Some(1), None).unwrap();
    let kfwatch = env!("CARGO_BIN_EXE_kfwatch");
    let ended = run_as_nobody(&home, "events --format json");
    let expected = format!(
        "kfwatch: no permission to read and write HOME/kfwatch.db: run `sudo -u daemon {kfwatch} events --format json`\n"
    );
    assert_eq!((ended.code, normalized(&ended.stderr, &home)), (Some(1), expected));
    let ended = run_as_nobody(&home, "check");
    let expected = format!(
        "kfwatch: store: no permission to read and write HOME/kfwatch.db: run `sudo -u daemon {kfwatch} check`\n"
    );
    assert_eq!((ended.code, normalized(&ended.stderr, &home)), (Some(1), expected));
    // A daemon that became root could do more than it must.
    chown(home.path("kfwatch.db"), Some(0), None).unwrap();
    let remedy = "it belongs to root; give it to the user of kfwatch: `sudo chown nobody HOME/kfwatch.db`\n";
    for (arguments, place) in [("check", "store: "), ("run", "")] {
        chown(home.path("kfwatch.db-lock"), Some(65534), None).unwrap();
        chown(home.path(""), Some(65534), None).unwrap();
        let ended = run_as_nobody(&home, arguments);
        let expected = format!("kfwatch: {place}no permission to read and write HOME/kfwatch.db: {remedy}");
        assert_eq!((ended.code, normalized(&ended.stderr, &home)), (Some(1), expected));
    }
}

#[test]
fn unreadable_configuration_is_answered_with_its_owner() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.write("config.toml", "");
    chown(home.path("config.toml"), Some(0), Some(1)).unwrap();
    let ended = run_as_nobody(&home, "check");
    let expected = "kfwatch: config.toml: cannot be read by this user: it belongs to the user root and the group daemon; run the \
                    command as the user of kfwatch, with sudo -u\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(78), expected));
}

#[test]
fn group_that_reads_the_configuration_on_purpose_is_no_warning() {
    if !is_root() {
        return;
    }
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    let check_with_mode = |group: u32, mode: u32| {
        chown(home.path("config.toml"), Some(0), Some(group)).unwrap();
        fs::set_permissions(home.path("config.toml"), fs::Permissions::from_mode(mode)).unwrap();
        normalized(&home.run("check").stderr, &home)
    };
    let warning = "warning: secrets can be read by others than the owner of the file: HOME/config.toml; chmod 600 them\n";
    // chmod 600 would lock out a service that reads the file through its group.
    assert_eq!(check_with_mode(1, 0o640), "");
    assert_eq!(check_with_mode(0, 0o640), warning);
    assert_eq!(check_with_mode(1, 0o644), warning);
}

#[test]
fn used_port_of_the_simulator_is_answered_with_its_option() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port();
    for command in ["simulate", "demo"] {
        let ended = Home::new().run(&format!("{command} --listen {address}"));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(
            ended.stderr.lines().last().unwrap(),
            format!(
                "kfwatch: cannot listen on {address}: another program uses it (`ss -ltnp sport = :{port}` shows which): stop that \
                 program, or set --listen to another port: Address already in use (os error 98)"
            )
        );
    }
}

#[test]
fn secret_of_kubernetes_that_the_group_reads_is_not_warned_of() {
    if !is_root() {
        return println!("SKIPPED: only root can give a file to another user");
    }
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    let inline = format!("secret = \"{}\"", secret(0));
    home.write("config.toml", &text.replace(&inline, "secret_file = \"shop.secret\""));
    home.write("shop.secret", &secret(0));
    // As the kubelet creates it: owner root, and the group of the pod (fsGroup) may read it.
    for file in ["config.toml", "shop.secret"] {
        chown(home.path(file), Some(0), Some(65534)).unwrap();
        fs::set_permissions(home.path(file), fs::Permissions::from_mode(0o440)).unwrap();
    }
    let warned = |home: &Home| {
        let checked = run_as_nobody(home, "check --no-environment");
        assert_eq!(checked.code, Some(0), "{checked:?}");
        (checked.stdout + &checked.stderr).contains("can be read by others")
    };
    assert!(!warned(&home));
    fs::set_permissions(home.path("shop.secret"), fs::Permissions::from_mode(0o444)).unwrap();
    assert!(warned(&home));
}
