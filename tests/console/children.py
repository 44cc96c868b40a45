"""Children for the tests of supervision: `python children.py KIND [WORD ...]`.

beat        sets its heartbeat, waits for TERM, then adds its name to the Redis list `ended` and ends
stubborn    like `beat`, but ignores TERM
silent      runs and never says that it is ready
http PORT   answers every request with 200
fail TEXT   prints TEXT and ends with 3
"""

from __future__ import annotations

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import redis

from clickledger import settings
from clickledger.console import home, processes


def beat(heed_term: bool) -> None:
    client = redis.Redis.from_url(os.environ["CLICKLEDGER_REDIS_URL"])
    name = os.environ["CLICKLEDGER_PROCESS"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    client.set(f"cl:heartbeat:{name}", os.getpid())
    if not heed_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.pause()
    signal.sigwait({signal.SIGTERM})
    client.rpush("ended", name)


def outlast(name: str) -> None:
    running = home.read(home.at(settings.load().home)).processes[name]
    if not processes.wait_until(lambda: not processes.alive(running.process), 60):
        sys.exit(f"{name} did not end")


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def main(kind: str, *words: str) -> None:
    match kind:
        case "beat" | "stubborn":
            beat(kind == "beat")
        case "outlast":
            outlast(words[0])
            beat(heed_term=True)
        case "silent":
            signal.pause()
        case "http":
            HTTPServer(("127.0.0.1", int(words[0])), Healthy).serve_forever()
        case "fail":
            print(*words)
            sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
