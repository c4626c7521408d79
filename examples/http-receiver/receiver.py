#!/usr/bin/env python3
"""A receiver of Sluice's HTTP handler: prints each record, once. Python's standard library only.

    python3 receiver.py [--port 8080] [--fail-key KEY] [--dead-key KEY] [--fail-rate 0.1] [--delay 0.01]

docs/http-handler.md is the contract; this file is one way to keep it, short enough to be read in full.
"""

import argparse
import base64
import json
import random
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SEEN_MAX = 100_000  # idempotency keys remembered; a real receiver keeps them where it keeps the results of its work


class Failed(Exception):
    """The record is worth another try."""


class Dead(Exception):
    """The record will never be handled."""


def record_of(attribute, data):
    """A record from its attributes, given as a function name -> text or None, and the bytes of its value."""
    key = attribute("key")
    key_base64 = attribute("keybase64")
    return {
        "id": attribute("id"),
        "idempotency_key": attribute("idempotencykey"),
        "topic": attribute("kafkatopic"),
        "partition": int(attribute("kafkapartition")),
        "offset": int(attribute("kafkaoffset")),
        "time": attribute("time"),
        "key": key.encode() if key is not None else None if key_base64 is None else base64.b64decode(key_base64),
        "value": None if attribute("kafkatombstone") == "true" else data,
        "headers": record_headers(attribute("kafkaheaders")),
    }


def record_headers(text):
    """`name:base64,name:base64,...` as a list of (name, bytes or None)."""
    headers = []
    for item in text.split(",") if text is not None else []:
        name, colon, value = item.partition(":")
        if name.startswith("~"):
            name = base64.b64decode(name[1:]).decode()
        headers.append((name, base64.b64decode(value) if colon else None))
    return headers


def from_event(event):
    """A record from a CloudEvent in JSON."""

    def attribute(name):
        value = event.get(name)
        return None if value is None else "true" if value is True else str(value)

    return record_of(attribute, base64.b64decode(event.get("data_base64", "")))


def from_binary(headers, body):
    """A record from a CloudEvent in binary mode: attributes are headers, the body is the value."""

    def attribute(name):
        value = headers.get("Idempotency-Key" if name == "idempotencykey" else "ce-" + name)
        return None if value is None else value if name == "idempotencykey" else unquote(value)

    return record_of(attribute, body)


class Work:
    """What is done with a record: here it is printed. Remembers what is done, because a record may come again."""

    def __init__(self, options):
        self.options = options
        self.lock = threading.Lock()
        self.done = OrderedDict()
        self.at_work = set()

    def handle(self, record):
        """Handles a record once, whatever happens: calls may overlap when a partition moves to another pod."""
        name = record["idempotency_key"]
        with self.lock:
            if name in self.done:
                return
            if name in self.at_work:
                raise Failed("another call is at work on this record")
            self.at_work.add(name)
        try:
            self.do(record)
            with self.lock:
                self.done[name] = None
                while len(self.done) > SEEN_MAX:
                    self.done.popitem(last=False)
        finally:
            with self.lock:
                self.at_work.discard(name)

    def do(self, record):
        if self.options.delay:
            time.sleep(self.options.delay)
        key = (record["key"] or b"").decode(errors="replace")
        if self.options.dead_key is not None and key == self.options.dead_key:
            raise Dead(f"key {key} is refused")
        if (self.options.fail_key is not None and key == self.options.fail_key) or random.random() < self.options.fail_rate:
            raise Failed(f"record {record['id']} failed")
        with self.lock:
            print(json.dumps(record, default=lambda b: b.decode(errors="backslashreplace")), flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection open
    work = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        try:
            if content_type == "application/cloudevents-batch+json":
                self.batch([from_event(event) for event in json.loads(body)])
            elif content_type == "application/cloudevents+json":
                self.one(from_event(json.loads(body)))
            else:
                self.one(from_binary(self.headers, body))
        except (ValueError, TypeError, AttributeError) as error:
            self.answer(400, f"this is no record: {error}")

    def one(self, record):
        try:
            self.work.handle(record)
        except Failed as error:
            self.answer(503, str(error))
        except Dead as error:
            self.answer(422, str(error))
        else:
            self.answer(204)

    def batch(self, records):
        """In order; after a failure nothing more of the same key, so that order within a key holds."""
        failed, stopped = [], set()
        for record in records:
            key = record["key"]
            if key is not None and key in stopped:
                failed.append({"itemIdentifier": record["id"], "reason": "a record of its key before it failed"})
                continue
            try:
                self.work.handle(record)
            except (Failed, Dead) as error:
                failed.append({"itemIdentifier": record["id"], "dead": isinstance(error, Dead), "reason": str(error)})
                if key is not None:
                    stopped.add(key)
        self.answer(200, {"batchItemFailures": failed})

    def answer(self, status, content=None):
        body = b"" if content is None else (json.dumps(content) if isinstance(content, dict) else content).encode()
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json" if isinstance(content, dict) else "text/plain")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, "ok")  # for probes

    def log_message(self, form, *values):
        if self.server.verbose:
            print(form % values, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description="A receiver of Sluice's HTTP handler.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fail-key", help="records with this key fail, and come again")
    parser.add_argument("--dead-key", help="records with this key are refused for good")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of the records that fail, 0 to 1")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each record takes")
    parser.add_argument("--verbose", action="store_true", help="log each call")
    options = parser.parse_args()
    Receiver.work = Work(options)
    server = ThreadingHTTPServer(("", options.port), Receiver)
    server.daemon_threads = True
    server.verbose = options.verbose
    print(f"listening on port {server.server_port}", file=sys.stderr)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
