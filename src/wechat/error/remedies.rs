//! What a human should do about failures, in English and Chinese: where, with which call, and what to expect then.
//!
//! Log and commands share these texts. Each says what to do in words that make sense without the errcode beside them,
//! and none names a value of the configuration: it might be a secret.

/// What a human should do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// In English.
    pub en: &'static str,
    /// In Chinese.
    pub zh: &'static str,
}

/// A kf account without a WeChat user.
pub(super) const UNBOUND: Remedy = Remedy {
    en: "bind a WeChat user to this kf account: invite the agent in the console (or call inviteworker) and have the \
         invitation accepted in WeChat",
    zh: "请为该客服帐号绑定微信号：在公众平台（或调用 inviteworker）邀请客服人员，并由其在微信中接受邀请",
};
/// A kf account that does not exist.
pub(super) const INVALID: Remedy = Remedy {
    en: "correct kf_accounts in the configuration: WeChat does not know this account (the part behind @ is the \
         official account's WeChat ID, which may have been changed; getkflist lists the accounts that exist)",
    zh: "请更正配置中的 kf_accounts：微信不认识该客服帐号（@ 后为公众号的微信号，可能已被修改；getkflist 可列出现有帐号）",
};
/// Customer service that is not enabled.
pub(super) const NOT_ENABLED: Remedy = Remedy {
    en: "enable customer service for the official account at mp.weixin.qq.com, add one kf account, and wait five \
         minutes; test accounts never have it",
    zh: "请在 mp.weixin.qq.com 为公众号开通新版客服功能，添加一个客服帐号后等待约五分钟；测试号无法开通",
};

/// An access token that others make invalid.
pub(super) const OTHER_PROGRAM: Remedy = Remedy {
    en: "if this repeats, find the other program that fetches tokens with /cgi-bin/token for this appid; \
         source = \"stable\" is not affected by it",
    zh: "若反复出现，请找出以 /cgi-bin/token 为该 appid 获取令牌的其他程序；source = \"stable\" 不受其影响",
};
/// A component_access_token that others make invalid.
pub(super) const OTHER_PLATFORM_PROGRAM: Remedy = Remedy {
    en: "if this repeats, find the other program that calls api_component_token for this third-party platform, and \
         let both share one component_access_token",
    zh: "若反复出现，请找出为该第三方平台调用 api_component_token 的其他程序，并让两者共用同一个 component_access_token",
};
/// A wrong AppID.
pub(super) const APPID: Remedy = Remedy {
    en: "correct appid in the configuration; it must be that of the official account that owns the kf accounts",
    zh: "请更正配置中的 appid：须为客服帐号所属公众号的 appid",
};
/// A wrong AppID of a third-party platform.
pub(super) const PLATFORM_APPID: Remedy = Remedy {
    en: "correct the component's appid in the configuration: it must be that of the third-party platform at \
         open.weixin.qq.com, and appid that of the official account which authorized it",
    zh: "请更正配置中第三方平台的 appid：须为 open.weixin.qq.com 上该第三方平台的 appid，而 appid 须为向其授权的公众号",
};
/// An AppID of a third-party platform where one of an official account belongs.
pub(super) const APPID_OF_PLATFORM: Remedy = Remedy {
    en: "appid is that of a third-party platform: set it to the official account's, and source = \"component\"",
    zh: "配置中的 appid 属于第三方平台：请改为公众号的 appid，并设置 source = \"component\"",
};
/// A token of a third-party platform where one of an official account belongs.
pub(super) const TOKEN_OF_PLATFORM: Remedy = Remedy {
    en: "the token source gives the third-party platform's component_access_token: let it give the official account's \
         authorizer_access_token",
    zh: "令牌来源给出的是第三方平台的 component_access_token：请改为提供该公众号的 authorizer_access_token",
};
/// A wrong AppSecret.
pub(super) const SECRET: Remedy = Remedy {
    en: "check appid and AppSecret; a new AppSecret is made in the developer console",
    zh: "请核对 appid 与 AppSecret；可在开发者后台重置 AppSecret",
};
/// A wrong AppSecret of a third-party platform.
pub(super) const PLATFORM_SECRET: Remedy = Remedy {
    en: "check the component's appid and AppSecret; a new AppSecret is made in the platform's settings at \
         open.weixin.qq.com",
    zh: "请核对第三方平台的 appid 与 AppSecret；可在 open.weixin.qq.com 的平台设置中重置 AppSecret",
};
/// A frozen AppSecret.
pub(super) const FROZEN: Remedy = Remedy {
    en: "unfreeze the AppSecret in the developer console; it takes ten minutes",
    zh: "请在开发者后台解冻 AppSecret，约十分钟后生效",
};
/// A component_verify_ticket that is not the newest, or too old.
pub(super) const TICKET: Remedy = Remedy {
    en: "check that the file or URL with the component_verify_ticket is refreshed (WeChat pushes one every ten minutes) \
         and that the platform's authorization event URL is reachable and answers \"success\"; \
         api_start_push_ticket starts the pushes again",
    zh: "请检查存放 component_verify_ticket 的文件或 URL 是否持续更新（微信每十分钟推送一次），以及第三方平台的授权事件\
         接收 URL 是否可达并返回 success；可调用 api_start_push_ticket 重新开始推送",
};
/// A refresh token that is not valid any more.
pub(super) const REFRESH_TOKEN: Remedy = Remedy {
    en: "the refresh token is void: kfwatch reads the present one from api_get_authorizer_list; if this stays, the owner \
         of the official account must authorize the third-party platform again",
    zh: "刷新令牌已失效：kfwatch 会从 api_get_authorizer_list 重新读取；若仍未恢复，请公众号所有者重新授权该第三方平台",
};

