"""`clickledger ingest FILE`: a file of clicks through the stream into the ledger, every row accounted for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from clickledger.console import cli_services, output

if TYPE_CHECKING:
    from clickledger.scoring.click import Click
    from clickledger.scoring.intake import Intake
    from clickledger.scoring.intake_fields import Rejection
    from clickledger.scoring.networks import AddressFacts
    from clickledger.scoring.stream import Answer
    from clickledger.settings import Settings

SHOWN_MAX = 20  # rejected rows that a person wants to read; --json prints all


class FileFormat(Enum):
    """What the file holds."""

    ndjson = "ndjson"
    talkingdata = "talkingdata"


@dataclass
class Tally:
    """What became of the clicks of a file: each is one of accepted, duplicate, conflict, refused."""

    accepted: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)  # of the accepted
    duplicates: int = 0
    conflicts: list[Click] = field(default_factory=list)
    refused: list[tuple[Click, str]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, click: Click, answer: Answer) -> None:
        """Count one answer."""
        match answer.outcome:
            case "new":
                self.accepted += 1
                self.verdicts[answer.verdict] += 1
                self.latencies_ms.append(answer.latency_ms)
            case "repeat":
                self.duplicates += 1
            case "conflict":
                self.conflicts.append(click)
            case _:
                self.refused.append((click, answer.reason))


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(ingest)


def ingest(
    file: Annotated[Path, typer.Argument(help="A file of clicks.")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="What the file holds.")] = FileFormat.ndjson,
    cpc_micros: Annotated[
        int | None, typer.Option("--cpc-micros", help="Price of every click, in millionths; for talkingdata.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Where rows come from that do not say so.")] = None,
    outcomes_file: Annotated[
        Path | None, typer.Option("--outcomes", help="NDJSON of what the clicks of the file led to.")
    ] = None,
    folder: cli_services.HomeOption = None,
    as_json: cli_services.JsonOption = False,
) -> None:
    """Decide every click of a file. The same file again changes nothing.

    Bad rows are reported by line and field and stop nothing. Exit code 0 when no row was rejected or in conflict.
    """
    settings = cli_services.load(folder)
    started = time.monotonic()
    known = _facts_if_up(settings)
    read = partial(_read, file, file_format, settings, cpc_micros, source)
    intake = read(known)
    report_rejected(file, intake.rejected, as_json)
    if outcomes_file is not None:
        _read_outcomes(outcomes_file, intake, settings, source, as_json)
    tally, outcomes = decide_clicks(settings, intake, known, read)
    _report_conflicts(tally, as_json)
    fields = _summary(intake, tally, outcomes, time.monotonic() - started)
    _say(file, fields)
    if as_json:
        output.result({"file": file, **fields})
    if fields["rejected"] or fields["conflicts"]:
        raise typer.Exit(1)


def _facts_if_up(settings: Settings) -> AddressFacts:
    """The table of facts in force, where servers are up already: what they say once they are is what counts."""
    from clickledger.console import services  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.errors import ClickledgerError  # noqa: PLC0415 - as above
    from clickledger.scoring.networks import NO_FACTS  # noqa: PLC0415 - as above

    try:
        return _facts_in_force(services.attach(settings), NO_FACTS)
    except ClickledgerError:
        return NO_FACTS


def _facts_in_force(attached: Settings, held: AddressFacts) -> AddressFacts:
    from clickledger.ledger import database, rights  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.scoring import facts  # noqa: PLC0415 - as above

    with database.connect(str(attached.database_url), role=rights.Role.INGESTER) as conn:
        return facts.in_force(conn, held)


def _read(
    file: Path,
    file_format: FileFormat,
    settings: Settings,
    cpc_micros: int | None,
    source: str | None,
    facts: AddressFacts,
) -> Intake:
    from clickledger.console import intake_settings  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.scoring import intake  # noqa: PLC0415 - imported only by the command that needs it

    size = file.stat().st_size if file.is_file() else None
    with output.progress(f"reading {file.name} (bytes)", size) as steps:
        done = 0

        def progress(_lines: int, bytes_read: int) -> None:
            nonlocal done
            steps.advance(bytes_read - done)
            done = bytes_read

        return intake.read_file(
            file,
            file_format.value,
            intake_settings.pseudonyms(settings),
            source=source,
            cpc_micros=cpc_micros,
            bounds=intake_settings.bounds(settings),
            progress=progress,
            facts=facts,
        )


def _read_outcomes(file: Path, intake: Intake, settings: Settings, source: str | None, as_json: bool) -> None:
    """Add the outcomes of a file, and its rejected lines, which are reported, to what was read."""
    from clickledger.console import intake_settings  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.scoring import ndjson, outcome_lines  # noqa: PLC0415 - imported only by the command that needs it

    bounds = intake_settings.bounds(settings)
    read = outcome_lines.read_file(file, intake.clicks, source=source or ndjson.DEFAULT_SOURCE, bounds=bounds)
    report_rejected(file, read.rejected, as_json)
    intake.outcomes.extend(read.outcomes)
    intake.rejected.extend(read.rejected)
    if read.unknown:
        output.say(f"{file.name}: {read.unknown} outcomes of clicks that the file of clicks does not hold")


def report_rejected(file: Path, rejected: list[Rejection], as_json: bool | None = None) -> None:
    """Name the rejected rows of a file: all as JSON, or the first for people to read; None where --json tells none."""
    if as_json:
        for rejection in rejected:
            output.result({"file": file, **asdict(rejection)})
        return
    for rejection in rejected[:SHOWN_MAX]:
        output.error(f"{file}: {rejection}")
    if (more := len(rejected) - SHOWN_MAX) > 0:
        output.say(f"{file}: ... and {more} more rejected rows" + (" (all with --json)" if as_json is False else ""))


def decide_clicks(
    settings: Settings, intake: Intake, known: AddressFacts, read: Callable[[AddressFacts], Intake]
) -> tuple[Tally, Any]:
    """Have the clicks decided and append the outcomes; starts servers and a worker where none are up.

    Clicks that were read with another table of facts than is in force are read again.
    """
    from clickledger.console import temporary  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.ledger import database, outcomes, rights  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.scoring import exchange  # noqa: PLC0415 - imported only by the command that needs it

    tally = Tally()
    if not intake.clicks:
        return tally, None
    with temporary.scoring(settings) as attached:
        facts = _facts_in_force(attached, known)
        clicks = intake.clicks if facts.version == known.version else read(facts).clicks
        with output.progress("deciding (clicks)", len(clicks)) as steps:
            for index, answer in exchange.decide_all(str(attached.redis_url), clicks):
                tally.add(clicks[index], answer)
                steps.advance()
        if not intake.outcomes:
            return tally, None
        with database.connect(str(attached.database_url), role=rights.Role.INGESTER) as conn:
            return tally, outcomes.append(conn, intake.outcomes, actor="ingest")


def _report_conflicts(tally: Tally, as_json: bool) -> None:
    lines = [(click, "first version kept, this one has other content") for click in tally.conflicts] + tally.refused
    for click, why in lines if as_json else lines[:SHOWN_MAX]:
        if as_json:
            name = {"click_id": UUID(bytes=click.click_id), "source": click.source, "external_id": click.external_id}
            output.result({**name, "problem": why})
        else:
            output.error(f"click {click.external_id} of {click.source}: {why}")
    if not as_json and (more := len(lines) - SHOWN_MAX) > 0:
        output.say(f"... and {more} more (all with --json)")


def _summary(intake: Intake, tally: Tally, outcomes: Any, seconds: float) -> dict[str, Any]:
    return {
        "accepted": tally.accepted,
        "duplicates": tally.duplicates,
        "conflicts": len(tally.conflicts),
        "rejected": len(intake.rejected) + len(tally.refused),
        "undecided": tally.verdicts["undecided"],
        "valid": tally.verdicts["valid"],
        "invalid": tally.verdicts["invalid"],
        "outcomes": outcomes.new if outcomes else 0,
        "unknown_fields": dict(intake.unknown_fields),
        "decision_latency_ms": quantiles(tally.latencies_ms),
        "seconds": round(seconds, 3),
    }


def quantiles(latencies_ms: list[float]) -> dict[str, float] | None:
    """p50, p99 and p999 (nearest rank); None of nothing."""
    if not latencies_ms:
        return None
    ordered = sorted(latencies_ms)
    ranks = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in ranks.items()}


def _say(file: Path, fields: dict[str, Any]) -> None:
    named = ("accepted", "duplicates", "conflicts", "rejected", "undecided")
    output.say(f"{file.name}: " + ", ".join(f"{fields[name]} {name}" for name in named))
    if unknown := fields["unknown_fields"]:
        output.say("ignored fields: " + ", ".join(f"{name} ({rows} rows)" for name, rows in unknown.items()))
    output.hint("clickledger totals")
