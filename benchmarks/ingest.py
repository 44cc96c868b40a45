"""End to end: `clickledger ingest FILE` of simulated traffic, through the stream and a worker's process, to the commit.

The rate counts from reading the file's first byte to the last answer, which comes after its commit: parsing and
pseudonyms, stream, counting, scoring by a network with a shadow beside it, append, answers. The interpreter's own start
is left out and reported beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks import live
from benchmarks.ground import Figure, Ground, Result, say
from clickledger.console import roles
from clickledger.console.roles import Readiness, Role
from clickledger.settings import Settings

CLICKS, QUICK_CLICKS = 100_000, 2_000
COMMAND = "from clickledger.console.cli import main; main()"


def run(ground: Ground) -> Result:
    """Clicks a second with one worker, and of the same file once more."""
    clicks = QUICK_CLICKS if ground.quick else CLICKS
    settings = live.prepare(ground)
    file = ground.home / "clicks.ndjson"
    say(f"ingest: writing {clicks:,} clicks")
    live.simulated(clicks).write_ndjson(file)
    result = Result()
    with live.running(settings, ["scoring-1"]):
        for what, key, column in (("first", "ingest_clicks_per_s", "accepted"), ("again", "", "duplicates")):
            say(f"ingest: the file, {what}")
            summary, seconds = _ingest(settings, str(file))
            if summary[column] != clicks:
                raise RuntimeError(f"expected {clicks} {column}, got {summary}")
            rate = clicks / float(summary["seconds"])
            note = f"{clicks:,} clicks, 1 worker; {seconds - float(summary['seconds']):.1f} s more to start the program"
            result.figures.append(Figure(f"file to commit, {what}", rate, "clicks/s", note))
            if key:
                result.keys[key] = round(rate)
    return result


def _ingest(settings: Settings, file: str) -> tuple[dict[str, float], float]:
    role = Role("ingest", [sys.executable, "-P", "-c", COMMAND, "ingest", file, "--json"], Readiness.ALIVE)
    began = time.perf_counter()
    done = subprocess.run(
        role.command, env=roles.environment(settings, role), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"clickledger ingest ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]), seconds
