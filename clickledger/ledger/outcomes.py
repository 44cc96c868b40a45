"""Outcomes: purchases and the like that clicks led to, appended like everything else."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

from clickledger import errors
from clickledger.ledger import canonical, database, log, wire

ROWS_PER_ENTRY_MAX = 5_000
INT64_MAX = 2**63 - 1
INSERT_OUTCOMES = """
    INSERT INTO outcomes (click_id, kind, occurred_at_ms, value_micros, log_position, line)
    SELECT u.click_id, u.kind, u.occurred_at_ms, u.value_micros, %s, u.ordinal - 1
    FROM unnest(%s, %s, %s, %s) WITH ORDINALITY AS u (click_id, kind, occurred_at_ms, value_micros, ordinal)"""
SELECT_KNOWN = """
    SELECT o.click_id, o.kind, o.occurred_at_ms FROM outcomes o
    JOIN unnest(%s, %s, %s) AS u (click_id, kind, occurred_at_ms) USING (click_id, kind, occurred_at_ms)"""


class Outcome(NamedTuple):
    """One outcome of a click; identity is (click_id, kind, occurred_at_ms)."""

    click_id: bytes
    kind: str
    occurred_at_ms: int
    value_micros: int


class OutcomesAppended(NamedTuple):
    """How many outcomes were new and how many known; `position` of the last entry, None when nothing was new."""

    position: int | None
    new: int
    repeats: int


def append(conn: database.Connection, outcomes: Sequence[Outcome], actor: str, reason: str = "") -> OutcomesAppended:
    """Append outcomes, at most `ROWS_PER_ENTRY_MAX` an entry; the first of each is kept. Raises InvalidInput."""
    first: dict[tuple[bytes, str, int], Outcome] = {}
    for outcome in outcomes:
        _check(outcome)
        first.setdefault((outcome.click_id, outcome.kind, outcome.occurred_at_ms), outcome)
    distinct = sorted(first.values())
    position, new = None, 0
    for start in range(0, len(distinct), ROWS_PER_ENTRY_MAX):
        part, at = _append_part(conn, distinct[start : start + ROWS_PER_ENTRY_MAX], actor, reason)
        position, new = at or position, new + part
    return OutcomesAppended(position, new, len(outcomes) - new)


def _check(outcome: Outcome) -> None:
    if len(outcome.click_id) != 16:
        raise errors.InvalidInput(f"outcome: expected a click id of 16 bytes, got {outcome.click_id.hex()!r}")
    click = uuid.UUID(bytes=outcome.click_id)
    if not 0 <= outcome.value_micros <= INT64_MAX:
        raise errors.InvalidInput(f"outcome of click {click}: value_micros expected >= 0, got {outcome.value_micros}")
    if not -INT64_MAX - 1 <= outcome.occurred_at_ms <= INT64_MAX:
        raise errors.InvalidInput(f"outcome of click {click}: occurred_at_ms out of range: {outcome.occurred_at_ms}")
    try:
        outcome.kind.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"outcome of click {click}: kind {outcome.kind!r} is no text") from error


def _append_part(conn: database.Connection, part: list[Outcome], actor: str, reason: str) -> tuple[int, int | None]:
    with log.writing(conn) as writer:
        known = {(k[0].bytes, k[1], k[2]) for k in writer.execute(SELECT_KNOWN, _columns(part)[:3])}
        fresh = [o for o in part if (o.click_id, o.kind, o.occurred_at_ms) not in known]
        if not fresh:
            writer.confirm_earlier()
            return 0, None
        columns, leaf_bytes = _columns(fresh), _leaves(fresh)
        writer.execute(INSERT_OUTCOMES, (writer.next_position, *columns))
        entry = writer.record("outcomes_recorded", {}, actor, reason, leaf_bytes=leaf_bytes)
        return len(fresh), entry.position


def _columns(outcomes: Sequence[Outcome]) -> list[wire.WireArray]:
    block = _fixed(outcomes)
    kinds = wire.array_of(wire.repeated_text(o.kind for o in outcomes), wire.TEXT_OID)
    return [block.array("click_id"), kinds, block.array("occurred_at_ms"), block.array("value_micros")]


def _leaves(outcomes: Sequence[Outcome]) -> bytes:
    ids = wire.FixedBlock([("click_id", wire.UUID, wire.opaque([o.click_id for o in outcomes], wire.UUID))]).rows()
    numbers = wire.FixedBlock([
        ("occurred_at_ms", wire.INT8, [o.occurred_at_ms for o in outcomes]),
        ("value_micros", wire.INT8, [o.value_micros for o in outcomes]),
    ]).rows()  # fmt: skip
    kinds = wire.repeated_text(o.kind for o in outcomes)
    return canonical.leaves(canonical.OUTCOME_DOMAIN, (b"".join(row) for row in zip(ids, kinds, numbers, strict=True)))


def _fixed(outcomes: Sequence[Outcome]) -> wire.FixedBlock:
    return wire.FixedBlock([
        ("click_id", wire.UUID, wire.opaque([o.click_id for o in outcomes], wire.UUID)),
        ("occurred_at_ms", wire.INT8, [o.occurred_at_ms for o in outcomes]),
        ("value_micros", wire.INT8, [o.value_micros for o in outcomes]),
    ])  # fmt: skip
