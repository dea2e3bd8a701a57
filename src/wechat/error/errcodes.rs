//! The table of errcodes: what each one means at which call, as a class and a remedy.
//!
//! The codes are those of the API page of getsessionlist, of its neighbours, of the token calls and of the list of
//! global return codes (developers.weixin.qq.com). A code that means something else at particular calls has a row for
//! these before the row for all others. Codes that belong to calls which kfwatch does not make are listed too, so that
//! they are counted by their number: they say that something meddles, or that kfwatch is wrong.

use super::remedies::*;
use crate::{domain::backoff::ErrorClass, wechat::Endpoint};

/// What an errcode means at some calls.
pub(super) struct Errcode {
    code: i64,
    /// The value of the label `code`.
    pub(super) label: &'static str,
    /// The calls at which it means this.
    at: &'static [Endpoint],
    /// How to react.
    pub(super) class: ErrorClass,
    /// What a human should do, where a human can do something.
    pub(super) remedy: Option<Remedy>,
}

/// What the errcode means at this call; `None` for a code that is not in the table.
pub(super) fn errcode(code: i64, endpoint: Endpoint) -> Option<&'static Errcode> {
    rows(code).iter().find(|row| row.at.contains(&endpoint))
}

/// The value of the label `code` for an errcode; `None` for a code that is not in the table.
pub(super) fn label(code: i64) -> Option<&'static str> {
    rows(code).first().map(|row| row.label)
}

fn rows(code: i64) -> &'static [Errcode] {
    let from = ERRCODES.partition_point(|row| row.code < code);
    let to = ERRCODES.partition_point(|row| row.code <= code);
    &ERRCODES[from..to]
}

/// All calls that no row before names.
const ANY: &[Endpoint] = &Endpoint::ALL;

/// Calls with the official account's AppSecret; the token server makes one on our behalf.
const BY_SECRET: &[Endpoint] = &[Endpoint::Token, Endpoint::StableToken, Endpoint::TokenServer];

/// The call with the third-party platform's AppSecret and its ticket.
const BY_TICKET: &[Endpoint] = &[Endpoint::ComponentToken];

/// Calls with the third-party platform's token.
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

/// The call that names a kf account.
const POLLS: &[Endpoint] = &[Endpoint::SessionList];

/// The calls beside it.
const COLLECTORS: &[Endpoint] =
    &[Endpoint::KfList, Endpoint::OnlineKfList, Endpoint::WaitCase, Endpoint::Quota];

/// The call that asks for quotas.
const QUOTA: &[Endpoint] = &[Endpoint::Quota];

macro_rules! errcodes {
    ($($code:literal $at:ident $class:ident $remedy:expr;)*) => {
        &[$(Errcode {
            code: $code,
            label: stringify!($code),
            at: $at,
            class: ErrorClass::$class,
            remedy: $remedy,
        }),*]
    };
}

