//! Reads parameters from a query string.

use std::borrow::Cow;

/// Returns the value of a query parameter. None if it is absent or empty; the API does not distinguish the two.
pub(super) fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, value) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_parameter_counts_as_absent() {
        for query in ["", "kf_account", "kf_account=", "xkf_account=1", "kf_account2=1"] {
            assert_eq!(query_parameter(query, "kf_account"), None, "{query}");
        }
    }
}
