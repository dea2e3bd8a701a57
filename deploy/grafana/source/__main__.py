"""Writes both dashboards: python3 deploy/grafana/source [DIRECTORY]

The dashboards are JSON files that Grafana reads. Edit the source, run it, and commit both.

It uses dictionaries and only Python's standard library, so that whoever changes a panel needs nothing else. With the builders of
grafana-foundation-sdk the functions of panels.py are longer (a stat panel: 20 lines instead of 12), they need PyPI and Python 3.11,
and version 0.0.21 moves links and annotations into a menu of Grafana 13. The tests read the output with its types instead.
"""

import json
import pathlib
import sys

# No compiled files beside the source.
sys.dont_write_bytecode = True

from customer_service import CUSTOMER_SERVICE
from kfwatch import KFWATCH

directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1] / "dashboards"
for name, dashboard in ("customer-service", CUSTOMER_SERVICE), ("kfwatch", KFWATCH):
    (directory / f"{name}.json").write_text(json.dumps(dashboard, ensure_ascii=False, indent=1) + "\n", "utf-8")
