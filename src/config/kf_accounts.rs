//! Checks which kf accounts of an official account are to be watched: those that are named, and patterns for those that
//! getkflist lists.

use std::collections::HashSet;
use std::time::Duration;

use glob::Pattern;

use super::locate::Key;
use super::mistake::quote;
use super::report::Report;
use super::setting::{OneOrMore, Setting};
use crate::domain::account::is_kf_account;

/// How many kf accounts one official account may have, found ones among them; WeChat allows 100.
pub const MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT: usize = 1_000;

/// What `kf_accounts` and `exclude` say.
#[derive(Default)]
pub(super) struct KfAccounts {
    pub(super) named: Vec<String>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) exclude: Vec<Pattern>,
}

impl KfAccounts {
    /// `at` is the official account. `None` where nothing can be made of its list of kf accounts.
    pub(super) fn check(
        at: &Key<'_>,
        kf_accounts: Setting<OneOrMore>,
        exclude: Setting<OneOrMore>,
        report: &mut Report,
    ) -> Option<Self> {
        let (key, exclude_key) = (at.name("kf_accounts"), at.name("exclude"));
        if kf_accounts.is_absent() {
            let example = "kf_accounts = [\"test1@test\"]";
            report.wrong(&key, format!("is missing; write the full accounts, for example {example}"));
        }
        let excluded = report.list(&exclude_key, exclude, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT);
        let listed = report.list(&key, kf_accounts, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT)?;
        let mut checked = Self::default();
        let mut seen = HashSet::new();
        for (n, written) in listed.into_iter().enumerate() {
            let quoted = quote(&written);
            if !seen.insert(written.clone()) {
                report.wrong(&key.index(n), format!("{quoted} is listed twice; remove one"));
            } else if is_pattern(&written) {
                checked.patterns.extend(pattern(&key.index(n), &written, report));
            } else if is_kf_account(&written) {
                checked.named.push(written);
            } else {
                let problem = "is not a full kf account; write prefix@wechatid, at most 64 characters";
                report.wrong(&key.index(n), format!("{quoted} {problem}"));
            }
        }
        if let Some(excluded) = excluded {
            checked.check_exclude(
                &exclude_key,
                &excluded,
                seen.iter().any(|written| is_pattern(written)),
                report,
            );
        }
        Some(checked)
    }

    fn check_exclude(&mut self, key: &Key<'_>, excluded: &[String], patterns: bool, report: &mut Report) {
        if !patterns {
            let problem = "excludes nothing, because kf_accounts holds no pattern such as \"*\"; remove it";
            return report.wrong(key, problem);
        }
        for (n, written) in excluded.iter().enumerate() {
            let key = key.index(n);
            if !is_pattern(written) && !is_kf_account(written) {
                let problem =
                    "is neither a full kf account nor a pattern; write it like \"test1@test\" or \"test*\"";
                report.wrong(&key, format!("{} {problem}", quote(written)));
                continue;
            }
            let Some(pattern) = pattern(&key, written, report) else { continue };
            if let Some(named) = self.named.iter().find(|named| pattern.matches(named)) {
                let named = quote(named);
                report.wrong(
                    &key,
                    format!("{} excludes {named}, which kf_accounts names; remove one", quote(written)),
                );
            }
            self.exclude.push(pattern);
        }
    }

    /// Patterns mean nothing without getkflist, which is called every `kf_list`, or not at all.
    pub(super) fn check_listed(&self, at: &Key<'_>, kf_list: Option<Duration>, report: &mut Report) {
        if let (Some(pattern), None) = (self.patterns.first(), kf_list) {
            let quoted = quote(pattern.as_str());
            let problem =
                "matches what getkflist lists, and collectors.kf_list is \"off\"; write an interval there";
            report.wrong(&at.name("kf_accounts"), format!("{quoted} {problem}, or full kf accounts here"));
        }
    }
}

/// Whether it is meant as one: none of these is in a kf account.
fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn pattern(key: &Key<'_>, written: &str, report: &mut Report) -> Option<Pattern> {
    let pattern = Pattern::new(written).ok();
    if pattern.is_none() {
        let remedy = "write * for any text, ? for any character, [ab] for one of several";
        report.wrong(key, format!("{} is no pattern; {remedy}", quote(written)));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::locate::{Document, Origins};
    use super::*;

    #[test]
    fn patterns_need_a_list_to_match() {
        let check = |patterns: &[&str], kf_list: Option<Duration>| {
            let document = Document::parse(0, "config.toml", None, "").unwrap();
            let origins = Origins { documents: vec![document], variables: BTreeMap::new() };
            let mut report = Report::new(origins, Vec::new());
            let patterns = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
            let kf_accounts = KfAccounts { patterns, ..KfAccounts::default() };
            kf_accounts.check_listed(&Key::root(0).name("official_accounts"), kf_list, &mut report);
            report.finish(Some(())).map_err(|mistakes| mistakes.to_string())
        };
        let message = "config.toml: official_accounts.kf_accounts: \"test*\" matches what getkflist lists, and \
                       collectors.kf_list is \"off\"; write an interval there, or full kf accounts here";
        assert_eq!(check(&["test*"], None).unwrap_err(), message);
        assert!(check(&["test*"], Some(Duration::from_secs(300))).is_ok());
        assert!(check(&[], None).is_ok());
    }
}
