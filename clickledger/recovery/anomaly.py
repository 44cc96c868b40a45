"""One look at the deployment in force: is it anomalous beside its shadow?

A function of the ledger alone: two detectors that look at the same log see the same thing. A candidate that enters or
leaves the shadow begins an epoch, but neither ends the evidence about the live model nor hides an open incident.

What is in shadow has to be a model. Beside the rule of a new ledger, which withholds few, any that was trained would
pass for a flood; the rule stays the way back, and rates that stand out are paged all the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clickledger.ledger import database, deployments
from clickledger.recovery import detection, incidents, signals
from clickledger.recovery.incidents import Incident
from clickledger.recovery.signals import Series
from clickledger.recovery.ticks import Rules
from clickledger.scoring import bootstrap

TICKS_OF_EVIDENCE = 120  # the newest ones of each course that go into the entry


@dataclass(frozen=True)
class Found:
    """An anomaly of the deployment in force."""

    deployment_epoch: int
    model_version: int
    alarm: detection.Alarm
    evidence: dict[str, Any]


def look(conn: database.Connection, rules: Rules) -> Found | None:
    """Judge the deployment in force; None with no model in shadow, with an open incident, or when all is well."""
    deployment, since = deployments.current(conn), deployments.unchanged(conn)
    known = [incident for incident in incidents.listed(conn) if incident.deployment_epoch in since.epochs]
    # What led to an incident that somebody set aside is no evidence for another.
    after = max([since.position, *(incident.updated_position for incident in known)])
    by_model = signals.look(conn, since.epochs, after, rules)  # in any case: baselines need every tick
    stable = deployment.routing.get("shadow")
    if not stable or bootstrap.is_rule_of_thumb(conn, int(stable["model"])):
        return None
    if any(incident.status.open for incident in known):
        return None
    for model_version, series in sorted(by_model.items()):
        if alarm := detection.judge(series.known, series.everyone, series.hot):
            evidence = _evidence(stable, since.position, series, rules, alarm)
            return Found(deployment.epoch, model_version, alarm, evidence)
    return None


def detect(conn: database.Connection, rules: Rules, actor: str) -> Incident | None:
    """Look, and raise an incident for what is found; the incident, None when nothing was raised."""
    found = look(conn, rules)
    if found is None:
        return None
    return incidents.raise_incident(conn, found.deployment_epoch, found.model_version, found.evidence, actor)


def _evidence(
    stable: dict[str, Any], onset: int, series: Series, rules: Rules, alarm: detection.Alarm
) -> dict[str, Any]:
    telling = [r for r in alarm.readings if r.slice in {alarm.scope, alarm.slice}]
    return {
        "onset": onset,  # of a bad deployment it is known, not estimated
        "affected": [onset, series.last_position + 1],  # so far: the model decides on until it is fenced
        "shadow": stable,
        "scope": alarm.scope,
        "slice": alarm.slice,
        "signals": alarm.signals,
        "window": [series.first_position, series.last_position + 1],
        "tick_seconds": rules.tick_seconds,
        "purchase_age_seconds": rules.purchase_age_seconds,
        "readings": [_reading(reading) for reading in telling],
    }


def _reading(reading: detection.Reading) -> dict[str, Any]:
    """A reading as it goes into the log: finite numbers, the end of its course."""
    fields = {name: value for name, value in asdict(reading).items() if value != float("inf")}
    fields["course"] = [round(value, 3) for value in reading.course[-TICKS_OF_EVIDENCE:]]
    return fields | {
        "cusum": round(reading.cusum, 3),
        "theta": round(reading.theta, 6),
        "evidence": round(reading.evidence, 3),
    }
