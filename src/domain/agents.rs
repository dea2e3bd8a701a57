//! What the collectors learn about an official account: its kf accounts and their bindings, which of them are online, the
//! waiting customers, and the remaining quota.
//!
//! Each type is the content of one response. A field that is absent or has an unexpected type is `None`; the other fields
//! are still used.

use std::{fmt, sync::Arc};

use super::clock::UnixMs;

/// What is collected for an official account. Each collector makes one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collector {
    /// The kf accounts: getkflist. First, because the responses of the others refer to them.
    KfList,
    /// The kf accounts that are online: getonlinekflist.
    Online,
    /// The waiting customers: getwaitcase.
    Waiting,
    /// How many calls of getsessionlist remain today: openapi/quota/get.
    Quota,
}

impl Collector {
    /// Every collector, in the order of the variants.
    pub const ALL: [Self; 4] = [Self::KfList, Self::Online, Self::Waiting, Self::Quota];

    /// The name used in the configuration, labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KfList => "kf_list",
            Self::Online => "online",
            Self::Waiting => "waiting",
            Self::Quota => "quota",
        }
    }
}

/// The kf accounts of an official account, as getkflist lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KfList {
    /// The entries that could be parsed, without duplicates.
    pub accounts: Vec<ListedAccount>,
    /// Whether all entries could be parsed. If not, an account that is missing here may still exist.
    pub complete: bool,
}

/// A kf account as getkflist lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAccount {
    /// The full account, `prefix@wechatid`.
    pub kf_account: Arc<str>,
    /// The name that customers see; not empty.
    pub nickname: Option<Arc<str>>,
    /// Whether a WeChat user is bound to it.
    pub binding: Binding,
}

/// Whether a WeChat user is bound to a kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A user is bound (`kf_wx` is set).
    Bound,
    /// No user is bound. The latest invitation, if there was one.
    Unbound(Option<Invitation>),
}

/// For logs.
impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let invitation = match self {
            Self::Bound => return f.write_str("a WeChat user is bound"),
            Self::Unbound(None) => return f.write_str("no WeChat user is bound, and no invitation is known"),
            Self::Unbound(Some(invitation)) => invitation,
        };
        write!(f, "no WeChat user is bound; invitation: {}", invitation.status.as_str())?;
        match invitation.expires_at {
            Some(at) if invitation.status == InvitationStatus::Waiting => write!(f, ", valid until {at}"),
            // The expiry time matters only while the invitation can be accepted.
            _ => Ok(()),
        }
    }
}

/// An invitation of a WeChat user to a kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Its status.
    pub status: InvitationStatus,
    /// When it expires.
    pub expires_at: Option<UnixMs>,
}

/// The status of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitationStatus {
    /// It can still be accepted.
    Waiting,
    /// The invited user declined.
    Rejected,
    /// It was not accepted in time.
    Expired,
    /// A status that WeChat does not document.
    Other,
}

impl InvitationStatus {
    /// The name used in events and pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }
}

/// A kf account as getonlinekflist lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineAccount {
    /// The full account.
    pub kf_account: Arc<str>,
    /// Whether it is online: `status` other than 0.
    pub online: bool,
    /// How many sessions it has accepted.
    pub accepted_cases: Option<u32>,
}

/// The customers who wait for an agent, from getwaitcase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingQueue {
    /// How many customers wait.
    pub customers: u64,
    /// The oldest last message among the first hundred waiting customers, in UNIX seconds.
    pub oldest_message_at: Option<i64>,
}

/// The quota of one API call, from openapi/quota/get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls per day.
    pub limit: u64,
    /// Calls made today, by any program.
    pub used: Option<u64>,
    /// Calls left today.
    pub remaining: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_is_displayed_as_sentence() {
        let invited = |status, expires_at: Option<&str>| {
            let expires_at = expires_at.map(|time| time.parse::<jiff::Timestamp>().unwrap().into());
            Binding::Unbound(Some(Invitation { status, expires_at }))
        };
        for (binding, expected) in [
            (Binding::Bound, "a WeChat user is bound"),
            (Binding::Unbound(None), "no WeChat user is bound, and no invitation is known"),
            (
                invited(InvitationStatus::Rejected, Some("2026-11-23T07:00:00Z")),
                "no WeChat user is bound; invitation: rejected",
            ),
            (
                invited(InvitationStatus::Waiting, Some("2026-11-23T07:00:00Z")),
                "no WeChat user is bound; invitation: waiting, valid until 2026-11-23T07:00:00Z",
            ),
        ] {
            assert_eq!(binding.to_string(), expected);
        }
    }
}
