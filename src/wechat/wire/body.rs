//! Decodes the body of an answer to text that a JSON parser accepts.

use std::borrow::Cow;

/// The body as text: without a byte order mark, with control characters in strings escaped, and with replacement
/// characters for bytes that are not UTF-8. Borrowed if nothing had to be changed.
pub fn text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // The lossy conversion goes byte by byte, and hardly any answer needs it.
    let text = str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // `fold` and not `any`: without an early exit the compiler vectorizes the loop.
    if !text.bytes().fold(false, |found, byte| found | (byte < b' ')) {
        return text;
    }
    match escape_control_characters(&text) {
        Some(escaped) => Cow::Owned(escaped),
        None => text,
    }
}

/// Escapes control characters in strings; `None` if there are none.
fn escape_control_characters(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string && byte < b' ' {
            result.push_str(&text[copied..at]);
            // After a backslash our escape sequence would lose its own backslash, so that one is doubled.
            result.push_str(if escaped { "\\" } else { "" });
            result.push_str(&format!("\\u{byte:04x}"));
            copied = at + 1;
        }
        match byte {
            b'"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
    }
    (copied > 0).then(|| {
        result.push_str(&text[copied..]);
        result
    })
}
