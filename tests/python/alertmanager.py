"""Derives configurations of Alertmanager from those that are shipped, as others do, and compares what must not differ.

    alertmanager.py compare              alertmanagerconfig.yaml and alertmanager-small.yml with alertmanager.yml
    alertmanager.py uncomment FILE       prints FILE with all integrations that are comments
    alertmanager.py merge FILE           prints FILE with the lists that alertmanager.yml says to copy
    alertmanager.py operator FILE        prints FILE with alertmanagerconfig.yaml, as the Prometheus Operator does
"""

import importlib.util
import pathlib
import re
import sys

import yaml

SHIPPED = pathlib.Path("deploy/alertmanager/alertmanager.yml")
SMALL = pathlib.Path("deploy/alertmanager/alertmanager-small.yml")
OBJECT = pathlib.Path("deploy/kubernetes/prometheus-operator/alertmanagerconfig.yaml")
NAMESPACE = "kfwatch"


def load(path):
    return yaml.safe_load(pathlib.Path(path).read_text())


def generator():
    specification = importlib.util.spec_from_file_location("generator", OBJECT.with_suffix(".py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def compare():
    assert OBJECT.read_text() == generator().text(SHIPPED), f"{OBJECT} is old: run alertmanagerconfig.py"
    shipped, small = load(SHIPPED), load(SMALL)
    for key in ("inhibit_rules", "time_intervals"):
        assert small[key] == shipped[key], f"{SMALL} has other {key} than {SHIPPED}"
    for file in SHIPPED.parent.glob("*.yml"):
        configuration = load(file)
        reached = [receiver for receiver in configuration["receivers"] if set(receiver) != {"name"}]
        assert not reached and "global" not in configuration, f"{file} sends alerts before somebody configures it: {reached}"


def uncomment(path):
    """A line of an integration is a key after a hash, one space and the indentation. No sentence starts like that."""
    lines = pathlib.Path(path).read_text().splitlines()
    print("\n".join(re.sub(r"^( +)# ( *(?:- )?[a-z_]+:(?: .*)?)$", r"\1\2", line) for line in lines))


def merge(path):
    merged, shipped = load(path), load(SHIPPED)
    merged["route"]["routes"].insert(0, generator().of_kfwatch(shipped))
    for key in ("time_intervals", "inhibit_rules", "receivers"):
        merged[key] += shipped[key]
    print_yaml(merged)


def operator(path):
    """Does what pkg/alertmanager/amcfg.go of the operator (version 0.93) does for the default matcher strategy."""
    merged, spec = load(path), load(OBJECT)["spec"]
    own = f"namespace=\"{NAMESPACE}\""

    def named(name):
        return f"{NAMESPACE}/kfwatch/{name}"

    def matchers(found):
        return ["{name}{matchType}\"{value}\"".format(**matcher) for matcher in found]

    def route(found):
        converted = {snake_case(key): value for key, value in found.items()}
        converted["matchers"] = matchers(found["matchers"])
        if "receiver" in converted:
            converted["receiver"] = named(converted["receiver"])
        if "active_time_intervals" in converted:
            converted["active_time_intervals"] = [named(name) for name in converted["active_time_intervals"]]
        converted["routes"] = [route(child) for child in found.get("routes", [])]
        return converted

    first = route(spec["route"])
    first["matchers"].append(own)
    first["continue"] = True
    merged["route"]["routes"].insert(0, first)
    merged["inhibit_rules"] += [
        {
            "source_matchers": [*matchers(rule["sourceMatch"]), own],
            "target_matchers": [*matchers(rule["targetMatch"]), own],
            "equal": rule["equal"],
        }
        for rule in spec["inhibitRules"]
    ]
    merged["time_intervals"] += [
        {
            "name": named(found["name"]),
            "time_intervals": [
                {"times": [{snake_case(key): value for key, value in times.items()} for times in interval["times"]]}
                for interval in found["timeIntervals"]
            ],
        }
        for found in spec["muteTimeIntervals"]
    ]
    merged["receivers"] += [{"name": named(receiver["name"])} for receiver in spec["receivers"]]
    print_yaml(merged)


def snake_case(name):
    return re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name)


def print_yaml(value):
    print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"compare": compare, "uncomment": uncomment, "merge": merge, "operator": operator}[command](*arguments)
