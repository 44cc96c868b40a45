"""`clickledger why`, `clickledger audit verify` and `clickledger totals`: what auditors and billing ask."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from clickledger.console import output, services
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.ledger import audit, billing, database, provenance
from clickledger.ledger.rights import Role


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(why)
    app.command()(totals)
    auditing = typer.Typer(no_args_is_help=True, help="Proof that history is as it was written.")
    auditing.command()(verify)
    app.add_typer(auditing, name="audit")


def why(
    click: Annotated[str, typer.Argument(help="A click id, or the sender's own id of it.")],
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why one click was or was not billed: its features, every decision in order, what billing was told."""
    from clickledger.console import provenance_text  # noqa: PLC0415 - loads torch, which other commands need not pay

    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger why", role=Role.AUDITOR_READER) as conn:
        story = provenance.why(conn, provenance.find(conn, click))
        features = provenance_text.features_of(story["click"])
        rescored = provenance_text.rescored(conn, story)
    provenance_text.show(story, features, rescored)
    output.hint("clickledger audit verify")
    if as_json:
        output.result(_plain({**story, "features": features, "rescored": rescored}))


def verify(
    rescore_rows_max: Annotated[int, typer.Option(min=0, help="Decisions to re-score at most.")] = 50_000,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify chain, digests, rows, authority, money and caches, and re-score a sample. Exit code 1 when any fails."""
    from clickledger.scoring import rescore  # noqa: PLC0415 - loads torch, which other commands need not pay

    settings = services.attach(load(folder))
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger audit", role=Role.AUDITOR_READER) as conn:
        with output.progress("verifying entries") as bar:
            report = audit.verify(conn, _advance(bar))
        with output.progress("re-scoring decisions"):
            rescored = rescore.sample(conn, rescore_rows_max)
    failures = report.failures | {"re-scored decisions": rescored.failures}
    for name, lines in failures.items():
        output.say(f"{'ok    ' if not lines else 'FAILED'} {name}")
        for line in lines:
            output.say(f"         {line}")
    output.say(
        f"{report.entries} entries, {report.rows} rows; {rescored.exact} of {rescored.rescored} re-scored exactly"
    )
    ok = report.ok and rescored.ok
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


def _advance(bar: output.Steps) -> audit.Progress:
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        bar.expect(total)
        bar.advance(done - seen)
        seen = done

    return advance


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
