//! Invisible and easily confused characters, and their names for messages.

/// Whether a character shows nothing, ends a line, or changes how the text around it is shown: control characters,
/// zero-width characters, and bidirectional overrides. The zero-width joiners are excluded, because emoji and some scripts
/// need them.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// Describes a character by its code point and its common name, such as `U+200B (zero width space)`.
///
/// A full-width letter or digit has no code point in its description: it may be a part of a secret.
pub fn describe(c: char) -> String {
    let name = match c {
        ' ' => return "a space".to_owned(),
        '\u{ff10}'..='\u{ff19}' => return "a full-width digit".to_owned(),
        '\u{ff21}'..='\u{ff3a}' | '\u{ff41}'..='\u{ff5a}' => return "a full-width letter".to_owned(),
        '\u{ff01}'..='\u{ff5e}' => return "a full-width sign".to_owned(),
        '\0' => "null character, as in UTF-16",
        '\t' => "tab",
        '\n' => "line feed",
        '\r' => "carriage return",
        '\u{1b}' => "escape",
        '\u{a0}' => "no-break space",
        '\u{ad}' => "soft hyphen",
        '\u{200b}' => "zero width space",
        '\u{200c}' => "zero width non-joiner",
        '\u{200d}' => "zero width joiner",
        '\u{200e}' | '\u{200f}' | '\u{61c}' => "direction mark",
        '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' => "typographic space",
        '\u{2010}'..='\u{2015}' => "typographic hyphen or dash",
        '\u{2018}'..='\u{201f}' => "curly quotation mark",
        '\u{2028}' => "line separator",
        '\u{2029}' => "paragraph separator",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "bidirectional override",
        '\u{2060}' => "word joiner",
        '\u{3000}' => "ideographic space",
        '\u{3001}' => "ideographic comma",
        '\u{3002}' => "ideographic full stop",
        '\u{300c}'..='\u{300f}' => "corner bracket",
        '\u{3010}' | '\u{3011}' => "lenticular bracket",
        '\u{feff}' => "byte order mark",
        '\u{fffd}' => "replacement character: the text was not UTF-8",
        _ if c.is_control() => "control character",
        _ => return code_point(c),
    };
    format!("{} ({name})", code_point(c))
}

fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// Describes the first character of a text that is `wrong`, and its position: `U+200B (zero width space) at character 33`.
pub fn find(text: &str, wrong: impl Fn(char) -> bool) -> Option<String> {
    let at = text.find(&wrong)?;
    let c = text[at..].chars().next()?;
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let position = text[line_start..at].chars().count() + 1;
    let line = text[..at].matches('\n').count() + 1;
    let line = if line > 1 { format!(" of line {line}") } else { String::new() };
    Some(format!("{} at character {position}{line}", describe(c)))
}

/// The ASCII character that an input method for Chinese replaces by this one: `=` for `＝`, `"` for `“`.
pub fn ascii_for(c: char) -> Option<char> {
    Some(match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0)?,
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' | '\u{300c}'..='\u{300f}' => '"',
        '\u{3001}' => ',',
        '\u{3002}' => '.',
        '\u{3010}' => '[',
        '\u{3011}' => ']',
        _ => return None,
    })
}

/// What to type instead of a character: `type = instead`. A letter or digit is not named: it may be a part of a secret.
pub fn remedy(c: char) -> String {
    match ascii_for(c) {
        Some(' ') => "type a space instead".to_owned(),
        Some(ascii) if ascii.is_ascii_alphanumeric() => "type it in half width".to_owned(),
        Some(ascii) => format!("type {ascii} instead"),
        None => "remove it".to_owned(),
    }
}

/// Describes the first character of a text that stands for an ASCII character, where only ASCII is allowed:
/// `a full-width sign at character 6; type @ instead`.
pub fn find_non_ascii(text: &str) -> Option<String> {
    let stands_for_ascii = |c| ascii_for(c).is_some();
    let c = text.chars().find(|c| stands_for_ascii(*c))?;
    Some(format!("{}; {}", find(text, stands_for_ascii)?, remedy(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_characters_are_described_by_name() {
        for (c, expected) in [
            ('\u{feff}', "U+FEFF (byte order mark)"),
            ('\u{200b}', "U+200B (zero width space)"),
            ('\u{a0}', "U+00A0 (no-break space)"),
            ('\u{3000}', "U+3000 (ideographic space)"),
            ('“', "U+201C (curly quotation mark)"),
            ('\u{7}', "U+0007 (control character)"),
            ('é', "U+00E9"),
            (' ', "a space"),
            ('７', "a full-width digit"),
            ('ｆ', "a full-width letter"),
            ('＝', "a full-width sign"),
        ] {
            assert_eq!(describe(c), expected);
        }
    }

    #[test]
    fn first_wrong_character_is_found_with_its_position() {
        let find = |text| find(text, |c| !c.is_ascii() || c == 'x').unwrap_or_default();
        assert_eq!(find("abc"), "");
        assert_eq!(find("ab\u{200b}c\u{a0}"), "U+200B (zero width space) at character 3");
        assert_eq!(find("ab\nc\u{a0}"), "U+00A0 (no-break space) at character 2 of line 2");
    }

    #[test]
    fn typed_character_is_found_with_its_ascii_character() {
        for (text, expected) in [
            ("test1＠test", "a full-width sign at character 6; type @ instead"),
            ("test１@test", "a full-width digit at character 5; type it in half width"),
            ("“shop”", "U+201C (curly quotation mark) at character 1; type \" instead"),
            ("0\u{3000}* * * *", "U+3000 (ideographic space) at character 2; type a space instead"),
            ("a、b", "U+3001 (ideographic comma) at character 2; type , instead"),
        ] {
            assert_eq!(find_non_ascii(text).as_deref(), Some(expected));
        }
        for text in ["shop", "商店", "Zoë", "\u{200b}"] {
            assert_eq!(find_non_ascii(text), None, "{text}");
        }
    }

    #[test]
    fn text_of_people_is_visible() {
        assert!(!"客服小王 👩‍💻 Zoë naïve, \"1\" ＡＢＣ".contains(is_invisible));
        for c in "\0\n\r\t\u{1b}\u{7f}\u{85}\u{9b}\u{200b}\u{2028}\u{202e}\u{2066}\u{feff}".chars() {
            assert!(is_invisible(c), "{c:?}");
        }
    }
}
