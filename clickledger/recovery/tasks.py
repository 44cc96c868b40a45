"""What Celery workers do. Every task is safe to run twice, at once, or not at all: see `chunks` and `steps`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from clickledger import settings
from clickledger.errors import ClickledgerError, InvalidSetting
from clickledger.ledger import checkpoint_key_file, checkpoints, database, partitions
from clickledger.ledger.caps import AUTOMATIC
from clickledger.ledger.rights import Role
from clickledger.recovery import anomaly, chunks, due_corrections, pages, progress, publishing, steps, ticks, working
from clickledger.recovery import daily_training as daily_training_
from clickledger.recovery.celery_app import WAKE_EXPIRES_SECONDS, task
from clickledger.recovery.throttle import Throttle

logger = logging.getLogger(__name__)

ACTOR = AUTOMATIC
DAILY = "daily"
WORK_SECONDS = 2.0  # then the task ends and sends for another: detection and sweeping get their turn


@task
def detect() -> None:
    """Look at the deployment in force; raise an incident and take the first steps when it is anomalous."""
    chosen = settings.load()
    with _connection(chosen) as conn, steps.alone(conn, "detect") as mine:
        if not mine:
            return
        raised = anomaly.detect(conn, _rules(chosen), ACTOR)
        if raised is not None:
            logger.warning("incident %d: model %d is anomalous", raised.incident_id, raised.model_version)
            steps.advance(conn, _policy(chosen), ACTOR)
            _wake_for_all(conn, chosen)


@task
def page() -> None:
    """Compare rates with those of earlier weeks; what stands out is an entry of the log, and nothing acts on it."""
    with _connection(settings.load()) as conn, steps.alone(conn, "page") as mine:
        for reading in pages.page(conn, ACTOR) if mine else []:
            logger.warning("page: %s of slice %s is %s, evidence %.0f", *reading.key, reading.evidence)


@task
def sweep() -> None:
    """Take expired leases back, take incidents a step further, and wake workers for what is to do."""
    chosen = settings.load()
    with _connection(chosen) as conn:
        chunks.sweep(conn)
        steps.advance(conn, _policy(chosen), ACTOR)
        _wake_for_all(conn, chosen)


@task
def replay_chunks(run_id: int) -> None:
    """Do chunks of a run for a while, then send for whoever goes on."""
    chosen = settings.load()
    with _connection(chosen) as conn:
        throttle = _throttle(chosen.redis_url, chosen.replay_live_p99_ms_max)
        name = f"{socket.gethostname()}:{os.getpid()}"
        worker = working.Worker(name, chosen.lease_seconds, chosen.database_url, throttle)
        decided = working.work(conn, run_id, worker, WORK_SECONDS)
        run = progress.of_run(conn, run_id)
        logger.info("run %d: decided %d clicks, %d of %d chunks done", run_id, decided, run.done, run.chunks)
        if run.stage in {"staging", "comparing"}:
            wake(finish, run_id)
        elif run.stage == "replaying" and run.todo:
            wake(replay_chunks, run_id)


@task
def finish(run_id: int) -> None:
    """Stage and compare a run whose chunks are all done."""
    with _connection(settings.load()) as conn:
        if compared := steps.finish(conn, run_id, ACTOR):
            logger.info("run %d compared: %d flips, digest %s", run_id, compared.summary["flips"], compared.digest)


@task
def propose_corrections() -> None:
    """Propose what undecided clicks are to be decided as, and what purchases show to be wrong."""
    with _connection(settings.load()) as conn, steps.alone(conn, "propose") as mine:
        if not mine or (found := due_corrections.look(conn, ACTOR)) is None:
            return
        if found.too_many:
            logger.warning(
                "positions %s hold more undecided clicks than corrections are for: replay them", found.too_many
            )
        if found.runs:
            what = (found.undecided, found.bought, found.runs)
            logger.info("proposed %d undecided and %d bought clicks in runs %s: clickledger replay proposals", *what)


@task
def partitions_ahead() -> None:
    """Create the partitions of the days to come, so that no append has to, and freeze those of days that are over."""
    with _connection(settings.load(), Role.OWNER) as conn, steps.alone(conn, "partitions") as mine:  # VACUUM is theirs
        if not mine:
            return
        partitions.ensure_ahead(conn)
        ticks.forget_old(conn)
        if frozen := partitions.freeze_closed(conn):
            logger.info("froze %d partitions, %s to %s", len(frozen), frozen[-1], frozen[0])
        for warning in partitions.watch(conn).warnings:
            logger.warning("%s", warning)


@task
def sign_checkpoint() -> None:
    """Sign a checkpoint where the log has grown and there is a key; what keeps it from being signed is said."""
    chosen = settings.load()
    try:
        if (key := checkpoint_key_file.of(chosen)) is None:
            return
        with _connection(chosen) as conn, steps.alone(conn, "sign_checkpoint") as mine:
            if mine:
                checkpoints.sign(conn, key, ACTOR)
    except ClickledgerError as error:
        logger.error("no checkpoint was signed: %s", error)


@task
def daily_training() -> None:
    """Do the daily run that is due, or go on with one that was cut short; judge candidates whose time is over.

    What is refused is said.
    """
    chosen = settings.load()
    if chosen.daily_training_at is None:
        return
    with _connection(chosen) as conn:
        try:
            done = daily_training_.wake(conn, chosen.daily_training_at, actor=DAILY)
        except ClickledgerError as error:
            logger.error("the daily run ended: %s", error)
        else:
            if done is not None and done.result is not None:
                logger.info("daily run of %s: model %s, %s", done.day, done.model_version, done.result["outcome"])
        for judged in daily_training_.judge_candidates(conn, chosen.candidate_shadow_hours, actor=DAILY):
            logger.info("model %s: %s, entry %d", judged.payload["model_version"], judged.kind, judged.position)


@cache
def _throttle(redis_url: str | None, limit_ms: float) -> Throttle:
    """One for the life of a process: a task that follows another goes on with the pause that one had come to."""
    return Throttle(redis_url, limit_ms)


def wake(wanted: Any, run_id: int) -> None:
    """Send for a worker. The message expires: when all are busy, the next sweep sends again."""
    wanted.apply_async((run_id,), expires=WAKE_EXPIRES_SECONDS)


def _wake_for_all(conn: database.Connection, chosen: settings.Settings) -> None:
    for run in progress.unfinished(conn):
        if run.stage in {"staging", "comparing"}:
            wake(finish, run.run_id)
        elif run.stage == "replaying":
            for _ in range(min(run.todo, chosen.replay_workers - run.leased)):
                wake(replay_chunks, run.run_id)


def _rules(chosen: settings.Settings) -> ticks.Rules:
    return ticks.Rules(chosen.detect_interval_seconds, chosen.known_customer_purchase_age_hours * 3600)


def _policy(chosen: settings.Settings) -> steps.Policy:
    return steps.Policy(
        chosen.rollback_policy,
        chosen.auto_replay,
        chosen.auto_publish_gross_micros,
        chosen.replay_workers,
        publishing.caps_of(chosen),
    )


@contextmanager
def _connection(chosen: settings.Settings, role: Role = Role.REPLAYER) -> Iterator[database.Connection]:
    if chosen.database_url is None:
        raise InvalidSetting("CLICKLEDGER_DATABASE_URL: expected the address of the ledger, got none")
    with database.connect(chosen.database_url, application_name="clickledger-recovery", role=role) as conn:
        yield conn
