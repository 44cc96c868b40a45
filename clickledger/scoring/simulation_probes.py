"""Makes the fixed set of known robots (`robot_probes`) from simulated traffic, whose truth is known here.

    python -m clickledger.scoring.simulation_probes

writes the file anew, the same to the byte with the same numpy. To be run when the feature schema changes, and only
then: challengers of both sides of a change are judged by different robots. They have what the table of data centres of
their world says (`simulation_networks`); models that do not read it see the same robots as without.
"""

from __future__ import annotations

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
from clickledger.scoring.simulation import SimulationConfig

CLICKS, DAYS, SEED = 60_000, 3.0, 20_261_129
ROBOTS_OF_A_KIND = 300
# Adware clicks from people's own accounts and is caught by nobody: losing none of it would say nothing.
KINDS = tuple(kind for kind in truths.KINDS if kind not in (truths.HUMAN, "adware"))


def make(config: SimulationConfig | None = None) -> bytes:
    """Simulate, count, and take robots of each kind once the longest window is full; the bytes of the file."""
    config = config or simulated_comparison.config_of(CLICKS, DAYS, SEED)
    traffic, truth = simulation.simulate(config)
    facts = networks.AddressFacts(1, simulation_networks.of_run(config, traffic, truth))
    clicks = traffic.to_clicks(simulated_comparison.PSEUDONYMS, facts=facts)
    snapshots = offline_dataset.recount(clicks, []).features
    warm = traffic.event_time_ms >= traffic.event_time_ms[0] + feature_spec.LONGEST_WINDOW_MS
    drawn = {kind: _drawn(warm & (truth.kind == truths.KINDS.index(kind)), number) for number, kind in enumerate(KINDS)}
    return robot_probes.to_file(
        {kind: snapshots[rows] for kind, rows in drawn.items()},
        {kind: [clicks[row].slice for row in rows.tolist()] for kind, rows in drawn.items()},
    )


def _drawn(robots: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.intp]:
    rows = np.flatnonzero(robots)
    return np.sort(np.random.default_rng([SEED, number]).choice(rows, min(ROBOTS_OF_A_KIND, len(rows)), replace=False))


if __name__ == "__main__":
    robot_probes.FILE.write_bytes(make())
