//! Reads a secret from where a configuration says it is: a file, a variable, or the configuration itself.
//!
//! A secret is one line, and so is a header that holds one. No message here shows a secret, nor a text that may be one
//! which was put under the wrong key.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::Environment;
use super::locate::Key;
use super::mistake::{looks_like_a_secret, quote};
use super::report::Report;
use super::setting::Setting;

/// The most bytes that a secret may have; an AppSecret has 32.
const MAX_SECRET_BYTES: usize = 4096;

/// The most bytes of a file with secrets: credentials of NATS list permissions.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The three ways to give a secret, of which at most one is to be used: `NAME_file`, `NAME_env` and `NAME`.
pub(super) struct Written {
    /// The name of the key for a secret in place.
    pub(super) name: &'static str,
    pub(super) file: Setting<String>,
    pub(super) variable: Setting<String>,
    pub(super) in_place: Setting<SecretString>,
}

impl Written {
    fn keys(&self) -> String {
        let name = self.name;
        format!("{name}_file, {name}_env or {name}")
    }

    /// What it is called in a sentence.
    fn noun(&self) -> String {
        self.name.replace('_', " ")
    }

    fn count(&self) -> usize {
        [self.file.is_absent(), self.variable.is_absent(), self.in_place.is_absent()]
            .iter()
            .filter(|absent| !**absent)
            .count()
    }

    /// Whether one of the ways is used.
    pub(super) fn is_written(&self) -> bool {
        self.count() > 0
    }

    /// Reads a secret that has to be there, in a table at `at`; what hinders it is noted in the report.
    pub(super) fn read(
        self,
        at: &Key<'_>,
        base_dir: &Path,
        environment: &Environment,
        report: &mut Report,
    ) -> Option<SecretString> {
        if self.count() == 0 {
            report.wrong(at, format!("has no {}; write one of {}", self.noun(), self.keys()));
        }
        self.read_if_any(at, base_dir, environment, report)
    }

    /// Reads a secret that may be left out.
    pub(super) fn read_if_any(
        self,
        at: &Key<'_>,
        base_dir: &Path,
        environment: &Environment,
        report: &mut Report,
    ) -> Option<SecretString> {
        let (_, secrets) =
            self.read_by(at, (base_dir, environment), |text| Ok(vec![one_word(text)?]), report)?;
        secrets.into_iter().next()
    }

    /// Reads a secret that may be left out, and of which a file may hold several, one a line. With the key that it was
    /// found at.
    pub(super) fn read_several(
        self,
        at: &Key<'_>,
        base_dir: &Path,
        environment: &Environment,
        report: &mut Report,
    ) -> Option<(String, Vec<SecretString>)> {
        self.read_by(at, (base_dir, environment), words_by_line, report)
    }

    /// Reads what is written, a file by `read_file`. With the key that it was found at.
    fn read_by(
        self,
        at: &Key<'_>,
        (base_dir, environment): (&Path, &Environment),
        read_file: ReadFile,
        report: &mut Report,
    ) -> Option<(String, Vec<SecretString>)> {
        if self.count() > 1 {
            let problem = format!("has more than one {}; write only one of {}", self.noun(), self.keys());
            report.wrong(at, problem);
            return None;
        }
        let (name, noun) = (self.name, self.noun());
        let [file_key, variable_key] = [format!("{name}_file"), format!("{name}_env")];
        let (key, read) = if let Some(file) = report.take(&at.name(&file_key), self.file) {
            (file_key, from_file(&file, name, base_dir, read_file, report))
        } else if let Some(variable) = report.take(&at.name(&variable_key), self.variable) {
            (variable_key, from_variable(&variable, name, environment).map(|secret| vec![secret]))
        } else {
            let key = at.name(name);
            let secret = report.take(&key, self.in_place)?;
            if let Some(file) =
                report.file_of(&key).filter(|file| file.metadata().is_ok_and(|m| is_open_to_others(file, &m)))
            {
                report.readable_secret(file);
            }
            let word = one_word(secret.expose_secret()).map_err(|problem| format!("the {noun} {problem}"));
            (name.to_owned(), word.map(|secret| vec![secret]))
        };
        let secrets = read.map_err(|problem| report.wrong(&at.name(&key), problem)).ok()?;
        Some((key, secrets))
    }
}

/// Reads a header, `Name: value`, whose value is a secret, from the file at a key.
pub(super) fn header(
    key: &Key<'_>,
    file: &str,
    base_dir: &Path,
    report: &mut Report,
) -> Option<(HeaderName, HeaderValue)> {
    let shown = quote(&base_dir.join(file).display().to_string());
    let header = text_of_file(file, base_dir, report, |text| {
        let line = one_line(text).map_err(|problem| format!("{shown} {problem}"))?;
        let example = "write one line like \"Authorization: Bearer …\"";
        header_of(line).ok_or_else(|| format!("{shown} holds no HTTP header; {example}"))
    });
    header.flatten().map_err(|problem| report.wrong(key, problem)).ok()
}

