"""From the shadow to all traffic: a model that was judged, first to a share of the users, then to all of them.

Invariants:
- nothing is promoted here but what its guards of behaviour passed, or a second person let pass (`behaviour`), and what
  ran in shadow and as a canary for as long as the terms say;
- the entry says by what right: judgement, override, hours, terms;
- a promotion is made from the routing it looked at or not at all: it cannot undo a rollback that came in between;
- it is not made while an incident is raised, be it raised while the promotion waits for the log.

A canary is a share of the users of every slice, by a hash of theirs, so a user keeps to one model and stays with the
canary as its share grows. The stable model decides for the others and runs in shadow for the canary's, where the
detector compares; rolling the canary back is rolling back any model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import database, deployments, log
from clickledger.ledger.deployments import Deployment, Routing
from clickledger.recovery import incidents
from clickledger.scoring import behaviour, shadow_scores, shadowing
from clickledger.scoring.behaviour import Pair

CANARY, ALL = "canary", "all"
SELECT_HOURS = """
    SELECT d.routing, extract(epoch FROM clock_timestamp() - l.recorded_at)::float8 / 3600
    FROM deployments d JOIN log l ON l.position = d.from_position ORDER BY d.epoch DESC"""


@dataclass(frozen=True)
class Terms:
    """What a promotion asks for, besides passed guards."""

    shadow_hours_min: float = 24.0  # a whole day of traffic
    # At 100 clicks/s the detector takes 170 s to see that 1% more people are invalidated: 57 minutes on 5% of them.
    canary_hours_min: float = 1.0
    canary_share: float = 0.05  # of the users

    def __post_init__(self) -> None:
        for name in ("shadow_hours_min", "canary_hours_min"):
            if not getattr(self, name) >= 0:
                raise errors.InvalidInput(f"{name}: expected 0 or more hours, got {getattr(self, name)}")
        if not 0.0 < self.canary_share < 1.0:
            raise errors.InvalidInput(f"canary_share: expected between 0 and 1, got {self.canary_share}")


DEFAULT_TERMS = Terms()


class Promoted(NamedTuple):
    """The epoch that a promotion put in force, and what its entry states."""

    epoch: int
    stated: dict[str, Any]


def begin_canary(
    conn: database.Connection, pair: Pair, *, actor: str, reason: str, terms: Terms = DEFAULT_TERMS
) -> Promoted:
    """Route a share of the users to a model with its calibration.

    Raises NotFound, Refused for what is not judged, not in shadow long enough, in force for all already or while an
    incident is raised, Conflict when another deployment came in force meanwhile.
    """
    seen = deployments.current(conn)
    stated = _stated(conn, seen, pair, CANARY, actor, terms)
    return _changed(conn, seen, lambda r: deployments.with_canary(r, *pair, terms.canary_share), stated, actor, reason)


def promote(
    conn: database.Connection, pair: Pair, *, actor: str, reason: str, terms: Terms = DEFAULT_TERMS
) -> Promoted:
    """Route all traffic to a model with its calibration, which was the canary long enough; the stable one in shadow.

    Raises as `begin_canary` does; `canary_hours_min` 0 asks for no canary.
    """
    seen = deployments.current(conn)
    stated = _stated(conn, seen, pair, ALL, actor, terms)
    stated["canary_hours"] = round(canary_hours(conn, pair), 3)
    if stated["canary_hours"] < terms.canary_hours_min:
        begin = f"clickledger model promote {pair[0]} --calibration {pair[1]} --canary"
        raise errors.Refused(
            f"{_name(pair)}: expected {terms.canary_hours_min:g} h as canary, got {stated['canary_hours']:g}"
            + (f": {begin}" if not stated["canary_hours"] else "")
        )
    return _changed(conn, seen, lambda routing: deployments.promoted(routing, *pair), stated, actor, reason)


def canary_hours(conn: database.Connection, pair: Pair) -> float:
    """How long a pair has decided for some users, up to now and without a break; 0 when it decides for none."""
    since = 0.0
    for text, hours in conn.execute(SELECT_HOURS).fetchall():
        if pair not in _pairs(json.loads(text)):
            break
        since = float(hours)
    return since


def _stated(
    conn: database.Connection, seen: Deployment, pair: Pair, stage: str, actor: str, terms: Terms
) -> dict[str, Any]:
    """What the entry says of a promotion that may be. Raises Refused for one that may not."""
    deployments.calibration_entry(conn, *pair)  # raises NotFound
    name, decides = _name(pair), _pairs(seen.routing)
    if decides == {pair}:
        raise errors.Refused(f"{name} decides for all users already, epoch {seen.epoch}")
    shadowing.require_model_fed(conn, pair[0])
    if not decides:
        raise errors.Refused(f"{name}: nothing is deployed to promote it beside: clickledger model deploy --unguarded")
    clearance = behaviour.require_cleared(conn, pair, deployments.stable_beside(seen.routing, *pair), actor=actor)
    incidents.require_none_raised(conn, name)
    shadow_hours = round(shadow_scores.hours(conn, *pair), 3)
    if shadow_hours < terms.shadow_hours_min:
        raise errors.Refused(f"{name}: expected {terms.shadow_hours_min:g} h in shadow, got {shadow_hours:g}")
    named = {"stage": stage, "model_version": pair[0], "calibration_version": pair[1]}
    return named | clearance._asdict() | {"shadow_hours": shadow_hours, "terms": asdict(terms)}


def _changed(
    conn: database.Connection,
    seen: Deployment,
    change: Callable[[Routing], Routing],
    stated: dict[str, Any],
    actor: str,
    reason: str,
) -> Promoted:
    def unless_changed(routing: Routing) -> Routing:
        if routing != seen.routing:
            raise errors.Conflict(f"deployment: expected that of epoch {seen.epoch} in force, got another: look again")
        return change(routing)

    def none_raised(writer: log.Writer) -> None:  # again: it may have been raised since
        incidents.require_none_raised(writer, _name((stated["model_version"], stated["calibration_version"])))

    extra = {"promotion": stated}
    return Promoted(deployments.amend(conn, unless_changed, actor, reason, extra, require=none_raised), stated)


def _pairs(routing: Routing) -> set[Pair]:
    return {(int(route["model"]), int(route["calibration"])) for route in routing["routes"]}


def _name(pair: Pair) -> str:
    return f"model {pair[0]} with calibration {pair[1]}"
