//! Named pipes and sockets as the file of a sink.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::Stdio,
    sync::mpsc,
    thread::JoinHandle,
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::support::{
    delivery::{self, copy_newest_event, eventually_delivered, eventually_logged, file, home, sink_metric},
    event_log::EventLog,
    process::{Home, Process, WeChat, quiet},
    wait::eventually,
};

fn one_account() -> WeChat {
    WeChat::play(quiet(&[("shop", 1)]))
}

fn open(wechat: &WeChat, openid: &str) {
    delivery::open(&wechat.control(), "kf1@shop", openid);
}

/// A program that reads a pipe.
struct Reader {
    leave: mpsc::SyncSender<()>,
    thread: JoinHandle<String>,
}

impl Reader {
    /// Opens the pipe, and reads until it has got this text and is told to leave.
    fn start(path: &Path, expected: &'static str) -> Self {
        let path = path.to_path_buf();
        let (leave, left) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut pipe = File::open(path).unwrap();
            let mut text = Vec::new();
            let mut block = [0; 4096];
            while !String::from_utf8_lossy(&text).contains(expected) || text.last() != Some(&b'\n') {
                let length = pipe.read(&mut block).unwrap();
                assert!(length > 0, "the writer has left");
                text.extend_from_slice(&block[..length]);
            }
            left.recv().unwrap();
            String::from_utf8(text).unwrap()
        });
        Self { leave, thread }
    }

    fn leave(self) -> String {
        self.leave.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// Opens a session, and waits until the sink has failed to deliver its event.
fn open_in_vain(wechat: &WeChat, daemon: &Process, openid: &str) {
    let failures = || sink_metric(daemon, "pipe", "delivery_failures_total");
    let before = failures();
    open(wechat, openid);
    eventually("a failure", || (failures() > before).then_some(()));
    assert_eq!(sink_metric(daemon, "pipe", "pending_events"), 1.0);
}

#[test]
fn events_wait_while_pipe_has_no_reader() {
    let wechat = one_account();
    let home = home(&wechat, &file("pipe", "events.pipe"));
    let path = home.path("events.pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let daemon = home.daemon();
    open_in_vain(&wechat, &daemon, "oA");
    eventually_logged(&daemon, "events.pipe: no program reads this pipe; the events wait until one does");
    assert_eq!(sink_metric(&daemon, "pipe", "delivered_events_total"), 0.0);
    let first = Reader::start(&path, "oA");
    eventually_delivered(&daemon, "pipe");
    let first = first.leave();
    open_in_vain(&wechat, &daemon, "oB");
    assert_eq!(sink_metric(&daemon, "pipe", "delivered_events_total"), 1.0);
    let second = Reader::start(&path, "oB");
    eventually_delivered(&daemon, "pipe");
    let second = second.leave();
    daemon.terminate();
    assert_eq!(EventLog::of(&home).assert_written("pipe", &[first, second]), 0);
}

/// Adds this number of events to the log of a home.
fn with_events(wechat: &WeChat, home: &Home, count: usize) {
    let daemon = home.daemon();
    open(wechat, "oA");
    eventually_delivered(&daemon, "archive");
    eventually("oA", || {
        fs::read_to_string(home.path("events.jsonl")).unwrap_or_default().contains("oA").then_some(())
    });
    daemon.terminate();
    copy_newest_event(&rusqlite::Connection::open(home.path("kfwatch.db")).unwrap(), count);
}

#[test]
fn stalled_reader_delays_only_its_sink_and_gets_each_line_once() {
    const COPIES: usize = 500;
    let wechat = one_account();
    let home = home(&wechat, &file("archive", "events.jsonl"));
    with_events(&wechat, &home, COPIES);
    let pipe = file("pipe", "events.pipe") + "start = \"beginning\"\n";
    delivery::configure(&home, &wechat, &(file("archive", "events.jsonl") + &pipe));
    let path = home.path("events.pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let opened = std::thread::spawn(move || File::open(path).unwrap());
    let daemon = home.daemon();
    let mut reader = opened.join().unwrap();
    eventually_delivered(&daemon, "archive");
    eventually_logged(&daemon, "events.pipe: the reader of this pipe does not read");
    assert_eq!(sink_metric(&daemon, "pipe", "delivered_events_total"), 0.0);

    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    eventually_delivered(&daemon, "pipe");
    assert_eq!(sink_metric(&daemon, "pipe", "delivered_events_total"), COPIES as f64 + 1.0);
    daemon.terminate();
    let text = reading.join().unwrap();
    assert_eq!(text, fs::read_to_string(home.path("events.jsonl")).unwrap());
}

#[test]
fn stalled_reader_does_not_delay_the_end() {
    let wechat = one_account();
    let home = home(&wechat, &file("archive", "events.jsonl")).set("KFWATCH__SHUTDOWN_TIMEOUT", "1s");
    with_events(&wechat, &home, 500);
    let pipe = file("pipe", "events.pipe") + "start = \"beginning\"\n";
    delivery::configure(&home, &wechat, &pipe);
    let path = home.path("events.pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let opened = std::thread::spawn(move || File::open(path).unwrap());
    let daemon = home.daemon();
    let reader = opened.join().unwrap();
    daemon.terminate();
    drop(reader);
}

#[test]
fn paths_of_standard_output_mean_standard_output() {
    let wechat = one_account();
    open(&wechat, "oA");
    for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let home = home(&wechat, &file("log", path));
        // As systemd starts services: a socket, which cannot be opened by a path.
        let (mut journal, stdout) = UnixStream::pair().unwrap();
        let mut command = home.command("run");
        command.stdout(Stdio::from(OwnedFd::from(stdout)));
        let daemon = Process::spawn(command);
        eventually_delivered_to_socket(&daemon);
        daemon.terminate();
        let mut text = String::new();
        journal.read_to_string(&mut text).unwrap();
        assert!(text.contains("oA") && text.ends_with("}\n"), "{path}: {text}");
    }
}

fn eventually_delivered_to_socket(daemon: &Process) {
    daemon.address();
    eventually("the event", || (sink_metric(daemon, "log", "delivered_events_total") >= 1.0).then_some(()));
}

#[test]
fn socket_or_directory_as_file_is_reported() {
    let wechat = one_account();
    let home = home(&wechat, &file("log", "events.jsonl"));
    let _listener = std::os::unix::net::UnixListener::bind(home.path("events.jsonl")).unwrap();
    let problem = "events.jsonl: it is a socket, which no path opens: for standard output, set path to \"-\"";
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_logged(&daemon, problem);
    daemon.terminate();
    assert!(home.run("check").stderr.contains(problem));
    fs::remove_file(home.path("events.jsonl")).unwrap();
    fs::create_dir(home.path("events.jsonl")).unwrap();
    assert!(home.run("check").stderr.contains("events.jsonl: it is a directory"));
}
