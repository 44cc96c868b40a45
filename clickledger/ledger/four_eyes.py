"""Who looked at a publication or a revert before somebody makes it: above a cap it has to be somebody else.

For a publication that is whoever planned its run, or compared it last. For a revert it is whoever proposed it, by an
entry of its own. What moves how much is read before the log's lock is taken: comparisons and entries never change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickledger import errors
from clickledger.ledger import database, log
from clickledger.ledger.caps import Caps, Gross, Money, exceeded, is_person

SELECT_COMPARISON = "SELECT comparison_id, adjustment_set FROM comparisons WHERE run_id = %s AND digest = %s"
SELECT_PUBLISHED = """
    SELECT p.position, c.adjustment_set FROM publications p JOIN comparisons c USING (comparison_id)
    WHERE p.run_id = %s AND p.reverted_position IS NULL"""
SELECT_GROSS = """
    SELECT advertiser_id, currency, sum(gross_micros)::bigint FROM comparison_totals
    WHERE adjustment_set = %s GROUP BY 1, 2"""
SELECT_ACTORS = "SELECT actor FROM log WHERE position = ANY (%s)"
SELECT_PROPOSALS = """
    SELECT actor, payload FROM log WHERE kind = 'replay_revert_proposed' AND position > %s ORDER BY position"""
# Literals: the index on kinds is a partial one.
SELECT_MOVED = """
    SELECT payload FROM log WHERE kind IN ('replay_published', 'replay_reverted') AND position >= %s"""


@dataclass(frozen=True)
class Prepared:
    """What a publication or revert would move, who prepared it, and where the day's entries begin."""

    gross: Gross
    people: tuple[str, ...]
    day_position: int
    publication: int | None = None  # that is to be reverted

    def fields(self, second: str | None) -> dict[str, Any]:
        """What the entry says of it."""
        named = {} if second is None else {"prepared_by": second}
        return {"gross_micros": dict(self.gross.by_currency), **named}


def of_publication(conn: database.Connection, run_id: int, digest: str) -> Prepared:
    """What publishing a run as that comparison said would move; nothing where there is no such comparison."""
    try:
        row = conn.execute(SELECT_COMPARISON, (run_id, bytes.fromhex(digest))).fetchone()
    except ValueError:
        row = None
    if row is None:
        return Prepared(Gross(), (), 0)
    actors = {actor for (actor,) in conn.execute(SELECT_ACTORS, ([run_id, row[0]],))}
    return Prepared(_gross(conn, row[1]), _people(actors), _today(conn))


def of_revert(conn: database.Connection, run_id: int) -> Prepared:
    """What reverting the publication in force of a run would move; nothing where it is not in force."""
    row = conn.execute(SELECT_PUBLISHED, (run_id,)).fetchone()
    if row is None:
        return Prepared(Gross(), (), 0)
    proposals = conn.execute(SELECT_PROPOSALS, (row[0],)).fetchall()
    actors = {actor for actor, payload in proposals if json.loads(payload)["publication"] == row[0]}
    return Prepared(_gross(conn, row[1]), _people(actors), _today(conn), row[0])


def propose_revert(conn: database.Connection, run_id: int, actor: str, reason: str) -> log.Entry:
    """Propose that somebody else reverts a publication. Raises Refused unless it is in force."""
    row = conn.execute(SELECT_PUBLISHED, (run_id,)).fetchone()
    if row is None:
        raise errors.Refused(f"run {run_id} is not in force: nothing to revert")
    return log.record(conn, "replay_revert_proposed", {"run_id": run_id, "publication": row[0]}, actor, reason)


def require(writer: log.Writer, what: str, prepared: Prepared, actor: str, caps: Caps, how: str) -> str | None:
    """Who else prepared what exceeds a cap, None where nothing does. The caller holds the log's lock.

    Raises Refused, with the figure and the cap, when nobody else did; `how` says how somebody else may.
    """
    if not (over := exceeded(prepared.gross, _moved(writer, prepared.day_position), caps)):
        return None
    others = [person for person in prepared.people if person != actor]
    if not is_person(actor) or not others:
        raise errors.Refused(f"{what}: {over[0]}; expected another person than {actor} to have prepared it: {how}")
    return others[0]


def _gross(conn: database.Connection, adjustment_set: object) -> Gross:
    rows = conn.execute(SELECT_GROSS, (adjustment_set,)).fetchall()
    by_currency: dict[str, int] = {}
    for _, currency, micros in rows:
        by_currency[currency] = by_currency.get(currency, 0) + micros
    return Gross(by_currency, {(advertiser, currency): micros for advertiser, currency, micros in rows})


def _people(actors: set[str]) -> tuple[str, ...]:
    return tuple(sorted(filter(is_person, actors)))


def _today(conn: database.Connection) -> int:
    """Position of the first entry of this day, UTC, by the clock that records entries."""
    [(now,)] = conn.execute("SELECT clock_timestamp()").fetchall()
    return log.first_at(conn, datetime.combine(now.astimezone(UTC).date(), datetime.min.time(), UTC))


def _moved(writer: log.Writer, since: int) -> Money:
    """Gross micros by currency of what was published and reverted from a position on; version 0.1.0 did not say."""
    moved: dict[str, int] = {}
    for (payload,) in writer.execute(SELECT_MOVED, (since,)):
        for currency, micros in json.loads(payload).get("gross_micros", {}).items():
            moved[currency] = moved.get(currency, 0) + micros
    return moved
