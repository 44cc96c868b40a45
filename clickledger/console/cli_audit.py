"""`clickledger why`, `clickledger audit verify` and `clickledger totals`: what auditors and billing ask."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger import errors
from clickledger.console import audit_words, output, proofs, services
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import audit, audit_work, billing, checkpoints, database, provenance, reading, row_proof
from clickledger.ledger.rights import Role
from clickledger.scoring import click_identity

if TYPE_CHECKING:
    from clickledger.scoring.recount import Recounted
    from clickledger.scoring.rescore import Rescored

DIGITS_MAX = 20  # of Unix nanoseconds, which are told what is wrong with them
RESCORED = "re-scored decisions"


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
    """Why one click was or was not billed: its features, every decision in order, what billing was told.

    Exit code 1 when a row is not the one that was written, or a decision that was re-scored not the recorded one.
    """
    named = _named(click, source, at)
    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger why", role=Role.AUDITOR_READER) as conn:
        story = _story(conn, named or provenance.find(conn, click), f"{click!r} of {source} at {at}" if named else "")
        from clickledger.console import provenance_text  # noqa: PLC0415 - loads numpy: a second a wrong id need not pay

        features = provenance_text.features_of(story["click"])
        rescored = provenance_text.rescored(conn, story)
        warm = provenance_text.warmth_of(conn, story["click"])
        faults = row_proof.faults(conn, story["click"]["click_id"])
    provenance_text.show(story, features, rescored, warm)
    provenance_text.show_rows(story, faults)
    output.hint("clickledger audit verify")
    if as_json:
        told = {"features": features, "cold": warm.cold, "warm_from": warm.from_ms, "rescored": rescored}
        output.result(_plain({**story, **told, "row_faults": faults}))
    if faults or any(check["exact"] is False for check in rescored):
        raise typer.Exit(1)


def _story(conn: database.Connection, click_id: uuid.UUID, asked: str) -> dict[str, Any]:
    """All that is known of a click. Raises NotFound, in the words of whoever asked for it by more than its id."""
    try:
        return provenance.why(conn, click_id)
    except errors.NotFound as error:
        if not asked:
            raise
        raise errors.NotFound(f"{error}, which is what {asked} names: expected these as they were sent") from error


def _named(external_id: str, source: str | None, at: str | None) -> uuid.UUID | None:
    """The click that a sender's id names together with its source and event time; None without them."""
    if source is None and at is None:
        return None
    if source is None or at is None:
        raise errors.InvalidInput("expected --source and --at together, got one of them")
    return uuid.UUID(bytes=click_identity.click_id_of(source, external_id, _milliseconds(at)))


