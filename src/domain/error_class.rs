//! The classes of failed calls. Each class has one backoff ([`super::backoff`]) and one scope.
//!
//! [`super::errcode`] has the class of each errcode. Backoff and states depend on the class alone; a remedy may
//! depend on the errcode.

/// Why a call failed, as far as the reaction to it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// WeChat rejects the access token for every call.
    TokenRejected,
    /// The server's certificate was refused, or a proxy refused to connect: a person must act.
    TlsOrProxyRefused,
    /// WeChat or the network is busy: errcode -1, a 5xx, a timeout, a broken connection, a malformed response.
    Busy,
    /// This minute's quota is used up.
    MinuteQuota,
    /// Today's quota is used up.
    DayQuota,
    /// Our address is not on the allowlist, or its confirmation is pending.
    AddressNotAllowed,
    /// The administrator refused our address for an hour.
    AddressRefusedForHour,
    /// The administrator refused our address for a day.
    AddressRefusedForDay,
    /// Appid, AppSecret or authorization is wrong, withdrawn or restricted, or does not include this call.
    NotAuthorized,
    /// Customer service is not enabled for the official account.
    NotEnabled,
    /// WeChat does not know the kf account.
    InvalidAccount,
    /// No WeChat user is bound to the kf account.
    UnboundAccount,
    /// The request was wrong: a bug in kfwatch, or a proxy that changes requests.
    BadRequest,
    /// The errcode is not in our table.
    Unknown,
}

/// What backs off after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The one kf account.
    KfAccount,
    /// All kf accounts of the official account.
    OfficialAccount,
}

impl ErrorClass {
    /// What backs off after a failure of this class.
    pub fn scope(self) -> Scope {
        match self {
            Self::TlsOrProxyRefused
            | Self::Busy
            | Self::InvalidAccount
            | Self::UnboundAccount
            | Self::BadRequest
            | Self::Unknown => Scope::KfAccount,
            Self::TokenRejected
            | Self::MinuteQuota
            | Self::DayQuota
            | Self::AddressNotAllowed
            | Self::AddressRefusedForHour
            | Self::AddressRefusedForDay
            | Self::NotAuthorized
            | Self::NotEnabled => Scope::OfficialAccount,
        }
    }

    /// Whether every other call for the official account would fail in the same way.
    pub fn concerns_every_call(self) -> bool {
        matches!(
            self,
            Self::TokenRejected
                | Self::AddressNotAllowed
                | Self::AddressRefusedForHour
                | Self::AddressRefusedForDay
        )
    }

    /// The name in logs and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenRejected => "token_rejected",
            Self::TlsOrProxyRefused => "tls_or_proxy_refused",
            Self::Busy => "busy",
            Self::MinuteQuota => "minute_quota",
            Self::DayQuota => "day_quota",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AddressRefusedForHour => "address_refused_for_hour",
            Self::AddressRefusedForDay => "address_refused_for_day",
            Self::NotAuthorized => "not_authorized",
            Self::NotEnabled => "not_enabled",
            Self::InvalidAccount => "invalid",
            Self::UnboundAccount => "unbound",
            Self::BadRequest => "bad_request",
            Self::Unknown => "unknown",
        }
    }
}
