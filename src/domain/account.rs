//! A kf account, and the state machine of its condition.
//!
//! [`AccountCondition`] decides when `kf.account.state_changed` is due: an answer that says something about the account
//! changes its state at once, failures make it `blind` only when they last. It is pure and stores nothing.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{agents::Binding, characters::is_invisible, clock::Moment};

/// A kf account (service agent) of an official account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// The configured name of the official account: the label `official_account`.
    pub official_account: Arc<str>,
    /// WeChat's id of the official account, `wx…`.
    pub appid: Arc<str>,
    /// The full account, `prefix@wechatid`.
    pub kf_account: Arc<str>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.official_account, self.kf_account)
    }
}

/// The length limit of a full kf account, in characters.
const MAX_KF_ACCOUNT_CHARS: usize = 64;

/// Whether a text can be a full kf account, `prefix@wechatid`, that is safe in a URL and in a log.
pub fn is_kf_account(text: &str) -> bool {
    let forbidden =
        |c: char| c.is_whitespace() || is_invisible(c) || "&=#?%\u{200c}\u{200d}\u{fffd}".contains(c);
    let parts: Vec<&str> = text.split('@').collect();
    matches!(parts[..], [prefix, wechatid] if !prefix.is_empty() && !wechatid.is_empty())
        && !text.contains(forbidden)
        && text.chars().count() <= MAX_KF_ACCOUNT_CHARS
}

/// The state of an account, as events report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// There was no conclusive response yet.
    #[default]
    Unknown,
    /// The sessions are listed.
    Ok,
    /// No WeChat user is bound, so nobody serves customers: errcode 65402, or getkflist alone says so.
    Unbound,
    /// WeChat does not know the account: errcode 65401.
    Invalid,
    /// There was no conclusive response for too long: the sessions are unknown.
    Blind,
    /// The account is no longer configured, or no longer listed by getkflist.
    Unwatched,
}

impl AccountState {
    /// The name in events, on pages and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Unbound => "unbound",
            Self::Invalid => "invalid",
            Self::Blind => "blind",
            Self::Unwatched => "unwatched",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Unknown, Self::Ok, Self::Unbound, Self::Invalid, Self::Blind, Self::Unwatched]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What a conclusive answer says about the account itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// The sessions are listed.
    Ok,
    /// Errcode 65402.
    Unbound,
    /// Errcode 65401.
    Invalid,
    /// getkflist lists it without a WeChat user, and getsessionlist has said nothing yet.
    ListedUnbound,
}

impl Conclusion {
    /// The state after such an answer.
    pub fn state(self) -> AccountState {
        match self {
            Self::Ok => AccountState::Ok,
            Self::Unbound | Self::ListedUnbound => AccountState::Unbound,
            Self::Invalid => AccountState::Invalid,
        }
    }
}

/// A change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The previous state.
    pub from: AccountState,
    /// The new state.
    pub to: AccountState,
}

/// What is concluded about one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountCondition {
    /// The state, as events report it.
    pub state: AccountState,
    /// The last conclusion. It stays while the account is `blind` or `unwatched`, so that an unbound account is still
    /// marked as such.
    pub conclusion: Option<Conclusion>,
    /// When the present series of failures began, on the monotonic clock.
    failing_since: Option<Duration>,
}

impl AccountCondition {
    /// A condition from the store. The time of failures starts at zero after a restart.
    pub fn restored(state: AccountState, conclusion: Option<Conclusion>) -> Self {
        Self { state, conclusion, failing_since: None }
    }

    /// The condition after a conclusive answer, and the transition to report. From `unknown` to `ok` is no transition:
    /// nothing changed, the state only became known.
    pub fn after_conclusion(self, conclusion: Conclusion) -> (Self, Option<Transition>) {
        let to = conclusion.state();
        let next = Self { state: to, conclusion: Some(conclusion), failing_since: None };
        let quiet = self.state == to || (self.state == AccountState::Unknown && to == AccountState::Ok);
        (next, (!quiet).then_some(Transition { from: self.state, to }))
    }

