"""The file a model travels in."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from labelled_traffic import draw
from safetensors.numpy import load, save

from clickledger.errors import InvalidInput
from clickledger.scoring import model, training, transform


@pytest.fixture(scope="module")
def velocity() -> model.Model:
    return training.velocity_model()


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
        ({"feature_schema": 99}, "feature schema: expected 1, got 99"),
        ({"kind": "oracle"}, "model kind: expected one of network, logistic_regression, velocity, got 'oracle'"),
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
