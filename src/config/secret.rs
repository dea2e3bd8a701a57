//! Reads a secret from where a configuration says it is: a file, a variable, or the configuration itself.
//!
//! A secret is one line. No message here shows one, nor a text that may be one which was put under the wrong key.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::Environment;
use super::locate::Key;
use super::mistake::{looks_like_a_secret, quote};
use super::report::Report;
use super::setting::Setting;

/// The most bytes that a secret may have; an AppSecret has 32.
const MAX_SECRET_BYTES: usize = 4096;

/// The three ways to give a secret, of which exactly one is to be used.
pub(super) struct Written {
    pub(super) file: Setting<String>,
    pub(super) variable: Setting<String>,
    pub(super) in_place: Setting<SecretString>,
}

impl Written {
    pub(super) const KEYS: &'static str = "secret_file, secret_env or secret";

    fn count(&self) -> usize {
        [self.file.is_absent(), self.variable.is_absent(), self.in_place.is_absent()]
            .iter()
            .filter(|absent| !**absent)
            .count()
    }

    /// Reads the secret, in a table at `at`; what hinders it is noted in the report.
    pub(super) fn read(
        self,
        at: &Key<'_>,
        base_dir: &Path,
        environment: &Environment,
        report: &mut Report,
    ) -> Option<SecretString> {
        match self.count() {
            0 => report.wrong(at, format!("has no secret; write one of {}", Self::KEYS)),
            1 => {}
            _ => {
                report.wrong(at, format!("has more than one secret; write only one of {}", Self::KEYS));
                return None;
            }
        }
        let (key, read) = if let Some(file) = report.take(&at.name("secret_file"), self.file) {
            (at.name("secret_file"), from_file(&file, base_dir, report))
        } else if let Some(variable) = report.take(&at.name("secret_env"), self.variable) {
            (at.name("secret_env"), from_variable(&variable, environment))
        } else {
            let key = at.name("secret");
            let secret = report.take(&key, self.in_place)?;
            if let Some(file) =
                report.file_of(&key).filter(|file| file.metadata().is_ok_and(|m| is_open_to_others(&m)))
            {
                report.readable_secret(file);
            }
            (key, one_line(secret.expose_secret()).map_err(|problem| format!("the secret {problem}")))
        };
        read.map_err(|problem| report.wrong(&key, problem)).ok()
    }
}

fn from_file(file: &str, base_dir: &Path, report: &mut Report) -> Result<SecretString, String> {
    if looks_like_a_secret(file) {
        return Err("looks like a secret itself, not like a file; write it as secret".to_owned());
    }
    let path = base_dir.join(file);
    let named = |problem: String| format!("{} {problem}", quote(&path.display().to_string()));
    let mut bytes = Vec::new();
    let metadata = File::open(&path).and_then(|file| {
        let metadata = file.metadata()?;
        file.take(MAX_SECRET_BYTES as u64 + 2).read_to_end(&mut bytes)?;
        Ok(metadata)
    });
    let metadata = metadata.map_err(|e| {
        named(match e.kind() {
            io::ErrorKind::NotFound => {
                "does not exist; create it with the secret as its only line".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "cannot be read: let the user that runs kfwatch read it".to_owned()
            }
            _ => format!("cannot be read: {e}"),
        })
    })?;
    if is_open_to_others(&metadata) {
        report.readable_secret(path.clone());
    }
    let text = SecretString::from(String::from_utf8(bytes).map_err(|_| named("is not UTF-8".to_owned()))?);
    one_line(text.expose_secret()).map_err(named)
}

fn from_variable(variable: &str, environment: &Environment) -> Result<SecretString, String> {
    if looks_like_a_secret(variable) {
        return Err("looks like a secret itself, not like a variable; write it as secret".to_owned());
    }
    let value =
        environment.get(variable).ok_or_else(|| format!("the variable {} is not set", quote(variable)))?;
    one_line(value).map_err(|problem| format!("the value of {} {problem}", quote(variable)))
}

/// The secret without the newline that editors put at the end.
fn one_line(text: &str) -> Result<SecretString, String> {
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.contains(['\n', '\r']) {
        return Err("has more than one line; a secret is one line".to_owned());
    }
    if line.len() > MAX_SECRET_BYTES {
        return Err(format!("is longer than {MAX_SECRET_BYTES} bytes"));
    }
    if line.is_empty() {
        return Err("is empty".to_owned());
    }
    if line.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a space or an unprintable character in it; a secret has none".to_owned());
    }
    Ok(line.into())
}

fn is_open_to_others(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_no_part_of_a_secret() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(one_line(text).unwrap().expose_secret(), "s3cret");
        }
        for text in ["", "\n", "two\nlines", "s3cret\n\n", "with space", "s3cret\t", &"x".repeat(4097)] {
            assert!(one_line(text).is_err(), "{text:?}");
        }
    }
}
