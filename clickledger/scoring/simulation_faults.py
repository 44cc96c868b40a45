"""Faults of simulated traffic: what is lost, late, repeated, misdated or bought on the way to the ledger.

Invariants:
- each fault draws random numbers of its own, and for every click whether it is hit or not: turning one on, moving it or
  giving it another share changes nothing that another fault does;
- who clicked, and what is true of it, is never changed; a click that is sent again is the same click, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring.intake_fields import BOUNDS, RejectedClick, event_time_ms
from clickledger.scoring.simulation_config import Fault, FaultKind, SimulationConfig
from clickledger.scoring.simulation_traffic import Ints, Purchases, Simulated
from clickledger.scoring.simulation_truth import KINDS, Truth

Flags = npt.NDArray[np.bool_]
_SPAWNED = 200  # beyond the numbers that the parts of a run spawn
_FARM = KINDS.index("click_farm")
_LATE_MS = (3 * 60_000, 30 * 60_000)
_RETRY_MEDIAN_MS, _RETRY_SIGMA = 20_000, 2.0  # one in twenty after the ten minutes in which counters know a click
_SKEW_MS = 5 * 60_000
_POISON_DELAY_MS = (60_000, 3_600_000)
_POISON_VALUE_MICROS, _POISON_SIGMA = 30_000_000, 0.3
_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([mhd])")
_FAULT = re.compile(r"(?P<kind>[a-z-]+)(?::(?P<share>[0-9.]+))?(?:@(?P<at>[^+]+)(?:\+(?P<length>.+))?)?")


def parse(text: str, config: SimulationConfig) -> Fault:
    """A fault as people write it: `KIND[:SHARE][@TIME[+LENGTH]]`, say `label-outage@36h+6h` or `retries:0.2`.

    TIME is RFC 3339 in UTC, or how long after the start of the run (m, h, d); without it the fault is there throughout,
    and without LENGTH to the end, but for counters, which are lost at one moment. Raises InvalidInput.
    """
    matched = _FAULT.fullmatch(text)
    if matched is None or matched["kind"] not in list(FaultKind):
        kinds = ", ".join(FaultKind)
        raise InvalidInput(f"fault: expected KIND[:SHARE][@TIME[+LENGTH]] with KIND one of {kinds}, got {text!r}")
    kind = FaultKind(matched["kind"])
    from_ms = _moment(text, matched["at"], config)
    if not config.start_ms <= from_ms < config.end_ms:
        raise InvalidInput(f"fault {text}: expected a time within the run, got one outside of it")
    if kind is FaultKind.COUNTER_LOSS and (matched["at"] is None or matched["length"] is not None):
        raise InvalidInput(f"fault {kind}: expected one moment, as in {kind}@36h, got {text!r}")
    to_ms = config.end_ms
    if kind is FaultKind.COUNTER_LOSS:
        to_ms = from_ms
    elif matched["length"] is not None:
        to_ms = from_ms + _length_ms(text, matched["length"])
    return Fault(kind, from_ms, to_ms, _share(text, matched["share"]))


def strike(traffic: Simulated, truth: Truth, day: int = 0) -> tuple[Simulated, Truth]:
    """The traffic with the faults of its configuration, and its truth in the same order."""
    if not traffic.config.faults:
        return traffic, truth
    purchases, told_ms = _bought(traffic, truth, day), traffic.event_time_ms.copy()
    sent_ms, again_ms = traffic.sent_at_ms.copy(), []
    rows = [np.arange(len(traffic))]
    for fault, rng in _with_random(traffic.config, day):
        if fault.kind is FaultKind.SKEWED_CLOCKS:
            told_ms += _skew_ms(traffic, fault, rng)
        elif fault.kind is FaultKind.LATE_CLICKS:
            hit, delay_ms = _hit(traffic, fault, rng), rng.integers(*_LATE_MS, len(traffic))
            sent_ms += np.where(hit, delay_ms, 0)
        elif fault.kind is FaultKind.RETRIES:
            hit = _hit(traffic, fault, rng)
            delay_ms = np.ceil(_RETRY_MEDIAN_MS * rng.lognormal(0.0, _RETRY_SIGMA, len(traffic))).astype(np.int64)
            rows.append(np.flatnonzero(hit))
            again_ms.append(delay_ms[hit])
    row = np.concatenate(rows)
    sent = sent_ms[row] + np.concatenate([np.zeros(len(traffic), dtype=np.int64), *again_ms])
    order = np.argsort(sent, kind="stable")
    struck = replace(traffic, event_time_ms=told_ms, purchases=purchases).take(row[order])
    return replace(struck, sent_at_ms=sent[order]), Truth(truth.kind[row[order]])


def _with_random(config: SimulationConfig, day: int) -> Iterator[tuple[Fault, np.random.Generator]]:
    """Each fault with random numbers of its own: by its kind, and which of its kind it is."""
    seen = dict.fromkeys(FaultKind, 0)
    for fault in config.faults:
        key = (_SPAWNED, list(FaultKind).index(fault.kind), seen[fault.kind], day)
        seen[fault.kind] += 1
        yield fault, np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _bought(traffic: Simulated, truth: Truth, day: int) -> Purchases:
    """The purchases that are told: with those of farms that poison labels, without those of outages."""
    told = [traffic.purchases]
    for fault, rng in _with_random(traffic.config, day):
        if fault.kind is FaultKind.RFM_POISONING:
            click = np.flatnonzero(_hit(traffic, fault, rng) & (truth.kind == _FARM))
            delay_ms = rng.integers(*_POISON_DELAY_MS, len(traffic))[click]
            value = _POISON_VALUE_MICROS * rng.lognormal(0.0, _POISON_SIGMA, len(traffic))[click]
            told.append(Purchases(click, traffic.event_time_ms[click] + delay_ms, value.astype(np.int64)))
    click, at_ms, value_micros = (
        np.concatenate([getattr(part, name) for part in told]) for name in ("click", "occurred_at_ms", "value_micros")
    )
    order = np.argsort(at_ms, kind="stable")
    bought = Purchases(click[order], at_ms[order], value_micros[order])
    for fault, rng in _with_random(traffic.config, day):
        if fault.kind is FaultKind.LABEL_OUTAGE:
            during = (bought.occurred_at_ms >= fault.from_ms) & (bought.occurred_at_ms < fault.to_ms)
            lost = rng.random(len(traffic))[bought.click] < fault.share_hit
            bought = bought.where(~(during & lost))
    return bought


def _hit(traffic: Simulated, fault: Fault, rng: np.random.Generator) -> Flags:
    """Which clicks (n,) a fault hits."""
    during = (traffic.event_time_ms >= fault.from_ms) & (traffic.event_time_ms < fault.to_ms)
    struck: Flags = during & (rng.random(len(traffic)) < fault.share_hit)
    return struck


def _skew_ms(traffic: Simulated, fault: Fault, rng: np.random.Generator) -> Ints:
    """How far off the clock of each click (n,) is; a session has one clock."""
    sessions, session_of = np.unique(traffic.session, return_inverse=True)
    off = rng.random(len(sessions)) < fault.share_hit
    skew_ms = np.where(off, rng.integers(-_SKEW_MS, _SKEW_MS + 1, len(sessions)), 0)[session_of]
    during = (traffic.event_time_ms >= fault.from_ms) & (traffic.event_time_ms < fault.to_ms)
    return np.where(during, skew_ms, 0)


def _moment(text: str, at: str | None, config: SimulationConfig) -> int:
    if at is None:
        return config.start_ms
    if _LENGTH.fullmatch(at):
        return config.start_ms + _length_ms(text, at)
    try:
        return event_time_ms({"time": at}, config.end_ms, BOUNDS, "time")
    except RejectedClick as error:
        raise InvalidInput(f"fault {text}: {error}") from None


def _length_ms(text: str, length: str) -> int:
    matched = _LENGTH.fullmatch(length)
    if matched is None:
        raise InvalidInput(f"fault {text}: expected a length such as 90m, 6h or 3d, got {length!r}")
    return round(float(matched[1]) * _UNITS_MS[matched[2]])


def _share(text: str, share: str | None) -> float | None:
    try:
        return None if share is None else float(share)
    except ValueError:
        raise InvalidInput(f"fault {text}: expected a share from 0 to 1, got {share!r}") from None
