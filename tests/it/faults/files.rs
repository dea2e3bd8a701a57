//! Files of the store that are not where they seem: mounted alone, deleted or replaced while they are open, linked.

use std::{fs, os::unix::fs::symlink, path::Path};

use rusqlite::Connection;

use crate::support::{
    backup::{grow, home as home_with_account, number, read},
    delivery::{self, eventually_delivered, eventually_logged, eventually_logged_once, file, times_logged},
    event_log::EventLog,
    mounts::with_mounts,
    process::{Home, Process, WeChat, quiet},
    wait::eventually,
};

const STORE: &str = "kfwatch.db";
const NOTHING_IS_STORED: &str = "so nothing is stored any more: stop kfwatch";

/// Commands that need the store.
const COMMANDS: [&str; 5] = ["run", "events", "sinks", "sinks resume log", "backup copy.db"];

#[test]
fn store_that_is_a_mount_point_is_refused() {
    let home = home_with_account();
    grow(&home.path(STORE), 1, 3);
    fs::remove_file(home.path("kfwatch.db-lock")).unwrap();
    for mounted in [STORE, "kfwatch.db-wal", "kfwatch.db-shm"] {
        // As `docker run --volume kfwatch.db:/var/lib/kfwatch/kfwatch.db` does.
        fs::copy(home.path(STORE), home.path("volume")).unwrap();
        let mount = format!("touch {mounted}; mount --bind volume {mounted}");
        let path = home.path("").canonicalize().unwrap().join(mounted);
        let problem = format!(
            "store: {} is itself a mount point: mount the directory {} instead",
            path.display(),
            path.parent().unwrap().display()
        );
        for arguments in COMMANDS.into_iter().chain(["restore volume"]) {
            let Some(command) = with_mounts(&home.command(arguments), &mount) else { return };
            let ended = Process::spawn(command).ended();
            assert_eq!(ended.code, Some(1), "{arguments}: {ended:?}");
            assert!(ended.stderr.contains(&problem), "{arguments}: {ended:?}");
        }
        let checked = Process::spawn(with_mounts(&home.command("check"), &mount).unwrap()).ended();
        assert!(checked.code == Some(1) && checked.stderr.contains(&problem), "{checked:?}");
        assert!(!home.path("kfwatch.db-lock").exists(), "nothing is created");
        if mounted != STORE {
            fs::remove_file(home.path(mounted)).unwrap();
        }
    }
}

/// A daemon that has stored and delivered `oA`, and a connection that keeps the present files open.
struct Stage {
    wechat: WeChat,
    home: Home,
    daemon: Process,
    store: Connection,
}

fn written(home: &Home) -> String {
    fs::read_to_string(home.path("events.jsonl")).unwrap_or_default()
}

impl Stage {
    fn new() -> Self {
        let wechat = WeChat::play(quiet(&[("shop", 1)]));
        let home = delivery::home(&wechat, &file("archive", "events.jsonl"));
        let daemon = home.daemon();
        let store = read(&home.path(STORE));
        let stage = Self { wechat, home, daemon, store };
        stage.open("oA");
        stage.eventually_written("oA");
        eventually_delivered(&stage.daemon, "archive");
        assert_eq!(stage.stored_events(), 1);
        stage
    }

    fn open(&self, openid: &str) {
        delivery::open(&self.wechat.control(), "kf1@shop", openid);
    }

    fn stored_events(&self) -> i64 {
        number(&self.store, "SELECT count(*) FROM events")
    }

    fn eventually_written(&self, openid: &str) {
        eventually(openid, || written(&self.home).contains(openid).then_some(()));
    }

    /// Opens a session, and waits until commits have failed.
    fn eventually_fails_to_store(&self, openid: &str) {
        let failures = || self.daemon.metric("kfwatch_store_failures_total").unwrap();
        let before = failures();
        self.open(openid);
        eventually("failed commits", || (failures() >= before + 2.0).then_some(()));
        assert_eq!(self.daemon.metric("kfwatch_store_last_write_successful"), Some(0.0));
    }

    fn path(&self, name: &str) -> String {
        self.home.path("").canonicalize().unwrap().join(name).display().to_string()
    }

    /// Asserts that log, page, health and commands name the file, and that nothing was stored or delivered.
    fn assert_reported(&self, problem: &str) {
        eventually_logged_once(&self.daemon, "ERROR");
        let reports = [
            ("the log", self.daemon.stderr()),
            ("the page", self.daemon.get("/").text()),
            ("health", self.daemon.get("/-/healthy").text()),
            ("sinks", self.home.run("sinks").stdout),
        ];
        for (what, text) in reports {
            assert!(text.contains(problem) && text.contains(NOTHING_IS_STORED), "{what}: {text}");
        }
        assert_eq!(self.daemon.get("/-/healthy").status, 200);
        assert_eq!(self.stored_events(), 1, "nothing is committed");
        assert!(!written(&self.home).contains("oB"), "and so nothing is delivered");
    }
}

