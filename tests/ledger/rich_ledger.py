"""A ledger with rows in every table, no column of which is the same in all rows: what forgeries are tried on."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import replays
from batches import NAN, Row, batch, click_id
from batches import at as instant

from clickledger.ledger import (
    append,
    billing,
    canonical,
    comparison,
    database,
    deployments,
    log,
    outcomes,
    publication,
    runs,
    sparse,
)
from clickledger.recovery import incidents

ACTOR = "tests"
# In version 0.1.0 the entry of a comparison said nothing of its lines.
ADDED_SINCE_0_1_0 = ("adjustment_set", "lines_digest")


def build(conn: database.Connection) -> None:
    """Batches, late clicks, outcomes, conflicts, rollback, incidents, runs of every status, closed periods, reverts."""
    first, calibration = replays.model(conn, b"first weights")
    second = deployments.register_model(conn, b"other weights", "network", {"note": "better"}, "somebody", "trained")
    other = deployments.set_calibration(conn, second, {"*": 0.5, "app": 2.0}, {}, ACTOR)
    deployments.deploy(conn, replays.routing(first, calibration), ACTOR)
    deployments.deploy(conn, replays.routing(second, other), ACTOR)
    january = [varied(n, "2024-01-31", epoch=2) for n in range(6)]
    february = [varied(n, "2024-02-01", epoch=2) for n in range(6, 12)]
    positions = [append_varied(conn, rows, 2) for rows in (january, february)]
    conflicting = [replace(row, content="other", seq=0) for row in (january[0], february[0], february[1])]
    append.append(conn, batch(conflicting[:2], epoch=2), actor=ACTOR)
    append.append(conn, batch(conflicting[2:], epoch=2), actor="another")
    incident = incidents.raise_incident(conn, 2, second, {"seen": 1}, ACTOR)
    assert incident is not None
    deployments.roll_back(conn, second, replays.routing(first, calibration), ACTOR, "bad", incident.incident_id)
    incidents.move(conn, incident.incident_id, incidents.Status.ROLLED_BACK, ACTOR)
    deployments.begin_counter_epoch(conn, {"lost": True}, ACTOR, "restart")
    positions.append(append_varied(conn, [varied(n, "2024-01-31", epoch=3, late=True) for n in range(12, 16)], 3, 2))
    _outcomes(conn, january, february)
    lo, hi = positions[0], positions[1] + 1
    billing.close_period(conn, "2024-01", ACTOR, "invoiced")
    flipped = {row.click_id: "invalid" for row in january[:3]} | {row.click_id: "valid" for row in february[3:]}
    incidents.move(conn, incident.incident_id, incidents.Status.REPLAYING, ACTOR)
    run = _staged(conn, lo, hi, flipped, model_version=first, calibration_version=calibration)
    replays.publish(conn, run)
    incidents.move(conn, incident.incident_id, incidents.Status.COMPARED, ACTOR, run_id=run)
    incidents.raise_incident(conn, 3, first, {"seen": 2}, ACTOR)
    back = {row.click_id: "valid" for row in january} | {row.click_id: "undecided" for row in february[:2]}
    _publish_as_0_1_0(conn, replays.staged(conn, lo, positions[2] + 1, back))
    billing.close_period(conn, "2024-02", ACTOR)
    reverted = replays.staged(conn, lo, hi, {row.click_id: "invalid" for row in january + february})
    replays.publish(conn, reverted)
    _revert(conn, reverted)
    replays.publish(conn, reverted)
    _revert(conn, reverted)
    for number, rows in enumerate((january[:2], february[2:4])):
        stated = [sparse.Correction(row.click_id, "undecided", f"dispute {number}") for row in rows]
        replays.publish(conn, sparse.plan(conn, stated, actor=ACTOR, reason="disputed").run_id)
    _half_done(conn, lo, hi, first, calibration, incident.incident_id)
    interrupted = runs.get(conn, reverted)
    comparison._compute(
        conn, interrupted, runs.click_ids(conn, interrupted), uuid.uuid4()
    )  # interrupted before its entry


def varied(number: int, day: str, epoch: int, late: bool = False) -> Row:
    """A click no column of which is that of the one before."""
    verdicts = ("valid", "invalid", "valid", "undecided")
    return Row(
        click_id(instant(day, number), number),
        verdict=verdicts[number % 4],
        cost_micros=1_000 + 7**number % 1_009,
        advertiser_id=f"adv-{number % 2}",
        campaign_id=f"camp-{number % 3}",
        currency=("EUR", "USD")[number % 2],
        slice=("phone/in", "web/out")[number // 2 % 2],
        reason=("", "late")[late],
        source=f"source-{number % 2}",
        external_id=f"external-{number}",
        device=("pixel", "mac")[number % 2],
        logged_in=(True, False, None)[number % 3],
        features=number.to_bytes(4, "little") * 2,
        seq=number + 1,
        score=NAN if number % 4 == 3 else number / 8,
        threshold=NAN if number % 4 == 3 else 1.0 + epoch,
        model_version=epoch - 1,
        calibration_version=epoch - 1,
    )


def append_varied(conn: database.Connection, rows: list[Row], epoch: int, counter_epoch: int = 1) -> int:
    """Append rows of a deployment epoch; the entry's position."""
    made = batch(rows, epoch=epoch, counter_epoch=counter_epoch)
    made = replace(made, feature_schema=epoch, device_kind=[row.device[:1] for row in rows])
    position = append.append(conn, made, actor=f"worker-{epoch}").position
    assert position is not None
    return position


