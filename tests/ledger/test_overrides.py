"""Overrides of single clicks: one of a click at any moment, read like the view, a fold of publications."""

from __future__ import annotations

import uuid

import pytest
from correcting import IDS, ROWS, corrected, planned, revert
from hypothesis import given
from hypothesis import strategies as st
from replays import publish, published

from clickledger import errors
from clickledger.ledger import authority, authority_map, database, log

# --- one override a click -------------------------------------------------------------------------------------------


OVERRIDE = """INSERT INTO authority_overrides (click_id, run_id, log_position, published, in_force)
              VALUES (%s, 9, 2, %s, int8range(%s, %s))"""


@pytest.mark.parametrize(
    ("published", "until"), [(1, None), (1, 10), (100, 101), (8, 9)], ids=["open", "over its start", "within", "ended"]
)
def test_database_refuses_two_overrides_of_a_click_at_one_moment(
    two_entries: database.Connection, published: int, until: int | None
) -> None:
    revert(two_entries, corrected(two_entries, {1: "i"}))
    publish(two_entries, planned(two_entries, {1: "u"}))
    rows = two_entries.execute("SELECT lower(in_force), upper(in_force) FROM authority_overrides ORDER BY 1").fetchall()
    (first, end), (second, _) = rows
    since = {1: 1, 100: second + 1, 8: first}[published]
    ends = {None: None, 10: first + 1, 101: second + 2, 9: end}[until]
    with pytest.raises((errors.InvariantBroken, database.psycopg.errors.UniqueViolation)):
        two_entries.execute(OVERRIDE, (ROWS[1].uuid, 1, since, ends))


def test_database_refuses_an_override_drawn_out_over_the_next(two_entries: database.Connection) -> None:
    corrected(two_entries, {1: "i"})
    corrected(two_entries, {1: "u"})
    stretch = "UPDATE authority_overrides SET in_force = int8range(lower(in_force), 100) WHERE upper(in_force) < 100"
    with (
        pytest.raises(errors.InvariantBroken, match=r"one_override.*expected one override in force"),
    ):
        two_entries.execute(stretch)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("literal", [True, False], ids=["as literals", "read by the statement"])
def test_literal_ranges_give_what_the_view_gives_now_and_as_of(two_entries: database.Connection, literal: bool) -> None:
    conn = two_entries
    corrected(conn, {1: "i", 7: "u"})
    published(conn, 2, 3, dict.fromkeys(IDS, "undecided"))
    corrected(conn, {2: "i", 8: "i"})
    head = log.head(conn).position
    for as_of in range(3, head + 1):
        pieces = authority.in_force(conn, as_of)
        for lo, hi in ((1, as_of + 1), (2, 3), (3, 4)):
            given = authority.overrides(conn, lo, hi, as_of) if literal else None
            query = authority.rows_between(pieces, lo, hi, "click_id, verdict::text", overriding=given, as_of=as_of)
            expected = conn.execute(
                """SELECT click_id, verdict::text, run_id FROM authoritative_decisions_as_of(%s)
                   WHERE log_position >= %s AND log_position < %s""",
                (as_of, lo, hi),
            ).fetchall()
            assert sorted(conn.execute(query.encode()).fetchall()) == sorted(expected)
    given = authority.overrides(conn, 1, head) if literal else None
    now = authority.rows_between(authority.in_force(conn), 1, head, "click_id, verdict::text", overriding=given)
    view = conn.execute("SELECT click_id, verdict::text, run_id FROM authoritative_decisions").fetchall()
    assert sorted(conn.execute(now.encode()).fetchall(), key=str) == sorted(view, key=str)


def test_bounds_of_click_ids_leave_out_overrides_outside_of_them(two_entries: database.Connection) -> None:
    corrected(two_entries, {1: "i", 7: "u"})
    bounds = authority_map.ClickIds(ROWS[0].uuid, ROWS[4].uuid)
    pieces = authority.in_force(two_entries)
    for overriding in (authority.overrides(two_entries, 1, 4), None):
        query = authority.rows_between(pieces, 1, 4, "click_id", bounds, overriding)
        found = {row[0] for row in two_entries.execute(query.encode())}
        assert found == {row.uuid for row in ROWS[:5]}


# --- the pure fold of overrides -------------------------------------------------------------------------------------


CLICKS = [authority_map.SparseClick(uuid.UUID(int=number), number + 1) for number in range(4)]
TOUCHED = st.sets(st.sampled_from(CLICKS), min_size=1)


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[authority_map.Publication], dict[int, list[authority_map.SparseClick]]]:
    """Any sparse publications with any reverts, each event at a position of its own, and the clicks of each run."""
    touched = draw(st.lists(st.tuples(TOUCHED, st.booleans()), max_size=6))
    moments = draw(st.permutations(range(100, 100 + 2 * len(touched))))
    made, clicks_of = [], {}
    for run_id, (found, reverted) in enumerate(touched, 1):
        first, second = sorted(moments[2 * run_id - 2 : 2 * run_id])
        until = second if reverted else None
        made.append(authority_map.Publication(first, run_id, 1, 9, until, kind="sparse"))
        clicks_of[run_id] = sorted(found)
    return made, clicks_of


@given(layers())
def test_override_history_answers_every_moment_with_the_newest_layer_of_each_click(
    made: tuple[list[authority_map.Publication], dict[int, list[authority_map.SparseClick]]],
) -> None:
    published, clicks_of = made
    rows = authority_map.override_history(published, clicks_of)
    for as_of in range(99, 114):
        standing = [p for p in published if p.position <= as_of and (p.reverted is None or as_of < p.reverted)]
        expected = {click: p for p in sorted(standing) for click in clicks_of[p.run_id]}
        in_force = [r.override for r in rows if r.since <= as_of and (r.until is None or as_of < r.until)]
        assert sorted(in_force) == sorted(
            authority_map.Override(click.click_id, p.run_id, click.log_position, p.position)
            for click, p in expected.items()
        )
