"""Writes the unit tests of the rules again for a Prometheus that reads several namespaces and clusters.

    rule_scopes.py DIRECTORY TEST.yml...

Each test runs with its series in three scopes at once: two namespaces of one cluster, and the first of these namespaces in
another cluster. The same official accounts, kf accounts, instances and sinks are healthy in a fourth scope. Every alert must fire
once for each of the three, with their labels, and never for the fourth. promtool also fails if a rule cannot be evaluated, for
example because of duplicate series. Tests whose series have scopes already are left out. Run it from the top of the repository.
"""

import json
import pathlib
import re
import sys

import yaml

RULES = pathlib.Path("deploy/prometheus/kfwatch.rules.yml")

TROUBLED = [
    {"cluster": "east", "namespace": "red"},
    {"cluster": "east", "namespace": "blue"},
    {"cluster": "west", "namespace": "red"},
]
HEALTHY = {"cluster": "west", "namespace": "blue"}
# A series that exists in the three others.
MARK = "troubled"

# Alerts that are about several scopes. They have their own tests.
ACROSS_SCOPES = ["WechatKfTwoDaemons"]

ALWAYS_0 = "0x{minutes}"
ALWAYS_1 = "1x{minutes}"
NOW = "0+60x{minutes}"

# What a healthy daemon exports, by the labels of its series. The values are those of one sample a minute.
OF_INSTANCE = {
    "up": ALWAYS_1,
    "process_start_time_seconds": "-500x{minutes}",
    "kfwatch_schedule_missed_ticks_total": ALWAYS_0,
    "kfwatch_config_last_reload_successful": ALWAYS_1,
    "kfwatch_store_last_write_successful": ALWAYS_1,
    "kfwatch_store_events": "1000x{minutes}",
    "kfwatch_store_used_bytes": "1000x{minutes}",
    "kfwatch_store_event_log_max_bytes": "1000x{minutes}",
    "kfwatch_upstream_clock_skew_seconds": ALWAYS_0,
    "kfwatch_cluster_shards": "64x{minutes}",
    "kfwatch_cluster_shards_unowned": ALWAYS_0,
    "kfwatch_cluster_config_mismatch": ALWAYS_0,
    "kfwatch_lease_trusted": ALWAYS_1,
}
OF_SINK = {
    "kfwatch_sink_pending_events": ALWAYS_0,
    "kfwatch_sink_oldest_pending_timestamp_seconds": NOW,
    "kfwatch_sink_dead_letters": ALWAYS_0,
    "kfwatch_sink_stopped": ALWAYS_0,
    "kfwatch_sink_suspended": ALWAYS_0,
}
OF_OFFICIAL_ACCOUNT = {
    "kfwatch_token_refreshes_total": ALWAYS_0,
    "kfwatch_token_last_refresh_successful": ALWAYS_1,
    "kfwatch_token_replaced_total": ALWAYS_0,
    "wechat_kf_accounts_watched": ALWAYS_1,
    "wechat_kf_online_accounts": ALWAYS_1,
    "wechat_kf_waiting_customers": ALWAYS_0,
    "wechat_kf_waiting_oldest_message_timestamp_seconds": NOW,
    "wechat_kf_api_quota_remaining": "500000x{minutes}",
}
OF_KF_ACCOUNT = {
    "wechat_kf_account_up": ALWAYS_1,
    "wechat_kf_account_unbound": ALWAYS_0,
    "wechat_kf_account_invalid": ALWAYS_0,
    "wechat_kf_account_online": ALWAYS_1,
    "wechat_kf_active_sessions": ALWAYS_1,
    "wechat_kf_oldest_session_timestamp_seconds": NOW,
    "kfwatch_account_blind": ALWAYS_0,
    "kfwatch_poll_overdue": ALWAYS_0,
    "kfwatch_poll_last_success_timestamp_seconds": NOW,
    "kfwatch_polls_total": "0+4x{minutes}",
    "kfwatch_poll_failures_total": ALWAYS_0,
    "kfwatch_poll_overruns_total": ALWAYS_0,
}
COLLECTORS = {"kf_list": "getkflist", "online": "getonlinekflist", "waiting": "getwaitcase", "quota": "quota_get"}


def parse(series):
    """Returns the name and the labels of a series."""
    name, _, rest = series.partition("{")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', rest))