    /// The condition after a tick without a conclusive answer, whether the poll failed or backed off. `blind` is measured
    /// from the first failure in a row, not from the last good answer: an account that is polled during office hours is
    /// not blind every morning.
    pub fn after_failure(self, now: Moment, blind_after: Duration) -> (Self, Option<Transition>) {
        let since = self.failing_since.unwrap_or(now.monotonic);
        let next = Self { failing_since: Some(since), ..self };
        let blind = now.monotonic.saturating_sub(since) >= blind_after;
        if !blind || self.state == AccountState::Blind {
            return (next, None);
        }
        let transition = Transition { from: self.state, to: AccountState::Blind };
        (Self { state: AccountState::Blind, ..next }, Some(transition))
    }

    /// The condition after getkflist said whether a WeChat user is bound. That counts only as long as getsessionlist has
    /// said nothing: then unbound is a conclusion, and bound revokes it.
    pub fn after_binding(self, binding: Binding) -> (Self, Option<Transition>) {
        let listed_only = self.conclusion == Some(Conclusion::ListedUnbound);
        match binding {
            Binding::Unbound(_)
                if self.conclusion.is_none() || (listed_only && self.state == AccountState::Unwatched) =>
            {
                self.after_conclusion(Conclusion::ListedUnbound)
            }
            Binding::Bound if listed_only => {
                let unbound = self.state == AccountState::Unbound;
                let state = if unbound { AccountState::Unknown } else { self.state };
                let transition = unbound.then_some(Transition { from: self.state, to: state });
                (Self { state, conclusion: None, ..self }, transition)
            }
            Binding::Unbound(_) | Binding::Bound => (self, None),
        }
    }

