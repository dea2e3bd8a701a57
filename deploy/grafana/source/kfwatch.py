"""The dashboard of people who run kfwatch."""

import pathlib
import re

from panels import (
    INSTANCE, OFFICIAL_ACCOUNT, PER_MINUTE, SINK, annotations, column, dashboard, fixed, gauges, heatmap, lines, of_cluster, override,
    own, row, runbook_link, stat, states, steps, table, timeline,
)

RULES = pathlib.Path(__file__).parents[2] / "prometheus/kfwatch.rules.yml"
# The severity of each alert that is for people.
ALERTS = dict(re.findall(r"- alert: (\w+)(?:\n(?! +- alert:).*)*?\n +severity: (critical|warning|info)\n", RULES.read_text()))

THIRD, HALF, QUARTER = (8, 8), (12, 8), (6, 8)
CALLS = (8, 9)
ONLY_POSTGRESQL = "Only with PostgreSQL"
UP = states(_0=("down", "red"), _1=("up", "green"))
SUCCEEDED = states(_0=("failed", "red"), _1=("succeeded", "green"))

# What a replica saw at its last heartbeat, if that was not long ago, and replicas that are down while another one works.
TRUSTED = "and on (I) kfwatch_lease_trusted{I} == 1"
REPLACED = "last_over_time(kfwatch_cluster_shards{I}[1d]) and on (cluster, namespace) kfwatch_lease_trusted{I} == 1"

SEVERITIES = {"critical": "red", "warning": "orange", "info": "blue"}
# States that need attention: the alert that they may raise, the text, and a query that has values while it is so. The table needs
# no alert rules, and no series ALERTS.
PROBLEMS = [
    ("WechatKfAbsent", "Nothing is scraped", "absent(kfwatch_build_info{I})"),
    ("WechatKfTargetDown", "Cannot be scraped", own("max by (job, I) (up{I}) == 0") + f" unless on (I) ({REPLACED})"),
    ("WechatKfReplicaDown", "Replica cannot be scraped", own("max by (job, I) (up{I}) == 0") + f" and on (I) ({REPLACED})"),
    ("WechatKfDatabaseUnreachable", "No replica reaches the database", "max by (cluster, namespace) (kfwatch_lease_trusted{I}) == 0"),
    ("WechatKfShardsUnowned", "Shards without an owner",
     f"max by (cluster, namespace) (kfwatch_cluster_shards_unowned{{I}} {TRUSTED}) > 0"),
    ("WechatKfReplicasDisagree", "Replicas have different configurations",
     f"max by (cluster, namespace) (kfwatch_cluster_config_mismatch{{I}} {TRUSTED}) == 1"),
    ("WechatKfStoreFailing", "The store cannot be written", "min by (I) (kfwatch_store_last_write_successful{I}) == 0"),
    ("WechatKfTokenRefreshFailing", "No access token", "min by (O) (kfwatch_token_last_refresh_successful{O}) == 0"),
    ("WechatKfQuotaExhausted", "No quota left today", "min by (O) (wechat_kf_api_quota_remaining{O}) == 0"),
    ("WechatKfNoAccountsWatched", "No kf accounts are found", "max by (O) (wechat_kf_accounts_watched{O}) == 0"),
    ("WechatKfPollerStalled", "Polls are overdue", "max by (O) (kfwatch_poll_overdue{O}) > 0"),
    ("WechatKfSinkSuspended", "Sink suspended: it loses events", "max by (S) (kfwatch_sink_suspended{I}) > 0"),
    ("WechatKfSinkStopped", "Sink stopped", "max by (S) (kfwatch_sink_stopped{I}) > 0"),
    ("WechatKfDeadLetters", "Sink refused events", "max by (S) (kfwatch_sink_dead_letters{I}) > 0"),
    ("WechatKfAccountBlind", "Kf accounts without responses", "max by (O) (kfwatch_account_blind{O}) > 0"),
    ("WechatKfAccountUnbound", "Unbound kf accounts", "max by (O) (wechat_kf_account_unbound{O}) > 0"),
    ("WechatKfAccountInvalid", "Invalid kf accounts", "max by (O) (wechat_kf_account_invalid{O}) > 0"),
    ("WechatKfConfigReloadFailed", "Changed configuration refused", "min by (I) (kfwatch_config_last_reload_successful{I}) == 0"),
    ("WechatKfClockSkewed", "The clock is wrong", "max by (I) (abs(kfwatch_upstream_clock_skew_seconds{I})) > 60"),
]


