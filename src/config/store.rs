//! Checks the sections about the store: `[store]`, `[cluster]` and `[control]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::gethostname;
use reqwest::Url;
use secrecy::ExposeSecret;

use super::ca_file::check_ca_file;
use super::model::{
    ClusterConfig, ControlConfig, RUNTIME_SOCKET, SocketLocation, StoreConfig, StoreLocation,
};
use super::raw;
use super::secret::SecretSetting;
use super::setting::{Section, Setting};
use super::table::Table;
use super::urls::parse_url;
use crate::store::PostgresOptions;

/// 10 GiB, about 15 million events.
const DEFAULT_STORE_BYTES: usize = 10 << 30;

/// The range of `event_log_max_bytes`: from 16 MiB, so that a burst of commits fits into the free space, to the 16 TiB that
/// SQLite allows.
const STORE_BYTES: RangeInclusive<usize> = 16 << 20..=16 << 40;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest name of a schema that PostgreSQL keeps.
const MAX_SCHEMA_BYTES: usize = 63;

/// The longest name of a replica. It is part of the path of its control socket.
const MAX_NAME_BYTES: usize = 63;

/// The directory of the control socket, where systemd gives none.
const SOCKET_DIRECTORY: &str = "/run/kfwatch";

const SQLITE: &str = "sqlite";
const POSTGRESQL: &str = "postgresql";

#[derive(Clone, Copy, PartialEq)]
enum Backend {
    Sqlite,
    Postgresql,
}

/// The sections about the store.
#[derive(Default)]
pub(super) struct StoreSections {
    pub(super) store: Section<raw::Store>,
    pub(super) cluster: Section<raw::Cluster>,
    pub(super) control: Section<raw::Control>,
}

/// Returns where the store is and how much it keeps, and the control socket. `None` for a store that cannot be used.
pub(super) fn check_store(
    sections: StoreSections,
    root: &mut Table<'_>,
) -> (Option<StoreConfig>, ControlConfig) {
    let StoreSections { store, cluster, control } = sections;
    let mut table = root.table("store");
    let mut keys = table.keys(store).unwrap_or_default();
    let backend = check_backend(&mut keys, &mut table);
    let retentions = Duration::from_secs(1)..=3_650 * DAY;
    let (event_retention, dead_letter_retention) = (keys.event_retention, keys.dead_letter_retention);
    let event_retention = table.duration("event_retention", event_retention, 30 * DAY, retentions.clone());
    let dead_letter_retention =
        table.duration("dead_letter_retention", dead_letter_retention, 30 * DAY, retentions);
    let bytes = keys.event_log_max_bytes;
    let event_log_max_bytes =
        table.number("event_log_max_bytes", bytes, DEFAULT_STORE_BYTES, STORE_BYTES) as u64;
    let path = sqlite_path(keys.path, &mut table);
    let url = SecretSetting::new("url", keys.url_file, keys.url_env, keys.url);
    let database = match backend {
        Backend::Sqlite => None,
        Backend::Postgresql => check_database(url, keys.ca_file, keys.schema, &mut table),
    };
    let mut table = root.table("cluster");
    let keys = table.keys(cluster).unwrap_or_default();
    let (name, advertise) = check_cluster(keys, backend, &mut table);
    let mut table = root.table("control");
    let socket = table.keys(control).unwrap_or_default().socket;
    let control = check_control(socket, (backend, &path, &name), &mut table);
    let location = match backend {
        Backend::Sqlite => Some(StoreLocation::File(path)),
        Backend::Postgresql => database
            .map(|database| StoreLocation::Postgres(Box::new(ClusterConfig { database, name, advertise }))),
    };
    let config = location.map(|location| StoreConfig {
        location,
        event_retention,
        event_log_max_bytes,
        dead_letter_retention,
    });
    (config, control)
}

/// Returns the control socket, and drops all mistakes. Reads no secrets.
pub(super) fn find_control(sections: StoreSections, root: &mut Table<'_>) -> ControlConfig {
    let StoreSections { store, cluster, control } = sections;
    let mut table = root.table("store");
    let mut keys = table.keys(store).unwrap_or_default();
    let backend = check_backend(&mut keys, &mut table);
    let path = sqlite_path(keys.path, &mut table);
    let mut table = root.table("cluster");
    let keys = table.keys(cluster).unwrap_or_default();
    let (name, _) = check_cluster(keys, backend, &mut table);
    let mut table = root.table("control");
    let socket = table.keys(control).unwrap_or_default().socket;
    check_control(socket, (backend, &path, &name), &mut table)
}

