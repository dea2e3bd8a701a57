//! Notifications to the service manager: readiness, status line, watchdog, stop.

use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet, secret},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};

const PING: &str = "WATCHDOG=1";

/// A service manager: reads the notify socket and records the messages.
struct Manager {
    received: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Manager {
    fn listen(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (received, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (log, stopping) = (Arc::clone(&received), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            let mut message = [0; 4096];
            while !stopping.load(Ordering::Relaxed) {
                match socket.recv(&mut message) {
                    Ok(length) => {
                        log.lock().unwrap().push(String::from_utf8(message[..length].to_vec()).unwrap());
                    }
                    Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock), "{error}"),
                }
            }
        });
        Self { received, stop, reader: Some(reader) }
    }

    /// Returns all assignments so far, in order.
    fn lines(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().flat_map(|message| message.lines().map(str::to_owned)).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|received| *received == line).count()
    }

    fn eventually_receives(&self, line: &str) {
        eventually(line, || (self.count(line) > 0).then_some(()));
    }

    /// Waits for so many further watchdog notifications.
    fn wait_for_pings(&self, many: usize) {
        let before = self.count(PING);
        eventually("pings", || (self.count(PING) >= before + many).then_some(()));
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.reader.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// A daemon's home directory, with the address of the service manager in its environment.
fn managed(wechat: &WeChat) -> Home {
    let home = Home::watching(wechat, "").without_collectors();
    let socket = home.path("notify").to_string_lossy().into_owned();
    home.set("NOTIFY_SOCKET", &socket)
}

/// The same with a watchdog, which the daemon notifies every 0.2 s.
fn with_watchdog(wechat: &WeChat) -> Home {
    managed(wechat).set("WATCHDOG_USEC", "600000")
}

fn one_account() -> WeChat {
    WeChat::play(quiet(&[("shop", 1)]))
}

fn eventually_up(daemon: &Process) {
    let series = "wechat_kf_account_up{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("a good poll", || daemon.metric(series).filter(|up| *up > 0.0));
}

#[test]
fn ready_is_notified_once_pages_answer() {
    let wechat = one_account();
    let home = managed(&wechat);
    let manager = Manager::listen(&home);
    let daemon = home.spawn("run");
    manager.eventually_receives("READY=1");
    assert_eq!(daemon.get("/-/ready").status, 200);
    eventually_up(&daemon);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().code, Some(0));
    let lines = manager.lines();
    assert!(lines[0].starts_with("STATUS=Starting: "), "{lines:?}");
    let place = |line: &str| lines.iter().position(|received| received == line);
    assert_eq!(manager.count("READY=1"), 1, "{lines:?}");
    assert_eq!(manager.count("STOPPING=1"), 1, "{lines:?}");
    assert!(place("READY=1") < place("STOPPING=1"), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("STATUS=Draining: "), "{lines:?}");
    assert_eq!(manager.count(PING), 0, "no watchdog is configured: {lines:?}");
}

#[test]
fn reload_is_notified_from_its_begin_to_its_end() {
    let wechat = one_account();
    let home = managed(&wechat);
    let manager = Manager::listen(&home);
    let daemon = home.spawn("run");
    manager.eventually_receives("READY=1");
    daemon.signal("HUP");
    eventually("the end of the reload", || (manager.count("READY=1") == 2).then_some(()));
    let lines = manager.lines();
    let begin = lines.iter().position(|line| line == "RELOADING=1").unwrap();
    assert!(lines[begin + 1].starts_with("MONOTONIC_USEC="), "{lines:?}");
    assert_eq!(manager.count("RELOADING=1"), 1, "{lines:?}");
    assert!(lines.iter().rposition(|line| line == "READY=1") > Some(begin), "{lines:?}");
}

#[test]
fn failed_start_is_never_ready() {
    let wechat = one_account();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = managed(&wechat).set("KFWATCH__WEB__LISTEN", &taken.local_addr().unwrap().to_string());
    let manager = Manager::listen(&home);
    assert_eq!(home.run("run").code, Some(1));
    manager.eventually_receives("STATUS=Starting: opening the store");
    assert_eq!(manager.count("READY=1"), 0);
}

