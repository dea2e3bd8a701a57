//! The environment of the process, as a value: loading takes it as an argument, so that a test brings its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::{env, fmt};

/// Environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. What is not UTF-8 in a value is replaced; such names are no concern of ours.
    pub fn of_process() -> Self {
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

/// Names only: any value may be a secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_names_only() {
        let environment = Environment::from_iter([("SHOP_SECRET", "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"["SHOP_SECRET"]"#);
    }
}
