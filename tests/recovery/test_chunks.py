"""Leases, tokens and rows of chunks, without Celery: every interleaving of executors is made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from decided_traffic import BAD_LIMIT, STABLE_LIMIT, Traffic, Versions, bad_deployment, deploy, register

from clickledger import errors
from clickledger.ledger import audit, comparison, database, deployments, publication, runs
from clickledger.ledger.runs import Run
from clickledger.recovery import chunks, progress, redecide, working
from clickledger.recovery.working import Worker

Connect = Callable[[], database.Connection]

ROWS = """
    SELECT click_id, log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch,
           model_version, calibration_version, score::text, threshold::text, verdict, reason, carried
    FROM delayed_decisions WHERE run_id = %s ORDER BY log_position, line"""
INTRUDER = """
    INSERT INTO delayed_decisions
    SELECT d.*, %s FROM decisions d WHERE log_position >= %s ORDER BY log_position, line LIMIT 1"""
LIVE_STABLE = "SELECT verdict::text, reason FROM decisions WHERE model_version = %s ORDER BY log_position, line"


def planned(conn: database.Connection, stable: Versions, bad: Versions, **options: object) -> Run:
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    return runs.plan(
        conn,
        *span,
        model_version=stable[0],
        calibration_version=stable[1],
        actor="tests",
        reason="",
        chunk_rows=500,
        **options,  # type: ignore[arg-type]  # keyword arguments of plan
    )


def work(conn: database.Connection, run: Run) -> int:
    return working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)


def rows(conn: database.Connection, run: Run) -> list[tuple[object, ...]]:
    return conn.execute(ROWS, (run.run_id,)).fetchall()


def statuses(conn: database.Connection, run: Run) -> list[str]:
    found = conn.execute("SELECT status FROM replay_chunks WHERE run_id = %s ORDER BY chunk_no", (run.run_id,))
    return [row[0] for row in found]


def expire(conn: database.Connection, run: Run) -> None:
    """Let every lease of a run be over."""
    conn.execute(
        "UPDATE replay_chunks SET lease_until = now() - interval '1 s' WHERE run_id = %s AND status = 'leased'",
        (run.run_id,),
    )


def test_a_replay_decides_every_click_of_the_range_as_the_stable_model_would(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    run = planned(conn, stable, bad)
    assert work(conn, run) == run.row_count == 2_000
    runs.stage(conn, run.run_id, "tests")
    verdicts = conn.execute("SELECT verdict::text, count(*) FROM delayed_decisions GROUP BY 1").fetchall()
    shadow = conn.execute("SELECT verdict::text, count(*) FROM shadow_scores GROUP BY 1").fetchall()
    assert sorted(verdicts) == sorted(shadow)
    assert {row[9:11] for row in rows(conn, run)} == {stable}


def test_staged_rows_hash_to_the_digests_of_their_chunks(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    run = planned(conn, stable, bad)
    work(conn, run)
    runs.stage(conn, run.run_id, "tests")
    compared = comparison.compare(conn, run.run_id, "tests")
    publication.publish(conn, run.run_id, compared.digest, "tests", "")
    assert audit.verify(conn).failures == {name: [] for name in audit.verify(conn).failures}


def test_a_click_counted_too_late_stays_undecided_for_its_reason(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn, batches=1)
    traffic.append(100, late=7)
    run = planned(conn, stable, bad)
    work(conn, run)
    undecided = [row for row in rows(conn, run) if row[13] == "undecided"]
    assert [(row[11], row[14], row[15]) for row in undecided] == [("NaN", "late", True)] * 7


def test_clicks_that_no_model_decided_are_decided_by_the_replay(conn: database.Connection) -> None:
    traffic = Traffic(conn)
    lo = traffic.append(100)
    stable = register(conn, STABLE_LIMIT)
    run = runs.plan(conn, lo, lo + 1, model_version=stable[0], calibration_version=stable[1], actor="tests", reason="")
    work(conn, run)
    assert {row[13] for row in rows(conn, run)} == {"valid", "invalid"}


def test_a_run_limited_to_slices_and_advertisers_carries_the_decisions_in_force_of_the_others(
    conn: database.Connection,
) -> None:
    _, stable, bad = bad_deployment(conn)
    everything = planned(conn, stable, bad)
    work(conn, everything)
    runs.stage(conn, everything.run_id, "tests")
    digest = comparison.compare(conn, everything.run_id, "tests").digest
    publication.publish(conn, everything.run_id, digest, "tests", "")

    scope = {"slices": ["web/out"], "advertisers": ["adv-1", "adv-2"]}
    limited = planned(conn, bad, bad, scope=scope)
    work(conn, limited)
    for old, new in zip(rows(conn, everything), rows(conn, limited), strict=True):
        inside = new[7] == "web/out" and new[3] in {"adv-1", "adv-2"}
        assert new[15] is not inside
        assert new[9:11] == bad if inside else new[:15] == old[:15]


def test_clicks_of_an_unknown_snapshot_schema_are_carried_and_say_why(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn, batches=1)
    traffic.append(50, schema=99)
    run = planned(conn, stable, bad)
    work(conn, run)
    carried = [row for row in rows(conn, run) if row[15]]
    live = conn.execute(
        "SELECT d.verdict FROM decisions d JOIN clicks USING (click_id) WHERE feature_schema = 99 ORDER BY d.line"
    )
    assert [row[13] for row in carried] == [row[0] for row in live]
    assert {row[14] for row in carried} == {"unknown_feature_schema"}
    assert {row[9:11] for row in carried} == {bad}


def test_a_chunk_executed_by_two_takes_effect_once(connect: Connect) -> None:
    first, second = connect(), connect()
    _, stable, bad = bad_deployment(first, batches=3)
    run = planned(first, stable, bad)
    judges = redecide.Judges(first)
    slow = chunks.claim(first, run.run_id, "slow", 60.0)
    assert slow is not None
    expire(first, run)
    assert [returned.status for returned in chunks.sweep(second)] == ["todo"]
    fast = chunks.claim(second, run.run_id, "fast", 60.0)
    assert fast is not None and (fast.chunk_no, fast.attempts) == (slow.chunk_no, 2)
    chunks.execute(second, run, fast, judges)
    with pytest.raises(chunks.LostLease):
        chunks.execute(first, run, slow, judges)
    assert len(rows(first, run)) == fast.row_count
    work(first, run)
    assert runs.stage(first, run.run_id, "tests").status == "staged"


def test_a_loser_that_is_slower_writes_nothing_even_before_the_winner_is_done(connect: Connect) -> None:
    first, second = connect(), connect()
    _, stable, bad = bad_deployment(first, batches=3)
    run = planned(first, stable, bad)
    judges = redecide.Judges(first)
    slow = chunks.claim(first, run.run_id, "slow", 60.0)
    assert slow is not None
    expire(first, run)
    chunks.sweep(second)
    assert chunks.claim(second, run.run_id, "fast", 60.0) is not None
    with pytest.raises(chunks.LostLease):
        chunks.execute(first, run, slow, judges)
    assert rows(first, run) == []


def test_a_lease_that_expired_but_was_not_taken_back_still_counts(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, batches=3)
    run = planned(conn, stable, bad)
    lease = chunks.claim(conn, run.run_id, "tests", 60.0)
    assert lease is not None
    expire(conn, run)
    chunks.execute(conn, run, lease, redecide.Judges(conn))
    assert chunks.sweep(conn) == []
    assert statuses(conn, run)[0] == "done"


def test_a_dead_workers_chunk_is_taken_over_by_whoever_is_at_work_without_a_sweep(connect: Connect) -> None:
    dead, alive = connect(), connect()
    _, stable, bad = bad_deployment(dead)
    run, other = planned(dead, stable, bad), planned(dead, stable, bad)
    held = [chunks.claim(dead, one.run_id, "dead", 60.0) for one in (run, other)]
    expire(dead, run)
    expire(dead, other)
    assert work(alive, run) == run.row_count
    assert statuses(alive, run) == ["done"] * 4
    assert statuses(alive, other) == ["leased", *["todo"] * 3]  # another run is the sweep's business
    assert held[0] is not None
    with pytest.raises(chunks.LostLease):
        chunks.execute(dead, run, held[0], redecide.Judges(dead))


def test_two_claims_never_get_the_same_chunk(connect: Connect) -> None:
    first, second = connect(), connect()
    _, stable, bad = bad_deployment(first)
    run = planned(first, stable, bad)
    with first.transaction():
        mine = chunks.claim(first, run.run_id, "one", 60.0)
        other = chunks.claim(second, run.run_id, "two", 60.0)  # does not wait for the first to commit
    assert mine is not None and other is not None
    assert mine.chunk_no != other.chunk_no


def test_a_failing_chunk_waits_out_its_lease_and_is_quarantined_after_its_attempts(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    run = planned(conn, stable, bad)
    # A row that is in the way: every attempt at its chunk fails on the unique key.
    conn.execute(INTRUDER, (run.run_id, run.lo))
    for attempt in range(1, chunks.ATTEMPTS_MAX + 1):
        work(conn, run)
        last = attempt == chunks.ATTEMPTS_MAX
        assert statuses(conn, run) == ["quarantined" if last else "leased", *["done"] * 3]
        assert work(conn, run) == 0
        expire(conn, run)
        assert [returned.status for returned in chunks.sweep(conn)] == ([] if last else ["todo"])
    state = progress.of_run(conn, run.run_id)
    assert (state.stage, state.done, state.quarantined) == ("stuck", 3, 1)
    [(number, attempts, error)] = progress.quarantined(conn, run.run_id)
    assert (number, attempts) == (0, chunks.ATTEMPTS_MAX)
    assert "UniqueViolation" in error
    with pytest.raises(errors.Refused, match="1 are not"):
        runs.stage(conn, run.run_id, "tests")
    assert chunks.release(conn, run.run_id) == 1
    assert statuses(conn, run)[0] == "todo"


def test_a_chunk_whose_workers_fall_silent_is_quarantined_after_its_attempts(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, batches=1)
    run = planned(conn, stable, bad)
    for _ in range(chunks.ATTEMPTS_MAX):
        assert chunks.claim(conn, run.run_id, "w7", 60.0) is not None
        expire(conn, run)
        chunks.sweep(conn)
    assert statuses(conn, run) == ["quarantined"]
    assert progress.quarantined(conn, run.run_id)[0][2] == "worker w7 fell silent in attempt 5"


def test_an_abandoned_run_gives_out_no_chunk_and_takes_no_row(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, batches=3)
    run = planned(conn, stable, bad)
    lease = chunks.claim(conn, run.run_id, "tests", 60.0)
    assert lease is not None
    runs.abandon(conn, run.run_id, "tests", "")
    assert chunks.claim(conn, run.run_id, "tests", 60.0) is None
    with pytest.raises(chunks.LostLease, match="takes no more decisions"):
        chunks.execute(conn, run, lease, redecide.Judges(conn))
    assert rows(conn, run) == []
    assert statuses(conn, run)[0] == "leased"  # rolled back with its rows


def test_an_unusable_model_quarantines_and_loses_nothing(conn: database.Connection) -> None:
    _, _, bad = bad_deployment(conn, batches=1)
    version = deployments.register_model(conn, b"not a model", "network", {}, "tests")
    calibration = deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests")
    run = planned(conn, (version, calibration), bad)
    assert work(conn, run) == 0
    assert statuses(conn, run) == ["leased"]
    error = conn.execute("SELECT last_error FROM replay_chunks").fetchone()
    assert error is not None and "InvalidInput: model artefact" in error[0]


def test_models_that_agree_give_a_replay_without_flips(conn: database.Connection) -> None:
    stable = register(conn, BAD_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    for _ in range(3):
        traffic.append(200)
    run = planned(conn, stable, stable)
    work(conn, run)
    live = conn.execute(LIVE_STABLE, (stable[0],)).fetchall()
    assert [(row[13], row[14]) for row in rows(conn, run)] == live