def _outcomes(conn: database.Connection, january: list[Row], february: list[Row]) -> None:
    for kind, rows in (("purchase", january[:3]), ("refund", february[:2])):
        bought = [outcomes.Outcome(row.click_id, kind, instant("2024-03-01", n), 5 + n) for n, row in enumerate(rows)]
        outcomes.append(conn, bought, ACTOR, f"{kind}s of the day")


def _staged(conn: database.Connection, lo: int, hi: int, verdicts: dict[bytes, str], **which: Any) -> int:
    """A staged run in two chunks, some of whose rows are carried."""
    run = runs.plan(conn, lo, hi, actor=ACTOR, reason="", chunk_rows=6, **which)
    for chunk_no in (0, 1):
        found = {click: replays.Replayed(verdict, n % 2 == 0) for n, (click, verdict) in enumerate(verdicts.items())}
        replays.work_chunk(conn, run.run_id, chunk_no, found)
    return runs.stage(conn, run.run_id, ACTOR).run_id


def _publish_as_0_1_0(conn: database.Connection, run_id: int) -> None:
    """Compare as version 0.1.0 did, whose entries must verify too, and publish."""
    written = comparison.canonical.canonical_json

    def without_the_new(value: Any) -> str:
        old = {k: v for k, v in value.items() if k not in ADDED_SINCE_0_1_0} if isinstance(value, dict) else value
        return written(old)

    comparison.canonical.canonical_json = without_the_new
    try:
        replays.publish(conn, run_id)
    finally:
        comparison.canonical.canonical_json = written


def _revert(conn: database.Connection, run_id: int) -> None:
    publication.revert(conn, run_id, ACTOR, "mistaken")


def _half_done(conn: database.Connection, lo: int, hi: int, model: int, calibration: int, incident_id: int) -> None:
    """A run with one chunk done and one to do, and an abandoned one with other columns."""
    which: dict[str, Any] = {"model_version": model, "calibration_version": calibration, "actor": ACTOR, "reason": ""}
    which["incident_id"] = incident_id
    half = runs.plan(conn, lo, hi, chunk_rows=6, scope={"slices": ["web/out"]}, **which)
    replays.work_chunk(conn, half.run_id, 0, {})
    paused = runs.plan(conn, lo, hi, chunk_rows=1, **which).run_id
    runs.pause(conn, paused, ACTOR, "the site is slow")
    runs.abandon(conn, paused, ACTOR, "too late")
    recomputed = runs.plan(conn, lo, hi, chunk_rows=6, mode="recompute", **which)
    replays.work_chunk(conn, recomputed.run_id, 1, {})
    which["incident_id"] = None
    backtest = runs.plan(conn, lo, hi, chunk_rows=6, mode="recompute", kind="backtest", **which).run_id
    replays.work(conn, backtest, {})
    runs.stage(conn, backtest, ACTOR)
    log.record(conn, "dataset_built", {"canonical": canonical.canonical_json({"a": 1})}, ACTOR)
