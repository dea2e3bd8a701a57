"""What both dashboards share: variables, annotations, links, and one function for each kind of panel.

Queries are written with abbreviations, so that the conventions are in one place:

    x{I}  x{O}  x{K}        the matchers of the variables: of the instance, the official account, the kf account
    by (I)  on (O)  by (S)  the labels that identify an instance, an official account (O), a kf account (K), a sink (S)
    [R]                     the window of rates, which Grafana chooses
"""

import re

RUNBOOK = "https://github.com/kfwatch/kfwatch/blob/main/deploy/runbook.md"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Name, label, value of "All", and series for each variable of a dashboard. Without Kubernetes there is no cluster and no
# namespace; series of official accounts (metrics.per_account = false) have no kf account. So "All" includes absent labels.
VARIABLES = [
    ("cluster", "Cluster", ".*", "kfwatch_build_info"),
    ("namespace", "Namespace", ".*", "kfwatch_build_info"),
    ("job", "Job", ".+", "kfwatch_build_info"),
    ("instance", "Instance", ".+", "kfwatch_build_info"),
    ("official_account", "Official account", ".+", "wechat_kf_accounts_watched"),
    ("kf_account", "Kf account", ".*", "wechat_kf_account_up"),
]
MATCHERS = {"I": 4, "O": 5, "K": 6}
# The same labels as in the alert rules. Absent labels have no effect.
LABELS = {
    "I": "cluster, namespace, instance",
    "O": "cluster, namespace, official_account",
    "K": "cluster, namespace, official_account, kf_account",
    "S": "cluster, namespace, instance, sink",
}
INSTANCE = "{{instance}} {{cluster}}"
OFFICIAL_ACCOUNT = "{{official_account}} {{namespace}} {{cluster}}"
SINK = "{{sink}} {{instance}} {{cluster}}"

PER_MINUTE = "suffix: /min"
GREY = "#6e7687"


def matchers(count):
    return ", ".join(f'{name}=~"${name}"' for name, *_ in VARIABLES[:count])


def promql(query):
    """Replaces the abbreviations of a query."""
    query = re.sub(r"\{([IOK])\b", lambda found: "{" + matchers(MATCHERS[found[1]]), query)
    query = re.sub(r"\b(?:by|on) \([^()]+\)", lambda found: re.sub(r"\b[IOKS]\b", lambda it: LABELS[it[0]], found[0]), query)
    return query.replace("[R]", "[$__rate_interval]")


def own(query):
    """Limits series that every program exports to instances of kfwatch, because a job may be "All"."""
    return f"{query} and on (job, I) last_over_time(kfwatch_build_info{{I}}[1d])"


def dashboard(uid, title, description, hours, runbook, variables, annotations, panels):
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["kfwatch", "wechat"],
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": f"now-{hours}h", "to": "now"},
        "timezone": "browser",
        "refresh": "1m",
        "schemaVersion": 39,
        "version": 1,
        "fiscalYearStartMonth": 0,
        "annotations": {"list": annotations},
        "links": [
            link("dashboards", "kfwatch", tags=["kfwatch"], icon="external link", includeVars=True, keepTime=True),
            link("link", runbook, tooltip=runbook, url=RUNBOOK, icon="doc", targetBlank=True),
        ],
        "templating": {"list": [datasource_variable(), *(query_variable(place) for place in range(variables))]},
        "panels": placed(panels),
    }


def link(kind, title, **options):
    defaults = {"tags": [], "tooltip": "", "url": "", "includeVars": False, "keepTime": False, "targetBlank": False}
    return {"type": kind, "title": title, "asDropdown": False, **defaults, **options}


def datasource_variable():
    return {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "regex": "",
        "hide": 0, "multi": False, "includeAll": False, "allowCustomValue": True, "skipUrlSync": False, "options": [],
        "current": {"selected": False, "text": "Prometheus", "value": "prometheus"},
    }


def query_variable(place):
    """Returns a variable that is limited by the variables before it."""
    name, label, all_value, series = VARIABLES[place]
    selector = f"{series}{{{matchers(place)}}}" if place else series
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE,
        "query": {"query": f"label_values({selector}, {name})", "refId": f"variable-{name}", "qryType": 1},
        "refresh": 2, "sort": 1, "regex": "", "hide": 0, "multi": True, "includeAll": True, "allValue": all_value,
        "allowCustomValue": True, "skipUrlSync": False, "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def annotation(name, colour, query, text, enable=True, value_is_time=False):
    """Marks the times at which the query has a value above zero, or the times that are its values, in milliseconds."""
    return {
        "name": name, "datasource": DATASOURCE, "enable": enable, "hide": False, "iconColor": colour,
        "expr": promql(query), "step": "60s", "titleFormat": name, "textFormat": text, "tagKeys": "severity",
        "useValueForTime": value_is_time,
    }


