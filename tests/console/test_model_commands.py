"""`clickledger model train`, `daily`, `list`, `show` and `history`, on a small ledger."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from commands import Command
from daily_ledger import fill
from decided_traffic import BAD_LIMIT, DAY_MS, STABLE_LIMIT, Traffic, deploy, register

from clickledger.ledger import aliases, database, deployments, log


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """Ten days of clicks that every guardrail lets pass, decided by model 2 with model 1 in shadow."""
    fill(conn)
    return conn


def pair(model: int, calibration: int) -> dict[str, int]:
    return {"model": model, "calibration": calibration}


def test_training_is_guarded_as_of_a_moment_and_says_what_was_too_little(
    ledger: database.Connection, command: Command
) -> None:
    position = log.head(ledger).position
    as_of = datetime.now(UTC)
    trained = command("model", "train", "--kind", "velocity", "--as-of", as_of.isoformat())
    assert trained.code == 0 and trained.fields["guarded"] is True
    assert (trained.fields["up_to_position"], trained.fields["as_of_ms"]) == (
        position,
        math.floor(as_of.timestamp() * 1000),
    )
    told = trained.fields["too_little"]
    assert any(each.startswith("human_density: not enough history") for each in told)
    assert any("too few for a budget of 0.01" in each for each in told)
    assert all(f"too little data: {each}" in trained.said for each in told)
    built, passed = log.read(ledger, after=position)[:2]
    assert (built.payload["label_cutoff_ms"], passed.kind) == (trained.fields["as_of_ms"], "guardrails_passed")


@pytest.mark.parametrize(
    ("as_of", "told"),
    [
        ("2020-01-01", "expected a time after"),
        ("2999-01-01T00:00Z", "expected a time that has passed"),
        ("soon", "expected a day or a time"),
    ],
)
def test_a_moment_that_cannot_be_is_told(conn: database.Connection, command: Command, as_of: str, told: str) -> None:
    answer = command("model", "train", "--as-of", as_of)
    assert answer.code == 2 and told in answer.said
    assert log.head(conn).position == 1


def test_too_little_data_is_refused_with_what_is_missing_and_another_way(
    conn: database.Connection, command: Command
) -> None:
    deploy(conn, register(conn, STABLE_LIMIT))
    Traffic(conn, start_ms=round(datetime.now(UTC).timestamp() * 1000) - 3_600_000).append(100)
    answer = command("model", "train")
    assert answer.code == 3 and "training part of 0 clicks" in answer.said and "too little data as of" in answer.said
    assert "model train --unguarded" in answer.said


def test_a_daily_run_by_hand_is_done_once_and_told_again(ledger: database.Connection, command: Command) -> None:
    today = datetime.now(UTC).date()
    first = command("model", "daily", "--actor", "ann")
    assert first.code == 0 and first.fields["outcome"] == "in_shadow" and "dataset: done" in first.said
    assert "in force once it is promoted" in first.said
    head = log.head(ledger)
    second = command("model", "daily", "--as-of", today)
    assert second.code == 0 and second.fields == first.fields and log.head(ledger) == head
    ahead = command("model", "daily", "--as-of", today + timedelta(days=2))
    assert ahead.code == 2 and "expected a day that has begun" in ahead.said


def test_a_refused_day_ends_with_3_and_names_the_override_that_lets_it_go_on(
    conn: database.Connection, command: Command
) -> None:
    fill(conn, outcome_lag_ms=3 * DAY_MS)  # nothing is known to be bought in the last days
    words = ("model", "daily", "--actor", "ann")
    refused = command(*words)
    assert refused.code == 3 and "feed_lag" in refused.said
    [entry] = log.read(conn, kinds=["guardrail_refused"])
    assert f"clickledger model override {entry.position}" in refused.said
    given = command("model", "override", entry.position, "--actor", "bob", "--reason", "the shop was closed")
    assert command(*words, "--overridden", given.fields["position"]).code == 0
    assert command(*words).fields["outcome"] == "in_shadow"


def test_aliases_have_a_history_and_are_told_as_of_any_position(ledger: database.Connection, command: Command) -> None:
    command("model", "daily")
    before = log.head(ledger).position
    epoch = deployments.promote(ledger, 3, 3, "ann", "better on all slices")
    listed = command("model", "list").fields
    assert listed["aliases"] == {
        "live": [pair(3, 3)], "canary": [], "stable": [pair(2, 2)], "candidate": []
    }  # fmt: skip
    then = command("model", "list", "--as-of", before).fields
    assert then["aliases"]["live"] == [pair(2, 2)] and then["aliases"]["candidate"] == [pair(3, 3)]
    assert [model["aliases"] for model in then["models"]] == [["stable"], ["live"], ["candidate"]]
    told = command("model", "history").fields["changes"]
    last = {change["alias"]: change for change in told if change["epoch"] == epoch}
    assert last["live"]["before"] == [pair(2, 2)] and last["live"]["after"] == [pair(3, 3)]
    assert (last["live"]["actor"], last["live"]["reason"]) == ("ann", "better on all slices")
    assert last["candidate"]["after"] == [] and last["stable"]["before"] == [pair(1, 1)]
    only = command("model", "history", "--alias", "stable", "--as-of", before).fields["changes"]
    assert {change["alias"] for change in only} == {"stable"}
    entries = log.read(ledger, kinds=aliases.KINDS)
    entered = aliases.since(entries, "stable", (2, 2))
    assert entered is not None and entered.epoch == epoch
    assert aliases.since(entries, "candidate", (3, 3)) is None


def test_a_model_is_shown_with_all_that_the_log_says_of_it(ledger: database.Connection, command: Command) -> None:
    harsh = deployments.set_calibration(ledger, 2, {"*": -1.0}, {}, "tests")  # whoever clicks half as often
    deploy(ledger, (2, harsh), (1, 1))
    command("model", "daily")
    answer = command("model", "show", 3)
    card = answer.fields
    assert answer.code == 0 and card["aliases"] == ["candidate"] and card["profile"]["torch"]
    assert card["dataset"]["purchased"] > 0 and card["dataset"]["position"] == card["metadata"]["dataset_position"]
    assert [verdict["kind"] for verdict in card["guardrails"]] == ["guardrails_passed"]
    [calibration] = card["calibrations"]
    assert "*" in calibration["thresholds"] and calibration["slices"]["app/in"]["clicks"] > 0
    [evaluated] = card["evaluations"]
    assert evaluated["models"].keys() == {"network", "logistic_regression"}
    assert [(d["alias"], d["became"]) for d in card["deployments"]] == [("candidate", [pair(3, 4)])]
    assert card["digest"] in answer.said and "candidate" in answer.said
    answer = command("model", "show", 2)
    *first, newest = answer.fields["calibrations"]
    assert [(each["recalibrated"], each["anchored"]) for each in first] == [(False, None), (False, None)]
    assert newest["recalibrated"] and newest["anchored"]["beside"] == pair(2, harsh) and newest["anchored"]["slices"]
    for name, held in newest["anchored"]["slices"].items():
        assert f"{name}: IVR {held['in_force']:.4f} by model 2 with calibration {harsh}" in answer.said
    assert command("model", "show", 99).code == 2


def test_commands_of_models_are_of_models_only(command: Command) -> None:
    assert command("dataset", 1, as_json=False).code == 2
    assert "dataset" in command("model", "--help", as_json=False).out


def test_two_models_are_compared_on_the_same_clicks_that_neither_was_trained_on(
    ledger: database.Connection, command: Command
) -> None:
    harsh = register(ledger, BAD_LIMIT)
    before = log.head(ledger)
    answer = command("model", "compare", "live", f"{harsh[0]}:{harsh[1]}")
    told = answer.fields
    assert answer.code == 0 and log.head(ledger) == before
    assert (told["one"], told["other"]) == (pair(2, 2), pair(*harsh))
    whole = told["slices"]["*"]
    by_slice = [own for name, own in told["slices"].items() if name != "*"]
    assert len(by_slice) == 3 and whole["clicks"] == told["clicks"]["rows"] > 1_000
    for name in ("clicks", "purchases", "crowded", "to_invalid", "to_valid"):
        assert whole[name] == sum(own[name] for own in by_slice)
    # The harsh rule takes for robots whoever clicks three times an hour: those with the others' 40, and people.
    assert whole["to_valid"] == 0 and whole["to_invalid"] > 0
    assert whole["agreement"] == pytest.approx(1 - whole["to_invalid"] / whole["clicks"])
    assert whole["ivr"][1] - whole["ivr"][0] == pytest.approx(whole["to_invalid"] / whole["clicks"])
    assert whole["fpr"][0] == 0 and whole["fpr"][1] > 0
    # `live` and the version of what is live are the same; a candidate is named by what the loop put there.
    same = command("model", "compare", 2, "live").fields["slices"]["*"]
    assert (same["agreement"], same["to_invalid"], same["to_valid"]) == (1.0, 0, 0)
    assert command("model", "compare", "live", "candidate").code == 2
    assert command("model", "compare", "live", "2:99").code == 2


def test_a_model_is_put_in_shadow_and_taken_out_by_hand(ledger: database.Connection, command: Command) -> None:
    other = register(ledger, BAD_LIMIT)
    inside = command("model", "shadow", other[0], "--actor", "ann", "--reason", "to be seen")
    assert inside.code == 0 and inside.fields["candidates"] == [pair(*other)]
    assert command("model", "shadow", 2).code == 3  # it decides already
    assert command("model", "shadow", other[0], "--leave").fields["candidates"] == []
    changes = command("model", "history", "--alias", "candidate").fields["changes"]
    assert [(c["after"], c["reason"]) for c in changes] == [([pair(*other)], "to be seen"), ([], "by hand")]
