//! The families with free-form labels, written as text (format 0.0.4) straight from the account table.
//!
//! Output goes out in chunks of [`CHUNK`] bytes through a callback, so that a page of a hundred megabytes never
//! stands in memory; nothing is allocated per series. All series of a family are written together, as the format
//! asks, and no family name stands in the registry as well.

mod accounts;
mod calls;
mod collected;
mod columns;
mod lines;
mod sinks;
mod stored;

pub use self::stored::Stored;
use super::Metrics;
use crate::status::Table;

/// How many bytes are handed on at a time.
pub const CHUNK: usize = 64 * 1024;

/// Which series a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// One series for each kf account.
    PerAccount,
    /// Sums per official account.
    PerOfficialAccount,
}

/// Writes all families with free-form labels; `emit` takes the text in chunks and says whether to go on.
pub fn write(
    table: &Table,
    metrics: &Metrics,
    stored: &Stored,
    detail: Detail,
    emit: impl FnMut(Vec<u8>) -> bool,
) {
    let mut page = Page { chunk: Chunk::new(), emit, open: true };
    page.accounts(table, detail);
    page.collected(table);
    page.calls(table);
    page.store(stored);
    page.sinks(metrics, stored);
    page.flush();
}

/// The text that is handed on next. Its memory is there from the beginning, and so a line is written to a slice of it: with
/// a `Vec` that grows, each piece of it would have to be asked for room.
struct Chunk {
    bytes: Vec<u8>,
    /// How much of it is text.
    len: usize,
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK], len: 0 }
    }
}

struct Page<E> {
    chunk: Chunk,
    emit: E,
    /// Whether somebody still reads.
    open: bool,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        for text in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.append(text);
        }
    }

    fn value(&mut self, name: &str, value: u64) {
        for text in [name, " ", itoa::Buffer::new().format(value), "\n"] {
            self.append(text);
        }
    }

    fn series(&mut self, name: &str, labels: &[&str], value: u64) {
        self.append(name);
        self.append("{");
        labels.iter().for_each(|part| self.append(part));
        self.append("} ");
        self.append(itoa::Buffer::new().format(value));
        self.append("\n");
    }

    fn append(&mut self, text: &str) {
        self.room(text.len())[..text.len()].copy_from_slice(text.as_bytes());
        self.chunk.len += text.len();
    }

    /// What follows the text, so many bytes at least. What is written there counts once `chunk.len` says so.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.chunk.bytes.len() - self.chunk.len < bytes {
            self.turn_over(bytes);
        }
        &mut self.chunk.bytes[self.chunk.len..]
    }

    #[cold]
    fn turn_over(&mut self, bytes: usize) {
        self.flush();
        self.chunk.bytes.resize(bytes.max(CHUNK), 0);
    }

    fn flush(&mut self) {
        let Chunk { mut bytes, len } = std::mem::replace(&mut self.chunk, Chunk::new());
        bytes.truncate(len);
        self.open = self.open && (self.emit)(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{account::Account, tracker::AccountTracker},
        status::{AccountStatus, AccountView, OfficialAccountStatus},
    };

    /// Two official accounts, one with names of all lengths that end at and behind a block, and one with few.
    fn table() -> Table {
        let official_account = |name: &str, kf_accounts: Vec<String>| {
            let status = |kf_account: String| {
                let account = Account {
                    official_account: name.into(),
                    appid: "wx1".into(),
                    kf_account: kf_account.as_str().into(),
                };
                let status = AccountStatus::restored(account, &AccountTracker::default());
                let polls = kf_account.len() as u32;
                let mut row = status.row();
                row.polls = if polls.is_multiple_of(7) { polls << 24 } else { polls };
                row.sessions = polls.is_multiple_of(3).then_some(polls / 10);
                row.agent.nickname = polls.is_multiple_of(5).then(|| kf_account.as_str().into());
                drop(row);
                status
            };
            let of = OfficialAccountStatus::new(name.into(), Arc::default(), Arc::default());
            of.set_kf_accounts(Arc::new(kf_accounts.into_iter().map(status).collect::<Vec<_>>()));
            Arc::new(of)
        };
        Table::new(vec![
            official_account(
                "sh\"op",
                (0..100).map(|len| "微kf\\@".chars().cycle().take(len).collect()).collect(),
            ),
            official_account("none", Vec::new()),
            official_account(&"o".repeat(64), vec!["kf1@oa".into(), "kf2@oa".into()]),
        ])
    }

    #[test]
    fn each_line_has_the_labels_and_the_value_of_its_account() {
        let (table, metrics) = (table(), Metrics::new([]).unwrap());
        let mut page = Vec::new();
        write(&table, &metrics, &Stored::default(), Detail::PerAccount, |chunk| {
            page.extend(chunk);
            true
        });
        let page = String::from_utf8(page).unwrap();
        let lines = |name: &str| -> Vec<&str> {
            page.lines().filter(|line| line.split('{').next() == Some(name)).collect()
        };
        let expected = |name: &str, value: fn(&AccountView) -> Option<String>| -> Vec<String> {
            let mut lines = Vec::new();
            for of in table.official_accounts() {
                of.look(|read| {
                    let kf_account = crate::status::escaped(&read.account.kf_account);
                    let line = |value| format!("{name}{{{},kf_account=\"{kf_account}\"{value}", of.labels);
                    lines.extend(value(read.row).map(line));
                });
            }
            lines
        };
        let value = |name: &str, value: fn(&AccountView) -> Option<String>| {
            let expected = expected(name, value);
            assert!(!expected.is_empty(), "{name}");
            assert_eq!(lines(name), expected, "{name}");
        };
        value("kfwatch_polls_total", |row| Some(format!("}} {}", row.polls)));
        value("wechat_kf_active_sessions", |row| Some(format!("}} {}", row.sessions?)));
        value("wechat_kf_account_up", |_| Some("} 0".into()));
        value("wechat_kf_account_info", |row| {
            let nickname = row.agent.nickname.as_deref().filter(|nickname| !nickname.is_empty())?;
            Some(format!(",nickname=\"{}\"}} 1", crate::status::escaped(nickname)))
        });
        assert!(lines("wechat_kf_account_online").is_empty());
    }
}
