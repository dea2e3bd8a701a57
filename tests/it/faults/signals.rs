//! Signals to commands that wait for something that hangs: as an ordinary process, and as PID 1, as in a container, where a signal
//! without a handler has no effect.

use std::{
    io::PipeReader,
    path::Path,
    process::{Command, Stdio},
};

use kfwatch::simulator::{ApiCall, Fault, FaultRule};

use crate::support::{
    failing_disk::{DiskFault, FailingDisk},
    process::{Ended, Home, Process, WeChat, appid, quiet},
    wait::eventually,
};

/// How a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Process,
    Pid1,
}

const BOTH: [As; 2] = [As::Process, As::Pid1];

/// A command that a test sends signals to.
struct Running {
    process: Process,
    /// The process that is kfwatch itself.
    pid: u32,
}

impl Running {
    /// Starts a command. Returns `None` if it cannot be started as PID 1, and says so.
    fn start(home: &Home, arguments: &str, run_as: As) -> Option<Self> {
        Self::start_with(home.command(arguments), run_as, |_| {})
    }

    /// Starts a command, after `change` has replaced one of its outputs.
    fn start_with(command: Command, run_as: As, change: impl FnOnce(&mut Command)) -> Option<Self> {
        if run_as == As::Pid1 && !may_unshare() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let skipped = "SKIPPED, not passed: no process can be PID 1, which needs root (unshare)\n";
            std::io::Write::write_all(&mut std::io::stderr(), format!("{test}: {skipped}").as_bytes())
                .unwrap();
            return None;
        }
        let mut command = if run_as == As::Pid1 { in_namespace(&command) } else { command };
        change(&mut command);
        let process = Process::spawn(command);
        let pid = match run_as {
            As::Process => process.id(),
            As::Pid1 => eventually("PID 1", || child_of(process.id())),
        };
        let running = Self { process, pid };
        running.wait_for_handlers();
        Some(running)
    }

    /// Waits until the program handles SIGINT and SIGTERM: before, they would kill it, and not reach it as PID 1.
    fn wait_for_handlers(&self) {
        const SIGNALS: u64 = 1 << 1 | 1 << 14;
        eventually("the handlers of signals", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let is_kfwatch = status.lines().next()?.contains("kfwatch");
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            (is_kfwatch && caught & SIGNALS == SIGNALS).then_some(())
        });
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid)]).status().unwrap();
        assert!(sent.success());
    }

    fn end_with(self, signal: &str) -> Ended {
        self.signal(signal);
        self.process.ended()
    }
}

