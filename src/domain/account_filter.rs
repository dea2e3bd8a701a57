//! Which accounts a command is about, in the words of a person.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{closest::closest, quantity::grouped};

/// Known names that an error lists, if none is similar.
const MAX_LISTED: usize = 5;

/// Selects accounts by name. Without any name it selects all.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFilter {
    /// `kf_account`, `official_account/kf_account`, a nickname, or an official account, which stands for all of its kf accounts.
    pub account: Option<String>,
    /// The name of an official account.
    pub official_account: Option<String>,
}

/// For logs, without the names: a person may have written an openid.
impl fmt::Debug for AccountFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AccountFilter");
        for (field, name) in [("account", &self.account), ("official_account", &self.official_account)] {
            if name.is_some() {
                shown.field(field, &"…");
            }
        }
        shown.finish()
    }
}

/// The names of a kf account.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub struct AccountNames<'a> {
    pub official_account: &'a str,
    pub kf_account: &'a str,
    pub nickname: Option<&'a str>,
}

/// A filter selects no account that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such {what}: {name:?}{hint}")]
pub struct UnknownAccount {
    what: &'static str,
    name: String,
    /// What may have been meant, or which names are known.
    hint: String,
}

impl AccountFilter {
    /// Whether it selects all accounts.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it names an account as only getkflist does: each kf account has an "@".
    pub(crate) fn may_be_nickname(&self) -> bool {
        self.account.as_deref().is_some_and(|name| !name.contains('@'))
    }

    /// Whether it can select kf accounts of the official account with this name.
    pub fn admits(&self, official_account: &str) -> bool {
        self.official_account.as_deref().is_none_or(|wanted| wanted == official_account)
    }

    /// Whether it selects all kf accounts of this official account, known or not.
    pub fn selects_all_of(&self, official_account: &str) -> bool {
        self.admits(official_account)
            && self.account.as_deref().is_none_or(|wanted| wanted == official_account)
    }

    /// Whether it selects this kf account.
    pub fn selects(&self, names: AccountNames<'_>) -> bool {
        self.admits(names.official_account)
            && self.account.as_deref().is_none_or(|wanted| names.answer_to(wanted))
    }

    /// The error if it selects none of the known accounts. `official_accounts` are known, too, even without a kf account.
    pub fn unknown<'a>(
        &self,
        official_accounts: impl IntoIterator<Item = &'a str>,
        known: impl IntoIterator<Item = AccountNames<'a>>,
    ) -> UnknownAccount {
        let mut official_accounts: Vec<&str> = official_accounts.into_iter().collect();
        official_accounts.sort_unstable();
        official_accounts.dedup();
        match (&self.official_account, &self.account) {
            (Some(name), _) if !official_accounts.contains(&name.as_str()) => {
                let hint = hint(name, &official_accounts);
                UnknownAccount { what: "official account", name: name.clone(), hint }
            }
            (_, account) => {
                let known: Vec<_> =
                    known.into_iter().filter(|names| self.admits(names.official_account)).collect();
                let name = account.clone().unwrap_or_default();
                UnknownAccount { what: "kf account", hint: hint_of_accounts(&name, &known), name }
            }
        }
    }
}

impl AccountNames<'_> {
    fn answer_to(self, wanted: &str) -> bool {
        let Self { official_account, kf_account, nickname } = self;
        let is_qualified = || {
            let rest = wanted.strip_prefix(official_account).and_then(|rest| rest.strip_prefix('/'));
            rest == Some(kf_account)
        };
        wanted == kf_account || wanted == official_account || nickname == Some(wanted) || is_qualified()
    }
}

