"""What must hold of a ledger and its oracle after every step of any history.

All that is compared after a step comes in two round trips: one row of JSON for what is stored, one statement for the
readers of many rows, whose SQL is made of it. What has an interface of its own (pages of the feed, totals, rows,
`audit verify`) is asked through it in steps of its own and at the end of the history.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import reader_forms
from oracle import Decided, Line, Oracle
from universe import ADVERTISER_OF, CLICKS, COST_OF, CURRENCY_OF

from clickledger.ledger import (
    audit,
    authority,
    authority_map,
    billing,
    canonical,
    database,
    fold,
    reading,
    rebuild,
)

CLICK_OF = {str(uuid.UUID(bytes=click)): click for click in CLICKS}
IDS = [uuid.UUID(bytes=click) for click in CLICKS]
# Each a list of rows; what depends on parameters names them.
EVERYTHING = {
    "now": ("SELECT click_id, verdict, run_id, log_position, cost_micros FROM authoritative_decisions", 5),
    "one_by_one": ("SELECT i, d.verdict, d.run_id FROM unnest(%(ids)s::uuid[]) i, decision_of(i) d", 3),
    "past": (
        "SELECT p, d.click_id, d.verdict, d.run_id"
        " FROM unnest(%(past)s::bigint[]) p, authoritative_decisions_as_of(p) d",
        4,
    ),
    "past_one_by_one": (
        "SELECT p, i, d.verdict, d.run_id"
        " FROM unnest(%(past)s::bigint[]) p, unnest(%(ids)s::uuid[]) i, decision_of(i, p) d",
        4,
    ),
    "feed": (
        "SELECT position, line, entry_kind, click_id, amount_micros, write_off_micros, from_verdict, to_verdict,"
        " original_period, run_id, posting_period, advertiser_id, currency FROM billing_entries ORDER BY 1, 2",
        13,
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
    FROM generate_series(0, %(head)s) p, authoritative_decisions_as_of(p) d"""
