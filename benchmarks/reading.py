"""The ways to read, each beside a plain materialised table of the same rows, with 1, 10 and 300 published runs.

The ledger is filled by SQL (`benchmarks.filled`); runs are disjoint, scattered over the log, re-decide up to 40 %
of it and change every tenth verdict. The plain table holds the authoritative rows of the moment, made anew for each
number of runs: same columns and `run_id`, same keys, same indexes, same days of partitions. The look-up by key is
measured beside a plain table without partitions too, which is faster, as it need not be planned each time.

Rows are handed out as COPY text and thrown away, so that decoding, the same for both sides, hides nothing. Both sides
take turns; a figure is the median of the rounds' ratios, and a key of `latest.json` the worst over 1, 10 and 300 runs.
"""

from __future__ import annotations

import random
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.filled import Filled
from benchmarks.ground import Figure, Ground, Result, say
from clickledger.ledger import authority, database, reading
from clickledger.ledger.literal_ranges import Span

COLUMNS = ", ".join(reading.COLUMNS)
PARTITIONS = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'decisions'::regclass"""
PLAIN_TOTALS = """
    SELECT currency, verdict::text, count(*), sum(cost_micros)::bigint FROM plain GROUP BY currency, verdict"""
PLAIN_ROW = "SELECT * FROM plain WHERE click_id = %s"
WHOLE_ROW = "SELECT * FROM whole WHERE click_id = %s"
VIEW_TOTALS = PLAIN_TOTALS.replace("plain", "authoritative_decisions")
TARGETS = {"totals": 1.2, "rows_full": 1.5, "rows_day": 1.5, "decision_of": 2.0, "asof": 2.0}
LATE_SHARE = 0.4  # of the log, under 300 runs


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    clicks: int
    days: int
    runs: tuple[int, ...]
    rounds: int
    lookups: int


FULL = Plan(5_120_000, 5, (1, 10, 300), 5, 1_000)
QUICK = Plan(20_480, 3, (1, 3), 1, 20)


@dataclass
class Ratios:
    """For each figure, the median ratio at each number of runs."""

    found: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, what: str, runs: int, ratios: list[float]) -> None:
        """Note the rounds' ratios."""
        self.found.setdefault(what, {})[runs] = statistics.median(ratios)

    def worst(self, what: str) -> float:
        """The highest over all numbers of runs."""
        return max(self.found[what].values())


def run(ground: Ground) -> Result:
    """Ratios to the plain table, and of as-of reads to current ones."""
    return measure(ground, QUICK if ground.quick else FULL)


def measure(ground: Ground, plan: Plan) -> Result:
    """The same, of a size of one's own."""
    result, ratios = Result(), Ratios()
    with database.connect(ground.fresh_database()) as conn:
        say(f"reading: filling a ledger with {plan.clicks:,} decisions")
        filled = Filled(conn, plan.clicks, plan.days)
        ranges = _ranges(filled, plan.runs)
        done = 0
        for count in plan.runs:
            say(f"reading: publishing runs {done + 1} to {count}")
            for lo, hi in ranges[done:count]:
                filled.published(lo, hi)
            done = count
            _materialise(conn)
            _compare(conn, filled, plan, count, ratios, result)
    _note(result, ratios)
    return result


def _ranges(filled: Filled, runs: tuple[int, ...]) -> list[tuple[int, int]]:
    """Disjoint ranges of positions in order of publication: those of each number of runs share alike in LATE_SHARE.

    So the one run that is published first is large, and the last hundreds are small and lie scattered all over.
    """
    rng = random.Random(1)
    counts = [count - before for before, count in zip((0, *runs), runs, strict=False)]
    weights = [1 / (len(runs) * count) for count in counts for _ in range(count)]
    order = list(range(len(weights)))
    rng.shuffle(order)
    ranges, start = [(0, 0)] * len(weights), float(filled.lo)
    for number in order:
        slot = weights[number] * (filled.hi - filled.lo)
        width = max(1, int(slot * LATE_SHARE))
        lo = int(start) + rng.randrange(max(1, int(slot) - width))
        ranges[number], start = (lo, lo + width), start + slot
    return ranges


def _materialise(conn: database.Connection) -> None:
    """Tables `plain`, partitioned as `decisions` is, and `whole`, which is not, of the authoritative rows."""
    conn.execute("DROP TABLE IF EXISTS plain, whole")
    conn.execute("CREATE TABLE plain (LIKE decisions, run_id bigint) PARTITION BY RANGE (click_id)")
    for name, bounds in conn.execute(PARTITIONS).fetchall():
        conn.execute(f"CREATE TABLE plain_{name} PARTITION OF plain {bounds}".encode())
    conn.execute("INSERT INTO plain SELECT * FROM authoritative_decisions")
    conn.execute("CREATE TABLE whole AS SELECT * FROM plain")
    for table in ("plain", "whole"):
        conn.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (click_id)".encode())
        conn.execute(f"CREATE INDEX ON {table} USING brin (log_position) WITH (pages_per_range = 16)".encode())
    conn.execute("VACUUM (ANALYZE) plain, whole, decisions, delayed_decisions, adjustments, publications, authority")
    conn.execute("CHECKPOINT")


