"""Density of human labels by hour of the week: counted by source and login, and a feed that was down shows."""

from __future__ import annotations

import numpy as np
from labelled_traffic import MONDAY_MS, draw

from clickledger.scoring import label_density, labels

TUESDAY_NOON = 24 + 12


def test_every_click_and_label_is_counted_once_at_its_hour() -> None:
    data = draw(5_000, seed=3).dataset
    told = label_density.by_hour_of_week(data)
    assert set(told["outcomes"]) == {"logged out", "logged in"}
    for by_login in told.values():
        assert sum(sum(cells["clicks"]) for cells in by_login.values()) == len(data)
    assert sum(sum(c["labels"]) for by_login in told.values() for c in by_login.values()) == data.human.sum()
    hour = (data.event_time_ms - MONDAY_MS) // labels.HOUR_MS
    noon = sum(cells["clicks"][TUESDAY_NOON] for cells in told["outcomes"].values())
    assert noon == np.count_nonzero(hour == TUESDAY_NOON) > 0


def test_hours_without_labels_are_the_thinnest() -> None:
    at_ms = MONDAY_MS + TUESDAY_NOON * labels.HOUR_MS
    data = draw(60_000, seed=3, withheld=((at_ms, at_ms + labels.HOUR_MS),)).dataset
    for by_login in label_density.by_hour_of_week(data).values():
        for cells in by_login.values():
            low = label_density.thinnest(cells)
            assert low is not None and low["hour"] == "Tue 12:00" and low["density"] == 0.0 < low["mean"]
            assert low["hours_without_clicks"] == 0


def test_no_clicks_have_no_thinnest_hour() -> None:
    assert label_density.thinnest({"clicks": [0] * 168, "labels": [0] * 168}) is None