/// An address that is not on the official account's list.
pub(super) const ADDRESS: Remedy = Remedy {
    en: "add this host's public address (the errmsg names it) to the IP allow-list in the developer console",
    zh: "请在开发者后台的 IP 白名单中加入本机公网地址（见 errmsg）",
};
/// An address that is not on the platform's list.
pub(super) const PLATFORM_ADDRESS: Remedy = Remedy {
    en: "add this host's public address to the IP allow-list of the third-party platform at open.weixin.qq.com; all \
         calls on behalf of its official accounts are checked against it",
    zh: "请在 open.weixin.qq.com 的第三方平台 IP 白名单中加入本机公网地址；代公众号发起的所有调用都会核对该白名单",
};
/// An address that the administrator has yet to confirm.
pub(super) const CONFIRM: Remedy = Remedy {
    en: "the administrator of the official account must confirm calls from this address in WeChat; or add it to the IP \
         allow-list in the developer console",
    zh: "请公众号管理员在微信中确认来自该地址的调用，或在开发者后台将其加入 IP 白名单",
};
/// An address that the administrator refused.
pub(super) const REFUSED: Remedy = Remedy {
    en: "the administrator of the official account refused calls from this address: agree with them, and add the address \
         to the IP allow-list in the developer console; WeChat takes no calls from it until the time is over",
    zh: "公众号管理员拒绝了来自该地址的调用：请与其沟通，并在开发者后台将该地址加入 IP 白名单；期满前微信不接受来自它的调用",
};

/// An authorization that was withdrawn.
pub(super) const AUTHORIZE: Remedy = Remedy {
    en: "the official account must be authorized again by its owner",
    zh: "请公众号所有者重新授权",
};
/// An interface that was not granted.
pub(super) const NOT_GRANTED: Remedy = Remedy {
    en: "the official account must be verified and be granted the customer service interface (permission set 1, 6 \
         or 100-101)",
    zh: "公众号须已认证并拥有客服接口权限（权限集 1、6 或 100-101）",
};
/// An interface that was not granted, and that polls can do without.
pub(super) const COLLECTOR_NOT_GRANTED: Remedy = Remedy {
    en: "polls go on without this call: have it granted to the official account (verified; permission set 1, 6 or \
         100-101), or turn it off in [collectors]",
    zh: "轮询不受影响：请为公众号（须已认证）开通该接口权限（权限集 1、6 或 100-101），或在 [collectors] 中将其关闭",
};
/// An official account that is restricted.
pub(super) const RESTRICTED: Remedy = Remedy {
    en: "WeChat restricts this official account; see the notices at mp.weixin.qq.com, and appeal there",
    zh: "该公众号被限制，请查看 mp.weixin.qq.com 的通知并在该处申诉",
};
/// A third-party platform that is restricted or not published.
pub(super) const PLATFORM_RESTRICTED: Remedy = Remedy {
    en: "WeChat restricts the third-party platform, or it is not published: see its state and notices at \
         open.weixin.qq.com",
    zh: "第三方平台被限制或未全网发布，请在 open.weixin.qq.com 查看其状态与通知",
};

