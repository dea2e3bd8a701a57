#!/usr/bin/env python3
"""Generates alertmanagerconfig.yaml: the routes and inhibitions of deploy/alertmanager/alertmanager.yml as an object of the
Prometheus Operator. Run it after each change of that file, or with the path of your own version of it. A test compares the two.
Needs PyYAML.
"""

import datetime
import pathlib
import re
import sys
import zoneinfo

import yaml

HERE = pathlib.Path(__file__).parent
SHIPPED = HERE / "../../alertmanager/alertmanager.yml"

HEAD = """\
# Made by alertmanagerconfig.py from deploy/alertmanager/alertmanager.yml, which has the reasons: change that file, then run the
# script. For the Prometheus Operator 0.62 or newer (activeTimeIntervals).
#
# The operator adds a matcher to the route and to both sides of each inhibition: the label namespace must be this object's
# namespace. So every alert needs that label. It comes from the ServiceMonitor (the operator labels each target with its namespace),
# and the rules keep it. Only WechatKfAbsent lacks it if there was no target for twelve hours: it goes to the default receiver. The matcher
# is not added if spec.alertmanagerConfigMatcherStrategy.type of the Alertmanager is None.
#
# As it is, it sends nothing to anybody, and alerts that it routes no longer reach the default receiver of the Alertmanager. Give the
# receivers integrations, with a patch of your overlay, for example:
#
#   - name: operators
#     webhookConfigs:
#       - urlSecret: { name: kfwatch-alerts, key: webhook }
#         sendResolved: true
#   - name: team-lead
#     wechatConfigs:
#       - corpID: replace-with-your-corp-id
#         agentID: "1000002"
#         apiSecret: { name: kfwatch-alerts, key: wecom }
#         toUser: team-lead
#         message: '{{ template "kfwatch.message" . }}'
#         sendResolved: true
#
# The message needs kfwatch.tmpl among the templates of the Alertmanager (alertmanager.templateFiles of kube-prometheus-stack).
# Alerts go on to the other routes of the Alertmanager: a route there that matches alerts with severity "none", or all alerts, sends
# those that only inhibit others to people. Hours are in UTC, because this kind of object knows no time zone.
"""

MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|(.*?))\s*')


def matcher(text):
    name, kind, quoted, bare = MATCHER.fullmatch(text).groups()
    value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return {"name": name, "value": value, "matchType": kind}


def camel_case(name):
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def route(found):
    converted = {camel_case(key): value for key, value in found.items()}
    if "matchers" in converted:
        converted["matchers"] = [matcher(text) for text in converted["matchers"]]
    if "routes" in converted:
        converted["routes"] = [route(child) for child in converted["routes"]]
    return converted


def inhibition(found):
    assert set(found) <= {"source_matchers", "target_matchers", "equal"}, found
    return {
        "sourceMatch": [matcher(text) for text in found["source_matchers"]],
        "targetMatch": [matcher(text) for text in found["target_matchers"]],
        "equal": found["equal"],
    }


def ranges_in_utc(times, location):
    """Returns the time ranges of a day. One that contains midnight in UTC becomes two."""
    zone = zoneinfo.ZoneInfo(location)
    offsets = {datetime.datetime(2026, month, 1, tzinfo=zone).utcoffset() for month in range(1, 13)}
    assert len(offsets) == 1, f"{location} has daylight saving time: no hours in UTC are right all year"
    [offset] = offsets
    day = 24 * 60

    def minute(text):
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)

    def text(minute):
        return f"{minute // 60:02}:{minute % 60:02}"

    for found in times:
        start = (minute(found["start_time"]) - offset // datetime.timedelta(minutes=1)) % day
        end = start + minute(found["end_time"]) - minute(found["start_time"])
        for first, last in ((start, min(end, day)), (0, end - day)):
            if first < last:
                yield {"startTime": text(first), "endTime": text(last)}


def intervals(found):
    converted = []
    for interval in found["time_intervals"]:
        assert set(interval) <= {"times", "location"}, "days would shift with the time zone as well"
        converted.append({"times": list(ranges_in_utc(interval["times"], interval.get("location", "UTC")))})
    return {"name": found["name"], "timeIntervals": converted}


def of_kfwatch(configuration):
    [found] = [child for child in configuration["route"]["routes"] if "WechatKf" in child["matchers"][0]]
    return found


def converted(configuration):
    return {
        "apiVersion": "monitoring.coreos.com/v1alpha1",
        "kind": "AlertmanagerConfig",
        "metadata": {"name": "kfwatch", "labels": {"app.kubernetes.io/name": "kfwatch"}},
        "spec": {
            "route": route(of_kfwatch(configuration)),
            "inhibitRules": [inhibition(rule) for rule in configuration["inhibit_rules"]],
            "muteTimeIntervals": [intervals(interval) for interval in configuration["time_intervals"]],
            # Their integrations are secrets, which this object only refers to.
            "receivers": [{"name": receiver["name"]} for receiver in configuration["receivers"]],
        },
    }


def text(path):
    configuration = yaml.safe_load(pathlib.Path(path).read_text())
    dumped = yaml.safe_dump(
        converted(configuration), sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000
    )
    # YAML 1.1 reads some times as numbers.
    return HEAD + re.sub(r"(?<=Time: )'?(\d\d:\d\d)'?", r"'\1'", dumped)


if __name__ == "__main__":
    (HERE / "alertmanagerconfig.yaml").write_text(text(*sys.argv[1:] or [SHIPPED]))
