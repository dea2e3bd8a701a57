//! Values of labels, as the text format of Prometheus wants them.

/// A label value as the text format wants it.
pub fn escaped(value: &str) -> String {
    let mut result = String::with_capacity(value.len());
    push_escaped(&mut result, value);
    result
}

/// Appends a label value as the text format wants it.
pub fn push_escaped(text: &mut String, value: &str) {
    // Nearly no value has one. Not `any`: without an early end this is done in vectors.
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
