//! Bodies of responses of WeChat and of token servers: every parser gets every input.
//!
//! The oracle for session lists is the generic JSON of serde_json: what is taken for a list must be one.

#![no_main]

use kfwatch::wechat::wire::{self, SessionList, WireError, collectors, tokens};
use kfwatch_fuzz::check_peer_text;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    let text = wire::text(body);
    match wire::session_list(&text) {
        Ok(list) => check_session_list(&text, &list),
        Err(error) => check_error(error),
    }
    let errors = [
        tokens::access_token(&text).err(),
        tokens::component_token(&text).err(),
        tokens::authorizer_token(&text).err(),
        tokens::authorizer_page(&text).err(),
        collectors::kf_list(&text).err(),
        collectors::online_kf_list(&text).err(),
        collectors::wait_case(&text).err(),
        collectors::quota(&text).err(),
        wire::refusal(&text),
        wire::check_errcode(&text).err(),
    ];
    errors.into_iter().flatten().for_each(check_error);
});

/// A session list that is no list would end sessions.
fn check_session_list(text: &str, list: &SessionList<'_>) {
    // Keys may occur twice, and the generic value keeps the last one.
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        panic!("a session list was found in what is no JSON object");
    };
    match list {
        SessionList::Listed(observed) => {
            let entries = object.get("sessionlist").and_then(Value::as_array);
            let entries = entries.expect("a list was found where there is none");
            assert!(observed.sessions().len() <= entries.len());
            for session in observed.sessions() {
                assert!(
                    entries.iter().any(|entry| entry["openid"] == *session.openid),
                    "a session was found that is not listed"
                );
            }
        }
        SessionList::Keyless => {
            assert!(object.get("sessionlist").is_none_or(Value::is_null), "a list was overlooked");
        }
    }
    let errcode = object.get("errcode");
    assert!(
        errcode.is_none_or(|code| code.is_null()
            || code == 0
            || code.as_f64() == Some(0.0)
            || code.as_str().is_some_and(|code| code.trim().parse() == Ok(0))),
        "a response with errcode {errcode:?} counts as a success"
    );
}

fn check_error(error: WireError) {
    if let WireError::Malformed(problem) = error {
        check_peer_text(&problem);
    }
}
