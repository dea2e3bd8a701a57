//! What a human should do about each kind of failure, in English and Chinese.
//!
//! The log, the commands and the pages share these texts. Each text makes sense without the errcode. None contains a
//! value from the configuration, because that could be a secret; some have a [`PLACE`] for one that is safe to show.

use std::borrow::Cow;

use super::language::Language;

/// Where a remedy names a file or a server.
const PLACE: &str = "{place}";

/// What a human should do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The English text.
    pub en: &'static str,
    /// The Chinese text.
    pub zh: &'static str,
}

/// A remedy as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemedyText {
    /// The English text.
    pub en: Cow<'static, str>,
    /// The Chinese text.
    pub zh: Cow<'static, str>,
}

impl Remedy {
    /// The remedy with the place that it concerns.
    pub fn at(self, place: &str) -> RemedyText {
        let [en, zh] = [self.en, self.zh].map(|text| text.replace(PLACE, place).into());
        RemedyText { en, zh }
    }
}

impl RemedyText {
    /// The text in a language. If that is both, English comes first.
    pub fn text(self, language: Language) -> Cow<'static, str> {
        match language {
            Language::English => self.en,
            Language::Chinese => self.zh,
            Language::Both => format!("{} / {}", self.en, self.zh).into(),
        }
    }
}

impl From<Remedy> for RemedyText {
    fn from(Remedy { en, zh }: Remedy) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }
}

pub(crate) const UNBOUND: Remedy = Remedy {
    en: "bind a WeChat user to this kf account: invite the agent in the console (or call inviteworker); the agent \
         must accept the invitation in WeChat",
    zh: "请为该客服帐号绑定微信号：在公众平台（或调用 inviteworker）邀请客服人员，并由其在微信中接受邀请",
};
pub(crate) const INVALID: Remedy = Remedy {
    en: "correct kf_accounts in the configuration: WeChat does not know this account (the part after @ is the \
         official account's WeChat ID, which may have changed; getkflist lists the existing accounts)",
    zh: "请更正配置中的 kf_accounts：微信不认识该客服帐号（@ 后为公众号的微信号，可能已被修改；getkflist 可列出现有帐号）",
};
pub(crate) const BLIND: Remedy = Remedy {
    en: "the status page and `kfwatch check --online` say why WeChat gives no usable answer",
    zh: "请在状态页或用 kfwatch check --online 查看微信未给出可用应答的原因",
};
pub(crate) const NOT_ENABLED: Remedy = Remedy {
    en: "enable customer service for the official account at mp.weixin.qq.com, add one kf account, and wait five \
         minutes; test accounts cannot enable it",
    zh: "请在 mp.weixin.qq.com 为公众号开通新版客服功能，添加一个客服帐号后等待约五分钟；测试号无法开通",
};

