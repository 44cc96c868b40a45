"""Four hosts: database, broker and two workers. One worker host is cut off in mid-replay, and comes back.

Nothing is reset when a network fails: whoever waits for the other side waits. So the server has to end the sessions of
a host that is gone, or their locks stay; and that host has to give up the sessions that the server ended meanwhile.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import network_hosts
import pytest
import redis
from celery_processes import CeleryProcesses, eventually
from decided_traffic import Traffic, bad_deployment
from own_server import OwnServer, own_server
from undisturbed import require_same, undisturbed

from clickledger import errors
from clickledger.console import home, services
from clickledger.ledger import audit, comparison, database, deployments, log, publication, runs, schema
from clickledger.recovery import plans, progress, replay
from clickledger.recovery.plans import What

DATABASE, BROKER, STAYS, LEAVES = NAMES = "database", "broker", "worker-1", "worker-2"
CHUNK_ROWS = 200
ACKNOWLEDGED_SECONDS = 0.5  # then nothing of a worker that waits is under way, and nothing it sent can fail
HELD = "SELECT split_part(worker, ':', 1), chunk_no FROM replay_chunks WHERE run_id = %s AND status = 'leased'"
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'clickledger-recovery' AND wait_event_type = 'Lock' AND query LIKE %s"""
CHUNK = """
    SELECT status, split_part(worker, ':', 1), attempts, last_error FROM replay_chunks
    WHERE run_id = %s AND chunk_no = %s"""
WORKED = "SELECT DISTINCT split_part(worker, ':', 1) FROM replay_chunks WHERE run_id = %s"
# Whom a worker waits for in mid-chunk, and in which statement: reading its clicks, or writing what it made of them,
# in the transaction that finishes the chunk.
BEFORE_ROWS = "LOCK TABLE clicks IN ACCESS EXCLUSIVE MODE", "%FROM decisions d JOIN clicks%"
BEFORE_COMMIT = "LOCK TABLE delayed_decisions IN SHARE MODE", "COPY delayed_decisions%"


@dataclass
class Site:
    """The hosts, what runs on them, and a plan with the run that nobody disturbed."""

    hosts: network_hosts.Hosts
    celery: CeleryProcesses
    workers: dict[str, list[subprocess.Popen[bytes]]]  # and beats, by host
    conn: database.Connection  # on the database's host
    blocker: database.Connection
    traffic: Traffic
    plan: plans.Plan
    peace: runs.Run

    @contextmanager
    def in_chunks(self, place: tuple[str, str]) -> Iterator[tuple[runs.Run, int]]:
        """A run of the plan, both of whose hosts wait in a chunk until the block ends; which one `LEAVES` has."""
        lock, statement = place
        run = replay.start(self.conn, self.plan, "tests", "", chunk_rows=CHUNK_ROWS)
        runs.pause(self.conn, run.run_id, "tests", "")
        with self.blocker.transaction():
            self.blocker.execute(lock.encode())
            runs.resume(self.conn, run.run_id, "tests", "")
            held: dict[str, int] = {}

            def both() -> bool:
                held.update(self.conn.execute(HELD, (run.run_id,)).fetchall())
                waiting = self.conn.execute(WAITING, (statement,)).fetchone()
                return held.keys() == {STAYS, LEAVES} and waiting == (2,)

            eventually(both, "both hosts to be in a chunk", 25.0)  # the blocker is ended after 30 s
            time.sleep(ACKNOWLEDGED_SECONDS)
            yield run, held[LEAVES]

    def require_compared(self, run: runs.Run) -> None:
        """It ends, and as the one in peace did."""
        eventually(lambda: progress.of_run(self.conn, run.run_id).stage == "compared", "the run to be compared")
        require_same(self.conn, self.peace, run)


