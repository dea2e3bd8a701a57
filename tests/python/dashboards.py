"""Parses the dashboards with Grafana's own types, and checks the files that provision them.

Usage: dashboards.py PROVISIONING_DIRECTORY DASHBOARD.json...

Whatever a type of Grafana's does not know is lost when it reads a dashboard and writes it again; so what comes back must be
what was read. Prints what is wrong, one line each, and exits with 1.
"""

import json
import pathlib
import sys

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

# Keys that these types add, and that mean nothing, or their default, in Grafana when they are absent.
FILLED_IN = {
    "auto", "auto_min", "auto_count", "builtIn", "frameIndex", "perPage", "repeatDirection", "selectionMode", "showTypeIcons",
    "transparent",
}
# With this value, links and annotations are in a menu instead of above the panels. The types add it to all.
FILLED_IN_WRONGLY = {"placement"}


def differences(read, written, path=""):
    """Yields the differences between both, as sentences."""
    if isinstance(read, dict) and isinstance(written, dict):
        for key in read.keys() | written.keys():
            place = f"{path}.{key}"
            if key not in written:
                yield f"{place} is unknown to Grafana's types"
            elif key not in read:
                if key not in FILLED_IN | FILLED_IN_WRONGLY and written[key] not in (None, [], {}, ""):
                    yield f"{place} is absent, and defaults to {written[key]!r}: set it"
            else:
                yield from differences(read[key], written[key], place)
    elif isinstance(read, list) and isinstance(written, list) and len(read) == len(written):
        for index, (one, other) in enumerate(zip(read, written)):
            yield from differences(one, other, f"{path}[{index}]")
    elif read != written or isinstance(read, bool) != isinstance(written, bool):
        yield f"{path} is {read!r}, but Grafana's types change it to {written!r}"


def typed(dashboard):
    """Checks that options, custom fields and queries have the types of their panels, and are not plain dictionaries."""
    for panel in dashboard.panels:
        if not isinstance(panel, Panel):
            continue
        if isinstance(panel.options, dict):
            yield f"the options of {panel.title!r} ({panel.type_val}) have no type"
        for target in panel.targets or []:
            if type(target).__module__ != "grafana_foundation_sdk.models.prometheus":
                yield f"a query of {panel.title!r} is not a Prometheus query: set its datasource"


def complaints_of_dashboard(file):
    read = json.loads(file.read_text())
    dashboard = Dashboard.from_json(read)
    yield from typed(dashboard)
    yield from differences(read, json.loads(json.dumps(dashboard, cls=JSONEncoder)))


def complaints_of_provisioning(directory):
    """Checks that Grafana knows all keys of the files, and that they have the paths and names that the dashboards use."""
    sources = yaml.safe_load((directory / "datasources/kfwatch.yaml").read_text())
    known = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
    for source in sources["datasources"]:
        if unknown := source.keys() - known:
            yield f"datasources: unknown keys {sorted(unknown)}"
        if (source["uid"], source["type"], source["access"]) != ("prometheus", "prometheus", "proxy"):
            yield "datasources: uid and type must be prometheus, and access proxy"
        if not source["url"].startswith("$"):
            yield "datasources: the url must come from the environment"
    provided = yaml.safe_load((directory / "dashboards/kfwatch.yaml").read_text())
    known = {"name", "type", "folder", "disableDeletion", "allowUiUpdates", "updateIntervalSeconds", "options"}
    for provider in provided["providers"]:
        if unknown := provider.keys() - known:
            yield f"dashboards: unknown keys {sorted(unknown)}"
        if provider["type"] != "file" or provider["options"] != {"path": "/var/lib/grafana/dashboards/kfwatch"}:
            yield "dashboards: must be files of /var/lib/grafana/dashboards/kfwatch"
    if sources["apiVersion"] != 1 or provided["apiVersion"] != 1:
        yield "apiVersion must be 1"


def main():
    register_default_plugins()
    provisioning, *files = map(pathlib.Path, sys.argv[1:])
    complaints = [f"{provisioning}: {complaint}" for complaint in complaints_of_provisioning(provisioning)]
    for file in files:
        complaints += [f"{file.name}: {complaint}" for complaint in complaints_of_dashboard(file)]
    print("\n".join(complaints))
    sys.exit(1 if complaints else 0)


main()