pub(crate) const OTHER_PROGRAM: Remedy = Remedy {
    en: "if this repeats, find the other program that fetches tokens with /cgi-bin/token for this appid; \
         source = \"stable\" is not affected by it",
    zh: "若反复出现，请找出以 /cgi-bin/token 为该 appid 获取令牌的其他程序；source = \"stable\" 不受其影响",
};
pub(crate) const OTHER_PLATFORM_PROGRAM: Remedy = Remedy {
    en: "if this repeats, find the other program that calls api_component_token for this third-party platform, and \
         let both share one component_access_token",
    zh: "若反复出现，请找出为该第三方平台调用 api_component_token 的其他程序，并让两者共用同一个 component_access_token",
};
pub(crate) const APPID: Remedy = Remedy {
    en: "correct appid in the configuration: it must be the AppID of the official account that owns the kf accounts",
    zh: "请更正配置中的 appid：须为客服帐号所属公众号的 appid",
};
pub(crate) const PLATFORM_APPID: Remedy = Remedy {
    en: "correct the component's appid in the configuration: it must be the AppID of the third-party platform at \
         open.weixin.qq.com, and the official account's appid must be that of an account which authorized the platform",
    zh: "请更正配置中第三方平台的 appid：须为 open.weixin.qq.com 上该第三方平台的 appid，而 appid 须为向其授权的公众号",
};
pub(crate) const APPID_OF_PLATFORM: Remedy = Remedy {
    en: "appid is the AppID of a third-party platform: set it to the official account's AppID, and set source = \
         \"component\"",
    zh: "配置中的 appid 属于第三方平台：请改为公众号的 appid，并设置 source = \"component\"",
};
pub(crate) const TOKEN_OF_PLATFORM: Remedy = Remedy {
    en: "the token source returns the third-party platform's component_access_token: it must return the official \
         account's authorizer_access_token",
    zh: "令牌来源给出的是第三方平台的 component_access_token：请改为提供该公众号的 authorizer_access_token",
};
pub(crate) const SECRET: Remedy = Remedy {
    en: "check appid and AppSecret; if the AppSecret was replaced, write the present one into its file, which is read again without a \
         restart. A reset in the developer console ends the AppSecret of all programs that use it",
    zh: "请核对 appid 与 AppSecret；若 AppSecret 已更换，请将现用的写入其文件（无需重启，会重新读取）。在开发者后台重置会使所有使用它的程序失效",
};
pub(crate) const PLATFORM_SECRET: Remedy = Remedy {
    en: "check the component's appid and AppSecret; if the AppSecret was replaced, write the present one into its file, which is read \
         again without a restart. A reset at open.weixin.qq.com ends the AppSecret of all programs of the platform",
    zh: "请核对第三方平台的 appid 与 AppSecret；若 AppSecret 已更换，请将现用的写入其文件（无需重启，会重新读取）。在 open.weixin.qq.com 重置会使平台的所有程序失效",
};
pub(crate) const FROZEN: Remedy = Remedy {
    en: "unfreeze the AppSecret in the developer console; this takes effect after about ten minutes",
    zh: "请在开发者后台解冻 AppSecret，约十分钟后生效",
};
pub(crate) const TICKET: Remedy = Remedy {
    en: "check that the file or URL with the component_verify_ticket is refreshed (WeChat pushes one every ten minutes) \
         and that the platform's authorization event URL is reachable and answers \"success\"; call \
         api_start_push_ticket to restart the pushes",
    zh: "请检查存放 component_verify_ticket 的文件或 URL 是否持续更新（微信每十分钟推送一次），以及第三方平台的授权事件\
         接收 URL 是否可达并返回 success；可调用 api_start_push_ticket 重新开始推送",
};
pub(crate) const REFRESH_TOKEN: Remedy = Remedy {
    en: "the refresh token is no longer valid: kfwatch reads the current one from api_get_authorizer_list; if the failure \
         persists, the owner of the official account must authorize the third-party platform again",
    zh: "刷新令牌已失效：kfwatch 会从 api_get_authorizer_list 重新读取；若仍未恢复，请公众号所有者重新授权该第三方平台",
};

pub(crate) const ADDRESS: Remedy = Remedy {
    en: "add this host's public address (the errmsg names it) to the IP allowlist in the developer console",
    zh: "请在开发者后台的 IP 白名单中加入本机公网地址（见 errmsg）",
};
pub(crate) const PLATFORM_ADDRESS: Remedy = Remedy {
    en: "add this host's public address to the IP allowlist of the third-party platform at open.weixin.qq.com; WeChat \
         checks all calls on behalf of the platform's official accounts against it",
    zh: "请在 open.weixin.qq.com 的第三方平台 IP 白名单中加入本机公网地址；代公众号发起的所有调用都会核对该白名单",
};
/// For errcode 61004 of a call that does not say whose token it is.
pub(crate) const ADDRESS_OF_EITHER: Remedy = Remedy {
    en: "add this host's public address (the errmsg names it) to the IP allowlist: of the official account in the developer \
         console, or, if a third-party platform issued the token, of the platform at open.weixin.qq.com",
    zh: "请将本机公网地址（见 errmsg）加入 IP 白名单：公众号自己的令牌在开发者后台设置；若令牌来自第三方平台，则在 open.weixin.qq.com \
         的平台设置中加入",
};
pub(crate) const CONFIRM: Remedy = Remedy {
    en: "the administrator of the official account must confirm calls from this address in WeChat, or you add the address \
         to the IP allowlist in the developer console",
    zh: "请公众号管理员在微信中确认来自该地址的调用，或在开发者后台将其加入 IP 白名单",
};
pub(crate) const REFUSED: Remedy = Remedy {
    en: "the administrator of the official account refused calls from this address: talk to them, and add the address \
         to the IP allowlist in the developer console; until the refusal expires, WeChat accepts no calls from it",
    zh: "公众号管理员拒绝了来自该地址的调用：请与其沟通，并在开发者后台将该地址加入 IP 白名单；期满前微信不接受来自它的调用",
};