    /// The condition after the account is no longer watched.
    pub fn after_removal(self) -> (Self, Option<Transition>) {
        let next = Self { state: AccountState::Unwatched, ..self };
        let was_watched = self.state != AccountState::Unwatched;
        (next, was_watched.then_some(Transition { from: self.state, to: AccountState::Unwatched }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::at;

    const BLIND_AFTER: Duration = Duration::from_secs(300);

    fn transition(from: AccountState, to: AccountState) -> Option<Transition> {
        Some(Transition { from, to })
    }

    #[test]
    fn first_good_answer_is_no_transition() {
        let (condition, reported) = AccountCondition::default().after_conclusion(Conclusion::Ok);
        assert_eq!((condition.state, reported), (AccountState::Ok, None));
    }

    #[test]
    fn unbound_account_is_reported_once_and_again_when_bound() {
        let (condition, reported) = AccountCondition::default().after_conclusion(Conclusion::Unbound);
        assert_eq!(reported, transition(AccountState::Unknown, AccountState::Unbound));
        let (condition, reported) = condition.after_conclusion(Conclusion::Unbound);
        assert_eq!(reported, None);
        let (_, reported) = condition.after_conclusion(Conclusion::Ok);
        assert_eq!(reported, transition(AccountState::Unbound, AccountState::Ok));
    }

    #[test]
    fn only_lasting_failures_make_account_blind() {
        let (condition, _) = AccountCondition::default().after_conclusion(Conclusion::Unbound);
        let (condition, reported) = condition.after_failure(at(1000), BLIND_AFTER);
        assert_eq!(reported, None);
        let (condition, reported) = condition.after_failure(at(1299), BLIND_AFTER);
        assert_eq!(reported, None);
        let (condition, reported) = condition.after_failure(at(1300), BLIND_AFTER);
        assert_eq!(reported, transition(AccountState::Unbound, AccountState::Blind));
        assert_eq!(condition.conclusion, Some(Conclusion::Unbound), "the last conclusion stays while blind");
        let (condition, reported) = condition.after_failure(at(9000), BLIND_AFTER);
        assert_eq!(reported, None);
        let (_, reported) = condition.after_conclusion(Conclusion::Unbound);
        assert_eq!(reported, transition(AccountState::Blind, AccountState::Unbound));
    }

    #[test]
    fn success_restarts_time_until_blind() {
        let (condition, _) = AccountCondition::default().after_failure(at(0), BLIND_AFTER);
        let (condition, _) = condition.after_conclusion(Conclusion::Ok);
        let (condition, _) = condition.after_failure(at(299), BLIND_AFTER);
        let (condition, reported) = condition.after_failure(at(301), BLIND_AFTER);
        assert_eq!((condition.state, reported), (AccountState::Ok, None));
    }

    #[test]
    fn returning_account_is_reported_by_its_first_conclusion() {
        let (condition, reported) =
            AccountCondition::restored(AccountState::Ok, Some(Conclusion::Ok)).after_removal();
        assert_eq!(reported, transition(AccountState::Ok, AccountState::Unwatched));
        assert_eq!(condition.after_removal().1, None);
        assert_eq!(
            condition.after_conclusion(Conclusion::Ok).1,
            transition(AccountState::Unwatched, AccountState::Ok)
        );
        let (failing, _) = condition.after_failure(at(0), BLIND_AFTER);
        assert_eq!(
            failing.after_failure(at(300), BLIND_AFTER).1,
            transition(AccountState::Unwatched, AccountState::Blind)
        );
    }

    #[test]
    fn getkflist_counts_only_until_getsessionlist_has_answered() {
        const UNBOUND: Binding = Binding::Unbound(None);
        let (unbound, reported) = AccountCondition::default().after_binding(UNBOUND);
        assert_eq!(reported, transition(AccountState::Unknown, AccountState::Unbound));
        assert_eq!(unbound.after_binding(UNBOUND), (unbound, None), "said again");
        assert_eq!(unbound.after_conclusion(Conclusion::Unbound).1, None, "no change");
        let (bound, reported) = unbound.after_binding(Binding::Bound);
        assert_eq!(reported, transition(AccountState::Unbound, AccountState::Unknown));
        assert_eq!(bound, AccountCondition::default());
        for said in [Conclusion::Ok, Conclusion::Unbound, Conclusion::Invalid] {
            let (condition, _) = unbound.after_conclusion(said);
            assert_eq!(condition.conclusion, Some(said));
            assert_eq!(condition.after_binding(UNBOUND), (condition, None));
            assert_eq!(condition.after_binding(Binding::Bound), (condition, None));
        }
    }

    #[test]
    fn repeated_listing_does_not_end_blind_state() {
        let (unbound, _) = AccountCondition::default().after_binding(Binding::Unbound(None));
        let (failing, _) = unbound.after_failure(at(0), BLIND_AFTER);
        let (blind, reported) = failing.after_failure(at(300), BLIND_AFTER);
        assert_eq!(reported, transition(AccountState::Unbound, AccountState::Blind));
        assert_eq!(blind.after_binding(Binding::Unbound(None)), (blind, None));
        let (bound, reported) = blind.after_binding(Binding::Bound);
        assert_eq!((bound.state, bound.conclusion, reported), (AccountState::Blind, None, None));
    }

    #[test]
    fn account_that_returns_unbound_is_reported_again() {
        let listed = Some(Conclusion::ListedUnbound);
        let (back, reported) =
            AccountCondition::restored(AccountState::Unwatched, listed).after_binding(Binding::Unbound(None));
        assert_eq!((back.state, back.conclusion), (AccountState::Unbound, listed));
        assert_eq!(reported, transition(AccountState::Unwatched, AccountState::Unbound));
    }

    #[test]
    fn state_is_found_by_its_name() {
        for state in [AccountState::Unknown, AccountState::Ok, AccountState::Unbound, AccountState::Invalid] {
            assert_eq!(AccountState::from_name(state.as_str()), Some(state));
        }
        assert_eq!(AccountState::from_name("confused"), None);
    }
}
