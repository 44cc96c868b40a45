"""A server that goes away under any function of the ledger is Unavailable, never an error of psycopg's."""

from __future__ import annotations

import base64
import importlib
import inspect
import pkgutil
import re
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from typing import Any

import faults
import psycopg
import pytest
import replays
from batches import at, batch, click_id, clicks

from clickledger import errors, ledger
from clickledger.ledger import (
    append,
    audit_counting,
    audit_rows,
    audit_runs,
    comparison,
    database,
    delayed,
    departed,
    literal_ranges,
    log,
    outcomes,
    preparation,
    publication,
    runs,
    signed_note,
    sparse,
)
from clickledger.recovery import publishing

Connect = Callable[[], database.Connection]

CLICK = click_id(at("2024-03-10"), 0)
DAY = date(2024, 3, 10)
KEY = signed_note.generate("ledger.example")
NOTE = signed_note.sign(f"ledger.example\n1\n{base64.b64encode(bytes(32)).decode()}\n", KEY)
CORRECTION = sparse.Correction(CLICK, "invalid", "disputed")
RUN = runs.Run(1, 1, 2, runs.RESCORE, 1, 1, "{}", 1, None, "planned", None)

# What every public function is called with, by the name of its parameter; only those without a default are given.
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("actor", "reason"), "tests"),
    **dict.fromkeys(("lo", "line", "position", "size", "row_count", "run_id", "hold_id", "jobs", "head", "as_of"), 1),
    "signed": 1,
    **dict.fromkeys(("seq", "counter_epoch"), 1),
    **dict.fromkeys(("model_version", "calibration_version", "bad_model", "version"), 1),
    **dict.fromkeys(("adjustment_set", "departure", "click_id"), uuid.UUID(bytes=CLICK)),
    **dict.fromkeys(("day", "first", "last"), DAY),
    **{name: {} for name in ("payload", "evidence", "metadata")},
    **dict.fromkeys(("key", "old", "new"), KEY),
    **dict.fromkeys(("note", "held"), NOTE),
    "artefact": b"weights",
    "at": "2024-03-10T00:00:00Z",
    "batch": batch(clicks(3)),
    "change": lambda routing: routing,
    "content": b"192.0.2.0/24",
    "chunks": [audit_runs.Chunk(0, 1, 2, 1, bytes(32))],
    "corrections": [CORRECTION],
    "counted": [(CLICK, 1)],
    "days": [(DAY - date(1970, 1, 1)).days],
    "digest": "00" * 32,
    "fields": ["currency"],
    "gaps": [audit_counting.Gap(1, 3, 1, 2, 1)],
    "gone": departed.missing_lines,
    "hi": 2,
    "field_count": delayed.FIELD_COUNT,
    "epoch": 1,
    "kind": "clicks_decided",
    "model": 2,
    "name": "data_centre_networks",
    "moment": datetime(2024, 3, 10, tzinfo=UTC),
    "new_rows": [],
    "outcomes": [outcomes.Outcome(CLICK, "purchase", 1, 5)],
    "part": audit_rows.Part(None, None, 1, 2),
    "period": "2024-03",
    "query": "SELECT 1",
    "recorded_at": None,
    "routing": replays.routing(2, 2),
    "rows": [b"a row"],
    "row": None,
    "run": RUN,
    "run_ids": [1],
    "sizes": [1],
    "span": literal_ranges.Span(),
    "statement": delayed.COPY_ROWS,
    "stored": [],
    "text": str(uuid.UUID(bytes=CLICK)),
    "this": preparation.Preparation(append.prepare(batch(clicks(3)))).finish(),
    "thresholds": {"*": 0.0},
    "until_ms": at("2024-03-11"),
    "url": "",
    "write": lambda _: None,
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "departed.without": {"batches": [(1, 3)]},
    "importing.import_batches": {"batches": [batch(clicks(3))]},
    "merkle_tiles.extend": {"size": 256},  # fewer entries fill no tile
    "provenance.find": {"text": "c-1"},  # a click id names itself
}
# They say nothing to the server by themselves.
SILENT = {
    "append.with_partitions",
    "audit_definitions.unverified",
    "audit_rows.nothing_gone",
    "audit_work.chosen",
    "database.committing",
    "database.require_confirmed",
    "database.watch_commits",
}
UNCERTAIN = {"append.append", "append.append_prepared"}  # their one statement commits by itself


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every public function of the package that takes a connection first."""
    found = {}
    for module in pkgutil.iter_modules(ledger.__path__):
        members = vars(importlib.import_module(f"clickledger.ledger.{module.name}"))
        for name, function in members.items():
            if not name.startswith("_") and inspect.isfunction(function) and function.__module__.endswith(module.name):
                first = next(iter(inspect.signature(function).parameters.values()), None)
                if first is not None and first.annotation == "database.Connection":
                    found[f"{module.name}.{name}"] = function
    return found


PUBLIC = {name: function for name, function in public_functions().items() if name not in SILENT}


def call(name: str, conn: database.Connection) -> None:
    """Call a function to its end: into its block, or through all that it yields."""
    function = PUBLIC[name]
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty][1:]
    given = {p.name: OTHERWISE.get(name, {}).get(p.name, ARGUMENTS.get(p.name)) for p in required}
    answer = function(conn, **given)
    if isinstance(answer, AbstractContextManager):
        with answer:
            pass
    elif inspect.isgenerator(answer):
        list(answer)


@pytest.fixture
def admin(connect: Connect) -> database.Connection:
    """A connection that ends others, in a ledger that holds the clicks' day."""
    made = connect()
    append.append(made, batch(clicks(1)), actor="tests")
    return made