#[test]
fn status_line_shows_counts() {
    let wechat = WeChat::play(quiet(&[("shop", 4)]));
    let control = wechat.control();
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Unbound).unwrap();
    control.set_kf_state(&appid(0), "kf4@shop", KfState::Invalid).unwrap();
    for openid in ["a", "b"] {
        control.open_session(&appid(0), "kf1@shop", openid, None).unwrap();
    }
    let home = managed(&wechat);
    let manager = Manager::listen(&home);
    let _daemon = home.daemon();
    manager.eventually_receives(
        "STATUS=4 kf accounts: 2 ok, 1 unbound, 1 invalid; 2 sessions; events pending: 0",
    );
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Bound).unwrap();
    manager.eventually_receives("STATUS=4 kf accounts: 3 ok, 1 invalid; 2 sessions; events pending: 0");
}

#[test]
fn watchdog_is_notified_while_wechat_hangs() {
    let wechat = WeChat::play(quiet(&[("shop", 20)]));
    let home = with_watchdog(&wechat);
    let manager = Manager::listen(&home);
    let daemon = home.daemon();
    eventually_up(&daemon);
    wechat
        .control()
        .inject(FaultRule { endpoint: Some(ApiCall::GetSessionList), ..FaultRule::new(Fault::Hang) });
    let blocked = "kfwatch_poll_overruns_total{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("polls that hang", || daemon.metric(blocked).filter(|overruns| *overruns >= 1.0));
    manager.wait_for_pings(20);
    let log = daemon.stderr();
    assert!(!log.contains("has stalled"), "{log}");
    assert!(log.contains("WatchdogSec"), "the short interval causes a warning: {log}");
}

#[test]
fn watchdog_is_notified_during_backoff() {
    let wechat = one_account();
    wechat.control().refuse_address(&appid(0)).unwrap();
    let home = with_watchdog(&wechat);
    let manager = Manager::listen(&home);
    let daemon = home.daemon();
    eventually("a refusal", || daemon.stderr().contains("40164").then_some(()));
    manager.wait_for_pings(20);
}

#[test]
fn watchdog_is_notified_outside_office_hours() {
    let wechat = one_account();
    let hour = (now().as_second() / 3600 + 12) % 24;
    let home = with_watchdog(&wechat)
        .set("KFWATCH__POLL__SCHEDULE", &format!("* * {hour} * * *"))
        .set("KFWATCH__POLL__TIMEZONE", "UTC");
    let manager = Manager::listen(&home);
    let daemon = home.daemon();
    manager.wait_for_pings(20);
    assert_eq!(wechat.control().requests(ApiCall::GetSessionList), 0);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().code, Some(0));
}

#[expect(clippy::disallowed_methods, reason = "the daemon's schedule goes by the machine's clock")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A library that delays every sync of a file while the file named by HANG exists.
const HANGING_DISK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void hang(void) {
    const char *file = getenv("HANG");
    while (file && access(file, F_OK) == 0) usleep(20000);
}
int fsync(int fd) { hang(); return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { hang(); return syscall(SYS_fdatasync, fd); }
"#;

/// Makes all syncs of this home's daemon hang as long as the file `hang` exists there.
fn with_hanging_disk(home: Home) -> Home {
    home.write("disk.c", HANGING_DISK);
    let (library, hang) = (home.path("disk.so"), home.path("hang"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(home.path("disk.c"))
        .status()
        .unwrap();
    assert!(built.success());
    home.set("LD_PRELOAD", &library.to_string_lossy()).set("HANG", &hang.to_string_lossy())
}

/// Lets the disk hang while a session starts. Returns the line of the log that says so.
fn stall(wechat: &WeChat, home: &Home, daemon: &Process) -> String {
    home.write("hang", "");
    wechat.control().open_session(&appid(0), "kf1@shop", "a", None).unwrap();
    let begun = Instant::now();
    let line = eventually("the stall in the log", || {
        daemon.stderr().lines().find(|line| line.contains("has stalled")).map(str::to_owned)
    });
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
    assert!(line.contains("ERROR") && line.contains("the store has committed nothing since"), "{line}");
    // By then the ticker and the polls of the other kf account have been checked for as long.
    assert!(!line.contains("no poll has finished") && !line.contains("schedule"), "{line}");
    line
}

fn assert_stall_is_over(daemon: &Process) {
    eventually("the end of the stall", || {
        daemon.stderr().contains("Polling makes progress again").then_some(())
    });
    assert_eq!(daemon.stderr().matches("has stalled").count(), 1, "{}", daemon.stderr());
}

#[test]
fn hanging_commit_stops_watchdog_notifications() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = with_hanging_disk(with_watchdog(&wechat));
    let manager = Manager::listen(&home);
    let daemon = home.daemon();
    eventually_up(&daemon);
    manager.wait_for_pings(1);
    let line = stall(&wechat, &home, &daemon);
    assert!(line.contains("the service manager restarts kfwatch"), "{line}");
    let notified = manager.count(PING);
    eventually("the status line", || {
        manager.lines().into_iter().find(|line| line.starts_with("STATUS=Polling has stalled: "))
    });
    assert!(manager.count(PING) <= notified + 1, "one may have been in flight");
    fs::remove_file(home.path("hang")).unwrap();
    manager.wait_for_pings(5);
    assert_stall_is_over(&daemon);
}

#[test]
fn hanging_commit_fails_liveness_until_it_ends() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = with_hanging_disk(Home::watching(&wechat, "").without_collectors());
    let daemon = home.daemon();
    eventually_up(&daemon);
    assert_eq!(daemon.get("/-/live").text(), "kfwatch makes progress.\n");
    assert_eq!(home.run("health").code, Some(0));
    let line = stall(&wechat, &home, &daemon);
    assert!(line.contains("/-/live answers 503"), "{line}");
    let live = daemon.get("/-/live");
    assert_eq!(live.status, 503);
    let stalled = "Polling has stalled: the store has committed nothing since ";
    assert!(live.text().starts_with(stalled), "{}", live.text());
    let health = home.run("health");
    assert_eq!((health.code, &*health.stdout), (Some(1), ""));
    assert!(health.stderr.starts_with(&format!("kfwatch: {stalled}")), "{}", health.stderr);
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(daemon.get(path).status, 200, "{path}: a stall is no reason to stop reading pages");
    }
    fs::remove_file(home.path("hang")).unwrap();
    assert_stall_is_over(&daemon);
    assert_eq!(daemon.get("/-/live").status, 200);
    assert_eq!(home.run("health").code, Some(0));
}

