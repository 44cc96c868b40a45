"""The smallest run of some benchmarks, as people start it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULTS = [REPOSITORY / "benchmarks" / name for name in ("latest.json", "RESULTS.md")]


def quick(names: Sequence[str]) -> str:
    """What they print. Fails when one does, or when results are written down."""
    before = [path.read_bytes() if path.exists() else None for path in RESULTS]
    command = [sys.executable, "-m", "benchmarks", *names, "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() if path.exists() else None for path in RESULTS] == before
    return done.stdout