pub(crate) const AUTHORIZE: Remedy = Remedy {
    en: "the owner of the official account must authorize it again",
    zh: "请公众号所有者重新授权",
};
pub(crate) const NOT_GRANTED: Remedy = Remedy {
    en: "the official account must be verified and must have the customer service permission (permission set 1, 6 or \
         100-101)",
    zh: "公众号须已认证并拥有客服接口权限（权限集 1、6 或 100-101）",
};
pub(crate) const COLLECTOR_NOT_GRANTED: Remedy = Remedy {
    en: "polls continue without this call: have it granted to the official account (verified; permission set 1, 6 or \
         100-101), or turn it off in [collectors]",
    zh: "轮询不受影响：请为公众号（须已认证）开通该接口权限（权限集 1、6 或 100-101），或在 [collectors] 中将其关闭",
};
pub(crate) const RESTRICTED: Remedy = Remedy {
    en: "WeChat restricts this official account: read the notices at mp.weixin.qq.com, and appeal there",
    zh: "该公众号被限制，请查看 mp.weixin.qq.com 的通知并在该处申诉",
};
pub(crate) const PLATFORM_RESTRICTED: Remedy = Remedy {
    en: "WeChat restricts the third-party platform, or it is not published: check its state and notices at \
         open.weixin.qq.com",
    zh: "第三方平台被限制或未全网发布，请在 open.weixin.qq.com 查看其状态与通知",
};

pub(crate) const DAY_QUOTA: Remedy = Remedy {
    en: "the daily quota is used up: poll less often, or clear the quota in the console or with openapi/quota/clear; \
         otherwise WeChat resets it at midnight in China",
    zh: "当日调用额度已用完：请降低轮询频率，或在后台或以 openapi/quota/clear 清零额度；否则北京时间零点后恢复",
};
pub(crate) const TOKEN_QUOTA: Remedy = Remedy {
    en: "the daily quota of token fetches is used up (other programs use it too): use source = \"stable\", or one token \
         server for all programs, or clear the quota in the console",
    zh: "当日获取令牌的次数（含其他程序）已用完：请使用 source = \"stable\" 或共用一个令牌服务器，或在后台清零额度",
};
pub(crate) const COLLECTOR_QUOTA: Remedy = Remedy {
    en: "the daily quota of this call is used up: make the call less often or turn it off in [collectors], or clear the \
         quota in the console or with openapi/quota/clear",
    zh: "该接口的当日调用额度已用完：请在 [collectors] 中降低其频率或将其关闭，或在后台或以 openapi/quota/clear 清零额度",
};
pub(crate) const NO_CLEARS_LEFT: Remedy = Remedy {
    en: "quotas cannot be cleared again this month: poll less often; WeChat resets the quota at midnight in China",
    zh: "本月清零次数已用完：请降低轮询频率；额度将在北京时间零点后恢复",
};
pub(crate) const MINUTE_QUOTA: Remedy = Remedy {
    en: "too many calls per minute (other programs count too): poll less often, or set poll.spread",
    zh: "每分钟调用（含其他程序）过多：请降低轮询频率，或设置 poll.spread",
};

