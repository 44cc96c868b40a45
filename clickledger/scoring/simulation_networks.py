"""The networks of data centres in a simulated world, as a table of facts would list them (`networks`).

What a run's clicks came from decides, so the traffic is the same with a table or without. Most bursts' networks are in
it and some are not, as no list is whole; some of the competitors' proxies stand in data centres; and so do the exits of
VPNs that a few people use. So the flag tells much and proves nothing. Carriers' gateways are in no such table.

Which addresses are listed follows from the seed and the address alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from clickledger.scoring import networks, simulation
from clickledger.scoring import simulation_truth as truths
from clickledger.scoring.networks import Networks
from clickledger.scoring.simulation_config import SimulationConfig
from clickledger.scoring.simulation_traffic import Simulated
from clickledger.scoring.simulation_truth import Truth
from clickledger.scoring.simulation_world import Flags, Ints

BURST_LISTED_SHARE = 0.9  # of the networks that bursts come from
PROXY_LISTED_SHARE = 0.15  # of a competitor's proxies; the others are hired from homes
VPN_SHARE = 0.015  # of the addresses people click from, gateways aside
BURST_NETWORK_BITS = 4  # a /28
_IPV4_BITS = 32
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64 (Steele, 2014)


@dataclass
class Places:
    """Addresses that the clicks of a run came from, by who clicks there; fed a day at a time."""

    seed: int
    gateways: Ints
    _of: dict[str, set[int]] = field(default_factory=lambda: {kind: set() for kind in truths.KINDS})

    def add(self, traffic: Simulated, truth: Truth) -> None:
        """Note where the clicks of some traffic came from."""
        for code, kind in enumerate(truths.KINDS):
            self._of[kind].update(np.unique(traffic.ip[truth.kind == code]).tolist())

    def lines(self) -> list[str]:
        """The table, a network a line, ascending."""
        bursts = _listed(self.seed, {ip >> BURST_NETWORK_BITS for ip in self._of["burst"]}, BURST_LISTED_SHARE)
        proxies = _listed(self.seed, self._of["competitor"], PROXY_LISTED_SHARE)
        exits = _listed(self.seed, self._of[truths.HUMAN].difference(self.gateways.tolist()), VPN_SHARE)
        networks = {(ip << BURST_NETWORK_BITS, _IPV4_BITS - BURST_NETWORK_BITS) for ip in bursts}
        networks |= {(ip, _IPV4_BITS) for ip in (*proxies, *exits)}
        return [f"{_address(first)}/{prefix}" for first, prefix in sorted(networks)]


def of_run(config: SimulationConfig, traffic: Simulated, truth: Truth) -> Networks:
    """The table of a run that `simulation.simulate` made."""
    places = Places(config.seed, simulation.gateways_of(config))
    places.add(traffic, truth)
    return networks.parse(content(places.lines()))


def content(lines: Iterable[str]) -> bytes:
    """The file of a table."""
    return "".join(f"{line}\n" for line in ("# data centres of a simulated world", *lines)).encode()


def _listed(seed: int, addresses: Iterable[int], share: float) -> list[int]:
    """Those of some numbers that a hash of each, with the seed, puts below `share`."""
    numbers = np.array(sorted(addresses), dtype=np.uint64)
    salt = np.uint64(seed * _GOLDEN % 2**64)
    chosen: Flags = _mixed(numbers ^ salt) < np.uint64(int(share * 2**64))
    found: list[int] = numbers[chosen].tolist()
    return found


def _mixed(numbers: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        return z ^ (z >> np.uint64(31))


def _address(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
