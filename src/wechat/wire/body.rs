//! Decodes the body of an answer to text that a JSON parser accepts.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// The body as text: without a byte order mark, with control characters in strings escaped, and with replacement
/// characters for bytes that are not UTF-8. Borrowed if nothing had to be changed.
pub fn text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match str::from_utf8(body) {
        Ok(text) => with_escapes(Cow::Borrowed(text)),
        // Hardly any answer gets here, so it may take longer.
        Err(_) => {
            let text = with_escapes(String::from_utf8_lossy(body));
            let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            if is_json { text } else { with_escapes(without_backslashes_of_gbk(body).into()) }
        }
    }
}

/// Replaces bytes that are not UTF-8, and the backslashes that belong to them.
///
/// A character of GBK has two bytes, and the second one may be that of a backslash. In a string that is GBK, bytes that are
/// not ASCII come in pairs, so the backslash after an odd number of them belongs to the last one.
fn without_backslashes_of_gbk(body: &[u8]) -> String {
    let mut repaired = body.to_vec();
    let mut run_start = 0;
    for (at, byte) in body.iter().enumerate().filter(|(_, byte)| byte.is_ascii()) {
        let run = &body[run_start..at];
        if *byte == b'\\' && run.len() % 2 == 1 && str::from_utf8(run).is_err() {
            repaired[at] = b'?';
        }
        run_start = at + 1;
    }
    String::from_utf8_lossy(&repaired).into_owned()
}

/// Escapes control characters in strings.
fn with_escapes(text: Cow<'_, str>) -> Cow<'_, str> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value of `kf_nick` in an object with this string, beside another field.
    fn nickname(string: &[u8]) -> Option<String> {
        let body = [br#"{"kf_nick":""#, string, br#"","kf_account":"a@b"}"#].concat();
        let value: serde_json::Value = serde_json::from_str(&text(&body)).ok()?;
        assert_eq!(value["kf_account"], "a@b");
        Some(value["kf_nick"].as_str()?.to_owned())
    }

    #[test]
    fn gbk_with_backslash_as_second_byte_does_not_escape_the_quote() {
        for string in [
            &b"\x8e\x5c"[..],
            b"\xd0\xa1\x8e\x5c",
            b"a\x81\x41\x8e\x5c",
            b"\x8e\x5c\x8e\x5c",
            b"\x95\x5c\\n\x95\x5c",
        ] {
            assert!(nickname(string).unwrap().contains(char::REPLACEMENT_CHARACTER), "{string:x?}");
        }
    }

    #[test]
    fn backslash_after_valid_text_still_escapes() {
        assert_eq!(nickname("小\\\"王".as_bytes()).unwrap(), "小\"王");
        assert_eq!(nickname(b"\xd0\xa1\\\"\xff").unwrap(), "\u{421}\"\u{fffd}", "valid UTF-8 by accident");
        assert_eq!(nickname(b"\xb0\xa1\\\"").unwrap(), "\u{fffd}\u{fffd}\"");
        assert_eq!(nickname("小\\n".as_bytes()).unwrap(), "小\n");
    }

    proptest! {
        #[test]
        fn any_gbk_costs_one_field(
            // Other first bytes could be UTF-8 by accident.
            pairs in prop::collection::vec((0x81..=0xbf_u8, prop_oneof![0x40..=0x7e_u8, 0x80..=0xfe_u8]), 1..20),
        ) {
            let string: Vec<u8> = pairs.into_iter().flat_map(|(first, second)| [first, second]).collect();
            prop_assert!(nickname(&string).is_some(), "{string:x?}");
        }
    }
}
