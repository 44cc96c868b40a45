"""The Celery application: `celery -A clickledger.recovery.celery_app worker` and `... beat`.

The broker only wakes workers. What there is to do, who does it and what became of it is in PostgreSQL; a message that
is lost, late or delivered twice costs time and nothing else. So there are no results, chords or countdowns, and
messages expire: what they would wake for is looked for again at the next one.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import Celery
from celery.signals import after_setup_logger, worker_process_init
from threadpoolctl import threadpool_limits

from clickledger import settings
from clickledger.errors import InvalidSetting, Refused, Unavailable
from clickledger.ledger.database import GONE_SECONDS, KEEPALIVES

logger = logging.getLogger(__name__)

QUEUE = "cl:recovery"
# Of chunks, which take seconds each: in one queue with them a look or a sweep would wait for all that were sent before.
# Workers take from both in turns.
REPLAY_QUEUE = "cl:replay"
TRAINING_QUEUE = "cl:training"  # a worker of its own: training takes minutes, and detection is not to wait for it
SWEEP_SECONDS = 2.0
PAGE_SECONDS = 60.0
PARTITIONS_SECONDS = 3600.0
TRAINING_SECONDS = 60.0  # a run that is due begins, and one that was cut short goes on, within this
WAKE_EXPIRES_SECONDS = 10.0
BEAT_EXPIRES_SECONDS_MIN = 10.0  # every worker may be busy with a chunk for seconds, and hosts' clocks differ
# By what they are called where there is such an option; the last is Linux's.
TCP_OPTIONS = {
    "TCP_KEEPIDLE": KEEPALIVES["idle"],
    "TCP_KEEPINTVL": KEEPALIVES["interval"],
    "TCP_KEEPCNT": KEEPALIVES["count"],
    "TCP_USER_TIMEOUT": GONE_SECONDS * 1000,
}
NICENESS = 5  # a third of the CPU that a scoring worker gets where both want a core


def configuration() -> dict[str, Any]:
    """The configuration, from the settings as they are when it is first needed. Raises InvalidSetting."""
    chosen = settings.load()
    if chosen.redis_url is None:
        raise InvalidSetting("CLICKLEDGER_REDIS_URL: expected the address of the broker, got none")
    return {
        "broker_url": settings.broker_url(chosen.redis_url),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: Celery's 100 are an hour, after which a process would end
        "broker_transport_options": {
            # A training may take longer; whoever gets its message again finds it at work and leaves. Nobody waits for
            # a lost message to come back: the next sweep wakes again.
            "visibility_timeout": 3600,
            "unacked_key": f"{QUEUE}:unacked",
            "unacked_index_key": f"{QUEUE}:unacked_index",
            "unacked_mutex_key": f"{QUEUE}:unacked_mutex",
            # Without them a process whose broker's host is gone waits for its answer, and for TCP's next attempt once
            # it is back: minutes.
            "socket_connect_timeout": 10,
            "socket_timeout": GONE_SECONDS,
            "socket_keepalive": True,
            "socket_keepalive_options": {
                getattr(socket, name): value for name, value in TCP_OPTIONS.items() if hasattr(socket, name)
            },
        },
        "result_backend": None,
        "task_ignore_result": True,
        "task_default_queue": QUEUE,
        "task_routes": {
            "clickledger.daily_training": {"queue": TRAINING_QUEUE},
            "clickledger.replay_chunks": {"queue": REPLAY_QUEUE},
        },
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_send_task_events": False,
        "worker_enable_remote_control": True,  # `clickledger status` asks by ping
        "task_serializer": "json",
        "accept_content": ["json"],
        "timezone": "UTC",
        "beat_schedule": schedule(chosen),
    }


def schedule(chosen: settings.Settings) -> dict[str, Any]:
    """What beat sends, and how often."""
    every = {
        "detect": chosen.detect_interval_seconds,
        "page": PAGE_SECONDS,
        "sweep": SWEEP_SECONDS,
        "propose_corrections": chosen.propose_interval_seconds,
        "partitions_ahead": PARTITIONS_SECONDS,
        "sign_checkpoint": chosen.checkpoint_interval_seconds,
        **({} if chosen.daily_training_at is None else {"daily_training": TRAINING_SECONDS}),
    }
    return {
        name: {
            "task": f"clickledger.{name}",
            "schedule": seconds,
            "options": {"expires": max(seconds, BEAT_EXPIRES_SECONDS_MIN)},
        }
        for name, seconds in every.items()
    }


# Root is a risk where messages are pickles; these are JSON, and a container knows no other user.
warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")

app = Celery("clickledger", include=["clickledger.recovery.tasks"])
app.add_defaults(configuration)


def task(function: Callable[..., None]) -> Any:
    """A function as a task of the application, named after it.

    What ordinary life brings is said in a line: a database that does not answer, for what was to do is still to do and
    the next message wakes for it; and a refusal, as when a run is cancelled while it is staged.
    """
    name = f"clickledger.{function.__name__}"

    @wraps(function)
    def told(*given: Any) -> None:
        try:
            function(*given)
        except Unavailable as error:
            logger.error("%s was given up, until it is sent for again: %s", name, error)
        except Refused as refusal:
            logger.warning("%s was refused: %s", name, refusal)

    return app.task(name=name)(told)


def _step_back(**_: Any) -> None:
    """Workers scale by process; a pool of threads in each would only fight over the cores, which live clicks come
    first to."""
    threadpool_limits(1)
    os.nice(NICENESS)


def _quieter(**_: Any) -> None:
    """A line for each of several tasks a second buries what matters; tasks say themselves what they did."""
    for name in ("celery.app.trace", "celery.worker.strategy", "celery.worker.request", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


worker_process_init.connect(_step_back)
after_setup_logger.connect(_quieter)
