//! What a failed call means: one table from (kind of call, errcode) to a class and a remedy.
//!
//! The errcodes are those of the API page of getsessionlist, of its neighbours, and of the list of global return
//! codes (developers.weixin.qq.com). What is done about a class is in [`crate::domain::holds`]; what a human should
//! do is the [`Remedy`], which log, commands and pages share.

use std::time::Duration;

use super::{CallKind, Endpoint};
use crate::domain::{clock::Moment, holds::ErrorClass};

/// Why a call gave no usable answer. Its text holds no URL, no token and no part of a body but `errmsg`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// WeChat answered with an errcode other than 0.
    #[error("errcode {code}: {message}")]
    Refused {
        /// The errcode.
        code: i64,
        /// The errmsg, shortened, without secrets.
        message: Box<str>,
    },
    /// No whole answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection could be made, or it broke before an answer.
    #[error("connection failed: {0}")]
    Connect(Box<str>),
    /// A status other than success.
    #[error("HTTP status {status}")]
    Http {
        /// The status.
        status: u16,
        /// What the answer asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the API promises.
    #[error("malformed answer: {0}")]
    Malformed(Box<str>),
    /// The answer is larger than `api.max_body_bytes`.
    #[error("answer larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A token is needed, and the last fetch was too short ago for another.
    #[error("no access token, and the next fetch is not allowed yet")]
    TokenNotYet,
    /// The file with the token cannot be used.
    #[error("token file: {0}")]
    TokenFile(Box<str>),
    /// The file with the component's ticket cannot be used.
    #[error("ticket file: {0}")]
    TicketFile(Box<str>),
    /// Nobody knows a refresh token of the official account, WeChat's list included.
    #[error("no refresh token: the official account is not among those that have authorized the component")]
    NoRefreshToken,
    /// WeChat gave out a new refresh token, which must not be used before it is stored.
    #[error("the new refresh token could not be stored: {0}")]
    RefreshTokenNotStored(Box<str>),
}

/// A failed call with all that the reaction to it depends on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {error}", endpoint.as_str())]
pub struct CallFailure {
    /// The call that failed.
    pub endpoint: Endpoint,
    /// How to react.
    pub class: ErrorClass,
    /// When the request was sent.
    pub sent_at: Moment,
    /// Why it failed. (Not a `source`: the text above has it already.)
    pub error: CallError,
}

impl CallFailure {
    /// The failure of a call that was sent then, with the class that it has.
    pub fn new(endpoint: Endpoint, error: CallError, sent_at: Moment) -> Self {
        Self { endpoint, class: error.class(endpoint), sent_at, error }
    }
}

/// What a human should do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// In English.
    pub en: &'static str,
    /// In Chinese.
    pub zh: &'static str,
}

impl CallError {
    /// The value of the label `code`: errcodes of the table by their number, everything else by a word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => errcode(*code).map_or("other", |known| known.label),
            Self::Timeout => "timeout",
            Self::Connect(_) => "connect",
            Self::Http { .. } => "http",
            Self::Malformed(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::TokenNotYet
            | Self::TokenFile(_)
            | Self::TicketFile(_)
            | Self::NoRefreshToken
            | Self::RefreshTokenNotStored(_) => "token",
        }
    }

    /// The errcode, if WeChat gave one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the answer asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// How to react when this endpoint failed so.
    pub fn class(&self, endpoint: Endpoint) -> ErrorClass {
        match self {
            Self::Refused { code, .. } => match (endpoint, code) {
                // The token calls say 40001 for a wrong AppSecret.
                (Endpoint::Token | Endpoint::StableToken | Endpoint::ComponentToken, 40001) => {
                    ErrorClass::NotAuthorized
                }
                _ => errcode(*code).map_or(ErrorClass::Unknown, |known| known.class),
            },
            Self::TokenFile(_) | Self::TicketFile(_) | Self::NoRefreshToken => ErrorClass::NotAuthorized,
            Self::Timeout
            | Self::Connect(_)
            | Self::Http { .. }
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::TokenNotYet
            | Self::RefreshTokenNotStored(_) => ErrorClass::Busy,
        }
    }

    /// Whether the token used is the reason.
    pub fn rejects_token(&self) -> bool {
        matches!(self, Self::Refused { code: 40001 | 40014 | 42001, .. })
    }

    /// What a human should do, where a human can do something.
    pub fn remedy(&self, endpoint: Endpoint) -> Option<Remedy> {
        match self {
            Self::Refused { code: 40001, .. } if endpoint.kind() == CallKind::Token => Some(SECRET),
            Self::Refused { code, .. } => errcode(*code).and_then(|known| known.remedy),
            Self::Malformed(_) if endpoint.kind() == CallKind::Token => Some(SECRET),
            Self::TokenFile(_) => Some(TOKEN_FILE),
            Self::Connect(_) | Self::Timeout => Some(NETWORK),
            Self::TooLarge { .. } => Some(TOO_LARGE),
            Self::Http { .. } | Self::Malformed(_) => Some(PROXY),
            Self::TokenNotYet => None,
            Self::TicketFile(_) => Some(TICKET_FILE),
            Self::NoRefreshToken => Some(AUTHORIZE),
            Self::RefreshTokenNotStored(_) => Some(STORE),
        }
    }
}

