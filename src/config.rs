//! Loads and validates the configuration.
//!
//! [`Config::load`] reads the TOML file, the files it includes and the environment variables that override it. It returns
//! either a configuration that needs no more checks (paths are absolute, secrets are read, schedules are parsed) or all
//! mistakes at once, each with its location and a remedy. Secrets never appear in messages or in `Debug` output.
//!
//! `layers` merges files and variables, `raw` is the shape of the files, `setting` reads single values without stopping at
//! the first mistake, `table` reads the settings of a table, `check` turns the raw shape into a [`Config`], and `sources`
//! finds the line of a key. This module opens no socket, store or sink, and never reads the clock.

mod api;
mod backoff;
mod ca_file;
mod chat;
mod check;
mod daily_calls;
mod environment;
mod findings;
mod input_method;
mod kf_accounts;
mod layers;
mod misplaced;
mod mistake;
mod model;
mod names;
mod nats;
mod official_account;
mod rate_limit;
mod raw;
mod schedule;
mod secret;
mod secret_file;
mod setting;
mod sink;
mod sources;
mod store;
mod table;
mod token;
mod urls;
mod webhook;

use std::path::{Path, PathBuf};

pub(crate) use self::daily_calls::DailyCalls;
pub use self::environment::Environment;
pub(crate) use self::kf_accounts::MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT;
pub use self::mistake::Mistakes;
pub use self::model::{
    ApiConfig, ClusterConfig, Config, ControlConfig, LoadedConfig, LocalConfig, LogConfig, MetricsConfig,
    OfficialAccountConfig, PollConfig, Proxy, SinkConfig, SinkStart, SinkTarget, SocketLocation, StoreConfig,
    StoreLocation, TokenConfig, WebConfig,
};
pub use self::setting::parse_duration;
pub use self::sink::DEFAULT_SINK;
pub use crate::domain::backoff::BackoffPolicy;
pub use crate::logging::LogFormat;
pub use crate::sink::{chat::ChatOptions, nats::NatsOptions, webhook::WebhookOptions};
pub use crate::wechat::{
    http::HttpVersion,
    token::{ComponentCredentials, TicketSource, TokenSource},
};

/// The environment variable that names the configuration file when the command line does not.
pub(crate) const PATH_VARIABLE: &str = "KFWATCH_CONFIG";

/// Where the configuration file is searched when nothing names one, in this order.
const SEARCH_PATHS: [&str; 2] = ["config.toml", "/etc/kfwatch/config.toml"];

impl Config {
    /// Chooses the file to load: `explicit` if given, else the one that [`PATH_VARIABLE`] names, else the first of
    /// [`SEARCH_PATHS`] that exists.
    pub fn find(explicit: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, Mistakes> {
        if let Some(path) = explicit {
            return Ok(path);
        }
        let Some(named) = environment.get(PATH_VARIABLE).filter(|path| !path.is_empty()) else {
            return first_existing(&SEARCH_PATHS);
        };
        let place = || mistake::Location::Variable(PATH_VARIABLE.to_owned());
        setting::check_visible(named).map_err(|problem| mistake::Mistake::at(place(), problem))?;
        Ok(named.into())
    }

    /// Loads the file and the files it includes, overridden by the variables `KFWATCH__SECTION__KEY`.
    ///
    /// Relative paths, also those in included files, are relative to the directory of `path`.
    pub fn load(path: &Path, environment: &Environment) -> Result<LoadedConfig, Mistakes> {
        let main = layers::Source::read(path)?;
        check::check(layers::read(main, environment)?, environment)
    }

    /// Loads what commands on the store need. Reads no secrets and no included files, and does not check other sections: the
    /// secrets may be readable only while the service runs.
    pub fn load_local(path: &Path, environment: &Environment) -> Result<LocalConfig, Mistakes> {
        let main = layers::Source::read(path)?;
        check::check_local(layers::read_main(&main, environment)?, environment)
    }

    /// Returns the control socket, whatever other mistakes the file has: the daemon that uses it may have been started with an earlier
    /// version of the file.
    pub fn load_control(path: &Path, environment: &Environment) -> Result<ControlConfig, Mistakes> {
        let main = layers::Source::read(path)?;
        let layers = layers::read_main(&main, environment)
            .or_else(|_| layers::read_main(&main.only_control(), environment))?;
        Ok(check::control(layers, environment))
    }

    /// Loads a configuration from text, as [`Config::load`] does from a file. Relative paths are relative to `base_dir`,
    /// which must be absolute; mistakes call the text `configuration`.
    pub fn from_toml(
        text: &str,
        base_dir: &Path,
        environment: &Environment,
    ) -> Result<LoadedConfig, Mistakes> {
        let main = layers::Source::from_text(text, base_dir);
        check::check(layers::read(main, environment)?, environment)
    }
}

fn first_existing(paths: &[&str]) -> Result<PathBuf, Mistakes> {
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let searched = paths.join(" and ");
        mistake::Mistake::general(format!(
            "no configuration file: --config is not given, {PATH_VARIABLE} is not set, and there is no {searched}; \
             `kfwatch config example > config.toml` writes one to start from"
        ))
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_overrides_variable() {
        let environment = Environment::from_iter([(PATH_VARIABLE, "/from/variable.toml")]);
        assert_eq!(Config::find(Some("given.toml".into()), &environment).unwrap(), Path::new("given.toml"));
        assert_eq!(Config::find(None, &environment).unwrap(), Path::new("/from/variable.toml"));
    }

    #[test]
    fn first_existing_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["missing.toml", "second.toml", "third.toml"].map(|name| dir.path().join(name));
        for path in &paths[1..] {
            std::fs::write(path, "").unwrap();
        }
        let names = paths.each_ref().map(|path| path.to_str().unwrap());
        assert_eq!(first_existing(&names).unwrap(), paths[1]);
    }

    #[test]
    fn missing_file_is_reported_with_searched_paths() {
        let mistakes = first_existing(&["/nowhere/a.toml", "/nowhere/b.toml"]).unwrap_err();
        assert_eq!(
            mistakes.to_string(),
            "no configuration file: --config is not given, KFWATCH_CONFIG is not set, and there is no /nowhere/a.toml and \
             /nowhere/b.toml; `kfwatch config example > config.toml` writes one to start from"
        );
    }
}
