"""A publication takes effect for every click of its range or for none, and only on the world it was compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import replays
from batches import batch, clicks
from psycopg import IsolationLevel
from replays import Replayed, publish, publish_at_once, published, staged, work_chunk

from clickledger import errors
from clickledger.ledger import append, authority, billing, comparison, database, deployments, log, publication, runs

Connect = Callable[[], database.Connection]
ROWS = clicks(10)
IDS = [row.click_id for row in ROWS]


@pytest.fixture
def two_entries(conn: database.Connection) -> database.Connection:
    """Clicks 0 to 4 at position 2, 5 to 9 at position 3, all valid."""
    for part in (ROWS[:5], ROWS[5:]):
        append.append(conn, batch(part), actor="tests")
    return conn


def verdicts(conn: database.Connection) -> str:
    """The first letters of the authoritative verdicts, in click order."""
    rows = conn.execute("SELECT verdict::text FROM authoritative_decisions ORDER BY click_id").fetchall()
    return "".join(verdict[0] for (verdict,) in rows)


def all_of(verdict: str) -> dict[bytes, str]:
    return dict.fromkeys(IDS, verdict)


def test_staged_run_is_invisible(two_entries: database.Connection) -> None:
    staged(two_entries, 2, 4, all_of("invalid"))
    assert verdicts(two_entries) == "v" * 10
    assert billing.feed_total(two_entries) == (10_000, 0)


def test_publication_decides_its_range_and_nothing_else(two_entries: database.Connection) -> None:
    run_id = published(two_entries, 3, 4, all_of("invalid"))
    assert verdicts(two_entries) == "vvvvviiiii"
    assert billing.feed_total(two_entries) == (5_000, 0)
    publication.revert(two_entries, run_id, "tests", "")
    assert verdicts(two_entries) == "v" * 10
    assert billing.feed_total(two_entries) == (10_000, 0)


def test_snapshot_taken_before_a_publication_sees_none_of_it(
    two_entries: database.Connection, connect: Connect
) -> None:
    run_id = staged(two_entries, 2, 4, all_of("invalid"))
    reader = connect()
    reader.isolation_level = IsolationLevel.REPEATABLE_READ
    with reader.transaction():
        assert verdicts(reader) == "v" * 10
        publish(two_entries, run_id)
        assert verdicts(reader) == "v" * 10
        assert billing.feed_total(reader) == (10_000, 0)
    assert verdicts(reader) == "i" * 10


def test_publishing_while_clicks_arrive_gives_all_or_nothing_and_loses_none(connect: Connect) -> None:
    conn = connect()
    covered = clicks(40)
    append.append(conn, batch(covered), actor="tests")
    run_id = staged(conn, 2, 3, {row.click_id: "invalid" for row in covered})
    flipping_done = threading.Event()

    def arrive() -> int:
        mine, sent = connect(), 0
        while not flipping_done.is_set():
            append.append(mine, batch(clicks(4, start=1_000 + sent)), actor="tests")
            sent += 4
        return sent

    def read() -> set[int]:
        mine, seen = connect(), set()
        query = """SELECT count(*), count(DISTINCT click_id),
                          count(*) FILTER (WHERE log_position = 2 AND verdict = 'invalid'),
                          (SELECT count(*) FROM decisions) FROM authoritative_decisions"""
        while not flipping_done.is_set():
            total, distinct, flipped, decided = mine.execute(query).fetchone() or ()
            assert total == distinct == decided
            seen.add(flipped)
        return seen

    with ThreadPoolExecutor(3) as pool:
        sending, reading = pool.submit(arrive), [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(6):
                publish(conn, run_id)
                publication.revert(conn, run_id, "tests", "")
        finally:
            flipping_done.set()
        sent = sending.result()
        assert set().union(*[each.result() for each in reading]) <= {0, 40}
    assert len(verdicts(conn)) == 40 + sent


def test_revert_beneath_a_later_overlapping_publication_is_refused(two_entries: database.Connection) -> None:
    below = published(two_entries, 2, 4, all_of("invalid"))
    above = published(two_entries, 3, 4, all_of("undecided"))
    with pytest.raises(errors.Refused, match=f"run {above}, published at .*, lies on top of run {below}"):
        publication.revert(two_entries, below, "tests", "")
    assert verdicts(two_entries) == "iiiiiuuuuu"
    publication.revert(two_entries, above, "tests", "")
    publication.revert(two_entries, below, "tests", "")
    assert verdicts(two_entries) == "v" * 10


def test_revert_beneath_a_later_publication_elsewhere_is_allowed(two_entries: database.Connection) -> None:
    first = published(two_entries, 2, 3, all_of("invalid"))
    published(two_entries, 3, 4, all_of("undecided"))
    publication.revert(two_entries, first, "tests", "")
    assert verdicts(two_entries) == "vvvvvuuuuu"


def test_publishing_twice_and_reverting_twice_are_refused(two_entries: database.Connection) -> None:
    run_id = published(two_entries, 2, 4, all_of("invalid"))
    with pytest.raises(errors.Refused, match="in force already"):
        publish(two_entries, run_id)
    publication.revert(two_entries, run_id, "tests", "")
    with pytest.raises(errors.Refused, match="nothing to revert"):
        publication.revert(two_entries, run_id, "tests", "")


def compared(conn: database.Connection, lo: int, hi: int, found: dict[bytes, str]) -> tuple[int, str]:
    run_id = staged(conn, lo, hi, found)
    return run_id, comparison.compare(conn, run_id, "tests").digest


def test_comparison_is_stale_after_another_publication_over_its_range(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    other = published(two_entries, 3, 4, all_of("undecided"))
    with pytest.raises(errors.StalePlan, match=f"run {other} changed the range"):
        publication.publish(two_entries, run_id, digest, "tests", "")
    assert verdicts(two_entries) == "vvvvvuuuuu"
    publish(two_entries, run_id)
    assert verdicts(two_entries) == "i" * 10


def test_comparison_is_stale_after_a_revert_over_its_range(two_entries: database.Connection) -> None:
    other = published(two_entries, 3, 4, all_of("undecided"))
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    publication.revert(two_entries, other, "tests", "")
    with pytest.raises(errors.StalePlan, match="compare again"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_comparison_stays_good_after_a_publication_elsewhere(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 3, all_of("invalid"))
    published(two_entries, 3, 4, all_of("undecided"))
    publication.publish(two_entries, run_id, digest, "tests", "")
    assert verdicts(two_entries) == "iiiiiuuuuu"


def test_comparison_is_stale_after_its_own_publication_was_reverted(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    publication.publish(two_entries, run_id, digest, "tests", "")
    publication.revert(two_entries, run_id, "tests", "")
    with pytest.raises(errors.StalePlan):
        publication.publish(two_entries, run_id, digest, "tests", "")
    publish(two_entries, run_id)


def test_comparison_is_stale_after_a_period_was_closed(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    billing.close_period(two_entries, "2024-03", "tests")
    with pytest.raises(errors.StalePlan, match="period 2024-03 was closed"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_only_the_newest_comparison_may_be_published(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    comparison.compare(two_entries, run_id, "tests")
    with pytest.raises(errors.StalePlan, match=f"got {digest}"):
        publication.publish(two_entries, run_id, digest, "tests", "")


def test_run_that_was_not_compared_cannot_be_published(two_entries: database.Connection) -> None:
    run_id = staged(two_entries, 2, 4, all_of("invalid"))
    with pytest.raises(errors.Refused, match="not compared yet"):
        publication.publish(two_entries, run_id, "00" * 32, "tests", "")
    with pytest.raises(errors.NotFound):
        publication.publish(two_entries, run_id + 1_000, "00" * 32, "tests", "")


def carrying_run(conn: database.Connection) -> int:
    """A staged run over both entries that carries the first click and re-decides the others."""
    version, calibration = replays.model(conn)
    run = runs.plan(conn, 2, 4, model_version=version, calibration_version=calibration, actor="tests", reason="")
    found = {click: Replayed("invalid") for click in IDS} | {IDS[0]: Replayed("valid", carried=True)}
    work_chunk(conn, run.run_id, 0, found)
    return runs.stage(conn, run.run_id, "tests").run_id


def test_run_that_carries_replaced_decisions_cannot_be_published(two_entries: database.Connection) -> None:
    run_id = carrying_run(two_entries)
    other = published(two_entries, 2, 3, all_of("undecided"))
    with pytest.raises(errors.OutdatedRun, match=f"carries decisions that run {other} has replaced"):
        publish(two_entries, run_id)


def test_run_that_carries_decisions_can_be_published_again_after_its_revert(two_entries: database.Connection) -> None:
    run_id = carrying_run(two_entries)
    for _ in range(2):
        publish(two_entries, run_id)
        assert verdicts(two_entries) == "viiiiiiiii"
        publication.revert(two_entries, run_id, "tests", "")


def test_run_of_a_model_that_was_rolled_back_since_cannot_be_published(two_entries: database.Connection) -> None:
    run_id = staged(two_entries, 2, 4, all_of("invalid"))
    bad, other = replays.model(two_entries), replays.model(two_entries, b"other")
    deployments.deploy(two_entries, replays.routing(*bad), "tests")
    assert runs.get(two_entries, run_id).models == {bad[0]}
    back = deployments.roll_back(two_entries, bad[0], replays.routing(*other), "tests")
    said = f"run {run_id} was decided by model {bad[0]}, which was rolled back since, at position {back.position}"
    with pytest.raises(errors.OutdatedRun, match=said):
        publish(two_entries, run_id)
    published(two_entries, 2, 4, all_of("invalid"))  # planned by somebody who knew
    assert verdicts(two_entries) == "i" * 10


def test_run_in_which_each_click_keeps_its_model_is_not_published_once_one_of_them_was_rolled_back(
    two_entries: database.Connection,
) -> None:
    bad, other, later = (replays.model(two_entries, content) for content in (b"bad", b"other", b"later"))
    deployments.deploy(two_entries, replays.routing(*bad), "tests")
    append.append(two_entries, batch(clicks(1, start=20), epoch=1), actor="tests")
    own = {"model_version": runs.OWN, "calibration_version": runs.OWN, "mode": runs.RECOMPUTE}
    hi = log.head(two_entries).position + 1
    run = runs.plan(two_entries, 2, hi, **own, actor="tests", reason="")
    assert publication.rolled_back(two_entries.rows, run) is None
    back = deployments.roll_back(two_entries, bad[0], replays.routing(*other), "tests")
    assert publication.rolled_back(two_entries.rows, run) == (bad[0], back.position)
    anew = runs.plan(two_entries, 2, hi, **own, actor="tests", reason="")
    deployments.roll_back(two_entries, other[0], replays.routing(*later), "tests")  # which came after its range
    assert publication.rolled_back(two_entries.rows, anew) is None


def test_of_two_overlapping_runs_published_at_once_one_is_stale(
    two_entries: database.Connection, connect: Connect
) -> None:
    plans = [compared(two_entries, 2, 4, all_of(verdict)) for verdict in ("invalid", "undecided")]
    assert publish_at_once([connect(), connect()], plans) == ["StalePlan", "published"]
    assert verdicts(two_entries) in {"i" * 10, "u" * 10}


def test_run_published_by_many_at_once_is_published_once(two_entries: database.Connection, connect: Connect) -> None:
    plan = compared(two_entries, 2, 4, all_of("invalid"))
    ended = publish_at_once([connect() for _ in range(4)], [plan] * 4)
    assert ended == ["Refused", "Refused", "Refused", "published"]
    assert billing.feed_total(two_entries) == (0, 0)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_run_missing_a_chunk_cannot_be_staged(two_entries: database.Connection) -> None:
    version, calibration = replays.model(two_entries)
    of: dict[str, Any] = {"model_version": version, "calibration_version": calibration, "actor": "tests", "reason": ""}
    run = runs.plan(two_entries, 2, 4, **of, chunk_rows=5)
    work_chunk(two_entries, run.run_id, 0, {})
    with pytest.raises(errors.Refused, match="expected all 2 chunks done, 1 are not"):
        runs.stage(two_entries, run.run_id, "tests")
    work_chunk(two_entries, run.run_id, 1, {})
    assert runs.stage(two_entries, run.run_id, "tests").status == "staged"
    head = log.head(two_entries)
    assert runs.stage(two_entries, run.run_id, "tests").status == "staged"
    assert log.head(two_entries) == head


def test_run_with_a_decision_missing_cannot_be_staged(two_entries: database.Connection) -> None:
    version, calibration = replays.model(two_entries)
    run = runs.plan(two_entries, 2, 4, model_version=version, calibration_version=calibration, actor="tests", reason="")
    two_entries.execute(replays.FINISH_CHUNK, (run.run_id, 0))
    with pytest.raises(errors.InvariantBroken, match="expected 10 decisions"):
        runs.stage(two_entries, run.run_id, "tests")


def test_run_with_a_decision_outside_of_its_range_cannot_be_staged(two_entries: database.Connection) -> None:
    version, calibration = replays.model(two_entries)
    run = runs.plan(two_entries, 2, 3, model_version=version, calibration_version=calibration, actor="tests", reason="")
    work_chunk(two_entries, run.run_id, 0, {})
    move = "UPDATE delayed_decisions SET log_position = 3, click_id = %s WHERE click_id = %s"
    two_entries.execute("SET session_replication_role = replica")
    two_entries.execute(move, (ROWS[7].uuid, ROWS[2].uuid))
    two_entries.execute("SET session_replication_role = origin")
    with pytest.raises(
        errors.InvariantBroken, match=r"expected 5 decisions within \[2, 3\), got 4 there and 1 elsewhere"
    ):
        runs.stage(two_entries, run.run_id, "tests")


def test_publication_and_its_authority_name_their_smallest_and_largest_click(
    two_entries: database.Connection,
) -> None:
    run_id = published(two_entries, 2, 3, all_of("invalid"))
    bounds = (ROWS[0].uuid, ROWS[4].uuid)
    assert runs.get(two_entries, run_id).click_ids == bounds
    assert [layer.click_ids for layer in authority.publications(two_entries)] == [bounds]
    found = {piece.run_id: piece.click_ids for piece in authority.in_force(two_entries)}
    assert found == {None: (None, None), run_id: bounds}


def test_comparison_opens_the_days_of_its_clicks_only(connect: Connect) -> None:
    conn, holding = connect(), connect()
    for day in ("2024-03-10", "2024-03-11", "2024-03-12"):
        append.append(conn, batch(clicks(2, day)), actor="tests")
    run_id = staged(conn, 3, 4, {})
    conn.execute("SET lock_timeout = '10s'")
    with holding.transaction():
        for day in ("20240310", "20240312"):
            holding.execute(f"LOCK TABLE decisions_{day}, delayed_decisions_{day} IN ACCESS EXCLUSIVE MODE")
        assert comparison.compare(conn, run_id, "tests").summary["clicks"] == 2


@pytest.mark.parametrize("end", ["staged", "abandoned"])
def test_frozen_run_takes_no_more_decisions(two_entries: database.Connection, end: str) -> None:
    run_id = staged(two_entries, 2, 3, {})
    if end == "abandoned":
        runs.abandon(two_entries, run_id, "tests", "")
    two_entries.execute("UPDATE replay_chunks SET positions = '[3,4)', status = 'todo', content_digest = NULL")
    with pytest.raises(errors.Conflict, match="takes no more decisions"):
        replays.work(two_entries, run_id, {})


@pytest.mark.parametrize(
    "change",
    [
        "log_position = 3",
        "line = line + 1",
        "cost_micros = cost_micros + 1",
        "advertiser_id = 'adv-2'",
        "campaign_id = 'camp-2'",
        "currency = 'USD'",
        "slice = 'web/out'",
    ],
)
def test_run_whose_rows_are_not_those_of_its_clicks_cannot_be_compared(
    two_entries: database.Connection, change: str
) -> None:
    run_id = staged(two_entries, 2, 3, all_of("invalid"))
    as_a_bug_would(two_entries, f"UPDATE delayed_decisions SET {change} WHERE click_id = '{ROWS[4].uuid}'")
    with pytest.raises(errors.InvariantBroken, match="expected 5 clicks compared, got 4"):
        comparison.compare(two_entries, run_id, "tests")


def as_a_bug_would(conn: database.Connection, statement: str) -> None:
    """Change history with its triggers off."""
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(statement.encode())


def test_abandoned_run_cannot_be_compared_nor_published(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    runs.abandon(two_entries, run_id, "tests", "no")
    with pytest.raises(errors.Refused, match="expected status staged, got abandoned"):
        publication.publish(two_entries, run_id, digest, "tests", "")
    with pytest.raises(errors.Refused):
        comparison.compare(two_entries, run_id, "tests")
    with pytest.raises(errors.Refused):
        runs.stage(two_entries, run_id, "tests")


def test_published_run_cannot_be_abandoned(two_entries: database.Connection) -> None:
    run_id = published(two_entries, 2, 4, all_of("invalid"))
    with pytest.raises(errors.Refused, match="revert it first"):
        runs.abandon(two_entries, run_id, "tests", "")
    with pytest.raises(errors.NotFound):
        runs.abandon(two_entries, run_id + 1_000, "tests", "")


def test_run_is_given_up_once(two_entries: database.Connection) -> None:
    run_id = staged(two_entries, 2, 4, {})
    runs.abandon(two_entries, run_id, "tests", "not wanted")
    head = log.head(two_entries).position
    with pytest.raises(errors.Refused, match=f"run {run_id} was abandoned already"):
        runs.abandon(two_entries, run_id, "others", "not wanted either")
    assert log.head(two_entries).position == head


@pytest.mark.parametrize(("lo", "hi"), [(0, 3), (3, 3), (4, 3), (2, 99)])
def test_run_lies_below_the_head(two_entries: database.Connection, lo: int, hi: int) -> None:
    with pytest.raises(errors.InvalidInput, match="expected a range within"):
        staged(two_entries, lo, hi, {})


def test_run_without_a_click_or_a_calibration_is_refused(two_entries: database.Connection) -> None:
    with pytest.raises(errors.Refused, match="hold no click"):
        staged(two_entries, 1, 2, {})
    with pytest.raises(errors.NotFound, match="no calibration 9 of model 1"):
        runs.plan(two_entries, 2, 4, model_version=1, calibration_version=9, actor="tests", reason="")


def test_late_click_of_the_same_day_is_not_in_a_run_planned_before(two_entries: database.Connection) -> None:
    run_id = staged(two_entries, 2, 4, all_of("invalid"))
    append.append(two_entries, batch(clicks(3, start=50)), actor="tests")
    publish(two_entries, run_id)
    assert verdicts(two_entries) == "i" * 10 + "v" * 3


def test_unbalanced_comparison_cannot_be_published(two_entries: database.Connection) -> None:
    run_id, digest = compared(two_entries, 2, 4, all_of("invalid"))
    with two_entries.transaction():
        two_entries.execute("SET LOCAL session_replication_role = replica")
        two_entries.execute("ALTER TABLE comparison_totals DROP CONSTRAINT money_is_conserved")
        two_entries.execute("UPDATE comparison_totals SET adjustments_micros = adjustments_micros + 1")
    with pytest.raises(errors.InvariantBroken, match="not conserved"):
        publication.publish(two_entries, run_id, digest, "tests", "")
    assert verdicts(two_entries) == "v" * 10


def test_authority_can_never_overlap(two_entries: database.Connection) -> None:
    with pytest.raises(errors.InvariantBroken, match="one_authority"):
        columns = "positions, run_id, in_force, published"
        two_entries.execute(f"INSERT INTO authority ({columns}) VALUES ('[2,3)', 7, '[9,)', 9)".encode())
    assert isinstance(authority.in_force(two_entries)[0], tuple)
    assert two_entries.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_staging_beside_the_last_chunk_is_refused_and_no_alarm(
    two_entries: database.Connection, connect: Connect
) -> None:
    version, calibration = replays.model(two_entries)
    run = runs.plan(two_entries, 2, 4, model_version=version, calibration_version=calibration, actor="t", reason="")
    other = connect()
    with ThreadPoolExecutor(1) as pool, other.transaction():
        other.execute("SELECT take_log_lock()")  # staging has counted the rows and waits here
        staging = pool.submit(runs.stage, two_entries, run.run_id, "tests")
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while other.execute(waiting).fetchone() == (0,):
            pass
        replays.work(connect(), run.run_id, {})
    with pytest.raises(errors.Refused, match="1 are not"):
        staging.result()
    assert runs.stage(two_entries, run.run_id, "tests").status == "staged"
