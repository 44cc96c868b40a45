"""Faults of simulated traffic: each does what it says, and nothing but that, whatever else is on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clickledger.errors import InvalidInput
from clickledger.scoring import simulation_faults
from clickledger.scoring.simulation import Fault, Simulated, SimulationConfig, Truth, simulate
from clickledger.scoring.simulation_config import FaultKind
from clickledger.scoring.simulation_traffic import COLUMNS
from clickledger.scoring.simulation_truth import KINDS

HOUR_MS = 3_600_000
CONFIG = SimulationConfig(clicks=8_000, start_ms=1_759_449_600_000, duration_hours=48, seed=3)
SPAN = (CONFIG.start_ms + 12 * HOUR_MS, CONFIG.start_ms + 36 * HOUR_MS)
CLEAN, TRUTH = simulate(CONFIG)
UNTOUCHED = [name for name in COLUMNS if name not in {"event_time_ms", "sent_at_ms"}]


def struck(*kinds: FaultKind, share: float | None = None) -> tuple[Simulated, Truth]:
    """The same run with faults from the twelfth hour to the thirty-sixth."""
    return simulate(replace(CONFIG, faults=tuple(Fault(kind, *SPAN, share) for kind in kinds)))


def by_click(traffic: Simulated, column: str) -> dict[int, int]:
    """A column's values by the id of the click; of one sent twice those of the first sending."""
    return dict(zip(traffic.click[::-1].tolist(), getattr(traffic, column)[::-1].tolist(), strict=True))


def bought(traffic: Simulated) -> set[tuple[int, int, int]]:
    """Click, time and value of each purchase."""
    told = traffic.purchases
    return set(
        zip(traffic.click[told.click].tolist(), told.occurred_at_ms.tolist(), told.value_micros.tolist(), strict=True)
    )


def test_purchases_of_a_label_outage_are_never_told() -> None:
    traffic, _ = struck(FaultKind.LABEL_OUTAGE)
    lost = bought(CLEAN) - bought(traffic)
    assert bought(traffic) <= bought(CLEAN)
    assert lost == {each for each in bought(CLEAN) if SPAN[0] <= each[1] < SPAN[1]} != set()


def test_late_clicks_are_sent_minutes_later_and_told_as_they_were() -> None:
    traffic, _ = struck(FaultKind.LATE_CLICKS)
    delay_ms = traffic.sent_at_ms - traffic.event_time_ms
    late = delay_ms > 0
    assert by_click(traffic, "event_time_ms") == by_click(CLEAN, "event_time_ms")
    assert (
        0.02 < late.sum() / np.isin(traffic.event_time_ms // HOUR_MS, np.arange(*SPAN, HOUR_MS) // HOUR_MS).sum() < 0.08
    )
    assert (delay_ms[late] >= 180_000).all() and (np.diff(traffic.sent_at_ms) >= 0).all()


def test_a_retry_is_the_same_click_to_the_byte() -> None:
    traffic, _ = struck(FaultKind.RETRIES)
    rows = [tuple(fields.items()) for fields in traffic.raw_clicks()]
    assert len(rows) > len(set(rows)) == len(CLEAN)
    assert set(rows) == {tuple(fields.items()) for fields in CLEAN.raw_clicks()}


def test_a_skewed_clock_is_that_of_a_session() -> None:
    traffic, _ = struck(FaultKind.SKEWED_CLOCKS, share=0.2)
    told, made = by_click(traffic, "event_time_ms"), by_click(CLEAN, "event_time_ms")
    session = by_click(CLEAN, "session")
    skews = {(session[click], told[click] - made[click]) for click in made if SPAN[0] <= made[click] < SPAN[1]}
    assert len({skew for _, skew in skews}) > 50 and max(abs(skew) for _, skew in skews) <= 300_000
    assert len(skews) == len({session for session, _ in skews})
    assert by_click(traffic, "sent_at_ms") == by_click(CLEAN, "sent_at_ms")


def test_a_farm_that_poisons_labels_buys_with_its_own_clicks_only() -> None:
    traffic, _ = struck(FaultKind.RFM_POISONING)
    farm = set(CLEAN.click[TRUTH.kind == KINDS.index("click_farm")].tolist())
    added = bought(traffic) - bought(CLEAN)
    assert bought(traffic) >= bought(CLEAN)
    assert added and {click for click, _, _ in added} <= farm


def test_lost_counters_are_a_mark_and_change_no_click() -> None:
    traffic, truth = struck(FaultKind.COUNTER_LOSS)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(traffic, name), getattr(CLEAN, name))
    assert bought(traffic) == bought(CLEAN) and np.array_equal(truth.kind, TRUTH.kind)


def test_each_fault_changes_nothing_that_another_one_does() -> None:
    """All of them at once are, in every respect, what each of them is alone."""
    everything = tuple(kind for kind in FaultKind if kind is not FaultKind.RFM_POISONING)
    together, truth = struck(*everything)
    retried, skewed, dark = (
        struck(kind)[0] for kind in (FaultKind.RETRIES, FaultKind.SKEWED_CLOCKS, FaultKind.LABEL_OUTAGE)
    )
    assert np.array_equal(np.sort(together.click), np.sort(retried.click))
    assert by_click(together, "event_time_ms") == by_click(skewed, "event_time_ms")
    assert bought(together) == bought(dark)
    late = by_click(struck(FaultKind.LATE_CLICKS)[0], "sent_at_ms")
    assert by_click(together, "sent_at_ms") == late
    for name in UNTOUCHED:
        assert by_click(together, name) == by_click(CLEAN, name)
    kinds = dict(zip(CLEAN.click.tolist(), TRUTH.kind.tolist(), strict=True))
    assert [kinds[click] for click in together.click.tolist()] == truth.kind.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label-outage@12h+24h", Fault(FaultKind.LABEL_OUTAGE, *SPAN)),
        ("label-outage@2025-10-03T12:00:00Z+1d", Fault(FaultKind.LABEL_OUTAGE, *SPAN)),
        ("retries:0.2", Fault(FaultKind.RETRIES, CONFIG.start_ms, CONFIG.end_ms, 0.2)),
        ("late-clicks@90m", Fault(FaultKind.LATE_CLICKS, CONFIG.start_ms + 5_400_000, CONFIG.end_ms)),
        ("counter-loss@1d", Fault(FaultKind.COUNTER_LOSS, *(CONFIG.start_ms + 24 * HOUR_MS,) * 2)),
    ],
)
def test_a_fault_is_read_as_people_write_it(text: str, expected: Fault) -> None:
    assert simulation_faults.parse(text, CONFIG) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rain@1h", "with KIND one of label-outage, late-clicks"),
        ("label-outage@1h+soon", "expected a length such as 90m, 6h or 3d, got 'soon'"),
        ("label-outage@tomorrow+1h", "time: expected RFC 3339 text with a zone, got 'tomorrow'"),
        ("label-outage@99d+1h", "expected a time within the run"),
        ("retries:2", "share of fault retries: expected 0.0 to 1.0, got 2.0"),
        ("retries:1.1.1", "expected a share from 0 to 1, got '1.1.1'"),
        ("counter-loss", "expected one moment, as in counter-loss@36h, got 'counter-loss'"),
    ],
)
def test_a_fault_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        simulation_faults.parse(text, CONFIG)
