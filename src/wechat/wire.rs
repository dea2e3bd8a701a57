//! Parses the answers of WeChat: tolerant where that is safe, strict where it matters.
//!
//! An errcode other than 0 always makes an answer an error, whatever else the answer contains; it may be a number or a
//! string, or absent for success. A session list is accepted as a whole or not at all: one unusable entry makes the
//! answer malformed, because to skip an entry would end its session. Strings may contain raw control characters and bytes
//! that are not UTF-8, and the body may begin with a byte order mark. The Content-Type is ignored.
//!
//! No input makes these functions panic, and no error contains a part of the answer except `errmsg`.

mod body;
pub mod collectors;
mod error;
mod object;
mod scalar;
mod sessions;
pub mod tokens;

pub use self::{
    body::text,
    error::{WireError, check_errcode, refusal},
    sessions::{SessionList, session_list},
};

/// Arbitrary JSON in which the keys of the API are frequent.
#[cfg(test)]
fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::{prelude::*, sample::select};
    use serde_json::Value;

    const KEYS: [&str; 16] = [
        "errcode",
        "kf_list",
        "kf_online_list",
        "kf_account",
        "waitcaselist",
        "count",
        "quota",
        "access_token",
        "component_access_token",
        "authorizer_access_token",
        "authorizer_refresh_token",
        "expires_in",
        "total_count",
        "list",
        "authorizer_appid",
        "refresh_token",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        any::<i64>().prop_map(|number| number.to_string().into()),
    ];
    let key = prop_oneof![select(&KEYS[..]).prop_map(str::to_owned), ".{0,10}"];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
