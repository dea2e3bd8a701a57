//! The table of WeChat's errcodes: what each one means at which call, as a class and a remedy.
//!
//! The codes come from the API pages of getsessionlist and related calls, from those of the token calls, and from the
//! list of global return codes (developers.weixin.qq.com). If a code has a special meaning at some calls, their rows come
//! before the row for all other calls. The table also lists codes of calls that kfwatch does not make. They are then
//! counted by number, and show that a proxy changes requests or that kfwatch has a bug.

use super::{
    endpoint::Endpoint,
    error_class::ErrorClass,
    remedy::{self, Remedy},
};

/// The class of an errcode at this call.
pub fn class(code: i64, endpoint: Endpoint) -> ErrorClass {
    match (meaning(code, endpoint), code) {
        (Some(known), _) => known.class,
        // Both ranges report bad requests, so an unlisted code in them does too.
        (None, 41_000..=41_999 | 43_000..=43_999) => ErrorClass::BadRequest,
        (None, _) => ErrorClass::Unknown,
    }
}

/// What a human should do about an errcode at this call, if a human can do something.
pub fn remedy(code: i64, endpoint: Endpoint) -> Option<Remedy> {
    meaning(code, endpoint).and_then(|known| known.remedy)
}

/// The value of the label `code` for an errcode; `None` for a code that is not in the table.
pub fn label(code: i64) -> Option<&'static str> {
    rows(code).first().map(|row| row.label)
}

/// What an errcode means at some calls.
struct ErrcodeRow {
    code: i64,
    label: &'static str,
    /// The calls at which it means this.
    at: &'static [Endpoint],
    class: ErrorClass,
    remedy: Option<Remedy>,
}

fn meaning(code: i64, endpoint: Endpoint) -> Option<&'static ErrcodeRow> {
    rows(code).iter().find(|row| row.at.contains(&endpoint))
}

fn rows(code: i64) -> &'static [ErrcodeRow] {
    let from = ERRCODES.partition_point(|row| row.code < code);
    let to = ERRCODES.partition_point(|row| row.code <= code);
    &ERRCODES[from..to]
}

/// All calls without an earlier row for the code.
const ANY: &[Endpoint] = &Endpoint::ALL;

/// Calls that send the official account's AppSecret; the token server makes such a call on our behalf.
const BY_SECRET: &[Endpoint] = &[Endpoint::Token, Endpoint::StableToken, Endpoint::TokenServer];

/// The call that sends the third-party platform's AppSecret and ticket.
const BY_TICKET: &[Endpoint] = &[Endpoint::ComponentToken];

/// Calls that use the third-party platform's token.
const BY_PLATFORM_TOKEN: &[Endpoint] = &[Endpoint::AuthorizerToken, Endpoint::AuthorizerList];

/// All calls that fetch tokens.
const TOKENS: &[Endpoint] = &[
    Endpoint::Token,
    Endpoint::StableToken,
    Endpoint::TokenServer,
    Endpoint::ComponentToken,
    Endpoint::AuthorizerToken,
    Endpoint::AuthorizerList,
];

/// All calls that a third-party platform makes for itself.
const PLATFORM: &[Endpoint] =
    &[Endpoint::ComponentToken, Endpoint::AuthorizerToken, Endpoint::AuthorizerList];

/// The only call that names a kf account.
const POLLS: &[Endpoint] = &[Endpoint::SessionList];

const COLLECTORS: &[Endpoint] =
    &[Endpoint::KfList, Endpoint::OnlineKfList, Endpoint::WaitCase, Endpoint::Quota];

const QUOTA: &[Endpoint] = &[Endpoint::Quota];

macro_rules! errcodes {
    (@remedy) => { None };
    (@remedy $remedy:ident) => { Some(remedy::$remedy) };
    ($($code:literal $at:ident $class:ident $($remedy:ident)?;)*) => {
        &[$(ErrcodeRow {
            code: $code,
            label: stringify!($code),
            at: $at,
            class: ErrorClass::$class,
            remedy: errcodes!(@remedy $($remedy)?),
        }),*]
    };
}

