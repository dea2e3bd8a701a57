//! Writes the JSON of responses into one buffer, in the style of an official account.

use super::scenario::ResponseStyle;

/// Writes one JSON object.
#[derive(Debug)]
pub(super) struct JsonWriter<'a> {
    style: &'a ResponseStyle,
    out: Vec<u8>,
}

impl<'a> JsonWriter<'a> {
    /// Opens the object of a response, with errcode 0 first if the style asks for it.
    pub(super) fn new(style: &'a ResponseStyle, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(b'{');
        let mut object = JsonWriter { style, out };
        if style.explicit_ok {
            object.number("errcode", 0);
            object.text("errmsg", "ok");
        }
        object
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.write_key(key);
        self.write_string(value);
    }

    pub(super) fn number(&mut self, key: &str, value: i64) {
        self.raw(key, itoa::Buffer::new().format(value).as_bytes());
    }

    pub(super) fn number_or_text(&mut self, key: &str, value: i64, as_text: bool) {
        if as_text {
            self.text(key, itoa::Buffer::new().format(value));
        } else {
            self.number(key, value);
        }
    }

    pub(super) fn raw(&mut self, key: &str, json: &[u8]) {
        self.write_key(key);
        self.out.extend_from_slice(json);
    }

    /// Writes an array of objects; `entry` writes the members of each.
    pub(super) fn array<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut entry: impl FnMut(&mut JsonWriter<'a>, T),
    ) {
        self.write_key(key);
        self.out.push(b'[');
        for item in items {
            self.write_comma();
            self.out.push(b'{');
            entry(self, item);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    pub(super) fn object(&mut self, key: &str, members: impl FnOnce(&mut JsonWriter<'a>)) {
        self.write_key(key);
        self.out.push(b'{');
        members(self);
        self.out.push(b'}');
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }

    /// Appends raw JSON to the array that was written last. Does nothing if `entry` is empty.
    pub(super) fn append_to_array(&mut self, entry: &[u8]) {
        if !entry.is_empty() {
            self.out.pop();
            self.write_comma();
            self.out.extend_from_slice(entry);
            self.out.push(b']');
        }
    }

    fn write_key(&mut self, key: &str) {
        self.write_comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Writes a comma, unless an object or array has just been opened.
    fn write_comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    fn write_string(&mut self, value: &str) {
        self.out.push(b'"');
        let plain = |byte: u8| byte >= b' ' && !matches!(byte, b'"' | b'\\' | b'/');
        if value.bytes().all(plain) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            value.bytes().for_each(|byte| self.write_escaped(byte));
        }
        self.out.push(b'"');
    }

    fn write_escaped(&mut self, byte: u8) {
        match byte {
            b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
            b'/' if self.style.escaped_slashes => self.out.extend_from_slice(br"\/"),
            ..b' ' => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => self.out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(style: &ResponseStyle, members: impl FnOnce(&mut JsonWriter<'_>)) -> String {
        let mut object = JsonWriter::new(style, 0);
        members(&mut object);
        String::from_utf8(object.finish()).unwrap()
    }

    #[test]
    fn strings_are_escaped() {
        let value = "a\"b\\c/d\u{1}\u{4f60}";
        let text = rendered(&ResponseStyle::default(), |object| object.text("k", value));
        assert_eq!(text, "{\"k\":\"a\\\"b\\\\c/d\\u0001\u{4f60}\"}");
        let style = ResponseStyle { escaped_slashes: true, explicit_ok: true, ..ResponseStyle::default() };
        let text = rendered(&style, |object| object.text("k", "a/b"));
        assert_eq!(text, r#"{"errcode":0,"errmsg":"ok","k":"a\/b"}"#);
    }
}
