"""Who does the work of an audit: this process on its own connection, or several, each with a connection of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from clickledger import errors
from clickledger.ledger import database
from clickledger.ledger.rights import Role

UNITS_PER_JOB = 100_000  # a process takes 0.4 s to start
QUEUED_PER_JOB = 3  # enough that none waits for work, few enough that results do not pile up


class Task(NamedTuple):
    """A function of a module, called as `function(conn, *arguments)`; all of it travels to other processes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers(Protocol):
    """Whoever can run tasks."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The result of each task, in the order in which they are done; tasks are taken as there is room for them."""


class InProcess:
    """Does one task after the other on the given connection, in its transaction if it is in one."""

    def __init__(self, conn: database.Connection) -> None:
        self._conn = conn

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The result of each task, in order."""
        return (task.function(self._conn, *task.arguments) for task in tasks)


class _Processes:
    def __init__(self, executor: ProcessPoolExecutor, jobs: int) -> None:
        self._executor = executor
        self._room = QUEUED_PER_JOB * jobs

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        pending: set[Future[Any]] = set()
        try:
            for task in tasks:
                pending.add(self._executor.submit(_work, task))
                if len(pending) >= self._room:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in pending)
        except BrokenProcessPool as error:
            raise errors.Unavailable(
                "a process that verified died, perhaps for want of memory: verify again"
            ) from error


@contextmanager
def processes(url: str, jobs: int, role: Role | None = None) -> Iterator[Workers]:
    """`jobs` processes with a connection to `url` under `role` each. Raises InvalidInput for less than one."""
    if jobs < 1:
        raise errors.InvalidInput(f"jobs: expected at least 1, got {jobs}")
    context = multiprocessing.get_context("spawn")  # a fork would share this process's connections
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_connect, initargs=(url, role))
    try:
        yield _Processes(executor, jobs)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def chosen(conn: database.Connection, url: str, jobs: int, role: Role | None = None) -> Iterator[Workers]:
    """This process for one job, several processes for more."""
    if jobs == 1:
        yield InProcess(conn)
        return
    with processes(url, jobs, role) as workers:
        yield workers


def jobs_for(units: int) -> int:
    """How many processes so much work is worth: one for each core, if each has a second's work or so."""
    return max(1, min(os.cpu_count() or 1, units // UNITS_PER_JOB))


_own: list[database.Connection] = []


def _connect(url: str, role: Role | None) -> None:
    _own.append(database.connect(url, application_name="clickledger audit", role=role))


def _work(task: Task) -> Any:
    return task.function(_own[0], *task.arguments)
