"""What processes load: those that run all day hold nothing that only training needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "cvxpy", "scipy", "sklearn", "matplotlib")
NAME_LOADED = "import importlib, sys; importlib.import_module({!r}); print(*sorted(set({!r}) & set(sys.modules)))"


@pytest.mark.parametrize(
    "module",
    [
        "clickledger.console.worker_main",
        "clickledger.console.api",
        "clickledger.recovery.tasks",
        "clickledger.recovery.plans",
        "clickledger.scoring.rescore",
    ],
)
def test_what_runs_all_day_and_what_audits_load_nothing_that_only_training_needs(module: str) -> None:
    code = NAME_LOADED.format(module, HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
