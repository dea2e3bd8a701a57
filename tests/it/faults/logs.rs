//! Standard error and standard output that are broken, full, or read by nobody.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{PipeReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
};

use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};
use nix::fcntl::{FcntlArg, fcntl};

use crate::support::{
    disk::SmallDisk,
    loopback::free_address,
    process::{Captured, Ended, Home, Process, WeChat, appid, get, metric, quiet},
    wait::eventually,
};

const DROPPED: &str = "kfwatch_log_dropped_lines_total";
/// In the notice of one or more lines.
const NOTICE: &str = "dropped, because standard error did not accept";

/// The smallest pipe that the system has: it is full after some twenty lines.
const SMALL_PIPE: i32 = 4096;

/// A daemon whose log is not read by the test.
struct Daemon {
    process: Process,
    address: SocketAddr,
}

impl Daemon {
    /// Starts a daemon with these outputs in a home, and waits until it serves its pages.
    fn start(home: Home, stdout: Stdio, stderr: Stdio) -> (Home, Daemon) {
        let address = free_address();
        let home = home.set("KFWATCH__WEB__LISTEN", &address.to_string());
        let mut command = home.command("run");
        command.stdout(stdout).stderr(stderr);
        let mut daemon = Daemon { process: Process::spawn(command), address };
        daemon.eventually_serves();
        (home, daemon)
    }

    fn eventually_serves(&mut self) {
        eventually("the pages", || {
            assert!(self.process.is_running(), "the daemon ended");
            std::net::TcpStream::connect(self.address).ok()
        });
    }

    fn page(&self) -> String {
        get(self.address, "/metrics", "").text()
    }

    fn metric(&self, series: &str) -> f64 {
        metric(&self.page(), series).unwrap()
    }

    fn eventually_drops(&self, more_than: f64) {
        eventually("dropped lines", || (self.metric(DROPPED) > more_than).then_some(()));
    }

    fn assert_healthy(&self) {
        for path in ["/-/healthy", "/-/ready", "/"] {
            assert_eq!(get(self.address, path, "").status, 200, "{path}");
        }
    }
}

fn eventually_polls(wechat: &WeChat) {
    let before = wechat.control().requests(ApiCall::GetSessionList);
    eventually("three more polls", || {
        (wechat.control().requests(ApiCall::GetSessionList) >= before + 3).then_some(())
    });
}

fn full_device() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn pipe_without_reader() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A small pipe that nobody reads until the reader is read.
fn unread_pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SMALL_PIPE)).unwrap();
    (reader, writer.into())
}

/// What a pipe contains until all its writers have closed it.
fn rest(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// Failing kf accounts are polled at each tick.
const SHORT_BACKOFF: &str = "[backoff]\nbusy = [\"0s\", \"1s\"]\n";

fn fail_all_polls(wechat: &WeChat) {
    wechat
        .control()
        .inject(FaultRule { endpoint: Some(ApiCall::GetSessionList), ..FaultRule::new(Fault::Html) });
}

/// Changes the state of all kf accounts of the first official account, which is logged.
fn change_states(wechat: &WeChat, kf_accounts: usize, state: KfState) {
    for number in 1..=kf_accounts {
        wechat.control().set_kf_state(&appid(0), &format!("kf{number}@shop"), state).unwrap();
    }
}

#[test]
fn broken_log_output_is_counted_and_stops_nothing() {
    for (name, output) in [("full", full_device()), ("closed", pipe_without_reader())] {
        let wechat = WeChat::play(quiet(&[("shop", 2)]));
        let (_home, daemon) = Daemon::start(Home::watching(&wechat, ""), Stdio::null(), output);
        daemon.eventually_drops(0.0);
        let dropped = daemon.metric(DROPPED);
        fail_all_polls(&wechat);
        daemon.eventually_drops(dropped);
        eventually_polls(&wechat);
        daemon.assert_healthy();
        let ended = daemon.process.terminate();
        assert_eq!(ended.code, Some(0), "{name}");
    }
}

#[test]
fn file_size_limit_of_log_stops_nothing() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::watching(&wechat, "");
    // In blocks of half a kibibyte: room for the store, and none for the log.
    std::fs::write(home.path("log"), vec![b'\n'; 8 << 20]).unwrap();
    let address = free_address();
    let home = home.set("KFWATCH__WEB__LISTEN", &address.to_string());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 16384; exec \"$0\" run", env!("CARGO_BIN_EXE_kfwatch")]);
    let run = home.command("run");
    command.current_dir(home.path("")).env_clear();
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(OpenOptions::new().append(true).open(home.path("log")).unwrap());
    let mut daemon = Daemon { process: Process::spawn(command), address };
    daemon.eventually_serves();
    daemon.eventually_drops(0.0);
    eventually_polls(&wechat);
    daemon.process.terminate();
}

