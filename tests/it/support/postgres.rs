//! The PostgreSQL server that tests/with_postgres.sh starts, servers of single tests, and a proxy that loses answers.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use kfwatch::{
    domain::shard::ShardNumber,
    store::{Cluster, Heartbeat, PostgresOptions, ReplicaInfo, Store, StoreError},
};
use nix::unistd::User;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, config::Host};

use super::{
    loopback::free_address,
    store::{APPID, at},
    wait::eventually,
};

/// How to connect to the server.
fn server() -> tokio_postgres::Config {
    let Some(server) = std::env::var_os("KFWATCH_TEST_POSTGRES") else {
        unreachable!("tests/with_postgres.sh starts a server and names it");
    };
    server.to_str().unwrap().parse().unwrap()
}

fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A schema of one test. It stays until the server is removed.
#[derive(Clone)]
pub(crate) struct Schema {
    name: String,
    /// How kfwatch connects.
    server: tokio_postgres::Config,
    /// How the test connects.
    direct: tokio_postgres::Config,
}

impl Schema {
    pub(crate) fn new() -> Self {
        Self::on(server())
    }

    /// A schema on another server.
    pub(crate) fn on(server: tokio_postgres::Config) -> Self {
        // A name that has to be quoted.
        Self {
            name: format!("Test {} \"{}\"", std::process::id(), next_number()),
            direct: server.clone(),
            server,
        }
    }

    /// A schema with a name that the configuration accepts.
    pub(crate) fn configured() -> Self {
        Self::configured_on(server())
    }

    /// The same on another server.
    pub(crate) fn configured_on(server: tokio_postgres::Config) -> Self {
        Self { name: format!("test_{}_{}", std::process::id(), next_number()), ..Self::on(server) }
    }

    /// The sections of a configuration that names it.
    pub(crate) fn sections(&self, replica: &str) -> String {
        let (name, user) = (&self.name, self.server.get_user().unwrap());
        let ports = self.server.get_ports();
        let host = |(n, host): (usize, &Host)| match host {
            Host::Unix(path) => path.display().to_string().replace('/', "%2F"),
            Host::Tcp(name) => {
                let address = self.server.get_hostaddrs().get(n).map(ToString::to_string);
                format!("{}:{}", address.as_ref().unwrap_or(name), ports[n])
            }
        };
        let hosts = self.server.get_hosts().iter().enumerate().map(host).collect::<Vec<_>>().join(",");
        format!(
            "[store]\nbackend = \"postgresql\"\nurl = \"postgres://{user}@{hosts}/postgres\"\nschema = \"{name}\"\n\
             [cluster]\nname = \"{replica}\"\n"
        )
    }

    /// The same schema, which kfwatch reaches through a proxy.
    pub(crate) fn through(self, proxy: &Proxy) -> Self {
        let mut server = tokio_postgres::Config::new();
        server.host_path(proxy.directory.path()).user("kfwatch").dbname("postgres");
        Self { server, ..self }
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions { server: self.server.clone(), ca_file: None, schema: self.name.clone() }
    }

    /// Opens the shard of [`APPID`], as the only replica.
    pub(crate) async fn open(&self) -> Store {
        let replica = Replica::connect(self, "only").await;
        replica.send_heartbeat(Duration::ZERO).await.unwrap();
        replica.acquire(&[ShardNumber::from_appid(APPID)]).await.remove(0).1
    }

    /// Executes a statement, as an operator does.
    pub(crate) async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// Every row of every table, except who owns the shards and who is alive.
    pub(crate) async fn content(&self) -> String {
        let client = self.client().await;
        let tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname <> 'replicas' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
                      ORDER BY relname";
        let mut content = String::new();
        for table in client.query(tables, &[]).await.unwrap() {
            let table: String = table.get(0);
            let rows = format!(
                "SELECT coalesce(string_agg((to_jsonb(t) - 'owner' - 'epoch')::text, E'\\n' ORDER BY t::text), '') FROM {table} t"
            );
            let rows: String = client.query_one(&rows, &[]).await.unwrap().get(0);
            content += &format!("{table}\n{rows}\n");
        }
        content
    }

    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = self.direct.connect(NoTls).await.unwrap();
        tokio::runtime::Handle::current().spawn(connection);
        let search_path = format!("SET search_path = \"{}\"", self.name.replace('"', "\"\""));
        client.batch_execute(&search_path).await.unwrap();
        client
    }
}

