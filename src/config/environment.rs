//! What loading depends on besides the files: environment variables and the directory of the main file.
//!
//! Loading takes the variables as an argument, so that tests can bring their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::{env, fmt};

/// The base of relative paths, and the environment variables.
#[derive(Clone, Copy)]
pub(super) struct LoadContext<'a> {
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a Environment,
}

/// Environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the variables of this process. Skips names that are not UTF-8, and replaces such bytes in values.
    pub fn from_process() -> Self {
        let utf8 = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        env::vars_os().filter_map(utf8).collect()
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Shows names only: any value may be a secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_only_names() {
        let environment = Environment::from_iter([("SHOP_SECRET", "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"["SHOP_SECRET"]"#);
    }
}