@contextmanager
def four_hosts(folder: Path) -> Iterator[Site]:
    """PostgreSQL on one host, Valkey on another, a Celery worker and a beat on each of two more."""
    with ExitStack() as stack:
        hosts = stack.enter_context(network_hosts.hosts(*NAMES))
        with hosts.on(DATABASE):
            postgres = stack.enter_context(own_server(f"listen_addresses={hosts.address(DATABASE)}"))
        schema.migrate(postgres.url)
        stack.callback(services.stop_servers, folder)
        celery = CeleryProcesses(
            folder,
            _let_in(postgres, hosts.address(DATABASE)),
            _broker(hosts, folder),
            lease_seconds=2,
            replay_workers=2,
            detect_interval_seconds=3600,  # a worker is to be in its chunk and nowhere else
        )
        stack.callback(celery.kill_all)
        workers = {}
        for host in (STAYS, LEAVES):
            with hosts.on(host):
                workers[host] = [celery.worker(host), celery.beat(f"{host}-beat")]
        eventually(lambda: all("ready." in celery.log(host) for host in workers), "the workers to be ready")
        conn, blocker = (stack.enter_context(database.connect(postgres.url)) for _ in range(2))
        traffic, stable, bad = bad_deployment(conn, batches=20, clicks=CHUNK_ROWS, shadow=False)
        span = deployments.model_positions(conn, bad[0])
        assert span is not None
        plan = plans.for_positions(conn, *span, What(stable))
        yield Site(hosts, celery, workers, conn, blocker, traffic, plan, undisturbed(conn, plan, CHUNK_ROWS))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests, in their order: the first host's processes are ended in the last of them."""
    if (why := network_hosts.why_not()) is not None:
        pytest.skip(why)
    with four_hosts(tmp_path_factory.mktemp("hosts") / "home") as made:
        yield made


def _let_in(postgres: OwnServer, address: str) -> str:
    """The address of the server for the other hosts."""
    with (postgres.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.77.0.0/24 trust\n")
    with database.connect(postgres.url) as conn:
        conn.execute("SELECT pg_reload_conf()")
    return f"postgresql://clickledger@{address}:5432/clickledger"


def _broker(hosts: network_hosts.Hosts, folder: Path) -> str:
    """The address of a Valkey for the other hosts; as it is started it listens on a unix socket only."""
    with hosts.on(BROKER):
        local = services.start_valkey(home.prepare(folder), 60.0)
    with redis.Redis.from_url(local) as client:
        for name, value in {"protected-mode": "no", "bind": hosts.address(BROKER), "port": "6379"}.items():
            client.config_set(name, value)
    return f"redis://{hosts.address(BROKER)}:6379/0"


def test_a_host_cut_off_in_a_chunk_loses_it_and_its_rows_come_too_late(site: Site) -> None:
    with site.in_chunks(BEFORE_ROWS) as (run, chunk_no):
        site.hosts.cut(LEAVES)
    site.require_compared(run)
    status, worker, attempts, error = site.conn.execute(CHUNK, (run.run_id, chunk_no)).fetchone() or ("", "", 0, "")
    assert (status, worker) == ("done", STAYS)
    assert attempts >= 2
    assert f"worker {LEAVES}:" in error
    assert "fell silent" in error
    assert "is thrown away" not in site.celery.log(LEAVES)
    site.hosts.join(LEAVES)  # the server still holds what the worker asked for, and sends it again
    eventually(lambda: "is thrown away" in site.celery.log(LEAVES), "the late rows to be refused")
    site.require_compared(run)


def test_a_host_cut_off_before_its_commit_keeps_neither_chunk_nor_log_and_works_again_when_it_is_back(
    site: Site,
) -> None:
    with site.hosts.on(LEAVES):
        url = site.celery.environment["CLICKLEDGER_DATABASE_URL"]
        gone = database.connect(url, application_name="tests")
    holding = ExitStack()
    with site.in_chunks(BEFORE_COMMIT) as (run, chunk_no):
        # Somebody else there holds the log, which everybody waits for.
        writer = holding.enter_context(log.writing(gone))
        writer.record("replay_paused", {"run_id": run.run_id}, LEAVES)
        site.hosts.cut(LEAVES)
    site.traffic.append(CHUNK_ROWS)
    site.require_compared(run)
    status, worker, *_ = site.conn.execute(CHUNK, (run.run_id, chunk_no)).fetchone() or ("", "")
    assert (status, worker) == ("done", STAYS)
    eventually(lambda: "clickledger.replay_chunks was given up" in site.celery.log(LEAVES), "its process to give up")
    assert "raised unexpected" not in site.celery.log(LEAVES)

    for process in site.workers[STAYS]:
        site.celery.kill(process)
    site.hosts.join(LEAVES)
    with pytest.raises(errors.Unavailable, match="the database went away"):
        holding.close()
    assert site.conn.execute("SELECT count(*) FROM log WHERE actor = %s", (LEAVES,)).fetchone() == (0,)
    alone = replay.start(site.conn, site.plan, "tests", "", chunk_rows=CHUNK_ROWS)
    site.require_compared(alone)
    assert site.conn.execute(WORKED, (alone.run_id,)).fetchall() == [(LEAVES,)]
    publication.publish(site.conn, run.run_id, comparison.latest(site.conn, run.run_id).digest, "tests", "")
    report = audit.verify(site.conn)
    assert report.ok, report.failures