def problems():
    """The value is the rank of the severity, and the label "section" that of the runbook."""
    for alert, _, query in PROBLEMS:
        rank = list(SEVERITIES).index(ALERTS[alert])
        yield f'label_replace(0 * ({query}) + {rank}, "section", "{alert.lower()}", "", "")'


def fraction(quantile, buckets, by="le"):
    return f"histogram_quantile({quantile}, sum by ({by}) (rate({buckets}[R])))"


def faster(buckets):
    return {"Half are faster": fraction(0.5, buckets), "99 of 100 are faster": fraction(0.99, buckets)}


def number(source, title, *thresholds):
    return column(source, title, 150, "text", unit="short", decimals=0, thresholds=steps(*thresholds))


KFWATCH = dashboard(
    "kfwatch", "kfwatch", "Whether kfwatch itself works: polls, calls to WeChat, tokens, quota, sinks, store and process.",
    hours=6, runbook="Runbook", variables=5,
    annotations=annotations("Alerts", "Warnings", "Restarts", "Versions", "Configurations", enable=True), panels=[

    row(1, "At a glance"),
    stat(2, "Scraped", "Whether Prometheus can scrape all selected instances. Red: it cannot, and none of the values below is new.",
         "min(" + own("up{I}") + ")", steps("red", 1, "green"), unit="none", mappings=UP),
    stat(3, "Version", "The running version.",
         "max by (version) (kfwatch_build_info{I})", steps("blue"), unit="none", legend="{{version}}",
         mappings=states(_1=("running", "blue"))),
    stat(4, "Running for",
         "Time since the most recent start of a process. If it is short again and again, kfwatch restarts repeatedly.",
         "min(time() - (" + own("process_start_time_seconds{I}") + "))", steps("orange", 600, "green"), unit="s"),
    stat(5, "Kf accounts",
         "Kf accounts that are polled. Red: none, because patterns find none, or there was no response of getkflist.",
         "sum(max by (O) (wechat_kf_accounts_watched{O}))", steps("red", 1, "blue")),
    stat(6, "Last poll succeeded",
         "Share of the kf accounts whose last poll succeeded; it needs series for each kf account. Unbound and invalid ones never "
         "succeed; the customer service dashboard lists them.",
         "avg(max by (K) (wechat_kf_account_up{O}))", steps("red", 0.5, "yellow", 0.9, "green"), unit="percentunit"),
    stat(7, "Blind", "Kf accounts without a successful poll for too long: their values are out of date.",
         "sum(max by (K) (kfwatch_account_blind{O}))", steps("green", 1, "red")),
    stat(8, "Overdue",
         "Kf accounts that should have been polled and were not, although no backoff is active. Above zero, the poller itself is "
         "stalled.",
         "sum(max by (K) (kfwatch_poll_overdue{O}))", steps("green", 1, "red")),
    stat(9, "Undelivered events",
         "Pending events, summed over the sinks. A number that soon returns to zero is normal; a growing one means that a sink "
         "fails.",
         "sum(kfwatch_sink_pending_events{I})", steps("green", 100, "yellow", 1000, "red")),
    table(53, "Needs attention",
          "States that need a person, computed from the metrics, so that no alert rules are needed. The state links to the "
          "runbook. Empty is good.", (10, 9),
          [" or ".join(problems())],
          [column("Value", "Severity", 80, "text", mappings=states(
              **{f"_{rank}": (severity, colour) for rank, (severity, colour) in enumerate(SEVERITIES.items())})),
           column("section", "State", 230, links=runbook_link("Open the runbook", "${__value.raw}"),
                  mappings=states(**{alert.lower(): (text, "text") for alert, text, _ in PROBLEMS})),
           column("official_account", "Official account"), column("sink", "Sink"), column("instance", "Instance"),
           *of_cluster()],
          sort=["Severity", "State"], empty="Nothing to do"),
    table(10, "Active alerts",
          "Alerts of kfwatch that are firing or pending, with links to the runbook. All official accounts are listed, regardless of "
          "the selection above. Empty is good, provided that the rules are loaded and the data source has their series ALERTS: "
          "Prometheus has it, VictoriaMetrics only if vmalert writes to it.", (14, 9),
          ['label_replace(max by (alertname, alertstate, severity, O, kf_account, instance, sink, collector) '
           '(ALERTS{alertname=~"WechatKf.*", severity!="none", cluster=~"$cluster", namespace=~"$namespace"}), '
           '"section", "$1", "alertname", "(.*)")'],
          [column("severity", "Severity", 80, "text",
                  mappings=states(**{severity: (severity, colour) for severity, colour in SEVERITIES.items()})),
           column("alertname", "Alert"),
           column("alertstate", "State", 80, "text", mappings=states(firing=("firing", "red"), pending=("pending", "yellow"))),
           column("official_account", "Official account"), column("kf_account", "Kf account"), column("sink", "Sink"),
           column("collector", "Collector"), column("instance", "Instance"), *of_cluster(),
           # The text is the section, which has no capital letters.
           column("section", "Runbook", links=runbook_link("Open the runbook", "${__value.text}"), mappings=states(
               **{alert: (alert.lower(), "blue") for alert in ALERTS}))],
          sort=["State", "Severity"], empty="No alert is active, or the data source has no series ALERTS"),

    row(11, "Polling"),
    lines(12, "Polls",
          "Polls made, by official account. The rate follows the schedule; a drop means that polls back off after failures, or that "
          "the poller is stalled.", THIRD,
          {OFFICIAL_ACCOUNT: "60 * sum by (O) (rate(kfwatch_polls_total{O}[R]))"}, PER_MINUTE),
    lines(13, "Failed polls",
          "Share of the polls that failed, by official account. Unbound and invalid kf accounts fail at every poll and keep it above "
          "zero.", THIRD,
          {OFFICIAL_ACCOUNT: "sum by (O) (rate(kfwatch_poll_failures_total{O}[R])) / (sum by (O) (rate(kfwatch_polls_total{O}[R])) > 0)"},
          "percentunit", level=steps("green", 0.5, "red"), max=1),
    lines(14, "Kf accounts by state",
          "How many kf accounts are blind, unbound, invalid or overdue. Blind on all of an official account at once: its token, its "
          "address or the network.", THIRD,
          {"Unbound": "sum(max by (K) (wechat_kf_account_unbound{O}))", "Invalid": "sum(max by (K) (wechat_kf_account_invalid{O}))",
           "Blind": "sum(max by (K) (kfwatch_account_blind{O}))", "Overdue": "sum(max by (K) (kfwatch_poll_overdue{O}))"},
          "short", step=True, colours={"Unbound": "red", "Invalid": "purple", "Blind": "orange", "Overdue": "yellow"}),
    lines(15, "Duration of sweeps",
          "Time from a tick of a schedule until its last poll was done. It must stay below the time between two ticks, otherwise "
          "polls overrun.", HALF,
          faster("kfwatch_sweep_duration_seconds_bucket{I}"), "s"),
    lines(16, "Overruns and missed ticks",
          "Overruns: the previous poll of a kf account was still running, because WeChat is slow. Missed: this machine was suspended "
          "or overloaded, or its clock jumped.", HALF,
          {"Overruns": "60 * sum(rate(kfwatch_poll_overruns_total{O}[R]))",
           "Missed ticks": "60 * sum(rate(kfwatch_schedule_missed_ticks_total{I}[R]))"}, PER_MINUTE, axis={"axisSoftMax": 1}),

    row(17, "Calls to WeChat"),
    lines(18, "Calls by endpoint", "Calls made to WeChat. getsessionlist counts against the quota of the day.", CALLS,
          {"{{endpoint}}": "60 * sum by (endpoint) (rate(kfwatch_api_requests_total{O}[R]))"}, PER_MINUTE),
    lines(19, "Errors by code",
          "Calls that failed, by endpoint and errcode (or kind of failure: timeout, connect, http, malformed). Select an official "
          "account above to see only its errors. 65402: not bound; 65401: unknown kf account; -1: WeChat is busy. The runbook "
          "explains each.", (16, 9),
          {"{{code}} {{endpoint}}": "60 * sum by (endpoint, code) (rate(kfwatch_api_errors_total{O}[R]))"},
          PER_MINUTE, bars=True, stacked=True, legend="right", noValue="No errors"),
    lines(20, "Typical latency", "Half of the calls are answered faster than this, by endpoint.", CALLS,
          {"{{endpoint}}": fraction(0.5, "kfwatch_api_request_duration_seconds_bucket{I}", by="endpoint, le")}, "s"),
    lines(21, "Latency of the slowest",
          "99 of 100 calls are answered faster than this, by endpoint. Near api.timeout: WeChat or the network hangs.", CALLS,
          {"{{endpoint}}": fraction(0.99, "kfwatch_api_request_duration_seconds_bucket{I}", by="endpoint, le")}, "s"),
    heatmap(22, "Latency of getsessionlist",
            "Distribution of the duration of polls; the stronger the colour, the more polls. A second band at the top means that "
            "some calls hang.", CALLS,
            'kfwatch_api_request_duration_seconds_bucket{I, endpoint="getsessionlist"}'),

    row(23, "Access tokens"),
    lines(24, "Time until the token expires",
          "It falls, and rises when a token is fetched. Below zero: kfwatch cannot get a new token. Tokens from a file or a token "
          "server have no known expiry and are not shown.", THIRD,
          {OFFICIAL_ACCOUNT: "min by (O) (kfwatch_token_expiry_timestamp_seconds{O} - time())"}, "s",
          level=steps("red", 0, "transparent"), mark="line+area", calcs=("lastNotNull", "min"), floor=None),
    timeline(25, "Last attempt to get a token",
             "Whether the last attempt to get an access token succeeded. If it is red for more than some minutes, no poll of this "
             "official account can succeed.", THIRD,
             "min by (O) (kfwatch_token_last_refresh_successful{O})", OFFICIAL_ACCOUNT, SUCCEEDED),
    lines(26, "Tokens in the last hour",
          "Fetched: one in two hours per official account is usual. Replaced: another program fetches tokens for the same official "
          "account and invalidates those of kfwatch. Failed: see the log.", THIRD,
          {"Replaced " + OFFICIAL_ACCOUNT: "sum by (O) (increase(kfwatch_token_replaced_total{O}[1h])) > 0",
           "Failed " + OFFICIAL_ACCOUNT: "sum by (O) (increase(kfwatch_token_refresh_failures_total{O}[1h])) > 0",
           "Fetched in all": "sum(increase(kfwatch_token_refreshes_total{O}[1h]))"}, "short", axis={"axisSoftMax": 1}),

    row(27, "Quota of getsessionlist"),
    gauges(28, "Left today",
           "Share of today's calls of getsessionlist that is left. At zero, polls wait until midnight in China.", THIRD,
           "min by (O) (wechat_kf_api_quota_remaining{O} / wechat_kf_api_quota_limit{O})", OFFICIAL_ACCOUNT,
           steps("red", 0.1, "yellow", 0.25, "green")),
    lines(29, "Calls left today",
          "Calls of getsessionlist left today, from WeChat's last response. WeChat resets it once a day, around midnight in China.",
          THIRD, {OFFICIAL_ACCOUNT: "min by (O) (wechat_kf_api_quota_remaining{O})"}, "short", step=True,
          calcs=("lastNotNull", "min")),
    lines(30, "Need of a whole day",
          "Share of the daily quota that kfwatch would use if it called all day as often as in the last 15 minutes. Above 100 % the "
          "quota will not last: poll less often. A schedule of office hours needs less than shown.", THIRD,
          {OFFICIAL_ACCOUNT: 'sum by (O) (rate(kfwatch_api_requests_total{O, endpoint="getsessionlist"}[15m])) * 86400 / '
                             "max by (O) (wechat_kf_api_quota_limit{O})"},
          "percentunit", level=steps("transparent", 1, "red"), mark="line+area"),

    row(31, "Events and sinks"),
    table(51, "Sinks",
          "State of each sink. Stopped: it answered 410, has 10,000 dead letters, or an operator stopped it, and its events are "
          "kept. Suspended: the event log was full, and the sink misses events. Both last until \"kfwatch sinks resume\". Lost and "
          "expired: events of the last day that the sink never received, because the log was full or a dead letter too old.",
          (24, 7),
          ["max by (S) (kfwatch_sink_stopped{I} + kfwatch_sink_suspended{I})", "max by (S) (kfwatch_sink_pending_events{I})",
           "max by (S) (kfwatch_sink_dead_letters{I})", "sum by (S) (increase(kfwatch_sink_expired_dead_letters_total{I}[1d]))",
           "sum by (S) (increase(kfwatch_sink_lost_events_total{I}[1d]))"],
          [column("sink", "Sink"), column("instance", "Instance"), *of_cluster(),
           column("Value #A", "State", 120, "text",
                  mappings=states(_0=("not stopped", "green"), _1=("stopped", "orange"), _2=("suspended", "red"))),
           number("Value #B", "Undelivered", "green", 100, "yellow", 1000, "red"),
           number("Value #C", "Dead letters", "green", 1, "orange", 5000, "red"),
           number("Value #D", "Expired in a day", "green", 0.5, "orange"),
           number("Value #E", "Lost in a day", "green", 0.5, "red")],
          sort=["-State"]),
    lines(32, "Events committed", "Events written to the event log, by type.", THIRD,
          {"{{event_type}}": "60 * sum by (event_type) (rate(kfwatch_events_total{I}[R]))"}, PER_MINUTE),
    lines(33, "Events delivered",
          "Events that each sink acknowledged. A sink at zero while events are committed is stalled.", THIRD,
          {SINK: "60 * sum by (S) (rate(kfwatch_sink_delivered_events_total{I}[R]))"}, PER_MINUTE),
    lines(34, "Failed deliveries",
          "Delivery attempts that failed. They are retried and nothing is lost. The log has the reason.", THIRD,
          {SINK: "60 * sum by (S) (rate(kfwatch_sink_delivery_failures_total{I}[R]))"}, PER_MINUTE, axis={"axisSoftMax": 1}),
    lines(35, "Undelivered events by sink", "Pending events of each sink. The number should return to zero.", THIRD,
          {SINK: "max by (S) (kfwatch_sink_pending_events{I})"}, "short", step=True, axis={"axisSoftMax": 1}),
    lines(36, "Age of the oldest undelivered event",
          "How far each sink lags; no line while nothing is pending. Red from 10 minutes.", THIRD,
          {SINK: "max by (S) (time() - kfwatch_sink_oldest_pending_timestamp_seconds{I})"}, "s",
          level=steps("transparent", 600, "red"), mark="line+area", noValue="Nothing is pending"),
    lines(52, "Share of the log that is pending",
          "Share of event_log_max_bytes that the pending events of each sink use. An alert fires from half on; at 95% the sink is "
          "suspended and loses its oldest events. A suspended sink no longer prevents pruning.", THIRD,
          {SINK: "max by (S) ((kfwatch_sink_pending_events{I} unless on (S) kfwatch_sink_suspended{I} > 0) * on (I) group_left () "
                 "(kfwatch_store_used_bytes{I} / on (I) (kfwatch_store_events{I} > 0) "
                 "/ on (I) kfwatch_store_event_log_max_bytes{I}))"},
          "percentunit", step=True, level=steps("green", 0.5, "orange", 0.95, "red"), max=1),

    row(37, "Store"),
    lines(38, "Duration of commits",
          "Time that polls waited until their changes were on the disk. Tens of milliseconds are usual; seconds mean a slow or full "
          "disk.", QUARTER,
          faster("kfwatch_store_commit_duration_seconds_bucket{I}"), "s"),
    lines(39, "Size of the store",
          "Size of the database with its write-ahead log on the disk, and the part in use, which alone counts for "
          "event_log_max_bytes. The file never shrinks. How close each sink is to the limit, \"Share of the log that is pending\" "
          "shows.", QUARTER,
          {"On the disk " + INSTANCE: "max by (I) (kfwatch_store_size_bytes{I})",
           "In use " + INSTANCE: "max by (I) (kfwatch_store_used_bytes{I})"}, "bytes"),
    timeline(40, "Last write to the store",
             "Whether the last write succeeded. Red: results of polls have no effect until the disk has space or is repaired.",
             QUARTER, "min by (I) (kfwatch_store_last_write_successful{I})", INSTANCE, SUCCEEDED),
    lines(41, "Failed commits",
          "Transactions that failed: changes of polls, cursors of sinks, pruning. The next successful poll finds again what a poll "
          "could not store.", QUARTER,
          {INSTANCE: "60 * sum by (I) (rate(kfwatch_store_failures_total{I}[R]))"}, PER_MINUTE, axis={"axisSoftMax": 1}),

    row(42, "Collectors and clock"),
    lines(43, "Age of the oldest response by collector",
          "Age of the last response of each collector, for the official account where it is oldest. It rises to the collector's "
          "interval and falls again; if it only rises, WeChat refuses the call.", THIRD,
          {"{{collector}}": "max by (collector) (time() - kfwatch_collector_last_success_timestamp_seconds{O})"}, "s"),
    table(44, "Age of responses now",
          "Age of the last response of each collector, by official account, the oldest first. Missing collectors are off or have "
          "never had a response.", THIRD,
          ["max by (O, collector) (time() - kfwatch_collector_last_success_timestamp_seconds{O})"],
          [column("collector", "Collector", 110), column("official_account", "Official account"),
           *of_cluster(), column("Value", "Age", 110, unit="s")],
          sort=["-Age"]),
    lines(45, "Clock ahead of WeChat's",
          "How far the clock of this machine is ahead of WeChat's (negative: behind). Above a few seconds, synchronize it with NTP.",
          THIRD, {INSTANCE: "max by (I) (kfwatch_upstream_clock_skew_seconds{I})"}, "s", floor=None,
          axis={"axisSoftMax": 5, "axisSoftMin": -5}),

    row(46, "Process and configuration"),
    lines(47, "Memory", "Memory of the process. It should level off.", THIRD,
          {INSTANCE: "max by (I) (" + own("process_resident_memory_bytes{I}") + ")"}, "bytes"),
    lines(48, "CPU time", "CPU time used, over ten minutes; 100 % is one core.", THIRD,
          {INSTANCE: "max by (I) (" + own("rate(process_cpu_seconds_total{I}[10m])") + ")"}, "percentunit"),
    lines(49, "Open files", "Open files and connections; the legend shows the limit. Near the limit, calls fail.", THIRD,
          {INSTANCE: "max by (I) (" + own("process_open_fds{I}") + ")",
           "Allowed " + INSTANCE: "max by (I) (" + own("process_max_fds{I}") + ")"}, "short",
          overrides=[override("/^Allowed/", "byRegexp", custom__hideFrom={"legend": False, "tooltip": False, "viz": True})]),
    lines(50, "Threads", "Threads of the process. It should level off.", THIRD,
          {INSTANCE: "max by (I) (" + own("process_threads{I}") + ")"}, "short"),
    timeline(54, "Last reload of the configuration",
             "Whether the last reload was applied. Red: the changed configuration has a mistake, and kfwatch runs with the old one. "
             "\"kfwatch reload --dry-run\" shows the mistake.", THIRD,
             "min by (I) (kfwatch_config_last_reload_successful{I})", INSTANCE, states(_0=("refused", "red"), _1=("applied", "green"))),
    lines(55, "Age of the configuration",
          "Time since kfwatch was started or last applied its configuration. It does not fall while reloads are refused.", THIRD,
          {INSTANCE: "max by (I) (time() - kfwatch_config_last_reload_success_timestamp_seconds{I})"}, "s"),

    row(56, "Cluster"),
    lines(57, "Shards by replica",
          "Shards that each replica owns, and those that nobody owns. There are 64 in all. They are balanced by the number of kf accounts, "
          "so the numbers of shards may differ. A few seconds without an owner are usual when a replica ends.", THIRD,
          {INSTANCE: "max by (I) (kfwatch_shards_owned{I})",
           "Without an owner {{cluster}}": f"max by (cluster, namespace) (kfwatch_cluster_shards_unowned{{I}} {TRUSTED})"},
          "short", stacked=True, step=True, overrides=[override("/^Without an owner/", "byRegexp", color=fixed("red"))],
          noValue=ONLY_POSTGRESQL),
    lines(58, "Living replicas",
          "Replicas whose heartbeat the database had in the last nine seconds. A lower number than you have: one is not running, or "
          "cannot reach the database.", THIRD,
          {"Replicas {{namespace}} {{cluster}}": f"max by (cluster, namespace) (kfwatch_cluster_replicas{{I}} {TRUSTED})"},
          "short", step=True, calcs=("lastNotNull", "min"), noValue=ONLY_POSTGRESQL),
    timeline(59, "Lease",
             "Whether a replica may act for its shards. Red: the database has not answered its heartbeats for eight seconds. It polls "
             "nobody, and others acquire its shards if they reach the database.", THIRD,
             "min by (I) (kfwatch_lease_trusted{I})", INSTANCE, states(_0=("not trusted", "red"), _1=("trusted", "green"))),
    lines(60, "Shards acquired and lost",
          "Released: the owner stopped properly, or gave the shard away to balance the load. Expired: it sent no heartbeats. Restart: a "
          "replica continues with the shards of its predecessor of the same name. Lost: another replica has acquired it meanwhile.", THIRD,
          {"Acquired: {{reason}}": "sum by (reason) (increase(kfwatch_shard_takeovers_total{I}[R]))",
           "Lost": "sum(increase(kfwatch_shards_lost_total{I}[R]))"},
          "short", bars=True, axis={"axisSoftMax": 1}, colours={"Lost": "red"}, noValue=ONLY_POSTGRESQL),
    timeline(61, "Agreement",
             "Whether all living replicas have the same configuration, as each of them sees it. While they differ, nothing is recorded as "
             "removed.", THIRD,
             "max by (I) (kfwatch_cluster_config_mismatch{I})", INSTANCE, states(_0=("the same", "green"), _1=("different", "orange"))),
    lines(62, "Clocks of replicas and database",
          "How far the clock of each replica and that of the database are apart. Leases do not depend on it, but times in events do: "
          "above a few seconds, synchronize both with NTP.", THIRD,
          {INSTANCE: "max by (I) (kfwatch_cluster_clock_skew_seconds{I})"}, "s", axis={"axisSoftMax": 5}, noValue=ONLY_POSTGRESQL),
])