/// In the order of the numbers; rows of one code from the particular to the general.
static ERRCODES: &[Errcode] = errcodes! {
    -1 ANY Busy None;

    40001 BY_SECRET NotAuthorized Some(SECRET);
    40001 BY_TICKET NotAuthorized Some(PLATFORM_SECRET);
    40001 BY_PLATFORM_TOKEN TokenRejected Some(OTHER_PLATFORM_PROGRAM);
    40001 ANY TokenRejected Some(OTHER_PROGRAM);
    40002 ANY BadRequest Some(UNEXPECTED);
    40003 ANY BadRequest Some(UNEXPECTED);
    40013 PLATFORM NotAuthorized Some(PLATFORM_APPID);
    40013 ANY NotAuthorized Some(APPID);
    40014 BY_SECRET BadRequest Some(UNEXPECTED);
    40014 BY_TICKET BadRequest Some(UNEXPECTED);
    40014 BY_PLATFORM_TOKEN TokenRejected Some(OTHER_PLATFORM_PROGRAM);
    40014 ANY TokenRejected Some(OTHER_PROGRAM);
    40125 PLATFORM NotAuthorized Some(PLATFORM_SECRET);
    40125 ANY NotAuthorized Some(SECRET);
    40164 PLATFORM AddressNotAllowed Some(PLATFORM_ADDRESS);
    40164 ANY AddressNotAllowed Some(ADDRESS);
    40243 ANY NotAuthorized Some(FROZEN);

    41001 ANY BadRequest Some(UNEXPECTED);
    41002 ANY BadRequest Some(UNEXPECTED);
    41004 ANY BadRequest Some(UNEXPECTED);
    41018 ANY BadRequest Some(UNEXPECTED);
    42001 BY_SECRET BadRequest Some(UNEXPECTED);
    42001 BY_TICKET BadRequest Some(UNEXPECTED);
    42001 BY_PLATFORM_TOKEN TokenRejected Some(OTHER_PLATFORM_PROGRAM);
    42001 ANY TokenRejected Some(OTHER_PROGRAM);
    42007 ANY NotAuthorized Some(AUTHORIZE);
    43001 ANY BadRequest Some(UNEXPECTED);
    43002 ANY BadRequest Some(UNEXPECTED);
    43003 ANY BadRequest Some(UNEXPECTED);

    45009 TOKENS DayQuota Some(TOKEN_QUOTA);
    45009 COLLECTORS DayQuota Some(COLLECTOR_QUOTA);
    45009 ANY DayQuota Some(DAY_QUOTA);
    45011 ANY MinuteQuota Some(MINUTE_QUOTA);
    45035 PLATFORM AddressNotAllowed Some(PLATFORM_ADDRESS);
    45035 ANY AddressNotAllowed Some(ADDRESS);
    47001 ANY BadRequest Some(UNEXPECTED);
    48001 PLATFORM NotAuthorized Some(PLATFORM_RESTRICTED);
    48001 COLLECTORS NotAuthorized Some(COLLECTOR_NOT_GRANTED);
    48001 ANY NotAuthorized Some(NOT_GRANTED);
    48004 PLATFORM NotAuthorized Some(PLATFORM_RESTRICTED);
    48004 ANY NotAuthorized Some(RESTRICTED);
    // Said of clearing quotas, which kfwatch leaves to people; what it means for us is that the quota stays used up.
    48006 ANY DayQuota Some(NO_CLEARS_LEFT);
    50002 PLATFORM NotAuthorized Some(PLATFORM_RESTRICTED);
    50002 ANY NotAuthorized Some(RESTRICTED);

    61003 ANY NotAuthorized Some(AUTHORIZE);
    // Where a secret is sent it is the official account's list that the address is not on.
    61004 BY_SECRET AddressNotAllowed Some(ADDRESS);
    61004 ANY AddressNotAllowed Some(PLATFORM_ADDRESS);
    61005 ANY NotAuthorized Some(TICKET);
    61006 ANY NotAuthorized Some(TICKET);
    61007 COLLECTORS NotAuthorized Some(COLLECTOR_NOT_GRANTED);
    61007 ANY NotAuthorized Some(NOT_GRANTED);
    61011 ANY NotAuthorized Some(PLATFORM_APPID);
    61014 ANY NotAuthorized Some(PLATFORM_APPID);
    61015 ANY NotAuthorized Some(TOKEN_OF_PLATFORM);
    61023 ANY NotAuthorized Some(REFRESH_TOKEN);
    61024 ANY NotAuthorized Some(APPID_OF_PLATFORM);
    61028 ANY NotAuthorized Some(PLATFORM_RESTRICTED);

    // The old kf codes: a system error, a parameter, the account, and what concerns accounts and sessions being made.
    61450 ANY Busy None;
    61451 ANY BadRequest Some(UNEXPECTED);
    61452 POLLS InvalidAccount Some(INVALID);
    61452 ANY BadRequest Some(UNEXPECTED);
    61453 ANY BadRequest Some(UNEXPECTED);
    61454 ANY BadRequest Some(UNEXPECTED);
    61455 ANY BadRequest Some(UNEXPECTED);
    61456 ANY BadRequest Some(UNEXPECTED);
    61457 ANY BadRequest Some(UNEXPECTED);
    61458 ANY BadRequest Some(UNEXPECTED);
    61459 ANY BadRequest Some(UNEXPECTED);

    65400 ANY NotEnabled Some(NOT_ENABLED);
    // Only a call that names a kf account can say something of it.
    65401 POLLS InvalidAccount Some(INVALID);
    65401 ANY BadRequest Some(UNEXPECTED);
    65402 POLLS UnboundAccount Some(UNBOUND);
    65402 ANY BadRequest Some(UNEXPECTED);
    // Said of making, inviting and changing kf accounts, of opening and closing sessions, and of records.
    65403 ANY BadRequest Some(UNEXPECTED);
    65404 ANY BadRequest Some(UNEXPECTED);
    65405 ANY BadRequest Some(UNEXPECTED);
    65406 ANY BadRequest Some(UNEXPECTED);
    65407 ANY BadRequest Some(UNEXPECTED);
    65408 ANY BadRequest Some(UNEXPECTED);
    65409 ANY BadRequest Some(UNEXPECTED);
    65410 ANY BadRequest Some(UNEXPECTED);
    65411 ANY BadRequest Some(UNEXPECTED);
    65412 ANY BadRequest Some(UNEXPECTED);
    65413 ANY BadRequest Some(UNEXPECTED);
    65414 ANY BadRequest Some(UNEXPECTED);
    65415 ANY BadRequest Some(UNEXPECTED);
    65416 ANY BadRequest Some(UNEXPECTED);
    65417 ANY BadRequest Some(UNEXPECTED);

    76001 ANY BadRequest Some(UNEXPECTED);
    76003 QUOTA NotAuthorized Some(COLLECTOR_NOT_GRANTED);
    76003 ANY BadRequest Some(UNEXPECTED);
    76021 ANY BadRequest Some(UNEXPECTED);
    76022 QUOTA NotAuthorized Some(COLLECTOR_NOT_GRANTED);
    76022 ANY BadRequest Some(UNEXPECTED);

    89501 ANY AddressNotAllowed Some(CONFIRM);
    89502 ANY AddressNotAllowed Some(CONFIRM);
    89503 ANY AddressNotAllowed Some(CONFIRM);
    89504 ANY AddressNotAllowed Some(CONFIRM);
    89505 ANY AddressNotAllowed Some(CONFIRM);
    89506 ANY AddressRefusedForDay Some(REFUSED);
    89507 ANY AddressRefusedForHour Some(REFUSED);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::CallKind;

    /// Labels are memory in every scrape: a code more is a decision.
    const MOST_LABELS: usize = 96;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(ERRCODES.is_sorted_by_key(|row| row.code));
    }

    #[test]
    fn every_code_has_a_meaning_at_every_call_and_no_row_is_out_of_reach() {
        for row in ERRCODES {
            assert!(Endpoint::ALL.iter().all(|call| errcode(row.code, *call).is_some()), "{}", row.code);
            let reached = row.at.iter().filter_map(|call| errcode(row.code, *call));
            assert!(reached.into_iter().any(|found| std::ptr::eq(found, row)), "{}", row.code);
        }
    }

    #[test]
    fn the_kinds_of_calls_are_those_that_endpoints_have() {
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
    fn labels_are_few_and_are_the_numbers() {
        let mut labels: Vec<&str> = ERRCODES.iter().map(|row| row.label).collect();
        labels.dedup();
        assert!(labels.len() <= MOST_LABELS, "{}", labels.len());
        assert!(ERRCODES.iter().all(|row| row.label == row.code.to_string()));
    }

    #[test]
    fn remedies_are_told_in_both_languages() {
        for remedy in ERRCODES.iter().filter_map(|row| row.remedy) {
            assert!(remedy.en.is_ascii() && !remedy.en.contains("  "), "{}", remedy.en);
            let chinese = remedy.zh.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count();
            assert!(chinese >= 8 && !remedy.zh.contains("  "), "{}", remedy.zh);
        }
    }
}
