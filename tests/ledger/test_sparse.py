"""Sparse corrections: a few clicks re-decided as stated, with the same publish, revert and as-of as any run."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from batches import batch, clicks
from hypothesis import given
from hypothesis import strategies as st
from replays import publish, published, staged

from clickledger import errors
from clickledger.ledger import (
    append,
    audit,
    authority,
    authority_map,
    billing,
    comparison,
    database,
    log,
    provenance,
    publication,
    rebuild,
    runs,
    sparse,
)
from clickledger.ledger.sparse import Correction

Connect = Callable[[], database.Connection]
ROWS = clicks(10)
IDS = [row.click_id for row in ROWS]
ALL_INVALID = dict.fromkeys(IDS, "invalid")
LETTERS = {"v": "valid", "i": "invalid", "u": "undecided"}


@pytest.fixture
def two_entries(conn: database.Connection) -> database.Connection:
    """Clicks 0 to 4 at position 2, 5 to 9 at position 3, all valid and of 1,000 micros."""
    for part in (ROWS[:5], ROWS[5:]):
        append.append(conn, batch(part), actor="tests")
    return conn


def verdicts(conn: database.Connection, as_of: int | None = None) -> str:
    """The first letters of the authoritative verdicts, in click order."""
    position = log.head(conn).position if as_of is None else as_of
    query = "SELECT verdict::text FROM authoritative_decisions_as_of(%s) ORDER BY click_id"
    found = "".join(verdict[0] for (verdict,) in conn.execute(query, (position,)))
    if as_of is None:
        view = conn.execute("SELECT verdict::text FROM authoritative_decisions ORDER BY click_id").fetchall()
        assert found == "".join(verdict[0] for (verdict,) in view)
    return found


def corrections(stated: dict[int, str]) -> list[Correction]:
    """Corrections of clicks by number, verdicts by letter."""
    return [Correction(IDS[number], LETTERS[letter], "disputed") for number, letter in stated.items()]


def planned(conn: database.Connection, stated: dict[int, str]) -> int:
    return sparse.plan(conn, corrections(stated), actor="tests", reason="tests").run_id


def corrected(conn: database.Connection, stated: dict[int, str]) -> int:
    """A sparse run, compared and published; its id."""
    run_id = planned(conn, stated)
    publish(conn, run_id)
    return run_id


def revert(conn: database.Connection, run_id: int) -> None:
    publication.revert(conn, run_id, "tests", "")


# --- planning -----------------------------------------------------------------------------------------------------


def test_planned_corrections_are_staged_and_invisible(two_entries: database.Connection) -> None:
    run = runs.get(two_entries, planned(two_entries, {1: "i", 7: "u"}))
    assert (run.kind, run.status, run.row_count, run.lo, run.hi) == ("sparse", "staged", 2, 2, 4)
    assert run.click_ids == (ROWS[1].uuid, ROWS[7].uuid)
    assert verdicts(two_entries) == "v" * 10
    assert audit.verify(two_entries).ok


def test_decision_is_as_stated_and_the_rest_of_it_is_the_clicks_own(two_entries: database.Connection) -> None:
    stated = Correction(IDS[3], "invalid", "proved a robot", 2.5, 0.5, 7, 9)
    run = sparse.plan(two_entries, [stated], actor="tests", reason="")
    own = "log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch"
    query = f"SELECT {own} FROM decisions WHERE click_id = %s UNION SELECT {own} FROM delayed_decisions"
    assert len(two_entries.execute(query, (ROWS[3].uuid,)).fetchall()) == 1
    query = """SELECT run_id, verdict::text, reason, score, threshold, model_version, calibration_version, carried
               FROM delayed_decisions"""
    expected = (run.run_id, "invalid", "proved a robot", 2.5, 0.5, 7, 9, False)
    assert two_entries.execute(query).fetchall() == [expected]


def test_correction_without_a_model_has_no_score(two_entries: database.Connection) -> None:
    planned(two_entries, {0: "i"})
    [(score, threshold)] = two_entries.execute("SELECT score, threshold FROM delayed_decisions").fetchall()
    assert math.isnan(score)
    assert math.isnan(threshold)


UNKNOWN_CLICK = uuid.UUID("018e25a8-d388-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("stated", "error", "said"),
    [
        ([], errors.InvalidInput, "expected at least one, got none"),
        ([Correction(IDS[0], "valid", "")] * 2, errors.InvalidInput, f"click {ROWS[0].uuid}: expected once"),
        ([Correction(IDS[0], "bogus", "")], errors.InvalidInput, "expected a verdict of .*, got 'bogus'"),
        ([Correction(b"short", "valid", "")], errors.InvalidInput, "expected 16 bytes"),
        (
            [Correction(IDS[0], "valid", "", model_version=1 << 40)],
            errors.InvalidInput,
            "expected a model_version from 0 to",
        ),
        ([Correction(IDS[0], "valid", "", 1e300)], errors.InvalidInput, "expected a score within"),
        ([Correction(IDS[0], "valid", "\ud800")], errors.InvalidInput, "expected a reason that is text"),
        ([Correction(IDS[0], "valid", "a\x00b")], errors.InvalidInput, "cannot be stored"),
        ([Correction(UNKNOWN_CLICK.bytes, "valid", "")], errors.NotFound, f"click {UNKNOWN_CLICK}: expected one that"),
        (
            [Correction(n.to_bytes(16), "valid", "") for n in range(sparse.CLICKS_MAX + 1)],
            errors.Refused,
            f"expected at most {sparse.CLICKS_MAX} clicks, got {sparse.CLICKS_MAX + 1}",
        ),
    ],
    ids=["none", "twice", "verdict", "id", "version", "score", "no text", "nul", "unknown", "many"],
)
def test_corrections_that_cannot_be_used_are_refused_and_leave_nothing(
    two_entries: database.Connection, stated: list[Correction], error: type[Exception], said: str
) -> None:
    head = log.head(two_entries)
    for _ in range(2):
        with pytest.raises(error, match=said):
            sparse.plan(two_entries, stated, actor="tests", reason="")
    assert log.head(two_entries) == head
    assert two_entries.execute("SELECT count(*) FROM delayed_decisions").fetchone() == (0,)


def test_staging_a_sparse_run_again_changes_nothing(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {0: "i"})
    head = log.head(two_entries)
    assert runs.stage(two_entries, run_id, "tests").status == "staged"
    assert log.head(two_entries) == head


# --- publishing ---------------------------------------------------------------------------------------------------


def test_publication_decides_its_clicks_and_nothing_else(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i", 7: "u"})
    assert verdicts(two_entries) == "vivvvvvuvv"
    assert billing.feed_total(two_entries) == (8_000, 0)
    revert(two_entries, run_id)
    assert verdicts(two_entries) == "v" * 10
    assert billing.feed_total(two_entries) == (10_000, 0)


def test_comparison_says_what_publishing_does(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {1: "i", 2: "v", 7: "u"})
    summary = comparison.compare(two_entries, run_id, "tests").summary
    assert (summary["clicks"], summary["flips"], summary["to_invalid"], summary["to_undecided"]) == (3, 2, 1, 1)
    assert (summary["billed_before_micros"], summary["adjustments_micros"]) == (3_000, -2_000)
    assert (summary["kind"], summary["billed_after_micros"]) == ("sparse", 1_000)


def test_every_past_position_is_answered_as_it_was(two_entries: database.Connection) -> None:
    seen = {log.head(two_entries).position: verdicts(two_entries)}
    first = corrected(two_entries, {1: "i", 7: "u"})
    seen[log.head(two_entries).position] = verdicts(two_entries)
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    seen[log.head(two_entries).position] = verdicts(two_entries)
    second = corrected(two_entries, {1: "v", 2: "i"})
    seen[log.head(two_entries).position] = verdicts(two_entries)
    for run_id in (second, ranged, first):
        revert(two_entries, run_id)
        seen[log.head(two_entries).position] = verdicts(two_entries)
    assert list(seen.values()) == [
        "v" * 10, "vivvvvvuvv", "uuuuuvvuvv", "uviuuvvuvv", "uuuuuvvuvv", "vivvvvvuvv", "v" * 10,
    ]  # fmt: skip
    assert {position: verdicts(two_entries, position) for position in seen} == seen


def test_decision_of_a_click_is_the_views(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i", 7: "u"})
    ranged = published(two_entries, 2, 3, ALL_INVALID)
    query = "SELECT d.* FROM unnest(%s::uuid[]) i (id), decision_of(i.id) d"
    one_by_one = two_entries.execute(query, ([row.uuid for row in ROWS],)).fetchall()
    whole = two_entries.execute("SELECT * FROM authoritative_decisions").fetchall()
    assert sorted(map(str, one_by_one)) == sorted(map(str, whole))
    assert {row[-1] for row in one_by_one} == {None, run_id, ranged}
    assert two_entries.execute("SELECT * FROM decision_of(%s)", (UNKNOWN_CLICK,)).fetchall() == []


def test_why_names_the_correction_in_force(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    assert provenance.why(two_entries, ROWS[1].uuid)["authoritative_run_id"] == run_id
    assert provenance.why(two_entries, ROWS[2].uuid)["authoritative_run_id"] is None


def test_range_published_later_decides_and_its_revert_brings_the_override_back(
    two_entries: database.Connection,
) -> None:
    corrected(two_entries, {1: "i", 7: "i"})
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    assert verdicts(two_entries) == "uuuuuvvivv"
    assert billing.feed_total(two_entries) == (4_000, 0)
    revert(two_entries, ranged)
    assert verdicts(two_entries) == "vivvvvvivv"
    assert billing.feed_total(two_entries) == (8_000, 0)


def test_override_published_over_a_range_decides_its_click(two_entries: database.Connection) -> None:
    ranged = published(two_entries, 2, 4, ALL_INVALID)
    run_id = corrected(two_entries, {4: "v"})
    assert verdicts(two_entries) == "iiiiviiiii"
    assert billing.feed_total(two_entries) == (1_000, 0)
    with pytest.raises(errors.Refused, match=f"run {run_id}, published at .*, lies on top of run {ranged}"):
        revert(two_entries, ranged)
    revert(two_entries, run_id)
    revert(two_entries, ranged)
    assert verdicts(two_entries) == "v" * 10


def test_later_override_decides_and_its_revert_brings_the_earlier_back(two_entries: database.Connection) -> None:
    below = corrected(two_entries, {1: "i", 2: "i"})
    above = corrected(two_entries, {2: "u", 3: "u"})
    assert verdicts(two_entries) == "viuuvvvvvv"
    with pytest.raises(errors.Refused, match=f"run {above}, published at .*, lies on top of run {below}"):
        revert(two_entries, below)
    revert(two_entries, above)
    assert verdicts(two_entries) == "viivvvvvvv"
    revert(two_entries, below)
    assert verdicts(two_entries) == "v" * 10
    assert rebuild.differences(two_entries) == []


def test_revert_beneath_a_later_range_is_refused_only_where_they_share_a_click(
    two_entries: database.Connection,
) -> None:
    here, elsewhere = corrected(two_entries, {1: "i"}), corrected(two_entries, {7: "i"})
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    with pytest.raises(errors.Refused, match=f"run {ranged}, published at .*, lies on top of run {here}"):
        revert(two_entries, here)
    revert(two_entries, elsewhere)
    assert verdicts(two_entries) == "uuuuuvvvvv"


def test_sparse_run_can_be_published_again_after_its_revert(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    with pytest.raises(errors.Refused, match="in force already"):
        publish(two_entries, run_id)
    revert(two_entries, run_id)
    with pytest.raises(errors.Refused, match="nothing to revert"):
        revert(two_entries, run_id)
    publish(two_entries, run_id)
    assert verdicts(two_entries) == "vivvvvvvvv"
    assert audit.verify(two_entries).ok


def test_published_sparse_run_cannot_be_abandoned(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    with pytest.raises(errors.Refused, match="revert it first"):
        runs.abandon(two_entries, run_id, "tests", "")
    revert(two_entries, run_id)
    runs.abandon(two_entries, run_id, "tests", "")
    with pytest.raises(errors.Refused, match="expected status staged, got abandoned"):
        publish(two_entries, run_id)


def test_credit_of_a_closed_period_is_an_adjustment_and_a_back_charge_is_written_off(
    two_entries: database.Connection,
) -> None:
    corrected(two_entries, {1: "i"})
    billing.close_period(two_entries, "2024-03", "tests")
    corrected(two_entries, {1: "v", 2: "i"})
    assert billing.feed_total(two_entries) == (8_000, 1_000)
    corrected(two_entries, {1: "i"})
    assert billing.feed_total(two_entries) == (8_000, 0)
    assert audit.verify(two_entries).ok


# --- staleness ----------------------------------------------------------------------------------------------------


def compared(conn: database.Connection, run_id: int) -> str:
    return comparison.compare(conn, run_id, "tests").digest


def test_comparison_is_stale_after_another_correction_of_one_of_its_clicks(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {1: "i", 2: "i"})
    digest = compared(two_entries, run_id)
    other = corrected(two_entries, {2: "u"})
    with pytest.raises(errors.StalePlan, match=f"run {other} changed the clicks .*: compare again"):
        publication.publish(two_entries, run_id, digest, "tests", "")
    digest = compared(two_entries, run_id)
    revert(two_entries, other)
    with pytest.raises(errors.StalePlan, match=f"run {other} changed the clicks"):
        publication.publish(two_entries, run_id, digest, "tests", "")
    publish(two_entries, run_id)
    assert verdicts(two_entries) == "viivvvvvvv"


def test_comparison_of_clicks_is_stale_after_a_range_over_one_of_them(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {1: "i", 7: "i"})
    digest = compared(two_entries, run_id)
    other = published(two_entries, 3, 4, ALL_INVALID)
    with pytest.raises(errors.StalePlan, match=f"run {other} changed the clicks"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_comparison_of_a_range_is_stale_after_a_correction_within_it(two_entries: database.Connection) -> None:
    run_id = staged(two_entries, 2, 3, ALL_INVALID)
    digest = compared(two_entries, run_id)
    other = corrected(two_entries, {1: "u"})
    with pytest.raises(errors.StalePlan, match=f"run {other} changed the range"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_comparison_stays_good_after_what_touches_none_of_its_clicks(two_entries: database.Connection) -> None:
    append.append(two_entries, batch(clicks(3, start=20)), actor="tests")
    scattered = planned(two_entries, {1: "i", 2: "i"})
    ranged = staged(two_entries, 3, 4, ALL_INVALID)
    digests = {run_id: compared(two_entries, run_id) for run_id in (scattered, ranged)}
    around = [Correction(IDS[0], "undecided", ""), Correction(clicks(3, start=20)[0].click_id, "undecided", "")]
    publish(two_entries, sparse.plan(two_entries, around, actor="tests", reason="").run_id)  # its hull holds both
    for run_id, digest in digests.items():
        publication.publish(two_entries, run_id, digest, "tests", "")
    assert verdicts(two_entries) == "uiivviiiiiuvv"


def test_comparison_of_clicks_is_stale_after_a_period_was_closed(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {1: "i"})
    digest = compared(two_entries, run_id)
    billing.close_period(two_entries, "2024-03", "tests")
    with pytest.raises(errors.StalePlan, match="period 2024-03 was closed"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_of_two_corrections_of_a_click_published_at_once_one_is_stale(
    two_entries: database.Connection, connect: Connect
) -> None:
    ready = threading.Barrier(2)
    made = [planned(two_entries, stated) for stated in ({1: "i", 2: "i"}, {2: "u", 3: "u"})]
    plans = [(run_id, compared(two_entries, run_id)) for run_id in made]

    def go(plan: tuple[int, str]) -> str:
        mine = connect()
        ready.wait()
        try:
            publication.publish(mine, *plan, "tests", "")
        except errors.StalePlan:
            return "stale"
        return "published"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(go, plans)) == ["published", "stale"]
    assert verdicts(two_entries) in {"viivvvvvvv", "vvuuvvvvvv"}


def test_reader_sees_all_corrections_of_a_run_or_none(two_entries: database.Connection, connect: Connect) -> None:
    run_id = planned(two_entries, {1: "i", 4: "i", 8: "i"})
    done = threading.Event()

    def read() -> set[str]:
        mine, seen = connect(), set()
        while not done.is_set():
            rows = mine.execute("SELECT verdict::text FROM authoritative_decisions ORDER BY click_id").fetchall()
            seen.add("".join(verdict[0] for (verdict,) in rows))
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for _ in range(8):
                publish(two_entries, run_id)
                revert(two_entries, run_id)
        finally:
            done.set()
        assert reading.result() <= {"v" * 10, "vivvivvviv"}


# --- one override a click -----------------------------------------------------------------------------------------


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


# --- reading ------------------------------------------------------------------------------------------------------


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


# --- proof --------------------------------------------------------------------------------------------------------


def test_corrections_digest_does_not_depend_on_their_order(two_entries: database.Connection) -> None:
    stated = corrections({1: "i", 7: "u", 3: "v"})
    assert sparse.corrections_digest(stated) == sparse.corrections_digest(stated[::-1])
    assert sparse.corrections_digest(stated) != sparse.corrections_digest([*stated[:2], stated[2]._replace(reason="")])


@pytest.mark.parametrize(
    ("statement", "check", "named"),
    [
        ("UPDATE delayed_decisions SET verdict = 'valid' WHERE verdict = 'undecided'", "replay runs", "chunk 0"),
        ("DELETE FROM delayed_decisions WHERE verdict = 'undecided'", "replay runs", "expected 2 decisions, got 1"),
        ("UPDATE delayed_decisions SET reason = '' WHERE verdict = 'undecided'", "replay runs", "that were planned"),
        ("DELETE FROM sparse_clicks WHERE log_position = 3", "folds", "sparse_clicks"),
        ("UPDATE authority_overrides SET run_id = run_id + 1 WHERE log_position = 3", "folds", "authority_overrides"),
        ("DELETE FROM authority_overrides WHERE log_position = 3", "folds", "authority_overrides"),
        ("UPDATE authority SET published = 1 WHERE run_id IS NOT NULL", "folds", "authority"),
        ("UPDATE replay_runs SET kind = 'range', mode = 'rescore' WHERE kind = 'sparse'", "folds", "replay_runs"),
        ("UPDATE publications SET kind = 'range' WHERE kind = 'sparse'", "folds", "publications"),
    ],
)
def test_forged_correction_is_found_and_named(
    two_entries: database.Connection, statement: str, check: str, named: str
) -> None:
    published(two_entries, 2, 3, ALL_INVALID)
    corrected(two_entries, {1: "i", 7: "u"})
    assert audit.verify(two_entries).ok
    two_entries.execute("SET session_replication_role = replica")
    two_entries.execute(statement.encode())
    two_entries.execute("SET session_replication_role = origin")
    report = audit.verify(two_entries)
    assert any(named in line for line in report.failures[check]), report.failures


# --- the pure fold of overrides -----------------------------------------------------------------------------------

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
