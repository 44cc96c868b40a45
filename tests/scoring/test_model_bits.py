"""The promise behind every replay and audit: a row has one score, whatever it is scored with and wherever."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from clickledger.scoring import feature_spec, forward_torch, model, transform

WIDTH = len(transform.COLUMNS)
INT32 = np.iinfo(np.int32)


def random_snapshots(random: np.random.Generator, rows: int) -> np.ndarray:
    """Every magnitude of count, missing values, and codes nobody has defined yet."""
    features = (2.0 ** random.uniform(0, 31, (rows, len(feature_spec.FEATURES))) - 1).astype(np.int32)
    features[random.random(features.shape) < 0.1] = feature_spec.NO_VALUE
    features[:, feature_spec.INDEX["minute_of_week"]] = random.integers(-1, feature_spec.MINUTES_PER_WEEK, rows)
    features[:, feature_spec.INDEX["logged_in"]] = random.integers(-1, 2, rows)
    features[:, feature_spec.INDEX["device_kind"]] = random.integers(0, 9, rows)
    return features


def random_model(
    random: np.random.Generator, hidden: tuple[int, ...] = (64, 32), size: float = 1.0, cross: int = 0
) -> model.Model:
    """Layers that no training made: large enough to reach every limit on the way."""
    learned = transform.Transform(
        random.normal(5, 3, WIDTH).astype(np.float32), random.lognormal(0, 1, WIDTH).astype(np.float32)
    )
    widths = [WIDTH, *hidden]
    shapes = [*pairwise(widths), (widths[-1] + (WIDTH if cross else 0), 1)]
    layers = tuple(random_layer(random, a, b, size) for a, b in shapes)
    crossed = tuple(random_layer(random, WIDTH, WIDTH, size) for _ in range(cross))
    return model.Model("deep_cross" if cross else "network", learned, layers, cross=crossed)


def random_layer(random: np.random.Generator, inputs: int, outputs: int, size: float) -> model.Layer:
    return model.on_grid(random.normal(0, size, (inputs, outputs))), model.on_grid(random.normal(0, size, outputs))


Scored = tuple[model.Model, np.ndarray, np.ndarray]
CROSS_LAYERS = {"network": 0, "deep_cross": 2}


@functools.cache
def scored_with(cross: int) -> Scored:
    random = np.random.default_rng(7)
    judge, features = random_model(random, size=0.2, cross=cross), random_snapshots(random, 65_536)
    return judge, features, judge.score(features)


@pytest.fixture(scope="module", params=CROSS_LAYERS)
def scored(request: pytest.FixtureRequest) -> Scored:
    return scored_with(CROSS_LAYERS[request.param])


@pytest.mark.parametrize("batch", [1, 2, 255, 257, *(model.BLOCK_ROWS + k for k in (-1, 0, 1)), 65_536])
def test_a_row_scores_to_the_same_bits_in_any_batch(scored: Scored, batch: int) -> None:
    judge, features, expected = scored
    rows = min(len(features), 40 * batch)
    again = [judge.score(features[start : min(start + batch, rows)]) for start in range(0, rows, batch)]
    assert np.concatenate(again).tobytes() == expected[:rows].tobytes()


def test_a_row_scores_to_the_same_bits_on_both_sides_of_every_border(scored: Scored) -> None:
    judge, rows = scored[0], 3 * model.BLOCK_ROWS + 5
    features, expected = scored[1][:rows], scored[2][:rows]
    for start in (1, 255, model.BLOCK_ROWS - 1, model.BLOCK_ROWS + 1):  # each row comes to lie in another place
        assert judge.score(features[start:]).tobytes() == expected[start:].tobytes()
    assert judge.score(features[::-1]).tobytes() == expected[::-1].tobytes()
    borders = np.arange(model.BLOCK_ROWS, len(features), model.BLOCK_ROWS)
    for row in [*(borders - 1), *borders, 0, len(features) - 1]:
        assert judge.score(features[row : row + 1]).tobytes() == expected[row : row + 1].tobytes()


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 600))
@settings(max_examples=30, deadline=None)
def test_a_row_scores_to_the_same_bits_in_any_order_and_company(scored: Scored, seed: int, rows: int) -> None:
    judge, features, expected = scored
    chosen = np.random.default_rng(seed).integers(0, len(features), rows)
    assert judge.score(features[chosen]).tobytes() == expected[chosen].tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_bit(scored: Scored, threads: int) -> None:
    judge, features, expected = scored
    with threadpool_limits(threads):
        assert judge.score(features[:20_000]).tobytes() == expected[:20_000].tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("onednn", [True, False])
def test_torch_gives_the_bits_of_numpy_with_any_threads_and_kernels(scored: Scored, threads: int, onednn: bool) -> None:
    judge, features, expected = scored
    threads_before, onednn_before = torch.get_num_threads(), torch.backends.mkldnn.is_available()
    try:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.set_flags(onednn)
        there = forward_torch.Forward(judge.layers, judge.cross, "cpu")
        again = there(judge.transform.inputs(features[:20_000]))
    finally:
        torch.set_num_threads(threads_before)
        torch.backends.mkldnn.set_flags(onednn_before)
    assert again.tobytes() == expected[:20_000].tobytes()


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_a_processor_with_other_instructions_gives_the_same_bits(instructions: str, tmp_path: Path) -> None:
    """The libraries are told to do without their widest vectors, as they would on an older machine."""
    expected = []
    for kind, cross in CROSS_LAYERS.items():
        judge, features, scores = scored_with(cross)
        (tmp_path / f"{kind}.model").write_bytes(model.to_artefact(judge))
        np.save(tmp_path / f"{kind}.npy", features)
        expected += [hashlib.sha256(scores.tobytes()).hexdigest()] * 2  # by NumPy and by torch
    older = {
        "OPENBLAS_CORETYPE": "Nehalem" if instructions == "default" else "Haswell",
        "ATEN_CPU_CAPABILITY": instructions,
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2" if instructions == "default" else "AVX2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCORE_THERE, str(tmp_path), *CROSS_LAYERS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **older},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == expected


SCORE_THERE = """
import hashlib, pathlib, sys
import numpy
from clickledger.scoring import forward_torch, model
folder = pathlib.Path(sys.argv[1])
for kind in sys.argv[2:]:
    judge = model.from_artefact((folder / f"{kind}.model").read_bytes())
    features = numpy.load(folder / f"{kind}.npy")
    there = forward_torch.Forward(judge.layers, judge.cross, "cpu")
    for scores in (judge.score(features), there(judge.transform.inputs(features))):
        print(hashlib.sha256(scores.tobytes()).hexdigest())
