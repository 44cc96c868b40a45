"""Retention: nothing that is held, young, unbilled or at work leaves, and only what left is dropped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
import replays
from batches import batch, clicks
from leaving import DAY, FIRST, MIXED, NEXT, SECOND, detach, failures, refusal

from clickledger import errors
from clickledger.ledger import (
    append,
    authority,
    billing,
    database,
    departed,
    log,
    partitions,
    publication,
    retention,
    runs,
    sparse,
)
from clickledger.ledger.authority_map import BACKTEST
from clickledger.ledger.sparse import Correction

Connect = Callable[[], database.Connection]


# -- what keeps a day


def test_held_day_stays_until_the_hold_is_released(lived: database.Connection) -> None:
    held = retention.hold(lived, date(2024, 3, 1), DAY, "counsel", "case 17")
    other = retention.hold(lived, DAY, NEXT, "counsel", "case 18")
    assert refusal(lived) == f"{DAY} is under legal hold {held.hold_id} (2024-03-01 to 2024-03-10)"
    assert retention.holds(lived) == [held, other]
    released = retention.release(lived, held.hold_id, "counsel", "settled")
    assert f"legal hold {other.hold_id}" in refusal(lived)
    retention.release(lived, other.hold_id, "counsel", "settled")
    assert (retention.holds(lived), retention.holds(lived, released=True)[0]) == ([], released)
    detach(lived)
    assert failures(lived) == {}
    assert [e.kind for e in log.read(lived, kinds=["legal_hold_set", "legal_hold_released"])] == (
        ["legal_hold_set"] * 2 + ["legal_hold_released"] * 2
    )


def test_hold_names_its_days_and_its_reason(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="2024-03-11 and 2024-03-10"):
        retention.hold(conn, NEXT, DAY, "tests", "x")
    with pytest.raises(errors.InvalidInput, match="reason"):
        retention.hold(conn, DAY, NEXT, "tests", " ")
    with pytest.raises(errors.NotFound, match="no legal hold 7"):
        retention.release(conn, 7, "tests", "x")
    held = retention.hold(conn, DAY, NEXT, "tests", "x")
    retention.release(conn, held.hold_id, "tests", "x")
    with pytest.raises(errors.Conflict, match="released at position 3"):
        retention.release(conn, held.hold_id, "tests", "x")


def test_day_younger_than_the_retention_stays(conn: database.Connection) -> None:
    young = (partitions.today_of(conn) - timedelta(days=200)).isoformat()
    append.append(conn, batch(clicks(1, young)), actor="tests")
    billing.close_period(conn, young[:7], "tests")
    assert "younger than the retention of 13 months" in refusal(conn, date.fromisoformat(young))
    assert retention.detach(conn, date.fromisoformat(young), "tests", "shorter by contract", months=6).clicks == 1


def test_day_of_an_open_billing_period_stays(conn: database.Connection) -> None:
    append.append(conn, batch(FIRST), actor="tests")
    assert "billing period 2024-03, which is not closed" in refusal(conn)


def test_day_that_a_run_still_works_on_stays(lived: database.Connection) -> None:
    version, calibration = replays.model(lived)
    options: dict[str, Any] = {"model_version": version, "calibration_version": calibration}
    planned = runs.plan(lived, 3, 4, actor="tests", reason="", **options)
    assert f"run {planned.run_id}, which is planned and not in force" in refusal(lived)
    replays.work(lived, planned.run_id, {})
    runs.stage(lived, planned.run_id, "tests")
    assert f"run {planned.run_id}, which is staged and not in force" in refusal(lived)
    assert f"run {planned.run_id}" in refusal(lived, NEXT)
    runs.abandon(lived, planned.run_id, "tests", "not wanted")
    detach(lived)
    assert failures(lived) == {}


def test_backtest_keeps_its_days_until_it_is_given_up(lived: database.Connection) -> None:
    version, calibration = replays.model(lived)
    named = {"model_version": version, "calibration_version": calibration, "actor": "tests", "reason": "tests"}
    run = runs.plan(lived, 2, 4, kind=BACKTEST, **named)
    assert f"touched by run {run.run_id}, which is planned" in refusal(lived)
    runs.abandon(lived, run.run_id, "tests", "looked at")
    detach(lived)
    assert failures(lived) == {}


def test_reverted_run_keeps_its_days_until_it_is_given_up(lived: database.Connection) -> None:
    [run] = authority.publications(lived)
    publication.revert(lived, run.run_id, "tests", "")
    assert f"run {run.run_id}, which is staged" in refusal(lived)
    runs.abandon(lived, run.run_id, "tests", "")
    detach(lived)
    assert failures(lived) == {}


def test_run_over_other_days_keeps_nobody(lived: database.Connection) -> None:
    replays.staged(lived, 4, 5, {})  # only clicks of the second day
    detach(lived)
    assert "staged" in refusal(lived, NEXT)


def test_refused_day_takes_clicks_again(lived: database.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = retention._seal

    def hold_meanwhile(conn: database.Connection, day: date, *, sealed: bool) -> None:
        seal(conn, day, sealed=sealed)
        if sealed:
            retention.hold(conn, day, day, "counsel", "just in time")

    monkeypatch.setattr(retention, "_seal", hold_meanwhile)
    assert "under legal hold" in refusal(lived)
    assert append.append(lived, batch(clicks(1, start=90)), actor="tests").new == 1


def test_plan_shows_old_days_and_what_keeps_them(lived: database.Connection) -> None:
    partitions.ensure_ahead(lived)
    retention.hold(lived, NEXT, NEXT, "counsel", "case")
    first, second = retention.plan(lived)
    assert (first.day, first.refused, first.size_bytes > 0) == (DAY, None, True)
    assert second.day == NEXT
    assert "legal hold" in str(second.refused)
    detach(lived)
    assert [candidate.day for candidate in retention.plan(lived)] == [NEXT]
    assert retention.plan(lived, months=240) == []
    with pytest.raises(errors.InvalidInput, match="months"):
        retention.plan(lived, months=0)


def test_correction_that_is_not_in_force_keeps_the_days_of_its_clicks_alone(lived: database.Connection) -> None:
    stated = [Correction(row.click_id, "undecided", "disputed") for row in (MIXED[2], SECOND[0])]
    run = sparse.plan(lived, stated, actor="tests", reason="")
    message = f"touched by run {run.run_id}, which is staged and not in force"
    assert message in refusal(lived, NEXT)
    detach(lived)  # its entries lie between those of the correction's clicks
    replays.publish(lived, run.run_id)
    publication.revert(lived, run.run_id, "tests", "")
    assert message in refusal(lived, NEXT)
    runs.abandon(lived, run.run_id, "tests", "")
    detach(lived, NEXT)
    assert failures(lived) == {}


def test_day_that_never_was_is_not_found(lived: database.Connection) -> None:
    with pytest.raises(errors.NotFound, match="2024-03-20"):
        detach(lived, date(2024, 3, 20))


# -- dropping


def test_detached_day_is_dropped_with_an_entry(lived: database.Connection) -> None:
    done = detach(lived)
    dropped = retention.drop(lived, DAY, "tests", "exported to the archive")
    entry = log.entry(lived, log.head(lived).position)
    assert (entry.kind, dropped.dropped_position) == ("day_dropped", entry.position)
    assert entry.payload["detached_position"] == done.position
    assert lived.execute("SELECT to_regclass('clicks_20240310')").fetchone() == (None,)
    assert failures(lived) == {}
    assert "dropped at position" in str(departed.where_is(lived, FIRST[0].uuid))
    with pytest.raises(errors.Conflict, match="was dropped"):
        retention.drop(lived, DAY, "tests", "again")
    with pytest.raises(errors.InvalidInput, match="detached at position"):
        partitions.ensure(lived, [(DAY - date(1970, 1, 1)).days])


def test_only_a_detached_day_that_nobody_holds_is_dropped(lived: database.Connection) -> None:
    with pytest.raises(errors.Refused, match="was not detached"):
        retention.drop(lived, DAY, "tests", "x")
    detach(lived)
    held = retention.hold(lived, DAY, DAY, "counsel", "late, but in time")
    with pytest.raises(errors.Refused, match=f"legal hold {held.hold_id}"):
        retention.drop(lived, DAY, "tests", "x")
    with pytest.raises(errors.InvalidInput, match="reason"):
        retention.drop(lived, DAY, "tests", "")


def test_drop_that_cannot_be_recorded_drops_nothing(lived: database.Connection) -> None:
    detach(lived)
    with pytest.raises(errors.InvalidInput):
        retention.drop(lived, DAY, "", "no actor")
    assert lived.execute("SELECT count(*) FROM clicks_20240310").fetchone() == (8,)


def test_half_detached_day_is_not_dropped(
    lived: database.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(retention, "_detach_table", nothing)
    detach(lived)
    with pytest.raises(errors.Refused, match="complete it by clickledger retention detach 2024-03-10"):
        retention.drop(lived, DAY, "tests", "x")
