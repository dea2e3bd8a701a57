//! The real binary as a child process, which does not outlive its test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use crate::support::eventually;

/// For whatever a healthy daemon does at once, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `kfwatch run`. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// How a daemon ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Daemon {
    /// Starts it; it need not come up.
    pub(crate) fn spawn(config: &Path) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kfwatch"))
            .args(["run", "-c"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        Daemon { child, stdout, stderr }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(config: &Path) -> Daemon {
        let mut daemon = Daemon::spawn(config);
        daemon.wait_until_ready();
        daemon
    }

    /// Waits until everything is built and restored.
    pub(crate) fn wait_until_ready(&mut self) {
        eventually("the daemon is ready", PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}: {:#?}", self.stderr.so_far());
            }
            self.logged(" Watching ").then_some(())
        });
    }

    /// Whether a line of its log holds this text.
    pub(crate) fn logged(&self, text: &str) -> bool {
        self.count_logged(text) > 0
    }

    /// How many lines of its log hold this text.
    pub(crate) fn count_logged(&self, text: &str) -> usize {
        self.stderr.lines.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// Its log up to now.
    pub(crate) fn log(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of a page.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(self.address()).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0: the body ends with the connection.
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// The value of a series, named as in the exposition.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200);
        let value = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.trim().parse().unwrap())
    }

    /// Asks it to drain, and waits for its end.
    pub(crate) fn terminate(mut self) -> Finished {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = self.wait_for_end();
        self.finished(status)
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> Finished {
        let status = self.wait_for_end();
        self.finished(status)
    }

    /// Kills it with SIGKILL; when this returns, it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        eventually("the daemon ends", PATIENCE, || self.child.try_wait().unwrap())
    }

    fn finished(&mut self, status: ExitStatus) -> Finished {
        let (stdout, stderr) = (self.stdout.until_end(), self.stderr.until_end());
        Finished { code: status.code(), stdout, stderr }
    }

    fn address(&self) -> SocketAddr {
        let lines = self.stderr.lines.lock().unwrap();
        let address = lines.iter().find_map(|line| line.split_once(" address=")).map(|(_, address)| address);
        address.unwrap().trim().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; nothing can be done about anything else.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The lines of one of its outputs, read all the time, so that it never blocks on a full pipe.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn collect(output: impl Read + Send + 'static) -> Lines {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let collected = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                collected.lock().unwrap().push(line);
            }
        });
        Lines { lines, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn until_end(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}
