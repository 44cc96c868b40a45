"""Maturity of labels: what share of the outcomes a click will have is known so many hours after it.

The delays of outcomes come from clicks old enough that nearly all of theirs are known: at least the horizon. Those of
younger clicks are left out, since the short delays among them are known before the long ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def delays_ms(clicked_at_ms: Ints, occurred_at_ms: Ints, cutoff_ms: int, horizon_ms: int) -> Ints:
    """Delays within the horizon of the outcomes (m,) whose click is at least as old as it at the cut-off; sorted."""
    old = clicked_at_ms <= cutoff_ms - horizon_ms
    delays = np.maximum(occurred_at_ms[old] - clicked_at_ms[old], 0)  # a sender's clocks may disagree
    return np.sort(delays[delays <= horizon_ms])


def known_share(age_ms: Ints, delays: Ints) -> npt.NDArray[np.float64]:
    """Share of its outcomes that is known of a click of each age (n,), by sorted delays (m,), one at least."""
    return np.searchsorted(delays, age_ms, side="right") / len(delays)