fn check_backend(keys: &mut raw::Store, store: &mut Table<'_>) -> Backend {
    let backends = [(SQLITE, Backend::Sqlite), (POSTGRESQL, Backend::Postgresql)];
    let backend = std::mem::take(&mut keys.backend);
    let backend = store.word("backend", backend, &backends).unwrap_or(Backend::Sqlite);
    store.reject_inapplicable(
        ("backend", backend.word()),
        &[
            ("path", keys.path.is_absent(), &[SQLITE]),
            ("url_file", keys.url_file.is_absent(), &[POSTGRESQL]),
            ("url_env", keys.url_env.is_absent(), &[POSTGRESQL]),
            ("url", keys.url.is_absent(), &[POSTGRESQL]),
            ("ca_file", keys.ca_file.is_absent(), &[POSTGRESQL]),
            ("schema", keys.schema.is_absent(), &[POSTGRESQL]),
        ],
    );
    backend
}

fn sqlite_path(path: Setting<String>, store: &mut Table<'_>) -> PathBuf {
    store.path("path", path).unwrap_or_else(|| store.context.base_dir.join("kfwatch.db"))
}

fn check_database(
    url: SecretSetting,
    ca_file: Setting<String>,
    schema: Setting<String>,
    store: &mut Table<'_>,
) -> Option<PostgresOptions> {
    let url = url.read_with_key(store);
    let ca_file = check_ca_file(ca_file, store);
    let schema = store.take("schema", schema).unwrap_or_else(|| "kfwatch".to_owned());
    if !is_schema(&schema) {
        let problem = format!(
            "is not the name of a schema that kfwatch accepts; write 1 to {MAX_SCHEMA_BYTES} small letters, digits and \
             underscores, beginning with a letter and not with pg_"
        );
        store.wrong_value("schema", &schema, &problem);
    }
    let (key, url) = url?;
    // The parser's message may contain a part of the password.
    let server = url.value().expose_secret().parse::<tokio_postgres::Config>().ok();
    let server = server.filter(|server| !server.get_hosts().is_empty());
    if server.is_none() {
        store.wrong(
            &key,
            "is not a URL of a PostgreSQL database; write it like postgres://kfwatch:PASSWORD@db.example:5432/kfwatch, with special \
             characters of the password as %XX",
        );
    }
    Some(PostgresOptions { server: server?, ca_file, schema })
}

fn is_schema(name: &str) -> bool {
    name.len() <= MAX_SCHEMA_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.starts_with("pg_")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Returns the name of this replica, and where its page is.
fn check_cluster(keys: raw::Cluster, backend: Backend, cluster: &mut Table<'_>) -> (String, Option<Url>) {
    cluster.reject_inapplicable(
        ("store.backend", backend.word()),
        &[
            ("name", keys.name.is_absent(), &[POSTGRESQL]),
            ("advertise", keys.advertise.is_absent(), &[POSTGRESQL]),
        ],
    );
    let name = cluster.take("name", keys.name).unwrap_or_else(|| {
        gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "kfwatch".to_owned())
    });
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || name.starts_with('.') || !name.chars().all(is_plain) {
        let problem = format!(
            "is not a name for a replica; write 1 to {MAX_NAME_BYTES} letters, digits, dots, hyphens and underscores"
        );
        cluster.wrong_value("name", &name, &problem);
    }
    let advertise = cluster.take("advertise", keys.advertise).and_then(|text| {
        let url = parse_url(&text);
        if url.is_none() {
            let problem = "is not an http or https URL; write it like \"http://kfwatch-1.example:9877/\"";
            cluster.wrong_value("advertise", &text, problem);
        }
        url
    });
    (name, advertise)
}

fn check_control(
    socket: Setting<String>,
    (backend, path, name): (Backend, &PathBuf, &str),
    control: &mut Table<'_>,
) -> ControlConfig {
    let mut is_default = false;
    let socket = match (control.path("socket", socket), backend) {
        (Some(socket), _) => SocketLocation::At(socket),
        (None, Backend::Sqlite) => SocketLocation::BesideFile(path.clone()),
        (None, Backend::Postgresql) => {
            is_default = true;
            let directory = control.context.environment.get("RUNTIME_DIRECTORY");
            // systemd separates several directories with colons.
            let directory = directory.and_then(|all| all.split(':').next()).filter(|first| !first.is_empty());
            SocketLocation::At(match directory {
                Some(directory) => PathBuf::from(directory).join(RUNTIME_SOCKET),
                None => PathBuf::from(SOCKET_DIRECTORY).join(format!("{name}.sock")),
            })
        }
    };
    ControlConfig { socket, is_default }
}

impl Backend {
    fn word(self) -> &'static str {
        match self {
            Self::Sqlite => SQLITE,
            Self::Postgresql => POSTGRESQL,
        }
    }
}