/// The day's calls of getsessionlist are used up.
pub(super) const DAY_QUOTA: Remedy = Remedy {
    en: "the quota of the day is used up: poll less often, or clear the quota in the console or with \
         openapi/quota/clear; otherwise it is full again after midnight in China",
    zh: "当日调用额度已用完：请降低轮询频率，或在后台或以 openapi/quota/clear 清零额度；否则北京时间零点后恢复",
};
/// The day's token fetches are used up.
pub(super) const TOKEN_QUOTA: Remedy = Remedy {
    en: "the token fetches of the day are used up, those of other programs included: use source = \"stable\" or one \
         token server for all of them, or clear the quota in the console",
    zh: "当日获取令牌的次数（含其他程序）已用完：请使用 source = \"stable\" 或共用一个令牌服务器，或在后台清零额度",
};
/// The day's calls of a collector are used up.
pub(super) const COLLECTOR_QUOTA: Remedy = Remedy {
    en: "the quota of the day for this call is used up: make it less often or turn it off in [collectors], or clear the \
         quota in the console or with openapi/quota/clear",
    zh: "该接口的当日调用额度已用完：请在 [collectors] 中降低其频率或将其关闭，或在后台或以 openapi/quota/clear 清零额度",
};
/// No quota can be cleared any more.
pub(super) const NO_CLEARS_LEFT: Remedy = Remedy {
    en: "quotas cannot be cleared any more this month: poll less often; the quota is full again after midnight in China",
    zh: "本月清零次数已用完：请降低轮询频率；额度将在北京时间零点后恢复",
};
/// The minute's calls are used up.
pub(super) const MINUTE_QUOTA: Remedy = Remedy {
    en: "too many calls a minute, those of other programs included: poll less often, or set poll.spread",
    zh: "每分钟调用（含其他程序）过多：请降低轮询频率，或设置 poll.spread",
};

/// Answers or requests that are not what was sent.
pub(super) const PROXY: Remedy = Remedy {
    en: "something between here and WeChat may alter requests or answers: check proxies and api.base_url",
    zh: "本机与微信之间可能有代理改动请求或应答：请检查代理与 api.base_url",
};
/// Refusals that kfwatch's requests give no cause for.
pub(super) const UNEXPECTED: Remedy = Remedy {
    en: "WeChat should not answer this call so: check proxies and api.base_url; if nothing alters the requests, report \
         this line, with the rid in it, as a bug of kfwatch",
    zh: "微信不应对该调用如此应答：请检查代理与 api.base_url；若请求未被改动，请将此行日志（含 rid）作为 kfwatch 的缺陷报告",
};
/// No way to WeChat.
pub(super) const NETWORK: Remedy = Remedy {
    en: "check the network, DNS and firewall between this host and api.base_url",
    zh: "请检查本机到 api.base_url 的网络、DNS 与防火墙",
};
/// An answer beyond the limit.
pub(super) const TOO_LARGE: Remedy = Remedy {
    en: "if the answer is genuine, raise api.max_body_bytes",
    zh: "若应答属实，请调大 api.max_body_bytes",
};
/// A token file without a usable token.
pub(super) const TOKEN_FILE: Remedy = Remedy {
    en: "let the program that owns the token file write a token to it, readable by kfwatch",
    zh: "请让维护该令牌文件的程序写入令牌，并使 kfwatch 可读",
};
/// A token server that does not give a token.
pub(super) const TOKEN_SERVER: Remedy = Remedy {
    en: "look at the token server: it must be reachable from here and answer with an access token of this official \
         account",
    zh: "请检查令牌服务器：须可从本机访问，并返回该公众号的 access token",
};
pub(super) const TICKET_FILE: Remedy = Remedy {
    en: "let the program that receives component_verify_ticket write the newest one to the ticket file, readable by \
         kfwatch",
    zh: "请让接收 component_verify_ticket 的程序将最新的票据写入该文件，并使 kfwatch 可读",
};
pub(super) const STORE: Remedy = Remedy {
    en: "make room on the disk of the store, or see what else keeps it from being written",
    zh: "请为存储所在磁盘腾出空间，或检查其无法写入的其他原因",
};
