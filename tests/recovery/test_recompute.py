"""Wrong counters: features counted again from the log give the decisions of a world without the fault, to the bit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import redis
from decided_traffic import Versions, deploy
from live_clicks import START_MS, click

from clickledger import errors
from clickledger.console import provenance_text
from clickledger.ledger import append, audit, comparison, database, deployments, log, provenance, publication, runs
from clickledger.recovery import plans, preview, publishing, recounting, replay, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker
from clickledger.scoring import counters, feature_replay, feature_spec, rescore, transform
from clickledger.scoring import model as models_
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted
from clickledger.scoring.deciding import MODEL_UNUSABLE, Decider

CLICKS, STEP_MS, BATCH = 1_200, 110_000, 60  # a day and a half: longer than the longest window
FAULT, HEALED = 500, 700
ROWS = """
    SELECT uuid_send(click_id), score, threshold, verdict::text, reason, model_version FROM {table}
    WHERE {which} ORDER BY click_id"""


class World(NamedTuple):
    """Clicks with what sound counters count of them, and a ledger whose counters were not sound."""

    clicks: list[Click]
    sound: Counted
    versions: Versions
    positions: list[int]  # of the batches


def network(seed: int = 3) -> models_.Model:
    """Layers that no training made, over every feature."""
    random = np.random.default_rng(seed)
    width = len(transform.COLUMNS)
    learned = transform.Transform(np.full(width, 2.0, np.float32), np.full(width, 2.0, np.float32))
    layers = tuple(
        (models_.on_grid(random.normal(0, 1, (a, b))), models_.on_grid(random.normal(0, 1, b)))
        for a, b in pairwise((width, 8, 4, 1))
    )
    return models_.Model("network", learned, layers)


def register(conn: database.Connection, seed: int = 3) -> Versions:
    version = deployments.register_model(conn, models_.to_artefact(network(seed)), "network", {}, "tests")
    return version, deployments.set_calibration(conn, version, {"*": 0.25}, {}, "tests")


def count(client: redis.Redis, epoch: int, clicks: Sequence[Click], damage: bool) -> list[Counted]:
    """Count in batches; damaged, half of the records are lost now and again between `FAULT` and `HEALED`."""
    counters.open_epoch(client, epoch)
    counter = counters.FeatureCounter(client, epoch)
    found = []
    for start in range(0, len(clicks), BATCH):
        if damage and FAULT <= start < HEALED:
            keys = sorted([*client.scan_iter("cl:u:*"), *client.scan_iter("cl:i:*")])
            client.delete(*keys[::2])
        found.append(counter.count(clicks[start : start + BATCH]))
    return found


def world(conn: database.Connection, client: redis.Redis, late: int = 0) -> World:
    """A ledger on which counters lost records unnoticed; `late` clicks came too late to be counted."""
    clicks = [click(n, time_ms=START_MS + n * STEP_MS) for n in range(CLICKS)]
    for k in range(late):  # they come last, with times of the middle
        clicks[k - late] = click(CLICKS + k, time_ms=START_MS + (300 + 7 * k) * STEP_MS + 1)
    sound = counters_joined(count(client, 1, clicks, damage=False))
    client.flushall()
    versions = register(conn)
    deploy(conn, versions)
    decider = Decider()
    decider.follow(conn)
    positions = []
    for number, counted in enumerate(count(client, 1, clicks, damage=True)):
        batch = decider.decide_batch(clicks[number * BATCH : (number + 1) * BATCH], counted, 1)
        appended = append.append(conn, batch, actor="tests")
        assert appended.position is not None
        positions.append(appended.position)
    return World(clicks, sound, versions, positions)


def counters_joined(parts: Sequence[Counted]) -> Counted:
    return Counted(
        np.concatenate([part.seq for part in parts]),
        np.concatenate([part.features for part in parts]),
        [reason for part in parts for reason in part.reason],
    )


def expected(conn: database.Connection, made: World) -> list[tuple[object, ...]]:
    """What a run without the fault decides of the clicks of the last batches."""
    decider = Decider()
    decider.follow(conn)
    batch = decider.decide_batch(made.clicks, made.sound, 1)
    rows = zip(
        batch.click_id, batch.score, batch.threshold, batch.verdict, batch.reason, batch.model_version, strict=True
    )
    return sorted((i, _bits(s), _bits(t), v, r, int(m)) for i, s, t, v, r, m in rows)


def _bits(value: float) -> bytes:
    """The server sends float4 in decimal, which gives the same bits again."""
    return np.float32(value).tobytes()


def replayed(conn: database.Connection, lo: int, hi: int, versions: Versions, **options: int) -> runs.Run:
    plan = plans.for_positions(conn, lo, hi, What(versions, mode="recompute"))
    run = replay.start(conn, plan, "tests", "", **options)
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    assert steps.finish(conn, run.run_id, "tests") is not None
    return run


def decided(conn: database.Connection, run: runs.Run) -> list[tuple[object, ...]]:
    return stored(conn, "delayed_decisions", f"run_id = {run.run_id}")


def stored(conn: database.Connection, table: str, which: str) -> list[tuple[object, ...]]:
    rows = conn.execute(ROWS.format(table=table, which=which).encode())
    return [(i, _bits(s), _bits(t), v, r, m) for i, s, t, v, r, m in rows]


def test_a_recompute_decides_as_if_the_counters_had_never_been_wrong_to_the_bit(
    conn: database.Connection, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(conn, redis_client)
    live = stored(conn, "decisions", "true")
    wanted = expected(conn, made)
    wrong = sum(a != b for a, b in zip(live, wanted, strict=True))
    assert wrong > 200  # the poison reaches far beyond the fault

    monkeypatch.setattr(recounting, "RECORDS_MAX", 100)  # in halves, as where windows hold more than memory should
    head = log.head(conn).position
    run = replayed(conn, made.positions[0], head + 1, (runs.OWN, runs.OWN), chunk_rows=250)
    assert decided(conn, run) == wanted
    changed = conn.execute("SELECT uuid_send(click_id), features FROM run_features").fetchall()
    sound = dict(zip([c.click_id for c in made.clicks], feature_spec.pack_snapshots(made.sound.features), strict=True))
    assert len(changed) >= wrong
    assert {i: bytes(f) for i, f in changed} == {i: sound[i] for i, _ in changed}

    digest = comparison.latest(conn, run.run_id).digest
    publication.publish(conn, run.run_id, digest, "tests", "")
    report = audit.verify(conn)
    assert report.ok, report.failures
    again = rescore.sample(conn)
    assert (again.exact, again.rescored) == (again.total, 2 * CLICKS)


def test_why_shows_the_features_that_were_counted_again(conn: database.Connection, redis_client: redis.Redis) -> None:
    made = world(conn, redis_client)
    run = replayed(conn, made.positions[0], log.head(conn).position + 1, (runs.OWN, runs.OWN))
    [(click_id, features)] = conn.execute("SELECT click_id, features FROM run_features LIMIT 1").fetchall()
    story = provenance.why(conn, click_id)
    recorded = provenance_text.features_of(story["click"])
    shown = provenance_text.recounted(story)[run.run_id]
    sound = dict(zip(feature_spec.FEATURES, feature_spec.unpack_snapshots([bytes(features)])[0].tolist(), strict=True))
    assert shown == {name: value for name, value in sound.items() if recorded[name] != value} != {}
    assert [check["exact"] for check in provenance_text.rescored(conn, story)] == [True, True]


def test_the_snapshots_of_an_abandoned_run_are_evidence_like_its_decisions(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    run = replayed(conn, made.positions[0], log.head(conn).position + 1, (runs.OWN, runs.OWN))
    publishing.abandon(conn, run.run_id, "ann", "the fault began earlier")
    [(click_id, kept)] = conn.execute("SELECT min(click_id::text)::uuid, count(*) FROM run_features").fetchall()
    assert kept > 200

    def found() -> tuple[bool, bool, bool]:
        """Whether the audit, a sample of re-scored decisions, and what `why` re-scores find it all right."""
        checks = provenance_text.rescored(conn, provenance.why(conn, click_id))
        sampled = rescore.sample(conn)
        return audit.verify(conn).ok, sampled.ok and sampled.rescored == 2 * CLICKS, all(c["exact"] for c in checks)

    assert found() == (True, True, True)
    conn.execute("ALTER TABLE run_features DISABLE TRIGGER ALL")  # as nobody but the owner can
    conn.execute("DELETE FROM run_features")
    assert found() == (False, False, False)


def test_a_later_part_of_a_range_is_counted_with_the_longest_window_before_it(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    lo = made.positions[15]
    run = replayed(conn, lo, made.positions[17], made.versions)
    ids = {row[0] for row in decided(conn, run)}
    assert len(ids) == 2 * BATCH
    assert decided(conn, run) == [row for row in expected(conn, made) if row[0] in ids]


def test_a_preview_counts_whole_chunks_again(conn: database.Connection, redis_client: redis.Redis) -> None:
    made = world(conn, redis_client)
    plan = plans.for_positions(
        conn, made.positions[0], made.positions[-1] + 1, What((runs.OWN, runs.OWN), mode=runs.RECOMPUTE)
    )
    shown = preview.preview(conn, plan)
    assert shown.chunks == 1 and shown.estimate.sampled_clicks == shown.clicks


def test_clicks_that_were_never_counted_and_those_whose_order_is_lost_are_named(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client, late=5)
    conn.execute("ALTER TABLE clicks DISABLE TRIGGER ALL")
    partition = "SELECT DISTINCT tableoid::regclass::text FROM clicks WHERE seq IN (801, 802)"
    for (name,) in conn.execute(partition).fetchall():
        conn.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER".encode())
    conn.execute("UPDATE clicks SET seq = 801 WHERE seq = 802")
    run = replayed(conn, made.positions[0], log.head(conn).position + 1, (runs.OWN, runs.OWN))
    named = "SELECT reason, carried, count(*) FROM delayed_decisions WHERE run_id = %s AND reason <> '' GROUP BY 1, 2"
    assert sorted(conn.execute(named, (run.run_id,)).fetchall()) == [
        (recounting.ORDER_LOST, True, 2),
        ("late", True, 5),
    ]


def test_a_recompute_that_needs_days_which_left_is_refused_and_names_them(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    day = np.datetime64(made.clicks[0].event_time_ms, "ms").astype(str)[:10]
    conn.execute("INSERT INTO detached_days VALUES (%s, 1, gen_random_uuid(), '', 1, 1, 1, 1, 1, NULL)", (day,))
    with pytest.raises(errors.Refused, match=f"needs the clicks of {day}, which have left"):
        recounting.recount(conn, made.positions[-1], made.positions[-1] + 1, [c.click_id for c in made.clicks])


def test_the_plan_for_wrong_counters_has_a_margin_before_and_the_poisoned_tail_after(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    onset, healed = (log.entry(conn, made.positions[i]).recorded_at for i in (8, 12))
    just_before = log.entry(conn, made.positions[7]).recorded_at
    own = What((runs.OWN, runs.OWN))
    plan = plans.for_counters(conn, onset, healed, onset - just_before, own)
    assert plan.lo <= made.positions[7] and plan.mode == "recompute"
    assert plan.hi == log.head(conn).position + 1
    assert "28 h" in plan.why and "as far as it has been recorded" in plan.why

    deployments.begin_counter_epoch(conn, {"kept": {"counter_epoch": 1, "seq": 9}}, "tests", "")
    assert plans.for_counters(conn, onset, healed, timedelta(0), own).hi == log.head(conn).position + 1
    deployments.begin_counter_epoch(conn, {"kept": None}, "tests", "")
    rebuilt = log.head(conn).position
    ended = plans.for_counters(conn, onset, healed, timedelta(0), own)
    assert ended.hi == rebuilt and f"rebuilt at position {rebuilt}" in ended.why


def test_a_rebuilding_that_never_took_effect_does_not_end_what_wrong_counters_poisoned(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    onset, healed = (log.entry(conn, made.positions[i]).recorded_at for i in (8, 12))
    rebuilt = deployments.begin_counter_epoch(conn, {"kept": {"counter_epoch": 1}, "kept_used": False}, "tests", "")
    kept = {"kept": {"counter_epoch": rebuilt - 1, "seq": 9}, "kept_used": True, "since_ms": None}
    deployments.begin_counter_epoch(conn, kept, "tests", "")  # it was not complete: the old ones count on
    plan = plans.for_counters(conn, onset, healed, timedelta(0), What((runs.OWN, runs.OWN)))
    assert plan.hi == log.head(conn).position + 1


def test_clicks_whose_model_cannot_be_used_are_carried_where_each_is_decided_by_its_own(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client)
    version = deployments.register_model(conn, b"of another schema", "network", {}, "tests")
    deploy(conn, (version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests")))
    decider = Decider()
    decider.follow(conn)
    late = [click(CLICKS + k, time_ms=START_MS + (CLICKS + k) * STEP_MS) for k in range(3)]
    batch = decider.decide_batch(late, counters.FeatureCounter(redis_client, 1).count(late), 1)
    append.append(conn, batch, actor="tests")
    run = replayed(conn, made.positions[-1], log.head(conn).position + 1, (runs.OWN, runs.OWN))
    carried = "SELECT reason, count(*) FROM delayed_decisions WHERE run_id = %s AND carried GROUP BY 1"
    assert conn.execute(carried, (run.run_id,)).fetchall() == [(MODEL_UNUSABLE, 3)]
    with pytest.raises(errors.Refused, match="1 are not"):
        replayed(conn, made.positions[-1], log.head(conn).position + 1, (version, 2))  # asked for, it has to decide


def test_a_click_that_came_too_late_gets_the_features_it_would_have_had_in_time(
    conn: database.Connection, redis_client: redis.Redis
) -> None:
    made = world(conn, redis_client, late=5)
    late = made.clicks[-5:]
    again = recounting.count_in_time(conn, [uuid.UUID(bytes=c.click_id) for c in late])
    in_time = sorted(made.clicks, key=lambda c: c.event_time_ms)
    snapshots = feature_spec.pack_snapshots(feature_replay.recompute(in_time))
    assert again == {c.click_id: s for c, s in zip(in_time, snapshots, strict=True) if c in late}
    assert recounting.count_in_time(conn, []) == {}