fn hint_of_accounts(name: &str, known: &[AccountNames<'_>]) -> String {
    let mut names: Vec<&str> = known.iter().map(|names| names.kf_account).collect();
    names.sort_unstable();
    names.dedup();
    // The official account may be misspelled, or be one that does not have the kf account.
    let (official_account, kf_account) = name.split_once('/').unwrap_or(("", name));
    let with_prefix = |candidate: &&&str| candidate.split('@').next() == Some(kf_account);
    let similar = names.iter().find(with_prefix).copied().or_else(|| closest(kf_account, &names));
    let owner = known.iter().find(|names| !official_account.is_empty() && Some(names.kf_account) == similar);
    if let Some(owner) = owner {
        return format!("; did you mean {}/{}?", owner.official_account, owner.kf_account);
    }
    let nicknames: Vec<&str> = known.iter().filter_map(|names| names.nickname).collect();
    if let Some(similar) = similar.or_else(|| closest(name, &nicknames)) {
        return format!("; did you mean {similar}?");
    }
    match nicknames.is_empty() {
        true => format!("{} (no nickname is known)", listed(&names)),
        false => listed(&names),
    }
}

fn hint(name: &str, known: &[&str]) -> String {
    closest(name, known).map_or_else(|| listed(known), |similar| format!("; did you mean {similar}?"))
}

fn listed(known: &[&str]) -> String {
    let first = known.iter().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
    match known.len().saturating_sub(MAX_LISTED) {
        _ if known.is_empty() => "; none is known yet".to_owned(),
        0 => format!("; known are {first}"),
        more => format!("; known are {first} and {} more", grouped(more as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [AccountNames<'_>; 3] = [
        AccountNames { official_account: "shop", kf_account: "kf1@shop", nickname: Some("小明") },
        AccountNames { official_account: "shop", kf_account: "kf2@shop", nickname: None },
        AccountNames { official_account: "branch", kf_account: "kf1@branch", nickname: Some("小明") },
    ];

    fn filter(account: &str, official_account: &str) -> AccountFilter {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        AccountFilter { account: given(account), official_account: given(official_account) }
    }

    #[test]
    fn accounts_are_selected_by_every_name() {
        for (account, official_account, selected) in [
            ("", "", vec!["kf1@shop", "kf2@shop", "kf1@branch"]),
            ("kf1@shop", "", vec!["kf1@shop"]),
            ("shop/kf2@shop", "", vec!["kf2@shop"]),
            ("branch/kf2@shop", "", vec![]),
            ("shop", "", vec!["kf1@shop", "kf2@shop"]),
            ("小明", "", vec!["kf1@shop", "kf1@branch"]),
            ("小明", "branch", vec!["kf1@branch"]),
            ("", "branch", vec!["kf1@branch"]),
            ("kf1@shop", "branch", vec![]),
        ] {
            let filter = filter(account, official_account);
            let found: Vec<_> =
                KNOWN.iter().filter(|names| filter.selects(**names)).map(|names| names.kf_account).collect();
            assert_eq!(found, selected, "{account} of {official_account}");
        }
    }

    #[test]
    fn debug_output_hides_what_a_person_wrote() {
        assert_eq!(format!("{:?}", filter("oDF3iY9P32sK", "")), r#"AccountFilter { account: "…" }"#);
        assert_eq!(format!("{:?}", AccountFilter::default()), "AccountFilter");
    }

    #[test]
    fn unknown_name_is_reported_with_what_was_meant() {
        let official_accounts = || KNOWN.iter().map(|names| names.official_account);
        for (account, official_account, expected) in [
            ("kf9@shop", "", "no such kf account: \"kf9@shop\"; did you mean kf1@shop?"),
            ("kf2", "", "no such kf account: \"kf2\"; did you mean kf2@shop?"),
            ("shp/kf2@shop", "", "no such kf account: \"shp/kf2@shop\"; did you mean shop/kf2@shop?"),
            ("小朋", "", "no such kf account: \"小朋\"; did you mean 小明?"),
            ("", "shp", "no such official account: \"shp\"; did you mean shop?"),
            ("", "warehouse", "no such official account: \"warehouse\"; known are branch, shop"),
            ("nobody", "branch", "no such kf account: \"nobody\"; known are kf1@branch"),
        ] {
            let unknown = filter(account, official_account).unknown(official_accounts(), KNOWN);
            assert_eq!(unknown.to_string(), expected);
        }
        let nobody = filter("小明", "").unknown(["shop"], [KNOWN[1]]);
        assert_eq!(
            nobody.to_string(),
            "no such kf account: \"小明\"; known are kf2@shop (no nickname is known)"
        );
    }
}
