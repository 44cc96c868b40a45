"""Data sets of files: causal features, labels that stay on their side of the border."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import feature_replay, offline_dataset, outcome_lines
from clickledger.scoring.click import Click
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig, simulate

TRAFFIC, _ = simulate(SimulationConfig(clicks=4_000, start_ms=1_759_104_000_000, duration_hours=24, seed=3))
CLICKS = TRAFFIC.to_clicks(Pseudonyms(bytes(32)))
OUTCOMES = TRAFFIC.to_outcomes(CLICKS)


def test_a_click_sent_twice_is_counted_once_at_its_first_place() -> None:
    doubled = [*CLICKS[:10], CLICKS[3], *CLICKS[10:20]]
    recounted = offline_dataset.recount(doubled, [])
    assert list(recounted.clicks) == CLICKS[:20]
    assert np.array_equal(recounted.features, feature_replay.recompute(CLICKS[:20]))


def test_what_comes_after_the_border_changes_nothing_before_it() -> None:
    whole = offline_dataset.recount(CLICKS, OUTCOMES)
    train, test, border_ms = offline_dataset.split_in_time(whole, 0.4)
    early = [outcome for outcome in OUTCOMES if int.from_bytes(outcome.click_id[:6], "big") < border_ms]
    alone = offline_dataset.recount(CLICKS[: len(train)], early).part(slice(None))
    assert train.digest() == alone.digest()
    assert len(train) + len(test) == len(CLICKS)
    assert train.event_time_ms.max() < border_ms == test.event_time_ms.min()


def test_clicks_of_the_warm_up_are_counted_and_in_no_part() -> None:
    whole = offline_dataset.recount(CLICKS, OUTCOMES)
    hour_ms = 3_600_000
    cold, test, _ = offline_dataset.split_in_time(whole, 0.4)
    warm, same_test, _ = offline_dataset.split_in_time(whole, 0.4, warm_up_ms=3 * hour_ms)
    assert same_test.digest() == test.digest()
    assert warm.event_time_ms.min() >= cold.event_time_ms.min() + 3 * hour_ms
    assert np.array_equal(warm.features, cold.features[-len(warm) :])
    with pytest.raises(InvalidInput, match="training part: expected clicks before"):
        offline_dataset.split_in_time(whole, 0.4, warm_up_ms=24 * hour_ms)


def test_a_later_purchase_of_the_same_account_is_no_label_of_an_earlier_click() -> None:
    """Two purchases after the border make an account one of high RFM there, and only there."""
    account = CLICKS[0]
    early, late = CLICKS[:50], CLICKS[50:100]
    mine = [_of(account, click) for click in (early[0], late[0], late[1])]
    clicks = [mine[0], *early[1:], mine[1], mine[2], *late[2:]]
    bought = [Outcome(click.click_id, "purchase", click.event_time_ms + 1, 10**9) for click in mine[1:]]
    recounted = offline_dataset.recount(clicks, bought)
    assert not recounted.part(slice(0, 50)).human.any()
    assert recounted.part(slice(50, None)).human[:2].all()


def test_clicks_of_one_moment_stay_together() -> None:
    moment = CLICKS[30].event_time_ms
    clicks = [_at(click, moment) if 30 <= number < 60 else click for number, click in enumerate(CLICKS[:100])]
    clicks.sort(key=lambda click: click.event_time_ms)
    train, test, border_ms = offline_dataset.split_in_time(offline_dataset.recount(clicks, []), 0.5)
    assert border_ms == moment and moment not in train.event_time_ms and (test.event_time_ms == moment).sum() == 30


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_part_without_clicks_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match=f"test share: expected between 0 and 1, got {share}"):
        offline_dataset.split_in_time(offline_dataset.recount(CLICKS[:10], []), share)


def test_outcome_lines_find_their_clicks_and_name_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.ndjson"
    known, other = CLICKS[0], CLICKS[1]
    file.write_text(
        f'{{"click_id": "{known.external_id}", "occurred_at": {known.event_time_ms + 5}, "value_micros": 7}}\n'
        f'{{"click_id": "{known.external_id}", "occurred_at": {known.event_time_ms + 5}, "value_micros": 7}}\n'
        f'{{"click_id": "{other.external_id}", "occurred_at": "soon"}}\n'
        f'{{"click_id": "nobody", "occurred_at": {known.event_time_ms}}}\n'
        f'{{"click_id": "{other.external_id}", "occurred_at": {other.event_time_ms}, "kind": "wish"}}\n'
    )
    read = outcome_lines.read_file(file, CLICKS)
    assert read.outcomes == [Outcome(known.click_id, "purchase", known.event_time_ms + 5, 7)]
    assert read.unknown == 1
    assert [(rejection.line, rejection.field) for rejection in read.rejected] == [(3, "occurred_at"), (5, "kind")]


def _of(account: Click, click: Click) -> Click:
    fields = {name: getattr(click, name) for name in click.__struct_fields__}
    return Click(**{**fields, "user_key": account.user_key})


def _at(click: Click, event_time_ms: int) -> Click:
    fields = {name: getattr(click, name) for name in click.__struct_fields__}
    click_id = event_time_ms.to_bytes(6, "big") + click.click_id[6:]
    return Click(**{**fields, "event_time_ms": event_time_ms, "click_id": click_id})