/// One replica, whose heartbeats the test makes.
pub(crate) struct Replica {
    pub(crate) cluster: Cluster,
    pub(crate) info: ReplicaInfo,
}

impl Replica {
    pub(crate) async fn connect(schema: &Schema, name: &str) -> Self {
        static STARTED_AT: AtomicU32 = AtomicU32::new(0);
        let info = ReplicaInfo {
            name: name.to_owned(),
            address: format!("http://{name}:9184/"),
            version: "1".to_owned(),
            fingerprint: Vec::new(),
            started_at: at(STARTED_AT.fetch_add(1, Ordering::Relaxed).into()),
            is_draining: false,
        };
        Self { cluster: Cluster::connect(schema.options()).await.unwrap(), info }
    }

    pub(crate) async fn send_heartbeat(&self, sent_at: Duration) -> Result<Heartbeat, StoreError> {
        self.cluster.send_heartbeat(&self.info, sent_at).await
    }

    pub(crate) async fn acquire(&self, shards: &[ShardNumber]) -> Vec<(ShardNumber, Store)> {
        self.cluster.acquire_shards(&self.info, shards).await.unwrap()
    }
}

/// A server of one test, which it can kill.
pub(crate) struct Server {
    directory: TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl Server {
    /// Starts a server with these additional lines of postgresql.conf. The closure gets a directory that the server can read.
    pub(crate) fn start(configuration: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { directory, address: free_address(), process: None };
        give_to_server(server.directory.path());
        let data = server.directory.path().join("data");
        let mut initdb = program("initdb");
        initdb.args([
            "--username",
            "kfwatch",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-locale",
            "--pgdata",
        ]);
        let ended = initdb.arg(&data).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let configuration = configuration(server.directory.path());
        let address = server.address;
        let lines = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = ''\n{configuration}\n",
            address.ip(),
            address.port()
        );
        let file = data.join("postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &lines).unwrap();
        let hba = "host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n";
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        server.restart();
        server
    }

    /// Starts a standby of this server.
    pub(crate) fn start_standby(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give_to_server(directory.path());
        let mut standby = Self { directory, address: free_address(), process: None };
        let data = standby.directory.path().join("data");
        let primary = format!("host={} port={} user=kfwatch", self.address.ip(), self.address.port());
        let copied = program("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--dbname", &primary, "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let (ip, port) = (standby.address.ip(), standby.address.port());
        let own = format!("listen_addresses = '{ip}'\nport = {port}\nsynchronous_standby_names = ''\n");
        let file = data.join("postgresql.auto.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &own).unwrap();
        standby.restart();
        standby
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        let data = self.directory.path().join("data");
        let promoted = program("pg_ctl").args(["promote", "--wait", "--pgdata"]).arg(&data).status().unwrap();
        assert!(promoted.success());
    }

    /// How to connect to whichever of these servers is the primary.
    pub(crate) fn config_of_both(&self, other: &Self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.user("kfwatch").dbname("postgres");
        for server in [self, other] {
            config.host(server.address.ip().to_string()).port(server.address.port());
        }
        config
    }

    /// How to connect to the server under this host name.
    pub(crate) fn config(&self, name: &str) -> tokio_postgres::Config {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!("host={name} hostaddr={ip} port={port} user=kfwatch dbname=postgres").parse().unwrap()
    }

    /// Writes a file that only the server can read, and returns its path.
    pub(crate) fn write_private_file(directory: &Path, name: &str, content: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        give_to_server(&path);
        path
    }

    /// Kills it with SIGKILL. Its files remain.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, and waits until it accepts connections.
    pub(crate) fn restart(&mut self) {
        let data = self.directory.path().join("data");
        eventually("the server", || {
            let has_ended = |process: &mut Child| process.try_wait().unwrap().is_some();
            // After a kill, it refuses to start as long as processes of the former one have not ended.
            if self.process.as_mut().is_none_or(has_ended) {
                let started = program("postgres").arg("-D").arg(&data).stderr(Stdio::null()).spawn();
                self.process = Some(started.unwrap());
            }
            // The lock file has a line with its state. It may still be that of a server that was killed.
            let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
            let own = self.process.as_ref()?.id().to_string();
            let is_ready = |line: &str| matches!(line.trim(), "ready" | "standby");
            (file.lines().next() == Some(&*own) && file.lines().any(is_ready)).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of the newest PostgreSQL that is installed, as a user that is not root: it refuses that.
fn program(name: &str) -> Command {
    let mut found: Vec<PathBuf> =
        glob::glob("/usr/lib/postgresql/*/bin").unwrap().map(Result::unwrap).collect();
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    found.sort_by_key(version);
    let mut command = Command::new(found.last().unwrap().join(name));
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.stdout(Stdio::null());
    command
}

/// Gives a file to the user of the server.
fn give_to_server(path: &Path) {
    if let Some(user) = server_user() {
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// `None` if this process is not root.
fn server_user() -> Option<User> {
    nix::unistd::geteuid().is_root().then(|| User::from_name("postgres").unwrap().unwrap())
}

/// Stands between kfwatch and the server, and disturbs their connections.
pub(crate) struct Proxy {
    directory: TempDir,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    /// How many answers pass before one is lost; zero if none is lost.
    countdown: AtomicU32,
    has_lost: AtomicBool,
    /// By how much answers are delayed, in milliseconds.
    delay_ms: AtomicU64,
    /// Whether nothing arrives any more, on either side.
    is_silent: AtomicBool,
    connections: Mutex<Vec<UnixStream>>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let state = Arc::new(ProxyState::default());
        let proxy = Self { directory, state: Arc::clone(&state) };
        let server = server();
        let [Host::Unix(server)] = server.get_hosts() else { unreachable!("a UNIX socket") };
        let server = server.join(".s.PGSQL.5432");
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = UnixStream::connect(&server).unwrap();
                state.connections.lock().unwrap().push(client.try_clone().unwrap());
                let [up, down] = [&client, &server].map(|socket| socket.try_clone().unwrap());
                let [upwards, downwards] = [Arc::clone(&state), Arc::clone(&state)];
                thread::spawn(move || upwards.relay(&client, &server, ProxyState::passes_request));
                thread::spawn(move || downwards.relay(&down, &up, ProxyState::passes_answer));
            }
        });
        proxy
    }

    /// Cuts a connection instead of the n-th answer from now on, which the server has sent.
    pub(crate) fn lose_answer(&self, n: u32) {
        self.state.countdown.store(n, Ordering::Relaxed);
    }

    /// Whether that answer was lost. If not, nothing is lost any more.
    pub(crate) fn has_lost_answer(&self) -> bool {
        self.state.countdown.store(0, Ordering::Relaxed);
        self.state.has_lost.swap(false, Ordering::Relaxed)
    }

    /// Delays every answer from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Swallows everything from now on, as a network that loses all packets, or no longer.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }
}

impl ProxyState {
    /// Relays what one side sends, until something does not pass.
    fn relay(&self, mut from: &UnixStream, mut to: &UnixStream, passes: fn(&Self) -> bool) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if !passes(self) || to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        for socket in [from, to] {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// What was swallowed never arrives: when the silence ends, so does the connection.
    fn passes_request(&self) -> bool {
        let is_swallowed = self.is_silent.load(Ordering::Relaxed);
        while self.is_silent.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        !is_swallowed
    }

    fn passes_answer(&self) -> bool {
        thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)));
        let before = self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if before == Ok(1) {
            self.has_lost.store(true, Ordering::Relaxed);
            return false;
        }
        self.passes_request()
    }
}