fn may_unshare() -> bool {
    let tried = Command::new("unshare").args(["-pf", "--mount-proc", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// The same command as PID 1 of a namespace of its own.
fn in_namespace(command: &Command) -> Command {
    through(&["unshare", "-pf", "--mount-proc", "--kill-child"], command)
}

/// The same command, started by a program that takes it as its last arguments.
fn through(starter: &[&str], command: &Command) -> Command {
    let mut started = Command::new(starter[0]);
    started.args(&starter[1..]).arg(command.get_program()).args(command.get_args());
    started.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    started.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    started.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    started
}

fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn one_account() -> WeChat {
    WeChat::play(quiet(&[("shop", 1)]))
}

fn hang_all(wechat: &WeChat) {
    wechat.control().inject(FaultRule::new(Fault::Hang));
}

/// The number of calls so far.
fn calls(wechat: &WeChat) -> u64 {
    ApiCall::ALL.into_iter().map(|call| wechat.control().requests(call)).sum()
}

fn watching(wechat: &WeChat) -> Home {
    Home::watching(wechat, "").set("KFWATCH__API__TIMEOUT", "10m").without_collectors()
}

/// A home with a store that contains an event.
fn home_with_store(wechat: &WeChat) -> Home {
    wechat.control().open_session(&appid(0), "kf1@shop", "openid", None).unwrap();
    let home = watching(wechat);
    let daemon = home.daemon();
    eventually("an event", || (daemon.stdout().lines().count() > 0).then_some(()));
    daemon.terminate();
    home
}

/// Runs `check` as both kinds of process, with each signal that ends a command.
fn each_way(mut check: impl FnMut(As, &str)) {
    for run_as in BOTH {
        for signal in ["TERM", "INT"] {
            check(run_as, signal);
        }
    }
}

#[test]
fn following_events_ends_at_first_signal() {
    let home = home_with_store(&one_account());
    each_way(|run_as, signal| {
        for arguments in
            ["events --follow", "events --follow --format csv", "events -f --since 1d --format table"]
        {
            let Some(command) = Running::start(&home, arguments, run_as) else { return };
            eventually("the event", || (command.process.stdout().lines().count() > 1).then_some(()));
            let ended = command.end_with(signal);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{run_as:?} {signal}: {ended:?}");
        }
    });
}

#[test]
fn commands_that_wait_for_wechat_end_at_first_signal() {
    each_way(|run_as, signal| {
        for arguments in ["poll", "check --online", "poll --format json"] {
            let wechat = one_account();
            hang_all(&wechat);
            let home = watching(&wechat);
            let Some(command) = Running::start(&home, arguments, run_as) else { return };
            eventually("a call", || (calls(&wechat) > 0).then_some(()));
            let ended = command.end_with(signal);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{run_as:?} {signal}: {ended:?}");
            assert!(ended.stderr.contains("interrupted"), "{ended:?}");
        }
    });
}

#[test]
fn interrupted_poll_releases_the_store() {
    let wechat = one_account();
    // A daemon that creates the store and fetches no token, so that the command may fetch one at once.
    let home = watching(&wechat).set("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *");
    home.daemon().terminate();
    hang_all(&wechat);
    let command = Running::start(&home, "poll", As::Process).unwrap();
    eventually("a call", || (calls(&wechat) > 0).then_some(()));
    let refused = home.run("poll");
    assert!(refused.stderr.contains("no process listens"), "{refused:?}");
    assert_eq!(command.end_with("TERM").code, Some(0));
    wechat.control().clear_faults();
    let again = home.run("poll");
    assert!(!again.stderr.contains("no process listens"), "{again:?}");
}

#[test]
fn commands_that_wait_for_a_daemon_end_at_first_signal() {
    let wechat = one_account();
    let sink = "[[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n";
    let home = Home::watching(&wechat, sink);
    let daemon = home.daemon();
    each_way(|run_as, signal| {
        // It has accepted all connections by then, of which only so many may wait.
        assert_eq!(home.run("sinks").code, Some(0));
        daemon.signal("STOP");
        for (arguments, code) in [
            ("poll", 0),
            ("check --online", 0),
            ("sinks", 0),
            ("sinks --format json", 0),
            ("events dead --sink file", 0),
            // Whether the daemon still carries these out is not known.
            ("sinks resume file", 1),
            ("events replay --sink file --since 1d", 1),
            ("events dead --sink file --retry", 1),
            ("events dead --sink file --drop", 1),
        ] {
            let Some(command) = Running::start(&home, arguments, run_as) else { return };
            let ended = command.end_with(signal);
            assert_eq!(ended.code, Some(code), "{arguments} {run_as:?} {signal}: {ended:?}");
            assert!(ended.stderr.contains("interrupted"), "{arguments}: {ended:?}");
        }
        daemon.signal("CONT");
    });
    daemon.terminate();
}

#[test]
fn copies_from_a_disk_that_hangs_end_at_first_signal() {
    let disk = FailingDisk::build();
    let home = disk.under(home_with_store(&one_account()), "kfwatch.db");
    assert_eq!(home.run("backup good.db").code, Some(0));
    disk.fail(&[DiskFault::Read]);
    for signal in ["TERM", "INT"] {
        for arguments in ["backup copy.db", "events --follow"] {
            let command = Running::start(&home, arguments, As::Process).unwrap();
            let ended = command.end_with(signal);
            let code = if arguments.starts_with("backup") { 1 } else { 0 };
            assert_eq!(ended.code, Some(code), "{arguments} {signal}: {ended:?}");
            assert!(!home.path("copy.db").exists());
        }
    }
    disk.recover();
}

#[test]
fn unread_output_ends_at_first_signal() {
    let wechat = WeChat::play(quiet(&[("shop", 200)]));
    let home = Home::watching(&wechat, "").without_collectors();
    each_way(|run_as, signal| {
        for arguments in [
            "poll --format json",
            "check",
            "simulate --listen 127.0.0.1:0",
            "demo --format text --listen 127.0.0.1:0",
            "demo --format json --listen 127.0.0.1:0",
        ] {
            let (_reader, writer) = full_pipe();
            let with_output = |command: &mut Command| {
                command.stdout(writer);
            };
            let Some(command) = Running::start_with(home.command(arguments), run_as, with_output) else {
                return;
            };
            eventually("a thread that waits for the pipe", || waits_for_pipe(command.pid, 1).then_some(()));
            let ended = command.end_with(signal);
            assert_eq!(ended.code, Some(0), "{arguments} {run_as:?} {signal}: {ended:?}");
        }
    });
}

#[test]
fn unread_messages_end_at_first_signal() {
    let wechat = one_account();
    let home = Home::watching(&wechat, "");
    home.write("bad.toml", "[api]\nbase_url = 7\n");
    each_way(|run_as, signal| {
        for (arguments, code) in
            [("check -c bad.toml", 78), ("backup copy.db", 1), ("demo --listen 127.0.0.1:0", 0)]
        {
            let (_reader, writer) = full_pipe();
            let with_output = |command: &mut Command| {
                command.stderr(writer);
            };
            let Some(command) = Running::start_with(home.command(arguments), run_as, with_output) else {
                return;
            };
            eventually("a thread that waits for the pipe", || waits_for_pipe(command.pid, 2).then_some(()));
            let ended = command.end_with(signal);
            assert_eq!(ended.code, Some(code), "{arguments} {run_as:?} {signal}: {ended:?}");
        }
    });
}

/// A pipe that is full, and that nobody reads.
fn full_pipe() -> (PipeReader, Stdio) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, &[b'\n'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer.into())
}

/// Whether a thread of the process waits in a write to this descriptor.
fn waits_for_pipe(pid: u32, descriptor: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let called = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        // The number of write on x86-64 and on arm64.
        ["1", "64"].iter().any(|write| called.starts_with(&format!("{write} {descriptor:#x} ")))
    })
}

