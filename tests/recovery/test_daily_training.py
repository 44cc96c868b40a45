"""When the daily loop runs, and that it runs once, whoever asks for it at the same time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from celery import Celery
from celery_processes import CeleryProcesses, eventually
from daily_ledger import fill
from decided_traffic import BAD_LIMIT, STABLE_LIMIT, deploy, register

from clickledger import settings
from clickledger.console import roles
from clickledger.errors import ClickledgerError, Conflict, InvalidInput, Refused
from clickledger.ledger import aliases, audit, database, deployments, log
from clickledger.recovery import celery_app, daily_training, steps, tasks
from clickledger.scoring import behaviour, daily, daily_runs, shadowing
from clickledger.scoring.daily_runs import Outcome

Connect = Callable[[], database.Connection]
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return math.floor(moment.timestamp() * 1000)


def test_a_day_is_trained_as_of_its_scheduled_time_or_of_now_before_that() -> None:
    plan = daily_training.plan_of
    assert plan(NOON.date(), time(4, 30), NOON).as_of_ms == ms(NOON.replace(hour=4, minute=30))
    assert plan(NOON.date(), time(18), NOON).as_of_ms == ms(NOON)
    assert plan(NOON.date(), None, NOON).as_of_ms == ms(NOON)
    with pytest.raises(InvalidInput, match="expected a day that has begun"):
        plan(date(2026, 11, 29), time(4, 30), NOON)


def test_a_run_is_due_once_its_time_has_come_and_until_it_has_ended(conn: database.Connection) -> None:
    began = log.entry(conn, 1).recorded_at
    at = (began + timedelta(seconds=1)).time()
    assert daily_training.due(conn, at, began) is None  # the ledger is younger than the newest scheduled time
    late = daily_training.due(conn, at, began + timedelta(hours=9))
    assert late is not None and late.as_of_ms == ms(began + timedelta(seconds=1))
    with pytest.raises(Refused, match="too little data"):
        daily_training.run(conn, daily.Plan(late.day, ms(began)), actor="tests", reason="")
    assert daily_training.due(conn, at, began + timedelta(hours=9)) is None  # refused is over, too
    tomorrow = daily_training.due(conn, at, began + timedelta(days=1, hours=1))
    assert tomorrow is not None and tomorrow.day == late.day + timedelta(days=1)


def test_two_at_once_have_one_effect_and_the_other_is_told(connect: Connect) -> None:
    fill(connect())
    now = datetime.now(UTC)
    plan = daily_training.plan_of(now.date(), now.time(), now)
    begin, errors, ended = threading.Barrier(2), [], []

    def run(conn: database.Connection) -> None:
        begin.wait()
        try:
            ended.append(daily_training.run(conn, plan, actor="tests", reason=""))
        except ClickledgerError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(connect(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended and all(isinstance(error, Conflict) for error in errors)
    conn = connect()
    kinds = [entry.kind for entry in log.read(conn, kinds=daily_runs.KINDS)]
    assert kinds.count("training_started") == kinds.count("training_finished") == kinds.count("model_evaluated") == 1
    assert daily_training.run(conn, plan, actor="tests", reason="").result == ended[0].result


def test_whoever_comes_second_is_told_and_a_scheduled_one_leaves(connect: Connect) -> None:
    first, second = connect(), connect()
    now = datetime.now(UTC)
    with steps.alone(first, daily_training.LOCK):
        with pytest.raises(Conflict, match="another process is at a daily run"):
            daily_training.run(second, daily_training.plan_of(now.date(), None, now), actor="tests", reason="")
        assert daily_training.wake(second, now.time(), actor="tests") is None
    assert log.read(first, kinds=["training_started"]) == []


def test_a_celery_worker_of_its_own_does_the_run_that_is_due(
    connect: Connect, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    conn = connect()
    fill(conn)
    due = datetime.now(UTC)
    processes = CeleryProcesses(tmp_path, database_url, redis_url, daily_training_at=due.time().isoformat())
    try:
        with Celery(broker=settings.broker_url(redis_url), set_as_current=False) as app:
            app.send_task("clickledger.daily_training", queue=celery_app.TRAINING_QUEUE)
        processes.worker("training", queue=celery_app.TRAINING_QUEUE)
        eventually(lambda: log.read(conn, kinds=["training_finished"]), "the run to end", 200.0)
    finally:
        processes.kill_all()
    found = daily_runs.of_day(conn, due.date())
    assert found is not None and found.result is not None and found.result["outcome"] == Outcome.IN_SHADOW
    assert found.started.actor == "daily" and found.started.reason == f"scheduled for {due.date()}"
    assert "Traceback" not in processes.log("training")
    assert audit.verify(conn).ok


def test_candidates_are_judged_once_after_their_time_in_shadow_and_the_refused_leave(
    conn: database.Connection,
) -> None:
    fill(conn)
    passed, harsh = (register(conn, limit) for limit in (STABLE_LIMIT + 2, BAD_LIMIT))
    for candidate in (passed, harsh):
        shadowing.enter(conn, *candidate, actor="tests")
    assert daily_training.judge_candidates(conn, 24.0, actor="tests") == []  # they have just come
    told = {"subject": "behaviour", "model_version": passed[0], "calibration_version": passed[1]}
    log.record(conn, "guardrails_passed", told, "somebody")
    [verdict] = daily_training.judge_candidates(conn, 0.0, actor="tests")
    assert (verdict.kind, verdict.payload["model_version"]) == ("guardrail_refused", harsh[0])
    assert "ivr" in verdict.payload["refusing"]
    assert aliases.of(deployments.current(conn).routing)["candidate"] == [passed]
    [left] = log.read(conn, after=verdict.position)
    assert left.reason == f"refused by guardrails, entry {verdict.position}"
    head = log.head(conn)
    assert daily_training.judge_candidates(conn, 0.0, actor="tests") == [] and log.head(conn) == head


def test_a_refused_candidate_leaves_though_whoever_judged_it_was_killed(conn: database.Connection) -> None:
    fill(conn)
    harsh = register(conn, BAD_LIMIT)
    shadowing.enter(conn, *harsh, actor="tests")
    assert not behaviour.judge(conn, *harsh, actor="tests", reason="").passed
    assert daily_training.judge_candidates(conn, 0.0, actor="tests") == []
    assert aliases.of(deployments.current(conn).routing)["candidate"] == []


def test_a_candidate_that_cannot_be_judged_leaves_and_is_not_tried_again(conn: database.Connection) -> None:
    fill(conn)
    version = deployments.register_model(conn, b"of another schema", "network", {}, "tests")
    broken = (version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests"))
    deploy(conn, register(conn, STABLE_LIMIT), candidates=[broken])
    assert daily_training.judge_candidates(conn, 0.0, actor="tests") == []
    [*_, left] = log.read(conn, kinds=["deployment_changed"])
    assert left.reason.startswith("it cannot be judged: ")
    assert aliases.of(deployments.current(conn).routing)["candidate"] == []


def test_the_schedule_and_the_process_are_there_if_a_time_of_day_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    on, off = settings.load(daily_training_at="04:30"), settings.load(daily_training_at="")
    assert "daily_training" in celery_app.schedule(on) and "daily_training" not in celery_app.schedule(off)
    assert "training" in [role.name for role in roles.table(on, 1)]
    assert "training" not in [role.name for role in roles.table(off, 1)]
    assert roles.RECOVERY_QUEUES.split(",") == [celery_app.QUEUE, celery_app.REPLAY_QUEUE]
    assert roles.TRAINING_QUEUE == celery_app.TRAINING_QUEUE
    monkeypatch.setenv("CLICKLEDGER_REDIS_URL", "redis://nowhere")
    assert celery_app.configuration()["task_routes"] == {
        tasks.daily_training.name: {"queue": celery_app.TRAINING_QUEUE},
        tasks.replay_chunks.name: {"queue": celery_app.REPLAY_QUEUE},  # else a sweep waits for every chunk
    }
    # What is off must stay off in the processes, whose default is on.
    [beat, *_] = roles.table(off, 1)
    assert roles.environment(off, beat)["CLICKLEDGER_DAILY_TRAINING_AT"] == ""
    assert roles.environment(on, beat)["CLICKLEDGER_DAILY_TRAINING_AT"] == "04:30:00"
