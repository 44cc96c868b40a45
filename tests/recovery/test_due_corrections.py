"""Corrections that nobody asked for: what is proposed, once, and that nothing is published by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from decided_traffic import BAD_LIMIT, DAY_MS, STABLE_LIMIT, START_MS, Traffic, deploy, register

from clickledger import errors
from clickledger.ledger import append, audit, database, log, outcomes, reading, sparse
from clickledger.recovery import due_corrections, plans, publishing, replay, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker
from clickledger.scoring import deciding

LIVE = "SELECT click_id FROM decisions WHERE verdict = %s ORDER BY log_position, line"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded just now counts as recorded long ago."""
    monkeypatch.setattr(due_corrections, "SETTLED_AFTER", timedelta(0))


def look(conn: database.Connection) -> due_corrections.Look | None:
    return due_corrections.look(conn, "recovery")


def publish_all(conn: database.Connection) -> None:
    for proposal in due_corrections.listed(conn):
        publishing.publish(conn, proposal.run_id, proposal.digest, "ann", "looked at")


def published_replay(conn: database.Connection, position: int, versions: tuple[int, int]) -> int:
    """A replay of one entry through a model, in force."""
    run = replay.start(conn, plans.for_positions(conn, position, position + 1, What(versions)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None
    publishing.publish(conn, run.run_id, compared.digest, "ann", "decided again")
    return run.run_id


def invalid_in_force(conn: database.Connection, click_ids: list[bytes]) -> set[bytes]:
    query = "SELECT click_id FROM authoritative_decisions WHERE verdict = 'invalid'"
    return {row[0].bytes for row in conn.execute(query)} & set(click_ids)


def bought(conn: database.Connection, click_ids: list[bytes]) -> None:
    outcomes.append(conn, [outcomes.Outcome(c, "purchase", START_MS, 1) for c in click_ids], "tests")


def test_undecided_clicks_are_proposed_as_the_model_in_force_decides_them_and_not_published(
    conn: database.Connection,
) -> None:
    traffic = Traffic(conn)
    traffic.append(300)
    waiting = look(conn)
    assert waiting is not None and (waiting.undecided, waiting.runs) == (0, [])  # no model is deployed
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic.append(10)
    found = look(conn)
    assert found is not None
    assert (found.undecided, found.bought, len(found.runs)) == (300, 0, 2)
    [before] = [t for t in reading.totals(conn) if t.currency == "EUR"]
    assert before.undecided > 0
    assert [(p.clicks, p.what) for p in due_corrections.listed(conn)] == [
        (sparse.CLICKS_MAX, due_corrections.RESOLVED),
        (300 - sparse.CLICKS_MAX, due_corrections.RESOLVED),
    ]
    publish_all(conn)
    assert due_corrections.listed(conn) == []
    assert [t.undecided for t in reading.totals(conn)] == [0, 0]
    resolved = "SELECT count(*) FROM authoritative_decisions WHERE (verdict = 'invalid') <> (score >= threshold)"
    assert conn.execute(resolved).fetchone() == (0,)
    report = audit.verify(conn)
    assert report.ok, report.failures


def test_a_late_click_is_decided_as_if_it_had_come_in_time(conn: database.Connection) -> None:
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn)
    traffic.append(50)
    traffic.append(20, late=3)
    found = look(conn)
    assert found is not None and found.undecided == 3
    reasons = conn.execute("SELECT DISTINCT reason, verdict::text FROM delayed_decisions").fetchall()
    assert reasons == [("was undecided: late, counted as if it had come in time", "valid")]


def test_a_replay_leaves_late_clicks_that_were_resolved_as_they_are(conn: database.Connection) -> None:
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    position = traffic.append(20, late=3)
    assert look(conn) is not None
    resolved = [proposal.run_id for proposal in due_corrections.listed(conn)]
    publish_all(conn)
    run = replay.start(conn, plans.for_positions(conn, position, position + 1, What(stable)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None and (compared.summary["flips"], compared.summary["carried"]) == (0, 3)
    publishing.revert(conn, resolved[0], "ann", "not that way")
    with pytest.raises(errors.StalePlan, match="changed the range"):
        publishing.publish(conn, run.run_id, compared.digest, "ann", "")
    again = publishing.compare(conn, run.run_id, "ann")
    with pytest.raises(errors.OutdatedRun, match="carries decisions that run"):
        publishing.publish(conn, run.run_id, again.digest, "ann", "")


def test_a_replay_that_was_compared_before_late_clicks_were_resolved_does_not_open_them_again(
    conn: database.Connection,
) -> None:
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    position = Traffic(conn).append(20, late=3)
    run = replay.start(conn, plans.for_positions(conn, position, position + 1, What(stable)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    before = steps.finish(conn, run.run_id, "tests")
    assert before is not None
    assert look(conn) is not None
    publish_all(conn)
    with pytest.raises(errors.StalePlan, match="changed the range"):
        publishing.publish(conn, run.run_id, before.digest, "ann", "")
    again = publishing.compare(conn, run.run_id, "ann")
    with pytest.raises(errors.OutdatedRun, match="carries decisions that run"):
        publishing.publish(conn, run.run_id, again.digest, "ann", "")
    assert [t.undecided for t in reading.totals(conn)] == [0, 0]


def test_an_undecided_click_that_led_to_a_purchase_is_proposed_as_valid(conn: database.Connection) -> None:
    traffic = Traffic(conn)
    traffic.append(30, hourly=40)
    bought(conn, traffic.ids[:1])
    deploy(conn, register(conn, STABLE_LIMIT))
    found = look(conn)
    assert found is not None and found.undecided == 30
    stated = conn.execute("SELECT click_id, verdict::text, reason FROM delayed_decisions").fetchall()
    assert [(c.bytes, r) for c, v, r in stated if v == "valid"] == [
        (traffic.ids[0], "was undecided: model_absent; led to a purchase, recorded at position 3")
    ]
    bought(conn, traffic.ids[1:2])  # before anybody published what was proposed of it
    assert look(conn) is not None
    publish_all(conn)
    assert invalid_in_force(conn, traffic.ids) == set(traffic.ids[1:])
    again = look(conn)
    assert again is not None and (again.bought, len(again.runs)) == (1, 1)
    assert [proposal.what for proposal in due_corrections.listed(conn)] == [due_corrections.BOUGHT]
    assert log.entry(conn, again.runs[0]).reason == "purchases of invalidated clicks"
    publish_all(conn)
    assert invalid_in_force(conn, traffic.ids) == set(traffic.ids[2:])


def test_a_click_is_proposed_once_whatever_becomes_of_it(conn: database.Connection) -> None:
    traffic = Traffic(conn)
    traffic.append(20)
    deploy(conn, register(conn, STABLE_LIMIT))
    first = look(conn)
    assert first is not None
    publishing.abandon(conn, first.runs[0], "ann", "no")
    assert due_corrections.listed(conn) == []
    assert look(conn) is None  # nothing was recorded since
    conn.execute("ALTER TABLE log DISABLE TRIGGER ALL")  # as if the look had been cut off before its entry
    conn.execute("DELETE FROM log WHERE kind = 'corrections_proposed'")
    again = look(conn)
    assert again is not None and (again.undecided, again.runs) == (0, [])


def test_late_clicks_that_no_replay_decides_are_proposed_look_after_look_however_many(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_corrections, "CLICKS_MAX", 30)
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn)
    traffic.append(50)
    for late in (20, 45):
        traffic.append(50, late=late)
    looks = [look(conn) for _ in range(3)]
    assert [found and (found.undecided, found.too_many) for found in looks] == [(30, None), (30, None), (5, None)]
    publish_all(conn)
    assert [t.undecided for t in reading.totals(conn)] == [0, 0]


def test_more_undecided_clicks_than_corrections_are_for_are_named_for_a_replay(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_corrections, "CLICKS_MAX", 30)
    traffic = Traffic(conn)
    position = traffic.append(31)
    deploy(conn, register(conn, STABLE_LIMIT))
    found = look(conn)
    assert found is not None and found.runs == []
    assert found.too_many is not None and found.too_many[0] <= position < found.too_many[1]
    assert look(conn) is None
    assert log.read(conn, kinds=["corrections_proposed"])[-1].payload["too_many"] == found.too_many


def test_a_click_whose_model_could_not_be_used_is_decided_by_the_one_that_can(conn: database.Connection) -> None:
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    batch = traffic.batch(8)
    batch.verdict[:], batch.reason[:] = ["undecided"] * 8, [deciding.MODEL_UNUSABLE] * 8
    batch.score[:], batch.threshold[:] = float("nan"), float("nan")
    append.append(conn, batch, actor="tests")
    found = look(conn)
    assert found is not None and found.undecided == 8
    versions = "SELECT DISTINCT model_version, calibration_version FROM delayed_decisions"
    assert conn.execute(versions).fetchall() == [stable]


def test_late_clicks_that_days_gone_or_apart_lie_between_hold_up_nothing(conn: database.Connection) -> None:
    deploy(conn, register(conn, STABLE_LIMIT))
    old = Traffic(conn, start_ms=START_MS - 30 * DAY_MS)
    old.append(2, late=2)
    traffic = Traffic(conn)
    traffic.count = 2
    traffic.append(50)
    traffic.append(20, late=3)
    gone = """INSERT INTO detached_days (day, position, departure, digest, clicks, delayed, first_position,
                                         last_position, settled_position)
              VALUES ('2024-02-08', 1, gen_random_uuid(), %s, 1, 0, 1, 1, 1)"""
    conn.execute(gone, (bytes(32),))
    found = look(conn)
    assert found is not None and (found.undecided, found.uncountable) == (3, 2)
    proposed = {row[0].bytes for row in conn.execute("SELECT click_id FROM delayed_decisions")}
    assert proposed == set(traffic.ids[50:53])
    assert look(conn) is None


def test_more_purchases_than_one_look_proposes_are_proposed_by_the_next(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_corrections, "CLICKS_MAX", 4)
    deploy(conn, register(conn, BAD_LIMIT))
    traffic = Traffic(conn)
    traffic.append(40)
    assert look(conn) is not None
    for start in range(0, 40, 20):
        bought(conn, traffic.ids[start : start + 20])
    invalid = conn.execute(LIVE, ("invalid",)).fetchall()
    assert len(invalid) > 8
    found = [found.bought for _ in range(20) if (found := look(conn)) is not None]
    assert sum(found) == len(invalid) and max(found) == 4
    assert conn.execute("SELECT count(*), count(DISTINCT click_id) FROM delayed_decisions").fetchone() == (
        len(invalid), len(invalid),
    )  # fmt: skip
    assert look(conn) is None


@pytest.mark.parametrize("early", [False, True])
def test_a_purchase_of_an_invalid_click_is_proposed_whichever_of_the_two_was_recorded_later(
    conn: database.Connection, early: bool
) -> None:
    deploy(conn, register(conn, BAD_LIMIT))
    traffic = Traffic(conn)
    if early:
        bought(conn, traffic.batch(40).click_id)
        traffic.count = 0
        assert look(conn) is not None
        traffic.append(40)
    else:
        traffic.append(40)
        assert look(conn) is not None
        bought(conn, traffic.ids)
    invalid = [row[0] for row in conn.execute(LIVE, ("invalid",))]
    found = look(conn)
    assert found is not None and found.bought == len(invalid) > 0
    stated = conn.execute(
        "SELECT click_id, verdict::text FROM delayed_decisions ORDER BY log_position, line"
    ).fetchall()
    assert stated == [(click, "valid") for click in invalid]
    publish_all(conn)
    traffic.append(1, hourly=1)
    again = look(conn)
    assert again is not None and again.bought == 0


def test_a_purchase_that_a_later_replay_overruled_is_proposed_again(conn: database.Connection) -> None:
    bad, worse = register(conn, BAD_LIMIT), register(conn, BAD_LIMIT - 1)
    deploy(conn, bad)
    traffic = Traffic(conn)
    position = traffic.append(40)
    bought(conn, traffic.ids)
    first = look(conn)
    assert first is not None and first.bought > 0
    assert invalid_in_force(conn, traffic.ids)
    publish_all(conn)
    assert not invalid_in_force(conn, traffic.ids)

    run_id = published_replay(conn, position, worse)  # it knows nothing of purchases
    overruled = invalid_in_force(conn, traffic.ids)
    assert len(overruled) >= first.bought
    again = look(conn)
    assert again is not None and again.bought == len(overruled)
    [reason] = {
        row[0] for row in conn.execute("SELECT reason FROM delayed_decisions WHERE run_id = ANY (%s)", (again.runs,))
    }
    assert reason.endswith(f"; run {run_id} decided otherwise")
    assert look(conn) is None  # it waits, and is not proposed twice
    publish_all(conn)
    assert not invalid_in_force(conn, traffic.ids)

    published_replay(conn, position, bad)
    third = look(conn)
    assert third is not None and third.bought == first.bought
    for waiting in due_corrections.listed(conn):
        publishing.abandon(conn, waiting.run_id, "ann", "robots buy, too")
    published_replay(conn, position, bad)
    last = look(conn)  # somebody said no
    assert last is not None and last.bought == 0
    report = audit.verify(conn)
    assert report.ok, report.failures


def test_a_purchase_is_proposed_once_a_replay_that_agreed_with_it_is_reverted(conn: database.Connection) -> None:
    bad, stable = register(conn, BAD_LIMIT), register(conn, STABLE_LIMIT)
    deploy(conn, bad)
    traffic = Traffic(conn)
    position = traffic.append(40)
    live = invalid_in_force(conn, traffic.ids)
    run_id = published_replay(conn, position, stable)
    spared = live - invalid_in_force(conn, traffic.ids)
    assert spared
    bought(conn, sorted(spared))
    found = look(conn)
    assert found is not None and found.bought == 0
    publishing.revert(conn, run_id, "ann", "not that model")
    again = look(conn)
    assert again is not None and again.bought == len(spared)


def test_what_somebody_stated_of_a_click_that_bought_is_not_proposed_against(conn: database.Connection) -> None:
    bad = register(conn, BAD_LIMIT)
    deploy(conn, bad)
    traffic = Traffic(conn)
    position = traffic.append(40)
    bought(conn, traffic.ids)
    assert look(conn) is not None
    one = sorted(invalid_in_force(conn, traffic.ids))[0]
    publish_all(conn)
    published_replay(conn, position, bad)
    stated = sparse.plan(conn, [sparse.Correction(one, "invalid", "a farm")], actor="ann", reason="a dispute")
    compared = publishing.compare(conn, stated.run_id, "ann")
    publishing.publish(conn, stated.run_id, compared.digest, "ann", "")
    found = look(conn)
    assert found is not None and found.bought > 0
    proposed = conn.execute("SELECT click_id FROM delayed_decisions WHERE run_id = ANY (%s)", (found.runs,))
    assert {row[0].bytes for row in proposed} == invalid_in_force(conn, traffic.ids) - {one}