"""


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.01, 0.3, 3.0]),
    hidden=st.sampled_from([(), (8, 4)]),
    cross=st.sampled_from([0, 1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_scores_equal_those_of_whole_number_arithmetic(
    seed: int, size: float, hidden: tuple[int, ...], cross: int
) -> None:
    random = np.random.default_rng(seed)
    judge, features = random_model(random, hidden, size, cross), random_snapshots(random, 4)
    expected = np.array([whole_number_score(judge, row) for row in features], dtype=np.float32)
    assert judge.score(features).tobytes() == expected.tobytes()


def whole_number_score(judge: model.Model, row: np.ndarray) -> np.float32:
    """The same function by Python integers, one click and one sum at a time."""
    inputs = [round(step) for step in judge.transform.inputs(row[None, :])[0].tolist()]
    values = inputs
    for layer in judge.layers[:-1]:
        values = [limited(Fraction(s, 2**20), 0) for s in whole_number_sums(layer, values)]
    crossed = inputs
    for layer in judge.cross:
        factors = [limited(Fraction(s, 2**20), -64) for s in whole_number_sums(layer, crossed)]
        products = [round(Fraction(x * f, 2**16)) for x, f in zip(inputs, factors, strict=True)]
        crossed = [limited(p + c, -64) for p, c in zip(products, crossed, strict=True)]
    (logit,) = whole_number_sums(judge.layers[-1], [*values, *crossed] if judge.cross else values)
    return np.float32(logit / 2**36)


def whole_number_sums(layer: model.Layer, values: list[int]) -> list[int]:
    weight, bias = layer
    columns = [[round(Fraction(float(w)) * 2**20) for w in column] for column in weight.T]
    biases = [round(Fraction(float(b)) * 2**36) for b in bias]
    return [b + sum(w * v for w, v in zip(ws, values, strict=True)) for ws, b in zip(columns, biases, strict=True)]


def limited(value: Fraction | int, least: int) -> int:
    return min(max(round(value), least * 2**16), 64 * 2**16)


@pytest.mark.parametrize("cross", [0, 2])
def test_extreme_snapshots_score_finitely(cross: int) -> None:
    judge = random_model(np.random.default_rng(3), size=2.0, cross=cross)
    extremes = np.array([[INT32.min], [-1], [0], [INT32.max]], dtype=np.int32)
    assert np.isfinite(judge.score(np.repeat(extremes, len(feature_spec.FEATURES), axis=1))).all()


def test_no_clicks_have_no_scores() -> None:
    judge = random_model(np.random.default_rng(3))
    assert judge.score(np.empty((0, len(feature_spec.FEATURES)), dtype=np.int32)).shape == (0,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: bits are compared on CPUs alone")
def test_a_gpu_gives_the_bits_of_a_cpu(scored: Scored) -> None:
    judge, features, expected = scored
    there = model.from_artefact(model.to_artefact(judge), device="cuda")
    assert there.score(features).tobytes() == expected.tobytes()
