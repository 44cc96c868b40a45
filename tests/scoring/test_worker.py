"""The live way with real worker processes: what is killed, lost, revoked or poisoned on it changes no promise."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from live_clicks import START_MS, click, clicks, require_decided_once
from msgspec import structs
from worker_processes import Workers, until, waiting_backends, workers

from clickledger import errors
from clickledger.console import home, processes, services, valkey
from clickledger.ledger import database, deployments, log
from clickledger.scoring import (
    counter_epochs,
    counters,
    decide,
    exchange,
    feature_spec,
    heartbeat,
    model,
    shadowing,
    stream,
    velocity,
)
from clickledger.scoring.click import Click
from clickledger.scoring.consuming import Consumer, Message
from clickledger.scoring.deciding import MODEL_UNUSABLE
from clickledger.scoring.exchange import ExchangeConfig
from clickledger.scoring.stream import Answer
from clickledger.scoring.worker import Worker, WorkerConfig

QUICK = ExchangeConfig(resend_seconds=0.5)


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    with workers(database_url, redis_url, tmp_path) as made:
        yield made


def decided(redis_url: str, wanted: list[Click]) -> list[Answer]:
    """The answers to clicks, in the clicks' order."""
    return [answer for _, answer in sorted(exchange.decide_all(redis_url, wanted, QUICK))]


@contextmanager
def held_log(conn: database.Connection) -> Iterator[None]:
    """Nothing is appended while this holds the log's lock."""
    conn.execute("SET idle_in_transaction_session_timeout = 0")  # what is waited for may take longer on a busy machine
    with conn.transaction():
        conn.execute("SELECT take_log_lock()")
        yield


def deploy_velocity(conn: database.Connection, clicks_per_hour: int, shadow: dict[str, int] | None = None) -> int:
    """Deploy the velocity rule with this limit; its model version."""
    version, calibration = register_velocity(conn, clicks_per_hour)
    deployments.deploy(conn, routing(version, calibration, shadow), "test")
    return version


def register_velocity(conn: database.Connection, clicks_per_hour: int) -> tuple[int, int]:
    artefact = model.to_artefact(velocity.velocity_model(clicks_per_hour))
    version = deployments.register_model(conn, artefact, "velocity", {}, "test")
    return version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "test")


def routing(version: int, calibration: int, shadow: dict[str, int] | None = None) -> dict[str, object]:
    route = {"slice": "*", "share": 1.0, "model": version, "calibration": calibration}
    return {"routes": [route], "shadow": shadow}


@contextmanager
def worker_here(database_url: str, redis_url: str) -> Iterator[None]:
    """A worker in this process: one that deploys nothing by itself."""
    worker = Worker(WorkerConfig("scoring-here", database_url, redis_url, block_ms=20))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def test_every_click_is_answered_with_what_was_committed(
    fleet: Workers, conn: database.Connection, redis_url: str
) -> None:
    fleet.start("scoring-1")
    sent = clicks(0, 700)
    changed = click(5, cost_micros=9)  # the same id with another price
    answers = decided(redis_url, [*sent, sent[0], changed])
    assert [answer.outcome for answer in answers] == ["new"] * 700 + ["repeat", "conflict"]
    assert {answer.verdict for answer in answers} == {"valid", "invalid"}
    stored = {
        row[0].bytes: row[1:] for row in conn.execute("SELECT click_id, log_position, verdict::text FROM decisions")
    }
    assert all(stored[answer.click_id] == (answer.position, answer.verdict) for answer in answers)
    require_decided_once(conn, sent)
    assert conn.execute("SELECT cost_micros FROM clicks WHERE external_id = 'click 5'").fetchone() == (1000,)


