//! The sessions of one kf account as seen in one poll.
//!
//! An answer is read into an [`ObservedSessions`] that borrows from the answer's text; only when it differs from what is
//! known is it packed into a [`Snapshot`], which is what stays in memory: all openids in one string and twelve
//! bytes a session beside it, because a daemon may hold a million of them. Both are sorted by openid and createtime
//! and hold no session twice, so that they are compared in one walk.

use std::borrow::Cow;

/// One customer session: the same openid with another createtime is another session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session<'a> {
    /// The customer's id under the official account: personal data.
    pub openid: Cow<'a, str>,
    /// When the agent accepted the session, in UNIX seconds.
    pub createtime: i64,
}

/// The sessions that one answer listed, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSessions<'a> {
    sessions: Vec<Session<'a>>,
}

impl<'a> ObservedSessions<'a> {
    /// Takes the entries of an answer in any order; duplicates collapse.
    pub fn new(mut sessions: Vec<Session<'a>>) -> Self {
        if sessions.len() >= MANY {
            nearly_sort(&mut sessions);
        }
        // What is in order already, this only looks at.
        sessions.sort_unstable();
        sessions.dedup();
        Self { sessions }
    }

    /// The sessions in order.
    pub fn sessions(&self) -> &[Session<'a>] {
        &self.sessions
    }
}

/// So many sessions are worth a sort of their own.
const MANY: usize = 32;

/// Sorts by the beginning of the openids, which tells nearly all of them apart.
///
/// Openids of an official account begin alike and lie all over the answer: to compare two takes a call, two looks into that
/// memory, and a branch that nobody foresees. So of each the eight bytes behind the common beginning are taken, once, as a
/// number; numbers are quick to sort.
fn nearly_sort(sessions: &mut [Session<'_>]) {
    let Some((first, others)) = sessions.split_first() else { return };
    let first = first.openid.as_bytes();
    let alike = others.iter().fold(first.len(), |alike, other| {
        let other = other.openid.as_bytes();
        match other.starts_with(&first[..alike]) {
            true => alike,
            false => first.iter().zip(other).take_while(|(a, b)| a == b).count(),
        }
    });
    sessions.sort_by_cached_key(|session| {
        let distinct = session.openid.as_bytes().get(alike..).unwrap_or_default();
        let mut bytes = [0; 8];
        match distinct.first_chunk() {
            Some(first) => bytes = *first,
            None => bytes[..distinct.len()].copy_from_slice(distinct),
        }
        u64::from_be_bytes(bytes)
    });
}

/// The sessions of one account, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    openids: Box<str>,
    entries: Box<[Entry]>,
}

/// Numbers as bytes: side by side they would be padded to sixteen, and a million sessions take 4 MB more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    createtime: [u8; 8],
    /// Where this session's openid ends in `openids`; it begins where the one before ends.
    end: [u8; 4],
}

impl Entry {
    fn new(createtime: i64, end: usize) -> Self {
        // A body of 4 GiB of openids is far beyond every limit on the size of an answer.
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        Self { createtime: createtime.to_ne_bytes(), end: end.to_ne_bytes() }
    }

    fn createtime(&self) -> i64 {
        i64::from_ne_bytes(self.createtime)
    }

    fn end(&self) -> usize {
        u32::from_ne_bytes(self.end) as usize
    }
}

