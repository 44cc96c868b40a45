"""Runs of the daily loop as their entries tell them: what was done, and so what is left to do.

Invariants:
- a run is a fold of entries of the log and nothing else; a step is done when its entry is there;
- a run is known by the day it is of; another run of that day comes only after one that was refused or failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from clickledger.ledger import database, log
from clickledger.scoring.recipe import Recipe


class Step(StrEnum):
    """The steps of a run, in their order."""

    DATASET = "dataset"
    GUARDRAILS = "guardrails"
    TRAIN = "train"
    CALIBRATE = "calibrate"
    EVALUATE = "evaluate"
    SHADOW = "shadow"
    RECALIBRATE = "recalibrate"
    FINISH = "finish"


class Outcome(StrEnum):
    """How a run ended."""

    IN_SHADOW = "in_shadow"
    REGISTERED = "registered"  # nothing was deployed that it could run beside
    REFUSED = "refused"  # the data was, or there was too little of it
    FAILED = "failed"  # a defect


_STEP_OF = {
    "dataset_built": Step.DATASET,
    "guardrails_passed": Step.GUARDRAILS,
    "guardrail_refused": Step.GUARDRAILS,
    "model_registered": Step.TRAIN,
    "calibration_set": Step.CALIBRATE,
    "model_evaluated": Step.EVALUATE,
    "deployment_changed": Step.SHADOW,
    "training_finished": Step.FINISH,
}
KINDS = ("training_started", *_STEP_OF)


@dataclass
class Run:
    """One run: the entry it began with, and that of each step that is done."""

    started: log.Entry
    done: dict[Step, log.Entry] = field(default_factory=dict)
    recalibrated: dict[int, int] = field(default_factory=dict)  # calibration by model, of others than the run's own

    @property
    def position(self) -> int:
        """Of its first entry: what its other entries name it by."""
        return self.started.position

    @property
    def day(self) -> date:
        """The day it is of."""
        return date.fromisoformat(self.started.payload["day"])

    @property
    def recipe(self) -> Recipe:
        """What its set is made from."""
        return Recipe.from_payload(self.started.payload["recipe"])

    @property
    def model_version(self) -> int | None:
        """Its model, once it is trained. An artefact that was known before has no entry of this run."""
        for step in (Step.TRAIN, Step.CALIBRATE):
            if step in self.done:
                return int(self.done[step].payload["model_version"])
        return None

    @property
    def calibration_version(self) -> int | None:
        """Its model's calibration, once that is made."""
        entry = self.done.get(Step.CALIBRATE)
        return int(entry.payload["calibration_version"]) if entry else None

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What its last entry says; None while it is not over."""
        entry = self.done.get(Step.FINISH)
        return dict(entry.payload) if entry else None


def fold(entries: Iterable[log.Entry]) -> list[Run]:
    """All runs, given entries of `KINDS` in log order."""
    runs: dict[int, Run] = {}
    for entry in entries:
        payload = entry.payload
        if entry.kind == "training_started":
            runs[entry.position] = Run(entry)
        elif run := runs.get(_run_of(payload, runs)):
            if entry.kind == "calibration_set" and payload["metadata"].get("recalibrated"):
                run.recalibrated[payload["model_version"]] = payload["calibration_version"]
            else:
                run.done[_STEP_OF[entry.kind]] = entry
    return list(runs.values())


def _run_of(payload: Mapping[str, Any], runs: Mapping[int, Run]) -> int:
    """The run an entry names; guardrails name the set that they judged. 0 for what is of no run."""
    named = payload.get("training") or payload.get("metadata", {}).get("training")
    if named is None and (judged := payload.get("dataset_position")):
        named = next((i for i, run in runs.items() if judged == _set_of(run)), 0)
    return int(named or 0)


def _set_of(run: Run) -> int | None:
    return run.done[Step.DATASET].position if Step.DATASET in run.done else None


def of_day(conn: database.Connection, day: date) -> Run | None:
    """The newest run of a day, or None."""
    started = log.read(conn, kinds=["training_started"])
    mine = [entry for entry in started if entry.payload["day"] == day.isoformat()]
    return of_entry(conn, mine[-1]) if mine else None


def of_entry(conn: database.Connection, started: log.Entry) -> Run:
    """The run that began with an entry, as far as it is."""
    entries = log.read(conn, after=started.position - 1, kinds=KINDS)
    return next(run for run in fold(entries) if run.position == started.position)
