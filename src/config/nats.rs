//! Checks a sink of type "nats". What should not be in its URLs may be a secret, so that they are in no message.

use std::time::Duration;

use async_nats::ServerAddr;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::api::{check_ca_file, is_loopback};
use super::locate::Key;
use super::mistake::quote;
use super::raw;
use super::report::Report;
use super::secret::{self, Written};
use super::setting::Setting;
use super::webhook::{Around, LONGEST_TIMEOUT};
use crate::sink::nats::{Login, NatsOptions, is_token};

/// What subjects begin with unless something else is written.
const DEFAULT_SUBJECT_PREFIX: &str = "kf";

/// How many servers of a cluster may be named: any of them is enough.
const MAX_SERVERS: usize = 16;

/// The longest subject prefix, in bytes: servers limit the line that a subject stands in.
const MAX_PREFIX_BYTES: usize = 128;

/// The most events that may be sent and not confirmed: as many as are read ahead.
const MOST_IN_FLIGHT: usize = 1000;

pub(super) fn nats(
    at: &Key<'_>,
    mut keys: raw::Sink,
    around: Around<'_>,
    report: &mut Report,
) -> Option<NatsOptions> {
    let allow_insecure = report.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let url =
        report.require(&at.name("url"), std::mem::take(&mut keys.url), "url = \"nats://127.0.0.1:4222\"");
    let servers = url.and_then(|url| servers(&at.name("url"), &url, allow_insecure, report));
    let subject_prefix =
        subject_prefix(&at.name("subject_prefix"), std::mem::take(&mut keys.subject_prefix), report);
    let ca_file = report.take(&at.name("ca_file"), std::mem::take(&mut keys.ca_file));
    let ca_file = ca_file.map(|file| check_ca_file(&at.name("ca_file"), around.base_dir.join(file), report));
    let timeouts = Duration::from_millis(1)..=LONGEST_TIMEOUT;
    let timeout = report.duration(&at.name("timeout"), keys.timeout, Duration::from_secs(5), timeouts);
    let key = at.name("max_in_flight");
    let max_in_flight = report.number(&key, keys.max_in_flight, 64, 1..=MOST_IN_FLIGHT);
    let login = Logins {
        credentials_file: keys.credentials_file,
        nkey_file: keys.nkey_file,
        user: keys.user,
        secret: Written {
            name: "secret",
            file: keys.secret_file,
            variable: keys.secret_env,
            in_place: keys.secret,
        },
    };
    let login = login.check(at, around, report);
    Some(NatsOptions {
        servers: servers?,
        subject_prefix: subject_prefix?,
        login: login?,
        ca_file,
        timeout,
        max_in_flight,
    })
}

/// The servers, separated by commas.
fn servers(
    key: &Key<'_>,
    text: &SecretString,
    allow_insecure: bool,
    report: &mut Report,
) -> Option<Vec<ServerAddr>> {
    let urls: Vec<&str> = text.expose_secret().split(',').map(str::trim).collect();
    if urls.len() > MAX_SERVERS {
        report.wrong(key, format!("has {} servers, and {MAX_SERVERS} are the most", urls.len()));
        return None;
    }
    let servers = urls.into_iter().map(|url| {
        let server = server(url, allow_insecure);
        server.map_err(|problem| report.wrong(key, problem)).ok()
    });
    servers.collect()
}

fn server(text: &str, allow_insecure: bool) -> Result<ServerAddr, &'static str> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host());
    let url = url.filter(|url| url.host_str().is_some_and(|host| !host.is_empty()));
    let url = url.ok_or("is not a nats or tls URL; write it like \"nats://127.0.0.1:4222\"")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or a password in it; write user and secret_file instead");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("has a path, a query or a fragment; write only scheme, host and port");
    }
    if url.scheme() == "nats" && !allow_insecure && !is_loopback(&url) {
        return Err(
            "may send personal data and secrets unencrypted; write tls://, or set allow_insecure = true",
        );
    }
    ServerAddr::from_url(url).map_err(|_| "cannot be used; write it like \"nats://127.0.0.1:4222\"")
}

fn subject_prefix(key: &Key<'_>, setting: Setting<String>, report: &mut Report) -> Option<String> {
    let prefix = match setting {
        Setting::Absent => return Some(DEFAULT_SUBJECT_PREFIX.to_owned()),
        written => report.take(key, written)?,
    };
    if prefix.len() > MAX_PREFIX_BYTES {
        report.wrong(key, format!("is longer than {MAX_PREFIX_BYTES} bytes"));
        return None;
    }
    if !prefix.split('.').all(is_token) {
        let problem = "is no beginning of a subject; write words of letters, digits, \"-\" and \"_\", separated by dots";
        report.wrong(key, format!("{} {problem}", quote(&prefix)));
        return None;
    }
    Some(prefix)
}

/// The ways to log in, of which at most one is to be used; user and secret are one.
struct Logins {
    credentials_file: Setting<String>,
    nkey_file: Setting<String>,
    user: Setting<String>,
    secret: Written,
}

impl Logins {
    fn check(self, at: &Key<'_>, around: Around<'_>, report: &mut Report) -> Option<Login> {
        let has_secret = self.secret.is_written();
        let has_user = !self.user.is_absent();
        let written =
            [!self.credentials_file.is_absent(), !self.nkey_file.is_absent(), has_user || has_secret];
        if written.iter().filter(|written| **written).count() > 1 {
            let ways = "credentials_file, nkey_file, user with secret_file (a password), or secret_file alone (a token)";
            report.wrong(at, format!("logs in more than one way; write only one of {ways}"));
            return None;
        }
        let base_dir = around.base_dir;
        if let Some(file) = report.take(&at.name("credentials_file"), self.credentials_file) {
            return secret::login(&at.name("credentials_file"), &file, base_dir, Login::credentials, report);
        }
        if let Some(file) = report.take(&at.name("nkey_file"), self.nkey_file) {
            return secret::login(&at.name("nkey_file"), &file, base_dir, Login::nkey, report);
        }
        if has_user {
            let user = report.take(&at.name("user"), self.user);
            let password = self.secret.read(at, base_dir, around.environment, report);
            return Some(Login::Password { user: user?, password: password? });
        }
        if has_secret {
            return self.secret.read(at, base_dir, around.environment, report).map(Login::Token);
        }
        Some(Login::None)
    }
}