PAST_ONE_BY_ONE = """
    SELECT p, i::text, d.verdict::text, d.run_id
    FROM generate_series(0, %(head)s) p, unnest(%(ids)s::uuid[]) i, decision_of(i, p) d"""


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
    past_one_by_one: list[Any]
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
        self.read_so_far: list[Line] = []
        self.verified = (0, canonical.GENESIS_HASH)
        self.folds = fold.Folds()
        self.months: set[str] = set()  # in which entries were recorded
        self.scatter = 1  # what is asked of many positions, of which a step can ask a few

    @property
    def checking(self) -> database.Connection:
        """The connection that asks what is stored after each step."""
        return self.conn

    # --- the feed, by its cursor ----------------------------------------------------------------------------------

    def read_a_page_of_the_feed(self, limit: int) -> None:
        page = billing.read(self.conn, self.cursor, limit)
        assert len(page.entries) <= limit
        self.cursor = page.cursor
        self.read_so_far += [self._line(entry) for entry in page.entries]
        assert self.read_so_far == self.oracle.feed[: len(self.read_so_far)]
        if page.at_head:
            assert len(self.read_so_far) == len(self.oracle.feed)

    def _line(self, entry: dict[str, Any]) -> Line:
        names = ("position", "line", "entry_kind", "click_id", "amount_micros", "write_off_micros", "from_verdict")
        rest = ("to_verdict", "original_period", "run_id", "posting_period", "advertiser_id", "currency")
        return self._told([entry[name] for name in (*names, *rest)])

    def _told(self, row: Sequence[Any]) -> Line:
        """A line of the feed as the oracle knows it; what it says of the click itself must be the click's own."""
        position, line, kind, click_id, posted, written_off, before, after, period, run_id, *rest = row
        posting, advertiser, currency = rest
        click = CLICK_OF[str(click_id)]
        assert (advertiser, currency) == (ADVERTISER_OF[click], CURRENCY_OF[click])
        late = posting != period
        assert not late or posting in self.months, f"{period} was closed: expected one of {self.months}, got {posting}"
        return Line(position, line, kind, click, posted, written_off, before, after, period, run_id, late)

    # --- after every step -----------------------------------------------------------------------------------------

    def everything_holds(self) -> None:
        asked = self._past_positions()
        held = self._held(asked)
        self.the_chain_verifies(held)
        self.every_click_has_one_authoritative_decision(held)
        self.past_positions_are_answered_as_they_were(asked, held.past)
        self.past_positions_are_answered_as_they_were(asked, held.past_one_by_one)
        self.money_is_conserved(held)
        self.authority_covers_every_position_once(held)
        self.caches_are_folds(held)
        self.caches_hold_what_the_oracle_knows(held)
        self.readers_of_many_rows_agree(held, self._any_of(self.oracle.head))

    def _past_positions(self) -> list[int]:
        """The one before the newest and any other; `ask_every_past_position` asks for all, and so does the end."""
        return sorted({max(1, self.oracle.head - 1), self._any_of(self.oracle.head)})

    def _any_of(self, count: int) -> int:
        """A number from 1 to count, another one at each call, the same ones in the same history."""
        self.scatter = (self.scatter * 6364136223846793005 + 1442695040888963407) % 2**64
        return 1 + (self.scatter >> 32) % count

    def _held(self, past: Sequence[int]) -> Held:
        if not Agreement._statement:
            widths = {name: len(self.conn.execute(query).description or ()) for name, query in rebuild.QUERIES.items()}
            Agreement._statement = statement(rebuild.QUERIES, widths)
        given = {"ids": IDS, "past": list(past), "verified": self.verified[0]}
        row = self.checking.execute(Agreement._statement.encode(), given, prepare=True).fetchone()
        assert row is not None
        parts = len(EVERYTHING)
        return Held(*row[:parts], dict(zip(rebuild.QUERIES, row[parts:], strict=True)))

    def every_click_has_one_authoritative_decision(self, held: Held) -> None:
        expected = self.oracle.decisions()
        assert _decisions(row[:3] for row in held.now) == _decisions(held.one_by_one) == expected
        assert len(held.now) == len(held.one_by_one) == len(expected)
        for click_id, _, _, position, cost in held.now:
            click = CLICK_OF[click_id]
            assert (position, cost) == (self.oracle.clicks[click].position, COST_OF[click])

    def past_positions_are_answered_as_they_were(self, asked: Iterable[int], found: list[Any]) -> None:
        by_position: dict[int, list[Any]] = {position: [] for position in asked}
        for position, *row in found:
            by_position[position].append(row)
        for position, rows in by_position.items():
            expected = self.oracle.decisions(as_of=position)
            assert len(rows) == len(expected), f"as of {position}"
            assert _decisions(rows) == expected, f"as of {position}"

    def money_is_conserved(self, held: Held) -> None:
        """The feed line by line, and its sums: nobody is credited more than was charged, nor charged twice."""
        assert [self._told(row) for row in held.feed] == self.oracle.feed
        told = dict.fromkeys(self.oracle.clicks, (0, 0))
        for row in held.feed:
            click, posted, written_off = CLICK_OF[row[3]], row[4], row[5]
            told[click] = (told[click][0] + posted, told[click][1] + written_off)
        valid = {CLICK_OF[click] for click, verdict, *_ in held.now if verdict == "valid"}
        for click, (posted, written_off) in told.items():
            cost = COST_OF[click] if click in valid else 0
            assert posted + written_off == cost, (click.hex(), posted, written_off)
            assert posted in (0, cost), (click.hex(), posted, written_off)

    def authority_covers_every_position_once(self, held: Held) -> None:
        pieces = held.authority
        assert [lo for lo, _, _ in pieces[1:]] == [hi for _, hi, _ in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (1, None)
        for position in range(1, self.oracle.head + 2):
            found = [run for lo, hi, run in pieces if lo <= position and (hi is None or position < hi)]
            assert found == [self.oracle.decider(position, self.oracle.head)]

    def readers_of_many_rows_agree(self, held: Held, past: int) -> None:
        """Now and as of a past position, over a range of its own each time, in each form that a reader's SQL has."""
        head = self.oracle.head
        queries, expected = [], {}
        for as_of in (None, past):
            end = head if as_of is None else as_of
            lo, hi = sorted((self._any_of(end), self._any_of(end + 1)))
            clicks = {click: self.oracle.decided(click, as_of) for click in self.oracle.manifest(lo, hi + 1)}
            for form, query in reader_forms.forms(held.caches, lo, min(hi, end) + 1, as_of):
                name = f"{form} as of {as_of}, positions {lo} to {hi}"
                queries.append(f"SELECT '{name}', q.* FROM ({query}) q (click_id, verdict, run_id)")
                expected[name] = {c: d for c, d in clicks.items() if self.oracle.clicks[c].position <= end}
        found: dict[str, list[Any]] = {name: [] for name in expected}
        for name, *row in self.checking.execute(" UNION ALL ".join(queries).encode(), prepare=False):
            found[name].append(row)
        for name, rows in found.items():
            assert _decisions(rows) == expected[name], name
            assert len(rows) == len(expected[name]), name

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
            self.months.add(datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m"))
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

    def caches_hold_what_the_oracle_knows(self, held: Held) -> None:
        oracle, caches = self.oracle, held.caches
        assert dict(caches["billing_periods"]) == oracle.closed
        published = {(p.position, p.run.run_id, p.run.lo, p.run.hi, p.reverted) for p in oracle.publications}
        assert {(row[0], row[1], row[3], row[4], row[5]) for row in caches["publications"]} == published
        assert {row[0]: row[9] for row in caches["replay_runs"]} == {r.run_id: r.status for r in oracle.runs.values()}
        assert {row[0] for row in caches["deployments"] if row[4] is not None} == oracle.revoked
        assert len(caches["deployments"]) == len(oracle.epochs)
        assert max(row[0] for row in caches["counter_epochs"]) == oracle.counter_epoch
        conflicts = {(CLICK_OF[row[0]], bytes.fromhex(row[1])) for row in caches["conflicts"]}
        assert conflicts == oracle.conflicts

    # --- in a step of its own, and at the end of a history ---------------------------------------------------------

    def ask_every_past_position(self, pick: int) -> None:
        """All of them of the view and one by one; sums and rows, whose readers ask in many statements, of one."""
        head = self.oracle.head
        for query in (PAST, PAST_ONE_BY_ONE):
            rows = self.checking.execute(query, {"head": head, "ids": IDS}, prepare=True).fetchall()
            self.past_positions_are_answered_as_they_were(range(head + 1), rows)
        for as_of in (pick % (head + 1), None):
            self.sums_are_those_of_the_decisions(as_of)
            self.rows_are_the_decisions(as_of)

    def sums_are_those_of_the_decisions(self, as_of: int | None) -> None:
        totals = billing.totals(self.conn, as_of)
        found = Counter({(t.currency, verdict): getattr(t, verdict) for t in totals for verdict in reading.VERDICTS})
        billed = Counter({t.currency: t.billed_micros for t in totals})
        open_ = Counter({t.currency: t.undecided_micros for t in totals})
        expected, bills, undecided = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for click, (verdict, _) in self.oracle.decisions(as_of).items():
            currency = CURRENCY_OF[click]
            expected[currency, verdict] += 1
            bills[currency] += COST_OF[click] if verdict == "valid" else 0
            undecided[currency] += COST_OF[click] if verdict == "undecided" else 0
        assert (+found, +billed, +open_) == (+expected, +bills, +undecided), f"as of {as_of}"
        end = self.oracle.head if as_of is None else as_of
        told = [line for line in self.oracle.feed if line.position <= end]
        sums = sum(line.posted for line in told), sum(line.written_off for line in told)
        assert billing.feed_total(self.conn, as_of) == sums, f"as of {as_of}"
        assert sum(sums) == bills.total()

    def rows_are_the_decisions(self, as_of: int | None) -> None:
        rows = list(reading.rows(self.conn, fields=("click_id", "verdict", "run_id"), as_of=as_of))
        expected = self.oracle.decisions(as_of)
        assert _decisions(rows) == expected, f"as of {as_of}"
        assert len(rows) == len(expected), f"as of {as_of}"

    def everything_holds_at_the_end(self) -> None:
        self.ask_every_past_position(self.oracle.head * 7919)
        self.the_rest_of_the_feed_arrives_once()
        for piece in authority.in_force(self.conn):
            assert piece.run_id == self.oracle.decider(piece.lo, self.oracle.head)
        assert {name: found for name, found in audit.verify(self.conn).failures.items() if found} == {}

    def the_rest_of_the_feed_arrives_once(self) -> None:
        while True:
            page = billing.read(self.conn, self.cursor, 9)
            self.cursor = page.cursor
            self.read_so_far += [self._line(entry) for entry in page.entries]
            if page.at_head:
                break
        assert self.read_so_far == self.oracle.feed


def _decisions(rows: Iterable[Sequence[Any]]) -> dict[bytes, Decided]:
    return {CLICK_OF[str(click)]: Decided(verdict, run_id) for click, verdict, run_id in rows}
