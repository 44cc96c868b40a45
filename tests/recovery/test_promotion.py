"""From the shadow to all users: judged, long enough in shadow, a canary by hash of user, then all; fenced like any."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from decided_traffic import STABLE_LIMIT, START_MS, Traffic, click_id, deploy, register

from clickledger.errors import Conflict, InvalidInput, NotFound, Refused, RevokedDeployment
from clickledger.ledger import append, database, deployments, log
from clickledger.recovery import incidents, promotion, rollback
from clickledger.recovery.incidents import Status
from clickledger.recovery.promotion import Terms
from clickledger.scoring import decide, guardrails, shadow_scores

AT_ONCE = Terms(shadow_hours_min=0.0, canary_hours_min=0.0)
Pair = tuple[int, int]
HOUR_S = 3600


@pytest.fixture
def pairs(conn: database.Connection) -> tuple[Pair, Pair]:
    """A stable model that decides, and a challenger that does not."""
    stable, challenger = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 1)
    deploy(conn, stable)
    return stable, challenger


def judged(
    conn: database.Connection, pair: Pair, stable: Pair, refusing: tuple[str, ...] = (), actor: str = "ann"
) -> log.Entry:
    """A judgement as `behaviour.judge` records one; what the guards say is tested there."""
    finding = {
        "guard": "ivr", "passed": not refusing, "figure": 0.9, "limit": 0.15, "relation": "at most",
        "what": "change of the invalidation rate", "note": "", "figures": {},
    }  # fmt: skip
    payload: dict[str, Any] = {
        "subject": guardrails.BEHAVIOUR,
        "model_version": pair[0],
        "calibration_version": pair[1],
        "stable": {"model": stable[0], "calibration": stable[1]},
        "refusing": list(refusing),
        "findings": [finding],
    }
    return log.record(conn, "guardrail_refused" if refusing else "guardrails_passed", payload, actor)


def canary(conn: database.Connection, pair: Pair, actor: str = "ann", terms: Terms = AT_ONCE) -> promotion.Promoted:
    return promotion.begin_canary(conn, pair, actor=actor, reason="tests", terms=terms)


def promote(conn: database.Connection, pair: Pair, actor: str = "ann", terms: Terms = AT_ONCE) -> promotion.Promoted:
    return promotion.promote(conn, pair, actor=actor, reason="tests", terms=terms)


def test_what_was_not_judged_is_not_promoted(conn: database.Connection, pairs: tuple[Pair, Pair]) -> None:
    _, challenger = pairs
    for stage in (canary, promote):
        with pytest.raises(Refused, match=r"behaviour was not judged: clickledger model judge 2 --calibration 2"):
            stage(conn, challenger)
    with pytest.raises(NotFound):
        canary(conn, (2, 1))
    assert deployments.current(conn).epoch == 1


def test_shadow_then_canary_then_all_with_each_right_in_its_entry(
    conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    stable, challenger = pairs
    position = judged(conn, challenger, stable).position
    first = canary(conn, challenger)
    routes = deployments.current(conn).routing["routes"]
    assert [(r["model"], r["share"]) for r in routes] == [(2, 0.05), (1, 0.95)]
    assert deployments.current(conn).routing["shadow"] == {"model": 1, "calibration": 1}
    second = promote(conn, challenger)
    assert (first.epoch, second.epoch) == (2, 3)
    assert deployments.current(conn).routing["routes"] == [{"slice": "*", "share": 1.0, "model": 2, "calibration": 2}]
    entries = log.read(conn, kinds=["deployment_changed"])[-2:]
    stated = [entry.payload["promotion"] for entry in entries]
    assert [(s["stage"], s["judged_position"], s["overridden_position"]) for s in stated] == [
        ("canary", position, None),
        ("all", position, None),
    ]
    with pytest.raises(Refused, match="decides for all users already"):
        promote(conn, challenger)


def test_a_refused_model_takes_a_second_person_twice(conn: database.Connection, pairs: tuple[Pair, Pair]) -> None:
    stable, challenger = pairs
    refused = judged(conn, challenger, stable, ("ivr",))
    with pytest.raises(Refused, match=r"ivr: change of the invalidation rate: expected at most 0.15, got 0.9"):
        canary(conn, challenger)
    with pytest.raises(Refused, match="expected a second person, got ann again"):
        guardrails.override(conn, refused.position, actor="ann", reason="it is better")
    given = guardrails.override(conn, refused.position, actor="bob", reason="the old one was wrong")
    assert (given.payload["subject"], given.payload["model_version"]) == ("behaviour", 2)
    with pytest.raises(Refused, match="expected a second person to promote, got bob again"):
        canary(conn, challenger, actor="bob")
    assert canary(conn, challenger).stated["overridden_position"] == given.position
    with pytest.raises(InvalidInput, match="expected an override for a data set, got one for behaviour"):
        guardrails.overridden_recipe(conn, given.position)


def test_an_override_is_for_what_refused_and_for_that_pair(conn: database.Connection, pairs: tuple[Pair, Pair]) -> None:
    stable, challenger = pairs
    guardrails.override(conn, judged(conn, challenger, stable, ("ivr",)).position, actor="bob", reason="why")
    judged(conn, challenger, stable, ("ivr", "seeds"))
    with pytest.raises(Refused, match="refused by guardrails"):
        canary(conn, challenger)
    recalibrated = 2, deployments.set_calibration(conn, 2, {"*": 1.0}, {}, "tests")
    judged(conn, recalibrated, stable, ("ivr",))
    with pytest.raises(Refused, match="model 2 with calibration 3: refused by guardrails"):
        canary(conn, recalibrated)


def test_a_judgement_ends_with_the_stable_model_and_with_a_rollback(
    conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    other = register(conn, 30)
    deploy(conn, other)
    with pytest.raises(Refused, match=r"beside model 1 with calibration 1, now it is model 3 with calibration 3"):
        canary(conn, challenger)
    judged(conn, challenger, other)
    canary(conn, challenger)
    rollback.roll_back(conn, challenger[0], "tests")
    with pytest.raises(Refused, match="rolled back at entry"):
        canary(conn, challenger)


def test_hours_in_shadow_and_as_canary_are_asked_for(conn: database.Connection, pairs: tuple[Pair, Pair]) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    with pytest.raises(Refused, match="expected 24 h in shadow, got 0"):
        canary(conn, challenger, terms=Terms())
    with pytest.raises(Refused, match=r"expected 1 h as canary, got 0: clickledger model promote 2 "):
        promote(conn, challenger, terms=Terms(shadow_hours_min=0.0))
    canary(conn, challenger)
    with pytest.raises(Refused, match=r"expected 1 h as canary, got 0"):
        promote(conn, challenger, terms=Terms(shadow_hours_min=0.0))
    with pytest.raises(InvalidInput, match="canary_share"):
        Terms(canary_share=1.0)


def test_hours_in_shadow_are_told_from_the_times_of_scored_batches(
    conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    stable, challenger = pairs
    deploy(conn, stable, shadow=challenger)
    Traffic(conn).append(20)
    assert shadow_scores.hours(conn, *challenger) == pytest.approx(1 / 6, abs=1 / 6)
    assert shadow_scores.hours(conn, *stable) == 0.0
    day = set(range(144))
    assert shadow_scores.covered(day, day) == 144
    assert shadow_scores.covered(day - {5, 6, 7}, day) == 141
    assert shadow_scores.covered(day - {5, 6, 7}, day - {5, 6, 7}) == 144, "no click came in these: nothing was missed"
    assert shadow_scores.covered({3}, set(range(144))) == 1


def test_no_promotion_while_an_incident_is_raised(conn: database.Connection, pairs: tuple[Pair, Pair]) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    raised = incidents.raise_incident(conn, 1, stable[0], {}, "tests")
    assert raised is not None
    with pytest.raises(Refused, match=f"incident {raised.incident_id} is raised"):
        canary(conn, challenger)
    incidents.move(conn, raised.incident_id, Status.ABANDONED, "tests", "a sale")
    assert canary(conn, challenger).epoch == 2


def test_an_incident_raised_while_a_promotion_waits_for_the_log_is_seen(
    connect: Callable[[], database.Connection], conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    holder = connect()
    with ThreadPoolExecutor(1) as pool:
        with log.writing(holder) as writer:  # the promotion has looked, and waits for the lock
            promoted = pool.submit(canary, connect(), challenger)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while conn.execute(waiting).fetchone() == (0,):
                assert not promoted.done()
            raised = writer.record("anomaly_raised", {"deployment_epoch": 1, "model_version": 1}, "tests").position
            writer.execute(incidents.INSERT_INCIDENT, (raised, Status.RAISED.value, 1, 1, raised))
        with pytest.raises(Refused, match=f"incident {raised} is raised"):
            promoted.result()
    assert deployments.current(conn).epoch == 1


def test_a_deployment_that_came_in_between_is_not_undone(
    conn: database.Connection, pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    looked = shadow_scores.hours

    def meanwhile(*words: Any) -> float:
        deploy(conn, register(conn, 30), stable)
        return looked(*words)

    monkeypatch.setattr(promotion.shadow_scores, "hours", meanwhile)
    with pytest.raises(Conflict, match="expected that of epoch 1 in force"):
        canary(conn, challenger)
    assert deployments.current(conn).routing["routes"][0]["model"] == 3


def test_a_canary_that_is_rolled_back_is_fenced_and_the_stable_model_has_all_users(
    conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    stable, challenger = pairs
    judged(conn, challenger, stable)
    epoch = canary(conn, challenger).epoch
    caught = Traffic(conn).batch(50)
    done = rollback.roll_back(conn, challenger[0], "tests", "too many people")
    assert done.revoked_epochs == [epoch]
    with pytest.raises(RevokedDeployment):
        append.append(conn, caught, actor="tests")
    now = deployments.current(conn).routing
    assert now["routes"] == [{"slice": "*", "share": 1.0, "model": stable[0], "calibration": stable[1]}]
    assert decide.route(now, ["app/in"], [uuid.uuid4().bytes]) == [stable]
    assert json.loads(log.entry(conn, done.position).payload_text)["bad_model"] == challenger[0]


def test_the_share_of_a_canary_is_by_hash_of_user_and_grows_around_its_users(
    conn: database.Connection, pairs: tuple[Pair, Pair]
) -> None:
    _, challenger = pairs
    before = deployments.current(conn).routing
    users = [click_id(START_MS, i) for i in range(20_000)]
    slices = ["app/in"] * len(users)
    few, many = (
        {user for user, pair in zip(users, decide.route(table, slices, users), strict=True) if pair == challenger}
        for table in (deployments.with_canary(before, *challenger, share) for share in (0.05, 0.2))
    )
    assert few == {user for user in users if decide.user_share(user) < 0.05}
    assert 0.045 < len(few) / len(users) < 0.055
    assert few < many
