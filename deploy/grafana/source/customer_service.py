"""The dashboard of people who manage customer service. Its texts are in English and Chinese."""

from panels import (
    GREY, OFFICIAL_ACCOUNT, RUNBOOK, annotations, column, dashboard, fixed, heatmap, lines, of_cluster, row, runbook_link, stat, states, steps,
    table, timeline,
)

HALF = (12, 8)
KF_ACCOUNT = "{{nickname}} {{kf_account}}"
AGE_OF_SESSIONS = steps("green", 43200, "yellow", 86400, "red")
AGE_OF_MESSAGES = steps("green", 300, "yellow", 600, "red")
STATE = states(
    _0=("OK 正常", "green"), _1=("Unbound 未绑定", "red"), _2=("Invalid 无效", "purple"), _3=("Blind 数据陈旧", "orange"))
PRESENCE = states(_0=("Offline 离线", GREY), _1=("Online 在线", "green"))
WHAT_TO_DO = states(
    wechatkfaccountunbound=("Unbound: invite the agent, who accepts in WeChat · 未绑定：邀请客服并在微信中接受", "red"),
    wechatkfaccountinvalid=("Invalid: correct the name in kfwatch's configuration · 无效：更正配置中的客服帐号", "purple"),
    wechatkfnoaccountswatched=("No kf accounts: none is found, or the list is refused · 未找到客服帐号，或微信拒绝返回列表", "orange"),
    wechatkfabsent=("Nothing is known: kfwatch does not run, or is not scraped · 没有数据：kfwatch 未运行或未被采集", "red"),
    wechatkfaccountblind=("Blind: values are old; inform the operator of kfwatch · 数据陈旧：请通知运维人员", "orange"))


def fresh(query, collector):
    """Leaves out official accounts without a response of that collector for 15 minutes."""
    age = f'time() - kfwatch_collector_last_success_timestamp_seconds{{O, collector="{collector}"}}'
    return f"{query} and on (O) max by (O) ({age}) < 900"


def named(query, substitute=None):
    """Adds the nickname of each kf account, or where there is none, the substitute: another label."""
    bare = f'label_replace({query}, "nickname", "$1", "{substitute}", "(.*)")' if substitute else f"({query})"
    return f"({query}) * on (K) group_left (nickname) topk by (K) (1, wechat_kf_account_info{{K}}) or on (K) {bare}"


SESSIONS = "max by (K) (wechat_kf_active_sessions{K})"
UNBOUND = "max by (K) (wechat_kf_account_unbound{K})"
INVALID = "max by (K) (wechat_kf_account_invalid{K})"
BLIND = "max by (K) (kfwatch_account_blind{K})"
STATES = f"{UNBOUND} > bool 0 == 1 or 2 * ({INVALID} > bool 0 == 1) or 3 * ({BLIND} > bool 0)"
WAITING = fresh("max by (O) (wechat_kf_waiting_customers{O})", "waiting")
LONGEST_WAIT = fresh("max by (O) (time() - wechat_kf_waiting_oldest_message_timestamp_seconds{O})", "waiting")
LONGEST_SESSION = "time() - min by (K) (wechat_kf_oldest_session_timestamp_seconds{K})"
LAST_SUCCESS = f"time() - max by (K) (kfwatch_poll_last_success_timestamp_seconds{{K}}) and on (K) {BLIND} > 0"


def to_do(section, state):
    """Returns the kf accounts in that state, with a section of the runbook."""
    return "(" + named(f'label_replace({state} > 0, "section", "{section}", "", "")') + ")"


# Each has its names before they are joined, and the joins compare all labels: where both sides of "or on (K)" have a kf account,
# VictoriaMetrics takes the labels of the left side, even if its value was filtered out.
TO_DO = " or ".join([
    to_do("wechatkfaccountunbound", UNBOUND), to_do("wechatkfaccountinvalid", INVALID), to_do("wechatkfaccountblind", BLIND)])
NOBODY = 'label_replace(max by (O) (wechat_kf_accounts_watched{O}) == 0, "section", "wechatkfnoaccountswatched", "", "")'
NOTHING_KNOWN = 'label_replace(absent(wechat_kf_accounts_watched{O}), "section", "wechatkfabsent", "", "")'

OF_KF_ACCOUNT = [column("kf_account", "Kf account 客服帐号", 210), column("official_account", "Official account 公众号", 150)]
OF_CLUSTER = of_cluster("Namespace 命名空间", "Cluster 集群")