def write(name, labels):
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def healthy_series(series, minutes):
    """Returns what healthy daemons with the same names export."""

    def names(*labels):
        found = [labels_of for _, labels_of in series if labels_of.get("job") == "kfwatch"]
        return {tuple((label, it[label]) for label in labels) for it in found if all(label in it for label in labels)}

    def add(metrics, labels):
        for metric, values in metrics.items():
            healthy[write(metric, {"job": "kfwatch", **dict(labels), **HEALTHY})] = values.format(minutes=minutes)

    healthy = {}
    for labels in names("instance"):
        add(OF_INSTANCE, labels)
    for labels in names("instance", "sink"):
        add(OF_SINK, labels)
    for labels in names("instance", "official_account"):
        add(OF_OFFICIAL_ACCOUNT, labels)
        # With metrics.per_account = false there are only these.
        add(OF_KF_ACCOUNT, labels)
        for collector, endpoint in COLLECTORS.items():
            add({"kfwatch_collector_last_success_timestamp_seconds": NOW}, (*labels, ("collector", collector)))
            add({"kfwatch_api_requests_total": "0+1x{minutes}"}, (*labels, ("endpoint", endpoint)))
    for labels in names("instance", "official_account", "kf_account"):
        add(OF_KF_ACCOUNT, labels)
    return [{"series": name, "values": values} for name, values in healthy.items()]


def in_all_scopes(labels):
    return [{**labels, **scope} for scope in TROUBLED]


def scoped_sample(sample):
    name, labels = parse(sample["labels"])
    return [{"labels": write(name, scoped), "value": sample["value"]} for scoped in in_all_scopes(labels)]


def scoped_expression(expression):
    """Keeps the scopes. Leaves out the alerts that are about several, and recordings of the healthy scope."""
    kept = re.sub(r"\b(by|on) \(", r"\1 (cluster, namespace, ", expression)
    others = "".join(f'alertname!="{alert}", ' for alert in ACROSS_SCOPES)
    if "ALERTS" in kept:
        return kept.replace("ALERTS{", "ALERTS{" + others)
    return f"({kept}) and on (cluster, namespace) {MARK}"


def minutes_of(eval_time):
    number, unit = re.fullmatch(r"(\d+)([mh])", eval_time).groups()
    return int(number) * (60 if unit == "h" else 1)


def scoped(test):
    assert test["interval"] == "1m", test["name"]
    alerts = [it for it in test.get("alert_rule_test", []) if it["alertname"] not in ACROSS_SCOPES]
    expressions = test.get("promql_expr_test", [])
    series = [(parse(it["series"]), it["values"]) for it in test["input_series"]]
    minutes = max(minutes_of(it["eval_time"]) for it in alerts + expressions)
    return {
        "name": test["name"],
        "interval": test["interval"],
        "input_series": [
            {"series": write(name, labels), "values": values}
            for (name, own_labels), values in series
            for labels in in_all_scopes(own_labels)
        ]
        + [{"series": write(MARK, scope), "values": f"1x{minutes}"} for scope in TROUBLED]
        + healthy_series([name_and_labels for name_and_labels, _ in series], minutes),
        "alert_rule_test": [
            {
                **it,
                "exp_alerts": [
                    {**alert, "exp_labels": labels}
                    for alert in it.get("exp_alerts", [])
                    for labels in in_all_scopes(alert["exp_labels"])
                ],
            }
            for it in alerts
        ],
        "promql_expr_test": [
            {
                **it,
                "expr": scoped_expression(it["expr"]),
                "exp_samples": [scoped for sample in it["exp_samples"] for scoped in scoped_sample(sample)],
            }
            for it in expressions
        ],
    }


def fired(test):
    """Returns the alerts that a test expects to fire."""
    by_name = {it["alertname"] for it in test["alert_rule_test"] if it["exp_alerts"]}
    expressions = [it for it in test["promql_expr_test"] if it["exp_samples"]]
    return by_name.union(*(re.findall(r"WechatKf\w+", json.dumps(it["exp_samples"])) for it in expressions))


def main(directory, *paths):
    tested = set()
    for path in map(pathlib.Path, paths):
        file = yaml.safe_load(path.read_text())
        assert file["rule_files"] == [f"../../{RULES}"], path
        tests = [scoped(test) for test in file["tests"] if not any("namespace=" in it["series"] for it in test["input_series"])]
        tested = tested.union(*map(fired, tests))
        scoped_file = {**file, "rule_files": [str(RULES.resolve())], "tests": tests}
        pathlib.Path(directory, path.name).write_text(json.dumps(scoped_file))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    untested = {rule["alert"] for rule in rules if "alert" in rule} - {*tested, *ACROSS_SCOPES}
    if untested:
        sys.exit(f"no test expects these alerts to fire: {sorted(untested)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
