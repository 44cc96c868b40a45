"""Clicks that never saw a ledger, as a trainer sees those that did: features recomputed, labels from their outcomes.

Invariants:
- features are what the counters would have given, had each file begun with empty ones: causal, so a click's snapshot
  knows nothing of what came after it;
- the labels of one part are made of that part's own outcomes: a purchase after the border between training and test
  makes no click before it human, neither directly nor through its account's RFM score.

Outcomes count whenever they came: a file tells all it knows, as a data set does once its labels are mature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import dataset, feature_replay, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.dataset import ClickRow, Dataset, OutcomeRow


@dataclass(frozen=True)
class Recounted:
    """Clicks by event time, each once, with the snapshots int32 (n, k) that counting them gives."""

    clicks: Sequence[Click]
    features: npt.NDArray[np.int32]
    outcomes: Sequence[Outcome]

    def part(self, rows: slice) -> Dataset:
        """Some of the clicks as a labelled data set, by the outcomes of these clicks alone."""
        clicks = self.clicks[rows]
        users = {click.click_id: click.user_key for click in clicks}
        snapshots = feature_spec.pack_snapshots(self.features[rows])
        return dataset.assembled(
            [
                ClickRow(click.click_id, click.user_key, click.slice, snapshot)
                for click, snapshot in zip(clicks, snapshots, strict=True)
            ],
            [
                OutcomeRow(outcome.click_id, users[outcome.click_id], outcome.occurred_at_ms, outcome.value_micros)
                for outcome in self.outcomes
                if outcome.click_id in users and outcome.kind in dataset.OUTCOME_KINDS
            ],
            feature_schema=feature_spec.schema_of(self.features),
        ).dataset


def recount(clicks: Sequence[Click], outcomes: Sequence[Outcome]) -> Recounted:
    """Compute the features of clicks given by event time. A click that comes again is not counted, and left out.

    Where a table of facts was looked into, its flag stands behind what was counted.
    """
    first: dict[bytes, Click] = {}
    for click in clicks:
        first.setdefault(click.click_id, click)
    once = list(first.values())
    features = feature_replay.recompute(once)
    if any(click.facts_version for click in once):
        features = feature_spec.with_facts(features, [click.data_centre for click in once])
    return Recounted(once, features, outcomes)


def split_in_time(recounted: Recounted, test_share: float, warm_up_ms: int = 0) -> tuple[Dataset, Dataset, int]:
    """The earlier clicks to train on, the last `test_share` of all to test on, and the first event time of the latter.

    Those of the first `warm_up_ms` are in neither part: their counters had not yet seen what lies in their windows.
    Clicks of one moment stay together. Raises InvalidInput when a part would be empty.
    """
    if not 0.0 < test_share < 1.0:
        raise InvalidInput(f"test share: expected between 0 and 1, got {test_share}")
    times = [click.event_time_ms for click in recounted.clicks]
    if not times:
        raise InvalidInput("clicks: expected some to split, got none")
    border_ms = times[int(len(times) * (1.0 - test_share))]
    border = int(np.searchsorted(times, border_ms, side="left"))
    warm = int(np.searchsorted(times, times[0] + warm_up_ms, side="left"))
    if border <= warm:
        wanted = f"clicks before {border_ms} ms, after a warm-up of {warm_up_ms} ms from {times[0]} ms on"
        raise InvalidInput(f"training part: expected {wanted}, got none of {len(times)}")
    return recounted.part(slice(warm, border)), recounted.part(slice(border, len(times))), border_ms
