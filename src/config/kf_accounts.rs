//! Checks which kf accounts of an official account are polled: full names, and patterns for those that getkflist lists.

use std::collections::HashSet;
use std::time::Duration;

use glob::Pattern;

use super::mistake::quote;
use super::setting::{Setting, TextList};
use super::table::Table;
use crate::domain::account::is_kf_account;

/// The maximum number of kf accounts of one official account, those that patterns find included. WeChat allows 100.
pub(crate) const MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT: usize = 1_000;

/// The checked `kf_accounts` and `exclude` of one official account.
#[derive(Default)]
pub(super) struct KfAccounts {
    pub(super) named: Vec<String>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) exclude: Vec<Pattern>,
}

impl KfAccounts {
    /// Checks the official account `of`. Returns `None` if the list of kf accounts is unusable.
    pub(super) fn check(
        kf_accounts: Setting<TextList>,
        exclude: Setting<TextList>,
        of: &mut Table<'_>,
    ) -> Option<Self> {
        if kf_accounts.is_absent() {
            let problem = "is missing; list the full kf accounts, for example kf_accounts = [\"test1@test\"]";
            of.wrong("kf_accounts", problem);
        }
        let excluded = of.list("exclude", exclude, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT);
        let listed = of.list("kf_accounts", kf_accounts, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT)?;
        let mut checked = Self::default();
        let mut seen = HashSet::new();
        for (n, text) in listed.into_iter().enumerate() {
            if !seen.insert(text.clone()) {
                of.wrong_element("kf_accounts", (n, &text), "is listed twice; remove one");
            } else if text.is_ascii() && is_pattern(&text) {
                checked.patterns.extend(parse_pattern("kf_accounts", (n, &text), of));
            } else if text.is_ascii() && is_kf_account(&text) {
                checked.named.push(text);
            } else {
                let problem = "is not a full kf account; write prefix@wechatid, at most 64 ASCII characters";
                of.wrong_element("kf_accounts", (n, &text), problem);
            }
        }
        if let Some(excluded) = excluded {
            let has_patterns = seen.iter().any(|text| is_pattern(text));
            checked.check_exclude(&excluded, has_patterns, of);
        }
        Some(checked)
    }

    fn check_exclude(&mut self, excluded: &[String], has_patterns: bool, of: &mut Table<'_>) {
        if !has_patterns {
            let problem =
                "excludes nothing, because kf_accounts contains no pattern such as \"*\"; remove it";
            return of.wrong("exclude", problem);
        }
        for (n, text) in excluded.iter().enumerate() {
            if !text.is_ascii() || !is_pattern(text) && !is_kf_account(text) {
                let problem =
                    "is neither a full kf account nor a pattern; write it like \"test1@test\" or \"test*\"";
                of.wrong_element("exclude", (n, text), problem);
                continue;
            }
            let Some(pattern) = parse_pattern("exclude", (n, text), of) else { continue };
            if let Some(named) = self.named.iter().find(|named| pattern.matches(named)) {
                let problem = format!("excludes {}, which kf_accounts lists; remove one", quote(named));
                of.wrong_element("exclude", (n, text), &problem);
            }
            self.exclude.push(pattern);
        }
    }

    /// Patterns need getkflist, which is called every `kf_list`, or never.
    pub(super) fn check_patterns(&self, kf_list: Option<Duration>, of: &mut Table<'_>) {
        if let (Some(pattern), None) = (self.patterns.first(), kf_list) {
            let problem = "is a pattern, but collectors.kf_list is \"off\", so no kf accounts are found; set \
                           collectors.kf_list to an interval, or list full kf accounts here";
            of.wrong_value("kf_accounts", pattern.as_str(), problem);
        }
    }
}

/// Whether the text is meant as a pattern: kf accounts contain none of these characters.
fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn parse_pattern(key: &str, (n, text): (usize, &str), of: &mut Table<'_>) -> Option<Pattern> {
    let pattern = Pattern::new(text).ok();
    if pattern.is_none() {
        let problem =
            "is not a valid pattern; write * for any text, ? for one character, [ab] for one of several";
        of.wrong_element(key, (n, text), problem);
    }
    pattern
}
