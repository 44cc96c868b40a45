"""The benchmark of detection in small: its arithmetic is the product's, and bad models are noticed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import detection, detection_months
from benchmarks.detection_rates import GROUPS, Rates
from clickledger.recovery import paging
from clickledger.recovery.paging import Minute

SLICES = ["app/in", "web/out"]


def rates() -> Rates:
    """Two slices, two pairs of models that differ a little, seven days with a rhythm."""
    rhythm = 1.0 + 0.8 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    clicks = np.tile(rhythm[None, :, None], (7, 1, 2)) * 1_000.0
    parts = {"clicks": 1.0, "invalid": 0.2, "hot": 0.05, "hot_invalid": 0.045, "loyal": 0.1, "loyal_invalid": 0.001}
    return Rates(
        slices=SLICES,
        share=np.array([0.7, 0.3]),
        of_group={"known": np.array([0.4, 0.1]), "everyone": np.ones(2), "hot": np.array([0.05, 0.05])},
        withheld={name: np.full((2, 2), 0.002) for name in GROUPS},
        released={name: np.full((2, 2), 0.002) for name in GROUPS},
        human=np.array([0.9, 0.6]),
        users_per_click=0.9,
        pairs=2,
        hours={name: clicks * share for name, share in parts.items()},
    )


def test_evidence_of_whole_series_is_what_the_detector_reads_at_each_tick() -> None:
    random = np.random.default_rng(1)
    detection_months.check(detection_months.draw(rates(), 200.0, 120, random, more=0.03), random)


@pytest.mark.parametrize("share", paging.SHARES[:3], ids=lambda share: share.name)
def test_page_evidence_of_whole_weeks_is_what_paging_reads(share: paging.Share) -> None:
    random = np.random.default_rng(2)
    counts = detection_months.draw_weeks(
        rates(), 50.0, 5, random, np.repeat([[0.0], [0.0], [0.0], [0.0], [0.05]], 10_080, 1)
    )
    names = list(counts)

    def minutes(week: int, stretch: range) -> list[Minute]:
        return [Minute(week * 10_080 + at, at, {name: int(counts[name][week, at]) for name in names}) for at in stretch]

    hours = {
        hour: paging.baseline([m for week in range(4) for m in minutes(week, range(hour * 60, hour * 60 + 60))], share)
        for hour in range(3)
    }
    for direction in share.directions:
        mine = detection_months.page_evidence(share, direction, counts, first_week=4)
        end = 150
        [theirs] = [r for r in paging.read_share(share, "*", minutes(4, range(end)), hours) if r.direction == direction]
        assert mine[end - 1] == pytest.approx(theirs.evidence)


def test_six_months_in_small_keep_what_is_promised() -> None:
    answer = detection.run(rates(), days=2, bad=2, rates_per_s=(200.0,))
    assert detection.failures(answer) == []
    [table] = [row for row in detection.table(answer) if row.startswith("| **all")]
    assert table.count("|") == 5


def test_what_is_not_kept_is_said() -> None:
    wrong = {"200": {"acting": {"false_a_month": {"any": 2.0}, "delays": {"+1%": {"any": [10.0, np.inf]}}}}}
    assert len(detection.failures(wrong)) == 2


def test_pages_are_sent_once_with_hysteresis_and_cooldown() -> None:
    quiet, loud = [0.0] * 30, [30.0] * 10
    wavering = [30.0, 20.0, 30.0, 8.0, 30.0]
    assert detection_months.pages(np.array([*quiet, *loud, *wavering])) == [30]
    again = [*quiet, *loud, *quiet, *loud, *quiet, *quiet, *loud]
    assert detection_months.pages(np.array(again)) == [30, 140]
