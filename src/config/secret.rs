//! Reads a secret from where a configuration says it is: a file, an environment variable, or the configuration itself.
//!
//! A secret is one word of printable ASCII. No message shows a secret, nor a text that looks like a secret under a wrong key.

use secrecy::{ExposeSecret, SecretString};

use super::environment::LoadContext;
use super::mistake::{Problem, looks_like_a_secret, quote, quote_with};
use super::secret_file::{MAX_SECRET_BYTES, is_open_to_others, one_line, read_secret_file};
use super::setting::Setting;
use super::table::Table;
use crate::domain::secret_text::{check_bare, check_word};
use crate::secrets::RotatableSecret;

/// How paths begin that people give instead of a secret.
const PATH_BEGINNINGS: [&str; 14] = [
    "./",
    "../",
    "~/",
    "/data/",
    "/etc/",
    "/home/",
    "/mnt/",
    "/opt/",
    "/root/",
    "/run/",
    "/secrets/",
    "/srv/",
    "/usr/",
    "/var/",
];

/// How the names of secret files end.
const PATH_ENDINGS: [&str; 7] = [".secret", ".txt", ".key", ".keys", ".pem", ".token", ".refresh"];

/// A longer text is no path.
const MAX_PATH_BYTES: usize = 255;

/// The three keys that can give a secret, `NAME_file`, `NAME_env` and `NAME`; at most one may be set.
pub(super) struct SecretSetting {
    /// The name of the key that contains the secret itself.
    name: &'static str,
    file: Setting<String>,
    variable: Setting<String>,
    in_place: Setting<SecretString>,
}

impl SecretSetting {
    pub(super) fn new(
        name: &'static str,
        file: Setting<String>,
        variable: Setting<String>,
        in_place: Setting<SecretString>,
    ) -> Self {
        Self { name, file, variable, in_place }
    }

    pub(super) fn is_set(&self) -> bool {
        self.count() > 0
    }

    /// Reads a required secret of a table, and reports what prevents it.
    pub(super) fn read(self, table: &mut Table<'_>) -> Option<RotatableSecret<SecretString>> {
        self.read_with_key(table).map(|(_, secret)| secret)
    }

    /// The same. Also returns the name of the key that was set.
    pub(super) fn read_with_key(
        self,
        table: &mut Table<'_>,
    ) -> Option<(String, RotatableSecret<SecretString>)> {
        if !self.is_set() {
            table.wrong_table(format!("has no {}; set one of {}", self.noun(), self.keys()));
        }
        self.read_with((bare_word, |word| word), table)
    }

    /// Reads an optional secret that is not read again.
    pub(super) fn read_optional(self, table: &mut Table<'_>) -> Option<SecretString> {
        let (_, secret) = self.read_with((bare_word, |word| word), table)?;
        Some((*secret.value()).clone())
    }

    /// Reads an optional secret; a file may contain several, one a line. Also returns the name of the key that was set.
    pub(super) fn read_several(
        self,
        table: &mut Table<'_>,
    ) -> Option<(String, RotatableSecret<Vec<SecretString>>)> {
        self.read_with((one_word_per_line, |word| vec![word]), table)
    }

    /// Reads an optional secret: parses the content of a file, or converts a word from elsewhere.
    fn read_with<T: 'static>(
        self,
        (parse_file, convert): (ParseFile<T>, fn(SecretString) -> T),
        table: &mut Table<'_>,
    ) -> Option<(String, RotatableSecret<T>)> {
        if self.count() > 1 {
            let problem = format!("has more than one {}; set only one of {}", self.noun(), self.keys());
            table.wrong_table(problem);
            return None;
        }
        let (name, noun) = (self.name, self.noun());
        let [file_key, variable_key] = [format!("{name}_file"), format!("{name}_env")];
        let (key, read) = if let Some(file) = table.take(&file_key, self.file) {
            (file_key, from_file(&file, name, parse_file, table))
        } else if let Some(variable) = table.take(&variable_key, self.variable) {
            let word = from_variable(&variable, name, table.context);
            (variable_key, word.map(convert).map(RotatableSecret::from))
        } else {
            let secret = table.take(name, self.in_place)?;
            let file = table.findings.file_of(&table.at);
            if let Some(file) = file.filter(|file| file.metadata().is_ok_and(|m| is_open_to_others(file, &m)))
            {
                table.findings.readable_secrets.insert(file);
            }
            let word = in_place(secret.expose_secret(), &noun, table.context);
            (name.to_owned(), word.map(convert).map(RotatableSecret::from))
        };
        let secret = read.map_err(|problem| table.wrong(&key, problem)).ok()?;
        Some((key, secret))
    }

    fn count(&self) -> usize {
        let absent = [self.file.is_absent(), self.variable.is_absent(), self.in_place.is_absent()];
        absent.iter().filter(|absent| !**absent).count()
    }

    fn keys(&self) -> String {
        let name = self.name;
        format!("{name}_file, {name}_env or {name}")
    }

    fn noun(&self) -> String {
        self.name.replace('_', " ")
    }
}

