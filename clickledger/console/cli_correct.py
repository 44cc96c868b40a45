"""`clickledger correct FILE`: state what a few clicks are to be decided as, and see what publishing that would change.

Nothing in force changes: the run is planned, staged and compared, and `clickledger replay publish` puts it in force. A
file with a line that cannot be used plans nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from clickledger import errors
from clickledger.console import output
from clickledger.console import recovery_words as words
from clickledger.console.acting import ActorOption, person
from clickledger.console.cli_ingest import report_rejected
from clickledger.console.cli_recovery import ReasonOption
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.ledger import database, sparse
from clickledger.recovery import progress, publishing
from clickledger.scoring import corrections
from clickledger.scoring.corrections import Stated
from clickledger.scoring.intake_fields import Rejection, shown

SELECT_KNOWN = """
    SELECT click_id FROM decisions
    WHERE click_id = ANY (%(ids)s) AND click_id BETWEEN %(smallest)s AND %(largest)s"""
# There is no index on it: one pass over the clicks for all of them.
SELECT_BY_EXTERNAL_ID = "SELECT external_id, click_id FROM clicks WHERE external_id = ANY (%s)"


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(correct)


def correct(
    file: Annotated[Path, typer.Argument(help="NDJSON: click_id (or the sender's own id), verdict, reason.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """State what a few clicks are to be decided as; shows flips and money, changes nothing before it is published.

    Bad lines are reported by line and field, and nothing is planned then: exit code 2.
    """
    lines = list(corrections.read_file(file))
    stated = [line for line in lines if isinstance(line, Stated)]
    rejected = [line for line in lines if isinstance(line, Rejection)]
    with words.ledger(folder) as conn:
        with output.progress("looking the clicks up"):
            clicks = _resolve(conn, stated)
        rejected += _unusable(stated, clicks)
        _refuse(file, rejected, len(lines), as_json)
        told = [sparse.Correction(clicks[s.click][0].bytes, s.verdict, s.reason) for s in stated]
        planned = sparse.plan(conn, told, actor=person(actor), reason=reason)
        with output.progress(f"comparing run {planned.run_id} with what is in force"):
            compared = publishing.compare(conn, planned.run_id, person(actor))
        run = progress.of_run(conn, planned.run_id)
    words.show_comparison(compared)
    output.say(f"run {run.run_id} corrects {run.clicks} clicks; nothing in force has changed yet")
    output.hint(words.after_comparison(run, compared))
    if as_json:
        output.result(words.comparison_fields(compared))


def _resolve(conn: database.Connection, stated: Iterable[Stated]) -> dict[str, list[uuid.UUID]]:
    """The clicks that each text names: none, one, or several with the same sender's id."""
    found: dict[str, list[uuid.UUID]] = {line.click: [] for line in stated}
    by_id = {text: click_id for text in found if (click_id := _as_id(text)) is not None}
    if by_id:
        bounds = {"smallest": min(by_id.values()), "largest": max(by_id.values())}
        known = {row[0] for row in conn.execute(SELECT_KNOWN, {"ids": list(by_id.values()), **bounds})}
        found |= {text: [click_id] for text, click_id in by_id.items() if click_id in known}
    if others := [text for text, clicks in found.items() if not clicks]:  # a sender's own id may look like one of ours
        for external_id, click_id in conn.execute(SELECT_BY_EXTERNAL_ID, (others,)):
            found[external_id].append(click_id)
    return found


def _as_id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _unusable(stated: Iterable[Stated], clicks: Mapping[str, list[uuid.UUID]]) -> list[Rejection]:
    """Lines whose click is not known, not the only one of its name, or named by an earlier line."""
    rejected = []
    first: dict[uuid.UUID, int] = {}
    for line in stated:
        found = clicks[line.click]
        if len(found) != 1:
            got = f"{shown(line.click)}, which names {'several' if found else 'none'}"
            rejected.append(Rejection(line.line, "click_id", "a click id or the sender's id of one click", got))
        elif (earlier := first.setdefault(found[0], line.line)) != line.line:
            expected, got = "a click once", f"{shown(line.click)}, which line {earlier} names too"
            rejected.append(Rejection(line.line, "click_id", expected, got))
    return rejected


def _refuse(file: Path, rejected: list[Rejection], lines: int, as_json: bool) -> None:
    """Name every line that cannot be used, and stop when there is one."""
    rejected.sort(key=lambda rejection: rejection.line)
    report_rejected(file, rejected, as_json)
    if rejected:
        raise errors.InvalidInput(
            f"{file}: expected a correction on every line, got {len(rejected)} of {lines} that are none; none planned"
        )