/// Reads what logs in to a server from the file at a key; what is made of its text is said by a function, which gets it
/// without spaces around it.
pub(super) fn login<T>(
    key: &Key<'_>,
    file: &str,
    base_dir: &Path,
    read: fn(&SecretString) -> Result<T, &'static str>,
    report: &mut Report,
) -> Option<T> {
    if looks_like_a_login(file) {
        report.wrong(
            key,
            "looks like a secret itself, not like a file; write the path of a file that holds it",
        );
        return None;
    }
    let path = base_dir.join(file);
    let shown = quote(&path.display().to_string());
    if !path.exists() {
        report.wrong(key, format!("{shown} does not exist; write the path of a file that holds it"));
        return None;
    }
    let login = text_of_file(file, base_dir, report, |text| {
        read(&text.trim().into()).map_err(|problem| format!("{shown} {problem}"))
    });
    login.flatten().map_err(|problem| report.wrong(key, problem)).ok()
}

/// Whether this is a seed of NATS or the text of a credentials file.
fn looks_like_a_login(text: &str) -> bool {
    let is_seed =
        text.starts_with('S') && text.len() == 58 && text.chars().all(|c| c.is_ascii_alphanumeric());
    is_seed || text.contains(['\n', '\r']) || text.contains("-----BEGIN")
}

fn header_of(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.trim()).ok().filter(|value| !value.is_empty())?;
    value.set_sensitive(true);
    Some((name, value))
}

/// What is made of a file with secrets.
type ReadFile = fn(&str) -> Result<Vec<SecretString>, String>;

fn from_file(
    file: &str,
    name: &str,
    base_dir: &Path,
    read: ReadFile,
    report: &mut Report,
) -> Result<Vec<SecretString>, String> {
    if looks_like_a_secret(file) {
        return Err(format!("looks like a secret itself, not like a file; write it as {name}"));
    }
    let shown = quote(&base_dir.join(file).display().to_string());
    text_of_file(file, base_dir, report, read)?.map_err(|problem| format!("{shown} {problem}"))
}

/// What `read` makes of a short file.
fn text_of_file<T>(
    file: &str,
    base_dir: &Path,
    report: &mut Report,
    read: impl FnOnce(&str) -> T,
) -> Result<T, String> {
    let path = base_dir.join(file);
    let named = |problem: String| format!("{} {problem}", quote(&path.display().to_string()));
    let mut bytes = Vec::new();
    let metadata = File::open(&path).and_then(|file| {
        let metadata = file.metadata()?;
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
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
    if is_open_to_others(&path, &metadata) {
        report.readable_secret(path.clone());
    }
    let text = SecretString::from(String::from_utf8(bytes).map_err(|_| named("is not UTF-8".to_owned()))?);
    Ok(read(text.expose_secret()))
}

fn from_variable(variable: &str, name: &str, environment: &Environment) -> Result<SecretString, String> {
    if looks_like_a_secret(variable) {
        return Err(format!("looks like a secret itself, not like a variable; write it as {name}"));
    }
    let value =
        environment.get(variable).ok_or_else(|| format!("the variable {} is not set", quote(variable)))?;
    one_word(value).map_err(|problem| format!("the value of {} {problem}", quote(variable)))
}

/// A secret, which is one line without spaces.
fn one_word(text: &str) -> Result<SecretString, String> {
    let line = one_line(text)?;
    if line.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a space or an unprintable character in it; a secret has none".to_owned());
    }
    Ok(line.into())
}

/// Secrets, one a line.
fn words_by_line(text: &str) -> Result<Vec<SecretString>, String> {
    if text.len() > MAX_SECRET_BYTES {
        return Err(format!("is longer than {MAX_SECRET_BYTES} bytes"));
    }
    let lines = text.lines().filter(|line| !line.is_empty());
    let words: Vec<SecretString> = lines.map(one_word).collect::<Result<_, _>>()?;
    if words.is_empty() { Err("is empty".to_owned()) } else { Ok(words) }
}

/// The text without the newline that editors put at the end.
fn one_line(text: &str) -> Result<&str, String> {
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
    Ok(line)
}

/// Where systemd shows a service its credentials. It lets one user read them by an access control list, which the mode
/// shows as if the group could.
const CREDENTIALS: &str = "/run/credentials";

fn is_open_to_others(path: &Path, metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    mode & 0o077 != 0 && !path.starts_with(CREDENTIALS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_file_says_who_may_read_it_but_not_among_credentials_of_systemd() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "s3cret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(is_open_to_others(&file, &metadata));
        assert!(is_open_to_others(Path::new("/run/credentials.txt"), &metadata));
        assert!(!is_open_to_others(Path::new("/run/credentials/kfwatch.service/secret"), &metadata));
    }

    #[test]
    fn one_newline_at_the_end_is_no_part_of_a_secret() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(one_word(text).unwrap().expose_secret(), "s3cret");
        }
        for text in ["", "\n", "two\nlines", "s3cret\n\n", "with space", "s3cret\t", &"x".repeat(4097)] {
            assert!(one_word(text).is_err(), "{text:?}");
        }
    }
}