def annotations(alerts, warnings, restarts, versions, configurations, enable):
    """Where there is no series ALERTS (VictoriaMetrics without remote write of vmalert), no alerts are marked."""
    firing = "count by (alertname, severity) "
    firing += '(ALERTS{alertname=~"WechatKf.*", alertstate="firing", cluster=~"$cluster", namespace=~"$namespace", severity="%s"})'
    return [
        annotation(alerts, "red", firing % "critical", "{{alertname}}"),
        # Some fire for weeks, and everything would be shaded.
        annotation(warnings, "orange", firing % "warning", "{{alertname}}", enable=False),
        annotation(restarts, "blue", "1000 * " + own("process_start_time_seconds{I}"),
                   "{{instance}}", enable, value_is_time=True),
        # The starts of versions that were not running in the quarter of an hour before.
        annotation(versions, "purple", "1000 * max by (version) (process_start_time_seconds{I} * on (job, I) group_left (version) "
                   "(kfwatch_build_info{I} unless on (job, I, version) last_over_time(kfwatch_build_info{I}[15m] offset 5m)))",
                   "kfwatch {{version}}", enable, value_is_time=True),
        # At a start and at each reload that was applied.
        annotation(configurations, "green", "1000 * kfwatch_config_last_reload_success_timestamp_seconds{I}",
                   "{{instance}} applied its configuration", enable, value_is_time=True),
    ]


def placed(panels):
    """Places each panel at the first free place of its section. Panels have 24 columns."""
    taken, top = set(), 0
    for one in panels:
        size = one["gridPos"]
        if one["type"] == "row":
            top = max((y + 1 for _, y in taken), default=0)
        places = ((x, y) for y in range(top, 1000) for x in range(25 - size["w"]))
        for x, y in places:
            cells = {(x + column, y + line) for column in range(size["w"]) for line in range(size["h"])}
            if not cells & taken:
                break
        taken |= cells
        one["gridPos"] = {"x": x, "y": y, **size}
    return panels


def steps(first, *rest):
    """Returns thresholds: the colour below the first number, then numbers and the colours from them on."""
    colours = [{"value": None, "color": first}]
    colours += [{"value": value, "color": colour} for value, colour in zip(rest[::2], rest[1::2])]
    return {"mode": "absolute", "steps": colours}


