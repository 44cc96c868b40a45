"""What becomes of clicks and outcomes on their way into a training set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clickledger.errors import InvalidInput
from clickledger.ledger import canonical
from clickledger.scoring import dataset, feature_spec, labels
from clickledger.scoring.dataset import ClickRow, OutcomeRow
from clickledger.scoring.label_caps import Caps
from clickledger.scoring.recipe import Recipe

HOUR = feature_spec.HOUR_MS
ANN, BOB = b"a" * 16, b"b" * 16
LOW_BAR = labels.LabelRules(rfm=labels.RfmRule(score_min=0.5))


def click(time_ms: int, user: bytes = ANN, tail: int = 0) -> ClickRow:
    snapshot = np.full((1, len(feature_spec.FEATURES)), time_ms % 100, dtype=np.int32)
    click_id = time_ms.to_bytes(6, "big") + b"\x70" + tail.to_bytes(9, "big")
    return ClickRow(click_id, user, "app/in", feature_spec.pack_snapshots(snapshot)[0])


def bought(what: ClickRow, after_ms: int = 1, value_micros: int = 5) -> OutcomeRow:
    time_ms = int.from_bytes(what.click_id[:6], "big")
    return OutcomeRow(what.click_id, what.user_key, time_ms + after_ms, value_micros)


def test_a_purchase_labels_its_click_and_a_known_account_all_of_its_clicks() -> None:
    clicks = [click(HOUR), click(2 * HOUR), click(3 * HOUR), click(4 * HOUR, BOB), click(5 * HOUR, BOB)]
    built = dataset.assemble(clicks, [bought(clicks[i]) for i in (0, 1, 3)], rules=LOW_BAR)
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
    built = dataset.assemble([click(9 * HOUR)], [bought(one) for one in earlier], rules=LOW_BAR)
    assert built.human.tolist() == [True] and built.purchased.tolist() == [False]


def test_clicks_younger_than_the_end_are_left_out_and_what_they_led_to_is_not() -> None:
    clicks = [click(hour * HOUR, tail=hour) for hour in (1, 5, 6, 7)]
    made = dataset.assembled(clicks, [bought(one) for one in clicks[2:]], rules=LOW_BAR, end_ms=6 * HOUR)
    assert made.dataset.event_time_ms.tolist() == [1 * HOUR, 5 * HOUR]
    assert made.dataset.human.tolist() == [True, True] and not made.dataset.purchased.any()
    assert made.outcomes.click.tolist() == [-1, -1]


def test_a_label_over_a_cap_is_none_and_neither_is_its_purchase() -> None:
    clicks = [click(hour * HOUR, tail=hour) for hour in range(1, 21)]
    rules = labels.LabelRules(rfm=labels.RfmRule(0.5), caps=Caps(account_outcomes_per_day=20, account_per_day=3))
    made = dataset.assembled(clicks, [bought(one) for one in clicks], rules=rules)
    assert made.dataset.human.sum() == made.dataset.purchased.sum() == 3
    assert made.capped == 17


def test_rules_are_stated_and_read_back() -> None:
    for rules in (labels.AS_RECORDED, labels.DAILY, LOW_BAR):
        recipe = Recipe(5, 6, 1, rules, ((1, 2),))
        assert Recipe.from_payload(json.loads(canonical.canonical_json(recipe.to_payload()))) == recipe


def test_rules_of_another_version_are_refused() -> None:
    with pytest.raises(InvalidInput, match="label rules: expected those of this version"):
        labels.LabelRules.from_payload({**labels.DAILY.to_payload(), "oracle": 1})


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