pub(crate) const PROXY: Remedy = Remedy {
    en: "something between this host and WeChat may change requests or responses: check proxies and api.base_url",
    zh: "本机与微信之间可能有代理改动请求或应答：请检查代理与 api.base_url",
};
pub(crate) const UNEXPECTED: Remedy = Remedy {
    en: "WeChat should not answer this call with this errcode: check proxies and api.base_url; if nothing changes the \
         requests, report this line, including its rid, as a bug in kfwatch",
    zh: "微信不应对该调用如此应答：请检查代理与 api.base_url；若请求未被改动，请将此行日志（含 rid）作为 kfwatch 的缺陷报告",
};
pub(crate) const TLS_ISSUER: Remedy = Remedy {
    en: "set api.ca_file to a PEM file with the certificate of the authority that signed the server's certificate (a proxy that \
         inspects TLS signs with its own), and run \"kfwatch reload\"",
    zh: "请将 api.ca_file 设为签发该服务器证书的 CA 证书（PEM 文件；审查 TLS 的代理使用其自有 CA），然后执行 kfwatch reload",
};
pub(crate) const TLS_NAME: Remedy = Remedy {
    en: "write a name of the certificate in the URL (api.base_url, or that of your token server), or find out which proxy answers \
         in place of this server",
    zh: "请在 URL（api.base_url 或令牌服务器的地址）中使用证书所含的名称，或查明是哪个代理代替该服务器应答",
};
pub(crate) const TLS_CA_AS_LEAF: Remedy = Remedy {
    en: "have a leaf certificate (CA:FALSE) issued for the server and install it there; api.ca_file may then have the certificate \
         of the authority",
    zh: "请为该服务器签发叶子证书（CA:FALSE）并安装；api.ca_file 可设为签发它的 CA 证书",
};
pub(crate) const TLS_DATE: Remedy = Remedy {
    en: "have the server's certificate renewed, or correct this machine's clock",
    zh: "请更新服务器证书，或校准本机时钟",
};
pub(crate) const TLS: Remedy = Remedy {
    en: "find out what answers at the URL (api.base_url, or that of your token server): it must be HTTPS with a certificate that \
         api.ca_file or the system trusts; check api.proxy",
    zh: "请查明该 URL（api.base_url 或令牌服务器的地址）处是何服务应答：须为 HTTPS，且证书受 api.ca_file 或系统信任；并检查 api.proxy",
};
pub(crate) const PROXY_LOGIN: Remedy = Remedy {
    en: "write a user name and a password that the proxy accepts in api.proxy, like http://name:password@host:port, and run \"kfwatch reload\"",
    zh: "请在 api.proxy 中写入代理接受的用户名与密码，如 http://name:password@host:port，然后执行 kfwatch reload",
};
pub(crate) const PROXY_FORBIDS: Remedy = Remedy {
    en: "have the proxy allow CONNECT to the host and port of api.base_url, or use another one in api.proxy",
    zh: "请让代理允许 CONNECT 到 api.base_url 的主机与端口，或在 api.proxy 中改用其他代理",
};
pub(crate) const PROXY_FAILS: Remedy = Remedy {
    en: "check the proxy of api.proxy, and whether it reaches the host of api.base_url",
    zh: "请检查 api.proxy 所指的代理，以及它能否访问 api.base_url 的主机",
};
pub(crate) const NETWORK: Remedy = Remedy {
    en: "check the network, DNS and firewall between this host and api.base_url",
    zh: "请检查本机到 api.base_url 的网络、DNS 与防火墙",
};
pub(crate) const TOO_LARGE: Remedy = Remedy {
    en: "if the response is genuine, raise api.max_body_bytes",
    zh: "若应答属实，请调大 api.max_body_bytes",
};
pub(crate) const TOKEN_FILE: Remedy = Remedy {
    en: "the program that maintains the token file must write a token to it, and kfwatch must be able to read the file",
    zh: "请让维护该令牌文件的程序写入令牌，并使 kfwatch 可读",
};
pub(crate) const TOKEN_SERVER: Remedy = Remedy {
    en: "check the token server: it must be reachable from this host and answer with an access token of this official \
         account",
    zh: "请检查令牌服务器：须可从本机访问，并返回该公众号的 access token",
};
pub(crate) const STALE_TOKEN_FILE: Remedy = Remedy {
    en: "let the program that writes the token files in {place} renew this one before its token expires, and make sure that it \
         does so for the appid of this official account",
    zh: "请让在 {place} 中写入令牌文件的程序在令牌过期前更新它，并确认它使用的是该公众号的 appid",
};
pub(crate) const STALE_SERVER_TOKEN: Remedy = Remedy {
    en: "let the token server {place} renew this token before it expires, and make sure that it does so for the appid of this \
         official account",
    zh: "请让令牌服务器 {place} 在令牌过期前更新它，并确认它使用的是该公众号的 appid",
};
pub(crate) const SERVER_LOGIN: Remedy = Remedy {
    en: "correct the login for {place} in the configuration (header_file, or the user name and password in the URL), or let \
         that server accept this host",
    zh: "请更正配置中访问 {place} 的凭据（header_file，或 URL 中的用户名与密码），或让该服务器放行本机",
};
pub(crate) const SERVER_URL: Remedy = Remedy {
    en: "correct the URL at {place} in the configuration (url, or ticket_url): the server must answer there with the token or the \
         ticket itself, without a redirect",
    zh: "请更正配置中 {place} 的 URL（url 或 ticket_url）：该处须直接返回令牌或票据，不得重定向",
};
pub(crate) const TICKET_FILE: Remedy = Remedy {
    en: "the program that receives component_verify_ticket must write the newest ticket to the ticket file, and kfwatch \
         must be able to read the file",
    zh: "请让接收 component_verify_ticket 的程序将最新的票据写入该文件，并使 kfwatch 可读",
};
pub(crate) const STORE: Remedy = Remedy {
    en: "free space on the disk of the store, or find out why else the store cannot be written",
    zh: "请为存储所在磁盘腾出空间，或检查其无法写入的其他原因",
};