/// Sorted by code; among the rows of one code, special meanings come before the general one.
static ERRCODES: &[ErrcodeRow] = errcodes! {
    -1 ANY Busy;

    40001 BY_SECRET NotAuthorized SECRET;
    40001 BY_TICKET NotAuthorized PLATFORM_SECRET;
    40001 BY_PLATFORM_TOKEN TokenRejected OTHER_PLATFORM_PROGRAM;
    40001 ANY TokenRejected OTHER_PROGRAM;
    40002 ANY BadRequest UNEXPECTED;
    40003 ANY BadRequest UNEXPECTED;
    40013 PLATFORM NotAuthorized PLATFORM_APPID;
    40013 ANY NotAuthorized APPID;
    40014 BY_SECRET BadRequest UNEXPECTED;
    40014 BY_TICKET BadRequest UNEXPECTED;
    40014 BY_PLATFORM_TOKEN TokenRejected OTHER_PLATFORM_PROGRAM;
    40014 ANY TokenRejected OTHER_PROGRAM;
    40125 PLATFORM NotAuthorized PLATFORM_SECRET;
    40125 ANY NotAuthorized SECRET;
    40164 PLATFORM AddressNotAllowed PLATFORM_ADDRESS;
    40164 ANY AddressNotAllowed ADDRESS;
    40243 ANY NotAuthorized FROZEN;

    41001 ANY BadRequest UNEXPECTED;
    41002 ANY BadRequest UNEXPECTED;
    41004 ANY BadRequest UNEXPECTED;
    41018 ANY BadRequest UNEXPECTED;
    42001 BY_SECRET BadRequest UNEXPECTED;
    42001 BY_TICKET BadRequest UNEXPECTED;
    42001 BY_PLATFORM_TOKEN TokenRejected OTHER_PLATFORM_PROGRAM;
    42001 ANY TokenRejected OTHER_PROGRAM;
    42007 ANY NotAuthorized AUTHORIZE;
    43001 ANY BadRequest UNEXPECTED;
    43002 ANY BadRequest UNEXPECTED;
    43003 ANY BadRequest UNEXPECTED;

    45009 TOKENS DayQuota TOKEN_QUOTA;
    45009 COLLECTORS DayQuota COLLECTOR_QUOTA;
    45009 ANY DayQuota DAY_QUOTA;
    45011 ANY MinuteQuota MINUTE_QUOTA;
    45035 PLATFORM AddressNotAllowed PLATFORM_ADDRESS;
    45035 ANY AddressNotAllowed ADDRESS;
    47001 ANY BadRequest UNEXPECTED;
    48001 PLATFORM NotAuthorized PLATFORM_RESTRICTED;
    48001 COLLECTORS NotAuthorized COLLECTOR_NOT_GRANTED;
    48001 ANY NotAuthorized NOT_GRANTED;
    48004 PLATFORM NotAuthorized PLATFORM_RESTRICTED;
    48004 ANY NotAuthorized RESTRICTED;
    // An answer to clearing quotas, which kfwatch leaves to people. For us it means that the quota stays used up.
    48006 ANY DayQuota NO_CLEARS_LEFT;
    50002 PLATFORM NotAuthorized PLATFORM_RESTRICTED;
    50002 ANY NotAuthorized RESTRICTED;

    61003 ANY NotAuthorized AUTHORIZE;
    // A call with the official account's AppSecret is checked against that account's allowlist.
    61004 BY_SECRET AddressNotAllowed ADDRESS;
    61004 PLATFORM AddressNotAllowed PLATFORM_ADDRESS;
    61004 ANY AddressNotAllowed ADDRESS_OF_EITHER;
    61005 ANY NotAuthorized TICKET;
    61006 ANY NotAuthorized TICKET;
    61007 COLLECTORS NotAuthorized COLLECTOR_NOT_GRANTED;
    61007 ANY NotAuthorized NOT_GRANTED;
    61011 ANY NotAuthorized PLATFORM_APPID;
    61014 ANY NotAuthorized PLATFORM_APPID;
    61015 ANY NotAuthorized TOKEN_OF_PLATFORM;
    61023 ANY NotAuthorized REFRESH_TOKEN;
    61024 ANY NotAuthorized APPID_OF_PLATFORM;
    61028 ANY NotAuthorized PLATFORM_RESTRICTED;

    // The old kf codes: a system error, a bad parameter, the account, and creating accounts and sessions.
    61450 ANY Busy;
    61451 ANY BadRequest UNEXPECTED;
    61452 POLLS InvalidAccount INVALID;
    61452 ANY BadRequest UNEXPECTED;
    61453 ANY BadRequest UNEXPECTED;
    61454 ANY BadRequest UNEXPECTED;
    61455 ANY BadRequest UNEXPECTED;
    61456 ANY BadRequest UNEXPECTED;
    61457 ANY BadRequest UNEXPECTED;
    61458 ANY BadRequest UNEXPECTED;
    61459 ANY BadRequest UNEXPECTED;

    65400 ANY NotEnabled NOT_ENABLED;
    // Only a call that names a kf account can say something about it.
    65401 POLLS InvalidAccount INVALID;
    65401 ANY BadRequest UNEXPECTED;
    65402 POLLS UnboundAccount UNBOUND;
    65402 ANY BadRequest UNEXPECTED;
    // Answers to creating, inviting and changing kf accounts, to opening and closing sessions, and to reading records.
    65403 ANY BadRequest UNEXPECTED;
    65404 ANY BadRequest UNEXPECTED;
    65405 ANY BadRequest UNEXPECTED;
    65406 ANY BadRequest UNEXPECTED;
    65407 ANY BadRequest UNEXPECTED;
    65408 ANY BadRequest UNEXPECTED;
    65409 ANY BadRequest UNEXPECTED;
    65410 ANY BadRequest UNEXPECTED;
    65411 ANY BadRequest UNEXPECTED;
    65412 ANY BadRequest UNEXPECTED;
    65413 ANY BadRequest UNEXPECTED;
    65414 ANY BadRequest UNEXPECTED;
    65415 ANY BadRequest UNEXPECTED;
    65416 ANY BadRequest UNEXPECTED;
    65417 ANY BadRequest UNEXPECTED;

    76001 ANY BadRequest UNEXPECTED;
    76003 QUOTA NotAuthorized COLLECTOR_NOT_GRANTED;
    76003 ANY BadRequest UNEXPECTED;
    76021 ANY BadRequest UNEXPECTED;
    76022 QUOTA NotAuthorized COLLECTOR_NOT_GRANTED;
    76022 ANY BadRequest UNEXPECTED;

    89501 ANY AddressNotAllowed CONFIRM;
    89502 ANY AddressNotAllowed CONFIRM;
    89503 ANY AddressNotAllowed CONFIRM;
    89504 ANY AddressNotAllowed CONFIRM;
    89505 ANY AddressNotAllowed CONFIRM;
    89506 ANY AddressRefusedForDay REFUSED;
    89507 ANY AddressRefusedForHour REFUSED;
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::endpoint::CallKind;

    /// Each label costs memory in every scrape, so a new code is a deliberate decision.
    const MAX_LABELS: usize = 96;

    #[test]
    fn table_is_sorted_by_code() {
        assert!(ERRCODES.is_sorted_by_key(|row| row.code));
    }

    #[test]
    fn every_code_has_meaning_at_every_call_and_every_row_is_reachable() {
        for row in ERRCODES {
            assert!(Endpoint::ALL.iter().all(|call| meaning(row.code, *call).is_some()), "{}", row.code);
            let reached = row.at.iter().filter_map(|call| meaning(row.code, *call));
            assert!(reached.into_iter().any(|found| std::ptr::eq(found, row)), "{}", row.code);
        }
    }

    #[test]
    fn groups_of_calls_match_endpoint_kinds() {
        for endpoint in Endpoint::ALL {
            let of_kind = match endpoint.kind() {
                CallKind::Token => TOKENS,
                CallKind::Poll => POLLS,
                CallKind::Collector => COLLECTORS,
            };
            assert!(of_kind.contains(&endpoint), "{}", endpoint.as_str());
        }
        assert_eq!(TOKENS.len() + POLLS.len() + COLLECTORS.len(), Endpoint::ALL.len());
    }

    #[test]
    fn labels_are_few_and_equal_the_codes() {
        let mut labels: Vec<&str> = ERRCODES.iter().map(|row| row.label).collect();
        labels.dedup();
        assert!(labels.len() <= MAX_LABELS, "{}", labels.len());
        assert!(ERRCODES.iter().all(|row| row.label == row.code.to_string()));
    }

    #[test]
    fn remedies_exist_in_both_languages() {
        for remedy in ERRCODES.iter().filter_map(|row| row.remedy) {
            assert!(remedy.en.is_ascii() && !remedy.en.contains("  "), "{}", remedy.en);
            assert!(!remedy.en.contains('{'), "an errcode has no place: {}", remedy.en);
            let chinese = remedy.zh.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count();
            assert!(chinese >= 8 && !remedy.zh.contains("  "), "{}", remedy.zh);
        }
    }

    /// Each code with its class at token calls with an AppSecret, at polls and at collectors, and whether it has a remedy.
    #[test]
    fn errcode_has_documented_class_at_each_kind_of_call() {
        use ErrorClass::*;
        for (codes, classes, human) in [
            (&[-1, 61450][..], [Busy; 3], false),
            (&[40001], [NotAuthorized, TokenRejected, TokenRejected], true),
            (&[40014, 42001], [BadRequest, TokenRejected, TokenRejected], true),
            (&[40013, 40125, 40243, 42007], [NotAuthorized; 3], true),
            (&[40164, 45035, 61004], [AddressNotAllowed; 3], true),
            (&[89501, 89502, 89503, 89504, 89505], [AddressNotAllowed; 3], true),
            (&[89506], [AddressRefusedForDay; 3], true),
            (&[89507], [AddressRefusedForHour; 3], true),
            (&[45009, 48006], [DayQuota; 3], true),
            (&[45011], [MinuteQuota; 3], true),
            (&[48001, 48004, 50002, 61003, 61005, 61006, 61007], [NotAuthorized; 3], true),
            (&[61011, 61014, 61015, 61023, 61024, 61028], [NotAuthorized; 3], true),
            (&[65400], [NotEnabled; 3], true),
            (&[61452, 65401], [BadRequest, InvalidAccount, BadRequest], true),
            (&[65402], [BadRequest, UnboundAccount, BadRequest], true),
            (&[40002, 40003, 41001, 41002, 41004, 41018, 43001, 43002, 43003, 47001], [BadRequest; 3], true),
            (&[61451, 61453, 61454, 61455, 61456, 61457, 61458, 61459], [BadRequest; 3], true),
            (&[65403, 65404, 65405, 65406, 65407, 65408, 65409, 65410], [BadRequest; 3], true),
            (&[65411, 65412, 65413, 65414, 65415, 65416, 65417], [BadRequest; 3], true),
            (&[76001, 76021], [BadRequest; 3], true),
            (&[76003, 76022], [BadRequest; 3], true),
        ] {
            for &code in codes {
                let at = [Endpoint::StableToken, Endpoint::SessionList, Endpoint::WaitCase];
                assert_eq!(at.map(|endpoint| class(code, endpoint)), classes, "{code}");
                assert_eq!(label(code), Some(&*code.to_string()));
                for endpoint in Endpoint::ALL.into_iter().filter(|at| *at != Endpoint::TokenServer) {
                    assert_eq!(remedy(code, endpoint).is_some(), human, "{code} at {}", endpoint.as_str());
                }
            }
        }
    }

    #[test]
    fn errcode_can_mean_something_else_at_other_calls() {
        use ErrorClass::*;
        for (code, endpoint, expected, advice) in [
            (40001, Endpoint::Token, NotAuthorized, "AppSecret"),
            (40001, Endpoint::ComponentToken, NotAuthorized, "open.weixin.qq.com"),
            (40001, Endpoint::AuthorizerToken, TokenRejected, "component_access_token"),
            (40001, Endpoint::SessionList, TokenRejected, "/cgi-bin/token"),
            (42001, Endpoint::AuthorizerList, TokenRejected, "component_access_token"),
            (40013, Endpoint::AuthorizerToken, NotAuthorized, "component"),
            (40125, Endpoint::ComponentToken, NotAuthorized, "component"),
            (61005, Endpoint::ComponentToken, NotAuthorized, "api_start_push_ticket"),
            (61006, Endpoint::ComponentToken, NotAuthorized, "authorization event URL"),
            (61023, Endpoint::AuthorizerToken, NotAuthorized, "api_get_authorizer_list"),
            (61004, Endpoint::StableToken, AddressNotAllowed, "developer console"),
            (61004, Endpoint::SessionList, AddressNotAllowed, "open.weixin.qq.com"),
            (40164, Endpoint::ComponentToken, AddressNotAllowed, "open.weixin.qq.com"),
            (61024, Endpoint::StableToken, NotAuthorized, "source = \"component\""),
            (61015, Endpoint::SessionList, NotAuthorized, "authorizer_access_token"),
            (45009, Endpoint::Token, DayQuota, "stable"),
            (45009, Endpoint::SessionList, DayQuota, "poll less often"),
            (45009, Endpoint::WaitCase, DayQuota, "[collectors]"),
            (48001, Endpoint::KfList, NotAuthorized, "[collectors]"),
            (61007, Endpoint::SessionList, NotAuthorized, "permission set"),
            (65400, Endpoint::OnlineKfList, NotEnabled, "test accounts"),
            (76003, Endpoint::Quota, NotAuthorized, "[collectors]"),
            (76022, Endpoint::Quota, NotAuthorized, "[collectors]"),
            (76021, Endpoint::Quota, BadRequest, "bug"),
            (65402, Endpoint::SessionList, UnboundAccount, "inviteworker"),
        ] {
            assert_eq!(class(code, endpoint), expected, "{code} at {}", endpoint.as_str());
            let remedy = remedy(code, endpoint).unwrap();
            assert!(remedy.en.contains(advice), "{code} at {}: {}", endpoint.as_str(), remedy.en);
        }
    }

    proptest! {
        #[test]
        fn only_polls_conclude_and_only_unlisted_codes_are_unknown(
            code in prop_oneof![any::<i64>(), 40_000..90_000i64], index in 0..Endpoint::ALL.len(),
        ) {
            let endpoint = Endpoint::ALL[index];
            let class = class(code, endpoint);
            match label(code) {
                Some(_) => prop_assert_ne!(class, ErrorClass::Unknown),
                None => prop_assert!(matches!(class, ErrorClass::Unknown | ErrorClass::BadRequest)),
            }
            let conclusive = matches!(class, ErrorClass::InvalidAccount | ErrorClass::UnboundAccount);
            prop_assert!(!conclusive || endpoint == Endpoint::SessionList);
        }
    }
}