def _milliseconds(at: str) -> int:
    """Unix milliseconds of an event time as typed."""
    if at.isdecimal() and len(at) <= DIGITS_MAX:
        return _of_an_id(int(at), at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise errors.InvalidInput(f"--at: expected ISO 8601 or Unix milliseconds, got {at!r}") from error
    if moment.tzinfo is None:
        raise errors.InvalidInput(f"--at: expected a time with its zone, as in 2026-03-01T12:00:00Z, got {at!r}")
    return _of_an_id((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), at)


def _of_an_id(unix_ms: int, at: str) -> int:
    if not 0 <= unix_ms < 1 << click_identity.TIME_BITS:
        raise errors.InvalidInput(f"--at: expected a time since 1970 in milliseconds, not micros or nanos, got {at!r}")
    return unix_ms


def verify(
    first: Annotated[int | None, typer.Option("--from", min=1, help="The first entry; default: of the log.")] = None,
    last: Annotated[int | None, typer.Option("--to", min=1, help="The last entry; default: of the log.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: as many as cores.")] = None,
    rescore_rows_max: Annotated[int, typer.Option(min=0, help="Decisions to re-score at most.")] = 50_000,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint held outside: must be consistent with the log.")
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Recompute the snapshots of a day (UTC) from its clicks; 'all': takes long."),
    ] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify chain, digests, rows, authority, money and caches, and re-score a sample. Exit code 1 when any fails.

    With --from or --to only the entries and rows of that range, which leaves out what holds of the ledger as a whole.
    """
    if snapshots is not None:
        _day_of(snapshots)  # before the work, which may take minutes
    note = None if checkpoint is None else proofs.read_checkpoint(checkpoint)  # before the work, which may take minutes
    settings = services.attach(load(folder))
    url = str(settings.database_url)
    role = Role.AUDITOR_READER
    with database.connect(url, application_name="clickledger audit", role=role) as conn:
        wanted = jobs or audit_work.jobs_for(audit.units(conn, first, last))
        with output.progress("verifying") as bar, audit_work.chosen(conn, url, wanted, role) as workers:
            report = audit.verify(conn, advance(bar), lo=first, hi=last, workers=workers)
        rescored = None if report.unverified else _rescored(conn, rescore_rows_max)
        again = None if snapshots is None else _recounted(conn, snapshots)
        held = {} if note is None else {"held checkpoint": checkpoints.check_held(conn, note)}
    failures = report.failures | held | ({RESCORED: rescored.failures} if rescored else {})
    failures |= {audit_words.SNAPSHOTS: again.failures} if again else {}
    report.notes += again.notes if again else []
    audit_words.show(report, failures, rescored, RESCORED)
    if again is not None:
        output.say(f"{again.exact} of {again.recounted} snapshots recomputed from the log are the recorded ones")
    ok = report.ok and all(part is None or part.ok for part in (rescored, again)) and not any(held.values())
    if as_json:
        checks = {name: not lines for name, lines in failures.items()}
        counts = {"entries": report.entries, "rows": report.rows, "overrides": report.overrides}
        counts |= {"head": report.head, "from": report.lo}
        more = {"rescored": rescored.rescored, "rescored_exact": rescored.exact} if rescored else {}
        more |= {"rescored_of": rescored.total} if rescored else {}
        more |= {"recounted": again.recounted, "recounted_exact": again.exact} if again else {}
        left = {"unverified": audit_words.unverified(report, RESCORED), "notes": report.notes, "jobs": wanted}
        output.result({"ok": ok, "checks": checks, "failures": failures, **counts, **more, **left})
    if not ok:
        raise typer.Exit(1)


def _rescored(conn: database.Connection, rows_max: int) -> Rescored:
    from clickledger.scoring import rescore  # noqa: PLC0415 - loads numpy, which other commands need not pay

    with output.progress("re-scoring decisions"):
        return rescore.sample(conn, rows_max)


def _day_of(text: str) -> date | None:
    from clickledger.scoring import recount  # noqa: PLC0415 - loads numpy

    return recount.day_of(text)


def _recounted(conn: database.Connection, asked: str) -> Recounted:
    from clickledger.scoring import recount  # noqa: PLC0415 - loads numpy

    with output.progress("recomputing snapshots") as bar:
        return recount.verify(conn, _day_of(asked), advance(bar))


def totals(
    as_of: Annotated[int | None, typer.Option(min=1, help="As of this log position; default now.")] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Authoritative clicks by verdict and billed money, now or as any earlier reader saw them."""
    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger totals", role=Role.BILLING_READER) as conn:
        position = reading.position_of(conn, as_of)  # of one moment, however the log grows meanwhile
        found = billing.totals(conn, position)
        told = billing.feed_totals(conn, position)
    rows = [(t.currency, t.clicks, t.valid, t.invalid, t.undecided, f"{t.billed_micros / 1e6:,.6f}") for t in found]
    output.rows(
        f"authoritative decisions as of position {position}",
        ("currency", "clicks", "valid", "invalid", "undecided", "billed"),
        rows,
    )
    output.hint("clickledger audit verify")
    if as_json:
        named = {
            t.currency: {
                "clicks": t.clicks,
                "valid": t.valid,
                "invalid": t.invalid,
                "undecided": t.undecided,
                "billed_micros": t.billed_micros,
                "feed_posted_micros": told.get(t.currency, (0, 0))[0],
                "feed_written_off_micros": told.get(t.currency, (0, 0))[1],
            }
            for t in found
        }
        output.result({"as_of": position, "totals": named})


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
