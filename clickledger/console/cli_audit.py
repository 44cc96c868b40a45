"""`clickledger why`, `clickledger audit verify` and `clickledger totals`: what auditors and billing ask."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger import errors
from clickledger.console import output, proofs, services
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import audit, billing, database, provenance
from clickledger.ledger.rights import Role
from clickledger.scoring import click_identity


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(why)
    app.command()(totals)
    auditing = typer.Typer(no_args_is_help=True, help="Proof that history is as it was written.")
    auditing.command()(verify)
    app.add_typer(auditing, name="audit")


def group(app: typer.Typer) -> typer.Typer:
    """The `audit` group of the program, for the modules that add commands to it."""
    return next(
        found.typer_instance for found in app.registered_groups if found.name == "audit" and found.typer_instance
    )


def why(
    click: Annotated[str, typer.Argument(help="A click id, or the sender's own id of it.")],
    source: Annotated[str | None, typer.Option(help="Who sent it; with --at, finds a sender's id at once.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Its event time: ISO 8601 with its zone, or Unix milliseconds.")
    ] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why one click was or was not billed: its features, every decision in order, what billing was told."""
    from clickledger.console import provenance_text  # noqa: PLC0415 - loads torch, which other commands need not pay

    named = _named(click, source, at)
    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger why", role=Role.AUDITOR_READER) as conn:
        story = provenance.why(conn, named or provenance.find(conn, click))
        features = provenance_text.features_of(story["click"])
        rescored = provenance_text.rescored(conn, story)
    provenance_text.show(story, features, rescored)
    output.hint("clickledger audit verify")
    if as_json:
        output.result(_plain({**story, "features": features, "rescored": rescored}))


def _named(external_id: str, source: str | None, at: str | None) -> uuid.UUID | None:
    """The click that a sender's id names together with its source and event time; None without them."""
    if source is None and at is None:
        return None
    if source is None or at is None:
        raise errors.InvalidInput("expected --source and --at together, got one of them")
    return uuid.UUID(bytes=click_identity.click_id_of(source, external_id, _milliseconds(at)))


def _milliseconds(at: str) -> int:
    """Unix milliseconds of an event time as typed."""
    if at.isdecimal():
        return int(at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise errors.InvalidInput(f"--at: expected ISO 8601 or Unix milliseconds, got {at!r}") from error
    if moment.tzinfo is None:
        raise errors.InvalidInput(f"--at: expected a time with its zone, as in 2026-03-01T12:00:00Z, got {at!r}")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def verify(
    rescore_rows_max: Annotated[int, typer.Option(min=0, help="Decisions to re-score at most.")] = 50_000,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint held outside: must be consistent with the log.")
    ] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify chain, digests, rows, authority, money and caches, and re-score a sample. Exit code 1 when any fails."""
    from clickledger.scoring import rescore  # noqa: PLC0415 - loads torch, which other commands need not pay

    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger audit", role=Role.AUDITOR_READER) as conn:
        with output.progress("verifying entries") as bar:
            report = audit.verify(conn, advance(bar))
        with output.progress("re-scoring decisions"):
            rescored = rescore.sample(conn, rescore_rows_max)
        held = {} if checkpoint is None else {"held checkpoint": proofs.check_held(conn, checkpoint)}
    failures = report.failures | held | {"re-scored decisions": rescored.failures}
    for name, lines in failures.items():
        output.say(f"{'ok    ' if not lines else 'FAILED'} {name}")
        for line in lines:
            output.say(f"         {line}")
    output.say(
        f"{report.entries} entries, {report.rows} rows; {rescored.exact} of {rescored.rescored} re-scored exactly"
    )
    ok = report.ok and rescored.ok and not any(held.values())
    output.hint("clickledger why CLICK_ID" if ok else "stop writers and restore; keep this report")
    if as_json:
        checks = {name: not lines for name, lines in failures.items()}
        counts = {"entries": report.entries, "rows": report.rows, "head": report.head}
        again = {"rescored": rescored.rescored, "rescored_exact": rescored.exact}
        output.result({"ok": ok, "checks": checks, "failures": failures, **counts, **again})
    if not ok:
        raise typer.Exit(1)


def totals(
    as_of: Annotated[int | None, typer.Option(min=1, help="As of this log position; default now.")] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Authoritative clicks by verdict and billed money, now or as any earlier reader saw them."""
    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger totals", role=Role.BILLING_READER) as conn:
        found = billing.totals(conn, as_of)
        posted, written_off = billing.feed_total(conn, as_of)
    rows = [(t.currency, t.clicks, t.valid, t.invalid, t.undecided, f"{t.billed_micros / 1e6:,.6f}") for t in found]
    output.rows("authoritative decisions", ("currency", "clicks", "valid", "invalid", "undecided", "billed"), rows)
    output.hint("clickledger audit verify")
    if as_json:
        named = {
            t.currency: {
                "clicks": t.clicks,
                "valid": t.valid,
                "invalid": t.invalid,
                "undecided": t.undecided,
                "billed_micros": t.billed_micros,
            }
            for t in found
        }
        output.result({"totals": named, "feed_posted_micros": posted, "feed_written_off_micros": written_off})


def advance(bar: output.Steps) -> audit.Progress:
    """What to call with (done, total) so that a bar shows it."""
    seen = 0

    def moved(done: int, total: int) -> None:
        nonlocal seen
        bar.expect(total)
        bar.advance(done - seen)
        seen = done

    return moved


def _plain(value: Any) -> Any:
    """JSON values only: bytes as hex, NaN as null, times and ids as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, float) and math.isnan(value):
        return None
    return json.loads(json.dumps(value, default=str))