struct Errcode {
    code: i64,
    label: &'static str,
    class: ErrorClass,
    remedy: Option<Remedy>,
}

fn errcode(code: i64) -> Option<&'static Errcode> {
    ERRCODES.binary_search_by_key(&code, |known| known.code).ok().and_then(|index| ERRCODES.get(index))
}

macro_rules! errcodes {
    ($($code:literal $class:ident $remedy:expr;)*) => {
        &[$(Errcode { code: $code, label: stringify!($code), class: ErrorClass::$class, remedy: $remedy }),*]
    };
}

/// In the order of the numbers.
const ERRCODES: &[Errcode] = errcodes! {
    -1 Busy None;
    40001 TokenRejected Some(OTHER_PROGRAM);
    40002 BadRequest Some(PROXY);
    40013 NotAuthorized Some(APPID);
    40014 TokenRejected Some(OTHER_PROGRAM);
    40125 NotAuthorized Some(SECRET);
    40164 AddressNotAllowed Some(ADDRESS);
    40243 NotAuthorized Some(FROZEN);
    41001 BadRequest Some(PROXY);
    41002 BadRequest Some(PROXY);
    41004 BadRequest Some(PROXY);
    41018 BadRequest Some(PROXY);
    42001 TokenRejected Some(OTHER_PROGRAM);
    42007 NotAuthorized Some(AUTHORIZE);
    43001 BadRequest Some(PROXY);
    43002 BadRequest Some(PROXY);
    43003 BadRequest Some(PROXY);
    45009 DayQuota Some(DAY_QUOTA);
    45011 MinuteQuota Some(MINUTE_QUOTA);
    45035 AddressNotAllowed Some(ADDRESS);
    47001 BadRequest Some(PROXY);
    48001 NotAuthorized Some(NOT_GRANTED);
    48004 NotAuthorized Some(RESTRICTED);
    50002 NotAuthorized Some(RESTRICTED);
    61003 NotAuthorized Some(AUTHORIZE);
    61004 AddressNotAllowed Some(ADDRESS);
    61005 NotAuthorized Some(AUTHORIZE);
    61006 NotAuthorized Some(AUTHORIZE);
    61007 NotAuthorized Some(NOT_GRANTED);
    61011 NotAuthorized Some(APPID);
    61014 NotAuthorized Some(APPID);
    61015 NotAuthorized Some(APPID);
    61023 NotAuthorized Some(AUTHORIZE);
    61024 NotAuthorized Some(APPID);
    61028 NotAuthorized Some(RESTRICTED);
    61451 BadRequest Some(PROXY);
    61452 InvalidAccount Some(INVALID);
    65400 NotEnabled Some(NOT_ENABLED);
    65401 InvalidAccount Some(INVALID);
    65402 UnboundAccount Some(UNBOUND);
    89501 AddressNotAllowed Some(CONFIRM);
    89502 AddressNotAllowed Some(CONFIRM);
    89503 AddressNotAllowed Some(CONFIRM);
    89504 AddressNotAllowed Some(CONFIRM);
    89505 AddressNotAllowed Some(CONFIRM);
    89506 AddressRefusedForDay Some(CONFIRM);
    89507 AddressRefusedForHour Some(CONFIRM);
};

