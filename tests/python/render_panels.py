"""Draws one panel into a box of a picture, approximately as Grafana does."""

import datetime
import math
import re

from matplotlib import dates, ticker
from matplotlib.colors import PowerNorm

from render_data import series_of, table_of
from render_format import Field, colour, with_unit

TEXT, FAINT, BACK = "#ccccdc", "#8e8e9c", "#181b1f"
# Heights of a table's header and rows.
HEADER, LINE = 28, 36


class Box:
    """The part of the picture for one panel, in pixels from its upper left corner."""

    def __init__(self, figure, left, top, width, height):
        self.figure, self.left, self.top, self.width, self.height = figure, left, top, width, height
        # The axes with the time, if the panel has one.
        self.over_time = None

    def axes(self, left, top, right, bottom):
        """Returns axes with these margins."""
        full_width, full_height = self.figure.get_size_inches() * self.figure.dpi
        axes = self.figure.add_axes((
            (self.left + left) / full_width,
            1 - (self.top + self.height - bottom) / full_height,
            max(self.width - left - right, 10) / full_width,
            max(self.height - top - bottom, 10) / full_height,
        ))
        axes.set_facecolor(BACK)
        return axes

    def sheet(self, top=28):
        """Returns axes without a frame. Their coordinates are pixels, with y downwards."""
        axes = self.axes(0, top, 0, 0)
        axes.set_axis_off()
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height - top, 0)
        return axes


def moments(times):
    return [datetime.datetime.fromtimestamp(time, datetime.timezone.utc) for time in times]


def with_gaps(times, values, step):
    """Draws gaps in the data as gaps in the line."""
    drawn_times, drawn_values = [], []
    for time, value in zip(times, values):
        if drawn_times and time - drawn_times[-1] > 1.5 * step:
            drawn_times.append(drawn_times[-1] + step)
            drawn_values.append(math.nan)
        drawn_times.append(time)
        drawn_values.append(value)
    return drawn_times, drawn_values


def mark_events(box, marks):
    """Draws annotations: a line at the start of each event, and a shade until its end. Only panels with a time axis have them."""
    if box.over_time is None:
        return
    first, last = box.over_time.get_xlim()
    for start, end, name in marks:
        left, right = (dates.date2num(moments([time])[0]) for time in (start, end))
        if left <= last and right >= first:
            box.over_time.axvspan(max(left, first), right, color=colour(name), alpha=0.12, linewidth=0)
        if first <= left <= last:
            box.over_time.axvline(left, color=colour(name), linewidth=1, linestyle=":")
    box.over_time.set_xlim(first, last)


def time_axis(box, axes, prometheus):
    box.over_time = axes
    axes.set_xlim(*moments([prometheus.end - prometheus.seconds, prometheus.end]))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=7))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(colors=FAINT, labelsize=7, length=2)
    for side in axes.spines.values():
        side.set_visible(False)


def timeseries(panel, dashboard, prometheus, box):
    series, step = series_of(panel, dashboard, prometheus)
    options, defaults = panel["options"]["legend"], Field(panel).options
    custom = defaults["custom"]
    right = options["placement"] == "right"
    room = 24 + 15 * (min(len(series), 4) + 1)
    axes = box.axes(70, 32, box.width * 0.42 if right else 12, 24 if right else room)
    stacked, bars = custom["stacking"]["mode"] == "normal", custom["drawStyle"] == "bars"
    base = {}
    for index, (name, times, values, _) in enumerate(series):
        field = Field(panel, name)
        if field.options["custom"].get("hideFrom", {}).get("viz"):
            continue
        colour_ = field.series_colour(index)
        if bars:
            share = 0.8 if stacked else 0.8 / len(series)
            shift = 0 if stacked else (index - len(series) / 2) * share * step
            bottoms = [base.get(time, 0) for time in times] if stacked else 0
            axes.bar(moments([time + shift for time in times]), values, width=step * share / 86400, bottom=bottoms, color=colour_, alpha=0.8)
        elif stacked:
            values = [value if value == value else 0 for value in values]
            tops = [base.get(time, 0) + value for time, value in zip(times, values)]
            axes.fill_between(moments(times), [base.get(time, 0) for time in times], tops, color=colour_, alpha=0.35, linewidth=0)
            axes.plot(moments(times), tops, color=colour_, linewidth=0.8)
        else:
            gapped, numbers = with_gaps(times, values, step)
            axes.plot(moments(gapped), numbers, color=colour_, linewidth=1.2, marker="." if len(values) == 1 else None)
        if stacked:
            for time, value in zip(times, values):
                base[time] = base.get(time, 0) + (value if value == value else 0)
    time_axis(box, axes, prometheus)
    low, high = axes.get_ylim()
    low, high = min(low, custom.get("axisSoftMin", low)), max(high, custom.get("axisSoftMax", high))
    axes.set_ylim(defaults.get("min", low), defaults.get("max", high))
    mark_thresholds(axes, defaults)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=defaults.get("decimals") == 0))
    axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, defaults["unit"], defaults.get("decimals")))
    axes.grid(color="#2c2f36", linewidth=0.6)
    legend(panel, series, box, right, room)
    return len(series)


