//! kfwatch as a child process, and the simulated WeChat API that it calls.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use kfwatch::{
    cli::simulate,
    simulator::{
        AccountToWatch, KfAccountScript, KfState, OfficialAccountScript, ResponseStyle, Scenario, Simulator,
        SimulatorControl,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::wait::{PATIENCE, eventually};

/// A simulated WeChat API with its own runtime.
pub(crate) struct WeChat {
    simulator: Simulator,
    _runtime: Runtime,
    accounts: Vec<AccountToWatch>,
}

impl WeChat {
    pub(crate) fn play(scenario: Scenario) -> Self {
        let accounts = scenario.accounts();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let simulator = runtime.block_on(Simulator::start(scenario, ([127, 0, 0, 1], 0).into())).unwrap();
        Self { simulator, _runtime: runtime, accounts }
    }

    pub(crate) fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    pub(crate) fn control(&self) -> SimulatorControl {
        self.simulator.control()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.simulator.address()
    }

    /// Returns the sections of a configuration that watches all its accounts.
    pub(crate) fn configuration(&self) -> String {
        simulate::configuration(&self.simulator.base_url(), &self.accounts)
    }
}

/// The appid of the official account at this index of [`quiet`]'s list.
pub(crate) fn appid(index: usize) -> String {
    format!("wx{index:016}")
}

/// The AppSecret of the official account at this index of [`quiet`]'s list.
pub(crate) fn secret(index: usize) -> String {
    format!("5ec2e7{index:026}")
}

/// Official accounts of these names, each with this number of kf accounts (`kf1@name`, `kf2@name`, …) and without
/// customers.
pub(crate) fn quiet(official_accounts: &[(&str, usize)]) -> Scenario {
    let kf_account = |number| KfAccountScript {
        prefix: format!("kf{number}"),
        nickname: None,
        state: KfState::Bound,
        customers: None,
    };
    let script = |(index, (name, kf_accounts)): (usize, &(&str, usize))| OfficialAccountScript {
        name: (*name).to_owned(),
        appid: appid(index),
        secret: secret(index),
        wechat_id: (*name).to_owned(),
        session_lists_per_day: 100_000_000,
        style: ResponseStyle::default(),
        kf_accounts: (1..=*kf_accounts).map(kf_account).collect(),
    };
    let official_accounts = official_accounts.iter().enumerate().map(script).collect();
    Scenario { official_accounts, ..Scenario::default() }
}

/// The working directory of a kfwatch, and the environment that it is started with.
pub(crate) struct Home {
    directory: Arc<TempDir>,
    environment: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { directory: Arc::new(tempfile::tempdir().unwrap()), environment: Vec::new() }
    }

    /// A home that watches the simulated accounts every second. `more` is appended to its configuration.
    pub(crate) fn watching(wechat: &WeChat, more: &str) -> Self {
        let home = Self::new();
        home.write(
            "config.toml",
            &format!(
                "{}\n[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"\n{more}",
                wechat.configuration()
            ),
        );
        home
    }

    pub(crate) fn set(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Disables the collectors: the daemon only calls getsessionlist and fetches tokens.
    pub(crate) fn without_collectors(self) -> Self {
        let collectors = ["KF_LIST", "ONLINE", "WAITING", "QUOTA"];
        collectors
            .into_iter()
            .fold(self, |home, name| home.set(&format!("KFWATCH__COLLECTORS__{name}"), "off"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Returns a command with these arguments, separated by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn spawn(&self, arguments: &str) -> Process {
        let mut process = Process::spawn(self.command(arguments));
        process._directory = Some(Arc::clone(&self.directory));
        process
    }

    /// Runs the program until it exits.
    pub(crate) fn run(&self, arguments: &str) -> Ended {
        self.spawn(arguments).ended()
    }

    /// Starts a daemon that serves its pages.
    pub(crate) fn daemon(&self) -> Process {
        let daemon = self.spawn("run");
        daemon.address();
        daemon
    }
}

/// A running kfwatch, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// A daemon stores nothing once its directory is gone.
    _directory: Option<Arc<TempDir>>,
    stdout: Captured,
    stderr: Captured,
}

/// A kfwatch's exit code, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a thread has read from a stream so far.
pub(crate) struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = Captured::of(child.stdout.take());
        let stderr = Captured::of(child.stderr.take());
        Self { child, _directory: None, stdout, stderr }
    }

    /// Starts a daemon with this configuration file. It may fail to start.
    pub(crate) fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfwatch"));
        command.args(["run", "-c"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(command)
    }

    /// Starts a daemon with this configuration file, and waits until it is ready.
    pub(crate) fn start_ready(config: &Path) -> Self {
        let mut daemon = Self::start(config);
        daemon.wait_until_ready();
        daemon
    }

    /// Waits until the daemon is ready.
    pub(crate) fn wait_until_ready(&mut self) {
        eventually("the daemon is ready", || {
            assert!(self.is_running(), "the daemon ended: {}", self.stderr());
            self.stderr().contains(" Watching ").then_some(())
        });
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the log names the address of the web pages.
    pub(crate) fn address(&self) -> SocketAddr {
        eventually("the address of the pages", || {
            let log = self.stderr();
            assert!(!self.stderr.is_closed() || log.contains("/metrics"), "kfwatch ended: {log}");
            let urls = log.split("http://").filter_map(|rest| rest.split_once("/metrics"));
            urls.filter_map(|(address, _)| address.parse().ok()).next()
        })
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        get(self.address(), path, "")
    }

    /// Returns the value of a series of /metrics, written as on the page.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        metric(&self.get("/metrics").text(), series)
    }

    /// Sends a signal by its short name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.id())]).status().unwrap();
        assert!(sent.success());
    }

    /// What each thread waits for in the kernel, as far as this may be read.
    fn waits(&self) -> String {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim_end().to_owned();
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten().flatten();
        let waits = threads.map(|thread| {
            format!("{}:{}", read(thread.path().join("comm")), read(thread.path().join("wchan")))
        });
        waits.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM to drain the daemon, and waits until it exits with code 0.
    pub(crate) fn terminate(self) -> Ended {
        self.signal("TERM");
        let ended = self.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    /// Waits until it exits.
    pub(crate) fn ended(mut self) -> Ended {
        let status = eventually("the end of kfwatch", || self.child.try_wait().unwrap());
        Ended { code: status.code(), stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kfwatch {} waits in {}; its log:\n{}", self.id(), self.waits(), self.stderr());
        }
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Captured {
    /// Reads until the stream ends.
    pub(crate) fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let reader = stream.map(|mut stream| {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut block) {
                    bytes.lock().unwrap().extend_from_slice(&block[..length]);
                }
            })
        });
        Self { bytes, reader }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Whether the process has closed its end of the pipe.
    fn is_closed(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the stream ends.
    pub(crate) fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Sends a GET with these extra header lines, each ended by CR LF.
pub(crate) fn get(address: SocketAddr, path: &str, header: &str) -> Response {
    request(address, &format!("GET {path}"), header)
}

/// Sends a request, such as `PUT /path`, without a body.
pub(crate) fn request(address: SocketAddr, request: &str, header: &str) -> Response {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // In HTTP/1.0 the body ends with the connection.
    stream.write_all(format!("{request} HTTP/1.0\r\nHost: {address}\r\n{header}\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        panic!("{request} of {address}: {error} after {:?}", String::from_utf8_lossy(&answer));
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: answer[end + 4..].to_vec() }
}

/// Returns the value of a series on a page of metrics.
pub(crate) fn metric(page: &str, series: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.map(|value| value.parse().unwrap()).next()
}
