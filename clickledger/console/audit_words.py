"""What `clickledger audit verify` tells: a line for each check, what was found, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from clickledger.console import output
from clickledger.ledger import audit, audit_rows

if TYPE_CHECKING:
    from clickledger.scoring.rescore import Rescored

SNAPSHOTS = "snapshots"  # the one check whose failure is no fault of the log
NAMED_ENTRY = re.compile(r"\bentry (\d+)")


def show(report: audit.Report, failures: Mapping[str, list[str]], rescored: Rescored | None, rescoring: str) -> None:
    """The report as prose; `rescored` is None where nothing was re-scored."""
    for name, lines in failures.items():
        output.say(f"{'FAILED' if lines else 'ok    '} {name}")
        for line in lines:
            output.say(f"         {line}")
        if len(lines) >= audit_rows.FAILURES_MAX:
            output.say(f"         these are the first {len(lines)}: there may be more")
    for name in unverified(report, rescoring):
        output.say(f"not verified: {name}, which needs the whole ledger")
    for note in report.notes:
        output.say(f"note   {note}")
    again = f"; {rescored.exact} of {rescored.rescored} re-scored exactly" if rescored else ""
    again += f", a sample of {rescored.total}" if rescored and rescored.rescored < rescored.total else ""
    of = f" of positions {report.lo} to {report.head}" if report.unverified else ""
    output.say(f"{report.entries} entries{of}, {report.rows} rows{again}")
    if report.overrides is not None:
        output.say(f"{report.overrides} clicks decided by a published correction of single clicks")
    if report.unverified and report.lo > 1:
        output.say(f"entry {report.lo - 1}, on which the range follows, was taken as it is")
    output.hint(next_step(report, failures))


def unverified(report: audit.Report, rescoring: str) -> list[str]:
    """The checks that a range leaves out, re-scoring among them."""
    return [*report.unverified, rescoring] if report.unverified else []


def next_step(report: audit.Report, failures: Mapping[str, list[str]]) -> str:
    """The command to go on with."""
    if any(failures.values()):
        entry = _named_entry(line for lines in failures.values() for line in lines)
        again = f"; look at one entry: clickledger audit verify --from {entry} --to {entry}" if entry else ""
        if not any(lines for name, lines in failures.items() if name != SNAPSHOTS):
            return (
                "clickledger replay plan --counters SINCE UNTIL; the log itself holds, restore nothing "
                f"(docs/incidents.md, wrong counters){again}"
            )
        return f"clickledger down, keep this report, and restore (docs/operations.md){again}"
    return "clickledger audit verify" if report.unverified else "clickledger why CLICK_ID"


def _named_entry(lines: Iterable[str]) -> str | None:
    found = (NAMED_ENTRY.search(line) for line in lines)
    return next((match[1] for match in found if match), None)
