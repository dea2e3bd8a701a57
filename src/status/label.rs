//! Escapes label values for the Prometheus text format.

/// Returns the escaped label value.
pub fn escaped(value: &str) -> String {
    let mut result = String::with_capacity(value.len());
    push_escaped(&mut result, value);
    result
}

/// Appends the escaped label value.
pub fn push_escaped(text: &mut String, value: &str) {
    // Almost no value needs escaping. `fold` instead of `any`, because the compiler vectorizes a loop without an early exit.
    if !value.bytes().fold(false, |found, byte| found | matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        text.push_str(match special.as_bytes()[0] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &special[1..];
    }
    text.push_str(rest);
}
