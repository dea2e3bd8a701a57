//! Secrets that are read from files, and read again after the other side has refused them.
//!
//! A person who rotates or corrects a secret only writes its file. The value stays in use until a request with it is refused
//! ([`RotatableSecret::refused`]). Each later attempt then reads the file first ([`RotatableSecret::for_attempt`]), until one is
//! accepted. When to make an attempt is up to the caller: reading makes none sooner. A new content that cannot be used is
//! reported, and the old value stays.

pub(crate) mod sealed;

use std::{
    fmt,
    fs::{File, Metadata},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};

use crate::domain::text_file;

/// Where systemd gives a service its credentials. An access control list lets one user read them, and the mode shows that
/// as if the group could.
pub(crate) const CREDENTIALS_DIR: &str = "/run/credentials";

/// The longest file with secrets: NATS credentials include lists of permissions.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A value that was parsed from a secret file, or does not change. Clones share it.
pub struct RotatableSecret<T>(Arc<Inner<T>>);

struct Inner<T> {
    current: Mutex<Current<T>>,
    file: Option<SecretFile<T>>,
}

struct Current<T> {
    value: Arc<T>,
    /// What it was parsed from.
    content: SecretString,
    /// Whether the last request with it was refused.
    is_refused: bool,
    /// The last problem of the file, which is reported once.
    problem: Option<String>,
}

struct SecretFile<T> {
    path: PathBuf,
    parse: ParseSecret<T>,
}

/// Parses the content of a file. A problem continues a sentence that starts with the path, and shows nothing of the content.
pub type ParseSecret<T> = Arc<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

impl<T> RotatableSecret<T> {
    /// Parses the content of a file.
    pub fn from_content(path: &Path, content: SecretString, parse: ParseSecret<T>) -> Result<Self, String> {
        let value = Arc::new(parse(content.expose_secret())?);
        let file = SecretFile { path: path.to_owned(), parse };
        Ok(Self::new(Current { value, content, is_refused: false, problem: None }, Some(file)))
    }

    /// What `map` makes of the value, also after the file has changed.
    pub fn try_map<U>(
        &self,
        map: impl Fn(&T) -> Result<U, String> + Send + Sync + 'static,
    ) -> Result<RotatableSecret<U>, String>
    where
        T: 'static,
    {
        Ok(self.mapped(map(&self.value())?, map))
    }

    /// The same, for what cannot fail.
    pub fn map<U>(&self, map: impl Fn(&T) -> U + Send + Sync + 'static) -> RotatableSecret<U>
    where
        T: 'static,
    {
        self.mapped(map(&self.value()), move |value| Ok(map(value)))
    }

    fn mapped<U>(
        &self,
        value: U,
        map: impl Fn(&T) -> Result<U, String> + Send + Sync + 'static,
    ) -> RotatableSecret<U>
    where
        T: 'static,
    {
        let content = self.lock().content.clone();
        let file = self.0.file.as_ref().map(|SecretFile { path, parse }| {
            let parse = Arc::clone(parse);
            SecretFile::<U> { path: path.clone(), parse: Arc::new(move |text| map(&parse(text)?)) }
        });
        let current = Current { value: Arc::new(value), content, is_refused: false, problem: None };
        RotatableSecret::new(current, file)
    }

    /// The current value.
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.lock().value)
    }

    /// The value for the next request. Reads its file first if it was refused.
    pub fn for_attempt(&self) -> Arc<T> {
        let mut current = self.lock();
        if let Some(file) = self.0.file.as_ref().filter(|_| current.is_refused) {
            current.read_again(file);
        }
        Arc::clone(&current.value)
    }

    /// Notes that the other side refused a request with it.
    pub fn refused(&self) {
        self.lock().is_refused = true;
    }

    /// Notes that the other side accepted a request with it.
    pub fn accepted(&self) {
        self.lock().is_refused = false;
    }

    fn new(current: Current<T>, file: Option<SecretFile<T>>) -> Self {
        Self(Arc::new(Inner { current: Mutex::new(current), file }))
    }

    fn lock(&self) -> MutexGuard<'_, Current<T>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Current<T> {
    fn read_again(&mut self, SecretFile { path, parse }: &SecretFile<T>) {
        // Reading a pipe again could block, and its content was read before.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return;
        }
        let file = path.display();
        let read = read_secret_file(path).and_then(|(content, _)| {
            let is_changed = content.expose_secret() != self.content.expose_secret();
            is_changed.then(|| Ok((parse(content.expose_secret())?, content))).transpose()
        });
        match read {
            Ok(None) => self.problem = None,
            Ok(Some((value, content))) => {
                tracing::info!(%file, "The secret in {file} was refused and has changed: using the new one");
                (self.value, self.content, self.problem) = (Arc::new(value), content, None);
            }
            Err(problem) if self.problem.as_ref() != Some(&problem) => {
                tracing::warn!(%file, "{file} {problem}; the old secret, which was refused, stays in use");
                self.problem = Some(problem);
            }
            Err(_) => {}
        }
    }
}

impl<T> From<T> for RotatableSecret<T> {
    /// A value that does not change, because it comes from no file.
    fn from(value: T) -> Self {
        let (value, content) = (Arc::new(value), SecretString::default());
        Self::new(Current { value, content, is_refused: false, problem: None }, None)
    }
}

