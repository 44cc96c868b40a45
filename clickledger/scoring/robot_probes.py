"""Known robots: a fixed set of simulated snapshots, by kind, that a challenger must catch as the stable model does.

The set is a file, made once by `simulation_probes`. So what judges stays the same from day to day, its digest can stand
in an entry, and the truth about simulated traffic stays out of reach of whatever learns and decides. Nothing that
learns may read it either: a set that was learnt from says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec

NAMES = feature_spec.SCHEMAS[max(feature_spec.SCHEMAS)]  # a model reads of them what its own schema has
FILE = Path(__file__).with_name("robot_probes.safetensors")


@dataclass(frozen=True, eq=False)
class RobotProbes:
    """Snapshots int32 (n, k) and slices (n,) of robots by kind; `digest` is the SHA-256 of the file, hex."""

    features: Mapping[str, npt.NDArray[np.int32]]
    slices: Mapping[str, npt.NDArray[np.str_]]
    digest: str


def to_file(features: Mapping[str, npt.NDArray[np.int32]], slices: Mapping[str, list[str]]) -> bytes:
    """The bytes of the file. Same robots, same bytes."""
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for kind, snapshots in features.items():
        tensors[f"{kind}/features"] = np.ascontiguousarray(snapshots)
        tensors[f"{kind}/slices"] = np.frombuffer("\0".join(slices[kind]).encode(), dtype=np.uint8)
    schema = max(feature_spec.schema_of(snapshots) for snapshots in features.values())
    return bytes(save(tensors, {"feature_schema": str(schema)}))


def from_file(content: bytes) -> RobotProbes:
    """The robots of a file. Raises InvalidInput for other content, or snapshots of another schema's width."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InvalidInput(f"robot probes: expected a safetensors file: {error}") from error
    kinds = sorted(name.removesuffix("/features") for name in tensors if name.endswith("/features"))
    features = {kind: tensors[f"{kind}/features"] for kind in kinds}
    slices = {kind: np.array(tensors[f"{kind}/slices"].tobytes().decode().split("\0")) for kind in kinds}
    for kind, snapshots in features.items():
        if snapshots.shape != (len(slices[kind]), len(NAMES)):
            expected = (len(slices[kind]), len(NAMES))
            raise InvalidInput(f"robot probes: {kind}: expected shape {expected}, got {snapshots.shape}")
    return RobotProbes(features, slices, hashlib.sha256(content).hexdigest())


@lru_cache(maxsize=1)
def known() -> RobotProbes:
    """The robots that come with this version."""
    return from_file(FILE.read_bytes())
