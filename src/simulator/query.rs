//! Reads parameters from a query string. Allocates only if a parameter is percent-encoded.

use std::borrow::Cow;

/// Returns the value of a query parameter. None if it is absent or empty; the API does not distinguish the two.
pub(super) fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    (!value.is_empty()).then(|| percent_decoded(value))
}

/// Decodes percent-encoding. An invalid escape stays unchanged.
fn percent_decoded(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, escaped_byte(tail)) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(*first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn escaped_byte(tail: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_sign_may_be_literal_or_percent_encoded() {
        for query in ["a=1&kf_account=kf1@test", "kf_account=kf1%40test&a=1"] {
            assert_eq!(query_parameter(query, "kf_account").as_deref(), Some("kf1@test"));
        }
    }

    #[test]
    fn empty_parameter_counts_as_absent() {
        for query in ["", "kf_account", "kf_account=", "xkf_account=1", "kf_account2=1"] {
            assert_eq!(query_parameter(query, "kf_account"), None, "{query}");
        }
    }

    #[test]
    fn invalid_escapes_stay_unchanged() {
        assert_eq!(query_parameter("a=%4", "a").as_deref(), Some("%4"));
        assert_eq!(query_parameter("a=%zz%", "a").as_deref(), Some("%zz%"));
        assert_eq!(query_parameter("a=b+c", "a").as_deref(), Some("b c"));
    }
}
