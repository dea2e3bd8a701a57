//! Parses the answers that collectors fetch: getkflist, getonlinekflist, getwaitcase, openapi/quota/get.
//!
//! The documentation of these calls contradicts itself (numbers in examples that its tables call strings, the example of
//! one call on the page of another), and clients have seen yet more variants. So each field is parsed separately: if it is
//! absent, null or of an unexpected type, it is unknown, and no other field is affected. An entry without a usable
//! kf_account is skipped, and the result says so, because the entry may belong to any account. Only the list itself is
//! required, under its own name: an absent list never counts as an empty one. (The page of getkflist shows
//! `kf_online_list` in its example. Entries of that form say nothing about a binding, and would make every account look
//! unbound.)

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{error::WireError, object::Object, scalar::JsonText};
use crate::{
    domain::account::is_kf_account,
    domain::{
        agents::{
            Binding, Invitation, InvitationStatus, KfList, ListedAccount, OnlineAccount, Quota, WaitingQueue,
        },
        clock::UnixMs,
        peer_text::PeerText,
    },
};

/// The longest accepted list of kf accounts; WeChat allows 100 accounts. A longer list is malformed as a whole: if it were
/// truncated, the rest would look as if WeChat did not list it.
const MAX_LISTED_ACCOUNTS: usize = 1_000;

/// getwaitcase lists at most this many customers.
const MAX_LISTED_WAITING: usize = 100;

/// Longer nicknames are truncated. WeChat allows 16 characters.
const MAX_NICKNAME_BYTES: usize = 256;

/// Parses an answer of getkflist. An account that is listed twice counts once.
pub fn kf_list(text: &str) -> Result<KfList, WireError> {
    let (accounts, skipped) =
        accounts(&Object::from_answer(text)?, "kf_list", |kf_account, entry| ListedAccount {
            kf_account: kf_account.into(),
            nickname: entry.text("kf_nick").map(|nickname| shortened(&nickname).into()),
            binding: binding(entry),
        })?;
    Ok(KfList { accounts, complete: skipped == 0 })
}

/// Parses an answer of getonlinekflist. A listed account is online unless its status says otherwise.
pub fn online_kf_list(text: &str) -> Result<Vec<OnlineAccount>, WireError> {
    let (accounts, _) =
        accounts(&Object::from_answer(text)?, "kf_online_list", |kf_account, entry| OnlineAccount {
            kf_account: kf_account.into(),
            online: entry.integer("status") != Some(0),
            // A number that does not fit is unknown.
            accepted_cases: entry.count("accepted_case").and_then(|cases| cases.try_into().ok()),
        })?;
    Ok(accounts)
}

/// Parses an answer of getwaitcase. Without a count and without a list it is malformed.
pub fn wait_case(text: &str) -> Result<WaitingQueue, WireError> {
    let answer = Object::from_answer(text)?;
    let listed = answer.list("waitcaselist");
    let Some(customers) = answer.count("count").or(listed.as_ref().map(|list| list.len() as u64)) else {
        return Err(WireError::Malformed("neither count nor waitcaselist".into()));
    };
    // In 2015 answers had the time of arrival instead of the time of the last message.
    let sent_at = |entry: Object<'_>| entry.time("latest_time").or_else(|| entry.time("createtime"));
    let entries =
        listed.iter().flatten().take(MAX_LISTED_WAITING).filter_map(|entry| Object::from_value(entry));
    let oldest = entries.filter_map(sent_at).min().filter(|_| customers > 0);
    Ok(WaitingQueue { customers, oldest_message_at: oldest.map(Timestamp::as_second) })
}

/// Parses an answer of openapi/quota/get. It must have the limit, and either the remaining or the used calls.
pub fn quota(text: &str) -> Result<Quota, WireError> {
    let answer = Object::from_answer(text)?;
    let quota = answer.raw("quota").and_then(Object::from_value);
    let quota = quota.ok_or_else(|| WireError::Malformed("success without a quota".into()))?;
    let (limit, used) = (quota.count("daily_limit"), quota.count("used"));
    let remaining = quota.count("remain").or_else(|| Some(limit?.saturating_sub(used?)));
    match (limit, remaining) {
        (Some(limit), Some(remaining)) => Ok(Quota { limit, used, remaining }),
        _ => Err(WireError::Malformed("a quota without usable numbers".into())),
    }
}

