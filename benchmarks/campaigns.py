"""`clickledger campaigns`: one pass over the authoritative decisions of a day, a tenth of which a run has re-decided.

The ledger is filled by SQL (`benchmarks.filled`), 400 campaigns over one day.
"""

from __future__ import annotations

import time

from benchmarks.filled import DAY_MS, Filled
from benchmarks.ground import Figure, Ground, Result, say
from clickledger.ledger import campaigns, database

CLICKS, QUICK_CLICKS = 2_048_000, 5_120
ROUNDS = 3


def run(ground: Ground) -> Result:
    """Seconds of one answer over a full day, and clicks counted a second."""
    size = QUICK_CLICKS if ground.quick else CLICKS
    with database.connect(ground.fresh_database()) as conn:
        say(f"campaigns: filling a ledger with {size:,} decisions of one day")
        filled = Filled(conn, size, 1)
        filled.published(filled.lo, filled.lo + (filled.hi - filled.lo) // 10)
        times = []
        for _ in range(1 if ground.quick else ROUNDS):
            began = time.perf_counter()
            found = campaigns.clicked(conn, filled.start_ms + DAY_MS)
            times.append(time.perf_counter() - began)
    if (counted := sum(campaign.clicks_24h for campaign in found)) != size:
        raise RuntimeError(f"expected {size} clicks, got {counted}")
    slowest = max(times)
    note = f"slowest of {len(times)}; {len(found)} campaigns; {size / slowest:,.0f} clicks/s"
    return Result(
        [Figure(f"clicks of campaigns, a day of {size:,}", slowest, "s", note)], {"campaigns_s": round(slowest, 3)}
    )
