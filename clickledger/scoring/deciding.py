"""The deployment in force, ready to decide: routing, models and thresholds at hand, counted clicks to a batch.

Invariants:
- a batch is decided under one deployment and names its epoch;
- where the deployment names a table of facts, snapshots have its flag behind what was counted: as the intake found it
  in that very version of the table, else no value. Any other deployment records what was counted, alone;
- a route whose model or thresholds cannot be used leaves its clicks undecided (`model_unusable`): they are logged and
  decided later, and the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger import errors
from clickledger.ledger import database, deployments
from clickledger.ledger.deployments import Deployment, Routing
from clickledger.ledger.records import Batch
from clickledger.scoring import decide, feature_spec
from clickledger.scoring import model as models_
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted

logger = logging.getLogger(__name__)

MODEL_UNUSABLE = "model_unusable"
MODELS_MAX = 8  # kept loaded: a rollback goes back to one of the last few
NO_VERSIONS = (0, 0)  # model, calibration: where there is none
_PASSED_ON = ("source", "external_id", "device", "device_kind", "advertiser_id", "campaign_id", "currency", "slice")
_KEYS = ("click_id", "user_key", "session_key", "ip_key", "intake_digest")
_COLUMNS = (*_KEYS, *_PASSED_ON, "cost_micros", "logged_in")

Versions = tuple[int, int]


class Judge(NamedTuple):
    """A model with the thresholds it is deployed with."""

    model: models_.Model
    thresholds: dict[str, float]


class ShadowDecisions(NamedTuple):
    """What one model in shadow would have decided of some rows of a batch."""

    rows: npt.NDArray[np.intp]
    versions: Versions
    decided: decide.Decided


class Decider:
    """Decides counted clicks under the newest deployment it has seen."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._judges: dict[Versions, Judge] = {}
        self._unusable: set[Versions] = set()
        self._deployment: Deployment | None = None
        self.switched_at_ms = 0

    @property
    def epoch(self) -> int:
        """The deployment epoch it decides under."""
        return self._in_force().epoch

    def follow(self, conn: database.Connection) -> bool:
        """Read the deployment in force and load what it needs; whether it changed."""
        newest = deployments.current(conn)
        if self._deployment is not None and newest.epoch == self._deployment.epoch:
            return False
        self._load(conn, newest.routing)
        self._deployment, self.switched_at_ms = newest, time.time_ns() // 1_000_000
        logger.info("deployment in force epoch=%d position=%d", newest.epoch, newest.position)
        return True

    def decide_batch(self, clicks: Sequence[Click], counted: Counted, counter_epoch: int) -> Batch:
        """Decide counted clicks; a click that was not counted is undecided with the counters' reason."""
        deployment, n = self._in_force(), len(clicks)
        features = _snapshots(clicks, counted, deployments.facts_version(deployment.routing))
        columns = {name: [getattr(click, name) for click in clicks] for name in _COLUMNS}
        versions = self._route(deployment.routing, columns["slice"], columns["user_key"])
        score, threshold = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        verdict, reason = [decide.UNDECIDED] * n, list(counted.reason)
        for pair in set(versions):
            rows = [i for i in range(n) if versions[i] == pair]
            decided = self._judged(pair, rows, features, counted.reason, columns["slice"])
            score[rows], threshold[rows] = decided.score, decided.threshold
            for k, i in enumerate(rows):
                verdict[i], reason[i] = decided.verdict[k], decided.reason[k]
        return Batch(
            deployment_epoch=deployment.epoch,
            counter_epoch=counter_epoch,
            feature_schema=feature_spec.recorded_schema(deployments.facts_version(deployment.routing)),
            features=feature_spec.pack_snapshots(features),
            seq=counted.seq,
            model_version=np.array([pair[0] for pair in versions], np.int32),
            calibration_version=np.array([pair[1] for pair in versions], np.int32),
            score=score,
            threshold=threshold,
            verdict=verdict,
            reason=reason,
            **columns,
        )

    def shadows(self, batch: Batch, counted: Counted, rows: Sequence[int]) -> list[ShadowDecisions]:
        """What each model in shadow decides of those rows that were decided live, the stable one first.

        One that cannot be used says nothing.
        """
        able = [i for i in rows if batch.verdict[i] != decide.UNDECIDED]
        pairs = [_versions(route) for route in deployments.in_shadow(self._in_force().routing)]
        pairs = [pair for pair in pairs if able and pair in self._judges and pair not in self._unusable]
        if not pairs:
            return []
        features = feature_spec.unpack_snapshots(list(batch.features), batch.feature_schema)
        return [
            ShadowDecisions(np.array(able, np.intp), p, self._judged(p, able, features, counted.reason, batch.slice))
            for p in pairs
        ]

    def _in_force(self) -> Deployment:
        if self._deployment is None:
            raise errors.InvariantBroken("expected a deployment to decide under, got none: follow one first")
        return self._deployment

    def _route(self, routing: Routing, slices: Sequence[str], user_keys: Sequence[bytes]) -> list[Versions]:
        if not routing["routes"]:
            return [NO_VERSIONS] * len(slices)
        try:
            return decide.route(routing, slices, user_keys)
        except errors.InvalidInput as error:
            self._report(NO_VERSIONS, error)
            return [NO_VERSIONS] * len(slices)

    def _judged(
        self,
        pair: Versions,
        rows: Sequence[int],
        features: npt.NDArray[np.int32],
        not_counted: Sequence[str],
        slices: Sequence[str],
    ) -> decide.Decided:
        judge = self._judges.get(pair)
        reasons = [not_counted[i] or (MODEL_UNUSABLE if pair in self._unusable else "") for i in rows]
        model, thresholds = (judge.model, judge.thresholds) if judge else (None, {})
        return decide.decide(features[rows], [slices[i] for i in rows], reasons, model, thresholds)

    def _load(self, conn: database.Connection, routing: Routing) -> None:
        wanted = {_versions(route) for route in [*routing["routes"], *deployments.in_shadow(routing)]}
        self._unusable.clear()
        for pair in sorted(wanted):
            # Taken out and put back: the order of the dictionary is that of the last use.
            judge = self._judges.pop(pair, None) or self._loaded(conn, pair)
            if judge is not None:
                self._judges[pair] = judge
                self._require_fed(pair, judge.model, routing)
        for pair in list(self._judges)[: max(0, len(self._judges) - max(MODELS_MAX, len(wanted)))]:
            del self._judges[pair]

    def _loaded(self, conn: database.Connection, pair: Versions) -> Judge | None:
        try:
            model = models_.from_artefact(deployments.load_artefact(conn, pair[0]), self._device)
            thresholds = deployments.load_thresholds(conn, pair[1])
            decide.threshold_of(thresholds, decide.ANY_SLICE)
        except (errors.InvalidInput, errors.NotFound) as error:
            self._report(pair, error)
            return None
        return Judge(model, thresholds)

    def _require_fed(self, pair: Versions, model: models_.Model, routing: Routing) -> None:
        recorded = feature_spec.recorded_schema(deployments.facts_version(routing))
        if not feature_spec.feeds(recorded, model.feature_schema):
            wanted = f"expected snapshots of schema {model.feature_schema}, got {recorded}"
            self._report(pair, errors.InvalidInput(wanted))

    def _report(self, pair: Versions, error: Exception) -> None:
        if pair not in self._unusable:
            logger.error("deployment unusable model=%d calibration=%d: %s", *pair, error)
        self._unusable.add(pair)


def _snapshots(clicks: Sequence[Click], counted: Counted, facts_version: int) -> npt.NDArray[np.int32]:
    """What is recorded of counted clicks, int32 (n, k), under a deployment with this table of facts."""
    if not facts_version:
        return counted.features
    none = feature_spec.NO_VALUE
    flags = [click.data_centre if click.facts_version == facts_version else none for click in clicks]
    return feature_spec.with_facts(counted.features, flags)


def _versions(route: Mapping[str, Any]) -> Versions:
    return int(route["model"]), int(route["calibration"])
