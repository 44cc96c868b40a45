"""`python -m benchmarks [NAME...] [--quick]`: measure, print one table, write the results down."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks import ground, report
from benchmarks.ground import Result, say

LEDGER = (
    "append", "importing", "tail", "eventsourcing", "reading", "why", "publish", "publications", "verify",
    "checkpoints", "partitions", "campaigns",
)  # fmt: skip
SCORING = ("counting", "learning")
NAMES = (*LEDGER, "ingest", "latency", "replay", "recovery", *SCORING)


def main(words: list[str] | None = None) -> int:
    """Run the named benchmarks, or all. With --quick nothing is written: its figures mean nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="the smallest run of each, no results files")
    asked = parser.parse_args(words)
    results: dict[str, Result] = {}
    with ground.prepared(asked.quick) as place:
        for name in asked.names or NAMES:
            say(f"{name}: begins")
            place.settle()
            results[name] = importlib.import_module(f"benchmarks.{name}").run(place)
            if not asked.quick:
                report.save({name: results[name]}, place)  # at once: the next one may be broken off
    report.show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
