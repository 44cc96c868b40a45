"""`clickledger model judge`, `promote`, `deploy` and `rollback`: from a judgement to all users and back, by hand."""

from __future__ import annotations

import pytest
from commands import Command
from decided_traffic import BAD_LIMIT, DAY_MS, STABLE_LIMIT, Traffic, deploy, register

from clickledger.console import acting
from clickledger.ledger import database, deployments, log

AT_ONCE = ("--shadow-hours-min", 0, "--canary-hours-min", 0)


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """3,000 clicks of a day under a velocity rule; another and one that takes people for robots are registered."""
    deploy(conn, register(conn, STABLE_LIMIT))
    for limit in (STABLE_LIMIT + 1, BAD_LIMIT):
        register(conn, limit)
    traffic = Traffic(conn, users=300, gap_ms=DAY_MS // 3_000)
    for _ in range(3):
        traffic.append(1_000)
    return conn


def test_a_model_goes_from_its_judgement_to_all_users_and_back(ledger: database.Connection, command: Command) -> None:
    unjudged = command("model", "promote", 2, "--canary", *AT_ONCE)
    assert unjudged.code == 3 and "clickledger model judge 2 --calibration 2" in unjudged.said

    judged = command("model", "judge", 2, "--actor", "ann")
    assert judged.code == 3 and judged.fields["passed"] is False
    assert {f["guard"] for f in judged.fields["findings"] if not f["passed"]} == {"baseline", "seeds"}
    assert "expected the data set it is made from, its entry names none" in judged.said
    position = judged.fields["position"]
    assert f"next: clickledger model override {position} --reason WHY --actor SECOND_PERSON" in judged.said

    again = command("model", "override", position, "--actor", "ann", "--reason", "a rule of old")
    assert again.code == 3 and "expected a second person, got cli:ann again" in again.said
    given = command("model", "override", position, "--actor", "bob", "--reason", "a rule of old")
    assert given.code == 0 and "next: clickledger model promote 2 --calibration 2 --canary" in given.said

    short = command("model", "promote", 2, "--canary", "--actor", "ann")
    assert short.code == 3 and "expected 24 h in shadow, got 0" in short.said
    canary = command("model", "promote", 2, "--canary", "--actor", "ann", *AT_ONCE)
    assert (canary.code, canary.fields["stage"], canary.fields["overridden_position"]) == (
        0, "canary", given.fields["position"],
    )  # fmt: skip
    assert "decides for 5% of the users" in canary.said
    everybody = command("model", "promote", 2, "--actor", "ann", *AT_ONCE)
    assert everybody.code == 0 and everybody.fields["epoch"] == canary.fields["epoch"] + 1
    assert deployments.models_of(deployments.current(ledger).routing) == {2}

    back = command("model", "rollback", "--reason", "people complain")
    assert back.code == 0 and back.fields["revoked_epochs"] == [canary.fields["epoch"], everybody.fields["epoch"]]
    assert deployments.models_of(deployments.current(ledger).routing) == {1}


def test_a_bad_model_is_told_by_its_figures(ledger: database.Connection, command: Command) -> None:
    judged = command("model", "judge", 3)
    assert judged.code == 3
    assert "change of the invalidation rate: expected at most 0.15, got " in judged.said


def test_whoever_was_refused_is_no_second_person_under_the_name_of_the_system(
    ledger: database.Connection, command: Command
) -> None:
    refused = command("model", "judge", 2).fields["position"]
    me = acting.person()
    assert log.entry(ledger, refused).actor == me
    for name in (me, me.removeprefix(acting.PREFIX)):
        again = command("model", "override", refused, "--actor", name, "--reason", "a rule of old")
        assert again.code == 3 and f"expected a second person, got {me} again" in again.said
    given = command("model", "override", refused, "--actor", "ann", "--reason", "a rule of old")
    assert given.code == 0 and log.entry(ledger, given.fields["position"]).actor == "cli:ann"


def test_deploying_past_the_guards_has_to_be_said(ledger: database.Connection, command: Command) -> None:
    for words in ((), ("--unguarded",), ("--reason", "now"), ("--unguarded", "--reason", " ")):
        answer = command("model", "deploy", 3, *words)
        assert answer.code == 3 and "deploying passes no guard: expected --unguarded and --reason WHY" in answer.said
    assert deployments.current(ledger).epoch == 1
    done = command("model", "deploy", 3, "--unguarded", "--reason", "the first one")
    assert done.code == 0 and "it passed no guard" in done.said
    entry = log.read(ledger, kinds=["deployment_changed"])[-1]
    assert entry.payload["unguarded"] is True and entry.reason == "the first one"


def test_commands_of_models_are_no_commands_of_the_program(command: Command) -> None:
    assert command("override", 1, as_json=False).code == 2
