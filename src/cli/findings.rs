//! Problems that several accounts share, in one entry each.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use super::output;
use crate::domain::quantity::counted;

/// Accounts named for each problem.
const MAX_NAMED: usize = 10;

/// An official account, and a kf account of it if the problem is that one's.
pub(super) type AccountName<'a> = (&'a str, Option<&'a str>);

/// A problem, and all accounts that have it.
pub(super) struct Finding<'a, P> {
    pub(super) problem: P,
    accounts: Vec<AccountName<'a>>,
}

/// Puts problems with equal keys together, in the order of the first of each. A problem without an account is the machine's.
pub(super) fn group<'a, K: Eq + Hash, P>(
    problems: impl Iterator<Item = (K, P, Option<AccountName<'a>>)>,
) -> Vec<Finding<'a, P>> {
    let mut findings: Vec<Finding<'a, P>> = Vec::new();
    let mut places = HashMap::new();
    for (key, problem, account) in problems {
        // Official accounts and kf accounts are not counted together.
        let key = (key, account.is_some_and(|(_, kf_account)| kf_account.is_some()));
        let place = *places.entry(key).or_insert_with(|| {
            findings.push(Finding { problem, accounts: Vec::new() });
            findings.len() - 1
        });
        if let Some(finding) = findings.get_mut(place) {
            finding.accounts.extend(account);
        }
    }
    findings
}

impl<P> Finding<'_, P> {
    /// The accounts that have the problem, as a prefix of its text. Empty for a problem of the machine.
    pub(super) fn accounts(&self) -> String {
        let full_name =
            |(official_account, kf_account): &AccountName<'_>| output::account(official_account, *kf_account);
        let official_accounts: BTreeSet<&str> = self.accounts.iter().map(|(name, _)| *name).collect();
        let count = self.accounts.len() as u64;
        let of = counted(official_accounts.len() as u64, "official account");
        match &self.accounts[..] {
            [] => String::new(),
            [one] => format!("{}: ", full_name(one)),
            [(official_account, Some(_)), ..] if official_accounts.len() == 1 => {
                let named = self.named(|(_, kf_account)| kf_account.unwrap_or_default().to_owned());
                format!("{official_account}, {} ({named}): ", counted(count, "kf account"))
            }
            [(_, Some(_)), ..] => {
                format!("{} of {of} ({}): ", counted(count, "kf account"), self.named(full_name))
            }
            [(_, None), ..] => format!("{of} ({}): ", self.named(full_name)),
        }
    }

    fn named(&self, name: impl Fn(&AccountName<'_>) -> String) -> String {
        let named = self.accounts.iter().take(MAX_NAMED).map(name).collect::<Vec<_>>().join(", ");
        let more = if self.accounts.len() > MAX_NAMED { ", …" } else { "" };
        named + more
    }
}
