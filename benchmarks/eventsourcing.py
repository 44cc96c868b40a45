"""Append against eventsourcing's PostgreSQL recorder: the same clicks, equal batches, the same server, taking turns.

One event holds all of a click and its decision, as JSON, which is how that library's users store it; each click is an
aggregate of its own. Its application recorder is the equal of ours: one total order for readers. Two ways it inserts
are measured, by statements in a pipeline (of 32; its client never comes back from a pipeline of 500, see LOG.md) and by
its database function, and the faster one counts. It is given its
`StoredEvent`s ready made, while the append's time includes encoding and hashing; a second figure has its mapper make
them in its time. Neither partitions, idempotent answers, fencing nor hashes are asked of it.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.ground import Figure, Ground, Result, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, database
from clickledger.ledger.records import Batch

if TYPE_CHECKING:
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresApplicationRecorder

TARGET = 5.0
SIZES = (32, 500)
PIPELINE_MAX = 100  # events in one pipeline of psycopg's from which its client returns
MISSING = (
    "eventsourcing: not measured, the package is not installed:"
    " pip install -c constraints.txt -e '.[bench]' (`make bench-ledger` does)"
)
SCALARS = ("deployment_epoch", "counter_epoch", "feature_schema")


class ClickDecided:
    """The event: an attribute for each column of a batch."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def run(ground: Ground) -> Result:
    """`append_vs_eventsourcing`: the smaller ratio of the two batch sizes. Without the package it only says so."""
    result = Result()
    if find_spec("eventsourcing") is None:
        say(MISSING)
        return result
    url = ground.fresh_database()
    ready, mapped = [], []
    with database.connect(url) as conn, _recorders(conn) as recorders:
        for size in SIZES:
            a, b = _compare(conn, recorders, size, ground.quick, result)
            ready.append(a)
            mapped.append(b)
    result.keys |= {
        "append_vs_eventsourcing": round(min(ready), 3),
        "append_vs_eventsourcing_mapped": round(min(mapped), 3),
    }
    return result


@contextmanager
def _recorders(conn: database.Connection) -> Iterator[dict[str, PostgresApplicationRecorder]]:
    """Its application recorder by both ways of inserting, each with tables of its own in the same database."""
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore  # noqa: PLC0415 - an extra

    made, stores = {}, []
    for name, functions in (("pipeline", False), ("function", True)):
        conn.execute(f"CREATE SCHEMA es_{name}".encode())
        info = conn.info
        store = PostgresDatastore(
            info.dbname, info.host, info.port, info.user, "", schema=f"es_{name}", enable_db_functions=functions
        )
        made[name] = PostgresApplicationRecorder(store)
        made[name].create_table()
        stores.append(store)
    try:
        yield made
    finally:
        for store in stores:
            store.close()


def _compare(
    conn: database.Connection,
    recorders: dict[str, PostgresApplicationRecorder],
    size: int,
    quick: bool,
    result: Result,
) -> tuple[float, float]:
    """Medians over rounds of our rate by its faster rate: with ready events, and with those its mapper makes."""
    traffic = Traffic(lane=size)
    append.append(conn, traffic.batch(size), actor=ACTOR)
    rounds, clicks = (1, 2 * size) if quick else (11, 8_000)
    ours: list[float] = []
    inserting = {name: its for name, its in recorders.items() if name != "pipeline" or size <= PIPELINE_MAX}
    theirs: dict[str, list[float]] = {name: [] for name in inserting}
    with_mapper: list[float] = []
    for number in range(rounds):
        say(f"eventsourcing: batches of {size}, round {number + 1} of {rounds}")
        batches = list(traffic.batches(clicks // size, size))
        ours.append(_rate(batches, lambda batch: append.append(conn, batch, actor=ACTOR)))
        for name, recorder in inserting.items():
            events = [_stored(batch) for batch in batches]
            theirs[name].append(_rate(events, recorder.insert_events))
        again = list(traffic.batches(clicks // size, size))
        rows = [[ClickDecided(values) for values in _values(batch)] for batch in again]
        with_mapper.append(_rate(rows, _mapped(recorders["function"])))
    fastest = map(max, zip(*theirs.values(), strict=True))
    ready = statistics.median(a / b for a, b in zip(ours, fastest, strict=True))
    mapped = statistics.median(a / b for a, b in zip(ours, with_mapper, strict=True))
    result.figures.append(Figure(f"append, batches of {size}", statistics.median(ours), "clicks/s"))
    for name, rates in (theirs | {"function, mapped": with_mapper}).items():
        result.figures.append(Figure(f"eventsourcing, {name}, {size}", statistics.median(rates), "events/s"))
    target = f"at least {TARGET:.0f}"
    result.figures += [
        Figure(f"append / eventsourcing at {size}", ready, "", "its events ready made", target, ready >= TARGET),
        Figure(f"append / eventsourcing with its mapper at {size}", mapped, "", "both encode"),
    ]
    return ready, mapped


def _rate(batches: Sequence[Any], insert: Callable[[Any], Any]) -> float:
    started = time.perf_counter()
    for batch in batches:
        insert(batch)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def _values(batch: Batch) -> list[dict[str, Any]]:
    """Each click as what JSON can hold: bytes as hexadecimal text."""
    scalars = {name: getattr(batch, name) for name in SCALARS}
    names = [field.name for field in fields(batch) if field.name not in SCALARS]
    columns = [_plain(getattr(batch, name)) for name in names]
    rows = [dict(zip(names, row, strict=True)) | scalars for row in zip(*columns, strict=True)]
    return [row | {"originator_id": uuid.UUID(hex=row["click_id"]), "originator_version": 1} for row in rows]


def _plain(column: Any) -> list[Any]:
    values = column.tolist() if hasattr(column, "tolist") else column
    return [value.hex() if isinstance(value, bytes) else value for value in values]


def _stored(batch: Batch) -> list[StoredEvent]:
    to_stored_event = _mapper().to_stored_event
    return [to_stored_event(ClickDecided(values)) for values in _values(batch)]


def _mapped(recorder: PostgresApplicationRecorder) -> Callable[[list[ClickDecided]], Any]:
    to_stored_event = _mapper().to_stored_event
    return lambda decided: recorder.insert_events([to_stored_event(one) for one in decided])


def _mapper() -> Any:
    from eventsourcing.persistence import JSONTranscoder, Mapper  # noqa: PLC0415 - an extra

    return Mapper(JSONTranscoder())
