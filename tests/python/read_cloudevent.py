"""Reads a structured CloudEvent with the CloudEvents SDK for Python, which knows nothing of kfwatch.

Usage: read_cloudevent.py CONTENT_TYPE < BODY

Prints one JSON object with the attributes, extensions among them, and the data; the time in UNIX milliseconds.
"""

import json
import sys

from dateutil import parser


def read(content_type, body):
    from cloudevents.http import from_http

    return from_http({"Content-Type": content_type}, body)


def main():
    event = read(sys.argv[1], sys.stdin.buffer.read())
    attributes = dict(event.get_attributes())
    time = parser.isoparse(str(attributes["time"]))
    attributes["time"] = round(time.timestamp() * 1000)
    print(json.dumps({"attributes": attributes, "data": event.get_data()}))


main()
