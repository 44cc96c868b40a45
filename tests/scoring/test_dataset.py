"""What becomes of clicks and outcomes on their way into a training set."""

from __future__ import annotations

import numpy as np
import pytest

from clickledger.errors import InvalidInput
from clickledger.scoring import dataset, feature_spec, labels
from clickledger.scoring.dataset import ClickRow, OutcomeRow

HOUR = feature_spec.HOUR_MS
ANN, BOB = b"a" * 16, b"b" * 16


def click(time_ms: int, user: bytes = ANN, tail: int = 0) -> ClickRow:
    snapshot = np.full((1, len(feature_spec.FEATURES)), time_ms % 100, dtype=np.int32)
    click_id = time_ms.to_bytes(6, "big") + b"\x70" + tail.to_bytes(9, "big")
    return ClickRow(click_id, user, "app/in", feature_spec.pack_snapshots(snapshot)[0])


def bought(what: ClickRow, after_ms: int = 1, value_micros: int = 5) -> OutcomeRow:
    time_ms = int.from_bytes(what.click_id[:6], "big")
    return OutcomeRow(what.click_id, what.user_key, time_ms + after_ms, value_micros)


def test_a_purchase_labels_its_click_and_a_known_account_all_of_its_clicks() -> None:
    clicks = [click(HOUR), click(2 * HOUR), click(3 * HOUR), click(4 * HOUR, BOB), click(5 * HOUR, BOB)]
    built = dataset.assemble(clicks, [bought(clicks[i]) for i in (0, 1, 3)], rfm=labels.RfmRule(0.5))
    assert built.purchased.tolist() == [True, True, False, True, False]
    assert built.human.tolist() == [True, True, True, True, False]
    assert built.user.tolist() == [0, 0, 0, 1, 1]
    assert built.event_time_ms.tolist() == [hour * HOUR for hour in (1, 2, 3, 4, 5)]


def test_withheld_stretches_have_no_human_label_from_any_source() -> None:
    clicks = [click(hour * HOUR, tail=hour) for hour in range(1, 7)]
    everything = dataset.assemble(clicks, [bought(one) for one in clicks])
    faulty = dataset.assemble(clicks, [bought(one) for one in clicks], withheld=[(2 * HOUR, 4 * HOUR)])
    assert everything.human.all()
    assert faulty.human.tolist() == faulty.purchased.tolist() == [True, False, False, True, True, True]


def test_an_outcome_of_a_click_outside_the_set_still_speaks_for_its_account() -> None:
    earlier = click(HOUR), click(2 * HOUR)
    built = dataset.assemble([click(9 * HOUR)], [bought(one) for one in earlier], rfm=labels.RfmRule(score_min=0.5))
    assert built.human.tolist() == [True] and built.purchased.tolist() == [False]


def test_an_empty_set_is_a_set() -> None:
    built = dataset.assemble([], [])
    assert len(built) == 0 and built.features.shape == (0, len(feature_spec.FEATURES))


def test_the_digest_tells_any_value_apart_and_nothing_else() -> None:
    clicks = [click(HOUR), click(2 * HOUR, BOB)]
    digest = dataset.assemble(clicks, []).digest()
    assert dataset.assemble(clicks, []).digest() == digest
    assert dataset.assemble(clicks, [bought(clicks[0])]).digest() != digest
    assert dataset.assemble(clicks[::-1], []).digest() != digest


def test_the_hours_of_each_day_cover_a_night_that_passes_midnight() -> None:
    nights = dataset.hours_of_each_day(22, 26, 24 * HOUR, 72 * HOUR)
    assert nights == [(22 * HOUR, 26 * HOUR), (46 * HOUR, 50 * HOUR), (70 * HOUR, 74 * HOUR)]


def test_columns_of_different_length_are_refused() -> None:
    built = dataset.assemble([click(HOUR)], [])
    with pytest.raises(InvalidInput, match="columns of one length"):
        dataset.Dataset(built.features, built.human, built.purchased, built.user, built.slice, np.zeros(2, np.int64))
