//! Checks a sink of type "nats". Its URLs may contain secrets, so no message shows them.

use std::time::Duration;

use async_nats::ServerAddr;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::ca_file::check_ca_file;
use super::environment::LoadContext;
use super::findings::Findings;
use super::mistake::quote;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_login;
use super::setting::Setting;
use super::sources::KeyPath;
use super::urls::is_loopback;
use crate::sink::nats::{Login, NatsOptions, is_token};

const DEFAULT_SUBJECT_PREFIX: &str = "kf";

/// How many servers of a cluster may be listed; one of them is enough to find the others.
const MAX_SERVERS: usize = 16;

/// In bytes; servers limit the length of the protocol line that contains the subject.
const MAX_PREFIX_BYTES: usize = 128;

/// As many events as the dispatcher reads ahead.
const MAX_IN_FLIGHT: usize = 1000;

/// An event delays the later events of its kf account until it times out.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

pub(super) fn check_nats(
    at: &KeyPath<'_>,
    keys: raw::Sink,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Option<NatsOptions> {
    let allow_insecure = findings.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let url = findings.require(&at.name("url"), keys.url, "url = \"nats://127.0.0.1:4222\"");
    let servers = url.and_then(|url| check_servers(&at.name("url"), &url, allow_insecure, findings));
    let subject_prefix = check_subject_prefix(&at.name("subject_prefix"), keys.subject_prefix, findings);
    let ca_file = check_ca_file(at, keys.ca_file, context, findings);
    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = findings.duration(&at.name("timeout"), keys.timeout, Duration::from_secs(5), timeouts);
    let key = at.name("max_in_flight");
    let max_in_flight = findings.number(&key, keys.max_in_flight, 64, 1..=MAX_IN_FLIGHT);
    let login = LoginSettings {
        credentials_file: keys.credentials_file,
        nkey_file: keys.nkey_file,
        user: keys.user,
        secret: SecretSetting {
            name: "secret",
            file: keys.secret_file,
            variable: keys.secret_env,
            in_place: keys.secret,
        },
    };
    let login = login.check(at, context, findings);
    Some(NatsOptions {
        servers: servers?,
        subject_prefix: subject_prefix?,
        login: login?,
        ca_file,
        timeout,
        max_in_flight,
    })
}

/// Checks a list of server URLs that is separated by commas.
fn check_servers(
    key: &KeyPath<'_>,
    text: &SecretString,
    allow_insecure: bool,
    findings: &mut Findings,
) -> Option<Vec<ServerAddr>> {
    let urls: Vec<&str> = text.expose_secret().split(',').map(str::trim).collect();
    if urls.len() > MAX_SERVERS {
        findings.wrong(key, format!("has {} servers, but at most {MAX_SERVERS} are allowed", urls.len()));
        return None;
    }
    let servers = urls.into_iter().map(|url| {
        let server = check_server(url, allow_insecure);
        server.map_err(|problem| findings.wrong(key, problem)).ok()
    });
    servers.collect()
}

fn check_server(text: &str, allow_insecure: bool) -> Result<ServerAddr, &'static str> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host());
    let url = url.filter(|url| url.host_str().is_some_and(|host| !host.is_empty()));
    let url = url.ok_or("is not a nats or tls URL; write it like \"nats://127.0.0.1:4222\"")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user name or a password; set user and secret_file instead");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("contains a path, a query or a fragment; write only scheme, host and port");
    }
    if url.scheme() == "nats" && !allow_insecure && !is_loopback(&url) {
        return Err(
            "would send personal data and secrets unencrypted; write tls://, or set allow_insecure = true",
        );
    }
    ServerAddr::from_url(url).map_err(|_| "is not usable; write it like \"nats://127.0.0.1:4222\"")
}

fn check_subject_prefix(
    key: &KeyPath<'_>,
    setting: Setting<String>,
    findings: &mut Findings,
) -> Option<String> {
    if setting.is_absent() {
        return Some(DEFAULT_SUBJECT_PREFIX.to_owned());
    }
    let prefix = findings.take(key, setting)?;
    if prefix.len() > MAX_PREFIX_BYTES {
        findings.wrong(key, format!("is longer than {MAX_PREFIX_BYTES} bytes; shorten it"));
        return None;
    }
    if !prefix.split('.').all(is_token) {
        let problem =
            "is not a subject prefix; write words of letters, digits, \"-\" and \"_\", separated by dots";
        findings.wrong(key, format!("{} {problem}", quote(&prefix)));
        return None;
    }
    Some(prefix)
}

/// The ways to log in, of which at most one may be set; user and secret together are one way.
struct LoginSettings {
    credentials_file: Setting<String>,
    nkey_file: Setting<String>,
    user: Setting<String>,
    secret: SecretSetting,
}

impl LoginSettings {
    fn check(self, at: &KeyPath<'_>, context: LoadContext<'_>, findings: &mut Findings) -> Option<Login> {
        let has_secret = self.secret.is_set();
        let has_user = !self.user.is_absent();
        let set = [!self.credentials_file.is_absent(), !self.nkey_file.is_absent(), has_user || has_secret];
        if set.iter().filter(|set| **set).count() > 1 {
            let ways = "credentials_file, nkey_file, user with secret_file (a password), or secret_file alone (a token)";
            findings.wrong(at, format!("has more than one login; set only one of {ways}"));
            return None;
        }
        let key = at.name("credentials_file");
        if let Some(file) = findings.take(&key, self.credentials_file) {
            return read_login(&key, &file, context, Login::credentials, findings);
        }
        let key = at.name("nkey_file");
        if let Some(file) = findings.take(&key, self.nkey_file) {
            return read_login(&key, &file, context, Login::nkey, findings);
        }
        if has_user {
            let user = findings.take(&at.name("user"), self.user);
            let password = self.secret.read(at, context, findings);
            return Some(Login::Password { user: user?, password: password? });
        }
        if has_secret {
            return self.secret.read(at, context, findings).map(Login::Token);
        }
        Some(Login::None)
    }
}
