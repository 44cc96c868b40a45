"""What must hold of a ledger and its oracle after every step of any history."""

from __future__ import annotations

import uuid
from typing import Any

from oracle import Oracle
from universe import ADVERTISER_OF, CLICKS, COST_OF

from clickledger.ledger import authority, billing, canonical, database, log


class Agreement:
    """A ledger beside its oracle, and a reader of the feed with its cursor."""

    def __init__(self, conn: database.Connection) -> None:
        self.conn = conn
        self.oracle = Oracle()
        self.cursor = billing.Cursor()
        self.read_so_far: list[tuple[Any, ...]] = []
        self.verified = (0, canonical.GENESIS_HASH)

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

    def the_rest_of_the_feed_arrives_once(self) -> None:
        while True:
            page = billing.read(self.conn, self.cursor, 3)
            self.cursor = page.cursor
            self.read_so_far += [self._line(entry) for entry in page.entries]
            if page.at_head:
                break
        assert self.read_so_far == self._feed()

    def everything_holds(self) -> None:
        self.every_click_has_one_authoritative_decision()
        self.decision_of_a_click_is_the_views()
        self.a_past_position_is_answered_as_it_was()
        self.money_is_conserved()
        self.no_click_is_credited_more_than_it_was_charged()
        self.authority_covers_every_position_once()
        self.literal_ranges_give_what_the_view_gives()
        self.the_chain_verifies()

    def every_click_has_one_authoritative_decision(self) -> None:
        rows = self.conn.execute("SELECT click_id, verdict::text, run_id FROM authoritative_decisions").fetchall()
        assert len(rows) == len(self.oracle.clicks)
        assert {row[0].bytes: row[1:] for row in rows} == self.oracle.decisions()

    def decision_of_a_click_is_the_views(self) -> None:
        query = "SELECT i.id, d.verdict::text, d.run_id FROM unnest(%s::uuid[]) i (id), decision_of(i.id) d"
        rows = self.conn.execute(query, ([uuid.UUID(bytes=click) for click in CLICKS],)).fetchall()
        assert {row[0].bytes: row[1:] for row in rows} == self.oracle.decisions()
        assert len(rows) == len(self.oracle.clicks)

    def a_past_position_is_answered_as_it_was(self) -> None:
        # one of them a step, another one each time; all of them at the end
        self._check_as_of(1 + (self.oracle.head * 7919) % self.oracle.head)
        self._check_as_of(max(1, self.oracle.head - 1))

    def every_past_position_is_answered_as_it_was(self) -> None:
        for position in range(self.oracle.head + 1):
            self._check_as_of(position)

    def _check_as_of(self, position: int) -> None:
        query = "SELECT click_id, verdict::text, run_id FROM authoritative_decisions_as_of(%s)"
        rows = self.conn.execute(query, (position,)).fetchall()
        expected = self.oracle.decisions(as_of=position)
        assert len(rows) == len(expected)
        assert {row[0].bytes: row[1:] for row in rows} == expected

    def money_is_conserved(self) -> None:
        posted, written_off = billing.feed_total(self.conn)
        assert posted == sum(line.posted for line in self.oracle.feed)
        assert posted + written_off == self.oracle.billed() == sum(t.billed_micros for t in billing.totals(self.conn))

    def no_click_is_credited_more_than_it_was_charged(self) -> None:
        query = "SELECT click_id, sum(amount_micros), sum(write_off_micros) FROM billing_entries GROUP BY click_id"
        for click, posted, written_off in self.conn.execute(query):
            assert {posted, written_off} <= {0, COST_OF[click.bytes]}, (click, posted, written_off)

    def literal_ranges_give_what_the_view_gives(self) -> None:
        """As literals and read by the statement, over a range of its own each step."""
        head = self.oracle.head
        lo, hi = sorted((1 + head * 7919 % head, 1 + head * 104729 % (head + 1)))
        pieces, fields = authority.in_force(self.conn), "click_id, verdict::text"
        for overriding in (authority.overrides(self.conn, lo, hi + 1), None):
            query = authority.rows_between(pieces, lo, hi + 1, fields, overriding=overriding)
            rows = self.conn.execute(query.encode(), prepare=False).fetchall()
            expected = {click: self.oracle.decided(click) for click in self.oracle.manifest(lo, hi + 1)}
            assert len(rows) == len(expected)
            assert {row[0].bytes: row[1:] for row in rows} == expected

    def authority_covers_every_position_once(self) -> None:
        pieces = authority.in_force(self.conn)
        assert [piece.lo for piece in pieces[1:]] == [piece.hi for piece in pieces[:-1]]
        assert (pieces[0].lo, pieces[-1].hi) == (1, None)
        for position in range(1, self.oracle.head + 2):
            found = [p.run_id for p in pieces if p.lo <= position and (p.hi is None or position < p.hi)]
            assert found == [self.oracle.decider(position, self.oracle.head)]

    def the_chain_verifies(self) -> None:
        position, previous = self.verified
        for entry in log.read(self.conn, after=position):
            assert entry.position == position + 1
            assert entry.kind == self.oracle.kinds[position]
            previous = canonical.entry_hash(
                entry.position, entry.kind, entry.recorded_at_ms, entry.actor, entry.reason, entry.payload_text,
                entry.row_count, entry.content_digest, previous,
            )  # fmt: skip
            assert entry.chain_hash == previous
            position = entry.position
        self.verified = (position, previous)
        assert position == self.oracle.head