@pytest.mark.parametrize("append_survives", [True, False])
@pytest.mark.parametrize("successor", ["scoring-1", "scoring-2"])
def test_worker_killed_between_scoring_and_commit_loses_and_doubles_nothing(
    fleet: Workers, conn: database.Connection, database_url: str, redis_url: str, append_survives: bool, successor: str
) -> None:
    fleet.start("scoring-1")
    before, caught = clicks(0, 100), clicks(100, 150)
    decided(redis_url, before)
    with stream.connect(redis_url) as client, database.connect(database_url) as watcher:
        with held_log(conn):
            stream.put(client, caught)
            until(lambda: bool(waiting_backends(watcher)), "the worker to append")
            fleet.kill("scoring-1")
            if not append_survives:
                for pid in waiting_backends(watcher):
                    watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
                until(lambda: not waiting_backends(watcher), "its append to end")
            fleet.start(successor, claim_idle_seconds="0.2")
        until(fleet.drained, "the successor to decide what was taken")
    require_decided_once(conn, before + caught)
    assert deployments.current_counter_epoch(conn) == 1


def test_two_workers_share_the_stream_and_decide_each_click_once(
    fleet: Workers, conn: database.Connection, redis_url: str
) -> None:
    fleet.start("scoring-1", wait=False)
    fleet.start("scoring-2", wait=False)
    until(lambda: fleet.is_live("scoring-1") and fleet.is_live("scoring-2"), "both workers")
    sent = clicks(0, 3000)
    answers = decided(redis_url, sent)
    assert [answer.outcome for answer in answers] == ["new"] * len(sent)
    assert "undecided" not in {answer.verdict for answer in answers}
    require_decided_once(conn, sent)
    assert len(log.read(conn, kinds=["deployment_changed"])) == 1
    assert [fleet.stop("scoring-1"), fleet.stop("scoring-2")] == [0, 0]


def test_batch_caught_by_a_rollback_is_decided_again_under_the_new_epoch(
    fleet: Workers, conn: database.Connection, database_url: str, redis_url: str
) -> None:
    good, calibration = register_velocity(conn, 20)
    bad = deploy_velocity(conn, 1)
    fleet.start("scoring-1")
    sent = clicks(0, 200)
    with stream.connect(redis_url) as client, database.connect(database_url) as watcher, held_log(conn):
        stream.put(client, sent)
        until(lambda: bool(waiting_backends(watcher)), "the worker to append")
        done = deployments.roll_back(conn, bad, routing(good, calibration), "test")
    until(fleet.drained, "the batch to be decided again")
    models = conn.execute("SELECT DISTINCT model_version, deployment_epoch FROM decisions").fetchall()
    assert models == [(good, done.epoch)]
    require_decided_once(conn, sent)


