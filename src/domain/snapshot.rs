//! The sessions of one kf account as seen in one poll.
//!
//! A response is parsed into [`ObservedSessions`], which borrow from its text. Only if they differ from the known sessions
//! are they packed into a [`Snapshot`], which stays in memory: one string of all openids, and twelve bytes for each
//! session, because a daemon may keep a million sessions. Both are sorted by openid and createtime and contain no
//! duplicates, so that one pass compares them.

use std::borrow::Cow;

/// One customer session. The same openid with a different createtime is a different session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session<'a> {
    /// The customer's id under the official account: personal data.
    pub openid: Cow<'a, str>,
    /// When the agent accepted the session, in UNIX seconds.
    pub createtime: i64,
}

/// The sessions that one response lists, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSessions<'a> {
    sessions: Vec<Session<'a>>,
}

impl<'a> ObservedSessions<'a> {
    /// Sorts the entries of a response and removes duplicates.
    pub fn new(mut sessions: Vec<Session<'a>>) -> Self {
        sessions.sort_unstable();
        sessions.dedup();
        Self { sessions }
    }

    /// The sessions, sorted.
    pub fn sessions(&self) -> &[Session<'a>] {
        &self.sessions
    }
}

/// The sessions of one account, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    openids: Box<str>,
    entries: Box<[Entry]>,
}

/// The numbers are stored as bytes, because padding would make an entry sixteen bytes: 4 MB more for a million sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    createtime: [u8; 8],
    /// The end of this session's openid in `openids`. It starts at the end of the previous one.
    end: [u8; 4],
}

impl Entry {
    fn new(createtime: i64, end: usize) -> Self {
        // 4 GiB of openids is far more than the size limit of a response allows.
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

    /// Whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sessions, sorted.
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

    /// The createtime of a customer's session; if there are several, of the newest.
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

    /// Whether a response lists exactly these sessions.
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
    fn snapshot_contains_the_observed_sessions() {
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
        fn createtime_of_finds_newest_session_of_customer(
            sessions in prop::collection::vec(("[a-c]{1,2}", 0..3i64), 0..12), openid in "[a-c]{0,2}",
        ) {
            let listed = sessions.iter().map(|(openid, createtime)| Session { openid: openid.into(), createtime: *createtime });
            let snapshot = Snapshot::from(&ObservedSessions::new(listed.collect()));
            let newest = sessions.iter().filter(|(of, _)| *of == openid).map(|(_, createtime)| *createtime).max();
            prop_assert_eq!(snapshot.createtime_of(&openid), newest);
        }

        #[test]
        fn sessions_are_sorted_for_any_openids(
            sessions in prop::collection::vec(("(oABCDE|)[\\x00ab微]{0,12}", 0..2i64), 0..96),
        ) {
            let listed = sessions.iter().map(|(openid, createtime)| Session { openid: openid.into(), createtime: *createtime });
            let sorted: std::collections::BTreeSet<_> = listed.clone().collect();
            let observed = ObservedSessions::new(listed.collect());
            prop_assert!(observed.sessions().iter().eq(&sorted));
        }
    }
}