impl<T> Clone for RotatableSecret<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Equal if they come from the same file and have the same value, as far as each has read its file.
impl<T: SameSecret> PartialEq for RotatableSecret<T> {
    fn eq(&self, other: &Self) -> bool {
        let path = |secret: &Self| secret.0.file.as_ref().map(|file| file.path.clone());
        path(self) == path(other) && self.value().is_same(&other.value())
    }
}

impl<T: SameSecret> Eq for RotatableSecret<T> {}

/// Compares secrets by content. The types of secrets have no `==`.
pub trait SameSecret {
    /// Whether both have the same content.
    fn is_same(&self, other: &Self) -> bool;
}

impl SameSecret for SecretString {
    fn is_same(&self, other: &Self) -> bool {
        self.expose_secret() == other.expose_secret()
    }
}

impl<T: SameSecret> SameSecret for Option<T> {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.is_same(other),
            (None, None) => true,
            (_, _) => false,
        }
    }
}

impl<T: SameSecret> SameSecret for Vec<T> {
    fn is_same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one.is_same(other))
    }
}

impl SameSecret for (HeaderName, HeaderValue) {
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }
}

impl SameSecret for Url {
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }
}

/// As the value, whose type must not show secrets.
impl<T: fmt::Debug> fmt::Debug for RotatableSecret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Reads a file with secrets. A problem continues a sentence that starts with the path.
pub(crate) fn read_secret_file(path: &Path) -> Result<(SecretString, Metadata), String> {
    let mut bytes = Vec::new();
    let metadata = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        // One byte more shows that it is longer.
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(metadata)
    });
    let metadata = metadata.map_err(|error| match error.kind() {
        ErrorKind::NotFound if path.starts_with(CREDENTIALS_DIR) => {
            "does not exist; systemd creates it while the service runs, if its unit has a LoadCredential= for it".to_owned()
        }
        ErrorKind::NotFound => "does not exist; create it with the secret as its only line".to_owned(),
        ErrorKind::PermissionDenied => "cannot be read; let the user that runs kfwatch read it".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {} KiB; is it the right file?", MAX_FILE_BYTES / 1024));
    }
    let text = text_file::decode(&bytes).map_err(|problem| problem.with_conversion(path))?;
    Ok((text.into_owned().into(), metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A secret in a file, of which an empty one is a mistake.
    fn secret(path: &Path) -> RotatableSecret<String> {
        let parse: ParseSecret<String> = Arc::new(|text| match text.trim() {
            "" => Err("is empty".to_owned()),
            text => Ok(text.to_owned()),
        });
        let (content, _) = read_secret_file(path).unwrap();
        RotatableSecret::from_content(path, content, parse).unwrap()
    }

    #[test]
    fn file_is_read_again_only_after_refusal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "old\n").unwrap();
        let secret = secret(&path);
        let length = secret.try_map(|secret| Ok(secret.len())).unwrap();
        std::fs::write(&path, "newer\n").unwrap();
        assert_eq!((secret.for_attempt().as_str(), *length.for_attempt()), ("old", 3));
        secret.refused();
        length.refused();
        assert_eq!((secret.value().as_str(), *length.value()), ("old", 3));
        assert_eq!((secret.for_attempt().as_str(), *length.for_attempt()), ("newer", 5));
        secret.accepted();
        std::fs::write(&path, "newest").unwrap();
        assert_eq!((secret.for_attempt().as_str(), *length.for_attempt()), ("newer", 6));
    }

    #[test]
    fn secrets_are_compared_by_file_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let (content, _) = read_secret_file(&path).unwrap();
            RotatableSecret::from_content(&path, content, Arc::new(|text| Ok(SecretString::from(text))))
                .unwrap()
        };
        let [old, other_file] = ["a", "b"].map(|name| read(name, "old"));
        let fixed = |text: &str| RotatableSecret::from(SecretString::from(text));
        assert!(old == old.clone() && old == read("a", "old"));
        assert!(old != other_file && old != fixed("old"));
        assert!(fixed("old") == fixed("old") && fixed("old") != fixed("new"));
        let new = read("a", "new");
        assert!(old != new);
        old.refused();
        old.for_attempt();
        assert!(old == new, "the file has been read again");
    }

    #[test]
    fn unusable_content_keeps_old_secret_until_corrected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "old").unwrap();
        let secret = secret(&path);
        secret.refused();
        for problem in ["is empty", "is not UTF-8 in line 1", "is longer than 64 KiB", "does not exist"] {
            match problem {
                "is empty" => std::fs::write(&path, "").unwrap(),
                "is longer than 64 KiB" => std::fs::write(&path, vec![b'x'; 64 * 1024 + 1]).unwrap(),
                "does not exist" => std::fs::remove_file(&path).unwrap(),
                _ => std::fs::write(&path, b"\xff").unwrap(),
            }
            assert_eq!(*secret.for_attempt(), "old");
            assert!(
                secret.lock().problem.as_ref().unwrap().starts_with(problem),
                "{:?}",
                secret.lock().problem
            );
        }
        std::fs::write(&path, "new").unwrap();
        assert_eq!(*secret.for_attempt(), "new");
        assert_eq!(secret.lock().problem, None);
    }

    #[test]
    fn secret_that_is_no_file_or_a_pipe_stays() {
        let fixed = RotatableSecret::from("s3cret".to_owned());
        fixed.refused();
        assert_eq!(*fixed.for_attempt(), "s3cret");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "s3cret").unwrap();
        let secret = secret(&path);
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        secret.refused();
        assert_eq!(*secret.for_attempt(), "s3cret");
    }
}
