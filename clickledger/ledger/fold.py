"""Folds of control entries: what every cached table must hold, computed from the log alone.

Invariants:
- pure: entries in, rows out; nothing is read from the caches it is there to check;
- a kind that changes a cache is handled here, or `rebuild.differences` shows the rows it left out; `checkpoint_entries`
  compares the one table that repeats its entries as they are.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clickledger.errors import InvariantBroken
from clickledger.ledger import authority_map
from clickledger.ledger.canonical import canonical_json

Payload = dict[str, Any]
Row = tuple[Any, ...]
ClicksOf = Mapping[int, Sequence[authority_map.SparseClick]]

KINDS = (
    "ledger_created", "model_registered", "calibration_set", "deployment_changed", "rollback_declared",
    "counters_restored", "conflicts_recorded", "anomaly_raised", "incident_moved", "period_closed", "replay_planned",
    "replay_staged", "replay_paused", "replay_resumed", "replay_abandoned", "replay_compared", "replay_published",
    "replay_reverted",
    "legal_hold_set", "legal_hold_released", "day_detached", "day_dropped",
)  # fmt: skip
KIND_OF_RUN, PAUSED_OF_RUN = 14, 15  # places in a row of `replay_runs`


@dataclass
class Folds:
    """Rows of each cache by primary key, in the column order of `rebuild.QUERIES`."""

    models: dict[int, Row] = field(default_factory=dict)
    calibrations: dict[int, Row] = field(default_factory=dict)
    deployments: dict[int, list[Any]] = field(default_factory=dict)
    counter_epochs: dict[int, Row] = field(default_factory=dict)
    conflicts: dict[tuple[str, str], Row] = field(default_factory=dict)
    incidents: dict[int, list[Any]] = field(default_factory=dict)
    billing_periods: dict[str, Row] = field(default_factory=dict)
    replay_runs: dict[int, list[Any]] = field(default_factory=dict)
    comparisons: dict[int, Row] = field(default_factory=dict)
    publications: dict[int, authority_map.Publication] = field(default_factory=dict)
    legal_holds: dict[int, list[Any]] = field(default_factory=dict)
    detached_days: dict[str, list[Any]] = field(default_factory=dict)
    _comparison_of: dict[int, int] = field(default_factory=dict)

    def sparse_runs(self) -> list[int]:
        """Runs whose clicks `tables` needs: the log pins them by digest and does not list them."""
        return [run_id for run_id, row in self.replay_runs.items() if row[KIND_OF_RUN] == authority_map.SPARSE]

    def tables(self, clicks_of: ClicksOf) -> dict[str, set[Row]]:
        """Every cache as a set of rows, authority and overrides with their whole history.

        `clicks_of` gives the clicks of each of `sparse_runs`.
        """
        published = list(self.publications.values())
        publications = {
            (p.position, p.run_id, self._comparison_of[p.position], p.lo, p.hi, p.reverted, *p.click_ids, p.kind)
            for p in published
        }
        return {
            "models": set(self.models.values()),
            "calibrations": set(self.calibrations.values()),
            "deployments": {tuple(row) for row in self.deployments.values()},
            "counter_epochs": set(self.counter_epochs.values()),
            "conflicts": set(self.conflicts.values()),
            "incidents": {tuple(row) for row in self.incidents.values()},
            "billing_periods": set(self.billing_periods.values()),
            "replay_runs": {tuple(row) for row in self.replay_runs.values()},
            "comparisons": set(self.comparisons.values()),
            "publications": publications,
            "legal_holds": {tuple(row) for row in self.legal_holds.values()},
            "detached_days": {tuple(row) for row in self.detached_days.values()},
            "authority": {
                (*piece[:3], since, until, piece.published, *piece.click_ids)
                for piece, since, until in authority_map.history(published)
            },
            "authority_overrides": {
                (*override, since, until)
                for override, since, until in authority_map.override_history(published, clicks_of)
            },
            "sparse_clicks": {(run_id, *click) for run_id in self.sparse_runs() for click in clicks_of.get(run_id, ())},
        }

    def apply(self, position: int, kind: str, payload: Payload) -> None:
        """Take one entry into account; entries come in log order."""
        if kind in KINDS:
            getattr(self, f"_{kind}")(position, payload)

    def _ledger_created(self, position: int, payload: Payload) -> None:
        no_model = '{"routes":[],"shadow":null}'
        self.deployments[payload["deployment_epoch"]] = [payload["deployment_epoch"], no_model, position, None, None]
        self.counter_epochs[payload["counter_epoch"]] = (payload["counter_epoch"], position)

    def _model_registered(self, position: int, payload: Payload) -> None:
        version = payload["model_version"]
        self.models[version] = (version, payload["kind"], payload["digest"], position)

    def _calibration_set(self, position: int, payload: Payload) -> None:
        version, thresholds = payload["calibration_version"], canonical_json(payload["thresholds"])
        self.calibrations[version] = (version, payload["model_version"], thresholds, position)

    def _deployment_changed(self, position: int, payload: Payload) -> None:
        for row in self.deployments.values():
            row[3] = row[3] or position
        for epoch in payload["revoked_epochs"]:
            self.deployments[epoch][4] = self.deployments[epoch][4] or position
        epoch = payload["epoch"]
        self.deployments[epoch] = [epoch, canonical_json(payload["routing"]), position, None, None]

    _rollback_declared = _deployment_changed

    def _counters_restored(self, position: int, payload: Payload) -> None:
        self.counter_epochs[payload["counter_epoch"]] = (payload["counter_epoch"], position)

    def _conflicts_recorded(self, position: int, payload: Payload) -> None:
        for conflict in payload["conflicts"]:
            key = (conflict["click_id"], conflict["intake_digest"])
            self.conflicts[key] = (*key, position)

    def _anomaly_raised(self, position: int, payload: Payload) -> None:
        where = payload["deployment_epoch"], payload["model_version"]
        self.incidents[position] = [position, "raised", *where, None, position]

    def _incident_moved(self, position: int, payload: Payload) -> None:
        row = self.incidents[payload["incident_id"]]
        row[1], row[5] = payload["status"], position
        row[4] = payload.get("run_id") or row[4]

    def _period_closed(self, position: int, payload: Payload) -> None:
        self.billing_periods[payload["period"]] = (payload["period"], position)

    def _replay_planned(self, position: int, payload: Payload) -> None:
        names = ("mode", "model_version", "calibration_version")
        self.replay_runs[position] = [
            position,
            *payload["positions"],
            *(payload[name] for name in names),
            canonical_json(payload["scope"]),
            payload["row_count"],
            payload["incident_id"],
            "planned",
            None,
            None,
            *authority_map.UNKNOWN,
            payload.get("kind", authority_map.RANGE),
            None,
        ]

    def _replay_paused(self, position: int, payload: Payload) -> None:
        self.replay_runs[payload["run_id"]][PAUSED_OF_RUN] = position

    def _replay_resumed(self, _: int, payload: Payload) -> None:
        self.replay_runs[payload["run_id"]][PAUSED_OF_RUN] = None

    def _replay_staged(self, position: int, payload: Payload) -> None:
        self.replay_runs[payload["run_id"]][9:14] = [
            "staged", position, payload["content_digest"], *_click_ids(payload)
        ]  # fmt: skip

    def _replay_abandoned(self, _: int, payload: Payload) -> None:
        self.replay_runs[payload["run_id"]][9] = "abandoned"

    def _replay_compared(self, position: int, payload: Payload) -> None:
        where = payload["run_id"], payload["compared_at_position"], payload["digest"]
        self.comparisons[position] = (position, *where)

    def _replay_published(self, position: int, payload: Payload) -> None:
        lo, hi = payload["positions"]
        self._comparison_of[position] = payload["comparison_id"]
        self.publications[position] = authority_map.Publication(
            position,
            payload["run_id"],
            lo,
            hi,
            click_ids=_click_ids(payload),
            kind=payload.get("kind", authority_map.RANGE),
        )

    def _replay_reverted(self, position: int, payload: Payload) -> None:
        published = self.publications[payload["publication"]]
        self.publications[published.position] = published._replace(reverted=position)

    def _legal_hold_set(self, position: int, payload: Payload) -> None:
        self.legal_holds[position] = [position, payload["first_day"], payload["last_day"], None]

    def _legal_hold_released(self, position: int, payload: Payload) -> None:
        self.legal_holds[payload["hold_id"]][3] = position

    def _day_detached(self, position: int, payload: Payload) -> None:
        names = (
            "departure", "digest", "clicks", "delayed", "first_position", "last_position", "settled_position",
        )  # fmt: skip
        day = payload["day"]
        self.detached_days[day] = [day, position, *(payload[name] for name in names), None]

    def _day_dropped(self, position: int, payload: Payload) -> None:
        self.detached_days[payload["day"]][9] = position


def _click_ids(payload: Payload) -> authority_map.ClickIds:
    """What an entry says of its click ids; version 0.1.0 said nothing."""
    bounds = payload.get("click_ids", authority_map.UNKNOWN)
    return authority_map.ClickIds(*(bound and uuid.UUID(bound) for bound in bounds))


def fold(entries: Iterable[tuple[int, str, str]]) -> Folds:
    """All caches after the given (position, kind, payload text) entries, which start at genesis.

    Raises InvariantBroken naming the first entry whose payload is not what its kind says.
    """
    folds = Folds()
    for position, kind, text in entries:
        try:
            folds.apply(position, kind, json.loads(text))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InvariantBroken(f"entry {position}: its payload is not that of {kind}: {error!r}") from error
    return folds
