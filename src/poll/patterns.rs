//! Which kf accounts of an official account getkflist adds to those that are named.

use std::{collections::HashSet, sync::Arc};

use glob::Pattern;

use crate::domain::account::Account;

/// Which kf accounts of an official account are watched without being named.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryPatterns {
    /// Named kf accounts, which are watched in any case.
    pub named: HashSet<Arc<str>>,
    /// A listed kf account must match one of these.
    pub matching: Vec<Pattern>,
    /// A listed kf account must match none of these.
    pub exclude: Vec<Pattern>,
    /// How many kf accounts the official account may have, including the named ones.
    pub most: usize,
}

impl DiscoveryPatterns {
    /// Whether a listed kf account is to be watched although it is not named.
    pub fn discover(&self, kf_account: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(kf_account));
        any(&self.matching) && !any(&self.exclude) && !self.named.contains(kf_account)
    }
}

/// The discovery of kf accounts of one official account.
pub struct AccountDiscovery {
    pub(super) patterns: DiscoveryPatterns,
    appid: Arc<str>,
}

/// What is unusual about an answer of getkflist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListAnomaly {
    Empty,
    UnreadableEntries,
    TooMany { refused: usize },
}

impl AccountDiscovery {
    /// Discovery for the official account of this appid.
    pub fn new(patterns: DiscoveryPatterns, appid: Arc<str>) -> Self {
        Self { patterns, appid }
    }

    pub(super) fn account(&self, official_account: &Arc<str>, kf_account: &Arc<str>) -> Account {
        Account {
            official_account: Arc::clone(official_account),
            appid: Arc::clone(&self.appid),
            kf_account: Arc::clone(kf_account),
        }
    }

    /// Logs what is unusual about a list, unless the same was true of the previous one.
    pub(super) fn log_anomaly(
        &self,
        official_account: &str,
        previous: &mut Option<ListAnomaly>,
        anomaly: Option<ListAnomaly>,
    ) {
        if std::mem::replace(previous, anomaly) == anomaly {
            return;
        }
        match anomaly {
            None => tracing::info!(%official_account, "getkflist lists kf accounts as expected again"),
            Some(ListAnomaly::Empty) => tracing::warn!(
                %official_account,
                "getkflist lists no kf account; the watched ones stay watched. Does the official account have any?"
            ),
            Some(ListAnomaly::UnreadableEntries) => tracing::warn!(
                %official_account,
                "getkflist lists entries without a usable kf_account; all watched kf accounts stay watched, listed or not"
            ),
            Some(ListAnomaly::TooMany { refused }) => tracing::warn!(
                %official_account, refused, most = self.patterns.most,
                "getkflist lists more kf accounts than one official account may have: {refused} are not watched; \
                 exclude some of them, or write narrower patterns"
            ),
        }
    }
}