def states(**texts):
    """Returns value mappings: names, or numbers after an underscore, with text and colour."""
    options = {
        value.lstrip("_"): {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def fixed(colour):
    return {"mode": "fixed", "fixedColor": colour}


def override(name, matcher="byName", **properties):
    """Returns an override for fields of that name. In property names, two underscores stand for a dot."""
    properties = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": matcher, "options": name}, "properties": properties}


def row(number, title):
    return {"type": "row", "id": number, "title": title, "gridPos": {"w": 24, "h": 1}, "collapsed": False, "panels": []}


def panel(kind, number, title, description, size, queries, defaults, options, overrides=(), instant=False, form=None, **more):
    """Returns a panel. The keys of the queries are the legends of their series."""
    targets = []
    for index, (legend, query) in enumerate(queries.items()):
        target = {
            "refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": promql(query), "editorMode": "code",
            "instant": instant, "range": not instant,
        }
        if form != "table" and legend:
            target["legendFormat"] = legend
        targets.append(target | ({"format": form} if form else {}))
    return {
        "type": kind, "id": number, "title": title, "description": description, "datasource": DATASOURCE,
        "gridPos": dict(zip("wh", size)), "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "options": options, **more,
    }


REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(number, title, description, query, thresholds, unit="short", decimals=None, legend=None, **defaults):
    decimals = 0 if decimals is None and unit in ("short", "percentunit") else decimals
    options = {
        "colorMode": "value", "graphMode": "none", "justifyMode": "center", "orientation": "auto",
        "textMode": "name" if legend else "value", "wideLayout": True, "showPercentChange": False,
        "percentChangeColorMode": "standard", "reduceOptions": REDUCE,
    }
    fields = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds, **defaults}
    if decimals is not None:
        fields["decimals"] = decimals
    return panel("stat", number, title, description, (3, 4), {legend: query}, fields, options, instant=True)


def lines(
    number, title, description, size, queries, unit, stacked=False, step=False, bars=False, level=None, mark="dashed",
    calcs=("lastNotNull", "max"), legend="bottom", colours=(), overrides=(), floor=0, axis=None, **defaults,
):
    """Returns a graph. `level` are thresholds, drawn as `mark` says; `axis` says how far the axis reaches at least."""
    custom = {
        "drawStyle": "bars" if bars else "line", "lineWidth": 1, "showPoints": "never", "spanNulls": False, "pointSize": 4,
        "fillOpacity": 70 if bars else 30 if stacked else 5, "lineInterpolation": "stepAfter" if step else "linear",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": mark if level else "off"}, **(axis or {}),
    }
    fields = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom, "thresholds": level or steps("green")}
    if unit == "short":
        fields["decimals"] = 0
    if floor is not None:
        fields["min"] = floor
    names = {"lastNotNull": "Last *", "max": "Max", "min": "Last *"}
    table = len(calcs) > 1
    sort = {"sortBy": names[calcs[-1]], "sortDesc": True} if table else {}
    options = {
        "legend": {"showLegend": True, "displayMode": "table" if table else "list", "placement": legend,
                   "calcs": list(calcs), **sort},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [override(name, color=fixed(colour)) for name, colour in dict(colours).items()] + list(overrides)
    return panel("timeseries", number, title, description, size, queries, fields | defaults, options, overrides)


def timeline(number, title, description, size, query, legend, mappings, **more):
    fields = {
        "unit": "short", "color": {"mode": "thresholds"}, "thresholds": steps("text"),
        "custom": {"fillOpacity": 80, "lineWidth": 0}, "mappings": mappings,
    }
    options = {
        "mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", number, title, description, size, {legend: query}, fields, options, **more)


def heatmap(number, title, description, size, buckets, **more):
    query = f"sum by (le) (increase({buckets}[R]))"
    options = {
        "calculate": False, "cellGap": 1, "cellValues": {"decimals": 0},
        "color": {"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64,
                  "fill": "dark-orange", "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-09}, "legend": {"show": True},
        "rowsFrame": {"layout": "auto"}, "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "unit": "s", "reverse": False},
    }
    fields = {"custom": {"scaleDistribution": {"type": "linear"}}}
    return panel("heatmap", number, title, description, size, {"{{le}}": query}, fields, options, form="heatmap", **more)


def gauges(number, title, description, size, query, legend, thresholds):
    fields = {
        "unit": "percentunit", "color": {"mode": "thresholds"}, "thresholds": thresholds, "min": 0, "max": 1, "decimals": 0,
    }
    options = {
        "displayMode": "basic", "orientation": "horizontal", "valueMode": "color", "showUnfilled": True,
        "namePlacement": "auto", "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []}, "reduceOptions": REDUCE,
    }
    return panel("bargauge", number, title, description, size, {legend: query}, fields, options, instant=True)


def table(number, title, description, size, queries, columns, sort, empty=None, **defaults):
    """Returns a table. The queries are a list; a column is the label or value, its title, and the properties of its cells."""
    fields = {
        "unit": "string", "thresholds": steps("green"),
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": True}, **defaults,
    }
    overrides = []
    if empty:
        fields["noValue"] = empty
        overrides.append(override("/.*/", "byRegexp", noValue="–"))
    overrides += [override(name, **properties) for _, name, properties in columns if properties]
    shown = [source for source, *_ in columns]
    hidden = ["Time"] if any(source.startswith("Value") for source in shown) else ["Value", "Time"]
    organize = {
        "excludeByName": dict.fromkeys(sorted(hidden), True),
        "indexByName": {source: index for index, source in enumerate(shown + hidden)},
        "renameByName": {source: name for source, name, _ in columns},
    }
    merge = [{"id": "merge", "options": {}}] if len(queries) > 1 else []
    options = {
        "showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
        "sortBy": [{"displayName": name.lstrip("-"), "desc": name.startswith("-")} for name in sort],
    }
    return panel(
        "table", number, title, description, size, dict(enumerate(queries)), fields, options, overrides, instant=True,
        form="table", transformations=[*merge, {"id": "organize", "options": organize}],
    )


def column(source, title, width=None, coloured=None, **properties):
    """Returns a column of a table. `coloured` is "text" or "background"."""
    if coloured:
        cell = {"type": f"color-{coloured}"} | ({"mode": "basic"} if coloured == "background" else {})
        properties["custom__cellOptions"] = cell
    if width:
        properties["custom__width"] = width
    return source, title, properties


# Where there are no such labels, there are no such columns. Last, because they are often the same for all.
def of_cluster(namespace="Namespace", cluster="Cluster"):
    return [column("namespace", namespace, 110), column("cluster", cluster, 110)]


def runbook_link(title, section):
    return [{"title": title, "url": f"{RUNBOOK}#{section}", "targetBlank": True}]
