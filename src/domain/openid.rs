//! The openid of a customer: personal data.

/// The first four and the last four characters: enough to recognize a customer, too little to find one.
pub fn masked(openid: &str) -> String {
    let characters: Vec<char> = openid.chars().collect();
    match &characters[..] {
        [a, b, c, d, _, .., w, x, y, z] => [*a, *b, *c, *d, '…', *w, *x, *y, *z].iter().collect(),
        [] => String::new(),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openids_are_masked() {
        assert_eq!(masked("oDF3iY9P32sK_5GgYiRkjsabcdef"), "oDF3…cdef");
        assert_eq!(masked("oDF3cdef"), "…");
        assert_eq!(masked(""), "");
    }
}
