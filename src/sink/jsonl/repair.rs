//! What a crash leaves at the end of a file: part of a line whose event is not confirmed, and comes again.
//!
//! A kill leaves half an event. A power cut may leave NUL bytes in its place or behind it, where the file system had grown the file
//! and not written its data. That is cut off, back to the end of the last whole line. A whole event that lacks nothing but the end
//! of its line, which an editor may have taken away, gets it. Whatever else a file ends in is not ours: the file is refused, and
//! left as it is.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::de::IgnoredAny;

/// What every event begins with.
const EVENT_BEGINS_WITH: &[u8] = br#"{"specversion""#;

/// How much of the end of a file is read at a time in search of the last line's end.
const TAIL_BLOCK: u64 = 64 * 1024;

/// The most that a crash is believed to leave. What was written and not synced is one batch: half a megabyte, unless WeChat sends
/// openids of a size that nobody has seen.
const MAX_UNFINISHED_BYTES: u64 = 64 * 1024 * 1024;

/// Has a file end with a whole line. What this changes is synced with what is written next.
pub(super) fn repair(mut file: &File, path: &Path) -> io::Result<()> {
    let length = file.metadata()?.len();
    let end = end_of_last_line(file, length)?;
    let unfinished = read(file, end, length)?;
    if unfinished.is_empty() {
        return Ok(());
    }
    let text = without_nul(&unfinished);
    if !is_ours(file, end, text)? {
        return Err(no_event());
    }
    let is_whole = serde_json::from_slice::<IgnoredAny>(text).is_ok();
    let kept = if is_whole { text.len() } else { 0 };
    file.set_len(end + kept as u64)?;
    if is_whole {
        file.write_all(b"\n")?;
    }
    let cut = unfinished.len() - kept;
    if cut > 0 {
        tracing::warn!(
            path = %path.display(),
            bytes = cut,
            "A sink's file did not end with a whole line: {cut} bytes are cut off, and what they were to tell comes again"
        );
    }
    Ok(())
}

/// Where what follows the last newline begins.
fn end_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut begin = length;
    while begin > 0 {
        if length - begin > MAX_UNFINISHED_BYTES {
            return Err(no_event());
        }
        let end = begin;
        begin = end.saturating_sub(TAIL_BLOCK);
        if let Some(at) = read(file, begin, end)?.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
    }
    Ok(0)
}

/// Whether this can only be part of an event of ours: it says so itself, or, where it is too short to say, the whole file does.
fn is_ours(file: &File, begin: u64, text: &[u8]) -> io::Result<bool> {
    if text.len() >= EVENT_BEGINS_WITH.len() {
        return Ok(text.starts_with(EVENT_BEGINS_WITH));
    }
    let in_our_file =
        begin == 0 || read(file, 0, begin.min(EVENT_BEGINS_WITH.len() as u64))? == EVENT_BEGINS_WITH;
    Ok(in_our_file && EVENT_BEGINS_WITH.starts_with(text))
}

fn without_nul(unfinished: &[u8]) -> &[u8] {
    let last = unfinished.iter().rposition(|byte| *byte != 0);
    &unfinished[..last.map_or(0, |last| last + 1)]
}

fn read(file: &File, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (end - begin) as usize];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(bytes)
}

fn no_event() -> io::Error {
    io::Error::other("what it ends in is no event: set path to a file of kfwatch's own")
}
