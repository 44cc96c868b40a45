"""Learning from the ledger: every step an entry, the same log the same model, too few labels refused."""

from __future__ import annotations

import numpy as np
import pytest
from decided_traffic import STABLE_LIMIT, START_MS, Traffic, deploy, register

from clickledger.errors import InvalidInput, Refused
from clickledger.ledger import database, deployments, log, outcomes
from clickledger.scoring import dataset, learn
from clickledger.scoring import model as models_

CUTOFF_MS = START_MS + 10**9


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


def test_unknown_kind_is_refused(ledger: database.Connection) -> None:
    with pytest.raises(InvalidInput, match="kind: expected one of"):
        learn.learn(ledger, actor="tests", reason="", kind="oracle")
