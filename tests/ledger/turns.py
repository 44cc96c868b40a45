"""Several connections at work at once, whose exchanges with the server are interleaved as a seed says.

Before each exchange its actor asks for a turn. One of those who ask has it, drawn at random; the next one is given once
it is back, or waits in the server for somebody's lock. So what happens depends on the seed, not on the machine.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from clickledger.ledger import database

LOCKED = "SELECT count(*) FROM pg_locks WHERE pid = ANY (%s) AND NOT granted"
LOOK_SECONDS = 0.002  # an exchange that takes longer may be waiting for a lock
STUCK_SECONDS = 30.0
STAYS = (0.0, 0.5, 0.8, 0.95)  # how likely the next turn is the same one's: finely mixed, or call by call
ASKS, RUNS, DONE = "asks", "runs", "done"


class Actor(NamedTuple):
    """Somebody with a connection of their own, and what they do with it."""

    conn: database.Connection
    act: Callable[[], None]


class Turns:
    """Gives turns to actors by name; `monitor` is a connection that sees who waits for a lock."""

    def __init__(self, monitor: database.Connection, chance: random.Random) -> None:
        self._monitor, self._chance = monitor, chance
        self._changed = threading.Condition()
        self._stays = chance.choice(STAYS)
        self._last = ""
        self._state: dict[str, str] = {}
        self._pid: dict[str, int] = {}
        self._free = False  # everybody goes on by themselves: somebody failed
        self.waited = 0  # turns that were given while somebody waited for a lock

    def race(self, actors: Mapping[str, Actor]) -> None:
        """Let all of them act, until all are done; raises what the first of them raised."""
        self._state = dict.fromkeys(actors, RUNS)
        self._pid = {name: actor.conn.info.backend_pid for name, actor in actors.items()}
        with ThreadPoolExecutor(len(actors)) as pool:
            acting = [pool.submit(self._act, name, actor) for name, actor in actors.items()]
            try:
                while self._settled():
                    self._give_one()
            finally:
                self._let_go()
            for future in acting:
                future.result()

    def _act(self, name: str, actor: Actor) -> None:
        passed = actor.conn.wait

        def wait(*given: Any, **named: Any) -> Any:
            self._ask(name)
            return passed(*given, **named)

        actor.conn.wait = wait  # type: ignore[method-assign]  # the one place all statements pass
        try:
            self._ask(name)
            actor.act()
        finally:
            del actor.conn.wait
            with self._changed:
                self._state[name] = DONE
                self._changed.notify_all()

    def _ask(self, name: str) -> None:
        with self._changed:
            self._state[name] = ASKS
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._free or self._state[name] == RUNS)

    def _let_go(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify_all()

    def _of(self, state: str) -> list[str]:
        return sorted(name for name, now in self._state.items() if now == state)

    def _settled(self) -> bool:
        """Wait until nobody is at anything but waiting, for a turn or for a lock; whether anybody is left."""
        deadline = time.monotonic() + STUCK_SECONDS
        while True:
            with self._changed:
                if self._of(RUNS):
                    self._changed.wait(LOOK_SECONDS)
                running, asking = self._of(RUNS), self._of(ASKS)
            if not running:
                return bool(asking)
            if asking and self._all_wait_for_locks(running):
                self.waited += 1
                return True
            assert time.monotonic() < deadline, f"{running} did not come back"

    def _all_wait_for_locks(self, names: list[str]) -> bool:
        row = self._monitor.execute(LOCKED, ([self._pid[name] for name in names],)).fetchone()
        return row == (len(names),)

    def _give_one(self) -> None:
        """To whoever had the last one, as often as this race has it, or to anybody."""
        with self._changed:
            asking = self._of(ASKS)
            if self._last not in asking or self._chance.random() >= self._stays:
                self._last = self._chance.choice(asking)
            self._state[self._last] = RUNS
            self._changed.notify_all()
