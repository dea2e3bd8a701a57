//! A real nats-server with its own store, which can be killed and restarted on the same port, and a consumer of what it
//! stores.

pub(crate) mod logins;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_nats::{
    ConnectOptions,
    jetstream::{self, consumer::AckPolicy, consumer::pull, stream},
};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::wait::eventually;

/// A NATS server, running or killed.
pub(crate) struct Server {
    directory: TempDir,
    port: u16,
    process: Option<Child>,
    starts: usize,
}

impl Server {
    /// Starts a server with JetStream.
    pub(crate) fn start() -> Self {
        Self::configured(|_| String::new())
    }

    /// Starts a server with JetStream and more configuration. The closure gets the directory for the files that its
    /// configuration names.
    pub(crate) fn configured(more: impl FnOnce(&Path) -> String) -> Self {
        Self::bare(|directory| {
            format!("jetstream {{ store_dir: {:?} }}\n{}", directory.join("store"), more(directory))
        })
    }

    /// Starts a server with this configuration only.
    pub(crate) fn bare(configuration: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { directory, port: 0, process: None, starts: 0 };
        server.configure(&configuration(server.directory.path()));
        server.restart();
        server
    }

    /// Sets the configuration for the next start.
    pub(crate) fn configure(&self, configuration: &str) {
        std::fs::write(self.path("nats.conf"), configuration).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server with SIGKILL. Its files remain.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server again on the same port. The first start chooses the port.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        let log = self.path(&format!("log{}", self.starts));
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        // Debian installs it in a directory that may be missing from PATH.
        let program =
            ["/usr/sbin/nats-server", "nats-server"].into_iter().find(|program| Path::new(program).exists());
        let process = Command::new(program.unwrap_or("nats-server"))
            .args(["-c", self.path("nats.conf").to_str().unwrap(), "-a", "127.0.0.1", "-p", &port])
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn();
        self.process = Some(process.unwrap());
        self.port = eventually("the server", || {
            let text = std::fs::read_to_string(&log).unwrap();
            let (_, rest) = text.split_once("Listening for client connections on 127.0.0.1:")?;
            let (port, rest) = rest.split_once('\n')?;
            rest.contains("Server is ready").then(|| port.parse().unwrap())
        });
    }

    /// Sends a signal by its short name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status().unwrap();
        assert!(sent.success());
    }

    /// Connects to the server as a client.
    pub(crate) fn client(&self, options: ConnectOptions) -> Client {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(options.connect(self.url())).unwrap();
        // Connecting starts a task.
        let jetstream = runtime.block_on(async { jetstream::new(client) });
        Client { jetstream, runtime }
    }

    /// Connects a client without a login.
    pub(crate) fn anyone(&self) -> Client {
        self.client(ConnectOptions::new())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message as stored in a stream.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) subject: String,
    pub(crate) id: String,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// Creates streams and consumes them.
pub(crate) struct Client {
    jetstream: jetstream::Context,
    runtime: Runtime,
}

impl Client {
    /// Creates the stream "KF" for subjects that start with "kf.".
    pub(crate) fn create_stream(&self) {
        self.create(stream::Config::default());
    }

    /// Creates the stream with this duplicate window.
    pub(crate) fn create_stream_with_window(&self, duplicate_window: Duration) {
        self.create(stream::Config { duplicate_window, ..stream::Config::default() });
    }

    pub(crate) fn create(&self, config: stream::Config) {
        let config = stream::Config { name: "KF".to_owned(), subjects: vec!["kf.>".to_owned()], ..config };
        self.runtime.block_on(self.jetstream.create_stream(config)).unwrap();
    }

    /// Returns all messages of the stream in order. The consumer confirms each message.
    pub(crate) fn consume(&self) -> Vec<Received> {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream("KF").await.unwrap();
            let config = pull::Config { ack_policy: AckPolicy::Explicit, ..pull::Config::default() };
            let consumer = stream.create_consumer(config).await.unwrap();
            let mut received = Vec::new();
            let mut left = consumer.cached_info().num_pending;
            while left > 0 {
                let mut messages = consumer.fetch().max_messages(500).messages().await.unwrap();
                while let Some(message) = messages.next().await {
                    let message = message.unwrap();
                    let header =
                        |name: &str| message.headers.as_ref().unwrap().get(name).unwrap().to_string();
                    received.push(Received {
                        subject: message.subject.to_string(),
                        id: header("Nats-Msg-Id"),
                        content_type: header("Content-Type"),
                        body: String::from_utf8(message.payload.to_vec()).unwrap(),
                    });
                    message.ack().await.unwrap();
                    left -= 1;
                }
            }
            received
        })
    }

    /// Returns the number of messages in the stream.
    pub(crate) fn stored(&self) -> u64 {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream("KF").await.unwrap();
            stream.cached_info().state.messages
        })
    }
}
