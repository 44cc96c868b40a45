"""From an anomaly to a published correction, step by step, without Celery."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from decided_traffic import (
    BAD_LIMIT,
    DAY_MS,
    STABLE_LIMIT,
    START_MS,
    Traffic,
    Versions,
    bad_deployment,
    deploy,
    register,
    routing,
    versions_of,
)
from flagging import OTHER, register_table

from clickledger import errors
from clickledger.ledger import (
    append,
    comparison,
    database,
    deployments,
    fact_tables,
    four_eyes,
    log,
    outcomes,
    publication,
    rebuild,
    runs,
    sparse,
)
from clickledger.ledger.caps import AUTOMATIC, Caps
from clickledger.recovery import (
    anomaly,
    incidents,
    known_customers,
    plans,
    publishing,
    replay,
    rollback,
    steps,
    ticks,
    working,
)
from clickledger.recovery.incidents import PUBLICATION_PROPOSED, Incident, Status
from clickledger.recovery.steps import Policy
from clickledger.recovery.ticks import Rules
from clickledger.recovery.working import Worker
from clickledger.scoring import bootstrap, facts_deployment, shadowing

Connect = Callable[[], database.Connection]
MANUAL = Policy(rollback="propose", auto_replay=False)
DAY_SECONDS = 24 * 3600.0


def detect(conn: database.Connection, age_seconds: float = DAY_SECONDS) -> Incident | None:
    return anomaly.detect(conn, Rules(1.0, age_seconds), "tests")


def raised(conn: database.Connection) -> tuple[Traffic, Versions, Versions, Incident]:
    traffic, stable, bad = bad_deployment(conn)
    traffic.purchases(range(100))
    incident = detect(conn)
    assert incident is not None
    return traffic, stable, bad, incident


def work(conn: database.Connection, run_id: int) -> None:
    working.work(conn, run_id, Worker("tests", 60.0), 60.0)


def status(conn: database.Connection, incident: Incident) -> Status:
    return incidents.get(conn, incident.incident_id).status


def test_python_and_postgres_know_the_same_statuses(conn: database.Connection) -> None:
    query = (
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'incidents'::regclass AND contype = 'c'"
    )
    [(definition,)] = conn.execute(query).fetchall()
    assert set(re.findall(r"'(\w+)'", definition)) == {s.value for s in Status}


def test_every_status_can_be_reached_and_every_open_one_can_be_left() -> None:
    reached = {Status.RAISED}.union(*(s.following for s in Status))
    assert reached == set(Status)
    assert all(s.following for s in Status if s.open)


def test_a_model_that_withholds_known_customers_raises_an_incident_with_its_evidence(conn: database.Connection) -> None:
    _, stable, bad, incident = raised(conn)
    assert (incident.status, incident.model_version) == (Status.RAISED, bad[0])
    evidence = log.entry(conn, incident.incident_id).payload
    assert evidence["onset"] == deployments.current(conn).position
    assert evidence["signals"] == ["flood", "known", "overall"]
    assert evidence["shadow"] == {"model": stable[0], "calibration": stable[1]}
    assert {r["signal"] for r in evidence["readings"]} == {"known", "overall", "flood", "mirror", "hot"}
    known = next(r for r in evidence["readings"] if r["signal"] == "known" and r["slice"] == "*")
    assert 0 < known["withheld"] <= known["users"]
    assert rebuild.differences(conn) == []


def test_a_sound_model_raises_nothing(conn: database.Connection) -> None:
    stable, other = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT + 1)
    traffic = Traffic(conn)
    deploy(conn, other, stable)
    for _ in range(10):
        traffic.append(200)
    traffic.purchases(range(100))
    assert detect(conn) is None


def test_without_a_shadow_nothing_is_raised(conn: database.Connection) -> None:
    traffic, _, _ = bad_deployment(conn, shadow=False)
    traffic.purchases(range(100))
    assert detect(conn) is None


def test_the_first_model_of_a_ledger_is_not_compared_with_the_rule_it_replaces_but_the_next_one_is_with_it(
    conn: database.Connection,
) -> None:
    bootstrap.ensure_first_deployment(conn)
    rule = versions_of(deployments.current(conn).routing)
    first, second = register(conn, BAD_LIMIT + 3), register(conn, BAD_LIMIT)
    traffic = Traffic(conn)

    def live(versions: Versions) -> Incident | None:
        deployments.promote(conn, *versions, "tests")
        for _ in range(10):
            traffic.append(200)
        traffic.purchases(range(100))
        return detect(conn)

    assert live(first) is None  # it withholds far more than the rule
    stable = rollback.choose(conn, first[0])
    assert (stable.model_version, stable.calibration_version) == rule  # which is the way back from it all the same
    incident = live(second)
    assert incident is not None
    assert log.entry(conn, incident.incident_id).payload["shadow"] == {"model": first[0], "calibration": first[1]}
    rollback.roll_back(conn, second[0], "tests", "", incident.incident_id)
    assert versions_of(deployments.current(conn).routing) == first


def test_candidates_in_shadow_are_not_what_the_live_model_is_compared_with(conn: database.Connection) -> None:
    stable, live, bad = (register(conn, limit) for limit in (STABLE_LIMIT, STABLE_LIMIT + 1, BAD_LIMIT))
    traffic = Traffic(conn)
    deploy(conn, live, stable, [bad])
    for _ in range(10):
        traffic.append(200)
    traffic.purchases(range(100))
    assert detect(conn) is None  # live and candidate disagree a lot
    deploy(conn, bad, stable, [live])
    for _ in range(10):
        traffic.append(200)
    incident = detect(conn)
    assert incident is not None and incident.model_version == bad[0]
    evidence = log.entry(conn, incident.incident_id).payload
    assert evidence["shadow"] == {"model": stable[0], "calibration": stable[1]}
    # Of 200 users in three slices a tick, each is counted once, not once for each model in shadow.
    users = next(r["users"] for r in evidence["readings"] if (r["signal"], r["slice"]) == ("overall", "*"))
    assert users <= 10 * 200


def test_a_candidate_that_enters_the_shadow_takes_no_evidence_away(conn: database.Connection) -> None:
    traffic, _, bad = bad_deployment(conn)
    traffic.purchases(range(100))
    began = deployments.current(conn).position
    shadowing.enter(conn, *register(conn, 7), actor="tests")
    incident = detect(conn)
    assert incident is not None and incident.model_version == bad[0]
    assert log.entry(conn, incident.incident_id).payload["onset"] == began
    shadowing.leave(conn, register(conn, 7)[0], actor="tests")
    traffic.append(200)
    assert detect(conn) is None  # the incident is still open
    steps.advance(conn, Policy(auto_replay=False), "tests")
    assert status(conn, incident) is Status.ROLLED_BACK


def test_a_table_of_facts_that_comes_into_force_takes_no_evidence_away_and_hides_no_incident(
    conn: database.Connection,
) -> None:
    traffic, _, bad = bad_deployment(conn)
    traffic.purchases(range(100))
    began = deployments.current(conn).position
    facts_deployment.put_in_force(conn, register_table(conn), actor="tests", reason="")
    incident = detect(conn)
    assert incident is not None and incident.model_version == bad[0]
    assert log.entry(conn, incident.incident_id).payload["onset"] == began
    facts_deployment.put_in_force(conn, register_table(conn, OTHER), actor="tests", reason="")
    traffic.append(200)
    assert detect(conn) is None  # the incident is still open


def test_rollback_takes_the_bad_model_out_of_the_candidates(conn: database.Connection) -> None:
    stable, other, bad = (register(conn, limit) for limit in (STABLE_LIMIT, 7, BAD_LIMIT))
    deploy(conn, bad, stable, [bad, other])
    rollback.roll_back(conn, bad[0], "tests")
    assert deployments.in_shadow(deployments.current(conn).routing) == [{"model": other[0], "calibration": other[1]}]


def test_disagreements_before_the_deployment_are_no_evidence_against_it(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn)
    traffic.purchases(range(100))
    deploy(conn, stable, bad)
    assert detect(conn) is None


def test_an_epoch_has_one_open_incident(connect: Connect) -> None:
    conn = connect()
    _, _, _, incident = raised(conn)
    assert detect(conn) is None
    assert incidents.raise_incident(connect(), incident.deployment_epoch, incident.model_version, {}, "tests") is None
    assert [i.incident_id for i in incidents.listed(conn)] == [incident.incident_id]


def test_what_was_set_aside_is_raised_again_only_on_new_evidence(conn: database.Connection) -> None:
    traffic, _, _, incident = raised(conn)
    incidents.move(conn, incident.incident_id, Status.ABANDONED, "tests", "a campaign of our own")
    assert detect(conn) is None
    for _ in range(10):
        traffic.append(200)
    again = detect(conn)
    assert again is not None and again.incident_id > incident.incident_id


def test_only_a_mature_purchase_makes_a_known_customer(conn: database.Connection) -> None:
    traffic, _, _ = bad_deployment(conn)
    span = deployments.current(conn).position, log.head(conn).position + 1
    traffic.purchases(range(50), at_ms=START_MS - DAY_MS // 2)
    traffic.purchases(range(50, 80), at_ms=START_MS - 2 * DAY_MS)
    known_customers.fold(conn)

    def known(age_days: int) -> int:
        return sum(row.counts["known"] for row in ticks.between(conn, *span, Rules(1e6, age_days * DAY_SECONDS)))

    # 200 users, one of three slices each click: every user comes in every slice.
    assert (known(0), known(1), known(3)) == (80 * 3, 30 * 3, 0)


def test_known_customers_keep_their_first_purchase(conn: database.Connection) -> None:
    traffic, _, _ = bad_deployment(conn, batches=1)
    traffic.purchases([1], at_ms=2_000)
    known_customers.fold(conn)
    traffic.purchases([1], at_ms=1_000)
    traffic.purchases([1], at_ms=3_000)
    known_customers.fold(conn)
    known_customers.fold(conn)
    assert conn.execute("SELECT purchased_at_ms, purchases FROM known_customers").fetchall() == [(1_000, 3)]


def test_a_purchase_recorded_before_its_click_makes_a_known_customer_once_that_comes(
    conn: database.Connection,
) -> None:
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    coming = traffic.batch(3).click_id
    outcomes.append(conn, [outcomes.Outcome(coming[i], "purchase", 1_000 + i, 1) for i in (0, 2)], "tests")
    known_customers.fold(conn)
    assert conn.execute("SELECT count(*) FROM known_customers").fetchone() == (0,)
    traffic.count = 0
    traffic.append(3)
    known_customers.fold(conn)
    assert conn.execute("SELECT purchased_at_ms FROM known_customers ORDER BY 1").fetchall() == [(1_000,), (1_002,)]


def test_purchases_are_folded_as_far_as_the_log_was_whatever_comes_meanwhile(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, _, _ = bad_deployment(conn, batches=1)
    traffic.purchases(range(5))
    step, steps_taken = known_customers._fold_step, []

    def while_traffic_goes_on(*asked: Any) -> bool:
        traffic.append(5)
        steps_taken.append(asked)
        assert len(steps_taken) < 10
        return step(*asked)

    monkeypatch.setattr(known_customers, "_fold_step", while_traffic_goes_on)
    known_customers.fold(conn)
    assert len(steps_taken) == 2
    assert conn.execute("SELECT count(*) FROM known_customers").fetchone() == (5,)


def test_a_user_counts_once_a_tick_however_often_they_click(conn: database.Connection) -> None:
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    deploy(conn, bad, stable)
    position = Traffic(conn, users=1).append(300, hourly=10)
    rows = ticks.between(conn, position, position + 1, Rules(1.0, 0.0))
    assert {row.slice: [row.counts[name] for name in ("clicks", "invalid", "paired", "withheld")] for row in rows} == {
        "app/in": [100, 100, 1, 1],
        "web/out": [100, 100, 1, 1],
        "web/unknown": [100, 100, 1, 1],
    }


def test_rollback_goes_to_the_shadow_and_fences_the_bad_model(conn: database.Connection) -> None:
    traffic, stable, bad, incident = raised(conn)
    in_flight = traffic.batch(10)
    steps.advance(conn, Policy(auto_replay=False), "tests")
    assert status(conn, incident) is Status.ROLLED_BACK
    current = deployments.current(conn)
    assert versions_of(current.routing) == stable
    with pytest.raises(errors.RevokedDeployment):
        append.append(conn, in_flight, actor="tests")
    counted = conn.execute(
        "SELECT count(*) FROM decisions WHERE model_version = %s AND log_position > %s", (bad[0], current.position)
    )
    assert counted.fetchone() == (0,)


def test_without_a_shadow_rollback_goes_to_the_newest_deployment_without_the_bad_model(
    conn: database.Connection,
) -> None:
    first, second, bad = (register(conn, limit) for limit in (10, STABLE_LIMIT, BAD_LIMIT))
    deploy(conn, first)
    deploy(conn, second, bad)
    deploy(conn, bad)
    stable = rollback.choose(conn, bad[0])
    assert (stable.model_version, stable.calibration_version, stable.found) == (*second, "deployment epoch 2")
    assert stable.routing["shadow"] is None  # the bad model does not judge on from the shadow either
    rollback.roll_back(conn, bad[0], "tests")
    assert versions_of(deployments.current(conn).routing) == second


def test_a_candidate_that_the_older_deployment_has_already_does_not_stand_in_the_way(
    conn: database.Connection,
) -> None:
    beside, live, bad, other = (register(conn, limit) for limit in (10, STABLE_LIMIT, BAD_LIMIT, 7))
    deploy(conn, live, beside)
    deploy(conn, bad, candidates=[beside, live, other])
    rollback.roll_back(conn, bad[0], "tests")
    assert deployments.current(conn).routing == routing(live, beside, [other])


def test_a_canary_that_is_rolled_back_leaves_the_stable_model_watched_as_before(conn: database.Connection) -> None:
    first, stable, canary = (register(conn, limit) for limit in (10, STABLE_LIMIT, BAD_LIMIT))
    deploy(conn, first)
    deploy(conn, stable, first)
    before = deployments.current(conn).routing
    deployments.amend(conn, lambda routing: deployments.with_canary(routing, *canary, 0.05), "tests")
    rollback.roll_back(conn, canary[0], "tests")
    after = deployments.current(conn).routing
    assert (after["routes"], after["shadow"]) == (before["routes"], before["shadow"])


def test_what_was_rolled_back_since_does_not_come_back_as_a_shadow(conn: database.Connection) -> None:
    first, stable, canary = (register(conn, limit) for limit in (10, STABLE_LIMIT, BAD_LIMIT))
    deploy(conn, first)
    deploy(conn, stable, first)
    deployments.amend(conn, lambda routing: deployments.with_canary(routing, *canary, 0.05), "tests")
    rollback.roll_back(conn, first[0], "tests")  # it was replaced, and is fenced now
    rollback.roll_back(conn, canary[0], "tests")
    assert deployments.current(conn).routing["shadow"] is None


def test_rollback_passes_over_models_that_cannot_read_what_is_recorded_now(conn: database.Connection) -> None:
    first, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    version = deployments.register_model(conn, b"of another schema", "network", {}, "tests")
    broken = (version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests"))
    deploy(conn, first)
    deploy(conn, broken)
    deploy(conn, bad, broken)
    assert rollback.choose(conn, bad[0])[1:3] == first


def test_rollback_says_what_it_considered_and_why_it_took_what_it_took(conn: database.Connection) -> None:
    first, second, bad, other = (register(conn, limit) for limit in (10, STABLE_LIMIT, BAD_LIMIT, 7))
    version = deployments.register_model(conn, b"of another schema", "network", {}, "tests")
    broken = (version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests"))
    for live in (first, second, other):
        deploy(conn, live)
    rollback.roll_back(conn, other[0], "tests")
    deploy(conn, bad, broken)
    done = rollback.roll_back(conn, bad[0], "tests")
    told = [(c["found"], c["model_version"], c["why"]) for c in rollback.considered(conn, done)]
    assert [model for _, model, _ in told] == [broken[0], second[0]]
    assert told[0][0] == "shadow of epoch 5" and "artefact" in told[0][2]
    assert told[1] == ("deployment epoch 4", second[0], rollback.TAKEN)
    assert versions_of(deployments.current(conn).routing) == second
    # Going back from it in turn, nothing that was rolled back or is bad itself is taken.
    told = [(c.found, c.why) for c in rollback.choose(conn, second[0]).considered]
    assert ("deployment epoch 5", f"rolled back at position {done.position}") in told
    assert told[-1] == ("deployment epoch 1", rollback.TAKEN)


def test_rolling_back_an_incident_whose_model_was_replaced_fences_its_batches(conn: database.Connection) -> None:
    traffic, _, _, incident = raised(conn)
    in_flight = traffic.batch(10)
    newer = register(conn, STABLE_LIMIT + 5)
    deploy(conn, newer)
    decided_by_newer = traffic.batch(10)
    steps.advance(conn, Policy(auto_replay=False), "tests")
    assert status(conn, incident) is Status.ROLLED_BACK
    assert versions_of(deployments.current(conn).routing) == newer
    with pytest.raises(errors.RevokedDeployment):
        append.append(conn, in_flight, actor="tests")
    assert append.append(conn, decided_by_newer, actor="tests").position is not None  # nobody revoked that one
    plan = plans.for_incident(conn, incident.incident_id)
    assert plan.model_version == newer[0]  # clicks it decided come out as they are


def test_incidents_of_two_epochs_are_open_at_once(conn: database.Connection) -> None:
    traffic, stable, _, first = raised(conn)
    worse = register(conn, BAD_LIMIT - 1)
    deploy(conn, worse, stable)
    for _ in range(10):
        traffic.append(200)
    second = detect(conn)
    assert second is not None and second.model_version == worse[0]
    assert [i.status.open for i in incidents.listed(conn)] == [True, True]
    for _ in range(2):
        steps.advance(conn, Policy(), "tests")
    assert {status(conn, first), status(conn, second)} == {Status.REPLAYING}
    assert versions_of(deployments.current(conn).routing) == stable
    assert rebuild.differences(conn) == []


def test_a_correction_by_a_model_that_was_rolled_back_meanwhile_is_left_to_people(conn: database.Connection) -> None:
    _, stable, _, incident = raised(conn)
    steps.advance(conn, Policy(), "tests")
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    assert steps.finish(conn, run_id, "tests") is not None
    better = register(conn, STABLE_LIMIT + 1)
    deployments.roll_back(conn, stable[0], routing(better), "ann", "no better")
    for _ in range(2):
        steps.advance(conn, Policy(auto_publish_gross_micros=10**15), "tests")
    assert status(conn, incident) is Status.COMPARED
    [proposed] = log.read(conn, kinds=["publication_proposed"])
    assert "was rolled back since" in proposed.reason
    with pytest.raises(errors.OutdatedRun, match=f"model {stable[0]}, which was rolled back since"):
        publishing.publish(conn, run_id, comparison.latest(conn, run_id).digest, "ann", "")
    anew = replay.again(conn, run_id, "ann", "by the model in force")
    assert anew.models == {better[0]}


def test_a_replay_by_a_model_that_was_rolled_back_since_it_was_planned_does_not_start(
    conn: database.Connection,
) -> None:
    _, stable, bad, incident = raised(conn)
    rollback.roll_back_incident(conn, incident, "ann")
    plan = plans.for_incident(conn, incident.incident_id)
    assert plan.model_version == stable[0] != bad[0]
    deployments.roll_back(conn, stable[0], routing(register(conn, STABLE_LIMIT + 1)), "ann", "no better")
    with pytest.raises(errors.StalePlan, match=f"model {stable[0]}, which was to decide again, has been rolled back"):
        replay.start(conn, plan, "ann", "")
    assert status(conn, incident) is Status.ROLLED_BACK


def test_rollback_without_any_stable_model_is_refused_and_says_what_was_tried(conn: database.Connection) -> None:
    bad = register(conn, BAD_LIMIT)
    deploy(conn, bad)
    with pytest.raises(errors.Refused, match="no stable model to go back to from model 1"):
        rollback.choose(conn, bad[0])


def test_what_is_rolled_back_while_a_rollback_chooses_is_not_gone_back_to(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, bad = (register(conn, limit) for limit in (STABLE_LIMIT, STABLE_LIMIT + 1, BAD_LIMIT))
    for live, shadow in ((first, None), (second, first), (bad, second)):
        deploy(conn, live, shadow)
    choose = rollback.choose

    def chosen_while_another_is_rolled_back(*asked: Any) -> rollback.Stable:
        monkeypatch.undo()
        found = choose(*asked)
        deployments.fence(conn, second[0], "bob", "it is no better")
        return found

    monkeypatch.setattr(rollback, "choose", chosen_while_another_is_rolled_back)
    rollback.roll_back(conn, bad[0], "ann")
    assert versions_of(deployments.current(conn).routing) == first


def test_the_canary_of_an_epoch_rolled_back_is_not_the_end_of_the_other_models_incident(
    conn: database.Connection,
) -> None:
    first, live, canary = (register(conn, limit) for limit in (STABLE_LIMIT, BAD_LIMIT, STABLE_LIMIT + 1))
    deploy(conn, first)
    deploy(conn, live, first)
    traffic = Traffic(conn)
    deployments.deploy(
        conn, deployments.with_canary(deployments.current(conn).routing, *canary, 0.05), "ann", "a canary"
    )
    incident = incidents.raise_by_hand(conn, live[0], "ann", "people are withheld")
    rollback.roll_back(conn, canary[0], "bob", "another matter")
    assert versions_of(deployments.current(conn).routing) == live
    traffic.append(20)
    steps.advance(conn, MANUAL, "tests")
    assert status(conn, incident) is Status.RAISED
    rollback.roll_back_incident(conn, incident, "ann", "they are")
    assert versions_of(deployments.current(conn).routing) == first
    assert status(conn, incident) is Status.ROLLED_BACK


def test_rolling_back_a_model_that_is_not_live_names_what_is(conn: database.Connection) -> None:
    deploy(conn, register(conn, BAD_LIMIT))
    with pytest.raises(errors.Refused, match="model 77 is not live: epoch 1 routes to 1"):
        rollback.roll_back(conn, 77, "tests")


def test_under_propose_nothing_is_rolled_back_by_itself(conn: database.Connection) -> None:
    _, _, bad, incident = raised(conn)
    steps.advance(conn, MANUAL, "tests")
    assert status(conn, incident) is Status.RAISED
    assert versions_of(deployments.current(conn).routing) == bad


def test_under_propose_the_rollback_and_its_replay_are_prepared_once(conn: database.Connection) -> None:
    _, stable, bad, incident = raised(conn)
    for _ in range(2):
        steps.advance(conn, MANUAL, "tests")
    [entry] = log.read(conn, kinds=[incidents.PROPOSED])
    assert entry.payload["rollback_to"] == {"model": stable[0], "calibration": stable[1]}
    assert entry.payload["considered"][0]["why"] == rollback.TAKEN
    assert entry.payload["would_change"]["clicks"] == 2_000
    assert entry.payload["would_change"]["to_valid"][0] > 0
    assert f"clickledger rollback --incident {incident.incident_id}" in entry.payload["commands"][0]
    assert versions_of(deployments.current(conn).routing) == bad


def test_under_observe_nothing_is_prepared(conn: database.Connection) -> None:
    _, _, _, incident = raised(conn)
    steps.advance(conn, Policy(rollback="observe"), "tests")
    assert log.read(conn, kinds=[incidents.PROPOSED]) == []
    assert status(conn, incident) is Status.RAISED


@pytest.mark.parametrize("within", [True, False])
def test_small_corrections_are_published_by_policy_and_larger_ones_wait(
    conn: database.Connection, within: bool
) -> None:
    _, _, _, incident = raised(conn)
    steps.advance(conn, Policy(), "tests")
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    compared = steps.finish(conn, run_id, "tests")
    assert compared is not None
    gross = compared.summary["gross_micros"]
    policy = Policy(auto_publish_gross_micros=gross if within else gross - 1)
    steps.advance(conn, policy, "tests")
    assert status(conn, incident) is (Status.PUBLISHED if within else Status.COMPARED)
    if within:  # what somebody took back stays taken back
        publishing.revert(conn, run_id, "tests", "no")
        steps.advance(conn, policy, "tests")
        assert status(conn, incident) is Status.COMPARED


def test_a_small_correction_above_a_cap_is_proposed_to_people_once_and_never_published_by_itself(
    conn: database.Connection,
) -> None:
    _, _, _, incident = raised(conn)
    steps.advance(conn, Policy(), AUTOMATIC)
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    compared = steps.finish(conn, run_id, AUTOMATIC)
    assert compared is not None
    gross = compared.summary["gross_micros"]
    most = max(four_eyes.of_publication(conn, run_id, compared.digest).gross.by_currency.values())
    day_is_full = Policy(auto_publish_gross_micros=gross, caps=Caps(day_micros=most - 1))
    for _ in range(3):  # each is a tick of the sweep
        steps.advance(conn, day_is_full, AUTOMATIC)
    steps.advance(conn, Policy(auto_publish_gross_micros=gross), AUTOMATIC)  # the next day is empty
    assert status(conn, incident) is Status.COMPARED
    [proposed] = [e for e in incidents.timeline(conn, incident.incident_id) if e.kind == PUBLICATION_PROPOSED]
    assert (proposed.actor, proposed.payload["run_id"], proposed.payload["gross_micros"]) == (AUTOMATIC, run_id, gross)
    assert "are moved today, above the cap of" in proposed.reason

    again = publishing.compare(conn, run_id, "cli:ann")
    publishing.publish(conn, run_id, again.digest, "cli:bob", "as proposed", day_is_full.caps)
    assert status(conn, incident) is Status.PUBLISHED
    steps.advance(conn, day_is_full, AUTOMATIC)
    assert len(log.read(conn, kinds=[PUBLICATION_PROPOSED])) == 1


def test_a_small_correction_that_no_comparison_mends_is_left_to_people(conn: database.Connection) -> None:
    traffic, _, bad = bad_deployment(conn, batches=4)
    traffic.append(50, late=2)
    incident = incidents.raise_incident(conn, deployments.current(conn).epoch, bad[0], {}, "tests")
    assert incident is not None
    steps.advance(conn, Policy(), AUTOMATIC)
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    compared = steps.finish(conn, run_id, AUTOMATIC)
    assert compared is not None and compared.summary["carried"] == 2
    stated = sparse.plan(
        conn, [sparse.Correction(traffic.ids[-60], "undecided", "disputed")], actor="ann", reason="disputed"
    )
    digest = publishing.compare(conn, stated.run_id, "ann").digest
    publishing.publish(conn, stated.run_id, digest, "bob", "looked at")
    for _ in range(4):  # each is a tick of the sweep
        steps.advance(conn, Policy(auto_publish_gross_micros=10**15), AUTOMATIC)
    assert status(conn, incident) is Status.COMPARED
    [proposed] = log.read(conn, kinds=[PUBLICATION_PROPOSED])
    assert "carries decisions that run" in proposed.reason and "plan again" in proposed.reason
    assert proposed.payload["commands"][-1] == f"clickledger replay plan --incident {incident.incident_id}"
    of_run = "SELECT count(*) FROM comparisons WHERE run_id = %s"
    assert conn.execute(of_run, (run_id,)).fetchone() == (2,)


def test_the_timeline_tells_everything_that_happened_about_an_incident(conn: database.Connection) -> None:
    _, _, _, incident = raised(conn)
    number = incident.incident_id
    incidents.acknowledge(conn, number, "alice")
    incidents.note(conn, number, "labels were missing from 10 to 16", "alice")
    other = log.record(conn, "noted", {}, "tests")
    steps.advance(conn, Policy(), "tests")
    run_id = incidents.get(conn, number).run_id
    assert run_id is not None
    work(conn, run_id)
    compared = steps.finish(conn, run_id, "tests")
    assert compared is not None
    publishing.publish(conn, run_id, compared.digest, "bob", "")
    told = incidents.timeline(conn, number)
    kinds = [entry.kind for entry in told if entry.kind != incidents.MOVED]
    assert kinds == [
        "anomaly_raised", "incident_acknowledged", "incident_noted", "rollback_declared", "replay_planned",
        "replay_staged", "replay_compared", "replay_published",
    ]  # fmt: skip
    assert other.position not in {entry.position for entry in told}
    assert incidents.holders(conn) == {number: "alice"}
    with pytest.raises(errors.Refused, match="is published: nothing is left to take on"):
        incidents.acknowledge(conn, number, "bob")


def test_an_empty_note_and_one_of_no_incident_are_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.NotFound):
        incidents.note(conn, 999, "text", "tests")
    with pytest.raises(errors.InvalidInput, match="note"):
        incidents.note(conn, 999, " ", "tests")


def test_an_incident_raised_by_hand_is_like_any_other(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn)
    incident = incidents.raise_by_hand(conn, None, "alice", "a page said so")
    assert (incident.model_version, incident.status) == (bad[0], Status.RAISED)
    with pytest.raises(errors.Refused, match="has an open incident"):
        incidents.raise_by_hand(conn, bad[0], "bob", "me too")
    with pytest.raises(errors.Refused, match=f"model: expected one of \\[{bad[0]}\\]"):
        incidents.raise_by_hand(conn, stable[0], "bob", "that one")
    steps.advance(conn, Policy(), "tests")
    assert versions_of(deployments.current(conn).routing) == stable


def test_a_rollback_whose_incident_was_not_moved_any_more_is_taken_up(conn: database.Connection) -> None:
    _, _, bad, incident = raised(conn)
    rollback.roll_back(conn, bad[0], "tests", incident_id=incident.incident_id)  # and the process died
    steps.advance(conn, MANUAL, "tests")
    assert status(conn, incident) is Status.ROLLED_BACK


def test_a_run_whose_incident_was_not_moved_any_more_is_taken_up(conn: database.Connection) -> None:
    _, stable, _, incident = raised(conn)
    rollback.roll_back_incident(conn, incident, "tests")
    plan = plans.for_incident(conn, incident.incident_id)
    run = runs.plan(
        conn, plan.lo, plan.hi, model_version=stable[0], calibration_version=stable[1], actor="tests", reason="",
        incident_id=incident.incident_id,
    )  # fmt: skip  # and the process died
    steps.advance(conn, MANUAL, "tests")
    found = incidents.get(conn, incident.incident_id)
    assert (found.status, found.run_id) == (Status.REPLAYING, run.run_id)
    assert conn.execute("SELECT count(*) FROM replay_runs").fetchone() == (1,)


def test_the_whole_way_leaves_nothing_of_the_bad_model_in_force(conn: database.Connection) -> None:
    _, _, bad, incident = raised(conn)
    for _ in range(2):
        steps.advance(conn, Policy(), "tests")
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    compared = steps.finish(conn, run_id, "tests")
    assert compared is not None and status(conn, incident) is Status.COMPARED
    assert steps.finish(conn, run_id, "tests") is None
    publishing.publish(conn, run_id, compared.digest, "tests", "")
    assert status(conn, incident) is Status.PUBLISHED
    left = "SELECT count(*) FROM authoritative_decisions WHERE model_version = %s"
    assert conn.execute(left, (bad[0],)).fetchone() == (0,)
    names = [entry.payload.get("status", "raised") for entry in incidents.history(conn, incident.incident_id)]
    assert names == ["raised", "rolled_back", "replaying", "compared", "published"]
    assert rebuild.differences(conn) == []


def test_a_publication_is_not_refused_because_somebody_else_moved_its_incident(conn: database.Connection) -> None:
    _, _, _, incident = raised(conn)
    steps.advance(conn, Policy(), "tests")
    replaying = incidents.get(conn, incident.incident_id)
    assert replaying.run_id is not None
    work(conn, replaying.run_id)
    steps.finish(conn, replaying.run_id, "tests")
    compared = incidents.get(conn, incident.incident_id)
    publishing.publish(conn, replaying.run_id, comparison.latest(conn, replaying.run_id).digest, "tests", "")
    for seen_before in (replaying, compared):  # what another process had read just before
        publishing.follow_run(conn, seen_before, "tests")
    assert status(conn, incident) is Status.PUBLISHED


def test_the_incident_of_a_model_that_decided_nothing_is_closed(conn: database.Connection) -> None:
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    deploy(conn, stable)
    Traffic(conn).append(20)
    incident = incidents.raise_incident(conn, deploy(conn, bad, stable), bad[0], {}, "tests")
    assert incident is not None
    for _ in range(2):
        steps.advance(conn, Policy(), "tests")
    assert status(conn, incident) is Status.ABANDONED
    assert versions_of(deployments.current(conn).routing) == stable
    assert incidents.timeline(conn, incident.incident_id)[-1].reason == "its model decided no click: nothing to replay"


def test_an_incident_that_cannot_be_helped_does_not_hold_up_the_others(conn: database.Connection) -> None:
    traffic, _, bad = bad_deployment(conn)
    hopeless = incidents.raise_incident(conn, deployments.current(conn).epoch, 999, {}, "tests")
    assert hopeless is not None
    rollback.roll_back(conn, bad[0], "tests")
    again = deploy(conn, bad, register(conn, STABLE_LIMIT + 1))
    traffic.append(20)
    incident = incidents.raise_incident(conn, again, bad[0], {}, "tests")
    assert incident is not None
    steps.advance(conn, Policy(), "tests")
    assert status(conn, incident) is Status.REPLAYING


def test_undo_and_redo_move_the_incident_too(conn: database.Connection) -> None:
    _, _, _, incident = raised(conn)
    steps.advance(conn, Policy(), "tests")
    run_id = incidents.get(conn, incident.incident_id).run_id
    assert run_id is not None
    work(conn, run_id)
    steps.finish(conn, run_id, "tests")
    publishing.publish(conn, run_id, comparison.latest(conn, run_id).digest, "tests", "")
    publication.revert(conn, run_id, "tests", "")  # and the process died before the incident moved
    steps.advance(conn, Policy(), "tests")
    assert status(conn, incident) is Status.COMPARED
    with pytest.raises(errors.StalePlan):
        publishing.publish(conn, run_id, comparison.latest(conn, run_id).digest, "tests", "")
    again = publishing.compare(conn, run_id, "tests")
    publishing.publish(conn, run_id, again.digest, "tests", "")
    assert status(conn, incident) is Status.PUBLISHED
    publishing.revert(conn, run_id, "tests", "")
    publishing.abandon(conn, run_id, "tests", "")
    assert status(conn, incident) is Status.ROLLED_BACK
    steps.advance(conn, Policy(), "tests")
    assert status(conn, incident) is Status.ROLLED_BACK  # whoever gave the run up says what comes next
    assert rebuild.differences(conn) == []


def test_an_incident_moves_only_where_its_status_allows(conn: database.Connection) -> None:
    _, _, _, incident = raised(conn)
    with pytest.raises(
        errors.Refused, match=r"is raised: it cannot become published now \(what may follow: abandoned, rolled_back\)"
    ):
        incidents.move(conn, incident.incident_id, Status.PUBLISHED, "tests")
    with pytest.raises(errors.NotFound):
        incidents.move(conn, 999_999, Status.ABANDONED, "tests")


def test_only_one_does_a_thing_at_a_time(connect: Connect) -> None:
    first, second = connect(), connect()
    with steps.alone(first, "detect") as mine, steps.alone(second, "detect") as yours:
        assert (mine, yours) == (True, False)
    with steps.alone(second, "detect") as yours:
        assert yours


def test_routing_of_a_rollback_keeps_what_is_not_about_models(conn: database.Connection) -> None:
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    table = fact_tables.register(conn, "data_centre_networks", b"192.0.2.0/24", 1, "tests")
    deployments.deploy(conn, {**routing(bad, stable), "facts_version": table}, "tests")
    assert rollback.choose(conn, bad[0]).routing["facts_version"] == table