impl Snapshot {
    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sessions in order.
    pub fn iter(&self) -> impl Iterator<Item = Session<'_>> {
        let mut begin = 0;
        self.entries.iter().map(move |entry| {
            let openid = &self.openids[begin..entry.end()];
            begin = entry.end();
            Session { openid: Cow::Borrowed(openid), createtime: entry.createtime() }
        })
    }

    /// The createtime of the session that has been open longest.
    pub fn oldest_createtime(&self) -> Option<i64> {
        self.entries.iter().map(Entry::createtime).min()
    }

    /// The createtime of a customer's session; of several, the newest.
    pub fn createtime_of(&self, openid: &str) -> Option<i64> {
        let mut range = 0..self.len();
        while !range.is_empty() {
            let middle = range.start + range.len() / 2;
            if self.openid(middle) <= openid {
                range.start = middle + 1;
            } else {
                range.end = middle;
            }
        }
        let last = range.start.checked_sub(1)?;
        (self.openid(last) == openid).then(|| self.entries[last].createtime())
    }

    fn openid(&self, index: usize) -> &str {
        let begin = index.checked_sub(1).map_or(0, |before| self.entries[before].end());
        &self.openids[begin..self.entries[index].end()]
    }

    /// Whether an answer lists exactly these sessions.
    pub fn equals(&self, observed: &ObservedSessions<'_>) -> bool {
        self.len() == observed.sessions.len()
            && self.iter().zip(&observed.sessions).all(|(known, seen)| known == *seen)
    }
}

impl From<&ObservedSessions<'_>> for Snapshot {
    fn from(observed: &ObservedSessions<'_>) -> Self {
        let mut openids =
            String::with_capacity(observed.sessions.iter().map(|session| session.openid.len()).sum());
        let mut entries = Vec::with_capacity(observed.sessions.len());
        for session in &observed.sessions {
            openids.push_str(&session.openid);
            entries.push(Entry::new(session.createtime, openids.len()));
        }
        Self { openids: openids.into_boxed_str(), entries: entries.into_boxed_slice() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(sessions: &[(&'static str, i64)]) -> ObservedSessions<'static> {
        ObservedSessions::new(
            sessions
                .iter()
                .map(|&(openid, createtime)| Session { openid: openid.into(), createtime })
                .collect(),
        )
    }

    #[test]
    fn a_snapshot_gives_back_what_was_observed() {
        let seen = observed(&[("o-b", 7), ("o-a", 9), ("o-a", 8), ("微信", 1)]);
        let snapshot = Snapshot::from(&seen);
        assert_eq!(snapshot.iter().collect::<Vec<_>>(), seen.sessions());
        assert_eq!(snapshot.oldest_createtime(), Some(1));
        assert!(snapshot.equals(&seen));
        assert!(!snapshot.equals(&observed(&[("o-b", 7), ("o-a", 9), ("o-a", 8), ("微信", 2)])));
        assert!(!snapshot.equals(&ObservedSessions::default()));
    }

    proptest! {
        #[test]
        fn a_customer_is_found_as_by_looking_at_all(
            sessions in prop::collection::vec(("[a-c]{1,2}", 0..3i64), 0..12), openid in "[a-c]{0,2}",
        ) {
            let listed = sessions.iter().map(|(openid, createtime)| Session { openid: openid.into(), createtime: *createtime });
            let snapshot = Snapshot::from(&ObservedSessions::new(listed.collect()));
            let newest = sessions.iter().filter(|(of, _)| *of == openid).map(|(_, createtime)| *createtime).max();
            prop_assert_eq!(snapshot.createtime_of(&openid), newest);
        }
    }

    proptest! {
        #[test]
        fn sessions_are_sorted_whatever_their_openids_begin_with(
            sessions in prop::collection::vec(("(oABCDE|)[\\x00ab微]{0,12}", 0..2i64), 0..3 * MANY),
        ) {
            let listed = sessions.iter().map(|(openid, createtime)| Session { openid: openid.into(), createtime: *createtime });
            let sorted: std::collections::BTreeSet<_> = listed.clone().collect();
            let observed = ObservedSessions::new(listed.collect());
            prop_assert!(observed.sessions().iter().eq(&sorted));
        }
    }

    #[test]
    fn duplicates_and_order_of_an_answer_do_not_matter() {
        assert_eq!(observed(&[("o-a", 1), ("o-b", 2), ("o-a", 1)]), observed(&[("o-b", 2), ("o-a", 1)]));
    }
}