/// Parses the entries of a list that have a usable kf account, and counts the others.
fn accounts<T>(
    answer: &Object<'_>,
    key: &'static str,
    parse: impl Fn(&str, &Object<'_>) -> T,
) -> Result<(Vec<T>, usize), WireError> {
    let list = answer.list(key).ok_or_else(|| WireError::Malformed(format!("success without a {key}")))?;
    if list.len() > MAX_LISTED_ACCOUNTS {
        return Err(WireError::Malformed(format!("a {key} of more than {MAX_LISTED_ACCOUNTS} accounts")));
    }
    let mut seen = HashSet::new();
    let (mut accounts, mut skipped) = (Vec::new(), 0);
    for entry in &list {
        let entry = Object::from_value(entry);
        let name = entry.as_ref().and_then(|entry| entry.text("kf_account"));
        let (Some(entry), Some(kf_account)) = (entry, name.filter(|name| is_kf_account(name))) else {
            skipped += 1;
            continue;
        };
        let account = parse(&kf_account, &entry);
        if seen.insert(kf_account) {
            accounts.push(account);
        }
    }
    if skipped > 0 {
        tracing::debug!(skipped, "Skipped {skipped} entries of {key} without a usable kf account");
    }
    Ok((accounts, skipped))
}

fn binding(entry: &Object<'_>) -> Binding {
    let blank = |value: &RawValue| matches!(serde_json::from_str(value.get()), Ok(JsonText(text)) if text.trim().is_empty());
    // A value that is not a text still means that somebody is bound.
    if entry.raw("kf_wx").is_some_and(|kf_wx| !blank(kf_wx)) {
        return Binding::Bound;
    }
    let status = entry.text("invite_status").map(|status| match status.as_str() {
        "waiting" => InvitationStatus::Waiting,
        "rejected" => InvitationStatus::Rejected,
        "expired" => InvitationStatus::Expired,
        _ => InvitationStatus::Other,
    });
    let invited = entry.text("invite_wx").map(|_| InvitationStatus::Other);
    let expires_at = entry.time("invite_expire_time").map(UnixMs::from);
    Binding::Unbound(status.or(invited).map(|status| Invitation { status, expires_at }))
}

/// A nickname for labels and pages.
fn shortened(nickname: &str) -> String {
    PeerText::with_limit(nickname, MAX_NICKNAME_BYTES).into()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use serde_json::{Value, json};

    use super::*;
    use crate::wechat::wire::any_json;

    /// Combines the tables and the examples of the documentation.
    const KF_LIST: &str = r#"{"kf_list":[
        {"kf_account":"test1@test","kf_headimgurl":"http://a/b","kf_id":"1001","kf_nick":"ntest1","kf_wx":"kfwx1"},
        {"kf_account":"test2@test","kf_headimgurl":"http://a/b","kf_id":1002,"kf_nick":"ntest2","kf_wx":"kfwx2"},
        {"kf_account":"test3@test","kf_headimgurl":"http://a/b","kf_id":"1003","kf_nick":"ntest3",
         "invite_wx":"kfwx3","invite_expire_time":123456789,"invite_status":"waiting"}]}"#;
    const ONLINE: &str = r#"{"kf_online_list":[
        {"kf_account":"test1@test","status":1,"kf_id":"1001","kf_openid":"o","accepted_case":1},
        {"kf_account":"test2@test","status":1,"kf_id":1002,"kf_openid":"o","accepted_case":2}]}"#;
    const WAITING: &str = r#"{"count":150,"waitcaselist":[
        {"latest_time":123456789,"openid":"OPENID"},{"latest_time":987654321,"openid":"OPENID"}]}"#;
    const QUOTA: &str = r#"{"errcode":0,"errmsg":"ok","quota":{"daily_limit":500000,"used":2,"remain":499998},
        "rate_limit":{"call_count":2000,"refresh_second":60}}"#;

    fn listed(kf_account: &str, nickname: &str, binding: Binding) -> ListedAccount {
        ListedAccount { kf_account: kf_account.into(), nickname: Some(nickname.into()), binding }
    }

    fn invited(status: InvitationStatus, expires_at: Option<i64>) -> Binding {
        let expires_at = expires_at.map(|seconds| Timestamp::from_second(seconds).unwrap().into());
        Binding::Unbound(Some(Invitation { status, expires_at }))
    }

    fn online(kf_account: &str, online: bool, accepted_cases: Option<u32>) -> OnlineAccount {
        OnlineAccount { kf_account: kf_account.into(), online, accepted_cases }
    }

    /// An entry with a kf account and these fields has the expected binding.
    #[track_caller]
    fn bound(fields: &str, expected: Binding) {
        let text = format!(r#"{{"kf_list":[{{"kf_account":"a@b"{fields}}}]}}"#);
        assert_eq!(kf_list(&text).unwrap().accounts[0].binding, expected, "{text}");
    }

    #[track_caller]
    fn waits(text: &str, customers: u64, oldest_message_at: Option<i64>) {
        assert_eq!(wait_case(text), Ok(WaitingQueue { customers, oldest_message_at }), "{text}");
    }

    #[track_caller]
    fn is_malformed<T: std::fmt::Debug>(answer: Result<T, WireError>) {
        assert!(matches!(answer, Err(WireError::Malformed(_))), "{answer:?}");
    }

    #[test]
    fn documented_answers_are_parsed() {
        use InvitationStatus::Waiting;
        let waiting = listed("test3@test", "ntest3", invited(Waiting, Some(123_456_789)));
        let expected = vec![
            listed("test1@test", "ntest1", Binding::Bound),
            listed("test2@test", "ntest2", Binding::Bound),
            waiting,
        ];
        assert_eq!(kf_list(KF_LIST), Ok(KfList { accounts: expected, complete: true }));
        let expected = vec![online("test1@test", true, Some(1)), online("test2@test", true, Some(2))];
        assert_eq!(online_kf_list(ONLINE), Ok(expected));
        waits(WAITING, 150, Some(123_456_789));
        let expected = Quota { limit: 500_000, used: Some(2), remaining: 499_998 };
        assert_eq!(quota(QUOTA), Ok(expected));
    }

    #[test]
    fn bindings_and_invitations_are_parsed_in_all_variants() {
        use InvitationStatus::{Expired, Other, Rejected, Waiting};
        bound(r#","kf_wx":"x""#, Binding::Bound);
        bound(r#","kf_wx":17"#, Binding::Bound);
        for nobody in ["", r#","kf_wx":null"#, r#","kf_wx":"""#, r#","kf_wx":" ","invite_status":"""#] {
            bound(nobody, Binding::Unbound(None));
        }
        bound(r#","invite_status":"rejected","invite_expire_time":"123""#, invited(Rejected, Some(123)));
        bound(r#","invite_status":"expired","invite_expire_time":0"#, invited(Expired, None));
        bound(r#","invite_status":"waiting","invite_expire_time":{}"#, invited(Waiting, None));
        bound(r#","invite_status":"considered""#, invited(Other, None));
        bound(r#","invite_status":1,"invite_wx":"x""#, invited(Other, None));
    }

    #[test]
    fn entries_without_usable_kf_account_are_skipped() {
        let text = r#"{"kf_list":[{"kf_account":""},{"kf_account":7},null,[],"a@b",{"kf_nick":"n"},{"kf_account":"a&b@c"},
            {"kf_account":"a"},{"kf_account":"a@b","kf_nick":"first"},{"kf_account":"a@b","kf_nick":"second"}]}"#;
        let accounts = vec![listed("a@b", "first", Binding::Unbound(None))];
        assert_eq!(kf_list(text), Ok(KfList { accounts, complete: false }));
    }

    #[test]
    fn skipped_entry_makes_list_incomplete() {
        let complete = |entries: &str| kf_list(&format!(r#"{{"kf_list":[{entries}]}}"#)).unwrap().complete;
        assert!(complete(r#"{"kf_account":"a@b"},{"kf_account":"a@b"}"#), "listed twice");
        for odd in
            [r#"{"kf_account":null}"#, r#"{"kf_account":""}"#, r#"{"kf_account":"a"}"#, "{}", "null", "7"]
        {
            assert!(!complete(odd) && !complete(&format!(r#"{{"kf_account":"a@b"}},{odd}"#)), "{odd}");
        }
    }

    #[test]
    fn online_accounts_are_parsed_in_all_variants() {
        for (fields, expected) in [
            (r#","status":"1","accepted_case":"3""#, online("a@b", true, Some(3))),
            (r#","status":3,"auto_accept":5"#, online("a@b", true, None)),
            (r#","status":0,"accepted_case":0"#, online("a@b", false, Some(0))),
            (r#","status":"0","accepted_case":-1"#, online("a@b", false, None)),
            (r#","status":{},"accepted_case":1.5"#, online("a@b", true, None)),
        ] {
            let text = format!(r#"{{"kf_online_list":[{{"kf_account":"a@b"{fields}}}]}}"#);
            assert_eq!(online_kf_list(&text), Ok(vec![expected]), "{text}");
        }
    }

    #[test]
    fn waiting_queue_is_parsed_in_all_variants() {
        waits(r#"{"count":"2","waitcaselist":[]}"#, 2, None);
        waits(r#"{"count":3}"#, 3, None);
        waits(r#"{"count":0,"waitcaselist":[]}"#, 0, None);
        waits(r#"{"count":0,"waitcaselist":null}"#, 0, None);
        waits(r#"{"waitcaselist":[{"openid":"o","kf_account":"","createtime":"7"}]}"#, 1, Some(7));
        waits(
            r#"{"count":[],"waitcaselist":[{"latest_time":9,"createtime":7},{"latest_time":8}]}"#,
            2,
            Some(8),
        );
        waits(r#"{"count":1,"waitcaselist":[{"latest_time":0},{"latest_time":99999999999999},5]}"#, 1, None);
        waits(r#"{"count":1,"waitcaselist":"none"}"#, 1, None);
        let two_hundred: Vec<_> = (0..200).map(|n| json!({"latest_time": 1000 - n})).collect();
        waits(&json!({"count": 200, "waitcaselist": two_hundred}).to_string(), 200, Some(901));
    }

    #[test]
    fn quotas_are_parsed_in_all_variants() {
        let quota_of = |fields: &str| quota(&format!(r#"{{"quota":{{{fields}}}}}"#));
        let expected = Quota { limit: 10, used: Some(4), remaining: 6 };
        assert_eq!(quota_of(r#""daily_limit":"10","used":"4","remain":"6""#), Ok(expected));
        assert_eq!(quota_of(r#""daily_limit":10,"used":4,"remain":null"#), Ok(expected));
        let overdrawn = Quota { limit: 10, used: Some(14), remaining: 0 };
        assert_eq!(quota_of(r#""daily_limit":10,"used":14"#), Ok(overdrawn));
        let unused = Quota { limit: 10, used: None, remaining: 6 };
        assert_eq!(quota_of(r#""daily_limit":10,"used":{},"remain":6"#), Ok(unused));
        is_malformed(quota_of(r#""used":4,"remain":6"#));
        is_malformed(quota_of(r#""daily_limit":10"#));
        is_malformed(quota_of(r#""daily_limit":-1,"remain":6"#));
        is_malformed(quota(r#"{"quota":null}"#));
        is_malformed(quota(r#"{"daily_limit":10,"used":4,"remain":6}"#));
    }

    #[test]
    fn absent_list_is_malformed_and_not_empty() {
        assert_eq!(kf_list(r#"{"kf_list":[]}"#), Ok(KfList { accounts: vec![], complete: true }));
        assert_eq!(online_kf_list(r#"{"kf_online_list":[]}"#), Ok(vec![]));
        for text in
            ["{}", r#"{"errcode":0,"errmsg":"ok"}"#, "", "null", "[0,[]]", "<html>", r#"{"errcode":true}"#]
        {
            is_malformed(kf_list(text));
            is_malformed(online_kf_list(text));
            is_malformed(wait_case(text));
            is_malformed(quota(text));
        }
        for list in ["null", "{}", "\"\"", "7"] {
            is_malformed(kf_list(&format!(r#"{{"kf_list":{list}}}"#)));
            is_malformed(online_kf_list(&format!(r#"{{"kf_online_list":{list}}}"#)));
        }
    }

    #[test]
    fn list_of_another_call_is_malformed() {
        is_malformed(kf_list(ONLINE));
        is_malformed(online_kf_list(KF_LIST));
    }

    #[test]
    fn overlong_list_is_malformed() {
        let list = |count: usize| {
            let accounts: Vec<_> = (0..count).map(|n| json!({"kf_account": format!("{n}@b")})).collect();
            kf_list(&json!({ "kf_list": accounts }).to_string())
        };
        assert_eq!(list(MAX_LISTED_ACCOUNTS).map(|list| list.accounts.len()), Ok(MAX_LISTED_ACCOUNTS));
        is_malformed(list(MAX_LISTED_ACCOUNTS + 1));
    }

    #[test]
    fn errcode_counts_whatever_else_the_answer_contains() {
        let refused =
            |code: i64| move |error| matches!(error, WireError::Refused { code: c, .. } if c == code);
        assert!(kf_list(r#"{"kf_list":[],"errcode":65400,"errmsg":7}"#).is_err_and(refused(65400)));
        assert!(online_kf_list(r#"{"errcode":"48001","kf_online_list":[]}"#).is_err_and(refused(48001)));
        assert!(wait_case(r#"{"errcode":-1,"count":0}"#).is_err_and(refused(-1)));
        assert!(quota(r#"{"errcode":76022,"errmsg":"x","quota":7}"#).is_err_and(refused(76022)));
        assert_eq!(
            kf_list(r#"{"errcode":null,"errmsg":{},"kf_list":[]}"#).map(|list| list.accounts),
            Ok(vec![])
        );
    }

    #[test]
    fn nicknames_are_printable() {
        let nickname = |written: &str| {
            let text = json!({"kf_list": [{"kf_account": "a@b", "kf_nick": written}]}).to_string();
            kf_list(&text).unwrap().accounts.remove(0).nickname
        };
        assert_eq!(nickname("小\"王\"\n\u{1b}[2J").as_deref(), Some("小\"王\"  [2J"));
        assert_eq!(nickname(" "), None);
        assert_eq!(nickname(&"x".repeat(10_000)).unwrap().len(), MAX_NICKNAME_BYTES + "…".len());
    }

    proptest! {
        #[test]
        fn arbitrary_json_lists_nothing_without_the_list(value in any_json()) {
            let text = value.to_string();
            let has = |key: &str| value.get(key).is_some_and(Value::is_array);
            prop_assert!(kf_list(&text).is_err() || has("kf_list"));
            prop_assert!(online_kf_list(&text).is_err() || has("kf_online_list"));
            let _ = (wait_case(&text), quota(&text));
        }

        #[test]
        fn odd_field_in_kf_list_affects_no_other_field(
            field in select(&["kf_id", "kf_nick", "kf_headimgurl", "kf_wx", "invite_status", "invite_expire_time", "invite_wx"][..]),
            at in 0..3usize, value in any_json(),
        ) {
            let mut answer: Value = serde_json::from_str(KF_LIST).unwrap();
            answer["kf_list"][at][field] = value;
            let (intact, read) =
                (kf_list(KF_LIST).unwrap().accounts, kf_list(&answer.to_string()).unwrap().accounts);
            prop_assert_eq!(read.len(), intact.len());
            for (n, (read, intact)) in read.into_iter().zip(intact).enumerate() {
                prop_assert_eq!(&read.kf_account, &intact.kf_account);
                prop_assert!(read.nickname == intact.nickname || (n == at && field == "kf_nick"));
                prop_assert!(read.binding == intact.binding || (n == at && !field.starts_with("kf_n")));
            }
        }

        #[test]
        fn odd_kf_account_affects_no_other_entry(at in 0..2usize, value in any_json()) {
            let mut answer: Value = serde_json::from_str(ONLINE).unwrap();
            answer["kf_online_list"][at]["kf_account"] = value.clone();
            let read = online_kf_list(&answer.to_string()).unwrap();
            let others = online_kf_list(ONLINE).unwrap();
            prop_assert!(read.contains(&others[1 - at]));
            answer["kf_online_list"][at] = value;
            prop_assert!(online_kf_list(&answer.to_string()).unwrap().contains(&others[1 - at]));
        }

        #[test]
        fn odd_fields_in_other_answers_affect_no_other_field(value in any_json()) {
            let with = |text: &str, path: &str, value: &Value| {
                let mut answer: Value = serde_json::from_str(text).unwrap();
                *answer.pointer_mut(path).unwrap() = value.clone();
                answer.to_string()
            };
            let online = online_kf_list(&with(ONLINE, "/kf_online_list/0/accepted_case", &value)).unwrap();
            prop_assert!(online[0].online && online[1] == online_kf_list(ONLINE).unwrap()[1]);
            let online = online_kf_list(&with(ONLINE, "/kf_online_list/0/status", &value)).unwrap();
            prop_assert_eq!(online[0].accepted_cases, Some(1));
            prop_assert_eq!(wait_case(&with(WAITING, "/waitcaselist", &value)).unwrap().customers, 150);
            prop_assert_eq!(wait_case(&with(WAITING, "/waitcaselist/0", &value)).unwrap().customers, 150);
            prop_assert!(wait_case(&with(WAITING, "/count", &value)).is_ok());
            prop_assert_eq!(quota(&with(QUOTA, "/quota/used", &value)).unwrap().remaining, 499_998);
            prop_assert_eq!(quota(&with(QUOTA, "/rate_limit", &value)), quota(QUOTA));
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = super::super::text(&body);
            prop_assert!(kf_list(&text).is_err() && online_kf_list(&text).is_err());
            let _ = (wait_case(&text), quota(&text));
        }
    }
}
