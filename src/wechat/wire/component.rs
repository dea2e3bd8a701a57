//! Reading what WeChat answers to a third-party platform, as tolerantly as the other token answers.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;

use super::{Text, WireError, integer, malformed, refusal, seconds};

/// A component_access_token as given out.
#[derive(Deserialize)]
pub struct ComponentToken<'a> {
    /// The token.
    #[serde(borrow)]
    pub component_access_token: Cow<'a, str>,
    /// How long it is valid.
    #[serde(deserialize_with = "seconds")]
    pub expires_in: Duration,
}

/// An authorizer_access_token as given out.
#[derive(Deserialize)]
pub struct AuthorizerToken<'a> {
    /// The token.
    #[serde(borrow)]
    pub authorizer_access_token: Cow<'a, str>,
    /// How long it is valid.
    #[serde(deserialize_with = "seconds")]
    pub expires_in: Duration,
    #[serde(default, borrow)]
    authorizer_refresh_token: Option<Text<'a>>,
}

impl AuthorizerToken<'_> {
    /// The refresh token to use from now on, if the answer has one.
    pub fn refresh_token(&self) -> Option<&str> {
        self.authorizer_refresh_token.as_ref().map(|Text(token)| &**token).filter(|token| !token.is_empty())
    }
}

/// A page of the list of official accounts that have authorized a component.
#[derive(Deserialize)]
pub struct AuthorizerPage<'a> {
    /// How many there are in all, if that is told.
    #[serde(default, deserialize_with = "count")]
    pub total_count: Option<i64>,
    /// Those of this page.
    #[serde(borrow)]
    pub list: Vec<Authorizer<'a>>,
}

/// An official account that has authorized a component.
#[derive(Deserialize)]
pub struct Authorizer<'a> {
    #[serde(default, borrow)]
    authorizer_appid: Option<Text<'a>>,
    #[serde(default, borrow)]
    refresh_token: Option<Text<'a>>,
}

impl Authorizer<'_> {
    /// Appid and refresh token; one without either is passed over, and does not hide the others.
    pub fn tokens(&self) -> Option<(&str, &str)> {
        let (Text(appid), Text(token)) = (self.authorizer_appid.as_ref()?, self.refresh_token.as_ref()?);
        (!appid.is_empty() && !token.is_empty()).then_some((appid, token))
    }
}

/// Reads an answer of api_component_token.
pub fn component_token(text: &str) -> Result<ComponentToken<'_>, WireError> {
    let answer: ComponentToken<'_> = read(text)?;
    if answer.component_access_token.is_empty() {
        return Err(WireError::Malformed("an empty component_access_token".into()));
    }
    Ok(answer)
}

/// Reads an answer of api_authorizer_token.
pub fn authorizer_token(text: &str) -> Result<AuthorizerToken<'_>, WireError> {
    let answer: AuthorizerToken<'_> = read(text)?;
    if answer.authorizer_access_token.is_empty() {
        return Err(WireError::Malformed("an empty authorizer_access_token".into()));
    }
    Ok(answer)
}

/// Reads an answer of api_get_authorizer_list.
pub fn authorizer_page(text: &str) -> Result<AuthorizerPage<'_>, WireError> {
    read(text)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, WireError> {
    match refusal(text) {
        Some(refusal) => Err(refusal),
        None => serde_json::from_str(text).map_err(|error| malformed(text, &error)),
    }
}

fn count<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    integer(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Appid and refresh token, where an entry has both.
    type Tokens = Option<(String, String)>;

    fn page(text: &str) -> Result<(Option<i64>, Vec<Tokens>), WireError> {
        authorizer_page(text).map(|page| {
            let owned = |(appid, token): (&str, &str)| (appid.to_owned(), token.to_owned());
            (page.total_count, page.list.iter().map(|authorizer| authorizer.tokens().map(owned)).collect())
        })
    }

    fn rotation(text: &str) -> Result<(String, u64, Option<String>), WireError> {
        authorizer_token(text).map(|answer| {
            let refresh_token = answer.refresh_token().map(str::to_owned);
            (answer.authorizer_access_token.to_string(), answer.expires_in.as_secs(), refresh_token)
        })
    }

    #[test]
    fn the_documented_answers_are_read() {
        let answer = component_token(r#"{"component_access_token":"C","expires_in":7200}"#).unwrap();
        assert_eq!((&*answer.component_access_token, answer.expires_in.as_secs()), ("C", 7200));
        assert_eq!(
            rotation(
                r#"{"authorizer_access_token":"A","expires_in":7200,"authorizer_refresh_token":"refreshtoken@@@R"}"#
            ),
            Ok(("A".into(), 7200, Some("refreshtoken@@@R".into())))
        );
        assert_eq!(
            page(
                r#"{"total_count":33,"list":[{"authorizer_appid":"wx1","refresh_token":"R1","auth_time":1558000607}]}"#
            ),
            Ok((Some(33), vec![Some(("wx1".into(), "R1".into()))]))
        );
    }

    #[test]
    fn odd_but_harmless_shapes_are_read_alike() {
        for refresh_token in ["", r#","authorizer_refresh_token":null"#, r#","authorizer_refresh_token":"""#]
        {
            let text = format!(
                r#"{{"errcode":"0","authorizer_access_token":"A","expires_in":"7200"{refresh_token}}}"#
            );
            assert_eq!(rotation(&text), Ok(("A".into(), 7200, None)), "{text}");
        }
        assert_eq!(page(r#"{"list":[],"new":1}"#), Ok((None, vec![])));
        assert_eq!(
            page(
                r#"{"total_count":"2","list":[{"authorizer_appid":"wx1"},{"authorizer_appid":"wx2","refresh_token":"R2"}]}"#
            ),
            Ok((Some(2), vec![None, Some(("wx2".into(), "R2".into()))]))
        );
    }

    #[test]
    fn refusals_and_other_shapes_are_no_tokens() {
        let refused = rotation(
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
            assert!(matches!(component_token(text), Err(WireError::Malformed(_))), "{text}");
            assert!(matches!(rotation(text), Err(WireError::Malformed(_))), "{text}");
            assert!(matches!(page(text), Err(WireError::Malformed(_))) || text == "[]", "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "\\PC{0,8}".prop_map(Into::into),
        ];
        let key = prop_oneof![
            Just("errcode".to_owned()),
            Just("component_access_token".to_owned()),
            Just("authorizer_access_token".to_owned()),
            Just("authorizer_refresh_token".to_owned()),
            Just("expires_in".to_owned()),
            Just("total_count".to_owned()),
            Just("list".to_owned()),
            Just("authorizer_appid".to_owned()),
            Just("refresh_token".to_owned()),
        ];
        leaf.prop_recursive(3, 24, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(key.clone(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_panics_and_no_token_is_empty(json in json()) {
            let text = json.to_string();
            if let Ok(answer) = component_token(&text) {
                prop_assert!(!answer.component_access_token.is_empty());
            }
            if let Ok((token, _, refresh_token)) = rotation(&text) {
                prop_assert!(!token.is_empty() && refresh_token.is_none_or(|token| !token.is_empty()));
            }
            if let Ok((_, authorizers)) = page(&text) {
                for (appid, token) in authorizers.into_iter().flatten() {
                    prop_assert!(!appid.is_empty() && !token.is_empty());
                }
            }
        }
    }
}