def mark_thresholds(axes, defaults):
    if defaults["custom"]["thresholdsStyle"]["mode"] == "off":
        return
    low, high = axes.get_ylim()
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and low <= step["value"] <= high:
            axes.axhline(step["value"], color=colour(step["color"]), linewidth=1, linestyle="--")


def legend(panel, series, box, right, room):
    options = panel["options"]["legend"]
    if not options["showLegend"]:
        return
    rows = []
    for index, (name, _, values, _) in enumerate(series):
        field = Field(panel, name)
        numbers = [value for value in values if value == value]
        calculations = {"lastNotNull": numbers[-1], "max": max(numbers), "min": min(numbers)}
        shown = [calculations[calculation] for calculation in options["calcs"]]
        rows.append((shown, name, field.series_colour(index), [field.text(value) for value in shown]))
    if options["displayMode"] == "table":
        place = options["calcs"].index("max") if options.get("sortBy") == "Max" else 0
        rows.sort(key=lambda row: row[0][place], reverse=True)
    sheet = box.sheet(0)
    left = box.width * 0.60 if right else 14
    top = 44 if right else box.height - room + 30
    edge = box.width - 14
    names = {"lastNotNull": "Last *", "max": "Max", "min": "Min"}
    wide = 70
    for column, calculation in enumerate(reversed(options["calcs"])):
        sheet.text(edge - column * wide, top - 14 if right else top - 1, names[calculation], color="#5794f2", fontsize=7, ha="right", va="center")
    visible = int((box.height - top) / 15) if right else 4
    for place, (_, name, colour_, texts) in enumerate(rows[:visible]):
        y = top + 15 * place + (0 if right else 13)
        sheet.plot([left, left + 10], [y, y], color=colour_, linewidth=3)
        sheet.text(left + 16, y, name, color=TEXT, fontsize=7.5, va="center", parse_math=False)
        for column, text in enumerate(reversed(texts)):
            sheet.text(edge - column * wide, y, text, color=TEXT, fontsize=7.5, ha="right", va="center")


def stat(panel, dashboard, prometheus, box):
    series, _ = series_of(panel, dashboard, prometheus)
    field = Field(panel)
    values = [(name, [value for value in numbers if value == value][-1]) for name, _, numbers, _ in series]
    sheet = box.sheet()
    for place, (name, value) in enumerate(values[:4]):
        shown = name if panel["options"]["textMode"] == "name" else field.text(value)
        sheet.text(box.width / 2, (box.height - 28) * (place + 0.5) / len(values), shown, color=field.colour(value), fontsize=20 if len(shown) < 9 else 15, ha="center", va="center")
    return len(values)


def bargauge(panel, dashboard, prometheus, box):
    series, _ = series_of(panel, dashboard, prometheus)
    field = Field(panel)
    sheet = box.sheet()
    low = field.options["min"]
    high = field.options.get("max") or max([numbers[-1] for _, _, numbers, _ in series], default=1)
    tall = (box.height - 40) / max(len(series), 1)
    left = 24 + 6 * max([len(name) for name, *_ in series], default=0)
    for place, (name, _, numbers, _) in enumerate(series):
        y, wide = tall * place + 4, box.width - left - 90
        share = (numbers[-1] - low) / ((high - low) or 1)
        sheet.barh(y + tall * 0.4, wide, height=tall * 0.6, left=left, color="#22252b")
        sheet.barh(y + tall * 0.4, wide * share, height=tall * 0.6, left=left, color=field.colour(numbers[-1]))
        sheet.text(12, y + tall * 0.4, name, color=TEXT, fontsize=8, va="center")
        sheet.text(box.width - 14, y + tall * 0.4, field.text(numbers[-1]), color=field.colour(numbers[-1]), fontsize=11, ha="right", va="center")
    return len(series)


