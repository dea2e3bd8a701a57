//! Reads files that contain secrets: one secret, an HTTP header, or a login.
//!
//! Files that other users can read are collected for a warning. No message shows the content of a file.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{getegid, geteuid};
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::mistake::{Problem, looks_like_a_secret, quote};
use super::table::Table;
use crate::domain::secret_text::check_text;
use crate::secrets::{self, CREDENTIALS_DIR, RotatableSecret};

/// The longest secret; an AppSecret has 32 bytes.
pub(super) const MAX_SECRET_BYTES: usize = 4096;

/// What a path is reported as that is not a path.
const NO_PATH: &str = "looks like a secret, not like a path; set the path of a file that contains it";

/// Reads an HTTP header, `Name: value`, whose value is a secret. `check` says what is wrong with its name.
pub(super) fn read_header(
    file: &str,
    check: fn(&HeaderName) -> Result<(), String>,
    table: &mut Table<'_>,
) -> Result<RotatableSecret<(HeaderName, HeaderValue)>, Problem> {
    if looks_like_a_secret(file) {
        return Err(NO_PATH.into());
    }
    let parse = move |text: &str| {
        let example = "write one line like \"Authorization: Bearer …\"";
        let line = one_line(text)?;
        check_text(line)?;
        let header = parse_header(line).ok_or_else(|| format!("contains no HTTP header; {example}"))?;
        check(&header.0).map(|()| header)
    };
    read_secret_file(file, parse, table)
}

/// Reads the login for a server from the file that a key names. `parse` gets the text without surrounding white space.
pub(super) fn read_login<T: 'static>(
    key: &str,
    file: &str,
    parse: fn(&SecretString) -> Result<T, &'static str>,
    table: &mut Table<'_>,
) -> Option<RotatableSecret<T>> {
    let login = if looks_like_a_login(file) {
        Err(NO_PATH.into())
    } else if !table.context.base_dir.join(file).exists() {
        let problem =
            Problem::Machine("does not exist; set the path of a file that contains the login".to_owned());
        Err(problem.of(&shown(&table.context.base_dir.join(file))))
    } else {
        let parse = move |text: &str| {
            check_text(text)?;
            parse(&text.trim().into()).map_err(str::to_owned)
        };
        read_secret_file(file, parse, table)
    };
    login.map_err(|problem| table.wrong(key, problem)).ok()
}

/// Reads and parses a file whose whole content is secret. The problems that `parse` returns continue a sentence that
/// starts with the path.
pub(super) fn read_secret_file<T>(
    file: &str,
    parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    table: &mut Table<'_>,
) -> Result<RotatableSecret<T>, Problem> {
    let path = table.context.base_dir.join(file);
    let content = read_text(&path, table);
    let parse = Arc::new(parse);
    let read = content.and_then(|content| Ok(RotatableSecret::from_content(&path, content, parse)?));
    read.map_err(|problem| problem.of(&shown(&path)))
}

fn read_text(path: &Path, table: &mut Table<'_>) -> Result<SecretString, Problem> {
    let (text, metadata) = secrets::read_secret_file(path).map_err(|problem| match File::open(path) {
        Ok(_) => Problem::Text(problem),
        Err(_) => Problem::Machine(problem),
    })?;
    if is_open_to_others(path, &metadata) {
        table.findings.readable_secrets.insert(path.to_owned());
    }
    Ok(text)
}

fn shown(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// Returns the text without the newline that editors add at the end.
pub(super) fn one_line(text: &str) -> Result<&str, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.contains('\n') {
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

/// Whether others than the owner can read a file, and need not. A file of another user, or with another group than ours, is open to its
/// group on purpose: the Debian package gives the configuration to root, and lets the group of the service read it; Kubernetes does the
/// same with files of a Secret.
pub(super) fn is_open_to_others(path: &Path, metadata: &Metadata) -> bool {
    let is_ours = metadata.uid() == geteuid().as_raw() && metadata.gid() == getegid().as_raw();
    let open = metadata.permissions().mode() & if is_ours { 0o077 } else { 0o007 };
    open != 0 && !path.starts_with(CREDENTIALS_DIR)
}

fn parse_header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.trim()).ok().filter(|value| !value.is_empty())?;
    value.set_sensitive(true);
    Some((name, value))
}

/// Whether this is a seed of NATS or the text of a credentials file.
fn looks_like_a_login(text: &str) -> bool {
    let is_seed =
        text.starts_with('S') && text.len() == 58 && text.chars().all(|c| c.is_ascii_alphanumeric());
    is_seed || text.contains("-----BEGIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_is_recognized_except_in_systemd_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "s3cret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(is_open_to_others(&file, &metadata));
        assert!(is_open_to_others(Path::new("/run/credentials.txt"), &metadata));
        assert!(!is_open_to_others(Path::new("/run/credentials/kfwatch.service/secret"), &metadata));
    }
}
