"""The data of panels: runs the queries of a dashboard against a Prometheus and applies the transformations."""

import json
import re
import urllib.parse
import urllib.request

# Grafana's field name for the value of a query; with several queries the refId is appended.
VALUE = "Value"


class Prometheus:
    """Runs queries over the last `seconds` of a server's data."""

    def __init__(self, url, end, seconds, scrape_interval):
        self.url, self.end, self.seconds, self.scrape_interval = url, end, seconds, scrape_interval
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with self.opener.open(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def range(self, expression, step):
        steps = -(-self.seconds // step)
        return self.ask("query_range", query=expression, start=self.end - steps * step, end=self.end, step=step)

    def instant(self, expression):
        return self.ask("query", query=expression, time=self.end)


def seconds_of(duration):
    number, unit = re.fullmatch(r"(\d+)([smh])", duration).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def expression_of(target, dashboard, step, scrape_interval):
    """Returns the query with all variables set to "All", and with the window that Grafana uses for rates."""
    window = max(step + scrape_interval, 4 * scrape_interval)
    expression = target["expr"].replace("$__rate_interval", f"{window}s")
    for variable in dashboard["templating"]["list"]:
        expression = expression.replace("$" + variable["name"], variable.get("allValue", ""))
    return expression


def legend_of(target, labels):
    template = target.get("legendFormat", "__auto")
    if template == "__auto":
        return ", ".join(f"{key}={value}" for key, value in labels.items() if key != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template).strip()


def series_of(panel, dashboard, prometheus):
    """Returns name, times, values and labels of each series of the panel."""
    width = panel["gridPos"]["w"] * 80
    step = max(prometheus.scrape_interval, prometheus.seconds // width, seconds_of(panel.get("interval", "1s")))
    found = []
    for target in panel["targets"]:
        expression = expression_of(target, dashboard, step, prometheus.scrape_interval)
        if target["instant"]:
            answer = [{"metric": s["metric"], "values": [s["value"]]} for s in prometheus.instant(expression)]
        else:
            answer = prometheus.range(expression, step)
        for series in answer:
            times, values = zip(*series["values"])
            numbers = [float(value) for value in values]
            if any(number == number for number in numbers):
                found.append((legend_of(target, series["metric"]), list(times), numbers, series["metric"]))
    return found, step


def events_of(annotation, dashboard, prometheus):
    """Returns start, end and text of each event, in seconds, as Grafana finds them: values above zero that follow each other."""
    step = min(seconds_of(annotation["step"]), max(prometheus.scrape_interval, prometheus.seconds // 100))
    expression = expression_of(annotation, dashboard, step, prometheus.scrape_interval)
    found = []
    for series in prometheus.range(expression, step):
        text = legend_of({"legendFormat": annotation["textFormat"]}, series["metric"])
        times = [float(time) for time, value in series["values"] if float(value) > 0]
        if annotation["useValueForTime"]:
            times = [float(value) / 1000 for _, value in series["values"]]
        events = []
        for time in times:
            if events and time - events[-1][1] <= step:
                events[-1] = (events[-1][0], time, text)
            else:
                events.append((time, time, text))
        found += events
    return found


def table_of(panel, dashboard, prometheus):
    """Returns the panel's table after its transformations: the column names, and the rows as dictionaries."""
    several = len(panel["targets"]) > 1
    rows = []
    for target in panel["targets"]:
        expression = expression_of(target, dashboard, 60, prometheus.scrape_interval)
        name = f"{VALUE} #{target['refId']}" if several else VALUE
        rows += [{**series["metric"], name: float(series["value"][1])} for series in prometheus.instant(expression)]
    columns = dict.fromkeys(key for row in rows for key in row)
    for transformation in panel["transformations"]:
        options = transformation["options"]
        if transformation["id"] == "merge":
            rows = merged(rows)
        elif transformation["id"] == "organize":
            shown = [column for column in columns if not options["excludeByName"].get(column)]
            shown.sort(key=lambda column: options["indexByName"].get(column, 99))
            rename = options["renameByName"]
            rows = [{rename.get(key, key): row[key] for key in shown if key in row} for row in rows]
            columns = dict.fromkeys(rename.get(column, column) for column in shown)
        else:
            raise ValueError(f"transformation {transformation['id']}")
    for order in reversed(panel["options"].get("sortBy", [])):
        rows.sort(key=lambda row: sort_key(row.get(order["displayName"])), reverse=order["desc"])
    return list(columns), rows


def merged(rows):
    """Merges rows with equal labels."""
    found = {}
    for row in rows:
        key = tuple(sorted((name, value) for name, value in row.items() if not name.startswith(VALUE)))
        found.setdefault(key, {}).update(row)
    return list(found.values())


def sort_key(value):
    return (value is not None, isinstance(value, str), value if value is not None else 0)