const UNBOUND: Remedy = Remedy {
    en: "bind a WeChat user to this kf account: invite the agent in the console (or call inviteworker) and have the \
         invitation accepted in WeChat",
    zh: "请为该客服帐号绑定微信号：在公众平台（或调用 inviteworker）邀请客服人员，并由其在微信中接受邀请",
};
const INVALID: Remedy = Remedy {
    en: "correct kf_accounts in the configuration: WeChat does not know this account (the part behind @ is the \
         official account's WeChat ID, which may have been changed)",
    zh: "请更正配置中的 kf_accounts：微信不认识该客服帐号（@ 后为公众号的微信号，可能已被修改）",
};
const OTHER_PROGRAM: Remedy = Remedy {
    en: "if this repeats, find the other program that fetches tokens with /cgi-bin/token for this appid; \
         source = \"stable\" is not affected by it",
    zh: "若反复出现，请找出以 /cgi-bin/token 为该 appid 获取令牌的其他程序；source = \"stable\" 不受其影响",
};
const APPID: Remedy = Remedy {
    en: "correct appid in the configuration; it must be that of the official account that owns the kf accounts",
    zh: "请更正配置中的 appid：须为客服帐号所属公众号的 appid",
};
const SECRET: Remedy = Remedy {
    en: "check appid and AppSecret; a new AppSecret is made in the developer console",
    zh: "请核对 appid 与 AppSecret；可在开发者后台重置 AppSecret",
};
const FROZEN: Remedy = Remedy {
    en: "unfreeze the AppSecret in the developer console; it takes ten minutes",
    zh: "请在开发者后台解冻 AppSecret，约十分钟后生效",
};
const ADDRESS: Remedy = Remedy {
    en: "add this host's public address (the errmsg names it) to the IP allow-list in the developer console",
    zh: "请在开发者后台的 IP 白名单中加入本机公网地址（见 errmsg）",
};
const CONFIRM: Remedy = Remedy {
    en: "the administrator of the official account must confirm calls from this address in WeChat",
    zh: "请公众号管理员在微信中确认来自该地址的调用",
};
const AUTHORIZE: Remedy = Remedy {
    en: "the official account must be authorized again by its owner",
    zh: "请公众号所有者重新授权",
};
const NOT_GRANTED: Remedy = Remedy {
    en: "the official account must be verified and be granted the customer service interface (permission set 1, 6 \
         or 100-101)",
    zh: "公众号须已认证并拥有客服接口权限（权限集 1、6 或 100-101）",
};
const RESTRICTED: Remedy = Remedy {
    en: "WeChat restricts this official account; see the notices at mp.weixin.qq.com",
    zh: "该公众号被限制，请查看 mp.weixin.qq.com 的通知",
};
const NOT_ENABLED: Remedy = Remedy {
    en: "enable customer service for the official account, add one kf account, and wait five minutes",
    zh: "请为公众号开通新版客服功能，添加一个客服帐号后等待约五分钟",
};
const DAY_QUOTA: Remedy = Remedy {
    en: "the quota of the day is used up: poll less often, or clear the quota in the console",
    zh: "当日调用额度已用完：请降低轮询频率，或在后台清零额度",
};
const MINUTE_QUOTA: Remedy = Remedy {
    en: "too many calls a minute: poll less often, or set poll.spread",
    zh: "每分钟调用过多：请降低轮询频率，或设置 poll.spread",
};
const PROXY: Remedy = Remedy {
    en: "something between here and WeChat may alter requests or answers: check proxies and api.base_url",
    zh: "本机与微信之间可能有代理改动请求或应答：请检查代理与 api.base_url",
};
const NETWORK: Remedy = Remedy {
    en: "check the network, DNS and firewall between this host and api.base_url",
    zh: "请检查本机到 api.base_url 的网络、DNS 与防火墙",
};
const TOO_LARGE: Remedy = Remedy {
    en: "if the answer is genuine, raise api.max_body_bytes",
    zh: "若应答属实，请调大 api.max_body_bytes",
};
const TOKEN_FILE: Remedy = Remedy {
    en: "let the program that owns the token file write a token to it, readable by kfwatch",
    zh: "请让维护该令牌文件的程序写入令牌，并使 kfwatch 可读",
};
const TICKET_FILE: Remedy = Remedy {
    en: "let the program that receives component_verify_ticket write the newest one to the ticket file, readable by \
         kfwatch",
    zh: "请让接收 component_verify_ticket 的程序将最新的票据写入该文件，并使 kfwatch 可读",
};
const STORE: Remedy = Remedy {
    en: "make room on the disk of the store, or see what else keeps it from being written",
    zh: "请为存储所在磁盘腾出空间，或检查其无法写入的其他原因",
};

#[cfg(test)]
mod tests {
    use super::*;

    fn class(endpoint: Endpoint, code: i64) -> ErrorClass {
        CallError::Refused { code, message: "".into() }.class(endpoint)
    }

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(ERRCODES.is_sorted_by_key(|known| known.code));
    }

    #[test]
    fn errcodes_have_the_class_of_the_contract() {
        use ErrorClass::*;
        for (code, expected) in [
            (-1, Busy),
            (40001, TokenRejected),
            (40014, TokenRejected),
            (42001, TokenRejected),
            (40013, NotAuthorized),
            (40125, NotAuthorized),
            (40164, AddressNotAllowed),
            (61004, AddressNotAllowed),
            (45035, AddressNotAllowed),
            (89501, AddressNotAllowed),
            (89506, AddressRefusedForDay),
            (89507, AddressRefusedForHour),
            (45009, DayQuota),
            (45011, MinuteQuota),
            (48001, NotAuthorized),
            (50002, NotAuthorized),
            (65400, NotEnabled),
            (65401, InvalidAccount),
            (65402, UnboundAccount),
            (41001, BadRequest),
            (43002, BadRequest),
            (47001, BadRequest),
            (12345, Unknown),
        ] {
            assert_eq!(class(Endpoint::SessionList, code), expected, "{code}");
        }
        assert_eq!(class(Endpoint::StableToken, 40001), NotAuthorized);
    }

    #[test]
    fn only_errcodes_of_the_table_become_labels() {
        assert_eq!(CallError::Refused { code: 65402, message: "".into() }.code(), "65402");
        assert_eq!(CallError::Refused { code: -1, message: "".into() }.code(), "-1");
        assert_eq!(CallError::Refused { code: 987_654, message: "".into() }.code(), "other");
    }
}
