"""What must hold of a ledger and its oracle after every step of any history.

All that is compared after a step comes in one round trip, as one row of JSON; what has an interface of its own (pages
of the feed, totals, `audit verify`) is asked through it as well, at the end of the history.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from oracle import Decided, Oracle
from universe import ADVERTISER_OF, CLICKS, COST_OF

from clickledger.ledger import audit, authority, authority_map, billing, canonical, database, fold, rebuild

CLICK_OF = {str(uuid.UUID(bytes=click)): click for click in CLICKS}
IDS = [uuid.UUID(bytes=click) for click in CLICKS]
# Each a list of rows; what depends on parameters names them.
EVERYTHING = {
    "now": ("SELECT click_id, verdict, run_id FROM authoritative_decisions", 3),
    "one_by_one": ("SELECT i, d.verdict, d.run_id FROM unnest(%(ids)s::uuid[]) i, decision_of(i) d", 3),
    "past": (
        "SELECT p, d.click_id, d.verdict, d.run_id"
        " FROM unnest(%(past)s::bigint[]) p, authoritative_decisions_as_of(p) d",
        4,
    ),
    "feed": (
        "SELECT click_id, count(*), sum(amount_micros), sum(write_off_micros) FROM billing_entries GROUP BY click_id",
        4,
    ),
    "authority": (
        "SELECT lower(positions), upper(positions), run_id FROM authority WHERE upper_inf(in_force) ORDER BY 1",
        3,
    ),
    "sparse": (
        "SELECT d.run_id, d.click_id, d.log_position FROM delayed_decisions d JOIN replay_runs r USING (run_id)"
        f" WHERE r.kind = '{authority_map.SPARSE}'",
        3,
    ),
    "entries": (
        "SELECT position, kind, (extract(epoch FROM recorded_at) * 1000)::bigint, actor, reason, payload, row_count,"
        " encode(content_digest, 'hex'), encode(chain_hash, 'hex') FROM log WHERE position > %(verified)s ORDER BY 1",
        9,
    ),
}
PAST = """
    SELECT p, d.click_id::text, d.verdict::text, d.run_id
    FROM generate_series(0, %s) p, authoritative_decisions_as_of(p) d"""


def statement(caches: dict[str, str], widths: dict[str, int]) -> str:
    """One statement for everything and then for the caches, whose rows have the given widths."""
    parts = [*EVERYTHING.values(), *((query, widths[table]) for table, query in caches.items())]
    return "SELECT " + ", ".join(_rows(*part) for part in parts)


def _rows(query: str, width: int) -> str:
    columns = ", ".join(f"c{n}" for n in range(width))
    return f"(SELECT coalesce(json_agg(json_build_array({columns})), '[]') FROM ({query}) AS q ({columns}))"


class Held(NamedTuple):
    """What the ledger holds after a step."""

    now: list[Any]
    one_by_one: list[Any]
    past: list[Any]
    feed: list[Any]
    authority: list[Any]
    sparse: list[Any]
    entries: list[Any]
    caches: dict[str, list[Any]]


class Agreement:
    """A ledger beside its oracle, and a reader of the feed with its cursor."""

    _statement = ""

    def __init__(self, conn: database.Connection) -> None:
        self.conn = conn
        self.oracle = Oracle()
        self.cursor = billing.Cursor()
        self.read_so_far: list[tuple[Any, ...]] = []
        self.verified = (0, canonical.GENESIS_HASH)
        self.folds = fold.Folds()

    # --- the feed, by its cursor ----------------------------------------------------------------------------------

    def read_a_page_of_the_feed(self, limit: int) -> None:
        page = billing.read(self.conn, self.cursor, limit)
        assert len(page.entries) <= limit
        self.cursor = page.cursor
        self.read_so_far += [self._line(entry) for entry in page.entries]
        assert self.read_so_far == self._feed()[: len(self.read_so_far)]
        if page.at_head:
            assert len(self.read_so_far) == len(self.oracle.feed)

    @staticmethod
    def _line(entry: dict[str, Any]) -> tuple[Any, ...]:
        names = ("position", "line", "entry_kind", "click_id", "amount_micros", "write_off_micros", "from_verdict")
        click = entry["click_id"].bytes
        assert entry["advertiser_id"] == ADVERTISER_OF[click]
        values = [click if name == "click_id" else entry[name] for name in names]
        return (*values, entry["to_verdict"], entry["original_period"], entry["run_id"])

    def _feed(self) -> list[tuple[Any, ...]]:
        return [tuple(line) for line in self.oracle.feed]

    # --- after every step -----------------------------------------------------------------------------------------

    def everything_holds(self) -> None:
        asked = self._past_positions()
        held = self._held(asked)
        self.every_click_has_one_authoritative_decision(held)
        self.past_positions_are_answered_as_they_were(asked, held.past)
        self.money_is_conserved(held)
        self.authority_covers_every_position_once(held)
        self.the_chain_verifies(held)
        self.caches_are_folds(held)
        if self.oracle.head % 4 == 0:  # costs as much as all the rest
            self.literal_ranges_give_what_the_view_gives()

    def _past_positions(self) -> list[int]:
        """Two of them a step, one another each time; all of them at the end."""
        head = self.oracle.head
        return sorted({1 + head * 7919 % head, max(1, head - 1), 1 + (head * head + 31) % head})

    def _held(self, past: Sequence[int]) -> Held:
        if not Agreement._statement:
            widths = {name: len(self.conn.execute(query).description or ()) for name, query in rebuild.QUERIES.items()}
            Agreement._statement = statement(rebuild.QUERIES, widths)
        given = {"ids": IDS, "past": list(past), "verified": self.verified[0]}
        row = self.conn.execute(Agreement._statement.encode(), given).fetchone()
        assert row is not None
        parts = len(EVERYTHING)
        return Held(*row[:parts], dict(zip(rebuild.QUERIES, row[parts:], strict=True)))

    def every_click_has_one_authoritative_decision(self, held: Held) -> None:
        expected = self.oracle.decisions()
        assert _decisions(held.now) == expected
        assert _decisions(held.one_by_one) == expected
        assert len(held.now) == len(held.one_by_one) == len(expected)

    def past_positions_are_answered_as_they_were(self, asked: Iterable[int], found: list[Any]) -> None:
        by_position: dict[int, list[Any]] = {position: [] for position in asked}
        for position, *row in found:
            by_position[position].append(row)
        for position, rows in by_position.items():
            expected = self.oracle.decisions(as_of=position)
            assert len(rows) == len(expected), f"as of {position}"
            assert _decisions(rows) == expected, f"as of {position}"

    def money_is_conserved(self, held: Held) -> None:
        """The feed's sums, click by click: nobody is credited more than was charged, nor charged twice."""
        assert sum(lines for _, lines, _, _ in held.feed) == len(self.oracle.feed)
        posted, written_off = sum(row[2] for row in held.feed), sum(row[3] for row in held.feed)
        assert posted == sum(line.posted for line in self.oracle.feed)
        billed = [CLICK_OF[click] for click, verdict, _ in held.now if verdict == "valid"]
        assert posted + written_off == self.oracle.billed() == sum(COST_OF[click] for click in billed)
        for click, _, posted, written_off in held.feed:
            assert {posted, written_off} <= {0, COST_OF[CLICK_OF[click]]}, (click, posted, written_off)

    def authority_covers_every_position_once(self, held: Held) -> None:
        pieces = held.authority
        assert [lo for lo, _, _ in pieces[1:]] == [hi for _, hi, _ in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (1, None)
        for position in range(1, self.oracle.head + 2):
            found = [run for lo, hi, run in pieces if lo <= position and (hi is None or position < hi)]
            assert found == [self.oracle.decider(position, self.oracle.head)]

    def literal_ranges_give_what_the_view_gives(self) -> None:
        """As literals and read by the statement, over a range of its own each time."""
        head = self.oracle.head
        lo, hi = sorted((1 + head * 7919 % head, 1 + head * 104729 % (head + 1)))
        pieces, fields = authority.in_force(self.conn), "click_id, verdict::text"
        for overriding in (authority.overrides(self.conn, lo, hi + 1), None):
            query = authority.rows_between(pieces, lo, hi + 1, fields, overriding=overriding)
            rows = self.conn.execute(query.encode(), prepare=False).fetchall()
            expected = {click: self.oracle.decided(click) for click in self.oracle.manifest(lo, hi + 1)}
            assert len(rows) == len(expected)
            assert {row[0].bytes: row[1:] for row in rows} == expected

    def the_chain_verifies(self, held: Held) -> None:
        """Entries since the last step: their hashes follow, and they are those the oracle expects."""
        position, previous = self.verified
        for at, kind, at_ms, actor, reason, payload, row_count, content_digest, chain_hash in held.entries:
            assert at == position + 1
            assert kind == self.oracle.kinds[position]
            digest = bytes.fromhex(content_digest)
            previous = canonical.entry_hash(at, kind, at_ms, actor, reason, payload, row_count, digest, previous)
            assert chain_hash == previous.hex()
            position = at
            self.folds.apply(at, kind, json.loads(payload))
        self.verified = (position, previous)
        assert position == self.oracle.head

    def caches_are_folds(self, held: Held) -> None:
        clicks_of: dict[int, list[authority_map.SparseClick]] = {run_id: [] for run_id in self.folds.sparse_runs()}
        for run_id, click, position in held.sparse:
            clicks_of[run_id].append(authority_map.SparseClick(uuid.UUID(click), position))
        for table, expected in self.folds.tables(clicks_of).items():
            rows = held.caches[table]
            wanted = {tuple(str(v) if isinstance(v, uuid.UUID) else v for v in row) for row in expected}
            assert {tuple(row) for row in rows} == wanted, table
            assert len(rows) == len(expected), table

    # --- at the end of a history ----------------------------------------------------------------------------------

    def everything_holds_at_the_end(self) -> None:
        self.every_past_position_is_answered_as_it_was()
        self.the_rest_of_the_feed_arrives_once()
        self.interfaces_agree_with_what_they_read()
        self.literal_ranges_give_what_the_view_gives()
        assert {name: found for name, found in audit.verify(self.conn).failures.items() if found} == {}

    def every_past_position_is_answered_as_it_was(self) -> None:
        head = self.oracle.head
        self.past_positions_are_answered_as_they_were(range(head + 1), self.conn.execute(PAST, (head,)).fetchall())

    def the_rest_of_the_feed_arrives_once(self) -> None:
        while True:
            page = billing.read(self.conn, self.cursor, 9)
            self.cursor = page.cursor
            self.read_so_far += [self._line(entry) for entry in page.entries]
            if page.at_head:
                break
        assert self.read_so_far == self._feed()

    def interfaces_agree_with_what_they_read(self) -> None:
        posted, written_off = billing.feed_total(self.conn)
        assert posted == sum(line.posted for line in self.oracle.feed)
        assert posted + written_off == sum(t.billed_micros for t in billing.totals(self.conn)) == self.oracle.billed()
        for piece in authority.in_force(self.conn):
            assert piece.run_id == self.oracle.decider(piece.lo, self.oracle.head)


def _decisions(rows: list[Any]) -> dict[bytes, Decided]:
    return {CLICK_OF[click]: Decided(verdict, run_id) for click, verdict, run_id in rows}
