"""Every benchmark of what runs on the ledger goes the whole way in its smallest form, and writes no results."""

from __future__ import annotations

import smoke

from benchmarks.__main__ import LEDGER, NAMES


def test_quick_run_of_the_services_measures_everything_and_writes_nothing() -> None:
    said = smoke.quick([name for name in NAMES if name not in LEDGER])
    for figure in ("file to commit", "p99.9", "Celery", "replay by pipe limit"):
        assert figure in said
    for figure in (
        "clicks counted, calls of 64",
        "features: 13 of users",
        "snapshots recomputed",
        "forward pass of 4,096",
    ):
        assert figure in said
