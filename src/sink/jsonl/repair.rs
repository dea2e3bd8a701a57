//! Repairs the end of a file after a crash, which may leave part of a line. Its event is not acknowledged and is delivered
//! again.
//!
//! A kill leaves part of an event. A power cut may leave NUL bytes instead of it or after it, where the file system had
//! extended the file but not written its data. The file is truncated to the end of its last whole line. A whole event
//! without a newline, which an editor may have removed, gets one. A file with any other end is not ours: it is rejected
//! unchanged.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::de::IgnoredAny;

/// The beginning of every event.
const EVENT_BEGINS_WITH: &[u8] = br#"{"specversion""#;

/// How much of the file is read at a time to find its last newline.
const TAIL_BLOCK: u64 = 64 * 1024;

/// The longest partial line that a crash may leave. One batch is written without a sync: half a megabyte, unless WeChat sends
/// openids of an unknown length.
const MAX_UNFINISHED_BYTES: u64 = 64 * 1024 * 1024;

/// Makes the file end with a whole line. The next write syncs the change.
pub(super) fn repair(mut file: &File, path: &Path) -> io::Result<()> {
    let length = file.metadata()?.len();
    let end = end_of_last_line(file, length)?;
    let unfinished = read(file, end, length)?;
    if unfinished.is_empty() {
        return Ok(());
    }
    let text = without_nul(&unfinished);
    if !is_ours(file, end, text)? {
        return Err(not_an_event());
    }
    let is_whole = serde_json::from_slice::<IgnoredAny>(text).is_ok();
    let kept = if is_whole { text.len() } else { 0 };
    file.set_len(end + kept as u64)?;
    if is_whole {
        file.write_all(b"\n")?;
    }
    let removed = unfinished.len() - kept;
    if removed > 0 {
        tracing::warn!(
            path = %path.display(),
            bytes = removed,
            "Removed {removed} bytes of a partial line from the end of a sink's file; its event will be delivered again"
        );
    }
    Ok(())
}

/// The position after the last newline.
fn end_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut begin = length;
    while begin > 0 {
        if length - begin > MAX_UNFINISHED_BYTES {
            return Err(not_an_event());
        }
        let end = begin;
        begin = end.saturating_sub(TAIL_BLOCK);
        if let Some(at) = read(file, begin, end)?.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
    }
    Ok(0)
}

/// Whether this is part of an event: it begins like one. If it is too short to tell, the file must begin like one.
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

fn not_an_event() -> io::Error {
    io::Error::other("it does not end with an event: set path to a file that only kfwatch writes")
}
