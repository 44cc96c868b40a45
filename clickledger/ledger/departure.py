"""What a day takes with it when it is detached: verified, computed aside and named by a digest.

Invariants:
- the day is sealed before, so what is computed here cannot change before the entry that names it;
- every live row is compared with its leaf first: it is the last time that anybody can;
- of delayed decisions the leaves go along, which staging pinned, and of sparse runs the clicks, which no entry lists;
- nothing here takes effect by itself; lines of departures that no entry names stay, as those of comparisons do.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any

from clickledger import errors
from clickledger.ledger import canonical, copied_rows, database, departed, log

_HEAD = struct.Struct(">qq")
_KEY = struct.Struct(">qqi16s")  # run id, log position, line, click id
_LEAF_FROM = 2 + 12 + 12 + 8 + 20  # the field count, and each of these behind its length
_CLICK = ", ".join(f"c.{name}" for name in canonical.CLICK_COLUMNS)
_DECISION = ", ".join(f"d.{name}" for name in canonical.DECISION_COLUMNS)
# Rows start with (run_id, log_position, line, click_id), which are no part of a leaf.
SELECT_LIVE = f"""
    SELECT 0::bigint, d.log_position, d.line, d.click_id, {_CLICK}, {_DECISION}
    FROM (SELECT * FROM clicks WHERE {{day}}) c JOIN (SELECT * FROM decisions WHERE {{day}}) d
      ON d.click_id = c.click_id AND d.log_position = c.log_position
    ORDER BY d.log_position, d.line"""
SELECT_DELAYED = f"""
    SELECT run_id, log_position, line, click_id, {", ".join(canonical.DELAYED_COLUMNS)}
    FROM delayed_decisions WHERE {{day}} ORDER BY run_id, log_position, line"""
SELECT_SPARSE_RUNS = "SELECT run_id FROM replay_runs WHERE kind = 'sparse'"
COPY_ROWS = "COPY departed_rows (departure, run_id, log_position, lines, leaves, click_ids) FROM STDIN"
SELECT_LEAVES = "SELECT position, leaves FROM leaves WHERE position = ANY (%s)"
SELECT_COUNTS = """
    SELECT (SELECT count(*) FROM clicks WHERE {day}), (SELECT count(*) FROM decisions WHERE {day}),
           (SELECT count(*) FROM delayed_decisions WHERE {day})"""
INSERT_DEPARTURE = """
    INSERT INTO departures
    SELECT %s, coalesce(range_agg(int8range(seq, seq + 1)), '{{}}') FROM clicks WHERE {day} AND seq > 0"""
INSERT_TOTALS = """
    INSERT INTO departed_totals
    SELECT %(departure)s, source, advertiser_id, campaign_id, currency, sum(clicks), sum(valid), sum(invalid),
           sum(undecided), sum(billed), sum(undecided_cost), sum(charged)
    FROM (SELECT CASE WHEN run_id IS NULL THEN 'decisions' ELSE 'delayed_decisions' END AS source, advertiser_id,
                 campaign_id, currency, count(*) AS clicks, count(*) FILTER (WHERE verdict = 'valid') AS valid,
                 count(*) FILTER (WHERE verdict = 'invalid') AS invalid,
                 count(*) FILTER (WHERE verdict = 'undecided') AS undecided,
                 coalesce(sum(cost_micros) FILTER (WHERE verdict = 'valid'), 0) AS billed,
                 coalesce(sum(cost_micros) FILTER (WHERE verdict = 'undecided'), 0) AS undecided_cost, 0 AS charged
          FROM authoritative_decisions WHERE {day} GROUP BY 1, 2, 3, 4
          UNION ALL
          SELECT 'decisions', advertiser_id, campaign_id, currency, 0, 0, 0, 0, 0, 0, sum(cost_micros)
          FROM decisions WHERE {day} AND verdict = 'valid' GROUP BY 2, 3, 4) parts
    GROUP BY 2, 3, 4, 5"""
# What settled it last: its newest row, or a publication or revert of a run that decided some of it.
SELECT_POSITIONS = """
    SELECT min(r.log_position) FILTER (WHERE r.run_id = 0), max(r.log_position) FILTER (WHERE r.run_id = 0),
           greatest(max(r.log_position), (
               SELECT max(greatest(p.position, p.reverted_position)) FROM publications p
               WHERE p.run_id IN (SELECT run_id FROM departed_rows WHERE departure = %(departure)s)))
    FROM departed_rows r WHERE r.departure = %(departure)s"""
SELECT_SUMS = """
    SELECT currency, sum(clicks)::bigint, sum(billed_micros)::bigint, sum(charged_micros)::bigint
    FROM departed_totals WHERE departure = %s GROUP BY currency ORDER BY currency"""
SELECT_ROWS = """
    SELECT run_id, log_position, lines::text, leaves, click_ids FROM departed_rows
    WHERE departure = %s ORDER BY run_id, log_position"""
SELECT_WITH_CLICKS = "SELECT EXISTS (SELECT FROM departed_rows WHERE departure = %s AND cardinality(click_ids) > 0)"
SELECT_TOTALS = """
    SELECT source, advertiser_id, campaign_id, currency, clicks, valid, invalid, undecided, billed_micros,
           undecided_micros, charged_micros
    FROM departed_totals WHERE departure = %s
    ORDER BY source COLLATE "C", advertiser_id COLLATE "C", campaign_id COLLATE "C", currency COLLATE "C" """
SELECT_NAMED = "SELECT day, position, departure, digest FROM detached_days ORDER BY day"
# Of detaching that was refused or cut off before its entry, or begun anew since the ledger changed meanwhile.
SELECT_UNNAMED = """
    SELECT u.departure, u.source, count(*) FROM (
        SELECT departure, 'counting numbers' AS source FROM departures UNION ALL
        SELECT departure, 'lines' FROM departed_rows UNION ALL
        SELECT departure, 'totals' FROM departed_totals) u
    WHERE NOT EXISTS (SELECT 1 FROM detached_days d WHERE d.departure = u.departure)
    GROUP BY 1, 2 ORDER BY 1, 2"""
SELECT_SEQS = "SELECT seqs::text FROM departures WHERE departure = %s"


@dataclass(frozen=True, slots=True)
class Departure:
    """A day's rows as they stood when the log's head was at `computed_at`; `sums` by currency, money in micros."""

    departure: uuid.UUID
    computed_at: int
    digest: bytes
    clicks: int
    delayed: int
    first_position: int
    last_position: int
    settled_position: int
    sums: dict[str, dict[str, int]]


@dataclass(slots=True)
class _Group:
    """Consecutive rows of one run and position: their lines and leaves, and of a sparse run their clicks."""

    run_id: int
    position: int
    lines: list[int]
    leaves: bytes
    click_ids: list[uuid.UUID]


def compute(conn: database.Connection, day: date) -> Departure:
    """What a sealed day takes with it. Raises VerificationFailed when a row is not the one that was appended."""
    number = uuid.uuid4()
    with departed.snapshot(conn):  # clicks need no lock: detaching is what the caller alone does
        conn.execute("SET LOCAL work_mem = '64MB'")
        head, where = log.head(conn).position, condition(day)
        clicks, decisions, delayed = _one(conn, SELECT_COUNTS.format(day=where))
        live = list(_groups(conn, SELECT_LIVE.format(day=where), canonical.DECIDED_CLICK_DOMAIN, set()))
        if not clicks == decisions == sum(len(group.lines) for group in live):
            raise errors.VerificationFailed(f"{day}: {clicks} clicks and {decisions} decisions do not pair up")
        _verify(conn, day, live)
        sparse_runs = {row[0] for row in conn.execute(SELECT_SPARSE_RUNS)}
        late = list(_groups(conn, SELECT_DELAYED.format(day=where), canonical.DELAYED_DECISION_DOMAIN, sparse_runs))
        _write(conn, number, live, late)
        conn.execute(INSERT_DEPARTURE.format(day=where).encode(), (number,))
        conn.execute(INSERT_TOTALS.format(day=where).encode(), {"departure": number})
        first, last, settled = _one(conn, SELECT_POSITIONS, {"departure": number})
        sums = {row[0]: _sum(*row[1:]) for row in conn.execute(SELECT_SUMS, (number,))}
        digest = digest_of(conn, number)
    return Departure(number, head, digest, clicks, delayed, first or 0, last or 0, settled or 0, sums)


def condition(day: date) -> str:
    """SQL that picks the rows of a day, by literal ids: one partition is planned."""
    start = (day - date(1970, 1, 1)).days * 86_400_000
    low, high = (uuid.UUID(bytes=at.to_bytes(6) + bytes(10)) for at in (start, start + 86_400_000))
    return f"click_id >= '{low}' AND click_id < '{high}'"


def digest_of(conn: database.Connection, departure: uuid.UUID) -> bytes:
    """The name of a departure: 32 bytes over its lines, leaves, clicks, sums and counting numbers as they are stored.

    One without clicks is named as it was before departures had any.
    """
    (with_clicks,) = _one(conn, SELECT_WITH_CLICKS, (departure,))
    total = hashlib.sha256(b"clickledger:departure:2" if with_clicks else b"clickledger:departure:1")
    for run_id, position, lines, leaves, click_ids in conn.execute(SELECT_ROWS, (departure,)):
        total.update(_HEAD.pack(run_id, position))
        total.update(canonical.length_prefixed(lines.encode()) + canonical.length_prefixed(bytes(leaves)))
        if with_clicks:
            total.update(canonical.length_prefixed(b"".join(click_id.bytes for click_id in click_ids)))
    sums = [list(row) for row in conn.execute(SELECT_TOTALS, (departure,))]
    total.update(canonical.length_prefixed(canonical.canonical_json(sums).encode()))
    total.update("".join(row[0] for row in conn.execute(SELECT_SEQS, (departure,))).encode())
    return total.digest()


def faults(conn: database.Connection) -> list[str]:
    """Days that left by halves, and departures that are not what their entries named, in words."""
    found = departed.halfway(conn)
    for day, position, number, digest in conn.execute(SELECT_NAMED).fetchall():
        if digest_of(conn, number) != bytes(digest):
            found.append(f"entry {position}: what left with {day} is not what was recorded when it was detached")
    return found


def unused(conn: database.Connection) -> list[str]:
    """Rows of departures that no entry names: in no sum and no proof, and so no finding."""
    rows = conn.execute(SELECT_UNNAMED)
    return [f"{what} of departure {name}, which no entry names: {count}" for name, what, count in rows]


def _sum(clicks: int, billed: int, charged: int) -> dict[str, int]:
    return {"clicks": clicks, "billed_micros": billed, "charged_micros": charged}


def _verify(conn: database.Connection, day: date, live: list[_Group]) -> None:
    """Every live row against the leaf that was appended with it, a thousand entries at a time."""
    for start in range(0, len(live), 1_000):
        part = live[start : start + 1_000]
        stored = dict(conn.execute(SELECT_LEAVES, ([group.position for group in part],)).fetchall())
        for group in part:
            leaves = bytes(stored.get(group.position, b""))
            for number, line in enumerate(group.lines):
                if leaves[line * 32 : line * 32 + 32] != group.leaves[number * 32 : number * 32 + 32]:
                    raise errors.VerificationFailed(
                        f"{day}: entry {group.position}: the row at line {line} is not the one that was appended"
                    )


def _groups(conn: database.Connection, query: str, domain: bytes, sparse_runs: Set[int]) -> Iterator[_Group]:
    keyed = ((_key(row), row[_LEAF_FROM:]) for row in copied_rows.stream(conn, query))
    for (run_id, position), rows in groupby(keyed, key=lambda pair: pair[0][:2]):
        pairs = list(rows)
        leaves = canonical.leaves(domain, (row for _, row in pairs))
        click_ids = [uuid.UUID(bytes=key[3]) for key, _ in pairs] if run_id in sparse_runs else []
        yield _Group(run_id, position, [key[2] for key, _ in pairs], leaves, click_ids)


def _key(row: bytes) -> tuple[int, int, int, bytes]:
    run_id, position, line, click_id = _KEY.unpack(row[6:14] + row[18:26] + row[30:34] + row[38:54])
    return run_id, position, line, click_id


def _write(conn: database.Connection, departure: uuid.UUID, live: list[_Group], late: list[_Group]) -> None:
    with conn.cursor() as cursor, cursor.copy(COPY_ROWS) as stream:
        for group in live:
            stream.write_row((departure, departed.LIVE, group.position, _multirange(group.lines), b"", []))
        for group in late:
            lines = _multirange(group.lines)
            stream.write_row((departure, group.run_id, group.position, lines, group.leaves, group.click_ids))


def _multirange(lines: list[int]) -> str:
    """Ascending lines as PostgreSQL writes them: {[0,3),[5,6)}."""
    parts: list[list[int]] = []
    for line in lines:
        if parts and parts[-1][1] == line:
            parts[-1][1] = line + 1
        else:
            parts.append([line, line + 1])
    return "{" + ",".join(f"[{lo},{hi})" for lo, hi in parts) + "}"


def _one(
    conn: database.Connection, query: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
) -> tuple[Any, ...]:
    row = conn.execute(query.encode(), parameters).fetchone()
    if row is None:
        raise errors.InvariantBroken("expected one row, got none")
    return tuple(row)
