"""Append against raw COPY: the same rows into tables of the same shape, on the same server, taking turns in one run.

Every turn appends new batches through `ledger.append`, then has the server dump those very rows in binary, then copies
them into twins of `clicks` and `decisions` (same columns, keys, checks, indexes and partitions; no log, no leaves, no
hashes). Raw COPY is given its bytes ready made and its client does nothing but send them; the append's time includes
the client's encoding and hashing. Two grains of raw COPY: one stream a table with one commit for the turn (`stream`),
and one commit a batch (`by batch`). `append_vs_copy` compares with the stream, which is the faster of the two. At 256
appends come in two ways: one after the other, and with the next batch prepared meanwhile, as a worker does.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

from psycopg import sql

from benchmarks.ground import Figure, Ground, Result, quantile, say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, database
from clickledger.ledger.preparation import Preparation
from clickledger.ledger.records import Batch

TABLES = ("clicks", "decisions")
TARGET = 0.40
SIZES = (1, 16, 64, 256)
BATCH_MAX = 256

PARTITIONS = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = %s::regclass"""

NEWEST_BATCHES = "SELECT position, row_count FROM log WHERE kind = 'clicks_decided' ORDER BY position DESC LIMIT %s"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    batches: dict[int, int]  # batches a turn, by batch size
    processes: tuple[int, ...]
    process_rounds: int
    process_seconds: float


FULL = Plan(12, {1: 300, 16: 200, 64: 100, 256: 100}, (1, 2, 4), 3, 4.0)
QUICK = Plan(1, {1: 5, 16: 3, 64: 2, 256: 2}, (2,), 1, 0.3)


def run(ground: Ground) -> Result:
    """Rates by batch size and by number of appenders, and the ratios to raw COPY."""
    plan = QUICK if ground.quick else FULL
    url = ground.fresh_database()
    result = Result()
    with database.connect(url) as conn:
        _sizes(conn, plan, result)
        _repeats(conn, plan, result)
    _processes(ground, plan, result)
    return result


def _sizes(conn: database.Connection, plan: Plan, result: Result) -> None:
    traffic = Traffic()
    append.append(conn, traffic.batch(BATCH_MAX), actor=ACTOR)
    make_twins(conn)
    ours: dict[int, list[float]] = {size: [] for size in SIZES}
    latencies: dict[int, list[float]] = {size: [] for size in SIZES}
    stream: list[float] = []
    by_batch: list[float] = []
    ahead: list[float] = []
    for number in range(plan.rounds):
        say(f"append: round {number + 1} of {plan.rounds}")
        for size in SIZES:
            turn = _append_turn(conn, list(traffic.batches(plan.batches[size], size)))
            ours[size].append(size * len(turn.seconds) / sum(turn.seconds))
            latencies[size] += turn.seconds
        ahead.append(BATCH_MAX * plan.batches[BATCH_MAX] / _ahead_seconds(conn, plan.batches[BATCH_MAX], traffic))
        half = len(turn.positions) // 2  # of the batches of 256, the last of SIZES
        kinds: list[tuple[list[float], Sequence[int], int]] = [(stream, turn.positions[:half], half)]
        kinds.append((by_batch, turn.positions[half : 2 * half], 1))
        for rates, positions, grain in kinds if number % 2 else kinds[::-1]:
            rates.append(BATCH_MAX * len(positions) / copy_turn(conn, positions, grain))
    for size in SIZES:
        note = (
            f"p50 {1000 * quantile(latencies[size], 0.5):.2f} ms, p99 {1000 * quantile(latencies[size], 0.99):.2f} ms"
        )
        result.figures.append(Figure(f"append, batches of {size}", statistics.median(ours[size]), "clicks/s", note))
    result.figures.append(Figure("append, batches of 256 prepared ahead", statistics.median(ahead), "clicks/s"))
    result.figures.append(Figure("raw COPY, one stream", statistics.median(stream), "clicks/s"))
    result.figures.append(Figure("raw COPY, a commit each 256", statistics.median(by_batch), "clicks/s"))
    _ratios(result, ahead, stream, by_batch)
    alone = statistics.median(a / b for a, b in zip(ours[BATCH_MAX], stream, strict=True))
    result.figures.append(Figure("append at 256, one after the other / raw COPY stream", alone, ""))
    result.keys["append_vs_copy_one_by_one"] = round(alone, 4)


def _ratios(result: Result, ours: list[float], stream: list[float], by_batch: list[float]) -> None:
    """Medians over the rounds of each round's own ratio: what disturbs a round disturbs both of its sides."""
    to_stream = statistics.median(a / b for a, b in zip(ours, stream, strict=True))
    to_batches = statistics.median(a / b for a, b in zip(ours, by_batch, strict=True))
    target = f"at least {TARGET:.2f}"
    note = f"rounds from {min(a / b for a, b in zip(ours, stream, strict=True)):.2f}"
    result.figures += [
        Figure("append at 256 / raw COPY stream", to_stream, "", note, target, to_stream >= TARGET),
        Figure("append at 256 / raw COPY a commit each 256", to_batches, "", "the same commits on both sides"),
    ]
    result.keys |= {
        "append_vs_copy": round(to_stream, 4),
        "append_vs_copy_same_commits": round(to_batches, 4),
        "append_clicks_per_s": round(statistics.median(ours)),
        "copy_clicks_per_s": round(statistics.median(stream)),
    }


@dataclass(frozen=True)
class Turn:
    """Seconds of each append, and where it stands in the log."""

    seconds: list[float]
    positions: list[int]