#[test]
fn exit_codes_survive_broken_output() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "");
    home.write("bad.toml", "[api]\nbase_url = 7\n");
    // A secret that others can read is warned of.
    home.write("warned.toml", &std::fs::read_to_string(home.path("config.toml")).unwrap());
    let run = |arguments: &str, stdout: Stdio, stderr: Stdio| {
        let mut command = home.command(arguments);
        command.stdout(stdout).stderr(stderr);
        Process::spawn(command).ended().code
    };
    for broken in [full_device, pipe_without_reader] {
        assert_eq!(run("check -c bad.toml", Stdio::null(), broken()), Some(78));
        assert_eq!(run("run -c bad.toml", Stdio::null(), broken()), Some(78));
        assert_eq!(run("run -c missing.toml", Stdio::null(), broken()), Some(78));
        assert_eq!(run("check", Stdio::null(), broken()), Some(0));
        assert_eq!(run("check --no-such-option", Stdio::null(), broken()), Some(2));
        assert_eq!(run("backup copy.db", Stdio::null(), broken()), Some(1), "there is no store");
        assert_eq!(run("demo --for 1s --listen 127.0.0.1:0", Stdio::null(), broken()), Some(0));
    }
    for arguments in ["check", "poll", "--version", "run --help", "events --help"] {
        assert_eq!(run(arguments, full_device(), Stdio::null()), Some(1), "{arguments}");
        assert_eq!(run(arguments, pipe_without_reader(), Stdio::null()), Some(0), "{arguments}");
    }
}

#[test]
fn recovered_log_says_how_many_lines_were_dropped() {
    const KF_ACCOUNTS: usize = 40;
    let Some(disk) = SmallDisk::mount(1) else { return };
    for (format, file) in [("text", "log.txt"), ("json", "log.json")] {
        let wechat = WeChat::play(quiet(&[("shop", KF_ACCOUNTS)]));
        // At this level each poll that fails has a line.
        let home = Home::watching(&wechat, "").set("KFWATCH__LOG__LEVEL", "debug").without_collectors();
        let home = home.set("KFWATCH__LOG__FORMAT", format);
        let path = disk.path().join(file);
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let (_home, daemon) = Daemon::start(home, Stdio::null(), log.into());
        // A line may be cut off within a character.
        let text = || String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        eventually("the first line", || text().contains("Watching").then_some(()));
        disk.fill();
        // The last block of the file may have room for some lines.
        let states = [KfState::Unbound, KfState::Bound].into_iter().cycle();
        let mut states = states.inspect(|state| change_states(&wechat, KF_ACCOUNTS, *state));
        eventually("dropped lines", || {
            states.next();
            eventually_polls(&wechat);
            (daemon.metric(DROPPED) > 0.0).then_some(())
        });
        let dropped = daemon.metric(DROPPED);
        disk.free_space();
        eventually("the notice", || {
            states.next();
            eventually_polls(&wechat);
            text().contains(NOTICE).then_some(())
        });
        daemon.process.terminate();
        let text = text();
        let notice = text.lines().find(|line| line.contains(NOTICE)).unwrap();
        assert!(notice.contains("WARN"), "{notice}");
        let count = match format {
            "json" => serde_json::from_str::<serde_json::Value>(notice).unwrap()["dropped_lines"].as_f64(),
            _ => notice.rsplit_once("dropped_lines=").unwrap().1.parse().ok(),
        };
        // A line may have been dropped between the scrape and the recovery.
        assert!(count.unwrap() >= dropped, "{notice}, not {dropped}");
        assert_eq!(text.matches(NOTICE).count(), 1, "{text}");
        assert!(text.contains("Draining"), "{text}");
    }
}

#[test]
fn unread_log_delays_nothing() {
    let wechat = WeChat::play(quiet(&[("shop", 21)]));
    fail_all_polls(&wechat);
    let (reader, writer) = unread_pipe();
    let home = Home::watching(&wechat, SHORT_BACKOFF).set("KFWATCH__LOG__LEVEL", "debug");
    let (_home, daemon) = Daemon::start(home, Stdio::null(), writer);
    for _ in 0..20 {
        eventually_polls(&wechat);
        daemon.assert_healthy();
    }
    assert_eq!(daemon.metric(DROPPED), 0.0, "the queue has room");
    // The lines are there once somebody reads.
    let mut log = Captured::of(Some(reader));
    eventually("a line of each kf account", || {
        let text = log.text();
        (1..=21).all(|n| text.contains(&format!("kf{n}@shop"))).then_some(())
    });
    daemon.process.terminate();
    let log = log.whole();
    assert!(log.contains("Draining") && !log.contains(NOTICE), "{log}");
}

#[test]
fn daemon_with_unread_log_drains_and_exits() {
    let wechat = WeChat::play(quiet(&[("shop", 21)]));
    fail_all_polls(&wechat);
    let (_reader, writer) = unread_pipe();
    let (_home, daemon) = Daemon::start(Home::watching(&wechat, ""), Stdio::null(), writer);
    eventually_polls(&wechat);
    daemon.process.terminate();
}

