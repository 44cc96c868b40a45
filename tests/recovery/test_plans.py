"""Plans: what they cover, what they promise, and that what is started is what was looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from decided_traffic import BAD_LIMIT, STABLE_LIMIT, Traffic, Versions, bad_deployment, deploy, register

from clickledger import errors
from clickledger.ledger import comparison, database, deployments, log, publication, rebuild, runs
from clickledger.recovery import incidents, plans, preview, publishing, replay, rollback, sampling, steps, working
from clickledger.recovery.incidents import Status
from clickledger.recovery.plans import Plan, What
from clickledger.recovery.working import Worker
from clickledger.scoring import rescore

Connect = Callable[[], database.Connection]


def work(conn: database.Connection, run_id: int) -> None:
    working.work(conn, run_id, Worker("tests", 60.0), 60.0)


def kept(conn: database.Connection, plan: Plan) -> str:
    plans.keep(conn, plan, {}, "tests")
    return plan.digest


def recorded_at(conn: database.Connection, position: int) -> datetime:
    return log.entry(conn, position).recorded_at


def rolled_back(conn: database.Connection) -> tuple[Traffic, Versions, int]:
    """An incident of a bad deployment that waits for its replay."""
    traffic, stable, bad = bad_deployment(conn)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    rollback.roll_back_incident(conn, incident, "tests")
    return traffic, stable, incident.incident_id


def test_a_plan_is_started_by_its_digest_or_the_beginning_of_it(conn: database.Connection) -> None:
    _, _, incident = rolled_back(conn)
    plan = plans.for_incident(conn, incident)
    digest = kept(conn, plan)
    assert plans.find(conn, digest[:12]) == plans.find(conn, digest) == plan
    run = replay.start(conn, plans.find(conn, digest), "tests", "")
    assert log.entry(conn, run.run_id).payload["plan"] == digest


def routed(*routes: tuple[str, float, Versions]) -> dict[str, Any]:
    """A routing of (slice, share, versions), without a shadow."""
    named = [{"slice": s, "share": share, "model": v[0], "calibration": v[1]} for s, share, v in routes]
    return {"routes": named, "shadow": None}


def models_in_run(conn: database.Connection, run_id: int) -> dict[str, set[Versions]]:
    """By which models a run decided, by slice."""
    query = "SELECT DISTINCT slice, model_version, calibration_version FROM delayed_decisions WHERE run_id = %s"
    found: dict[str, set[Versions]] = {}
    for slice_, model, calibration in conn.execute(query, (run_id,)):
        found.setdefault(slice_, set()).add((model, calibration))
    return found


@pytest.mark.parametrize("replaced", [False, True])
def test_an_incident_is_replayed_by_the_model_that_each_slice_is_routed_to(
    conn: database.Connection, replaced: bool
) -> None:
    stable, of_web = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 2)
    by_slice = routed(("*", 1.0, stable), ("web/out", 1.0, of_web))
    deployments.deploy(conn, by_slice, "tests")
    bad = register(conn, BAD_LIMIT)
    deploy(conn, bad)
    traffic = Traffic(conn)
    traffic.append(90)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    if replaced:
        deployments.deploy(conn, by_slice, "tests")
    plan = plans.for_incident(conn, incident.incident_id)
    assert plan.routes == {"*": list(stable), "web/out": list(of_web)}
    rollback.roll_back_incident(conn, incident, "tests")
    digest = kept(conn, plans.for_incident(conn, incident.incident_id))
    shown = preview.preview(conn, plans.find(conn, digest))
    run = replay.start(conn, plans.find(conn, digest), "tests", "")
    work(conn, run.run_id)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None and compared.summary["flips"] == shown.estimate.flips > 0
    assert models_in_run(conn, run.run_id) == {"app/in": {stable}, "web/out": {of_web}, "web/unknown": {stable}}
    rescored = rescore.sample(conn)
    assert rescored.rescored == rescored.exact == 180, rescored.failures
    anew = replay.again(conn, run.run_id, "tests", "once more")
    assert anew.routes == run.routes == {"*": stable, "web/out": of_web}
    assert rebuild.differences(conn) == []


def test_a_run_that_cannot_be_done_again_stays_as_it_is(conn: database.Connection) -> None:
    *_, bad = bad_deployment(conn, clicks=20)
    raised = incidents.raise_by_hand(conn, bad[0], "ann", "people are flagged")
    rollback.roll_back_incident(conn, raised, "ann", "")
    run = replay.start(conn, plans.for_incident(conn, raised.incident_id), "ann", "")
    incidents.move(conn, raised.incident_id, Status.ABANDONED, "ann", "a false alarm")
    with pytest.raises(errors.Refused, match=f"incident {raised.incident_id} is abandoned"):
        replay.again(conn, run.run_id, "ann", "once more")
    assert runs.get(conn, run.run_id).status == run.status


def test_a_run_whose_model_was_rolled_back_is_not_done_again_through_it(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, clicks=20)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(bad)), "ann", "")
    rollback.roll_back(conn, bad[0], "ann", "people are flagged")
    with pytest.raises(errors.Refused, match=f"model {bad[0]}, by which run {run.run_id} decides, was rolled back"):
        replay.again(conn, run.run_id, "ann", "once more")
    assert runs.get(conn, run.run_id).status == run.status
    assert replay.start(conn, plans.for_positions(conn, *span, What(stable)), "ann", "").models == {stable[0]}


def test_a_canary_decides_nothing_again(conn: database.Connection) -> None:
    stable, canary, bad = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 2), register(conn, BAD_LIMIT)
    deploy(conn, bad)
    Traffic(conn).append(30)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    before = routed(("*", 1.0, stable), ("web/out", 1.0, stable))
    deployments.deploy(conn, deployments.with_canary(before, *canary, 0.9), "tests")  # most of the users by now
    plan = plans.for_incident(conn, incident.incident_id)
    assert ((plan.model_version, plan.calibration_version), plan.routes) == (stable, None)


def test_a_slice_that_several_models_share_has_to_be_replayed_through_one_that_is_named(
    conn: database.Connection,
) -> None:
    first, second, third = (register(conn, STABLE_LIMIT + n) for n in range(3))
    bad = register(conn, BAD_LIMIT)
    deploy(conn, bad)
    Traffic(conn).append(30)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    deployments.deploy(conn, routed(("*", 0.2, first), ("*", 0.4, second), ("*", 0.4, third)), "tests")
    with pytest.raises(errors.Refused, match=r"slice '\*': expected one stable model to replay through, got models 2"):
        plans.for_incident(conn, incident.incident_id)


@pytest.mark.parametrize("digest", ["0" * 64, "", "abc", "%" * 12, "________"])
def test_a_plan_that_was_never_shown_is_not_started(conn: database.Connection, digest: str) -> None:
    _, _, incident = rolled_back(conn)
    kept(conn, plans.for_incident(conn, incident))
    with pytest.raises(errors.StalePlan, match="expected one that `replay plan` has shown"):
        plans.find(conn, digest)


def test_a_plan_is_stale_once_its_range_has_grown_and_says_so(conn: database.Connection) -> None:
    traffic, _, bad = bad_deployment(conn)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    digest = kept(conn, plans.for_incident(conn, incident.incident_id))
    traffic.append(10)  # the bad model is still live
    rollback.roll_back_incident(conn, incident, "tests")
    with pytest.raises(errors.StalePlan, match=r"expected hi \d+, got \d+ by now: plan again"):
        plans.find(conn, digest)


def test_a_plan_is_stale_once_something_was_published_over_its_range(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    digest = kept(conn, plans.for_positions(conn, *span, What(stable)))
    run = replay.start(conn, plans.find(conn, digest), "tests", "")
    work(conn, run.run_id)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None
    publication.publish(conn, run.run_id, compared.digest, "tests", "")
    with pytest.raises(errors.StalePlan, match="expected changed_position 0"):
        plans.find(conn, digest)


def test_appends_beyond_a_closed_range_leave_its_plan_as_it_is(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    digest = kept(conn, plans.for_positions(conn, *span, What(stable)))
    traffic.append(10)
    assert plans.find(conn, digest).digest == digest


def test_times_name_what_was_recorded_between_them(conn: database.Connection) -> None:
    _, stable, _ = bad_deployment(conn)
    lo, hi = log.head(conn).position - 4, log.head(conn).position - 1
    plan = plans.for_times(conn, recorded_at(conn, lo), recorded_at(conn, hi), What(stable))
    same = [p for p in range(1, hi + 1) if recorded_at(conn, lo) <= recorded_at(conn, p) < recorded_at(conn, hi)]
    assert (plan.lo, plan.hi) == (same[0], same[-1] + 1)


@pytest.mark.parametrize(("since", "until"), [(0, 0), (1, 0), (0, 3600)])
def test_times_that_are_no_stretch_of_the_past_are_refused(conn: database.Connection, since: int, until: int) -> None:
    _, stable, _ = bad_deployment(conn, batches=1)
    now = log.head(conn).recorded_at
    with pytest.raises(errors.InvalidInput, match="times: expected"):
        plans.for_times(conn, now + timedelta(seconds=since), now + timedelta(seconds=until), What(stable))


def test_the_plan_of_a_deployment_re_decides_its_clicks_and_carries_those_of_others(conn: database.Connection) -> None:
    traffic, stable, _ = bad_deployment(conn)
    epoch = deployments.current(conn).epoch
    in_flight = traffic.batch(7, epoch=epoch)
    deploy(conn, stable)
    traffic.count -= 7
    traffic.append(20)
    traffic.append(7, epoch=epoch)  # decided before the change, appended after it
    traffic.append(20)
    assert len(in_flight) == 7
    run = replay.start(conn, plans.for_deployment(conn, epoch, What(stable)), "tests", "")
    work(conn, run.run_id)
    own = "SELECT count(*), bool_and(deployment_epoch = %s) FROM delayed_decisions WHERE run_id = %s AND NOT carried"
    assert conn.execute(own, (epoch, run.run_id)).fetchone() == (2_007, True)


def test_an_epoch_that_never_was_cannot_be_planned(conn: database.Connection) -> None:
    with pytest.raises(errors.NotFound, match="no deployment 99"):
        plans.for_deployment(conn, 99, What((1, 1)))


def test_a_preview_of_everything_is_exact(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn)
    traffic.append(50, late=5)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    plan = plans.for_positions(conn, *span, What(stable))
    shown = preview.preview(conn, plan)
    run = replay.start(conn, plan, "tests", "")
    work(conn, run.run_id)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None
    assert (shown.clicks, shown.chunks) == (run.row_count, 1)
    estimate = shown.estimate
    assert estimate.to_valid.value == pytest.approx(compared.summary["to_valid"])
    assert estimate.to_invalid.value == pytest.approx(compared.summary["to_invalid"])

    def money(column: str, group: str) -> int:
        sums = compared.by(column)[group]
        return sums["adjustments_micros"] + sums["write_off_micros"]

    assert {c: i.value for c, i in estimate.change_micros.items()} == pytest.approx(
        {currency: money("currency", currency) for currency in ("EUR", "USD")}
    )
    for column, groups in (("slice", estimate.by_slice), ("advertiser_id", estimate.by_advertiser)):
        assert groups.keys() == compared.by(column).keys()
        for group, by_currency in groups.items():
            assert sum(i.value for i in by_currency.values()) == pytest.approx(money(column, group))
    assert shown.not_replayed == {"undecided: late": 5}
    assert 0 < shown.seconds.shortest <= shown.seconds.value <= shown.seconds.longest


def test_a_sample_that_shows_no_flip_does_not_say_that_there_are_none() -> None:
    sample = [sampling.Unit(500, 0, 3, 0, {"EUR": 0}, {}, {}) for _ in range(40)]
    found = sampling.estimate(sample, 2_000, 1_000_000)
    assert (found.to_valid.value, found.to_valid.low) == (0.0, 0.0)
    assert found.to_valid.high == pytest.approx(1_000_000 * (1 - 0.05 ** (1 / 40)))
    assert found.to_invalid.value == pytest.approx(6_000)
    whole = sampling.estimate(sample, 40, 20_000)
    assert whole.to_valid == (0.0, 0.0, 0.0)


def test_an_incident_is_replayed_from_where_its_calibration_came_into_force(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn, batches=2)
    again = bad[0], deployments.set_calibration(conn, bad[0], {"*": -1.0}, {}, "tests")
    began = deployments.deploy(conn, deployments.with_canary(deployments.current(conn).routing, *again, 0.05), "tests")
    first = deployments.current(conn).position
    traffic.append(100)
    for _ in range(2):  # the second of them for another reason
        began = deploy(conn, again, stable)
        traffic.append(100)
    incident = incidents.raise_incident(conn, began, bad[0], {}, "tests")
    assert incident is not None
    plan = plans.for_incident(conn, incident.incident_id)
    assert (plan.lo, plan.hi) == (first, log.head(conn).position + 1)
    assert plan.row_count == 300
    deploy(conn, stable)
    deploy(conn, again, stable)
    back = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert back is not None and plans.for_incident(conn, back.incident_id).lo == deployments.current(conn).position


def test_a_preview_of_a_sample_covers_the_truth(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, batches=60, clicks=500)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    shown = preview.preview(conn, plans.for_positions(conn, *span, What(stable)))
    flips = "SELECT count(*) FROM shadow_scores WHERE verdict <> live_verdict AND log_position >= %s"
    truth = (conn.execute(flips, (span[0],)).fetchone() or (0,))[0]
    assert shown.estimate.sampled_clicks < shown.clicks
    assert shown.estimate.to_valid.low <= truth <= shown.estimate.to_valid.high


@pytest.mark.parametrize(("lo", "hi"), [(0, 5), (5, 5), (1, 10_000)])
def test_a_range_that_is_not_below_the_head_cannot_be_planned(conn: database.Connection, lo: int, hi: int) -> None:
    with pytest.raises(errors.InvalidInput, match="positions: expected a range within"):
        plans.for_positions(conn, lo, hi, What((1, 1)))


def test_a_scope_of_something_else_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="scope"):
        plans.for_positions(conn, 1, 2, What((1, 1), {"campaigns": ["c"]}))


def test_of_two_who_start_the_replay_of_an_incident_one_has_it_and_no_run_is_left_over(connect: Connect) -> None:
    conn = connect()
    _, _, incident = rolled_back(conn)
    plan = plans.for_incident(conn, incident)
    together = threading.Barrier(2)
    outcomes: list[object] = []

    def start(mine: database.Connection) -> None:
        together.wait()
        try:
            outcomes.append(replay.start(mine, plan, "tests", "").run_id)
        except errors.Refused as refused:
            outcomes.append(refused)

    threads = [threading.Thread(target=start, args=(connect(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(started) == 1 and len(outcomes) == 2
    assert conn.execute("SELECT run_id FROM replay_runs").fetchall() == [(started[0],)]
    assert incidents.get(conn, incident).run_id == started[0]


def test_a_start_that_is_overtaken_after_it_looked_leaves_no_run(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, other = connect(), connect()
    _, _, incident = rolled_back(conn)
    plan = plans.for_incident(conn, incident)
    summarise = replay.block_ranges.summarise

    def overtaken(mine: database.Connection) -> int:
        """What comes between looking and planning: somebody else does both."""
        monkeypatch.setattr(replay.block_ranges, "summarise", summarise)
        replay.start(other, plan, "other", "")
        return summarise(mine)

    monkeypatch.setattr(replay.block_ranges, "summarise", overtaken)
    with pytest.raises(errors.Refused, match="is replaying: it cannot become replaying now"):
        replay.start(conn, plan, "tests", "")
    assert conn.execute("SELECT count(*) FROM replay_runs").fetchone() == (1,)
    assert rebuild.differences(conn) == []


def test_a_run_by_a_wrong_model_is_corrected_by_another_run(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    worse = register(conn, 1)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    for versions in (worse, stable):
        run = replay.start(conn, plans.for_positions(conn, *span, What(versions)), "tests", "")
        work(conn, run.run_id)
        compared = steps.finish(conn, run.run_id, "tests")
        assert compared is not None
        publishing.publish(conn, run.run_id, compared.digest, "tests", "")
    in_force = "SELECT DISTINCT model_version FROM authoritative_decisions WHERE log_position >= %s"
    assert conn.execute(in_force, (span[0],)).fetchall() == [(stable[0],)]
    shadow = "SELECT count(*) FROM authoritative_decisions a JOIN shadow_scores s USING (click_id)"
    assert conn.execute(f"{shadow} WHERE a.verdict <> s.verdict").fetchone() == (0,)


def test_a_backtest_is_compared_like_any_run_and_never_published(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    plan = plans.for_positions(conn, *span, What(stable, kind="backtest"))
    run = replay.start(conn, plan, "tests", "")
    work(conn, run.run_id)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None and compared.summary["flips"] > 0
    with pytest.raises(errors.Refused, match="is a backtest"):
        publishing.publish(conn, run.run_id, compared.digest, "tests", "")
    assert rebuild.differences(conn) == []


@pytest.mark.parametrize("kind", ["backtest", "range", "sparse"])
def test_the_database_itself_refuses_to_publish_a_backtest(conn: database.Connection, kind: str) -> None:
    _, stable, bad = bad_deployment(conn, batches=1)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(stable, kind="backtest")), "tests", "")
    publish = "INSERT INTO publications VALUES (99, %s, 98, int8range(1, 2), NULL, NULL, NULL, %s)"
    with pytest.raises(errors.ClickledgerError, match=r"never published|publications_kind_check"):
        conn.execute(publish, (run.run_id, kind))
    decide = "INSERT INTO authority VALUES (int8range(1, 2), %s, int8range(99, NULL), NULL, NULL, 99)"
    with pytest.raises(errors.Refused, match="never published"):
        conn.execute(decide, (run.run_id,))


def test_a_run_decided_all_over_again_takes_the_place_of_the_first(conn: database.Connection) -> None:
    _, _, incident = rolled_back(conn)
    first = replay.start(conn, plans.for_incident(conn, incident), "tests", "")
    work(conn, first.run_id)
    second = replay.again(conn, first.run_id, "tests", "to be sure")
    assert (second.lo, second.hi, second.model_version) == (first.lo, first.hi, first.model_version)
    assert runs.get(conn, first.run_id).status == "abandoned"
    assert incidents.get(conn, incident).run_id == second.run_id
    kept_rows = "SELECT count(*) FROM delayed_decisions WHERE run_id = %s"
    assert conn.execute(kept_rows, (first.run_id,)).fetchone() == (first.row_count,)
    work(conn, second.run_id)
    assert steps.finish(conn, second.run_id, "tests") is not None
    assert comparison.latest(conn, second.run_id).summary["clicks"] == second.row_count
