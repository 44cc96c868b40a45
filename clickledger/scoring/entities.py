"""Vectors of user agents and addresses, learned without labels: for evaluation only, no live decision knows them.

An agent or address is described by the company it keeps among the clicks of a training part: the octaves of the
counts that its clicks were counted at, the hours they came in, and which addresses (of an agent) or agents (of an
address) they came with. The positive pointwise mutual information of entity and company, factorised, is what
skip-gram vectors converge to (Levy and Goldberg, NIPS 2014), and needs neither negative samples nor a seed. No outcome,
advertiser or campaign goes in.

Invariants:
- an entity with fewer than `CLICKS_MIN` clicks in the training part, or none, has the zero vector: what chance says of
  a few clicks would be learned by heart;
- vectors are whole multiples of 1 / `transform.GRID` within `transform.INPUT_LIMIT`, as every input of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from clickledger.scoring import feature_spec, transform
from clickledger.scoring.click import Click

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SLOTS = 1 << 20  # hashes of agents and of address pseudonyms, few enough of them for collisions to be rare
CLICKS_MIN = 20
MEETINGS_MIN = 5  # of an entity and one company, to say anything
DIMENSIONS = 8  # of each entity
SMOOTHING = 0.75  # of the company's frequencies: rare company would else look telling (the same paper)
_BINS = 33  # octaves of an int32 from 0, and one for no value
_HOURS = 24


@dataclass(frozen=True)
class Table:
    """One kind of entity: the slots that were seen often enough (m,), rising, and their vectors (m, DIMENSIONS)."""

    slots: Ints
    vectors: Floats  # in units of 1 / transform.GRID

    def of(self, slots: Ints) -> Floats:
        """The vectors of slots (n,) -> (n, DIMENSIONS), zero for those unknown."""
        place = np.minimum(np.searchsorted(self.slots, slots), max(len(self.slots) - 1, 0))
        found = self.slots[place] == slots if len(self.slots) else np.zeros(len(slots), dtype=np.bool_)
        vectors = np.zeros((len(slots), DIMENSIONS))
        vectors[found] = self.vectors[place[found]]
        return vectors


@dataclass(frozen=True)
class Vectors:
    """What was learned of agents and of addresses."""

    agent: Table
    address: Table

    def of(self, entities: Ints) -> Floats:
        """Entities (n, 2) of clicks, as `entities_of` gives them -> inputs (n, 2 * DIMENSIONS)."""
        return np.concatenate([self.agent.of(entities[:, 0]), self.address.of(entities[:, 1])], axis=1)


def entities_of(clicks: Iterable[Click]) -> Ints:
    """The slots of agent and address of each click, (n, 2)."""
    slots = [(crc32(click.device.encode()) % SLOTS, crc32(click.ip_key) % SLOTS) for click in clicks]
    return np.array(slots, dtype=np.int64).reshape(-1, 2)


def learn(features: npt.NDArray[np.int32], entities: Ints) -> Vectors:
    """Learn vectors from snapshots int32 (n, k) and their entities (n, 2)."""
    behaviour = _behaviour(features)
    agent, address = (_frequent(column) for column in entities.T)
    return Vectors(
        _factorised(agent, [*behaviour, (address.codes, len(address.slots) + 1)]),
        _factorised(address, [*behaviour, (agent.codes, len(agent.slots) + 1)]),
    )


@dataclass(frozen=True)
class _Coded:
    slots: Ints  # (m,)
    codes: Ints  # (n,) place of each click's slot among them, m for the others


def _frequent(column: Ints) -> _Coded:
    slots, index, counts = np.unique(column, return_inverse=True, return_counts=True)
    often = counts >= CLICKS_MIN
    place = np.where(often, np.cumsum(often) - 1, often.sum())
    return _Coded(slots[often], place[index])


def _behaviour(features: npt.NDArray[np.int32]) -> list[tuple[Ints, int]]:
    """One column of codes (n,) for each count, and one for the hour of day, with the number of its codes."""
    counts = features[:, [feature_spec.INDEX[name] for name in transform.COUNTS]]
    bins = np.where(counts < 0, _BINS - 1, transform.octaves(counts).astype(np.int64))
    hour = features[:, feature_spec.INDEX["minute_of_week"]].astype(np.int64) // 60 % _HOURS
    return [*((column, _BINS) for column in bins.T), (hour, _HOURS)]


def _factorised(entity: _Coded, company: Sequence[tuple[Ints, int]]) -> Table:
    entities = len(entity.slots)
    known = entity.codes < entities
    met = [
        np.bincount(entity.codes[known] * size + codes[known], minlength=entities * size).reshape(entities, size)
        for codes, size in company
    ]
    left, strength, _ = np.linalg.svd(_information(np.concatenate(met, axis=1).astype(np.float64)), full_matrices=False)
    vectors = np.zeros((entities, DIMENSIONS))
    width = min(DIMENSIONS, len(strength))
    vectors[:, :width] = left[:, :width] * np.sqrt(strength[:width])
    widest = float(vectors[entity.codes[known]].std(axis=0).max(initial=0.0)) if known.any() else 0.0
    scaled = np.rint(vectors / (widest or 1.0) * transform.GRID)  # one scale: what tells little stays small
    limit = transform.INPUT_LIMIT * transform.GRID
    return Table(entity.slots, np.clip(scaled, -limit, limit))


def _information(met: Floats) -> Floats:
    """Positive pointwise mutual information of how often entities (m,) met company (c,): (m, c)."""
    if not met.size or not met.sum():
        return np.zeros((len(met), max(met.shape[1], 1)))
    own = met.sum(axis=1, keepdims=True) / met.sum()
    other = met.sum(axis=0, keepdims=True) ** SMOOTHING
    expected = own * other / other.sum()
    share = met / met.sum()
    information = np.log(np.where(share > 0, share, 1.0) / np.where(expected > 0, expected, 1.0))
    return np.where(met >= MEETINGS_MIN, np.maximum(information, 0.0), 0.0)
