"""Histories of the state machine, in blocks and processes of their own: 2,000 in a test, a million steps in a soak.

A block is one seeded run of hypothesis over a few histories of one length. Its number is its seed, so that any block
can be run again alone: `CLICKLEDGER_SEED=... CLICKLEDGER_HISTORIES=1` runs the block of that seed and no other, of a
soak `CLICKLEDGER_SOAK_STEPS=1`, whose histories are longer. A soak must not be stopped by SIGSTOP: the server ends a
transaction that idles for 30 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import genesis
import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.stateful import run_state_machine_as_test
from universe import CLICKS

from clickledger.ledger import partitions

HISTORIES_PER_BLOCK = 25
LENGTHS = (6, 8, 8, 10, 24)  # steps a history, by the seed of its block
SOAK_LENGTHS = (12, 20, 40, 80)


@dataclass(frozen=True)
class Goal:
    """What to run: blocks from `seed` on, until there were so many histories and so many steps."""

    seed: int
    histories: int
    steps: int
    lengths: tuple[int, ...]
    workers: int

    def share(self, worker: int) -> list[str]:
        """Arguments of a worker process: its first seed, its stride, its part of the work."""
        parts = -(-self.histories // self.workers), -(-self.steps // self.workers)
        return [str(n) for n in (self.seed + worker, self.workers, *parts, *self.lengths)]


@dataclass
class Ran:
    """What the workers of a goal have run so far, and the seeds of the finished blocks."""

    histories: int = 0
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of what happened in them
    seeds: set[int] = field(default_factory=set)

    def take(self, line: str) -> None:
        block = json.loads(line)
        self.histories += block["histories"]
        self.steps += block["steps"]
        self.counts.update(block["counts"])
        self.seeds.add(block["seed"])

    def said(self, goal: Goal, seconds: float) -> str:
        """Progress, the time left, and how to go on from here."""
        goals = ((self.steps, goal.steps), (self.histories, goal.histories))
        part = min(done / wanted for done, wanted in goals if wanted)
        left = f"{seconds / part - seconds:.0f} s to go" if part else "no block finished yet"
        first = next(seed for seed in range(goal.seed, goal.seed + len(self.seeds) + 1) if seed not in self.seeds)
        return (
            f"{self.histories} histories, {self.steps} steps in {seconds:.0f} s, {left}"
            f"; to go on: CLICKLEDGER_SEED={first} CLICKLEDGER_SOAK_STEPS={max(0, goal.steps - self.steps)}"
        )


def run(goal: Goal, server_url: str, template: str, say: Callable[[str], None]) -> Ran:
    """Run a goal in worker processes. Raises AssertionError with the output of the first one that fails."""
    ran, started, said = Ran(), time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(worker) for worker in range(goal.workers)]
        workers = [_start(goal, worker, server_url, template, outputs[worker]) for worker in range(goal.workers)]
        read = [0] * goal.workers
        try:
            while True:
                ended = [worker.poll() is not None for worker in workers]  # first: what they wrote is then all there
                for n, output in enumerate(outputs):
                    read[n] = _take(ran, output, read[n])
                for worker, output in zip(workers, outputs, strict=True):
                    assert worker.poll() in (None, 0), output.read_text(encoding="utf-8", errors="replace")
                if all(ended):
                    return ran
                if time.monotonic() - started > said + 30:
                    said = time.monotonic() - started
                    say(ran.said(goal, said))
                _wait_for_any(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _start(goal: Goal, worker: int, server_url: str, template: str, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, server_url, template, *goal.share(worker)]
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _wait_for_any(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            try:
                worker.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                return


def _take(ran: Ran, output: Path, read: int) -> int:
    """Take the lines of finished blocks from what a worker wrote; how many lines are read by now."""
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    for line in lines[read:]:
        if line.startswith('{"seed"'):
            ran.take(line)
    return len(lines)


def run_block(ledger: genesis.Ledger, seed: int, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Run one block; its seed, histories and steps, and how often what happened in them."""
    from test_state_machine import LedgerMachine

    settings = hypothesis.settings(
        max_examples=HISTORIES_PER_BLOCK,
        stateful_step_count=lengths[seed % len(lengths)],
        database=None,
        deadline=None,
        print_blob=False,  # the seed says it
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.normal,
        suppress_health_check=list(HealthCheck),
    )
    machine: Any = type(
        "LedgerMachine", (LedgerMachine,), {"ledger": ledger, "histories": 0, "steps": 0, "counts": Counter()}
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=settings)
    except BaseException:
        alone = "CLICKLEDGER_SOAK_STEPS" if lengths == SOAK_LENGTHS else "CLICKLEDGER_HISTORIES"
        print(f"to run it again: CLICKLEDGER_SEED={seed} {alone}=1", flush=True)
        raise
    return {"seed": seed, "histories": machine.histories, "steps": machine.steps, "counts": machine.counts}


def work(server_url: str, template: str, seed: int, stride: int, histories: int, steps: int, *lengths: int) -> None:
    """What a worker process does: blocks until it has run its part, a line of JSON after each."""
    days = {partitions.day_of(click) for click in CLICKS}
    with genesis.Ledger(server_url, template, days) as ledger:
        while histories > 0 or steps > 0:
            block = run_block(ledger, seed, lengths)
            print(json.dumps(block), flush=True)
            seed, histories, steps = seed + stride, histories - block["histories"], steps - block["steps"]


def goal_of_environment() -> Goal:
    """2,000 histories, or what CLICKLEDGER_SOAK_STEPS, CLICKLEDGER_HISTORIES and CLICKLEDGER_SEED say."""
    steps = int(os.environ.get("CLICKLEDGER_SOAK_STEPS") or 0)
    histories = int(os.environ.get("CLICKLEDGER_HISTORIES") or (0 if steps else 2_000))
    seed = int(os.environ.get("CLICKLEDGER_SEED") or time.time_ns() // 1_000_000 % 1_000_000_000)
    workers = min(2, os.cpu_count() or 1, -(-max(histories, steps) // HISTORIES_PER_BLOCK))
    return Goal(seed, histories, steps, SOAK_LENGTHS if steps else LENGTHS, workers)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
