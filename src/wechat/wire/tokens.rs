//! Parses the answers of the token calls, including those for third-party platforms.

use std::time::Duration;

use secrecy::SecretString;

use super::{error::WireError, object::Object};

/// A token that WeChat issued.
pub struct IssuedToken {
    /// The token.
    pub token: SecretString,
    /// How long it is valid, from the moment at which it was requested.
    pub lifetime: Duration,
}

/// An authorizer_access_token.
pub struct AuthorizerToken {
    /// The token.
    pub issued: IssuedToken,
    /// The refresh token to use from now on, if the answer has one.
    pub refresh_token: Option<SecretString>,
}

/// A page of the list of official accounts that have authorized a component.
pub struct AuthorizerPage {
    /// The number of official accounts in the whole list, if known.
    pub total: Option<i64>,
    /// The number of official accounts on this page, with or without a refresh token.
    pub length: usize,
    /// Appid and refresh token of each official account that has both.
    pub refresh_tokens: Vec<(String, SecretString)>,
}

/// Parses an answer of /cgi-bin/token or stable_token.
pub fn access_token(text: &str) -> Result<IssuedToken, WireError> {
    issued(&Object::from_answer(text)?, "access_token")
}

/// Parses an answer of api_component_token.
pub fn component_token(text: &str) -> Result<IssuedToken, WireError> {
    issued(&Object::from_answer(text)?, "component_access_token")
}

/// Parses an answer of api_authorizer_token.
pub fn authorizer_token(text: &str) -> Result<AuthorizerToken, WireError> {
    let answer = Object::from_answer(text)?;
    let refresh_token = answer.text("authorizer_refresh_token").map(SecretString::from);
    Ok(AuthorizerToken { issued: issued(&answer, "authorizer_access_token")?, refresh_token })
}

/// Parses an answer of api_get_authorizer_list. An entry without appid or refresh token does not affect the others.
pub fn authorizer_page(text: &str) -> Result<AuthorizerPage, WireError> {
    let answer = Object::from_answer(text)?;
    let list = answer.list("list").ok_or_else(|| WireError::Malformed("success without a list".into()))?;
    let refresh_token = |entry: Object<'_>| {
        Some((entry.text("authorizer_appid")?, SecretString::from(entry.text("refresh_token")?)))
    };
    Ok(AuthorizerPage {
        total: answer.integer("total_count"),
        length: list.len(),
        refresh_tokens: list
            .iter()
            .filter_map(|entry| Object::from_value(entry).and_then(refresh_token))
            .collect(),
    })
}

