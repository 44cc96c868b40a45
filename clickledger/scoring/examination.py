"""All that a report shows of models beside their comparison: curves and knees, calibration, density of labels.

Invariant: the truth about simulated clicks comes in as one column, after the models were made, and only judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clickledger.errors import Refused
from clickledger.scoring import calibration_trial, curves, label_density, realised
from clickledger.scoring.calibration_trial import Trial
from clickledger.scoring.curves import Curve
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.judged import Flags
from clickledger.scoring.model_comparison import FPRS, Entrant

POINTS_MAX = 120


@dataclass(frozen=True, eq=False)
class Examination:
    """What was seen. `trial` is of the first model, None where it was `refused`."""

    kind: str  # the first model
    curves: dict[str, Curve]  # of each model over the test part
    trial: Trial | None
    refused: str
    density: dict[str, dict[str, dict[str, list[int]]]]  # of the training part
    decided: dict[str, Any]

    def coverage_at_fpr(self) -> dict[str, dict[str, float | None]]:
        """Robotic coverage of each model at each of `FPRS`; None without a crowded session."""
        return {kind: {str(fpr): _coverage(curve, fpr) for fpr in FPRS} for kind, curve in self.curves.items()}

    def as_json(self) -> dict[str, Any]:
        """Every figure behind the pictures."""
        told = self.trial.fields if self.trial else {"refused": self.refused}
        slices = {name: points(curve) for name, curve in self.trial.curves.items()} if self.trial else {}
        return {
            "coverage_at_fpr": self.coverage_at_fpr(),
            "knees": {kind: asdict(curves.knee(curve)) for kind, curve in self.curves.items()},
            "curves": {kind: points(curve) for kind, curve in self.curves.items()},
            "curves_by_slice": slices,
            "calibration": {"model": self.kind, **told},
            "label_density": self.density,
            "decision_rate": self.decided,
        }


def examine(
    entrants: Sequence[Entrant],
    train: Dataset,
    test: Dataset,
    fpr: float,
    robot: Flags | None = None,
    rejected: int = 0,
) -> Examination:
    """Look at models made on `train`, on `test`; `rejected` rows of the files were no clicks."""
    judged = {entrant.kind: calibration_trial.judged_of(entrant.model, test) for entrant in entrants}
    first = entrants[0].kind
    trial, refused = None, ""
    try:
        trial = calibration_trial.hold(judged[first], fpr, robot)
    except Refused as error:
        refused = str(error)
    clicks = len(train) + len(test)
    decided = {"rows": clicks + rejected, "decided": clicks, **realised.share(clicks, clicks + rejected)}
    return Examination(
        kind=first,
        curves={kind: curves.curve(each) for kind, each in judged.items()},
        trial=trial,
        refused=refused,
        density=label_density.by_hour_of_week(train),
        decided=decided,
    )


def _coverage(curve: Curve, fpr: float) -> float | None:
    coverage, within = curve.coverage, int(np.searchsorted(curve.fpr, fpr, side="right"))
    return None if coverage is None else float(coverage[within - 1]) if within else 0.0


def points(curve: Curve) -> list[list[float]]:
    """FPR and IVR along a curve, thinned to what a picture shows: closer together where budgets are small."""
    steps = np.linspace(0.0, 1.0, min(curve.purchases, POINTS_MAX)) ** 2
    kept = np.unique((steps * (curve.purchases - 1)).round().astype(np.int64)).tolist()
    return [[round(float(curve.fpr[i]), 6), round(float(curve.ivr[i]), 6)] for i in kept]
