"""Every benchmark goes the whole way in its smallest form, and writes no results."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULTS = [REPOSITORY / "benchmarks" / name for name in ("latest.json", "RESULTS.md")]


def test_quick_run_measures_everything_and_writes_nothing() -> None:
    before = [path.read_bytes() if path.exists() else None for path in RESULTS]
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    compared = ["raw COPY stream", "import / raw COPY", "bare commit", "copying the same rows out"]
    if find_spec("eventsourcing"):  # an extra
        compared += ["append / eventsourcing at 32", "append / eventsourcing at 500"]
    for figure in (*compared, "publishing", "file to commit", "p99.9", "Celery"):
        assert figure in done.stdout
    for figure in (
        "clicks counted, calls of 64",
        "features: 13 of users",
        "snapshots recomputed",
        "forward pass of 4,096",
    ):
        assert figure in done.stdout
    for figure in ("rows_full_vs_plain", "of the large ledger"):
        assert figure in done.stdout
    assert [path.read_bytes() if path.exists() else None for path in RESULTS] == before
