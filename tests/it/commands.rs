//! What commands print for people: exact output, with the times replaced.

mod accounts;
mod check;
mod sessions;
mod size;
mod times;

use crate::support::process::Ended;

/// Replaces each local time by text of the same width.
pub(crate) fn without_times(text: &str) -> String {
    const PATTERN: &str = "dddd-dd-dd dd:dd:dd";
    let is_time = |at: usize| {
        let here = text.get(at..at + PATTERN.len());
        let matches =
            |(c, pattern): (char, char)| if pattern == 'd' { c.is_ascii_digit() } else { c == pattern };
        here.is_some_and(|here| here.chars().zip(PATTERN.chars()).all(matches))
    };
    let mut shown = String::new();
    let mut skipped_to = 0;
    for (at, c) in text.char_indices() {
        if at < skipped_to {
            continue;
        }
        if is_time(at) {
            shown.push_str("YYYY-MM-DD hh:mm:ss");
            skipped_to = at + PATTERN.len();
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Asserts the exit code and the exact output, with times replaced.
#[track_caller]
fn assert_prints(ended: &Ended, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(without_times(&ended.stdout), stdout, "{ended:?}");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), stderr), "{ended:?}");
    // The documents promise that a table of ordinary names fits.
    let widest =
        ended.stdout.lines().filter(|line| line.starts_with(' ')).max_by_key(|line| line.chars().count());
    assert!(widest.is_none_or(|line| line.chars().count() <= 100 || line.starts_with("    ")), "{widest:?}");
}
