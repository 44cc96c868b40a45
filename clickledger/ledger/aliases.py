"""What the names `live`, `stable`, `canary` and `candidate` stand for, and their history: a fold of deployments.

    live        the model and calibration of most of the traffic
    canary      whatever else decides a part of it
    stable      what runs in shadow as the way back, and what the detector compares with
    candidate   what runs in shadow to be judged; there may be several, the newest last

Pure: entries in, names out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from clickledger.ledger.log import Entry

Pair = tuple[int, int]  # model version, calibration version
Aliases = dict[str, list[Pair]]

KINDS = ("ledger_created", "deployment_changed", "rollback_declared")
NAMES = ("live", "canary", "stable", "candidate")
NOBODY: dict[str, Any] = {"routes": [], "shadow": None}


class Change(NamedTuple):
    """One name that came to stand for something else, and the entry that says so."""

    position: int
    recorded_at: datetime
    kind: str
    epoch: int
    alias: str
    before: list[Pair]
    after: list[Pair]
    actor: str
    reason: str


def of(routing: dict[str, Any]) -> Aliases:
    """What each name stands for under a routing table."""
    shares: dict[Pair, float] = {}
    for route in routing["routes"]:
        shares[_pair(route)] = shares.get(_pair(route), 0.0) + float(route.get("share", 1.0))
    deciding = sorted(shares, key=lambda pair: -shares[pair])
    shadow = routing.get("shadow")
    return {
        "live": deciding[:1],
        "canary": deciding[1:],
        "stable": [_pair(shadow)] if shadow else [],
        "candidate": [_pair(route) for route in routing.get("candidates", [])],
    }


def names_of(aliases: Aliases, model_version: int) -> list[str]:
    """The names a model goes by."""
    return [name for name in NAMES if any(pair[0] == model_version for pair in aliases[name])]


def changes(entries: Iterable[Entry]) -> Iterator[Change]:
    """Every change of a name, given entries of `KINDS` in log order."""
    now = of(NOBODY)
    for entry in entries:
        payload = entry.payload
        then = of(payload.get("routing", NOBODY))
        for name in NAMES:
            if then[name] != now[name]:
                yield Change(
                    entry.position, entry.recorded_at, entry.kind, payload["epoch"], name, now[name], then[name],
                    entry.actor, entry.reason,
                )  # fmt: skip
        now = then


def as_of(entries: Sequence[Entry], position: int) -> tuple[int, dict[str, Any]]:
    """The epoch and routing table in force at a position, given entries of `KINDS` in log order."""
    known = [entry for entry in entries if entry.position <= position and "routing" in entry.payload]
    return (known[-1].payload["epoch"], known[-1].payload["routing"]) if known else (0, NOBODY)


def since(entries: Iterable[Entry], alias: str, pair: Pair) -> Change | None:
    """The change by which a pair came to go by a name that it still has; None when it has not."""
    found = None
    for change in changes(entries):
        if change.alias == alias and pair in change.after and pair not in change.before:
            found = change
        elif change.alias == alias and pair not in change.after:
            found = None
    return found


def _pair(route: dict[str, Any]) -> Pair:
    return int(route["model"]), int(route["calibration"])
