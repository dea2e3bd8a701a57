"""Reads a structured CloudEvent with the CloudEvents SDK for Python, which is independent of kfwatch.

Usage: read_cloudevent.py CONTENT_TYPE < BODY

Prints one JSON object with the attributes, extensions among them, and the data; the time in UNIX milliseconds.
"""

import json
import sys

from cloudevents.core.bindings.http import HTTPMessage, from_http_event


def main():
    event = from_http_event(HTTPMessage({"content-type": sys.argv[1]}, sys.stdin.buffer.read()))
    attributes = dict(event.get_attributes())
    attributes["time"] = round(event.get_time().timestamp() * 1000)
    print(json.dumps({"attributes": attributes, "data": event.get_data()}))


main()
