//! Checks a sink of type "nats". Its URLs may contain secrets, so no message shows them.

use std::time::Duration;

use async_nats::ServerAddr;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::ca_file::check_ca_file;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_login;
use super::setting::Setting;
use super::table::Table;
use super::urls::is_loopback;
use crate::secrets::RotatableSecret;
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

pub(super) fn check_nats(keys: raw::Sink, sink: &mut Table<'_>) -> Option<NatsOptions> {
    let allow_insecure = sink.take("allow_insecure", keys.allow_insecure).unwrap_or(false);
    let url = sink.require("url", keys.url, "url = \"nats://127.0.0.1:4222\"");
    let servers = url.and_then(|url| check_servers(&url, allow_insecure, sink));
    let subject_prefix = check_subject_prefix(keys.subject_prefix, sink);
    let ca_file = check_ca_file(keys.ca_file, sink);
    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = sink.duration("timeout", keys.timeout, Duration::from_secs(5), timeouts);
    let max_in_flight = sink.number("max_in_flight", keys.max_in_flight, 64, 1..=MAX_IN_FLIGHT);
    let login = LoginSettings {
        credentials_file: keys.credentials_file,
        nkey_file: keys.nkey_file,
        user: keys.user,
        secret: SecretSetting::new("secret", keys.secret_file, keys.secret_env, keys.secret),
    };
    let login = login.check(sink);
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
fn check_servers(text: &SecretString, allow_insecure: bool, sink: &mut Table<'_>) -> Option<Vec<ServerAddr>> {
    let urls: Vec<&str> = text.expose_secret().split(',').map(str::trim).collect();
    if urls.len() > MAX_SERVERS {
        sink.wrong("url", format!("has {} servers, but at most {MAX_SERVERS} are allowed", urls.len()));
        return None;
    }
    let servers = urls.into_iter().map(|url| {
        let server = check_server(url, allow_insecure);
        server.map_err(|problem| sink.wrong("url", problem)).ok()
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

fn check_subject_prefix(setting: Setting<String>, sink: &mut Table<'_>) -> Option<String> {
    let key = "subject_prefix";
    if setting.is_absent() {
        return Some(DEFAULT_SUBJECT_PREFIX.to_owned());
    }
    let prefix = sink.take(key, setting)?;
    if prefix.len() > MAX_PREFIX_BYTES {
        sink.wrong(key, format!("is longer than {MAX_PREFIX_BYTES} bytes; shorten it"));
        return None;
    }
    if !prefix.split('.').all(is_token) {
        let problem =
            "is not a subject prefix; write words of letters, digits, \"-\" and \"_\", separated by dots";
        sink.wrong_value(key, &prefix, problem);
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
    fn check(self, sink: &mut Table<'_>) -> Option<RotatableSecret<Login>> {
        let has_secret = self.secret.is_set();
        let has_user = !self.user.is_absent();
        let set = [!self.credentials_file.is_absent(), !self.nkey_file.is_absent(), has_user || has_secret];
        if set.iter().filter(|set| **set).count() > 1 {
            let ways = "credentials_file, nkey_file, user with secret_file (a password), or secret_file alone (a token)";
            sink.wrong_table(format!("has more than one login; set only one of {ways}"));
            return None;
        }
        if let Some(file) = sink.take("credentials_file", self.credentials_file) {
            return read_login("credentials_file", &file, Login::credentials, sink);
        }
        if let Some(file) = sink.take("nkey_file", self.nkey_file) {
            return read_login("nkey_file", &file, Login::nkey, sink);
        }
        if has_user {
            let user = sink.take("user", self.user);
            let password = self.secret.read(sink);
            let user = user?;
            let login = move |password: &SecretString| Login::Password {
                user: user.clone(),
                password: password.clone(),
            };
            return Some(password?.map(login));
        }
        if has_secret {
            return self.secret.read(sink).map(|token| token.map(|token| Login::Token(token.clone())));
        }
        Some(Login::None.into())
    }
}