fn issued(answer: &Object<'_>, key: &str) -> Result<IssuedToken, WireError> {
    let token =
        answer.text(key).ok_or_else(|| WireError::Malformed(format!("success without a usable {key}")))?;
    let seconds = answer.count("expires_in");
    let seconds =
        seconds.ok_or_else(|| WireError::Malformed("a token without a usable expires_in".into()))?;
    Ok(IssuedToken { token: token.into(), lifetime: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::wechat::wire::any_json;

    /// The token and its lifetime in seconds.
    type Issued = Result<(String, u64), WireError>;

    fn exposed(issued: Result<IssuedToken, WireError>) -> Issued {
        issued.map(|issued| (issued.token.expose_secret().to_owned(), issued.lifetime.as_secs()))
    }

    fn authorizer(text: &str) -> Result<(String, u64, Option<String>), WireError> {
        let AuthorizerToken { issued, refresh_token } = authorizer_token(text)?;
        let (token, seconds) = exposed(Ok(issued))?;
        Ok((token, seconds, refresh_token.map(|token| token.expose_secret().to_owned())))
    }

    /// The total, the length of the page, and the appids and refresh tokens on it.
    type Page = (Option<i64>, usize, Vec<(String, String)>);

    fn page(text: &str) -> Result<Page, WireError> {
        authorizer_page(text).map(|page| {
            let exposed = page.refresh_tokens.into_iter();
            let exposed = exposed.map(|(appid, token)| (appid, token.expose_secret().to_owned()));
            (page.total, page.length, exposed.collect())
        })
    }

    #[test]
    fn access_token_is_parsed() {
        let token = |text| exposed(access_token(text));
        assert_eq!(token(r#"{"access_token":"T","expires_in":7200}"#), Ok(("T".into(), 7200)));
        assert_eq!(token(r#"{"errcode":"0","access_token":"T","expires_in":"345"}"#), Ok(("T".into(), 345)));
        assert!(matches!(
            token(r#"{"errcode":40013,"errmsg":"invalid appid"}"#),
            Err(WireError::Refused { code: 40013, .. })
        ));
        for text in
            ["", "{}", r#"{"access_token":"","expires_in":7200}"#, r#"{"access_token":"T","expires_in":-1}"#]
        {
            assert!(matches!(token(text), Err(WireError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn documented_platform_answers_are_parsed() {
        let answer = exposed(component_token(r#"{"component_access_token":"C","expires_in":7200}"#));
        assert_eq!(answer, Ok(("C".into(), 7200)));
        assert_eq!(
            authorizer(
                r#"{"authorizer_access_token":"A","expires_in":7200,"authorizer_refresh_token":"refreshtoken@@@R"}"#
            ),
            Ok(("A".into(), 7200, Some("refreshtoken@@@R".into())))
        );
        assert_eq!(
            page(
                r#"{"total_count":33,"list":[{"authorizer_appid":"wx1","refresh_token":"R1","auth_time":1558000607}]}"#
            ),
            Ok((Some(33), 1, vec![("wx1".into(), "R1".into())]))
        );
    }

    #[test]
    fn odd_but_harmless_platform_answers_are_parsed() {
        for refresh_token in ["", r#","authorizer_refresh_token":null"#, r#","authorizer_refresh_token":"""#]
        {
            let text = format!(
                r#"{{"errcode":"0","authorizer_access_token":"A","expires_in":"7200"{refresh_token}}}"#
            );
            assert_eq!(authorizer(&text), Ok(("A".into(), 7200, None)), "{text}");
        }
        assert_eq!(page(r#"{"list":[],"new":1}"#), Ok((None, 0, vec![])));
        assert_eq!(
            page(
                r#"{"total_count":"2","list":[{"authorizer_appid":"wx1"},{"authorizer_appid":"wx2","refresh_token":"R2"}]}"#
            ),
            Ok((Some(2), 2, vec![("wx2".into(), "R2".into())]))
        );
    }

    #[test]
    fn refusals_and_other_forms_give_no_token() {
        let refused = authorizer(
            r#"{"errcode":"61023","errmsg":"refresh_token is invalid","authorizer_access_token":"A"}"#,
        );
        assert!(matches!(refused, Err(WireError::Refused { code: 61023, .. })));
        for text in [
            "",
            "[]",
            "<html>",
            "{}",
            r#"{"component_access_token":"","authorizer_access_token":"","expires_in":7200}"#,
            r#"{"component_access_token":"C","authorizer_access_token":"A","expires_in":-1}"#,
            r#"{"component_access_token":7,"authorizer_access_token":7,"expires_in":7,"list":7}"#,
            r#"{"total_count":1,"list":null}"#,
        ] {
            assert!(matches!(exposed(component_token(text)), Err(WireError::Malformed(_))), "{text}");
            assert!(matches!(authorizer(text), Err(WireError::Malformed(_))), "{text}");
            assert!(matches!(page(text), Err(WireError::Malformed(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_json_gives_no_empty_token(json in any_json()) {
            let text = json.to_string();
            for issued in [access_token(&text), component_token(&text)] {
                prop_assert!(!exposed(issued).is_ok_and(|(token, _)| token.is_empty()));
            }
            if let Ok((token, _, refresh_token)) = authorizer(&text) {
                prop_assert!(!token.is_empty() && refresh_token.is_none_or(|token| !token.is_empty()));
            }
            if let Ok((_, _, refresh_tokens)) = page(&text) {
                for (appid, token) in refresh_tokens {
                    prop_assert!(!appid.is_empty() && !token.is_empty());
                }
            }
        }
    }
}
