"""The file a model travels in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from labelled_traffic import draw
from safetensors.numpy import load, save

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec, model, training, transform
from clickledger.scoring.velocity import velocity_model


@pytest.fixture(scope="module")
def velocity() -> model.Model:
    return velocity_model()


def repacked(artefact: bytes, **changes: Any) -> bytes:
    """The same file with some of its header changed."""
    size = int.from_bytes(artefact[:8], "little")
    header = json.loads(json.loads(artefact[8 : 8 + size])["__metadata__"]["clickledger"])
    return bytes(save(load(artefact), {"clickledger": json.dumps({**header, **changes})}))


def test_an_artefact_read_back_scores_and_writes_the_same_bytes(velocity: model.Model) -> None:
    features = draw(300).dataset.features
    artefact = model.to_artefact(velocity)
    again = model.from_artefact(artefact)
    assert again.kind == "velocity" and again.metadata == velocity.metadata
    assert again.score(features).tobytes() == velocity.score(features).tobytes()
    assert model.to_artefact(again) == artefact


def test_artefacts_of_earlier_releases_are_written_and_read_as_before() -> None:
    """The digest is that of 0.1.0 for the same layers, which replays and audits of its decisions rely on."""
    columns = len(transform.COLUMNS)
    weight = model.on_grid(np.linspace(-1, 1, columns).reshape(-1, 1))
    unit = transform.Transform(np.zeros(columns, dtype=np.float32), np.ones(columns, dtype=np.float32))
    made = model.Model("logistic_regression", unit, ((weight, model.on_grid(np.array([0.5]))),), {"seed": 3})
    artefact = model.to_artefact(made)
    assert model.digest(artefact) == "d7ea8646822488f2a695b2ee6e567a5227c7e48a6e5fbe8368e2ac90010816fd"
    snapshots = np.arange(40 * len(feature_spec.FEATURES), dtype=np.int32).reshape(40, -1)
    scores = model.from_artefact(artefact).score(snapshots)
    assert (
        hashlib.sha256(scores.tobytes()).hexdigest()
        == "36ee73c90807046a41314a798411361c2f972f34c488928524d6bf8a979807e5"
    )


def test_a_deep_cross_artefact_read_back_scores_and_writes_the_same_bytes() -> None:
    traffic = draw(1_500)
    judge = training.train_deep_cross(traffic.dataset, training.TrainingConfig(epochs_max=1, cross=2))
    artefact = model.to_artefact(judge)
    again = model.from_artefact(artefact)
    assert len(again.cross) == 2 and b"exact/2" in artefact and model.to_artefact(again) == artefact
    assert again.score(traffic.dataset.features).tobytes() == judge.score(traffic.dataset.features).tobytes()


def test_cross_layers_belong_to_a_deep_cross_model_and_keep_its_columns(velocity: model.Model) -> None:
    columns = len(transform.COLUMNS)
    square = (np.zeros((columns, columns), dtype=np.float32), np.zeros(columns, dtype=np.float32))
    wide = (np.zeros((columns, columns + 1), dtype=np.float32), np.zeros(columns + 1, dtype=np.float32))
    ((weight, bias),) = velocity.layers
    with pytest.raises(InvalidInput, match="cross layers: expected them in a deep_cross model only, got 1 in velocity"):
        dataclasses.replace(velocity, cross=(square,))
    with pytest.raises(InvalidInput, match=r"cross layers: expected them .*, got 0 in deep_cross"):
        dataclasses.replace(velocity, kind="deep_cross")
    with pytest.raises(InvalidInput, match="cross layer 0: expected as many columns out as in"):
        dataclasses.replace(velocity, kind="deep_cross", cross=(wide,))
    with pytest.raises(InvalidInput, match=rf"layer 0: expected weight \({2 * columns}, out\)"):
        dataclasses.replace(velocity, kind="deep_cross", cross=(square,))
    twice = np.concatenate([weight, weight])
    assert dataclasses.replace(velocity, kind="deep_cross", cross=(square,), layers=((twice, bias),)).cross


def test_other_metadata_is_another_digest(velocity: model.Model) -> None:
    other = dataclasses.replace(velocity, metadata={"seed": 1})
    assert model.digest(model.to_artefact(other)) != model.digest(model.to_artefact(velocity))


@pytest.mark.parametrize("artefact", [b"", b"short", b"\0" * 64, b"\xff" * 64, bytes(save({"a": np.zeros(1)}))])
def test_bytes_that_are_no_artefact_are_refused(artefact: bytes) -> None:
    with pytest.raises(InvalidInput, match="expected a clickledger safetensors file"):
        model.from_artefact(artefact)


def test_a_cut_artefact_is_refused(velocity: model.Model) -> None:
    with pytest.raises(InvalidInput, match="model artefact"):
        model.from_artefact(model.to_artefact(velocity)[:-4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["a"]}, "model columns"),
        ({"arithmetic": "float32"}, "model arithmetic: expected 'exact/1', got 'float32'"),
        ({"feature_schema": 99}, "feature schema: expected 1 or 2, got 99"),
        ({"kind": "oracle"}, "model kind: expected one of network, .*, velocity, deep_cross, got 'oracle'"),
        ({"kind": "deep_cross"}, "model arithmetic: expected 'exact/2', got 'exact/1'"),
    ],
)
def test_an_artefact_for_another_world_is_refused(velocity: model.Model, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        model.from_artefact(repacked(model.to_artefact(velocity), **change))


def test_weights_off_the_grid_are_refused(velocity: model.Model) -> None:
    ((weight, bias),) = velocity.layers
    with pytest.raises(InvalidInput, match=r"layer 0 weight: expected float32 multiples of 2\^-20"):
        dataclasses.replace(velocity, layers=((weight + np.float32(0.3e-6), bias),))


def test_layers_whose_sums_could_round_are_refused(velocity: model.Model) -> None:
    wide = np.full((len(transform.COLUMNS), 400), 8.0, dtype=np.float32)
    heavy = np.full((400, 1), 8.0, dtype=np.float32)
    layers = ((wide, np.zeros(400, dtype=np.float32)), (heavy, np.zeros(1, dtype=np.float32)))
    with pytest.raises(InvalidInput, match="layer 1: expected sums below"):
        dataclasses.replace(velocity, layers=layers)


def test_layers_that_do_not_fit_are_refused(velocity: model.Model) -> None:
    ((weight, bias),) = velocity.layers
    with pytest.raises(InvalidInput, match="layer 1: expected weight"):
        dataclasses.replace(velocity, layers=((weight, bias), (weight, bias)))
    with pytest.raises(InvalidInput, match="end in one logit"):
        dataclasses.replace(velocity, layers=())


def test_a_device_that_is_not_there_is_refused(velocity: model.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InvalidInput, match="no CUDA device"):
        model.from_artefact(model.to_artefact(velocity), device="cuda")
