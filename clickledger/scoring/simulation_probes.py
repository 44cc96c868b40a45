"""Makes the fixed set of known robots (`robot_probes`) from simulated traffic, whose truth is known here.

    python -m clickledger.scoring.simulation_probes

writes the file anew, the same to the byte with the same numpy. To be run when the feature schema changes, and only
then: challengers of both sides of a change are judged by different robots. They have what the table of data centres of
their world says (`simulation_networks`); models that do not read it see the same robots as without.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.scoring import (
    feature_spec,
    networks,
    offline_dataset,
    robot_probes,
    simulated_comparison,
    simulation,
    simulation_networks,
)
from clickledger.scoring import simulation_truth as truths

CLICKS, DAYS, SEED = 100_000, 5.0, 20_261_129
WORLDS = 20  # one has four attacks and five farmed accounts: 300 of their clicks are two robots, lost together
ROBOTS_OF_A_KIND = 300
# Adware clicks from people's own accounts and is caught by nobody: losing none of it would say nothing.
KINDS = tuple(kind for kind in truths.KINDS if kind not in (truths.HUMAN, "adware"))


class Robots(NamedTuple):
    """Snapshots int32 (n, k) and slices of robots of one kind."""

    features: npt.NDArray[np.int32]
    slices: list[str]


def make() -> bytes:
    """The bytes of the file: as many robots from each of some simulated worlds."""
    worlds = [robots_of(number) for number in range(WORLDS)]
    return robot_probes.to_file(
        {kind: np.concatenate([world[kind].features for world in worlds]) for kind in KINDS},
        {kind: [name for world in worlds for name in world[kind].slices] for kind in KINDS},
    )


def robots_of(number: int) -> dict[str, Robots]:
    """Simulate a world, count, and take robots of each kind once the longest window is full."""
    config = simulated_comparison.config_of(CLICKS, DAYS, SEED + number)
    traffic, truth = simulation.simulate(config)
    facts = networks.AddressFacts(1, simulation_networks.of_run(config, traffic, truth))
    clicks = traffic.to_clicks(simulated_comparison.PSEUDONYMS, facts=facts)
    snapshots = offline_dataset.recount(clicks, []).features
    warm = traffic.event_time_ms >= traffic.event_time_ms[0] + feature_spec.LONGEST_WINDOW_MS
    rng = np.random.default_rng([SEED, number])
    drawn = {kind: _drawn(warm & (truth.kind == truths.KINDS.index(kind)), rng) for kind in KINDS}
    return {kind: Robots(snapshots[rows], [clicks[row].slice for row in rows.tolist()]) for kind, rows in drawn.items()}


def _drawn(robots: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    return np.sort(rng.choice(np.flatnonzero(robots), ROBOTS_OF_A_KIND // WORLDS, replace=False))


if __name__ == "__main__":
    robot_probes.FILE.write_bytes(make())
