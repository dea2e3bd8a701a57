//! Who is watched, and what is concluded about each account.
//!
//! [`AccountCondition`] is the little state machine behind `kf.account.state_changed`: answers that say something about the
//! account move it at once, failures move it to `blind` only when they have lasted. It decides; it neither emits
//! nor stores.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{agents::Binding, clock::Moment};

/// A kf account (service agent) of an official account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// The operator's name for the official account: the label `official_account`.
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
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "&=#?%".contains(c);
    let parts: Vec<&str> = text.split('@').collect();
    matches!(parts[..], [prefix, wechatid] if !prefix.is_empty() && !wechatid.is_empty())
        && !text.contains(forbidden)
        && text.chars().count() <= MAX_KF_ACCOUNT_CHARS
}

/// What consumers of events are told of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// Nothing conclusive was ever answered.
    #[default]
    Unknown,
    /// Its sessions are listed.
    Ok,
    /// Errcode 65402, or getkflist alone says so: no WeChat user is bound to it, so that it cannot serve anybody.
    Unbound,
    /// Errcode 65401: WeChat does not know it.
    Invalid,
    /// For too long nothing conclusive was answered: its silence means nothing.
    Blind,
    /// It left the configuration, or getkflist does not list it any more.
    Unwatched,
}

impl AccountState {
    /// The name used in events, pages and the store.
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

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Unknown, Self::Ok, Self::Unbound, Self::Invalid, Self::Blind, Self::Unwatched]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What an answer says about the account itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Its sessions were listed.
    Ok,
    /// Errcode 65402.
    Unbound,
    /// Errcode 65401.
    Invalid,
    /// getkflist lists it without a WeChat user, and getsessionlist has said nothing yet.
    ListedUnbound,
}

impl Conclusion {
    /// The state that it leads to.
    pub fn state(self) -> AccountState {
        match self {
            Self::Ok => AccountState::Ok,
            Self::Unbound | Self::ListedUnbound => AccountState::Unbound,
            Self::Invalid => AccountState::Invalid,
        }
    }
}

/// From one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state that was left.
    pub from: AccountState,
    /// The state that holds now.
    pub to: AccountState,
}

/// What is concluded about one account at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountCondition {
    /// The state as told to consumers.
    pub state: AccountState,
    /// The last conclusion; it outlives `blind` and `unwatched`, so that an unbound account stays marked as such
    /// while nothing can be heard of it.
    pub conclusion: Option<Conclusion>,
    /// When the present row of failures began, on the monotonic clock.
    failing_since: Option<Duration>,
}

impl AccountCondition {
    /// As it was stored: failures are counted anew after a restart.
    pub fn restored(state: AccountState, conclusion: Option<Conclusion>) -> Self {
        Self { state, conclusion, failing_since: None }
    }

    /// The standing after a conclusive answer, and the transition to announce. From `unknown` to `ok` is none:
    /// nothing changed, it only became known.
    pub fn concluded(self, conclusion: Conclusion) -> (Self, Option<Transition>) {
        let to = conclusion.state();
        let next = Self { state: to, conclusion: Some(conclusion), failing_since: None };
        let quiet = self.state == to || (self.state == AccountState::Unknown && to == AccountState::Ok);
        (next, (!quiet).then_some(Transition { from: self.state, to }))
    }

    /// The standing after a tick without a conclusive answer, whether the poll failed or was held back. `blind` is
    /// measured from the first failure in a row, not from the last good answer: a schedule of office hours is not
    /// blind in the morning because nobody asked during the night.
    pub fn failed(self, now: Moment, blind_after: Duration) -> (Self, Option<Transition>) {
        let since = self.failing_since.unwrap_or(now.monotonic);
        let next = Self { failing_since: Some(since), ..self };
        let blind = now.monotonic.saturating_sub(since) >= blind_after;
        if !blind || self.state == AccountState::Blind {
            return (next, None);
        }
        let transition = Transition { from: self.state, to: AccountState::Blind };
        (Self { state: AccountState::Blind, ..next }, Some(transition))
    }

    /// The standing after getkflist said whether a WeChat user is bound. Only where getsessionlist has said nothing
    /// does it count: unbound is a conclusion then, which bound takes back.
    pub fn listed(self, binding: Binding) -> (Self, Option<Transition>) {
        let ours = self.conclusion == Some(Conclusion::ListedUnbound);
        match binding {
            Binding::Unbound(_)
                if self.conclusion.is_none() || (ours && self.state == AccountState::Unwatched) =>
            {
                self.concluded(Conclusion::ListedUnbound)
            }
            Binding::Bound if ours => {
                let unbound = self.state == AccountState::Unbound;
                let state = if unbound { AccountState::Unknown } else { self.state };
                let transition = unbound.then_some(Transition { from: self.state, to: state });
                (Self { state, conclusion: None, ..self }, transition)
            }
            Binding::Unbound(_) | Binding::Bound => (self, None),
        }
    }

