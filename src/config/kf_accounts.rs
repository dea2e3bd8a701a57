//! Checks which kf accounts of an official account are polled: full names, and patterns for those that getkflist lists.

use std::collections::HashSet;
use std::time::Duration;

use glob::Pattern;

use super::findings::Findings;
use super::mistake::quote;
use super::setting::{Setting, TextList};
use super::sources::KeyPath;
use crate::domain::account::is_kf_account;

/// The maximum number of kf accounts of one official account, those that patterns find included. WeChat allows 100.
pub const MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT: usize = 1_000;

/// The checked `kf_accounts` and `exclude` of one official account.
#[derive(Default)]
pub(super) struct KfAccounts {
    pub(super) named: Vec<String>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) exclude: Vec<Pattern>,
}

impl KfAccounts {
    /// Checks the official account at `at`. Returns `None` if the list of kf accounts is unusable.
    pub(super) fn check(
        at: &KeyPath<'_>,
        kf_accounts: Setting<TextList>,
        exclude: Setting<TextList>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let (key, exclude_key) = (at.name("kf_accounts"), at.name("exclude"));
        if kf_accounts.is_absent() {
            let example = "kf_accounts = [\"test1@test\"]";
            findings.wrong(&key, format!("is missing; list the full kf accounts, for example {example}"));
        }
        let excluded = findings.list(&exclude_key, exclude, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT);
        let listed = findings.list(&key, kf_accounts, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT)?;
        let mut checked = Self::default();
        let mut seen = HashSet::new();
        for (n, text) in listed.into_iter().enumerate() {
            let quoted = quote(&text);
            if !seen.insert(text.clone()) {
                findings.wrong(&key.index(n), format!("{quoted} is listed twice; remove one"));
            } else if is_pattern(&text) {
                checked.patterns.extend(parse_pattern(&key.index(n), &text, findings));
            } else if is_kf_account(&text) {
                checked.named.push(text);
            } else {
                let problem = "is not a full kf account; write prefix@wechatid, at most 64 characters";
                findings.wrong(&key.index(n), format!("{quoted} {problem}"));
            }
        }
        if let Some(excluded) = excluded {
            let has_patterns = seen.iter().any(|text| is_pattern(text));
            checked.check_exclude(&exclude_key, &excluded, has_patterns, findings);
        }
        Some(checked)
    }

    fn check_exclude(
        &mut self,
        key: &KeyPath<'_>,
        excluded: &[String],
        has_patterns: bool,
        findings: &mut Findings,
    ) {
        if !has_patterns {
            let problem =
                "excludes nothing, because kf_accounts contains no pattern such as \"*\"; remove it";
            return findings.wrong(key, problem);
        }
        for (n, text) in excluded.iter().enumerate() {
            let key = key.index(n);
            if !is_pattern(text) && !is_kf_account(text) {
                let problem =
                    "is neither a full kf account nor a pattern; write it like \"test1@test\" or \"test*\"";
                findings.wrong(&key, format!("{} {problem}", quote(text)));
                continue;
            }
            let Some(pattern) = parse_pattern(&key, text, findings) else { continue };
            if let Some(named) = self.named.iter().find(|named| pattern.matches(named)) {
                let named = quote(named);
                findings.wrong(
                    &key,
                    format!("{} excludes {named}, which kf_accounts lists; remove one", quote(text)),
                );
            }
            self.exclude.push(pattern);
        }
    }

    /// Patterns need getkflist, which is called every `kf_list`, or never.
    pub(super) fn check_patterns(
        &self,
        at: &KeyPath<'_>,
        kf_list: Option<Duration>,
        findings: &mut Findings,
    ) {
        if let (Some(pattern), None) = (self.patterns.first(), kf_list) {
            let quoted = quote(pattern.as_str());
            let problem = "is a pattern, but collectors.kf_list is \"off\", so no kf accounts are found";
            let remedy = "set collectors.kf_list to an interval, or list full kf accounts here";
            findings.wrong(&at.name("kf_accounts"), format!("{quoted} {problem}; {remedy}"));
        }
    }
}

/// Whether the text is meant as a pattern: kf accounts contain none of these characters.
fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn parse_pattern(key: &KeyPath<'_>, text: &str, findings: &mut Findings) -> Option<Pattern> {
    let pattern = Pattern::new(text).ok();
    if pattern.is_none() {
        let remedy = "write * for any text, ? for one character, [ab] for one of several";
        findings.wrong(key, format!("{} is not a valid pattern; {remedy}", quote(text)));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::sources::{ConfigSources, Document};
    use super::*;

    #[test]
    fn pattern_without_kf_list_is_rejected() {
        let check = |patterns: &[&str], kf_list: Option<Duration>| {
            let document = Document::parse(0, "config.toml", None, "").unwrap();
            let sources = ConfigSources { documents: vec![document], variables: BTreeMap::new() };
            let mut findings = Findings::new(sources, Vec::new());
            let patterns = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
            let kf_accounts = KfAccounts { patterns, ..KfAccounts::default() };
            kf_accounts.check_patterns(&KeyPath::root(0).name("official_accounts"), kf_list, &mut findings);
            findings.finish(Some(())).map_err(|mistakes| mistakes.to_string())
        };
        let message = "config.toml: official_accounts.kf_accounts: \"test*\" is a pattern, but collectors.kf_list is \
                       \"off\", so no kf accounts are found; set collectors.kf_list to an interval, or list full kf \
                       accounts here";
        assert_eq!(check(&["test*"], None).unwrap_err(), message);
        assert!(check(&["test*"], Some(Duration::from_secs(300))).is_ok());
        assert!(check(&[], None).is_ok());
    }
}
