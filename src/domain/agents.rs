//! What WeChat tells of an official account's agents and customers beside the sessions: who is listed and bound, who is
//! online, who waits, and how many calls are left.
//!
//! Each is the content of one answer, as far as it could be read: a field that was absent or of a strange type is
//! `None`, and costs no other field.

use std::{fmt, sync::Arc};

use super::clock::UnixMs;

/// What is collected of an official account, with one call each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collector {
    /// Its kf accounts: getkflist. First, because the others tell of those.
    KfList,
    /// Who is online: getonlinekflist.
    Online,
    /// Who waits: getwaitcase.
    Waiting,
    /// How often getsessionlist may still be called: openapi/quota/get.
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
    /// Those that could be read, each once.
    pub accounts: Vec<ListedAccount>,
    /// Whether that is all that were listed. What is missing from an incomplete list may be listed all the same.
    pub complete: bool,
}

/// A kf account as getkflist lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAccount {
    /// The full account, `prefix@wechatid`.
    pub kf_account: Arc<str>,
    /// The name that customers see; not empty.
    pub nickname: Option<Arc<str>>,
    /// Who serves for it.
    pub binding: Binding,
}

/// Whether a WeChat user is bound to a kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// One is (`kf_wx` is set).
    Bound,
    /// None is. What is known of an invitation, if there was one.
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
            // When the others could have been accepted helps nobody.
            _ => Ok(()),
        }
    }
}

/// An invitation to serve for a kf account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// What became of it.
    pub status: InvitationStatus,
    /// Until when it can be accepted.
    pub expires_at: Option<UnixMs>,
}

/// What became of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitationStatus {
    /// It can still be accepted.
    Waiting,
    /// The invited user declined.
    Rejected,
    /// It was not accepted in time.
    Expired,
    /// A status that the API page does not name.
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

/// Customers who wait for an agent, as getwaitcase tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingQueue {
    /// How many.
    pub users: u64,
    /// When the one among the first hundred who has waited longest since the last message sent it, in UNIX seconds.
    pub oldest_message_at: Option<i64>,
}

/// The quota of one call, as openapi/quota/get tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls a day.
    pub limit: u64,
    /// Calls made today, by whomever.
    pub used: Option<u64>,
    /// Calls left today.
    pub remaining: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_reads_as_a_sentence_in_the_log() {
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