#[test]
fn nothing_is_committed_to_deleted_or_replaced_files() {
    let replace = |path: &Path| {
        fs::copy(path, path.with_extension("new")).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>, &str); 5] = [
        (STORE, &remove, "deleted or moved away"),
        (STORE, &replace, "replaced by another file"),
        ("kfwatch.db-wal", &remove, "deleted or moved away"),
        ("kfwatch.db-wal", &replace, "replaced by another file"),
        ("kfwatch.db-shm", &remove, "deleted or moved away"),
    ];
    for (name, change, what) in changes {
        let stage = Stage::new();
        change(&stage.home.path(name));
        stage.eventually_fails_to_store("oB");
        stage.assert_reported(&format!("{} was {what} while it was open", stage.path(name)));
        stage.daemon.terminate();
    }
}

#[test]
fn store_that_is_moved_back_is_used_again() {
    let stage = Stage::new();
    fs::rename(stage.home.path(STORE), stage.home.path("elsewhere")).unwrap();
    stage.eventually_fails_to_store("oB");
    fs::rename(stage.home.path("elsewhere"), stage.home.path(STORE)).unwrap();
    stage.eventually_written("oB");
    assert_eq!(stage.daemon.metric("kfwatch_store_last_write_successful"), Some(1.0));
    stage.daemon.terminate();
    EventLog::of(&stage.home).assert_written("archive", &[written(&stage.home)]);
}

#[test]
fn deleted_log_is_saved_at_the_end() {
    let stage = Stage::new();
    fs::remove_file(stage.home.path("kfwatch.db-wal")).unwrap();
    stage.eventually_fails_to_store("oB");
    let Stage { wechat: _wechat, home, daemon, store } = stage;
    drop(store);
    daemon.terminate();
    assert_eq!(EventLog::of(&home).len(), 1);
    let daemon = home.daemon();
    eventually("oB", || written(&home).contains("oB").then_some(()));
    daemon.terminate();
    assert_eq!(EventLog::of(&home).len(), 2);
}

#[test]
fn daemon_of_deleted_store_does_not_touch_its_successor() {
    let Stage { wechat, home, daemon: first, .. } = Stage::new();
    for suffix in ["", "-wal", "-shm", "-lock", "-control"] {
        fs::remove_file(home.path(&format!("{STORE}{suffix}"))).unwrap();
    }
    let second = home.daemon();
    delivery::open(&wechat.control(), "kf1@shop", "oB");
    eventually_logged(&first, NOTHING_IS_STORED);
    eventually("oB", || written(&home).contains("oB").then_some(()));
    first.terminate();
    delivery::open(&wechat.control(), "kf1@shop", "oC");
    eventually("oC", || written(&home).contains("oC").then_some(()));
    assert!(home.run("sinks").stdout.contains("delivering"), "its control socket is still there");
    assert_eq!(second.metric("kfwatch_store_last_write_successful"), Some(1.0));
    drop(second); // kill -9
    assert_eq!(EventLog::of(&home).len(), 3);
}

#[test]
fn hard_link_to_store_is_reported() {
    let home = home_with_account();
    grow(&home.path(STORE), 1, 1);
    assert!(!home.run("check").stderr.contains("hard link"));
    fs::hard_link(home.path(STORE), home.path("other.db")).unwrap();
    let problem = "kfwatch.db has 1 more name (hard links)";
    let daemon = home.daemon();
    assert_eq!(times_logged(&daemon.stderr(), problem), 1, "{}", daemon.stderr());
    daemon.terminate();
    let checked = home.run("check");
    assert!(checked.code == Some(0) && checked.stderr.contains(problem), "{checked:?}");
}

#[test]
fn link_to_nothing_is_named() {
    let check = |link: &str, target: &str, configured: &str| {
        let home = home_with_account().set("KFWATCH__STORE__PATH", configured);
        symlink(target, home.path(link)).unwrap();
        let problem = format!("{link} is a link to ");
        let expected = format!("{target}, which does not exist: mount its file system or correct the link");
        for arguments in COMMANDS {
            let ended = home.run(arguments);
            assert_eq!(ended.code, Some(1), "{arguments}: {ended:?}");
            assert!(
                ended.stderr.contains(&problem) && ended.stderr.contains(&expected),
                "{arguments}: {ended:?}"
            );
        }
        let checked = home.run("check");
        assert!(checked.code == Some(1) && checked.stderr.contains(&problem), "{checked:?}");
        let names = fs::read_dir(home.path("")).unwrap().count();
        assert_eq!(names, 3, "the configuration, the secret and the link");
    };
    check(STORE, "/nonexistent/kfwatch.db", STORE);
    check("data", "missing", "data/kfwatch.db");
}
