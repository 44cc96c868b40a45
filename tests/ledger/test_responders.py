"""Several people at once on one ledger: each call ends in a clear refusal, or all of them in a serial history.

Two responders correct, publish, revert and give up, overlapping and over one another, while clicks come, periods are
closed and a model is rolled back, and somebody reads. Hypothesis draws what they do, and how their exchanges with the
server are interleaved. CLICKLEDGER_SEED repeats them; CLICKLEDGER_SOAK_RACES runs more (`make soak-ledger`).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import genesis
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from responders import Reader, Responder, clock
from rewriting_rules import Correcting, Replaying
from serial import Serial
from turns import Actor, Turns
from universe import CARRIED, CLICK, CLICKS, CORRECTIONS, MONTH, NUMBERS, VERDICT_OF_EACH, Rows
from writing_rules import Appending, Billing, Deploying

from clickledger.ledger import database, log, partitions

RACES = int(os.environ.get("CLICKLEDGER_SOAK_RACES") or 120)
MANY = 1_000
AUDITED_EVERY = 8
SEED = int(os.environ.get("CLICKLEDGER_SEED") or time.time_ns() // 1_000_000 % 1_000_000_000)
# What races that say anything of the ledger must have seen in so many.
MUST_HAPPEN = [
    *(f"{call}: done" for call in ("plan", "work", "stage", "correct", "compare", "publish", "revert", "abandon")),
    *(f"{call}: done" for call in ("append", "close_period", "roll_back")),
    *(f"publish: {error}" for error in ("StalePlan", "Refused")),
    *(f"revert: {error}" for error in ("Refused", "Conflict")),
    *("compare: Refused", "stage: Refused", "abandon: Refused", "append: RevokedDeployment", "close_period: Conflict"),
    "compare: somebody wrote between its look and its entry",
    "somebody waited for another's lock",
]


def _any(*steps: tuple[int, str, tuple[st.SearchStrategy[Any], ...]]) -> st.SearchStrategy[Any]:
    """A step by weight."""
    return st.one_of([st.tuples(st.just(name), *drawn) for weight, name, drawn in steps for _ in range(weight)])


# Conflicts are a second entry of an append, of which the log does not say whose it is.
ONE_CONTENT = st.lists(st.tuples(CLICK, st.just("first"), st.sampled_from("viu")), min_size=1, max_size=6)
REPLAY = (NUMBERS, NUMBERS, VERDICT_OF_EACH, CARRIED)
BEFORE = _any(
    (4, "replayed", (*REPLAY, st.sampled_from(["staged", "compared", "published", "published"]))),
    (2, "correct_and_publish", (CORRECTIONS, NUMBERS)),
    (1, "append_a_batch", (ONE_CONTENT,)),
    (1, "close_a_period", (MONTH,)),
)
RESPONSE = _any(
    (2, "replay_and_publish", REPLAY),
    (2, "correct_and_publish", (CORRECTIONS,)),
    (1, "replay", REPLAY),
    (2, "compare_a_run", (NUMBERS,)),
    (5, "publish_a_run", (NUMBERS,)),
    (2, "compare_and_publish", (NUMBERS,)),
    (4, "revert_a_run", (NUMBERS,)),
    (2, "abandon_a_run", (NUMBERS,)),
    (1, "roll_back", (NUMBERS,)),
    (1, "close_a_period", (MONTH,)),
)
# Two who want what cannot both be: of the newest run, which is ready, and of the newest publication. A look before the
# lock instead of under it is found by one of these pairs.
READY, IN_FORCE = 0, 1  # among the newest runs
LAST = 0  # of the publications that stand
PUBLISH, COMPARE, ABANDON = ("publish_a_run", READY), ("compare_a_run", READY), ("abandon_a_run", READY)
REVERT, CLOSE = ("revert_a_run", LAST), ("close_a_period", 1)
ANEW = ("replay", 0, 9, ("vi" * len(CLICKS))[: len(CLICKS)], set[int]())
DUELS = [
    *[([PUBLISH], [other]) for other in (PUBLISH, REVERT, ABANDON, CLOSE, ("compare_and_publish", READY))],
    *[([COMPARE], [other]) for other in (REVERT, ABANDON, PUBLISH)],
    *[([one], [one]) for one in (REVERT, ABANDON, CLOSE)],
    ([ANEW], [COMPARE, ABANDON]),  # given up while it is worked on
    # Published, or anew, between the look and the lock of who reverts it.
    ([PUBLISH], [("revert_whatever_run", READY)]),
    ([REVERT], [("revert_whatever_run", IN_FORCE), ("compare_and_publish", IN_FORCE)]),
]
ANYTHING = st.tuples(*[st.lists(RESPONSE, min_size=1, max_size=2) for _ in range(2)])
LIFE = _any((3, "append", (ONE_CONTENT,)), (2, "close_a_period", (MONTH,)))
Steps = list[tuple[Any, ...]]


class History(Appending, Deploying, Replaying, Correcting, Billing):
    """What one person did, side by side with the oracle, and then several at once."""

    def begin(self, rows: Rows) -> None:
        for model, content in enumerate((b"stable", b"new"), 1):
            self._register(content)
            self._calibrate(model)
        self._deploy([1])
        self.append_a_batch(rows)

    def replayed(self, lo: int, hi: int, verdicts: str, carried: set[int], how_far: str) -> None:
        found = sorted({known.position for known in self.oracle.clicks.values()})
        first, last = sorted((found[lo % len(found)], found[hi % len(found)]))
        if (run_id := self._plan(first, last + 1, 3)) is None:
            return
        self._work(run_id, verdicts, carried, chunks=100)
        self._stage(run_id)
        if how_far != "staged":
            self._compare(run_id)
        if how_far == "published":
            self._publish(run_id)

    def do(self, steps: Steps) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)


class Races:
    """A ledger for many races, with a connection for each who takes part."""

    def __init__(self, ledger: genesis.Ledger) -> None:
        self.ledger = ledger
        self.counts: Counter[str] = Counter()
        self.connections = [database.connect(ledger.url, application_name="racer") for _ in range(4)]
        self.monitor = database.connect(ledger.url, application_name="monitor")

    def close(self) -> None:
        for conn in (*self.connections, self.monitor):
            conn.close()

    def run(
        self,
        rows: Rows,
        before: Steps,
        in_force: tuple[Any, ...],
        ready: tuple[Any, ...],
        responses: tuple[Steps, Steps],
        life: Steps,
        looks: int,
        seed: int,
    ) -> None:
        """What was before; a run is in force, another is ready to be published; then everybody at once."""
        history = type("History", (History,), {"ledger": self.ledger, "counts": self.counts})()
        history.begin(rows)
        history.do([*before, ("replayed", *in_force, "published"), ("replayed", *ready, "compared")])
        head, ticks, turns = history.oracle.head, clock(), Turns(self.monitor, random.Random(seed))
        names = ("first responder", "second responder", "life")
        people = [Responder(name, conn, ticks) for name, conn in zip(names, self.connections, strict=False)]
        reader = Reader(self.connections[3])
        acting = {"reader": Actor(reader.conn, lambda: reader.look(looks))}
        for person, steps in zip(people, (*responses, life), strict=True):
            acting[person.name] = Actor(person.conn, _doing(person, steps))
        turns.race(acting)
        self.counts["somebody waited for another's lock"] += turns.waited > 0
        calls = [call for person in people for call in person.calls]
        entries = log.read(history.conn, after=head)
        Serial(history.oracle, calls, entries, reader.seen, self.counts).check()
        history.everything_holds()
        if seed % AUDITED_EVERY == 0:  # it takes as long as all else
            history.everything_holds_at_the_end()


def _doing(person: Responder, steps: Steps) -> Any:
    def act() -> None:
        for name, *arguments in steps:
            getattr(person, name)(*arguments)

    return act


@pytest.fixture
def races(servers: Any, template_database: str) -> Iterator[Races]:
    with genesis.Ledger(servers.database_url, template_database, {partitions.day_of(c) for c in CLICKS}) as ledger:
        made = Races(ledger)
        yield made
        made.close()


@pytest.mark.timeout(0)
def test_people_at_once_are_refused_or_make_a_serial_history(races: Races) -> None:
    print(f"CLICKLEDGER_SEED={SEED}")
    _race(races, SEED, ANYTHING, RACES // 2)
    for number, duel in enumerate(DUELS, 1):  # hypothesis would not draw them equally often
        _race(races, SEED + number, st.just(duel), -(-RACES // 2 // len(DUELS)))
    print("\n".join(f"{count:8} {what}" for what, count in sorted(races.counts.items())))
    if RACES >= MANY:
        assert [what for what in MUST_HAPPEN if not races.counts[what]] == []


def _race(races: Races, seed: int, responses: st.SearchStrategy[Any], times: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=times,
        database=None,
        deadline=None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(
        rows=ONE_CONTENT,
        before=st.lists(BEFORE, max_size=2),
        in_force=st.tuples(*REPLAY),
        ready=st.tuples(*REPLAY),
        responses=responses,
        life=st.lists(LIFE, max_size=3),
        looks=st.integers(0, 3),
        seed=st.integers(0, 2**32),
    )
    def race(**drawn: Any) -> None:
        races.run(**drawn)

    race()
