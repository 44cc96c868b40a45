"""Latency of a decision, open loop: clicks are sent at their appointed times, earlier ones answered or not.

A latency runs from the time a click was due to be sent until its answer, which comes after the commit, was read from
the reply stream: waiting in the stream, counting, scoring, appending and the way back are all in it, and so is the
delay of a sender that falls behind. Sender and reader are two threads of this process; worker, PostgreSQL and Valkey
are processes of their own on the same machine, a network decides and a shadow beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from benchmarks import live
from benchmarks.ground import Figure, Ground, Result, quantile, say
from clickledger.scoring import stream
from clickledger.scoring.click import Click
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.settings import Settings

RATES, QUICK_RATES = (200, 500, 1000), (200,)
KEY_RATE = 500  # clicks a second; the article's traffic is a fraction of it for one marketplace
SECONDS, QUICK_SECONDS = 20.0, 1.0
WARM_UP_SECONDS = 2.0  # sent before and not counted: first use of plans, caches and connections
PATIENCE_SECONDS = 30.0
BLOCK_MS = 100


def run(ground: Ground) -> Result:
    """Quantiles of the latency at each rate."""
    rates, seconds = (QUICK_RATES, QUICK_SECONDS) if ground.quick else (RATES, SECONDS)
    settings = live.prepare(ground)
    counts = [int(rate * (seconds + WARM_UP_SECONDS)) for rate in rates]
    clicks = live.simulated(max(1000, sum(counts))).to_clicks(Pseudonyms(bytes(32)))
    result = Result()
    with live.running(settings, ["scoring-1"]):
        first = 0
        for rate, count in zip(rates, counts, strict=True):
            say(f"latency: {rate} clicks/s")
            times = OpenLoop(settings, clicks[first : first + count], rate).run()
            first += count
            _note(result, rate, times[int(rate * WARM_UP_SECONDS) :])
    return result


def _note(result: Result, rate: int, times: Sequence[float]) -> None:
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        value = quantile(times, share) * 1000
        note = f"{len(times):,} clicks"
        result.figures.append(Figure(f"decision at {rate} clicks/s, {name}", value, "ms", note))
        if rate == KEY_RATE:
            result.keys[f"decision_{name.replace('.', '')}_ms"] = round(value, 2)


class OpenLoop:
    """Sends clicks at a steady rate and notes how long after its appointed time each was answered, in seconds."""

    def __init__(self, settings: Settings, clicks: Sequence[Click], rate: int) -> None:
        self._url = str(settings.redis_url)
        self._clicks = clicks
        self._rate = rate
        self._reply_to = f"{stream.REPLIES_PREFIX}benchmark-{rate}"
        self._answered_at: list[float | None] = [None] * len(clicks)

    def run(self) -> list[float]:
        """The latencies, in the order of sending. Raises RuntimeError when answers stay away."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        started = self._send()
        reader.join(PATIENCE_SECONDS)
        late = [at - started - i / self._rate for i, at in enumerate(self._answered_at) if at is not None]
        if len(late) != len(self._clicks):
            raise RuntimeError(f"expected {len(self._clicks)} answers, got {len(late)}")
        return late

    def _send(self) -> float:
        with stream.connect(self._url) as client:
            sent, started = 0, time.perf_counter()
            while sent < len(self._clicks):
                now = time.perf_counter() - started
                due = min(len(self._clicks), int(now * self._rate) + 1)
                if due > sent:
                    keys = [str(i) for i in range(sent, due)]
                    stream.put(client, self._clicks[sent:due], self._reply_to, keys)
                    sent = due
                time.sleep(max(0.0, sent / self._rate - (time.perf_counter() - started)))
        return started

    def _read(self) -> None:
        missing = len(self._clicks)
        with stream.connect(self._url) as client:
            replies = stream.Replies(client, self._reply_to)
            while missing:
                answers = replies.read(BLOCK_MS)
                now = time.perf_counter()
                for answer in answers:
                    if self._answered_at[int(answer.key)] is None:
                        self._answered_at[int(answer.key)] = now
                        missing -= 1
            replies.close()
