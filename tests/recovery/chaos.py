"""Trouble for a replay under way: killed workers, restarted servers, messages that come twice, pauses, cancels.

Everything random comes from one seed, but when it happens is the machine's business: what has to hold is the same.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
from celery_processes import CeleryProcesses, eventually
from own_server import ON_DISK, OwnServer, own_server

from clickledger import errors
from clickledger.console import home, services, valkey
from clickledger.ledger import database, runs, schema
from clickledger.recovery import celery_app, plans, progress, publishing, replay

HELD = "SELECT chunk_no, token FROM replay_chunks WHERE run_id = %s AND status = 'leased' AND worker LIKE %s"
TAKEN_OVER = """
    SELECT count(*) FROM replay_chunks
    WHERE run_id = %s AND chunk_no = ANY (%s) AND status <> 'done' AND (token IS NULL OR token = ANY (%s))"""
BUSY_SECONDS = 5.0  # how long somebody may take to lease a chunk
ENDED = {"staging", "comparing", "compared", "abandoned"}


@dataclass
class World:
    """Servers of one test's own and the Celery processes on them."""

    postgres: OwnServer
    folder: Path
    database_url: str
    redis_url: str
    celery: CeleryProcesses

    def connect(self) -> database.Connection:
        """A connection, as soon as there is a server."""
        found: list[database.Connection] = []

        def connected() -> bool:
            try:
                found.append(database.connect(self.database_url, application_name="tests"))
            except errors.Unavailable:
                return False
            return True

        eventually(connected, "PostgreSQL to answer")
        return found[0]

    def restart_postgres(self) -> None:
        """As when its machine goes and comes back."""
        self.postgres.kill()
        self.postgres.start()

    def restart_valkey(self) -> None:
        """SIGKILL, and up again with what its append-only file has."""
        place = services.valkey_place(home.prepare(self.folder), None)
        process = valkey.running(place)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else [], timeout=30)
        services.start_valkey(home.prepare(self.folder), 60.0)


@contextmanager
def world(folder: Path, *, large: bool = False, **settings: object) -> Iterator[World]:
    """A migrated ledger and a broker on servers that may be killed; on the disk where it grows large."""
    with own_server(at=ON_DISK if large else None) as postgres:
        schema.migrate(postgres.url)
        redis_url = services.start_valkey(home.prepare(folder), 60.0)
        celery = CeleryProcesses(folder, postgres.url, redis_url, **settings)
        try:
            yield World(postgres, folder, postgres.url, redis_url, celery)
        finally:
            celery.kill_all()
            services.stop_servers(folder)


@dataclass
class Trouble:
    """Starts a plan and does harm to it until enough was done; how often, and how long killed workers' chunks lay idle.

    `run_id` is the run that goes on; `cancelled` are those before it, with the chunks they had done.
    """

    world: World
    plan: plans.Plan
    chunk_rows: int
    seed: int
    workers: int = 2
    run_id: int = 0
    done: dict[str, int] = field(default_factory=dict)
    cancelled: dict[int, int] = field(default_factory=dict)
    takeover_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        with self.world.connect() as conn:
            plans.keep(conn, self.plan, {}, "tests")
            self._start(conn)
        self._processes = [self.world.celery.worker(f"{self.seed}-w{n}") for n in range(self.workers)]
        self._names = self.workers
        self._kept: dict[str, list[bytes]] = {celery_app.QUEUE: [], celery_app.REPLAY_QUEUE: []}

    def _start(self, conn: database.Connection) -> None:
        """As `replay start` does: the plan is made again, and has to be the same."""
        plan = plans.find(conn, self.plan.digest)
        self.run_id = replay.start(conn, plan, "tests", "", chunk_rows=self.chunk_rows).run_id

    def end(self) -> None:
        """SIGKILL to the workers that are left."""
        for process in self._processes:
            self.world.celery.kill(process)

    def make(self, wanted: dict[str, int], pause_seconds: float) -> None:
        """Do each kind of harm so often, in random order, as long as the run is under way."""
        plan = [kind for kind, count in wanted.items() for _ in range(count)]
        self._random.shuffle(plan)
        for kind in plan:
            time.sleep(self._random.uniform(0, pause_seconds))
            if self._stage() in ENDED:
                break
            harm: Callable[[], None] = getattr(self, kind)
            harm()
            self.done[kind] = self.done.get(kind, 0) + 1

    def kill(self) -> None:
        """SIGKILL one worker with all its processes, in mid-chunk if it gets to one; see its chunks taken over."""
        place = self._random.randrange(len(self._processes))
        victim = self._processes[place]
        with self.world.connect() as conn:
            held: list[tuple[int, object]] = []
            soon = time.monotonic() + BUSY_SECONDS
            while not held and time.monotonic() < soon and progress.of_run(conn, self.run_id).stage not in ENDED:
                held = self._held(conn, victim.pid)
            self.world.celery.kill(victim)
            began = time.monotonic()
            self._processes[place] = self.world.celery.worker(f"{self.seed}-w{self._names}")
            self._names += 1
            numbers, tokens = [row[0] for row in held], [row[1] for row in held]
            query = (self.run_id, numbers, tokens)
            eventually(lambda: conn.execute(TAKEN_OVER, query).fetchone() == (0,), "its chunks to be taken over")
            if held:
                self.takeover_seconds.append(time.monotonic() - began)

    def _held(self, conn: database.Connection, pid: int) -> list[tuple[int, object]]:
        """The chunks under lease of a worker's processes, with their tokens."""
        pids = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return [row for one in pids for row in conn.execute(HELD, (self.run_id, f"%:{one}")).fetchall()]

    def restart_postgres(self) -> None:
        """Every connection is gone at once."""
        self.world.restart_postgres()

    def restart_broker(self) -> None:
        """Every message under way is gone, or there twice."""
        self.world.restart_valkey()

    def duplicate(self) -> None:
        """Every message that waits, and those seen before, come several times more."""
        with redis.Redis.from_url(self.world.redis_url) as client:
            for queue, kept in self._kept.items():
                kept[:] = (kept + list(client.lrange(queue, 0, -1)))[-50:]
                for message in kept * 3:
                    client.lpush(queue, message)

    def pause(self) -> None:
        """A moment of nothing, in which nothing may begin."""
        with self.world.connect() as conn:
            try:
                runs.pause(conn, self.run_id, "tests", "")
                eventually(lambda: progress.of_run(conn, self.run_id).leased == 0, "chunks under way to end")
                before = progress.of_run(conn, self.run_id).done
                time.sleep(0.3)
                assert progress.of_run(conn, self.run_id).done == before
                runs.resume(conn, self.run_id, "tests", "")
            except errors.Refused:
                assert progress.of_run(conn, self.run_id).stage in ENDED

    def cancel(self) -> None:
        """Given up with chunks under way, and started anew at once; what was given up goes no further."""
        with self.world.connect() as conn:
            given_up, soon = self.run_id, time.monotonic() + BUSY_SECONDS
            while not progress.of_run(conn, given_up).leased and time.monotonic() < soon:
                pass
            publishing.abandon(conn, given_up, "tests", "")
            self._start(conn)
            eventually(lambda: progress.of_run(conn, given_up).leased == 0, "chunks under way to end")
            self.cancelled[given_up] = progress.of_run(conn, given_up).done

    def _stage(self) -> str:
        with self.world.connect() as conn:
            return progress.of_run(conn, self.run_id).stage
