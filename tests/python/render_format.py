"""Formats and colours values as Grafana does: units, value mappings, thresholds."""

import re

COLOURS = {
    "green": "#73bf69", "red": "#f2495c", "yellow": "#fade2a", "orange": "#ff9830", "blue": "#5794f2",
    "purple": "#b877d9", "text": "#ccccdc", "transparent": "none",
}
PALETTE = [
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a",
    "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477", "#b7dbab", "#f4d598", "#70dbed", "#f9ba8f",
    "#f29191", "#82b5d8", "#e5a8e2", "#aea2e0",
]
TIMES = [(31536000, "year"), (604800, "week"), (86400, "day"), (3600, "hour"), (60, "min")]


def colour(name):
    return COLOURS.get(name, name)


def with_unit(value, unit, decimals=None):
    """Returns the text of a number in a Grafana unit."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if unit.startswith("suffix:"):
        return number(value, decimals) + unit.removeprefix("suffix:")
    if unit == "s":
        return duration(value, decimals)
    if unit == "bytes":
        return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"], decimals)
    if unit == "percentunit":
        return number(value * 100, decimals) + "%"
    if unit == "short":
        return scaled(value, 1000, ["", "K", "Mil", "Bil"], decimals)
    if unit in ("none", "string"):
        return number(value, decimals)
    raise ValueError(f"unit {unit}")


def number(value, decimals):
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def scaled(value, base, units, decimals):
    place = 0
    while abs(value) >= base and place + 1 < len(units):
        value, place = value / base, place + 1
    return f"{number(value, decimals)} {units[place]}".strip()


def duration(value, decimals):
    size = abs(value)
    for seconds, name in TIMES:
        if size >= seconds:
            shown = number(value / seconds, decimals)
            return f"{shown} {name}" + ("s" if name != "min" and shown not in ("1", "-1") else "")
    if size >= 1 or size == 0:
        return number(value, decimals) + " s"
    if size >= 1e-3:
        return number(value * 1e3, decimals) + " ms"
    return number(value * 1e6, decimals) + " µs"


def fits(matcher, name):
    if matcher["id"] == "byRegexp":
        return re.search(matcher["options"].strip("/"), name) is not None
    if matcher["id"] == "byName":
        return matcher["options"] == name
    raise ValueError(f"matcher {matcher['id']}")


class Field:
    """The format of one column or series: the panel's defaults with the overrides that match its name."""

    def __init__(self, panel, name=""):
        self.options = {"color": {}, "custom": {}} | panel["fieldConfig"]["defaults"]
        for override in panel["fieldConfig"]["overrides"]:
            if fits(override["matcher"], name):
                for item in override["properties"]:
                    group, _, key = item["id"].partition(".")
                    value = {**self.options[group], key: item["value"]} if key else item["value"]
                    self.options = {**self.options, group: value}

    def mapped(self, value):
        """Returns the mapping's result for a value, or an empty one."""
        text = value if isinstance(value, str) else f"{value:g}" if value is not None else ""
        for mapping in self.options.get("mappings", []):
            if text in mapping["options"]:
                return mapping["options"][text]
        return {}

    def text(self, value):
        if value in (None, "") or value != value:
            return self.options.get("noValue", "")
        unit = "string" if isinstance(value, str) else self.options.get("unit", "short")
        return self.mapped(value).get("text") or with_unit(value, unit, self.options.get("decimals"))

    def colour(self, value):
        """Returns the colour from the mapping, the fixed colour, or the threshold."""
        mapped = self.mapped(value).get("color")
        if mapped:
            return colour(mapped)
        if self.options["color"].get("mode") == "fixed":
            return colour(self.options["color"]["fixedColor"])
        if isinstance(value, str) or value is None:
            return COLOURS["text"]
        steps = self.options["thresholds"]["steps"]
        return colour([s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1])

    def series_colour(self, index):
        if self.options["color"].get("mode") == "fixed":
            return colour(self.options["color"]["fixedColor"])
        return PALETTE[index % len(PALETTE)]
