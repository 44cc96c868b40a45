"""Every benchmark goes the whole way in its smallest form, and writes no results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULTS = [REPOSITORY / "benchmarks" / name for name in ("latest.json", "RESULTS.md")]


def test_quick_run_measures_everything_and_writes_nothing() -> None:
    before = [path.read_bytes() if path.exists() else None for path in RESULTS]
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    for figure in ("raw COPY stream", "copying the same rows out", "publishing", "file to commit", "p99.9", "Celery"):
        assert figure in done.stdout
    assert [path.read_bytes() if path.exists() else None for path in RESULTS] == before