def section(text, name):
    return f"[{text}]({RUNBOOK}#{name})"


EXPLANATIONS = "\n".join([
    f"- **Unbound · 未绑定** (65402): invite the agent in the console; the agent accepts in WeChat. "
    f"{section('How to bind', 'wechatkfaccountunbound')} · 在公众平台邀请客服，由其在微信中接受。",
    f"- **Invalid · 无效** (65401): WeChat does not know this kf account. {section('How to correct', 'wechatkfaccountinvalid')} · "
    "微信不认识该客服帐号，请更正配置。",
    f"- **Blind · 数据陈旧**: no response for minutes; its values are old. "
    f"{section('How to find out why', 'wechatkfaccountblind')} · 长时间无答复，数据不可信。",
    f"- **Customers wait long · 等待过久**: {section('what helps', 'wechatkfcustomerswaitlong')}; nobody online: "
    f"{section('see here', 'wechatkfnobodyonline')} · 无人在线时请安排客服上线。",
    f"- **Offline with open sessions · 离线但有会话**: {section('transfer or return', 'wechatkfsessionsonofflineaccount')} · "
    "请转接会话或重新上线。",
])

CUSTOMER_SERVICE = dashboard(
    "kfwatch-customer-service", "Customer service · 客服",
    "Sessions, queue and agents of WeChat customer service, and what needs attention. / 微信客服的会话、等待与在线情况，以及需要处理的事项。",
    hours=24, runbook="Runbook · 操作手册", variables=6,
    annotations=annotations(
        "Alerts · 告警", "Warnings · 警告", "Restarts · 重启", "Versions · 版本", "Configurations · 配置", enable=False,
    ), panels=[

    row(1, "Now · 现在"),
    stat(2, "Open sessions · 会话数",
         "Sessions that are open now, on all selected kf accounts. Blind accounts count with their last known sessions. / "
         "所选客服帐号当前打开的会话总数；数据陈旧的帐号按最后一次结果计。",
         f"sum({SESSIONS})", steps("blue")),
    stat(3, "Waiting · 等待人数",
         "Customers in the queue that no agent has accepted yet. The next panel shows how long they have waited. Unknown: no response "
         "about the queue for 15 minutes. / 尚未被接入的客户数，右侧为其等待时间。“未知”：15 分钟未取得队列数据。",
         f"sum({WAITING})", steps("blue"), noValue="unknown 未知"),
    stat(4, "Longest wait · 最长等待",
         "How long the oldest message in the queue has had no reply. Yellow from 5 minutes, red from 10: bring another agent online. / "
         "等待最久的消息已等待的时间；5 分钟起黄色，10 分钟起红色：请安排客服上线。",
         f"max({LONGEST_WAIT}) or 0 * max({WAITING})", AGE_OF_MESSAGES, unit="s",
         mappings=states(_0=("nobody 无人", "green")), noValue="unknown 未知"),
    stat(5, "Online · 在线客服", "Kf accounts that are online. Red if there are none. / 在线的客服帐号数；无人在线时为红色。",
         "sum(" + fresh("max by (K) (wechat_kf_account_online{K})", "online") + ")", steps("red", 1, "green"),
         noValue="unknown 未知"),
    stat(6, "Longest session · 最长会话",
         "How long the oldest open session has been open. Red from a day: probably forgotten. A session of a blind kf account may have "
         "ended already. / 最早打开且尚未结束的会话已持续的时间；超过一天为红色，可能被遗忘。数据陈旧的帐号，其会话可能已结束。",
         f"max({LONGEST_SESSION}) or 0 * max({SESSIONS})", AGE_OF_SESSIONS, unit="s", mappings=states(_0=("none 无", "green"))),
    stat(7, "Unbound · 未绑定",
         "Kf accounts without a bound WeChat user: they cannot serve customers until an agent is invited and accepts. See the table "
         "below. / 未绑定微信号的客服帐号数，无法接待客户；处理办法见下表。",
         f"sum({UNBOUND})", steps("green", 1, "red")),
    stat(8, "Invalid · 无效帐号",
         "Kf accounts that WeChat does not know: renamed, deleted or misspelled. See the table below. / "
         "微信不认识的客服帐号数：已改名、已删除或填写有误；处理办法见下表。",
         f"sum({INVALID})", steps("green", 1, "red")),
    stat(9, "Blind · 数据陈旧",
         "Kf accounts for which kfwatch gets no response: the values on this page are out of date. / "
         "长时间得不到答复的客服帐号数：本页显示的是旧数据。",
         f"sum({BLIND})", steps("green", 1, "orange")),

    row(10, "Needs attention · 需要处理"),
    table(11, "Kf accounts that need attention · 需要处理的客服帐号",
          "Kf accounts that cannot serve customers or whose values are out of date, and what to do. The last column links to the "
          "runbook. Empty is good. / 无法接待客户或数据陈旧的客服帐号及处理办法；最后一列链接到操作手册。空表为正常。", (15, 8),
          [f"{TO_DO} or {NOBODY} or {NOTHING_KNOWN}"],
          [column("nickname", "Nickname 昵称", 120), *OF_KF_ACCOUNT, *OF_CLUSTER,
           column("section", "What to do 处理办法", None, "text", mappings=WHAT_TO_DO,
                  links=runbook_link("Runbook · 操作手册", "${__value.raw}"))],
          sort=["-What to do 处理办法", "Kf account 客服帐号"], empty="Nothing to do · 无需处理"),
    {
        "type": "text", "id": 12, "title": "What to do · 处理办法", "gridPos": {"w": 9, "h": 8},
        "description": "What each state means, with links to the runbook. / 各状态的含义与操作手册链接。",
        "options": {"mode": "markdown", "content": EXPLANATIONS},
    },

    row(13, "Agents · 客服"),
    table(14, "Agents · 客服一览",
          "Every kf account with its sessions and state. Offline with open sessions means that customers write to an absent agent. No "
          "nickname: WeChat's list does not contain the account. With metrics.per_account = false, a row is an official account. / "
          "每个客服帐号的会话与状态。离线但仍有会话，说明客户在给不在线的客服留言。无昵称：微信的客服列表中没有该帐号。", (12, 20),
          [named(STATES), named(fresh("max by (K) (wechat_kf_account_online{K})", "online")), named(SESSIONS), named(LONGEST_SESSION)],
          [column("nickname", "Nickname 昵称", 110, noValue="–"), *OF_KF_ACCOUNT,
           column("Value #A", "State 状态", 130, "background", mappings=STATE),
           column("Value #B", "Online 在线", 105, "text", mappings=PRESENCE),
           column("Value #C", "Sessions 会话", 120, min=0, decimals=0, color=fixed("blue"),
                  custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
           column("Value #D", "Longest 最长", 95, "text", unit="s", decimals=1, thresholds=AGE_OF_SESSIONS, noValue="–"),
           *OF_CLUSTER],
          sort=["-Sessions 会话"], unit="short", color={"mode": "thresholds"}),
    timeline(15, "Online agents · 在线情况",
             "Green while the kf account was online. A gap means that there was no response for 15 minutes. Accounts without a nickname "
             "are shown with their official account. / 绿色为在线；空白表示 15 分钟没有数据；无昵称时以公众号名代替。", (12, 20),
             named(fresh("max by (K) (wechat_kf_account_online{K}) > bool 0", "online"), "official_account"), KF_ACCOUNT, PRESENCE,
             interval="1m"),

    row(16, "Sessions · 会话"),
    lines(17, "Open sessions by kf account · 各客服会话数",
          "Open sessions of each kf account, stacked: the upper edge is the sum. Sorted by the maximum. / "
          "各客服帐号打开的会话数（堆叠，上沿为总数），按最大值排序。", (16, 12),
          {KF_ACCOUNT: named(SESSIONS, "official_account")}, "short", stacked=True, step=True, legend="right"),
    lines(18, "Longest session by official account · 各公众号最长会话",
          "How long the oldest open session of each official account has been open. It grows until that session ends. Red from a day. / "
          "各公众号最早会话的持续时间，持续增长直到会话结束；超过一天为红色。", (8, 12),
          {OFFICIAL_ACCOUNT: "max by (O) (time() - wechat_kf_oldest_session_timestamp_seconds{K})"}, "s", level=AGE_OF_SESSIONS,
          noValue="No sessions · 无会话"),
    lines(19, "Starts and ends in an hour · 一小时内开始与结束",
          "Sessions that started and ended in the hour before each point. More starts than ends: open sessions accumulate. / "
          "每个时间点之前一小时内开始与结束的会话数；开始多于结束说明会话在积压。", HALF,
          {"Started 开始": "sum(increase(wechat_kf_sessions_started_total{K}[1h]))",
           "Ended 结束": "sum(increase(wechat_kf_sessions_ended_total{K}[1h]))"},
          "short", colours={"Started 开始": "blue", "Ended 结束": "purple"}, axis={"axisSoftMax": 1}),
    lines(20, "Starts in an hour by official account · 各公众号一小时内新会话",
          "Sessions that started in the hour before each point, by official account. / 工作量来源：每个时间点之前一小时内开始的会话数。",
          HALF, {OFFICIAL_ACCOUNT: "sum by (O) (increase(wechat_kf_sessions_started_total{K}[1h]))"}, "short", stacked=True),

    row(21, "Queue · 等待队列"),
    lines(22, "Customers waiting by official account · 各公众号等待人数",
          "Customers that no agent has accepted yet, by official account. / 各公众号尚未接入的客户数。", HALF,
          {OFFICIAL_ACCOUNT: WAITING}, "short", stacked=True, step=True),
    lines(23, "Longest wait by official account · 各公众号最长等待",
          "How long the oldest waiting message has had no reply, by official account; no line while nobody waits. Red from 10 minutes. "
          "/ 各公众号等待最久的消息的等待时间；无人等待时不画线；10 分钟起为红色。", HALF,
          {OFFICIAL_ACCOUNT: LONGEST_WAIT}, "s", level=AGE_OF_MESSAGES, mark="line+area", noValue="Nobody waits · 无人等待"),

    row(24, "Durations · 会话时长 (all official accounts · 全部公众号)"),
    lines(25, "How long sessions last · 会话时长",
          "Sessions that ended in the previous hour: half were shorter than the lower line, nine of ten shorter than the upper one. "
          "Estimated from histogram buckets of all official accounts, regardless of the selection above. / "
          "此前一小时内结束的会话：一半短于下线，九成短于上线。按区间估算，包含全部公众号，不受上方筛选影响。", HALF,
          {text: f"histogram_quantile({quantile}, sum by (le) (rate(wechat_kf_session_duration_seconds_bucket{{I}}[1h])))"
           for text, quantile in (("Half are shorter 半数短于", 0.5), ("9 of 10 are shorter 九成短于", 0.9))},
          "s", calcs=("lastNotNull",)),
    heatmap(26, "Sessions by duration · 会话时长分布",
            "Distribution of the duration of ended sessions over time; the stronger the colour, the more sessions. New cells further up "
            "mean that sessions take longer. / 各时段结束的会话按时长分布，颜色越醒目数量越多；上方出现新的色块说明会话变长。", HALF,
            "wechat_kf_session_duration_seconds_bucket{I}", interval="10m"),

    row(27, "Is this data current? · 数据是否可信"),
    timeline(28, "State of kf accounts · 客服帐号状态",
             "The state of each kf account over time. Red: not bound; purple: unknown to WeChat; orange: values out of date. / "
             "各客服帐号的状态变化。红色：未绑定；紫色：微信不认识；橙色：显示的是旧数据。", (12, 18),
             named(STATES, "official_account"), KF_ACCOUNT, STATE, interval="1m"),
    table(29, "Blind kf accounts · 数据陈旧的客服帐号",
          "Kf accounts without a response for minutes; the last column shows the age of their values. Empty is good. / "
          "这些客服帐号长时间没有答复；最后一列为数据的陈旧程度。空表为正常。", (12, 9),
          [named(LAST_SUCCESS)],
          [column("nickname", "Nickname 昵称", 120), *OF_KF_ACCOUNT, *OF_CLUSTER,
           column("Value", "Last good response 距上次成功", None, "text", unit="s", color=fixed("orange"))],
          sort=["-Last good response 距上次成功"], empty="None · 无"),
    lines(30, "Age of queue, presence and nicknames · 队列、在线与昵称数据的时效",
          "Age of the oldest response on which the queue, the online states and the nicknames of this page are based. If it only rises, "
          "WeChat refuses that call. / 队列、在线情况与昵称所依据的最旧一次答复距今的时间；持续上升说明微信拒绝了该调用。", (12, 9),
          {legend: f'max by (collector) (time() - kfwatch_collector_last_success_timestamp_seconds{{O, collector="{collector}"}})'
           for legend, collector in (("Queue 队列", "waiting"), ("Online 在线", "online"), ("Nicknames 昵称", "kf_list"))}, "s"),
])