def state_timeline(panel, dashboard, prometheus, box):
    series, step = series_of(panel, dashboard, prometheus)
    field = Field(panel)
    longest = max([len(name) + sum(ord(c) > 255 for c in name) for name, *_ in series], default=0)
    axes = box.axes(24 + 5 * longest, 32, 12, 48)
    for place, (_, times, values, _) in enumerate(series):
        for time, value in zip(times, values):
            left = dates.date2num(moments([time - step])[0])
            axes.barh(place, step / 86400 * 1.02, left=left, height=panel["options"]["rowHeight"], color=field.colour(value), alpha=0.85, linewidth=0)
    axes.set_yticks(range(len(series)), [name for name, *_ in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.xaxis_date()
    time_axis(box, axes, prometheus)
    axes.tick_params(axis="y", labelsize=7.5, colors=TEXT)
    sheet, left = box.sheet(0), 14
    shown = {value for _, _, values, _ in series for value in values}
    for mapping in field.options["mappings"]:
        for key, result in mapping["options"].items():
            if float(key) in shown:
                sheet.plot([left, left + 10], [box.height - 12] * 2, color=colour(result["color"]), linewidth=4)
                sheet.text(left + 16, box.height - 12, result["text"], color=TEXT, fontsize=7.5, va="center")
                left += 120
    return len(series)


def heatmap(panel, dashboard, prometheus, box):
    series, step = series_of(panel, dashboard, prometheus)
    limits = sorted({labels["le"] for *_, labels in series}, key=float)
    times = sorted({time for _, moments_, _, _ in series for time in moments_})
    counts = {labels["le"]: dict(zip(moments_, values)) for _, moments_, values, labels in series}
    grid, below = [], dict.fromkeys(times, 0.0)
    for limit in limits:
        grid.append([max(counts[limit].get(time, 0) - below[time], 0) for time in times])
        below = {time: counts[limit].get(time, 0) for time in times}
    axes = box.axes(70, 32, 12, 24)
    if grid:
        edges = [dates.date2num(moment) for moment in moments([times[0] - step] + times)]
        shown = [[cell if cell > 0 else math.nan for cell in row] for row in grid]
        axes.pcolormesh(edges, range(len(limits) + 1), shown, cmap="Oranges_r", norm=PowerNorm(0.5, vmin=0), edgecolors=BACK, linewidth=0.5)
    unit = panel["options"]["yAxis"]["unit"]
    axes.set_yticks(range(1, len(limits) + 1), ["+Inf" if limit == "+Inf" else with_unit(float(limit), unit) for limit in limits])
    axes.xaxis_date()
    time_axis(box, axes, prometheus)
    return sum(cell > 0 for row in grid for cell in row)


def table(panel, dashboard, prometheus, box):
    columns, rows = table_of(panel, dashboard, prometheus)
    sheet = box.sheet()
    if not rows:
        empty = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        sheet.text(box.width / 2, (box.height - 28) / 2, empty, color=FAINT, ha="center", va="center")
        return 0
    fields = {column: Field(panel, column) for column in columns}
    fixed = {column: field.options["custom"].get("width") for column, field in fields.items()}
    flexible = sum(width is None for width in fixed.values())
    rest = max(box.width - 16 - sum(width or 0 for width in fixed.values()), 0) / max(flexible, 1)
    visible = int((box.height - 28 - HEADER) / LINE)
    left = 8
    for column, field in fields.items():
        width = fixed[column] or rest
        sheet.text(left + 6, 14, column, color="#5794f2", fontsize=8, va="center", parse_math=False)
        peak = max([row[column] for row in rows if isinstance(row.get(column), float)], default=0) or 1
        for place, row in enumerate(rows[:visible]):
            cell(sheet, field, row.get(column), (left, LINE * place + HEADER, width), peak)
        left += width
    if len(rows) > visible:
        sheet.text(box.width - 14, box.height - 38, f"… {len(rows) - visible} more rows", color=FAINT, fontsize=7, ha="right")
    return len(rows)


def cell(sheet, field, value, place, peak):
    left, top, width = place
    kind = field.options["custom"].get("cellOptions", {}).get("type", "auto")
    shade = TEXT
    if kind == "color-background" and value is not None:
        sheet.barh(top + LINE / 2, width - 2, height=LINE - 2, left=left, color=field.colour(value))
        shade = "#111217"
    elif kind == "color-text":
        shade = field.colour(value)
    elif kind == "gauge" and value is not None:
        sheet.barh(top + LINE / 2, (width - 50) * value / peak, height=16, left=left + 4, color=field.colour(value))
        sheet.text(left + width - 8, top + LINE / 2, field.text(value), color=TEXT, fontsize=8.5, ha="right", va="center")
        return
    text = field.text(value)
    # A letter is about six pixels wide, a Chinese character twelve.
    while text and sum(6 if ord(c) < 256 else 12 for c in text) > width - 4:
        text = text[:-2] + "…" if len(text) > 2 else ""
    sheet.text(left + 6, top + LINE / 2, text, color=shade, fontsize=8.5, va="center", parse_math=False)


def text(panel, _dashboard, _prometheus, box):
    sheet = box.sheet()
    y = 14
    per_line = int((box.width - 30) / 6.2)
    for paragraph in panel["options"]["content"].splitlines():
        line, used = "", 0
        for character in plain(paragraph) + "\n":
            used += 1 if ord(character) < 256 else 2
            if character == "\n" or used > per_line:
                sheet.text(14, y, line, color=TEXT, fontsize=8, va="center", parse_math=False)
                y, line, used = y + 16, "   ", 3
            line += character.strip("\n")
        y += 3
    return 1 if y < box.height else 0


def plain(markdown):
    """Removes markup and link addresses."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("**", "").replace("- ", "• ", 1)


DRAW = {
    "timeseries": timeseries, "stat": stat, "bargauge": bargauge, "state-timeline": state_timeline,
    "heatmap": heatmap, "table": table, "text": text,
}
