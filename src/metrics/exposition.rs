//! Writes the families with free-form labels as text (format 0.0.4), from the tables of official accounts and sinks.
//!
//! The text is passed on in chunks of [`CHUNK`] bytes, so that a response of a hundred megabytes is never in memory as a
//! whole. The format wants all series of a family together. No family here has the name of one in the registry.

mod accounts;
mod calls;
mod cluster;
mod collected;
mod columns;
mod family;
mod log;
mod series;
mod sinks;
mod stored;

use self::family::Family;
pub use self::{
    cluster::{ClusterView, share_of_shards},
    series::{ConfiguredParts, SeriesCount},
    stored::{SinkView, Stored},
};
use crate::status::AccountTable;

/// Size of a chunk in bytes. A chunk can be longer by one line.
pub const CHUNK: usize = 64 * 1024;

/// Which series describe kf accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// One series per kf account.
    PerAccount,
    /// The same, without `wechat_kf_account_info`: nicknames are names of people.
    PerAccountWithoutNicknames,
    /// Sums per official account.
    PerOfficialAccount,
}

/// Writes all families with free-form labels. `emit` receives the text in chunks; writing stops when it returns false.
pub fn write(table: &AccountTable, stored: &Stored, detail: Detail, emit: impl FnMut(Vec<u8>) -> bool) {
    let mut page = Page { chunk: Vec::with_capacity(CHUNK), emit, open: true };
    let official_accounts = table.official_accounts();
    page.accounts(&official_accounts, detail);
    page.collected(&official_accounts);
    page.calls(&official_accounts);
    page.store(stored);
    page.sinks(stored);
    page.cluster(stored);
    page.log();
    page.flush();
}

struct Page<E> {
    chunk: Vec<u8>,
    emit: E,
    /// Whether the reader still accepts text.
    open: bool,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// Writes families with one value per item; each item has its label set as metric text, without braces.
    fn families<'a, T: 'a>(
        &mut self,
        families: &[Family<T>],
        items: impl Iterator<Item = (&'a str, &'a T)> + Clone,
    ) {
        for family in families {
            self.header(family.name, family.kind, family.help);
            for (labels, item) in items.clone() {
                if let Some(value) = (family.value)(item) {
                    self.series(family.name, labels, value);
                }
            }
        }
    }

    fn header(&mut self, name: &str, kind: &str, help: &str) {
        self.line(["# HELP ", name, " ", help]);
        self.line(["# TYPE ", name, " ", kind]);
    }

    /// Writes a series; without `labels` it has no braces.
    fn series(&mut self, name: &str, labels: &str, value: u64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value);
        match labels {
            "" => self.line([name, " ", digits]),
            labels => self.line([name, "{", labels, "} ", digits]),
        }
    }

    fn line<const N: usize>(&mut self, parts: [&str; N]) {
        if self.chunk.len() >= CHUNK {
            self.flush();
        }
        for part in parts {
            self.chunk.extend_from_slice(part.as_bytes());
        }
        self.chunk.push(b'\n');
    }

    fn flush(&mut self) {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.open = self.open && (self.emit)(chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            account::Account,
            snapshot::{ObservedSessions, Session, Snapshot},
            tracker::AccountTracker,
        },
        status::{AccountView, OfficialAccountStatus, WatchedAccount},
        store::AccountId,
    };

    /// An official account with names of many lengths, one without kf accounts, and one with a long name.
    fn table() -> AccountTable {
        let official_account = |name: &str, kf_accounts: Vec<String>| {
            let watched = |kf_account: String| {
                let account = Account {
                    official_account: name.into(),
                    appid: "wx1".into(),
                    kf_account: kf_account.as_str().into(),
                };
                let polls = kf_account.len() as u32;
                let mut tracker = AccountTracker::default();
                if polls.is_multiple_of(3) {
                    let session = |n| Session { openid: format!("o{n}").into(), createtime: 7 };
                    let sessions = ObservedSessions::new((0..polls / 10).map(session).collect());
                    tracker.last_seen.baseline_taken = true;
                    tracker.snapshot = Snapshot::from(&sessions);
                }
                let watched = WatchedAccount::new(account, AccountId(0), tracker);
                let mut data = watched.lock();
                data.counters.polls = if polls.is_multiple_of(7) { polls << 24 } else { polls };
                data.agent.nickname = polls.is_multiple_of(5).then(|| kf_account.as_str().into());
                drop(data);
                Arc::new(watched)
            };
            let of = OfficialAccountStatus::new(name.into(), Arc::default(), Arc::default());
            of.add_kf_accounts(kf_accounts.into_iter().map(watched).collect());
            Arc::new(of)
        };
        AccountTable::new(vec![
            official_account(
                "sh\"op",
                (0..100).map(|len| "微kf\\@".chars().cycle().take(len).collect()).collect(),
            ),
            official_account("none", Vec::new()),
            official_account(&"o".repeat(64), vec!["kf1@oa".into(), "kf2@oa".into()]),
        ])
    }

    #[test]
    fn every_line_has_the_labels_and_value_of_its_account() {
        let table = table();
        let mut page = Vec::new();
        write(&table, &Stored::default(), Detail::PerAccount, |chunk| {
            page.extend(chunk);
            true
        });
        let page = String::from_utf8(page).unwrap();
        let lines = |name: &str| -> Vec<&str> {
            page.lines().filter(|line| line.split('{').next() == Some(name)).collect()
        };
        let expected = |name: &str, value: fn(&AccountView) -> Option<String>| -> Vec<String> {
            let mut lines = Vec::new();
            for of in table.official_accounts().iter() {
                of.for_each_view(|account, view| {
                    let kf_account = crate::status::escaped(&account.kf_account);
                    let line = |value| format!("{name}{{{},kf_account=\"{kf_account}\"{value}", of.labels);
                    lines.extend(value(view).map(line));
                });
            }
            lines
        };
        let value = |name: &str, value: fn(&AccountView) -> Option<String>| {
            let expected = expected(name, value);
            assert!(!expected.is_empty(), "{name}");
            assert_eq!(lines(name), expected, "{name}");
        };
        value("kfwatch_polls_total", |view| Some(format!("}} {}", view.counters.polls)));
        value("wechat_kf_active_sessions", |view| Some(format!("}} {}", view.sessions?)));
        value("wechat_kf_account_up", |_| Some("} 0".into()));
        value("wechat_kf_account_info", |view| {
            let nickname = view.agent.nickname.as_deref().filter(|nickname| !nickname.is_empty())?;
            Some(format!(",nickname=\"{}\"}} 1", crate::status::escaped(nickname)))
        });
        assert!(lines("wechat_kf_account_online").is_empty());
    }
}
