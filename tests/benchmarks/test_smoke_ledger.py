"""Every benchmark of the ledger goes the whole way in its smallest form, and writes no results."""

from __future__ import annotations

from importlib.util import find_spec

import smoke

from benchmarks.__main__ import LEDGER


def test_quick_run_of_the_ledger_measures_everything_and_writes_nothing() -> None:
    said = smoke.quick(LEDGER)
    compared = ["raw COPY stream", "import / raw COPY", "bare commit", "copying the same rows out"]
    if find_spec("eventsourcing"):  # an extra
        compared += ["append / eventsourcing at 32", "append / eventsourcing at 500"]
    for figure in (*compared, "publishing", "rows_full_vs_plain", "of the large ledger"):
        assert figure in said