#[test]
fn health_needs_running_daemon_and_no_secret() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    let (inline, from_variable) = (format!("secret = \"{}\"", secret(0)), "secret_env = \"APPSECRET\"");
    assert!(text.contains(&inline), "{text}");
    home.write("config.toml", &text.replace(&inline, from_variable));
    let without_daemon = home.run("health");
    assert_eq!(without_daemon.code, Some(1));
    assert!(
        without_daemon.stderr.contains("no process listens on its control socket"),
        "{}",
        without_daemon.stderr
    );
    let home = home.set("APPSECRET", &secret(0));
    let daemon = home.daemon();
    let home = home.set("APPSECRET", "");
    let healthy = home.run("health");
    assert_eq!((healthy.code, &*healthy.stdout), (Some(0), "The daemon makes progress.\n"), "{healthy:?}");
    let text = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &format!("typo = 1\nshutdown_timeout = \"long\"\n{text}"));
    assert_eq!(home.run("health").code, Some(0), "the daemon does not read the file again");
    daemon.signal("STOP");
    let stopped = home.run("health");
    daemon.signal("CONT");
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.stderr.contains("it does not answer"), "{}", stopped.stderr);
    assert_eq!(home.run("health -c missing.toml").code, Some(78));
}

#[test]
fn vanished_notify_socket_is_harmless() {
    let wechat = one_account();
    let home = with_watchdog(&wechat);
    let manager = Manager::listen(&home);
    let daemon = home.daemon();
    manager.wait_for_pings(1);
    drop(manager);
    fs::remove_file(home.path("notify")).unwrap();
    assert_daemon_continues(&wechat, daemon);
}

#[test]
fn unread_notify_socket_is_harmless() {
    let wechat = one_account();
    let home = with_watchdog(&wechat);
    let _socket = UnixDatagram::bind(home.path("notify")).unwrap();
    let daemon = home.daemon();
    assert_daemon_continues(&wechat, daemon);
}

#[test]
fn unsupported_abstract_socket_is_harmless() {
    let wechat = one_account();
    let daemon = with_watchdog(&wechat).set("NOTIFY_SOCKET", "@kfwatch-test").daemon();
    assert_daemon_continues(&wechat, daemon);
}

/// Asserts that the daemon warns once, continues to poll, and exits with code 0.
fn assert_daemon_continues(wechat: &WeChat, daemon: Process) {
    let warnings = |log: &str| log.matches("Could not notify the service manager").count();
    eventually("a warning", || (warnings(&daemon.stderr()) > 0).then_some(()));
    let polls = wechat.control().requests(ApiCall::GetSessionList);
    eventually("further polls", || {
        (wechat.control().requests(ApiCall::GetSessionList) > polls + 3).then_some(())
    });
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(warnings(&ended.stderr), 1, "{ended:?}");
}