    /// The standing after the account left.
    pub fn unwatched(self) -> (Self, Option<Transition>) {
        let next = Self { state: AccountState::Unwatched, ..self };
        let left = self.state != AccountState::Unwatched;
        (next, left.then_some(Transition { from: self.state, to: AccountState::Unwatched }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLIND_AFTER: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Moment {
        Moment { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::from_secs(seconds) }
    }

    fn transition(from: AccountState, to: AccountState) -> Option<Transition> {
        Some(Transition { from, to })
    }

    #[test]
    fn the_first_good_answer_is_no_transition() {
        let (condition, announced) = AccountCondition::default().concluded(Conclusion::Ok);
        assert_eq!((condition.state, announced), (AccountState::Ok, None));
    }

    #[test]
    fn an_unbound_account_is_announced_once_and_again_when_bound() {
        let (condition, announced) = AccountCondition::default().concluded(Conclusion::Unbound);
        assert_eq!(announced, transition(AccountState::Unknown, AccountState::Unbound));
        let (condition, announced) = condition.concluded(Conclusion::Unbound);
        assert_eq!(announced, None);
        let (_, announced) = condition.concluded(Conclusion::Ok);
        assert_eq!(announced, transition(AccountState::Unbound, AccountState::Ok));
    }

    #[test]
    fn failures_make_blind_only_when_they_last() {
        let (condition, _) = AccountCondition::default().concluded(Conclusion::Unbound);
        let (condition, announced) = condition.failed(at(1000), BLIND_AFTER);
        assert_eq!(announced, None);
        let (condition, announced) = condition.failed(at(1299), BLIND_AFTER);
        assert_eq!(announced, None);
        let (condition, announced) = condition.failed(at(1300), BLIND_AFTER);
        assert_eq!(announced, transition(AccountState::Unbound, AccountState::Blind));
        assert_eq!(condition.conclusion, Some(Conclusion::Unbound), "the last conclusion outlives blindness");
        let (condition, announced) = condition.failed(at(9000), BLIND_AFTER);
        assert_eq!(announced, None);
        let (_, announced) = condition.concluded(Conclusion::Unbound);
        assert_eq!(announced, transition(AccountState::Blind, AccountState::Unbound));
    }

    #[test]
    fn a_success_in_between_starts_the_measure_anew() {
        let (condition, _) = AccountCondition::default().failed(at(0), BLIND_AFTER);
        let (condition, _) = condition.concluded(Conclusion::Ok);
        let (condition, _) = condition.failed(at(299), BLIND_AFTER);
        let (condition, announced) = condition.failed(at(301), BLIND_AFTER);
        assert_eq!((condition.state, announced), (AccountState::Ok, None));
    }

    #[test]
    fn an_account_that_comes_back_is_announced_by_its_first_conclusion() {
        let (condition, announced) =
            AccountCondition::restored(AccountState::Ok, Some(Conclusion::Ok)).unwatched();
        assert_eq!(announced, transition(AccountState::Ok, AccountState::Unwatched));
        assert_eq!(condition.unwatched().1, None);
        assert_eq!(
            condition.concluded(Conclusion::Ok).1,
            transition(AccountState::Unwatched, AccountState::Ok)
        );
        let (failing, _) = condition.failed(at(0), BLIND_AFTER);
        assert_eq!(
            failing.failed(at(300), BLIND_AFTER).1,
            transition(AccountState::Unwatched, AccountState::Blind)
        );
    }

    #[test]
    fn what_getkflist_says_counts_only_until_getsessionlist_has_said_something() {
        const UNBOUND: Binding = Binding::Unbound(None);
        let (unbound, announced) = AccountCondition::default().listed(UNBOUND);
        assert_eq!(announced, transition(AccountState::Unknown, AccountState::Unbound));
        assert_eq!(unbound.listed(UNBOUND), (unbound, None), "said again");
        let (bound, announced) = unbound.listed(Binding::Bound);
        assert_eq!(announced, transition(AccountState::Unbound, AccountState::Unknown));
        assert_eq!(bound, AccountCondition::default());
        for said in [Conclusion::Ok, Conclusion::Unbound, Conclusion::Invalid] {
            let (condition, _) = unbound.concluded(said);
            assert_eq!(condition.conclusion, Some(said));
            assert_eq!(condition.listed(UNBOUND), (condition, None));
            assert_eq!(condition.listed(Binding::Bound), (condition, None));
        }
    }

    #[test]
    fn a_refusal_that_getkflist_foretold_is_no_second_transition() {
        let (unbound, _) = AccountCondition::default().listed(Binding::Unbound(None));
        assert_eq!(unbound.concluded(Conclusion::Unbound).1, None);
    }

    #[test]
    fn what_getkflist_repeats_neither_ends_nor_hides_blindness() {
        let (unbound, _) = AccountCondition::default().listed(Binding::Unbound(None));
        let (failing, _) = unbound.failed(at(0), BLIND_AFTER);
        let (blind, announced) = failing.failed(at(300), BLIND_AFTER);
        assert_eq!(announced, transition(AccountState::Unbound, AccountState::Blind));
        assert_eq!(blind.listed(Binding::Unbound(None)), (blind, None));
        let (bound, announced) = blind.listed(Binding::Bound);
        assert_eq!((bound.state, bound.conclusion, announced), (AccountState::Blind, None, None));
    }

    #[test]
    fn an_account_that_comes_back_unbound_is_announced_again() {
        let listed = Some(Conclusion::ListedUnbound);
        let (back, announced) =
            AccountCondition::restored(AccountState::Unwatched, listed).listed(Binding::Unbound(None));
        assert_eq!((back.state, back.conclusion), (AccountState::Unbound, listed));
        assert_eq!(announced, transition(AccountState::Unwatched, AccountState::Unbound));
    }

    #[test]
    fn every_state_is_found_by_its_name() {
        for state in [AccountState::Unknown, AccountState::Ok, AccountState::Unbound, AccountState::Invalid] {
            assert_eq!(AccountState::from_name(state.as_str()), Some(state));
        }
        assert_eq!(AccountState::from_name("confused"), None);
    }
}
