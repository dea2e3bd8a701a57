//! Adds hints to the messages about a wrong command line.

use std::path::Path;

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::domain::shell;

/// Shows the right command line to a person who gives a configuration file without `-c`.
pub(super) fn with_hint(mut error: clap::Error) -> clap::Error {
    let kinds = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand, ErrorKind::ArgumentConflict];
    if !kinds.contains(&error.kind()) {
        return error;
    }
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let message = error.to_string();
    let is_wrong = |word: &String| is_configuration(word) && message.contains(&format!("'{word}'"));
    let Some(wrong) = words.iter().position(is_wrong) else { return error };
    let with_option = |(n, word): (usize, &String)| match shell::quoted(word) {
        // Without a command, it is the first word.
        quoted if n == wrong && n == 0 => format!("run -c {quoted}"),
        quoted if n == wrong => format!("-c {quoted}"),
        quoted => quoted.into_owned(),
    };
    let words: Vec<String> = words.iter().enumerate().map(with_option).collect();
    let hint = StyledStr::from(format!("did you mean `kfwatch {}`?", words.join(" ")));
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint]));
    error
}

/// Whether a word is meant as a configuration file.
fn is_configuration(word: &str) -> bool {
    !word.starts_with('-') && (word.ends_with(".toml") || Path::new(word).is_file())
}