def _compare(conn: database.Connection, filled: Filled, plan: Plan, runs: int, ratios: Ratios, result: Result) -> None:
    say(f"reading: {runs} runs beside the plain table")
    day = _day(filled, plan.days // 2)
    of_day = f"SELECT {COLUMNS} FROM plain WHERE click_id >= '{day.first}' AND click_id < '{day.last}'"
    as_of = _middle(conn)
    _check(conn)
    sides: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "totals": (lambda: reading.totals(conn), lambda: conn.execute(PLAIN_TOTALS).fetchall()),
        "rows_full": (lambda: _drained(conn, Span()), lambda: _copied(conn, f"SELECT {COLUMNS} FROM plain")),
        "rows_day": (lambda: _drained(conn, day), lambda: _copied(conn, of_day)),
        "asof totals": (lambda: reading.totals(conn, as_of), lambda: reading.totals(conn)),
        "asof rows_full": (lambda: _drained(conn, Span(), as_of), lambda: _drained(conn, Span())),
        "asof rows_day": (lambda: _drained(conn, day, as_of), lambda: _drained(conn, day)),
        "view totals": (lambda: conn.execute(VIEW_TOTALS).fetchall(), lambda: conn.execute(PLAIN_TOTALS).fetchall()),
        "view rows": (
            lambda: _copied(conn, f"SELECT {COLUMNS} FROM authoritative_decisions"),
            lambda: _copied(conn, f"SELECT {COLUMNS} FROM plain"),
        ),
    }  # fmt: skip
    for what, (ours, other) in sides.items():
        _turns(what, runs, ours, other, plan.rounds, ratios, result)
    _look_up(conn, plan, runs, as_of, ratios, result)


def _check(conn: database.Connection) -> None:
    """Both sides answer the same."""
    expected = {(row[0], row[1]): row[2:] for row in conn.execute(PLAIN_TOTALS)}
    for found in reading.totals(conn):
        ours = {"valid": found.valid, "invalid": found.invalid, "undecided": found.undecided}
        plain = {verdict: expected.get((found.currency, verdict), (0, 0))[0] for verdict in ours}
        if ours != plain or found.billed_micros != expected[found.currency, "valid"][1]:
            raise RuntimeError(f"expected {expected}, got {found}")


def _turns(
    what: str,
    runs: int,
    ours: Callable[[], object],
    other: Callable[[], object],
    rounds: int,
    ratios: Ratios,
    result: Result,
) -> None:
    times = []
    for number in range(rounds + 1):
        pair = [_seconds(side) for side in ((ours, other) if number % 2 else (other, ours))]
        times.append(pair if number % 2 else pair[::-1])
    measured = times[1:] or times  # the first round warms both up
    ratios.add(what, runs, [mine / theirs for mine, theirs in measured])
    note = f"{1000 * statistics.median(t[0] for t in measured):.1f} ms; the other side " + (
        f"{1000 * statistics.median(t[1] for t in measured):.1f} ms"
    )
    result.figures.append(Figure(f"{what}, {runs} runs", ratios.found[what][runs], "x", note))


def _seconds(side: Callable[[], object]) -> float:
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def _drained(conn: database.Connection, span: Span, as_of: int | None = None) -> None:
    reading.copy_out(conn, len, span, as_of=as_of)


def _copied(conn: database.Connection, query: str) -> None:
    with conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
        for part in copy:
            len(part)


def _day(filled: Filled, number: int) -> Span:
    start_ms, end_ms = filled.day_bounds_ms(number)
    return Span(first=reading.smallest_click_id(start_ms), last=reading.smallest_click_id(end_ms))


def _middle(conn: database.Connection) -> int:
    """The position at which half of the publications had been made."""
    publications = authority.publications(conn)
    return publications[len(publications) // 2].position


def _look_up(conn: database.Connection, plan: Plan, runs: int, as_of: int, ratios: Ratios, result: Result) -> None:
    """Single calls of random clicks through prepared statements, side by side."""
    ids = _sample(conn, plan.lookups)
    statements: dict[str, tuple[str, tuple[int, ...]]] = {
        "plain": (PLAIN_ROW, ()),
        "whole": (WHOLE_ROW, ()),
        "ours": (reading.DECISION_OF, ()),
        "asof": (reading.DECISION_OF_AS_OF, (as_of,)),
    }
    times: dict[str, list[float]] = {name: [] for name in statements}
    for click_id in ids:
        for name, (query, more) in statements.items():
            started = time.perf_counter()
            conn.execute(query, (click_id, *more), prepare=True).fetchone()
            times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(found) for name, found in times.items()}
    for what, name, other in (
        ("decision_of", "ours", "plain"),
        ("decision_of beside one unpartitioned table", "ours", "whole"),
        ("asof decision_of", "asof", "ours"),
    ):
        ratios.add(what, runs, [median[name] / median[other]])
        note = f"{1e6 * median[name]:.0f} us; the other side {1e6 * median[other]:.0f} us"
        result.figures.append(Figure(f"{what}, {runs} runs", median[name] / median[other], "x", note))


def _sample(conn: database.Connection, count: int) -> list[uuid.UUID]:
    found = conn.execute("SELECT click_id FROM decisions ORDER BY hashint4(line), click_id LIMIT %s", (count,))
    ids = [row[0] for row in found]
    random.Random(1).shuffle(ids)
    return ids


def _note(result: Result, ratios: Ratios) -> None:
    for name in ("totals", "rows_full", "rows_day", "decision_of"):
        _judge(result, f"{name}_vs_plain", ratios.worst(name), TARGETS[name])
    kinds = ("asof totals", "asof rows_full", "asof rows_day", "asof decision_of")
    _judge(result, "asof_vs_current", max(ratios.worst(kind) for kind in kinds), TARGETS["asof"])


def _judge(result: Result, key: str, value: float, target: float) -> None:
    figure = Figure(f"{key}, worst", value, "x", "", f"at most {target:g}", value <= target)
    result.figures.append(figure)
    result.keys[key] = round(value, 3)