def test_nothing_of_a_revoked_epoch_is_appended_after_its_rollback(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    good, calibration = register_velocity(conn, 20)
    bad = deploy_velocity(conn, 1)
    fleet.start("scoring-1")
    fleet.start("scoring-2")
    sent = clicks(0, 4000)
    running = exchange.decide_all(redis_url, sent, ExchangeConfig(in_flight_max=300))
    answers = [next(running) for _ in range(1000)]
    done = deployments.roll_back(conn, bad, routing(good, calibration), "test")
    answers += running
    assert len(answers) == len(sent)
    after = "SELECT count(*) FROM decisions WHERE model_version = %s AND log_position > %s"
    assert conn.execute(after, (bad, done.position)).fetchone() == (0,)
    before = "SELECT count(*) > 0 FROM decisions WHERE model_version = %s"
    assert conn.execute(before, (bad,)).fetchone() == (True,)
    until(lambda: {w.deployment_epoch for w in heartbeat.live(redis_client)} == {done.epoch}, "both to switch")
    require_decided_once(conn, sent)


def test_message_that_is_no_click_is_put_aside_and_the_others_are_decided(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    fleet.start("scoring-1")
    odd = click(7)
    short = Click(*[b"short" if name == "user_key" else getattr(odd, name) for name in odd.__struct_fields__])
    undated = click(8, time_ms=1000)
    poison = [{"c": b"\xc1 not msgpack", "k": "poison", "r": "cl:replies:test"}, {"x": "no click at all"}]
    stream.put(redis_client, clicks(0, 3))
    for message in [*poison, stream.fields(short), stream.fields(undated)]:
        redis_client.xadd(stream.STREAM, message)
    stream.put(redis_client, clicks(3, 3))
    until(fleet.drained, "the stream to be empty")
    require_decided_once(conn, clicks(0, 6))
    reasons = [fields[b"reason"].decode() for _, fields in redis_client.xrange("cl:rejected")]
    expected = ["expected a click, got", "expected a field c", "user_key: expected 16 bytes", "event_time_ms: expected"]
    assert len(reasons) == len(expected)
    assert all(part in reason for part, reason in zip(expected, reasons, strict=True)), reasons
    [told] = stream.Replies(stream.connect(redis_url), "cl:replies:test").read(0)
    assert (told.key, told.outcome) == ("poison", "rejected")


def test_message_never_leaves_its_group_without_leaving_the_stream(redis_client: redis.Redis, redis_url: str) -> None:
    redis_client.execute_command("ACL", "SETUSER", "broken_off", "on", ">x", "~*", "+@all", "-xdel")
    stream.put(redis_client, clicks(0, 1))
    # What comes from XDEL on is as if it had never been sent.
    with redis.Redis.from_url(redis_url, username="broken_off", password="x") as client:
        consumer = Consumer(client, "scoring-1")
        consumer.join()
        [message] = consumer.take(10, 0)
        with pytest.raises(redis.RedisError):
            consumer.settle([message], [answer_to(message)])
    redis_client.execute_command("ACL", "DELUSER", "broken_off")
    consumer = Consumer(redis_client, "scoring-1")
    [again] = consumer.take(10, 0)
    consumer.settle([again], [answer_to(again)])
    assert stream.backlog(redis_client) == 0


def answer_to(message: Message) -> Answer:
    return Answer(message.key, message.click.click_id, "new", "valid", "", 2, 1, 1.0)


def test_lost_counters_are_restored_from_the_log_and_nothing_is_doubled(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    fleet.start("scoring-1")
    decided(redis_url, clicks(0, 500))
    redis_client.flushall()
    redis_client.function_flush()
    decided(redis_url, clicks(500, 500))
    require_decided_once(conn, clicks(0, 1000))
    [entry] = log.read(conn, kinds=["counters_restored"])
    assert entry.payload["counter_epoch"] == deployments.current_counter_epoch(conn) == 2
    epochs = conn.execute("SELECT counter_epoch, count(*) FROM clicks GROUP BY 1 ORDER BY 1").fetchall()
    assert epochs == [(1, 500), (2, 500)]


def test_restore_that_was_broken_off_is_begun_again(
    conn: database.Connection, redis_client: redis.Redis, database_url: str, redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def die(*_: object) -> None:
        raise errors.Unavailable("killed here")

    with worker_here(database_url, redis_url):
        decided(redis_url, clicks(0, 300))
    redis_client.hset("cl:state", "epoch", 9)  # the ledger was set back to an earlier state; Valkey runs on
    with monkeypatch.context() as patch, database.connect(database_url) as dying, pytest.raises(errors.Unavailable):
        patch.setattr(counters.FeatureCounter, "restore", die)
        counter_epochs.settle(dying, stream.connect(redis_url), "test")
    with worker_here(database_url, redis_url):
        decided(redis_url, clicks(300, 300))
    require_decided_once(conn, clicks(0, 600))


def test_append_counted_on_lost_counters_is_counted_again(
    fleet: Workers, conn: database.Connection, database_url: str, redis_client: redis.Redis, redis_url: str
) -> None:
    fleet.start("scoring-1")
    before, caught = clicks(0, 300), clicks(300, 200)
    decided(redis_url, before)
    with database.connect(database_url) as watcher:
        with held_log(conn):
            stream.put(redis_client, caught)
            until(lambda: bool(waiting_backends(watcher)), "the worker to append")
            redis_client.flushall()
            fleet.start("scoring-2", wait=False)
            until(lambda: len(waiting_backends(watcher)) == 2, "the other one to declare the counters lost")
        until(lambda: fleet.is_live("scoring-2"), "the other one to have restored them")
    decided(redis_url, caught)  # what was on its way may have gone with the server's memory: senders send again
    require_decided_once(conn, before + caught)


def test_clicks_lost_with_the_stream_are_sent_again(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    sent = clicks(0, 400)
    running = exchange.decide_all(redis_url, sent, QUICK)
    answers: list[tuple[int, Answer]] = []
    taker = threading.Thread(target=lambda: answers.extend(running))
    taker.start()
    until(lambda: stream.backlog(redis_client) == len(sent), "the clicks to wait")
    redis_client.flushall()
    fleet.start("scoring-1")
    taker.join()
    assert sorted(index for index, _ in answers) == list(range(len(sent)))
    require_decided_once(conn, sent)


def test_clicks_lost_with_the_tail_of_the_stream_are_sent_again_before_newer_ones(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    sent = [click(number, time_ms=START_MS + 1000 * number) for number in range(400)]
    assert sent[-1].event_time_ms - sent[199].event_time_ms > feature_spec.LATE_MS
    answers: list[tuple[int, Answer]] = []
    running = exchange.decide_all(redis_url, sent, ExchangeConfig(in_flight_max=200))
    taker = threading.Thread(target=lambda: answers.extend(running))
    taker.start()
    until(lambda: stream.backlog(redis_client) == 200, "the clicks to wait")
    lost = [message for message, _ in redis_client.xrevrange(stream.STREAM, count=50)]
    redis_client.xdel(stream.STREAM, *lost)
    redis_client.client_kill_filter(_type="normal", skipme=True)
    fleet.start("scoring-1")
    taker.join()
    assert sorted(index for index, _ in answers) == list(range(len(sent)))
    assert {answer.reason for _, answer in answers} == {""}
    require_decided_once(conn, sent)


def test_worker_outlives_both_servers_and_keeps_its_counter_epoch(
    fleet: Workers, conn: database.Connection, servers: Any, redis_url: str
) -> None:
    fleet.start("scoring-1")
    decided(redis_url, clicks(0, 300))
    place = services.valkey_place(home.at(servers.home), None)
    processes.stop(valkey.running(place), [(processes.signal.SIGKILL, 30.0)])
    services.start_servers(servers.home)
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'clickledger scoring%' AND datname = current_database()"
    )
    decided(redis_url, clicks(300, 300))
    require_decided_once(conn, clicks(0, 600))
    assert deployments.current_counter_epoch(conn) == 1


def test_append_whose_connection_is_cut_is_repeated(
    fleet: Workers, conn: database.Connection, database_url: str, redis_client: redis.Redis
) -> None:
    fleet.start("scoring-1")
    with database.connect(database_url) as watcher, held_log(conn):
        stream.put(redis_client, clicks(0, 100))
        until(lambda: bool(waiting_backends(watcher)), "the worker to append")
        for pid in waiting_backends(watcher):
            watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(fleet.drained, "the clicks to be appended")
    require_decided_once(conn, clicks(0, 100))


def test_counters_of_another_ledger_are_refused(
    fleet: Workers, redis_client: redis.Redis, database_url: str, redis_url: str
) -> None:
    redis_client.set("cl:counters:owner", "another/run")
    fleet.start("scoring-1", wait=False)
    assert fleet.running["scoring-1"].wait(60) == 3
    assert "give it a Valkey of its own" in fleet.log("scoring-1").read_text()


def test_clicks_are_undecided_while_no_model_is_deployed(
    conn: database.Connection, database_url: str, redis_url: str
) -> None:
    with worker_here(database_url, redis_url):
        answers = decided(redis_url, clicks(0, 20))
    assert {(a.verdict, a.reason, a.deployment_epoch) for a in answers} == {("undecided", decide.MODEL_ABSENT, 0)}
    require_decided_once(conn, clicks(0, 20))


def test_routing_that_cannot_be_used_leaves_clicks_undecided(
    conn: database.Connection, database_url: str, redis_url: str
) -> None:
    artefact = deployments.register_model(conn, b"no safetensors", "network", {}, "test")
    calibration = deployments.set_calibration(conn, artefact, {"*": 0.0}, {}, "test")
    deployments.deploy(conn, routing(artefact, calibration), "test")
    with worker_here(database_url, redis_url):
        answers = decided(redis_url, clicks(0, 20))
        assert {(answer.verdict, answer.reason) for answer in answers} == {("undecided", MODEL_UNUSABLE)}
        deploy_velocity(conn, 20)
        numbers = count(20)
        until(lambda: decided(redis_url, [click(next(numbers))])[0].verdict == "valid", "the worker to go on")


def test_late_click_is_logged_undecided_and_not_counted(
    conn: database.Connection, database_url: str, redis_url: str
) -> None:
    deploy_velocity(conn, 20)
    late = click(10_000, time_ms=click(0).event_time_ms - 300_000)
    with worker_here(database_url, redis_url):
        *_, answer = decided(redis_url, [*clicks(0, 5), late])
    assert (answer.verdict, answer.reason) == ("undecided", "late")
    assert conn.execute("SELECT seq FROM clicks WHERE external_id = 'click 10000'").fetchone() == (0,)
    assert conn.execute("SELECT max(seq) FROM clicks").fetchone() == (5,)


def test_shadow_scores_are_written_for_new_clicks_only(
    conn: database.Connection, database_url: str, redis_url: str
) -> None:
    version, calibration = register_velocity(conn, 1)
    deploy_velocity(conn, 100, {"model": version, "calibration": calibration})
    with worker_here(database_url, redis_url):
        decided(redis_url, clicks(0, 100))
        decided(redis_url, clicks(50, 100))
    query = "SELECT count(*), count(DISTINCT click_id), min(model_version), bool_and(live_verdict = 'valid') {} {}"
    shadow = conn.execute(query.format("FROM shadow_scores", "")).fetchone()
    assert shadow == (150, 150, version, True)
    flipped = conn.execute("SELECT count(*) > 0 FROM shadow_scores WHERE verdict <> live_verdict").fetchone()
    assert flipped == (True,)


def test_every_model_in_shadow_is_scored_and_named_by_its_rows(
    conn: database.Connection, database_url: str, redis_url: str, redis_client: redis.Redis
) -> None:
    stable, candidate = register_velocity(conn, 1), register_velocity(conn, 2)
    version = deploy_velocity(conn, 100, {"model": stable[0], "calibration": stable[1]})
    with worker_here(database_url, redis_url):
        decided(redis_url, clicks(0, 100))
        epoch = shadowing.enter(conn, *candidate, actor="test")
        until(lambda: {w.deployment_epoch for w in heartbeat.live(redis_client)} == {epoch}, "it to follow")
        decided(redis_url, clicks(100, 100))
    query = """
        SELECT d.model_version, s.model_version, s.calibration_version, s.deployment_epoch, count(*)
        FROM shadow_scores s JOIN decisions d USING (click_id) GROUP BY 1, 2, 3, 4 ORDER BY 4, 2"""
    assert conn.execute(query).fetchall() == [
        (version, *stable, 1, 100), (version, *stable, 2, 100), (version, *candidate, 2, 100)
    ]  # fmt: skip
    differ = conn.execute("SELECT count(DISTINCT (threshold, score)) > 2 FROM shadow_scores").fetchone()
    assert differ == (True,)


def test_worker_that_starts_on_an_intact_valkey_writes_nothing(
    fleet: Workers, conn: database.Connection, redis_client: redis.Redis, redis_url: str
) -> None:
    fleet.start("scoring-1")
    decided(redis_url, clicks(0, 50))
    assert fleet.stop("scoring-1") == 0
    head = log.head(conn)
    fleet.start("scoring-1")
    answers = decided(redis_url, clicks(0, 50))
    assert {answer.outcome for answer in answers} == {"repeat"}
    assert log.head(conn) == head
    kept = counters.state(redis_client)
    assert kept is not None
    assert kept.seq == 50


def test_a_canary_decides_for_its_share_of_the_users_by_hash_and_is_fenced_when_rolled_back(
    fleet: Workers, conn: database.Connection, database_url: str, redis_url: str
) -> None:
    stable, canary = register_velocity(conn, 20), register_velocity(conn, 21)
    deployments.deploy(conn, routing(*stable), "test")
    deployments.amend(conn, lambda before: deployments.with_canary(before, *canary, 0.05), "test")
    fleet.start("scoring-1")
    sent = [structs.replace(one, user_key=hashlib.sha256(one.click_id).digest()[:16]) for one in clicks(0, 800)]
    decided(redis_url, sent[:700])
    rows = conn.execute("SELECT c.user_key, d.model_version FROM clicks c JOIN decisions d USING (click_id)").fetchall()
    of_canary = {user.bytes for user, version in rows if version == canary[0]}
    assert of_canary == {one.user_key for one in sent[:700] if decide.user_share(one.user_key) < 0.05}
    assert 15 < len(of_canary) < 60, "5% of 700"
    compared = "SELECT count(*) FROM shadow_scores WHERE model_version = %s"
    until(lambda: conn.execute(compared, (stable[0],)).fetchone() == (700,), "the stable model's scores of all")
    with stream.connect(redis_url) as client, database.connect(database_url) as watcher, held_log(conn):
        stream.put(client, sent[700:])
        until(lambda: bool(waiting_backends(watcher)), "the worker to append")
        deployments.roll_back(conn, canary[0], routing(*stable), "test")
    until(fleet.drained, "the batch to be decided again")
    later = "SELECT DISTINCT d.model_version FROM decisions d WHERE deployment_epoch > 2"
    assert conn.execute(later).fetchall() == [(stable[0],)]
    assert conn.execute("SELECT count(*) FROM decisions").fetchone() == (800,)


def test_a_worker_that_joins_while_one_has_all_clicks_bounds_what_is_on_its_way(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat(name: str) -> None:
        state = {"name": name, "pid": 1, "at_ms": 1, "deployment_epoch": 1, "switched_at_ms": 1, "counter_epoch": 1}
        heartbeat.beat(redis_client, heartbeat.Heartbeat(**state, clicks=0))

    monkeypatch.setattr(exchange, "LOOK_SECONDS", 0.0)
    config = exchange.ExchangeConfig(in_flight_max=10)
    beat("one")
    made = exchange._Exchange(redis_url, clicks(0, 30), config)
    made.step()
    assert made._span_ms is None
    beat("another")
    made.step()
    assert made._span_ms == config.span_ms_max
    made.close()


def test_names_of_workers_that_are_gone_are_forgotten(redis_client: redis.Redis) -> None:
    state = {"pid": 1, "at_ms": 1, "deployment_epoch": 1, "switched_at_ms": 1, "counter_epoch": 1, "clicks": 0}
    for name in ("here", "gone"):
        heartbeat.beat(redis_client, heartbeat.Heartbeat(name=name, **state))
    redis_client.delete("cl:heartbeat:gone")
    assert [beat.name for beat in heartbeat.live(redis_client)] == ["here"]
    assert redis_client.smembers("cl:workers") == {b"here"}