def end(admin: database.Connection, conn: database.Connection) -> None:
    ended = admin.execute("SELECT pg_terminate_backend(%s, 10000)", (conn.info.backend_pid,)).fetchone()
    assert ended == (True,)


@pytest.mark.parametrize("module", sorted({name.split(".")[0] for name in PUBLIC}))
def test_server_that_went_away_is_unavailable_and_uncertain_only_where_it_may_have_committed(
    admin: database.Connection, connect: Connect, module: str
) -> None:
    for name in [name for name in PUBLIC if name.startswith(f"{module}.")]:
        conn = connect()
        end(admin, conn)
        with pytest.raises(errors.Unavailable, match="database went away") as lost:
            call(name, conn)
        assert (database.MAY_HAVE_COMMITTED in str(lost.value)) is (name in UNCERTAIN), name
        with pytest.raises(errors.Unavailable, match="database went away") as closed:
            call(name, conn)
        assert database.MAY_HAVE_COMMITTED not in str(closed.value), name


def test_every_parameter_of_a_public_function_is_given() -> None:
    required = {
        (name, p.name)
        for name, function in PUBLIC.items()
        for p in list(inspect.signature(function).parameters.values())[1:]
        if p.default is p.empty
    }
    assert {(f, p) for f, p in required if p not in ARGUMENTS and p not in OTHERWISE.get(f, {})} == set()


def test_control_entry_is_uncertain_only_when_its_commit_was_under_way(
    admin: database.Connection, connect: Connect
) -> None:
    uncertain = []
    for exchange in range(4):  # BEGIN, the lock, the entry, COMMIT
        conn = connect()
        with faults.fault_at(conn, exchange, moment="after"), pytest.raises(errors.Unavailable) as lost:
            log.record(conn, "noted", {}, "tests")
        uncertain.append(database.MAY_HAVE_COMMITTED in str(lost.value))
        conn.close()
    assert uncertain == [False, False, False, True]
    assert [entry.kind for entry in log.read(admin, kinds=["noted"])] == ["noted"]


def _plan(conn: database.Connection) -> object:
    return runs.plan(conn, 2, 3, model_version=1, calibration_version=1, actor="tests", reason="")


def _correct(conn: database.Connection) -> object:
    return sparse.plan(conn, [CORRECTION], actor="tests", reason="")


def _publish(conn: database.Connection) -> object:
    """What was corrected last, compared by somebody else and reverted if it is in force."""
    [(run_id,)] = conn.execute("SELECT max(run_id) FROM replay_runs").fetchall()
    return publishing.publish(conn, run_id, comparison.latest(conn, run_id).digest, "tests", "")


@pytest.mark.parametrize(("call", "kind"), [(_plan, "planned"), (_correct, "planned"), (_publish, "published")])
def test_who_loses_the_server_after_the_commit_is_told_what_was_done(
    admin: database.Connection, connect: Connect, call: Callable[[database.Connection], object], kind: str
) -> None:
    append.append(admin, batch(clicks(1)), actor="tests")
    replays.model(admin)
    told, exchange, ended = [], 0, False
    while not ended:
        if call is _publish:
            comparison.compare(admin, sparse_run(admin), "tests")
        conn, before = connect(), log.head(admin).position
        with faults.fault_at(conn, exchange, moment="after") as exchanges:
            try:
                call(conn)
            except errors.Unavailable as lost:
                is_done = re.search(rf"may have committed|; but run \d+ is {kind}", str(lost)) is not None
                assert is_done is (log.head(admin).position > before), f"exchange {exchange}: {lost}"
                told.append(is_done)
            ended = not exchanges.happened
        conn.close()
        exchange += 1
    assert told.count(True) > 1 < told.count(False)


def sparse_run(conn: database.Connection) -> int:
    """A new correction of the click, with nothing in force of those before."""
    for run_id in conn.execute("SELECT run_id FROM publications WHERE reverted_position IS NULL").fetchall():
        publication.revert(conn, *run_id, "tests", "")
    return sparse.plan(conn, [CORRECTION], actor="tests", reason="").run_id


def test_server_that_takes_no_writes_is_unavailable(conn: database.Connection) -> None:
    conn.execute("SET default_transaction_read_only = on")
    with pytest.raises(errors.Unavailable, match="takes no writes now, as a standby or one that recovers"):
        log.record(conn, "noted", {}, "tests")


def test_cancelled_statement_is_unavailable_and_leaves_the_connection_usable(conn: database.Connection) -> None:
    conn.execute("SET statement_timeout = '50ms'")
    with pytest.raises(errors.Unavailable, match="gave it up") as cancelled:
        conn.execute("SELECT pg_sleep(10)")
    assert isinstance(cancelled.value.__cause__, psycopg.errors.QueryCanceled)
    conn.execute("RESET statement_timeout")
    assert log.head(conn).position == 1


def test_pool_without_a_connection_to_give_is_unavailable(database_url: str) -> None:
    with (
        database.open_pool(database_url, application_name="tests", max_size=1) as pool,
        pool.connection() as held,
        pytest.raises(errors.Unavailable),
        pool.connection(timeout=0.01),
    ):
        held.execute("SELECT 1")