#[test]
fn configuration_that_cannot_be_read_ends_at_first_signal() {
    let home = Home::new();
    nix::unistd::mkfifo(&home.path("config.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    each_way(|run_as, signal| {
        for arguments in ["check", "run", "poll"] {
            let Some(command) = Running::start(&home, arguments, run_as) else { return };
            let ended = command.end_with(signal);
            assert_eq!(ended.code, Some(0), "{arguments} {run_as:?} {signal}: {ended:?}");
        }
    });
}

#[test]
fn daemon_and_rehearsals_drain_as_pid_1() {
    let wechat = one_account();
    let home = watching(&wechat);
    for arguments in ["run", "demo --listen 127.0.0.1:0", "simulate --listen 127.0.0.1:0"] {
        for signal in ["TERM", "INT"] {
            let Some(command) = Running::start(&home, arguments, As::Pid1) else { return };
            let ready = || {
                let (out, log) = (command.process.stdout(), command.process.stderr());
                out.contains("base_url") || log.contains(" Watching ") || log.contains("Ctrl-C")
            };
            eventually("the start", || ready().then_some(()));
            let ended = command.end_with(signal);
            assert_eq!(ended.code, Some(0), "{arguments} {signal}: {ended:?}");
        }
    }
}

#[test]
fn sighup_ends_only_short_commands() {
    let wechat = one_account();
    let home = home_with_store(&wechat);
    // The tests may run under nohup, which a command obeys.
    let follow = through(&["env", "--default-signal=HUP"], &home.command("events --follow"));
    let follow = Running::start_with(follow, As::Process, |_| {}).unwrap();
    assert_eq!(follow.end_with("HUP").code, None, "the terminal is gone");
    let simulate = Running::start(&home, "simulate --listen 127.0.0.1:0", As::Process).unwrap();
    simulate.signal("HUP");
    eventually("the configuration", || simulate.process.stdout().contains("base_url").then_some(()));
    assert_eq!(simulate.end_with("TERM").code, Some(0));
}
