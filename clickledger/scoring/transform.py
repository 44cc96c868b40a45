"""From a raw snapshot to the model's inputs, the same bits on every machine.

Invariants:
- every input is a whole multiple of 1 / `GRID` between -`INPUT_LIMIT` and `INPUT_LIMIT`; `model` builds on that;
- nothing here calls a library's logarithm or sine on a click: those differ in their last bits between processors and
  even between a vector's lanes and its tail. Counts go through `octaves`, which is exact; minutes look up a table whose
  entries all lie far from a rounding edge;
- a column that never varied in the training set has scale 0, so a weight that learned nothing judges nothing; nor has
  a circle of which the set saw only an arc: how a weekday differs cannot be learned from the others.

Columns, in the order of `COLUMNS`: the octaves of each count (0 where it has no value), a flag for each count without
a value, hour of day and weekday on the unit circle (SLIDR row 8), login status and device kind, one column a value.
Snapshots with facts have theirs behind these, one column a value (`columns_of`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec

GRID = 1 << 16  # steps in a unit of input or activation
INPUT_LIMIT = 16  # no standardised count worth telling apart lies beyond
MINUTES_PER_DAY = 24 * 60
_SPREAD_LEAST = 0.25  # octaves; a smaller spread is noise that standardising would blow up
_STATUS = (feature_spec.NO_VALUE, 0, 1)
_KINDS = tuple(range(max(feature_spec.DEVICE_KINDS.values()) + 1))
_STATELESS = set(feature_spec.STATELESS_FEATURES)

COUNTS: tuple[str, ...] = tuple(name for name in feature_spec.FEATURES if name not in _STATELESS)
_COUNT_INDEX = np.array([feature_spec.INDEX[name] for name in COUNTS])
COLUMNS: tuple[str, ...] = (
    *COUNTS,
    *(f"{name}.missing" for name in COUNTS),
    "hour.sin",
    "hour.cos",
    "weekday.sin",
    "weekday.cos",
    *(f"logged_in={value}" for value in _STATUS),
    *(f"device_kind={value}" for value in _KINDS),
)
_FACT_COLUMNS = tuple(f"{name}={value}" for name in feature_spec.FACT_FEATURES for value in _STATUS)


def columns_of(schema_version: int) -> tuple[str, ...]:
    """The columns that snapshots of a schema give. Raises InvalidInput for one unknown here."""
    if schema_version not in feature_spec.SCHEMAS:
        known = " or ".join(map(str, feature_spec.SCHEMAS))
        raise InvalidInput(f"feature schema: expected {known}, got {schema_version}")
    return (*COLUMNS, *_FACT_COLUMNS) if _has_facts(schema_version) else COLUMNS


def _has_facts(schema_version: int) -> bool:
    return len(feature_spec.SCHEMAS[schema_version]) > len(feature_spec.FEATURES)


@dataclass(frozen=True)
class Transform:
    """Standardisation learned from a training set: input = (encoded - center) * scale, float32 (columns,) each."""

    center: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    def inputs(self, features: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Snapshots int32 (n, k) -> inputs in units of 1 / GRID, whole numbers held in float64 (n, columns)."""
        standardised = (encode(features) - self.center) * self.scale
        return np.clip(np.rint(standardised * GRID), -INPUT_LIMIT * GRID, INPUT_LIMIT * GRID)


def fit(features: npt.NDArray[np.int32]) -> Transform:
    """Learn center and scale from a training set, int32 (n, k).

    Counts get mean 0 and deviation 1. Flags, circle and one-hot columns keep their values: standardising a rare flag,
    or the few minutes of the clock that a short training set saw, would turn the unseen rest into enormous inputs.
    """
    if len(features) == 0:
        raise InvalidInput("features: expected at least one snapshot to fit the transform on, got none")
    encoded = encode(features)
    tells = (encoded.max(axis=0) > encoded.min(axis=0)) & _seen_around(features)
    center, scale = np.zeros(encoded.shape[1]), np.ones(encoded.shape[1])
    counts = slice(0, len(COUNTS))
    center[counts] = encoded[:, counts].mean(axis=0)
    scale[counts] = 1.0 / np.maximum(encoded[:, counts].std(axis=0), _SPREAD_LEAST)
    return Transform(center.astype(np.float32), np.where(tells, scale, 0.0).astype(np.float32))


def _seen_around(features: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Flag for each column, False for those of a circle that the snapshots do not go all the way around."""
    minute = features[:, feature_spec.INDEX["minute_of_week"]]
    known = minute[minute >= 0]
    all_hours = len(np.unique(known % MINUTES_PER_DAY // 60)) == 24
    all_days = len(np.unique(known // MINUTES_PER_DAY)) == 7
    hidden = ("hour.",) * (not all_hours) + ("weekday.",) * (not all_days)
    columns = columns_of(feature_spec.schema_of(features))
    return np.array([not column.startswith(hidden) for column in columns])


def encode(features: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Snapshots int32 (n, k) -> columns before standardisation, float64 (n, columns). Raises InvalidInput."""
    schema = feature_spec.schema_of(features)
    counts = features[:, _COUNT_INDEX]
    minute = features[:, feature_spec.INDEX["minute_of_week"]]
    status = features[:, feature_spec.INDEX["logged_in"]]
    kind = features[:, feature_spec.INDEX["device_kind"]]
    parts = [octaves(counts), counts < 0, _clock(minute), status[:, None] == _STATUS, kind[:, None] == _KINDS]
    if _has_facts(schema):
        parts += [features[:, i, None] == _STATUS for i in feature_spec.FACT_INDEX.values()]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def octaves(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """log2(1 + count), in straight lines between the powers of two; exact, rising, 0 for a count without a value.

    Within 0.09 of the logarithm everywhere, and made of a number's own exponent and mantissa: no rounding at all.
    """
    mantissa, exponent = np.frexp(np.maximum(counts, 0).astype(np.float64) + 1.0)
    exact: npt.NDArray[np.float64] = (exponent - 1) + (2.0 * mantissa - 1.0)
    return exact


def _clock(minute_of_week: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Hour of day and weekday as sine and cosine, (n, 4); zeros where the minute has no value."""
    known = (minute_of_week >= 0) & (minute_of_week < feature_spec.MINUTES_PER_WEEK)
    return _CLOCK[np.where(known, minute_of_week, feature_spec.MINUTES_PER_WEEK)]


def _clock_table() -> npt.NDArray[np.float64]:
    """One row a minute of the week, and a row of zeros; rounded to the grid, so that every libm gives the same."""
    rows = [
        _circle(m % MINUTES_PER_DAY, MINUTES_PER_DAY) + _circle(m // MINUTES_PER_DAY, 7)
        for m in range(feature_spec.MINUTES_PER_WEEK)
    ]
    table: npt.NDArray[np.float64] = np.rint(np.array([*rows, (0.0,) * 4]) * GRID) / GRID
    return table


def _circle(part: int, whole: int) -> tuple[float, float]:
    angle = 2.0 * math.pi * part / whole
    return math.sin(angle), math.cos(angle)


_CLOCK = _clock_table()
