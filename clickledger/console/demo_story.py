"""The story a demo tells: what happened so far, its acts, and the clicks sent on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clickledger.console import output
from clickledger.console.demo_scene import Scene
from clickledger.errors import Unavailable
from clickledger.ledger import database
from clickledger.scoring import exchange, learn
from clickledger.settings import Settings

T = TypeVar("T")
PACE_CLICKS = 64  # sent at once while latency is measured
PACE_CLICKS_PER_S = 1_500
WAIT_SECONDS_MAX = 120.0
POLL_SECONDS = 0.1


@dataclass
class Story:
    """What happened so far; `facts` becomes the JSON answer."""

    scene: Scene
    settings: Settings
    conn: database.Connection
    facts: dict[str, Any] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    duplicates: int = 0
    sent: int = 0
    history_position: int = 0  # both models learn from the log up to here
    stable: learn.Learned | None = None
    bad: learn.Learned | None = None
    pace_clicks_per_s: float = PACE_CLICKS_PER_S
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """One act, named with the time that has passed."""
        elapsed = time.monotonic() - self.started
        output.say(f"[{elapsed:5.1f} s] {title}")
        yield

    def send(self, until: int) -> list[float]:
        """Send the next clicks as fast as they are decided; the latencies."""
        part = self.scene.clicks[self.sent : until]
        latencies = []
        with output.progress("    deciding", len(part)) as bar:
            for _, answer in exchange.decide_all(str(self.settings.redis_url), part):
                self.duplicates += answer.outcome == "repeat"
                latencies.append(answer.latency_ms)
                bar.advance()
        self.sent = until
        return latencies

    def send_paced(self, until: int) -> None:
        """Send at a steady pace, so that the latencies are those of a system that keeps up."""
        began, at = time.monotonic(), self.sent
        while self.sent < until:
            self.latencies_ms += self.send(min(self.sent + PACE_CLICKS, until))
            due = began + (self.sent - at) / self.pace_clicks_per_s
            time.sleep(max(0.0, due - time.monotonic()))


def wait(what: str, ready: Callable[[], T | None]) -> T:
    """What `ready` gives in the end. Raises Unavailable when it gives nothing for too long."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(POLL_SECONDS)
    raise Unavailable(f"expected within {WAIT_SECONDS_MAX:g} s: {what}")
