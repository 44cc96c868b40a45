"""When a comparison of a sparse correction is stale, and what readers see of one that is published meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from batches import batch, clicks
from correcting import ALL_INVALID, IDS, corrected, planned, revert, verdicts
from replays import publish, publish_at_once, published, staged

from clickledger import errors
from clickledger.ledger import append, billing, comparison, database, publication, sparse
from clickledger.ledger.sparse import Correction

Connect = Callable[[], database.Connection]


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
    made = [planned(two_entries, stated) for stated in ({1: "i", 2: "i"}, {2: "u", 3: "u"})]
    plans = [(run_id, compared(two_entries, run_id)) for run_id in made]
    assert publish_at_once([connect(), connect()], plans) == ["StalePlan", "published"]
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
