"""`clickledger model compare`: two models on the same recent clicks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from clickledger.console import output
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.model_card import share
from clickledger.console.recovery_words import ledger
from clickledger.errors import InvalidInput, NotFound
from clickledger.ledger import aliases, database, deployments
from clickledger.ledger.aliases import Pair
from clickledger.ledger.rights import Role

PAIR = "A model by version, by version:calibration, or by name: live, stable, candidate, canary."


def register(models: typer.Typer) -> None:
    """Add this command to `clickledger model`."""
    models.command()(compare)


def compare(
    one: Annotated[str, typer.Argument(help=PAIR)],
    other: Annotated[str, typer.Argument(help="The same; without a calibration, the one in use or the newest.")],
    days: Annotated[int, typer.Option(min=1, help="Of the newest clicks.")] = 7,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the newest clicks that neither was trained on: flips, rates by slice, known customers."""
    from dataclasses import replace  # noqa: PLC0415

    from clickledger.scoring import findings, side_by_side  # noqa: PLC0415 - loads numpy

    with ledger(folder, Role.AUDITOR_READER) as conn, output.progress(f"comparing {one} and {other}"):
        pairs = [_pair(conn, text) for text in (one, other)]
        limits = replace(findings.DEFAULT_LIMITS, behaviour_days=days)
        told = side_by_side.compare(conn, pairs[0], pairs[1], limits)
    _tell(told)
    output.hint(
        f"clickledger model judge {pairs[1][0]} --calibration {pairs[1][1]}; clickledger model show {pairs[1][0]}"
    )
    if as_json:
        output.result(told)


def _pair(conn: database.Connection, text: str) -> Pair:
    """A model and its calibration as it was named. Raises InvalidInput, NotFound."""
    used = aliases.of(deployments.current(conn).routing)
    if text in used:
        if not used[text]:
            raise NotFound(f"{text}: no model is that now: clickledger model list")
        return used[text][-1]
    model, _, calibration = text.partition(":")
    if not model.isdigit() or (calibration and not calibration.isdigit()):
        raise InvalidInput(
            f"model: expected a version, version:calibration or {', '.join(aliases.NAMES)}, got {text!r}"
        )
    if calibration:
        return int(model), int(calibration)
    in_use = [pair for name in aliases.NAMES for pair in used[name] if pair[0] == int(model)]
    return in_use[0] if in_use else (int(model), deployments.newest_calibration(conn, int(model)))


def _tell(told: Mapping[str, Any]) -> None:
    clicks, known = told["clicks"], told["known_customers"]
    one, other = (f"model {told[side]['model']}:{told[side]['calibration']}" for side in ("one", "other"))
    lines = [
        (name, own["clicks"], own["to_invalid"], own["to_valid"], share(own["agreement"]),
         *(f"{share(own[rate][0])} / {share(own[rate][1])}" for rate in ("ivr", "fpr", "coverage")))
        for name, own in told["slices"].items()
    ]  # fmt: skip
    columns = ("slice", "clicks", "to invalid", "to valid", "agreement", "IVR", "FPR", "coverage")
    output.rows(f"{one} / {other} on {clicks['rows']:,} clicks, {clicks['purchased']:,} with outcomes", columns, lines)
    output.say(
        f"known customers: {known['accounts_known']:,} with {known['clicks_known']:,} clicks; "
        f"{other} alone invalidates "
        f"{known['clicks_to_invalid']:,} of {known['accounts_to_invalid']:,} accounts, {one} alone "
        f"{known['clicks_to_valid']:,} of {known['accounts_to_valid']:,}"
    )
