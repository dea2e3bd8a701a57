"""Draws dashboards with the data of a Prometheus, approximately as Grafana does, for a person to review.

Usage: render.py PROMETHEUS_URL SECONDS SCRAPE_INTERVAL OUTPUT_DIRECTORY DASHBOARD.json...

Writes one picture for each dashboard. Prints one JSON object: dashboards by uid, and in each what every panel shows, by
title: a number of series, rows or cells.
"""

import json
import pathlib
import sys
import time

import matplotlib

matplotlib.use("Agg")

from matplotlib import font_manager, pyplot
from matplotlib.patches import Rectangle

from render_data import Prometheus, events_of
from render_panels import BACK, DRAW, TEXT, Box, mark_events

COLUMN, ROW, MARGIN = 80, 38, 4


def font_with_chinese():
    """Returns the font family for nicknames, from Debian's fonts-noto-cjk."""
    files = [file for file in font_manager.findSystemFonts() if "NotoSansCJK-Regular" in file]
    if not files:
        sys.exit("render.py: install a font with Chinese characters (Debian: fonts-noto-cjk)")
    # The font may be newer than matplotlib's font cache.
    font_manager.fontManager.addfont(files[0])
    return font_manager.get_font(files[0]).family_name


def picture(dashboard, prometheus):
    """Returns the figure and the data of its panels."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * ROW
    width = 24 * COLUMN
    figure = pyplot.figure(figsize=(width / 100, height / 100), dpi=100, facecolor="#111217")
    sheet = Box(figure, 0, 0, width, height).sheet(0)
    shown, marks = {}, []
    for annotation in dashboard["annotations"]["list"]:
        events = events_of(annotation, dashboard, prometheus)
        marks += [(start, end, annotation["iconColor"]) for start, end, _ in events if annotation["enable"]]
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        left, top = grid["x"] * COLUMN + MARGIN, grid["y"] * ROW + MARGIN
        wide, tall = grid["w"] * COLUMN - 2 * MARGIN, grid["h"] * ROW - 2 * MARGIN
        if panel["type"] == "row":
            sheet.text(left + 8, top + tall / 2, "▾ " + panel["title"], color=TEXT, fontsize=12, va="center")
            continue
        sheet.add_patch(Rectangle((left, top), wide, tall, facecolor=BACK, edgecolor="#2c2f36"))
        sheet.text(left + 10, top + 14, panel["title"], color=TEXT, fontsize=9.5, va="center", weight="bold")
        box = Box(figure, left, top, wide, tall)
        shown[panel["title"]] = DRAW[panel["type"]](panel, dashboard, prometheus, box)
        mark_events(box, marks)
    return figure, shown


def main():
    url, seconds, scrape_interval, output, *files = sys.argv[1:]
    pyplot.rcParams["font.family"] = ["DejaVu Sans", font_with_chinese()]
    prometheus = Prometheus(url, int(time.time()), int(seconds), int(scrape_interval))
    found = {}
    for file in files:
        dashboard = json.loads(pathlib.Path(file).read_text())
        figure, found[dashboard["uid"]] = picture(dashboard, prometheus)
        figure.savefig(pathlib.Path(output) / f"{dashboard['uid']}.png")
        pyplot.close(figure)
    json.dump(found, sys.stdout)


main()
