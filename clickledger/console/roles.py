"""The processes that `up` starts, as a table: what runs, how to see that it is ready, how it is ended.

A process named NAME is given all settings as `CLICKLEDGER_*` variables and its own name as `CLICKLEDGER_PROCESS`. Kinds
of readiness:

    HEARTBEAT   the Redis key `cl:heartbeat:NAME` exists; the process sets it, with an expiry, while it is able to work
    CELERY      the Celery worker `NAME@clickledger` answers a ping
    HTTP        GET /healthz answers 200
    ALIVE       nothing better is known than that it runs
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import redis

import clickledger
from clickledger.settings import PREFIX, Settings, broker_url

HEARTBEAT_KEY = "cl:heartbeat:"
CELERY_APP = "clickledger.recovery.celery_app"
# As there; importing it costs as much as a start.
RECOVERY_QUEUES, TRAINING_QUEUE = "cl:recovery,cl:replay", "cl:training"
KILL = (signal.SIGKILL, 10.0)


class Readiness(Enum):
    HEARTBEAT = "heartbeat"
    CELERY = "celery"
    HTTP = "http"
    ALIVE = "alive"


@dataclass(frozen=True)
class Role:
    """One process to run. `stop` lists signals and the seconds to wait after each."""

    name: str
    command: list[str]
    readiness: Readiness
    stop: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 20.0), KILL)


def table(settings: Settings, http_port: int) -> list[Role]:
    """All processes, in the order they are started; they are stopped in the reverse order."""
    scoring = [
        Role(f"scoring-{number}", _module("clickledger.console.worker_main"), Readiness.HEARTBEAT)
        for number in range(1, settings.scoring_workers + 1)
    ]
    training = [] if settings.daily_training_at is None else [_training()]
    return [_beat(settings), _recovery(settings), *training, *scoring, _api(settings, http_port)]


def _beat(settings: Settings) -> Role:
    schedule = settings.home / "run" / "beat-schedule"
    command = _module("celery", "-A", CELERY_APP, "beat", "--loglevel=INFO", f"--schedule={schedule}", "--pidfile=")
    return Role("beat", command, Readiness.ALIVE)


def _recovery(settings: Settings) -> Role:
    # The first TERM lets tasks finish (they are short), QUIT drops them: their leases expire and others take over.
    return _celery(
        "recovery", RECOVERY_QUEUES, settings.replay_workers, ((signal.SIGTERM, 20.0), (signal.SIGQUIT, 5.0))
    )


def _training() -> Role:
    # A training is no short task, and loses nothing but the step it is at.
    return _celery("training", TRAINING_QUEUE, 1, ((signal.SIGTERM, 2.0), (signal.SIGQUIT, 5.0)))


def _celery(name: str, queues: str, processes: int, stop: Sequence[tuple[signal.Signals, float]]) -> Role:
    words = ("worker", "--loglevel=INFO", f"--concurrency={processes}", f"--hostname={name}@clickledger")
    return Role(
        name, _module("celery", "-A", CELERY_APP, *words, f"--queues={queues}"), Readiness.CELERY, (*stop, KILL)
    )


def _api(settings: Settings, http_port: int) -> Role:
    address = ("--host", settings.http_host, "--port", str(http_port), "--no-access-log")
    command = _module("uvicorn", "clickledger.console.api:app", *address, "--timeout-graceful-shutdown", "5")
    return Role("api", command, Readiness.HTTP)


def _module(name: str, *words: str) -> list[str]:
    """Run a module with this interpreter; -P keeps files of the working directory from shadowing packages."""
    return [sys.executable, "-P", "-m", name, *words]


def environment(settings: Settings, role: Role) -> dict[str, str]:
    """What the process of `role` sees: the settings as resolved here, so that all processes share one truth."""
    own = {f"{PREFIX}{name.upper()}": value for name, value in _stated(settings)}
    source = str(Path(clickledger.__file__).parent.parent)
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    inherited = {name: value for name, value in os.environ.items() if name != f"{PREFIX}CONFIG"}
    always = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}
    return {**inherited, **own, **always, f"{PREFIX}PROCESS": worker_name(role)}


def worker_name(role: Role) -> str:
    """What a process calls itself: scoring workers of several hosts may serve one stream, each under its own name."""
    return f"{role.name}@{socket.gethostname()}" if role.readiness is Readiness.HEARTBEAT else role.name


def _stated(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every setting as its variable is written: nothing where nothing is the default, empty where something else is."""
    for name, value in settings.model_dump(mode="json").items():
        if value is not None or Settings.model_fields[name].default is not None:
            yield name, "" if value is None else str(value)


def forget_heartbeat(settings: Settings, role: Role) -> None:
    """Remove what a predecessor of the same name left, lest it count for the new process."""
    with _client(settings) as client:
        client.delete(*_heartbeats(role))


def ready(settings: Settings, role: Role, http_url: str | None) -> bool:
    """Whether the process of `role`, which is alive, can do its work now."""
    match role.readiness:
        case Readiness.HEARTBEAT:
            return _beats(settings, role)
        case Readiness.CELERY:
            return _answers_ping(settings, role)
        case Readiness.HTTP:
            return http_url is not None and _is_healthy(http_url)
        case Readiness.ALIVE:
            return True


def _beats(settings: Settings, role: Role) -> bool:
    try:
        with _client(settings) as client:
            return bool(client.exists(*_heartbeats(role)))
    except redis.RedisError:
        return False


def _heartbeats(role: Role) -> tuple[str, str]:
    """Where its process beats; the second is what one of the release before does, which an upgrade leaves at work."""
    return HEARTBEAT_KEY + worker_name(role), HEARTBEAT_KEY + role.name


def _client(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(str(settings.redis_url), socket_timeout=5)


def _answers_ping(settings: Settings, role: Role) -> bool:
    from celery import Celery  # noqa: PLC0415 - costs 0.2 s, which commands that ping nobody need not pay

    with Celery(broker=broker_url(str(settings.redis_url)), set_as_current=False) as app:
        try:
            return bool(app.control.ping(destination=[f"{role.name}@clickledger"], timeout=1.0))
        except (OSError, redis.RedisError):
            return False


def _is_healthy(http_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http_url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
