//! Checks secrets, tokens and keys as people copy them: they are printable ASCII, and a text that is not would be rejected by
//! WeChat later, with an errcode that says nothing of the reason.
//!
//! Each problem continues a sentence that starts with the place of the secret. It names the character and its position, and
//! contains no part of the secret.

use super::characters;

/// What people write around a secret, in another file or in a shell.
const QUOTES: [[char; 2]; 4] = [['"', '"'], ['\'', '\''], ['“', '”'], ['‘', '’']];

/// What names of variables for secrets end in, in lower case.
const SECRET_NAMES: [&str; 6] = ["secret", "token", "password", "passwd", "key", "ticket"];

/// The problem of a value from an environment file with CR LF, whose reader has removed only the LF.
pub const CARRIAGE_RETURN: &str = "ends in a carriage return, because the file that sets it has CR LF line ends; save that file with LF line ends";

/// Checks a secret that is one word.
pub fn check_word(text: &str) -> Result<(), String> {
    check(text, |c| c.is_ascii_graphic(), "a secret has only printable ASCII characters and no spaces")
}

/// Checks a text with a secret in it that may contain spaces and several lines.
pub fn check_text(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_graphic() || matches!(c, ' ' | '\t' | '\n');
    check(text, allowed, "it may have only printable ASCII characters")
}

fn check(text: &str, allowed: impl Fn(char) -> bool, rule: &str) -> Result<(), String> {
    if text.ends_with('\r') {
        return Err(CARRIAGE_RETURN.to_owned());
    }
    match characters::find(text, |c| !allowed(c)) {
        Some(found) => Err(format!("contains {found}; {rule}")),
        None => Ok(()),
    }
}

/// Checks that a file or a variable contains the secret alone, without quotes around it and without a name before it.
pub fn check_bare(text: &str) -> Result<(), String> {
    let is_quoted = |[open, close]: &[char; 2]| {
        text.strip_prefix(*open)
            .and_then(|rest| rest.strip_suffix(*close))
            .is_some_and(|rest| !rest.is_empty())
    };
    if QUOTES.iter().any(is_quoted) {
        return Err("has quotes around the secret; remove them".to_owned());
    }
    if is_assignment(text) {
        return Err("has a name and \"=\" before the secret; write the secret alone".to_owned());
    }
    Ok(())
}

/// Whether this is a line like `APP_SECRET=…`. The `=` at the end of base64 does not count.
fn is_assignment(text: &str) -> bool {
    let text = text.strip_prefix("export ").unwrap_or(text);
    let Some((name, value)) = text.split_once('=') else { return false };
    let name = name.trim_end();
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let lower = name.to_ascii_lowercase();
    let names_a_secret = SECRET_NAMES.iter().any(|word| lower.ends_with(word));
    let is_variable = !name.contains(|c: char| c.is_ascii_lowercase());
    is_name && (names_a_secret || is_variable) && value.contains(|c| c != '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_rejected_by_name_and_position() {
        let problem = |text: &str| check_word(text).unwrap_err();
        let rule = "a secret has only printable ASCII characters and no spaces";
        assert_eq!(
            problem("0123456789abcdef0123456789abcdef\u{200b}"),
            format!("contains U+200B (zero width space) at character 33; {rule}")
        );
        assert_eq!(
            problem("\u{feff}s3cret"),
            format!("contains U+FEFF (byte order mark) at character 1; {rule}")
        );
        assert_eq!(problem("s３cret"), format!("contains a full-width digit at character 2; {rule}"));
        assert_eq!(problem("s3 cret"), format!("contains a space at character 3; {rule}"));
        assert_eq!(problem("s3cret\r"), CARRIAGE_RETURN);
        assert!(check_text("Authorization: Bearer s3cret").is_ok());
        assert!(check_text("a\nb\u{a0}").unwrap_err().contains("at character 2 of line 2"));
    }

    #[test]
    fn quotes_and_names_are_rejected_in_files() {
        for text in ["\"s3cret\"", "'s3cret'", "“s3cret”"] {
            assert_eq!(check_bare(text).unwrap_err(), "has quotes around the secret; remove them");
        }
        for text in ["SECRET=s3cret", "export APP_SECRET=s3cret", "secret = s3cret", "wechat_token=s3cret"] {
            assert!(check_bare(text).unwrap_err().starts_with("has a name"), "{text}");
        }
        for text in
            ["s3cret", "\"", "\"\"", "czNjcmV0Cg==", "QUJD=", "AB==", "refreshtoken@@@a=b", "a1=b2", "=x"]
        {
            assert_eq!(check_bare(text), Ok(()), "{text}");
        }
    }
}