def _append_turn(conn: database.Connection, batches: Sequence[Batch]) -> Turn:
    turn = Turn([], [])
    for batch in batches:
        started = time.perf_counter()
        appended = append.append(conn, batch, actor=ACTOR)
        turn.seconds.append(time.perf_counter() - started)
        turn.positions.append(appended.position or 0)
    return turn


def _ahead_seconds(conn: database.Connection, count: int, traffic: Traffic) -> float:
    """Seconds to append batches of 256, each prepared while the one before it is appended."""
    batches = list(traffic.batches(count, BATCH_MAX))
    started = time.perf_counter()
    ahead = Preparation(append.prepare(batches[0]))
    for following in batches[1:]:
        this, ahead = ahead.finish(), Preparation(append.prepare(following))
        append.append_prepared(conn, this, actor=ACTOR, meanwhile=ahead.step)
    append.append_prepared(conn, ahead.finish(), actor=ACTOR)
    return time.perf_counter() - started


def copy_turn(conn: database.Connection, positions: Sequence[int], grain: int) -> float:
    """Seconds to copy the rows of the positions, `grain` entries a transaction."""
    cuts = [positions[i : i + grain] for i in range(0, len(positions), grain)]
    payloads = [[_dump(conn, table, cut[0], cut[-1]) for table in TABLES] for cut in cuts]
    started = time.perf_counter()
    for payload in payloads:
        with conn.transaction():
            for table, content in zip(TABLES, payload, strict=True):
                _copy(conn, table, content)
    return time.perf_counter() - started


def _dump(conn: database.Connection, table: str, first: int, last: int) -> bytes:
    statement = sql.SQL(
        "COPY (SELECT * FROM {} WHERE log_position BETWEEN {} AND {} ORDER BY log_position, click_id)"
        " TO STDOUT (FORMAT binary)"
    ).format(sql.Identifier(table), first, last)
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        return b"".join(bytes(part) for part in copy)


def _copy(conn: database.Connection, table: str, content: bytes) -> None:
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(f"raw_{table}"))
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(content)


def make_twins(conn: database.Connection) -> None:
    """Tables raw_clicks and raw_decisions: columns, keys, checks, indexes and partitions of the real ones."""
    for table in TABLES:
        twin = sql.Identifier(f"raw_{table}")
        statement = "CREATE TABLE {} (LIKE {} INCLUDING ALL) PARTITION BY RANGE (click_id)"
        conn.execute(sql.SQL(statement).format(twin, sql.Identifier(table)))
        for name, bounds in conn.execute(PARTITIONS, (table,)).fetchall():
            partition = sql.SQL("CREATE TABLE {} PARTITION OF {} ").format(sql.Identifier(f"raw_{name}"), twin)
            conn.execute(partition + sql.SQL(bounds))


def _repeats(conn: database.Connection, plan: Plan, result: Result) -> None:
    """Batches sent again whole: what a worker's retry or a file read twice costs."""
    batches = list(Traffic(lane=1).batches(plan.batches[BATCH_MAX], BATCH_MAX))
    _append_turn(conn, batches)
    seconds = sum(_append_turn(conn, batches).seconds)
    rate = BATCH_MAX * len(batches) / seconds
    result.figures.append(Figure("append, batches of 256 sent again", rate, "clicks/s", "answered as repeats"))


def _processes(ground: Ground, plan: Plan, result: Result) -> None:
    """The rate of several appenders together, each round beside raw COPY of a part of what they appended."""
    for count in plan.processes:
        say(f"append: {count} appenders")
        rates, ratios = [], []
        for _ in range(plan.process_rounds):
            url = ground.fresh_database()
            rates.append(_concurrent(url, count, plan.process_seconds))
            ratios.append(rates[-1] / _copy_rate(url, plan.batches[BATCH_MAX]))
        what = f"append, batches of 256, {count} appender{'s' if count > 1 else ''} in own processes"
        note = f"{statistics.median(ratios):.2f} of raw COPY, one stream"
        result.figures.append(Figure(what, statistics.median(rates), "clicks/s", note))
        result.keys[f"append_clicks_per_s_{count}_processes"] = round(statistics.median(rates))
        result.keys[f"append_vs_copy_{count}_processes"] = round(statistics.median(ratios), 4)


def _copy_rate(url: str, batches: int) -> float:
    """Clicks a second of raw COPY in one stream, of the newest entries of a ledger."""
    with database.connect(url) as conn:
        make_twins(conn)
        newest = conn.execute(NEWEST_BATCHES, (batches,)).fetchall()
        positions = sorted(position for position, _ in newest)
        return sum(rows for _, rows in newest) / copy_turn(conn, positions, len(positions))


def _concurrent(url: str, count: int, seconds: float) -> float:
    """Clicks a second of `count` appenders together, each with batches made beforehand."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=_appender, args=(url, lane, seconds, ready, rates), daemon=True) for lane in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"an appender ended with exit code {process.exitcode}")
    return sum(float(rates.get()) for _ in processes)


def _appender(url: str, lane: int, seconds: float, ready: Barrier, rates: SimpleQueue[float]) -> None:
    batches = list(Traffic(lane=lane).batches(int(seconds * 200) + 4, BATCH_MAX))
    with database.connect(url, application_name=f"benchmark appender {lane}") as conn:
        append.append(conn, batches.pop(), actor=ACTOR)
        ready.wait(timeout=300)
        started, done = time.perf_counter(), 0
        for batch in batches:
            append.append(conn, batch, actor=ACTOR)
            done += len(batch)
            if time.perf_counter() - started >= seconds:
                break
        rates.put(done / (time.perf_counter() - started))
