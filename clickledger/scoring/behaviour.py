"""Guardrails on behaviour: what a registered model with its calibration is judged by before it may be promoted.

Invariants:
- the challenger is compared with the stable model on the very same clicks, none of which it was trained on;
- what the guards say is an entry with all figures and all that they were computed from, passed or refused;
- a judgement is of one pair (model, calibration) beside one stable pair, and a rollback of the model ends it;
- an override is for one pair and the guards that refused it, and takes a second person; so does promoting by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.errors import Refused
from clickledger.ledger import database, deployments, log
from clickledger.scoring import guards_of_behaviour, robot_probes
from clickledger.scoring import judged as judged_
from clickledger.scoring import model as models_
from clickledger.scoring import recent_clicks as recent
from clickledger.scoring import second_training as second
from clickledger.scoring.deciding import Judge
from clickledger.scoring.findings import DEFAULT_LIMITS, Finding, Limits
from clickledger.scoring.guardrails import BEHAVIOUR, subject_of
from clickledger.scoring.guards_of_behaviour import Flags, Verdicts
from clickledger.scoring.recent_clicks import RecentClicks

Pair = tuple[int, int]  # model version, calibration version
Told = Callable[[str], None]
JUDGEMENTS = ("guardrails_passed", "guardrail_refused")


@dataclass(frozen=True)
class Judged:
    """What the guards said of a pair, and where the log says so."""

    passed: bool
    position: int
    findings: tuple[Finding, ...]
    stable: Pair | None  # what it was compared with

    @property
    def refusing(self) -> list[Finding]:
        """The findings that refuse it."""
        return [finding for finding in self.findings if not finding.passed]


class Clearance(NamedTuple):
    """By what right a pair may be promoted: the judgement, and the override if it was refused."""

    judged_position: int
    overridden_position: int | None


def judge(
    conn: database.Connection,
    model_version: int,
    calibration_version: int,
    *,
    actor: str,
    reason: str,
    limits: Limits = DEFAULT_LIMITS,
    progress: Told | None = None,
) -> Judged:
    """Judge a pair beside the stable one in force and record it: `guardrails_passed` or `guardrail_refused`.

    Trains a regression and the same recipe with another seed on the model's own set. `progress` is told what is done.
    Raises NotFound for a pair that is not registered, InvalidInput for an artefact that cannot be used here.
    """
    tell = progress or (lambda _: None)
    deployments.calibration_entry(conn, model_version, calibration_version)  # raises NotFound
    pair = model_version, calibration_version
    stable = deployments.stable_beside(deployments.current(conn).routing, *pair)
    challenger, beside = _load(conn, pair), _load(conn, stable) if stable else None
    tell("reading the newest clicks")
    trained_to_ms = challenger.model.metadata.get("dataset", {}).get("to_ms")
    schema = max(one.model.feature_schema for one in (challenger, beside) if one is not None)
    clicks = recent.read(conn, limits, after_ms=trained_to_ms, schema=schema)
    found: list[Finding] = []
    if beside is not None:
        tell(f"comparing with model {stable[0] if stable else None} on {len(clicks):,} clicks")
        found += beside_stable(challenger, beside, clicks, limits)
    found += second.findings(conn, pair, challenger.model, clicks, limits, tell)
    payload = {
        "subject": BEHAVIOUR,
        "model_version": model_version,
        "calibration_version": calibration_version,
        "stable": _stated(stable),
        "refusing": [finding.guard for finding in found if not finding.passed],
        "findings": [finding.to_payload() for finding in found],
        "limits": asdict(limits),
        "clicks": clicks.summary(),
        "robots_digest": robot_probes.known().digest,
    }
    kind = "guardrail_refused" if payload["refusing"] else "guardrails_passed"
    entry = log.record(conn, kind, payload, actor, reason)
    return Judged(not payload["refusing"], entry.position, tuple(found), stable)


def beside_stable(challenger: Judge, stable: Judge, clicks: RecentClicks, limits: Limits) -> list[Finding]:
    """What the guards say that compare two models on the same clicks, and on the same known robots."""
    verdicts = Verdicts(
        challenger=_invalid(challenger, clicks.features, clicks.slice),
        stable=_invalid(stable, clicks.features, clicks.slice),
        known=clicks.known,
        user=clicks.user,
        slice=clicks.slice,
        event_time_ms=clicks.event_time_ms,
    )
    robots = robot_probes.known()
    caught = [
        {kind: _invalid(one, robots.features[kind], robots.slices[kind]) for kind in robots.features}
        for one in (challenger, stable)
    ]
    return [
        guards_of_behaviour.known_customers(verdicts, limits),
        guards_of_behaviour.invalidation(verdicts, limits),
        guards_of_behaviour.invalidation_by_slice(verdicts, limits),
        guards_of_behaviour.hourly_range(verdicts, limits),
        guards_of_behaviour.robot_recall(caught[0], caught[1], limits),
    ]


def _load(conn: database.Connection, pair: Pair) -> Judge:
    model = models_.from_artefact(deployments.load_artefact(conn, pair[0]))
    return Judge(model, deployments.load_thresholds(conn, pair[1]))


def _invalid(judge: Judge, features: npt.NDArray[np.int32], slices: npt.NDArray[np.str_]) -> Flags:
    return judged_.reaching(judge.model.score(features), slices, judge.thresholds)


def require_cleared(conn: database.Connection, pair: Pair, stable: Pair | None, *, actor: str) -> Clearance:
    """By what right a pair may be promoted beside the stable one in force.

    The newest judgement counts. Raises Refused when there is none, a rollback ended it, it compared with another stable
    pair, or it refuses and no override is for just that, or whoever overrode it promotes as well.
    """
    name = f"model {pair[0]} with calibration {pair[1]}"
    how = f"clickledger model judge {pair[0]} --calibration {pair[1]}"
    entries = log.read(conn, kinds=[*JUDGEMENTS, "guardrail_overridden", "rollback_declared"])
    own = [entry for entry in entries if entry.kind != "rollback_declared" and is_of(entry, pair)]
    judgements = [entry for entry in own if entry.kind in JUDGEMENTS]
    if not judgements:
        raise Refused(f"{name}: its behaviour was not judged: {how}")
    judged = judgements[-1]
    ended = [e.position for e in entries if e.kind == "rollback_declared" and e.payload["bad_model"] == pair[0]]
    if ended and ended[-1] > judged.position:
        raise Refused(f"{name}: rolled back at entry {ended[-1]}, after it was judged at {judged.position}: {how}")
    then, now = judged.payload["stable"], _stated(stable)
    if then != now:
        raise Refused(
            f"{name}: judged at entry {judged.position} beside {_named(then)}, now it is {_named(now)}: {how}"
        )
    if judged.kind == "guardrails_passed":
        return Clearance(judged.position, None)
    since = ended[-1] if ended else 0
    overrides = [entry for entry in own if entry.kind == "guardrail_overridden" and entry.position > since]
    return Clearance(judged.position, _override_for(judged, overrides, actor, name))


def _override_for(judged: log.Entry, overrides: Sequence[log.Entry], actor: str, name: str) -> int:
    refusing = set(judged.payload["refusing"])
    fitting = [entry for entry in overrides if refusing <= set(entry.payload["refusing"])]
    if not fitting:
        told = "; ".join(Finding(**one).sentence() for one in judged.payload["findings"] if not one["passed"])
        raise Refused(
            f"{name}: refused by guardrails, entry {judged.position}: {told}; "
            f"a second person may override it: clickledger model override {judged.position} --actor WHO --reason WHY"
        )
    others = [entry for entry in fitting if entry.actor != actor]
    if not others:
        raise Refused(
            f"{name}: override of entry {fitting[-1].position}: expected a second person to promote, got {actor} again"
        )
    return others[-1].position


def is_of(entry: log.Entry, pair: Pair) -> bool:
    """Whether an entry of guardrails is about the behaviour of a pair."""
    payload = entry.payload
    named = payload.get("model_version"), payload.get("calibration_version")
    return subject_of(entry) == BEHAVIOUR and named == pair


def _stated(pair: Pair | None) -> dict[str, int] | None:
    return {"model": pair[0], "calibration": pair[1]} if pair else None


def _named(stated: Mapping[str, int] | None) -> str:
    return f"model {stated['model']} with calibration {stated['calibration']}" if stated else "no model"