type ParseFile<T> = fn(&str) -> Result<T, String>;

fn from_file<T: 'static>(
    file: &str,
    name: &str,
    parse: ParseFile<T>,
    table: &mut Table<'_>,
) -> Result<RotatableSecret<T>, Problem> {
    if looks_like_a_secret(file) {
        let problem = "looks like a secret, not like a path; to give the secret itself, set";
        return Err(format!("{problem} {name}").into());
    }
    read_secret_file(file, parse, table)
}

/// A secret in the configuration itself. `noun` is its name, `secret` or `refresh token`.
fn in_place(text: &str, noun: &str, context: LoadContext<'_>) -> Result<SecretString, Problem> {
    if looks_like_a_path(text, context) {
        let file_key = noun.replace(' ', "_") + "_file";
        return Err(format!("looks like the path of a file; did you mean {file_key}?").into());
    }
    one_word(text).map_err(|problem| format!("the {noun} {problem}").into())
}

/// Whether this names a file where a secret is expected. A password of random characters may begin with a slash.
fn looks_like_a_path(text: &str, context: LoadContext<'_>) -> bool {
    let begins = PATH_BEGINNINGS.iter().any(|beginning| text.starts_with(beginning));
    let ends = PATH_ENDINGS.iter().any(|ending| text.ends_with(ending));
    let may_exist = text.len() <= MAX_PATH_BYTES && !text.contains('\0');
    begins || ends || may_exist && context.base_dir.join(text).is_file()
}

fn from_variable(variable: &str, name: &str, context: LoadContext<'_>) -> Result<SecretString, Problem> {
    if looks_like_a_secret(variable) {
        let problem = "looks like a secret, not like the name of a variable";
        return Err(format!("{problem}; to give the secret itself, set {name}").into());
    }
    let value = context.environment.get(variable);
    let is_unset = || format!("the environment variable {}", quote_with(variable, "is not set; set it"));
    let value = value.ok_or_else(|| Problem::Machine(is_unset()))?;
    bare_word(value).map_err(|problem| format!("the value of {} {problem}", quote(variable)).into())
}

/// A word from a file or a variable.
fn bare_word(text: &str) -> Result<SecretString, String> {
    check_bare(one_line(text)?)?;
    one_word(text)
}

fn one_word(text: &str) -> Result<SecretString, String> {
    let line = one_line(text)?;
    check_word(line)?;
    Ok(line.into())
}

fn one_word_per_line(text: &str) -> Result<Vec<SecretString>, String> {
    if text.len() > MAX_SECRET_BYTES {
        return Err(format!("is longer than {MAX_SECRET_BYTES} bytes"));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    let word =
        |(n, line): (usize, &str)| bare_word(line).map_err(|problem| format!("{problem} (line {})", n + 1));
    let words: Vec<SecretString> = lines.map(word).collect::<Result<_, _>>()?;
    if words.is_empty() { Err("is empty".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_newline_is_not_part_of_secret() {
        for text in ["s3cret", "s3cret\n"] {
            assert_eq!(one_word(text).unwrap().expose_secret(), "s3cret");
        }
        for text in ["", "\n", "two\nlines", "s3cret\n\n", "with space", "s3cret\t", &"x".repeat(4097)] {
            assert!(one_word(text).is_err(), "{text:?}");
        }
    }
}
