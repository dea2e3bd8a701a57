#!/usr/bin/env python3
"""Receives events of kfwatch: checks their signatures (Standard Webhooks), drops duplicates, prints the others.

usage: receiver.py KEYFILE [PORT]        KEYFILE has the keys of the sink's secret_file, one whsec_… a line
"""
import base64, hmac, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = [base64.b64decode(line.strip().removeprefix("whsec_")) for line in open(sys.argv[1]) if line.strip()]
TOLERANCE = 300  # by how many seconds the clocks may differ; older requests may be recorded ones
MAX_BODY_BYTES = 1 << 20
lock = threading.Lock()  # each connection has a thread
seen = {}  # ids of handled events; use a unique column of your database instead


def is_valid(headers, body):
    event_id, at, signatures = (headers.get("webhook-" + name, "") for name in ("id", "timestamp", "signature"))
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE:
        return False
    signed = f"{event_id}.{at}.".encode() + body
    expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in KEYS]
    return any(hmac.compare_digest(one, given.encode()) for one in expected for given in signatures.split())


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), MAX_BODY_BYTES))
        valid = is_valid(self.headers, body)
        event_id = self.headers.get("webhook-id")
        with lock:
            if valid and event_id not in seen:
                print(body.decode(), flush=True)  # handle the event here, completely, before the answer
                seen[event_id] = True
        self.send_response(204 if valid else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8080), Receiver)
print(f"Listening on http://127.0.0.1:{server.server_port}/", file=sys.stderr, flush=True)
server.serve_forever()