#[test]
fn overflow_of_unread_log_is_counted_and_reported() {
    let wechat = WeChat::play(quiet(&[("shop", 1000), ("tea", 1000), ("books", 1000)]));
    fail_all_polls(&wechat);
    let (reader, writer) = unread_pipe();
    let home = Home::watching(&wechat, "").without_collectors().set("KFWATCH__LOG__LEVEL", "trace");
    let (_home, daemon) = Daemon::start(home, Stdio::null(), writer);
    daemon.eventually_drops(100.0);
    daemon.assert_healthy();
    let mut log = Captured::of(Some(reader));
    eventually("a line after the notice", || {
        let text = log.text();
        text.lines().skip_while(|line| !line.contains(NOTICE)).nth(2).map(drop)
    });
    daemon.process.terminate();
    let log = log.whole();
    let dropped = |line: &str| line.rsplit_once("dropped_lines=")?.1.parse::<u64>().ok();
    let count: u64 = log.lines().filter(|line| line.contains(NOTICE)).filter_map(dropped).sum();
    assert!(count >= 100, "{count}");
}

#[test]
fn unread_standard_output_delays_only_that_sink() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let sinks = "[[sinks]]\nname = \"out\"\ntype = \"jsonl\"\npath = \"-\"\n\
                 [[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n";
    let home = Home::watching(&wechat, sinks).without_collectors();
    let (reader, writer) = unread_pipe();
    let log = File::create(home.path("log")).unwrap();
    let (home, daemon) = Daemon::start(home, writer, log.into());
    let sessions = 100;
    let events = || std::fs::read_to_string(home.path("events.jsonl")).unwrap_or_default();
    eventually_polls(&wechat);
    for session in 0..sessions {
        wechat.control().open_session(&appid(0), "kf1@shop", &format!("openid{session}"), None).unwrap();
    }
    eventually("all events in the file", || (events().lines().count() == sessions).then_some(()));
    eventually_polls(&wechat);
    daemon.assert_healthy();
    daemon.process.terminate();
    // A whole line for each event that fits, and what was cut off.
    let received = rest(reader);
    let (whole, _) = received.rsplit_once('\n').unwrap();
    let events = events();
    assert!(whole.lines().all(|line| events.contains(line)), "{received}");
    assert!(whole.lines().count() < sessions, "the pipe has room for all: {received}");
    // A batch that fits was delivered. The next start delivers all others.
    let (home, daemon) = Daemon::start(home, Stdio::piped(), Stdio::null());
    eventually("all other events", || {
        let now = daemon.process.stdout();
        events.lines().all(|event| now.contains(event) || whole.contains(event)).then_some(())
    });
    drop(home);
    daemon.process.terminate();
}

#[test]
fn event_cut_off_by_full_disk_gets_its_own_line() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let path = disk.path().join("events.jsonl");
    let out = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let home = Home::watching(&wechat, "").without_collectors();
    let (_home, daemon) = Daemon::start(home, out.into(), Stdio::null());
    let text = || std::fs::read_to_string(&path).unwrap();
    let open = |openid: &str| wechat.control().open_session(&appid(0), "kf1@shop", openid, None).unwrap();
    eventually_polls(&wechat);
    open("first");
    eventually("the first event", || text().ends_with('\n').then_some(()));
    // The page that contains it has room for a part of the others.
    disk.fill();
    let failures = || daemon.metric("kfwatch_sink_delivery_failures_total{sink=\"stdout\"}");
    let opened = std::cell::Cell::new(1);
    eventually("a failed delivery", || {
        open(&format!("openid{}", opened.replace(opened.get() + 1)));
        eventually_polls(&wechat);
        (failures() > 0.0).then_some(())
    });
    disk.free_space();
    let events = || -> BTreeSet<String> {
        let parsed = text()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect::<Vec<serde_json::Value>>();
        parsed.iter().map(|event| event["id"].to_string()).collect()
    };
    eventually("every event on a line of its own", || (events().len() == opened.get()).then_some(()));
    let mut rest = text();
    rest.truncate(rest.trim_end().len());
    assert!(
        rest.lines().all(|line| line.starts_with('{') && line.matches("specversion").count() <= 1),
        "{rest}"
    );
    daemon.process.terminate();
}

#[test]
fn output_that_does_not_block_is_written_whole() {
    let wechat = WeChat::play(quiet(&[("shop", 400)]));
    let home = Home::watching(&wechat, "").without_collectors();
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SMALL_PIPE)).unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let mut command = home.command("poll --format json");
    command.stdout(writer);
    let poll = Process::spawn(command);
    eventually("all polls", || (wechat.control().requests(ApiCall::GetSessionList) >= 400).then_some(()));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let Ended { code, stderr, .. } = poll.ended();
    assert_eq!((code, text.lines().count()), (Some(0), 400), "{stderr}");
}
