"""Learning from the ledger: every step an entry, the same log the same model, too few labels refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decided_traffic import STABLE_LIMIT, START_MS, Traffic, deploy, register

from clickledger.errors import InvalidInput, Refused
from clickledger.ledger import database, deployments, log, outcomes
from clickledger.scoring import dataset, guardrails, learn, training
from clickledger.scoring import model as models_
from clickledger.scoring.findings import HOUR_MS, Limits
from clickledger.scoring.guardrails import Guarding
from clickledger.scoring.guards_of_feeds import Day
from clickledger.scoring.labels import LabelRules
from clickledger.scoring.recipe import Recipe

CUTOFF_MS = START_MS + 10**9
# A small ledger whose accounts all buy, judged long after its last purchase.
LENIENT = Guarding(Limits(account_labels_per_day_max=10**6, feed_lag_hours_max=10**6))
STRICT = replace(LENIENT, limits=replace(LENIENT.limits, label_age_hours_min=10_000))


@pytest.fixture
def ledger(conn: database.Connection) -> database.Connection:
    """2,000 clicks of which every 20th led to a purchase."""
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn)
    for _ in range(10):
        traffic.append(200)
    bought = [outcomes.Outcome(i, "purchase", START_MS + 10**7, 1_000) for i in traffic.ids[::20]]
    outcomes.append(conn, bought, "tests")
    return conn


def test_each_step_is_an_entry_and_nothing_is_deployed(ledger: database.Connection) -> None:
    before, epoch = log.head(ledger).position, deployments.current(ledger).epoch
    learned = learn.learn(ledger, actor="tests", reason="why not", label_cutoff_ms=CUTOFF_MS)
    entries = log.read(ledger, after=before)
    assert [entry.kind for entry in entries] == ["dataset_built", "model_registered", "calibration_set"]
    assert {entry.reason for entry in entries} == {"why not"}
    assert entries[1].payload["metadata"]["dataset_position"] == entries[0].position
    assert deployments.current(ledger).epoch == epoch
    assert (learned.rows, learned.purchases) == (2_000, 100)
    assert models_.from_artefact(deployments.load_artefact(ledger, learned.model_version)).kind == "network"
    assert "*" in deployments.load_thresholds(ledger, learned.calibration_version)


def test_data_set_can_be_rebuilt_from_its_entry(ledger: database.Connection) -> None:
    learn.learn(ledger, actor="tests", reason="", kind="velocity", label_cutoff_ms=CUTOFF_MS)
    (entry,) = log.read(ledger, kinds=["dataset_built"])
    built = dataset.build(ledger, entry.payload["up_to_position"], entry.payload["label_cutoff_ms"])
    assert built.digest() == entry.payload["digest"]


def test_same_log_gives_the_same_model(ledger: database.Connection) -> None:
    bound = log.head(ledger).position
    first, second = (
        learn.learn(ledger, actor="tests", reason="", up_to_position=bound, label_cutoff_ms=CUTOFF_MS).model_version
        for _ in range(2)
    )
    one, other = (models_.from_artefact(deployments.load_artefact(ledger, version)) for version in (first, second))
    for (weight, bias), (weight_again, bias_again) in zip(one.layers, other.layers, strict=True):
        assert np.array_equal(weight, weight_again)
        assert np.array_equal(bias, bias_again)


@pytest.mark.parametrize("kind", ["network", "deep_cross"])
def test_trained_again_from_the_entry_of_its_set_a_model_has_the_same_digest(
    ledger: database.Connection, kind: str
) -> None:
    learn.learn(ledger, actor="tests", reason="", kind=kind, label_cutoff_ms=CUTOFF_MS)
    (built,) = log.read(ledger, kinds=["dataset_built"])
    registered = log.read(ledger, kinds=["model_registered"])[-1]
    train, _ = learn.split(dataset.rebuild(ledger, built.position))
    again = models_.to_artefact(learn.TRAINERS[kind](train))
    assert models_.digest(again) == registered.payload["digest"] and registered.payload["kind"] == kind
    profile = models_.from_artefact(again).metadata["profile"]
    assert set(profile) == {"torch", "numpy", "machine", "cpu_capability"}


def test_the_better_network_is_registered_under_its_own_kind_with_what_decided(ledger: database.Connection) -> None:
    learned = learn.learn(ledger, actor="tests", reason="", kind="auto", label_cutoff_ms=CUTOFF_MS)
    model = models_.from_artefact(deployments.load_artefact(ledger, learned.model_version))
    (entry,) = log.read(ledger, kinds=["model_registered"])[-1:]
    contest = entry.payload["metadata"]["contest"]
    assert entry.payload["kind"] == model.kind == ("deep_cross" if contest["wins"] else "network")
    assert contest == model.metadata["contest"] and len(contest["by_seed"]) == 3


def test_withheld_labels_are_stated_in_the_entry(ledger: database.Connection) -> None:
    stretch = (START_MS, START_MS + 20_000)
    learn.learn(ledger, actor="tests", reason="", kind="velocity", label_cutoff_ms=CUTOFF_MS, withheld=[stretch])
    (entry,) = log.read(ledger, kinds=["dataset_built"])
    assert entry.payload["withheld"] == [list(stretch)]
    assert entry.payload["purchased"] < 100


def test_missing_labels_are_refused(ledger: database.Connection) -> None:
    with pytest.raises(Refused, match=r"calibration part .* got none"):
        learn.learn(
            ledger, actor="tests", reason="", label_cutoff_ms=CUTOFF_MS, withheld=[(START_MS + 60_000, CUTOFF_MS)]
        )


def learn_guarded(ledger: database.Connection, guarding: Guarding, actor: str = "ann") -> learn.Learned:
    return learn.learn(
        ledger, actor=actor, reason="daily", kind="velocity", label_cutoff_ms=CUTOFF_MS, guarding=guarding
    )


def test_a_set_that_passes_leaves_its_figures_in_the_log(ledger: database.Connection) -> None:
    before = log.head(ledger).position
    learn_guarded(ledger, LENIENT)
    built, passed, *_ = log.read(ledger, after=before)
    assert (built.kind, passed.kind) == ("dataset_built", "guardrails_passed")
    assert passed.payload["dataset_position"] == built.position and passed.payload["refusing"] == []
    judged = {finding["guard"]: finding for finding in passed.payload["findings"]}
    assert judged["human_density"]["figure"] is None and "not enough history" in judged["human_density"]["note"]
    assert len(judged) == 15 and all(finding["passed"] for finding in judged.values())


def test_undecided_clicks_are_counted_by_day_back_from_the_end(conn: database.Connection) -> None:
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn, gap_ms=HOUR_MS)
    traffic.append(24)
    traffic.append(30, late=6)
    recipe = Recipe(log.head(conn).position, START_MS + 50 * HOUR_MS + 1, rules=LabelRules(maturity_ms=2 * HOUR_MS))
    made = dataset.gather(conn, recipe)
    days = guardrails.gather(conn, recipe, made, np.ones(len(made.dataset), dtype=np.float32)).days
    # The end is a moment after the 48th hour: one click lies before both days, the late ones are those from hour 24 on.
    assert days == {0: Day(24, 5), 1: Day(24, 1), 2: Day(1, 0)}


def test_a_refusal_is_an_entry_with_all_figures_and_nothing_is_trained(ledger: database.Connection) -> None:
    with pytest.raises(Refused, match=r"refused by guardrails, .*label_age: .*expected at least 10000, got 27"):
        learn_guarded(ledger, STRICT)
    [entry] = log.read(ledger, kinds=["guardrail_refused"])
    built = log.read(ledger, kinds=["dataset_built"])[-1]
    assert entry.payload["dataset_position"] == built.position and entry.payload["digest"] == built.payload["digest"]
    assert entry.payload["refusing"] == ["label_age"] and len(entry.payload["findings"]) == 15
    assert entry.payload["limits"]["label_age_hours_min"] == 10_000
    assert log.head(ledger).position == entry.position


def test_an_override_takes_a_second_person_and_a_reason(ledger: database.Connection) -> None:
    refused = refusal(ledger)
    with pytest.raises(Refused, match="expected a second person, got ann again"):
        guardrails.override(ledger, refused.position, actor="ann", reason="all is well")
    with pytest.raises(InvalidInput, match="reason: expected why"):
        guardrails.override(ledger, refused.position, actor="bob", reason=" ")
    with pytest.raises(InvalidInput, match="expected kind guardrail_refused, got dataset_built"):
        guardrails.override(ledger, refused.payload["dataset_position"], actor="bob", reason="all is well")
    entry = guardrails.override(ledger, refused.position, actor="bob", reason="an old set, on purpose")
    assert entry.kind == "guardrail_overridden" and entry.payload["refused_position"] == refused.position
    with pytest.raises(Refused, match="expected a second person to train, got bob again"):
        learn_guarded(ledger, replace(STRICT, overridden=entry.position), actor="bob")
    learn_guarded(ledger, replace(STRICT, overridden=entry.position))
    passed = log.read(ledger, kinds=["guardrails_passed"])[-1].payload
    assert (passed["overridden"], passed["refusing"]) == (entry.position, ["label_age"])


def test_an_override_is_for_one_set_and_the_guards_that_refused_it(ledger: database.Connection) -> None:
    refused = refusal(ledger)
    overridden = guardrails.override(ledger, refused.position, actor="bob", reason="on purpose").position
    harder = replace(STRICT.limits, effective_sample_min=1.1)
    with pytest.raises(Refused, match=r"refused by \['effective_sample'\] as well"):
        learn_guarded(ledger, Guarding(harder, overridden))
    outcomes.append(ledger, [outcomes.Outcome(bytes(16), "purchase", START_MS, 1)], "tests")
    learn_guarded(ledger, replace(STRICT, overridden=overridden))
    assert len({entry.payload["digest"] for entry in log.read(ledger, kinds=["dataset_built"])}) == 1


def test_the_weights_of_a_set_are_pinned_by_its_entry(ledger: database.Connection) -> None:
    learn.learn(ledger, actor="tests", reason="", kind="velocity", label_cutoff_ms=CUTOFF_MS)
    (entry,) = log.read(ledger, kinds=["dataset_built"])
    built = dataset.rebuild(ledger, entry.position)
    weights = training.sample_weights(built.features, built.human, training.DEFAULT_CONFIG.weight_cap)
    assert dataset.weights_digest(weights) == entry.payload["weights_digest"]


def refusal(ledger: database.Connection) -> log.Entry:
    with pytest.raises(Refused):
        learn_guarded(ledger, STRICT)
    return log.read(ledger, kinds=["guardrail_refused"])[-1]


def test_unknown_kind_is_refused(ledger: database.Connection) -> None:
    with pytest.raises(InvalidInput, match="kind: expected one of"):
        learn.learn(ledger, actor="tests", reason="", kind="oracle")
