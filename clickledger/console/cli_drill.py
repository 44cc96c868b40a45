"""`clickledger drill`: put a fault into a ledger of its own, and see how long it takes to be corrected."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import output
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.errors import InvalidInput

if TYPE_CHECKING:
    from clickledger.settings import Settings

LATE, COUNTERS, LABELS = "late-purchases", "counter-loss", "missing-labels"
DRILLS = ("bad-model", "threshold-typo", LATE, COUNTERS, LABELS)
SECONDS = {
    "noticed_after_seconds": "noticed",
    "rolled_back_after_seconds": "rolled back, since then,",
    "published_after_seconds": "corrected decisions in force",
}
ZERO = {
    "deployed_while_refused": "nothing was deployed while guards refused the labels",
    "appended_by_revoked_after": "nothing of the bad model was appended after the rollback",
    "doubled_billing": "no click is billed twice",
    "still_withheld": "no click that led to a purchase is withheld",
    "differs_from_stable": "every decision of the range is what the stable model gives, to the bit",
    "differs_from_sound": "every decision of the ledger is what counters without the fault give, to the bit",
}


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(drill)


def drill(
    fault: Annotated[str, typer.Argument(help=f"One of {', '.join(DRILLS)}.")],
    clicks: Annotated[int, typer.Option("--clicks", help="About how many the bad model is to decide.")] = 20_000,
    rate: Annotated[float, typer.Option("--rate", help="Clicks a second while it can be noticed.")] = 200.0,
    history: Annotated[
        int | None, typer.Option("--history", help="Clicks to learn from; default 620 times the rate.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulated traffic.")] = 1,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave its servers and workers up.")] = False,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Inject a fault on a scratch ledger, wait until it is corrected, and account for it in seconds, clicks and money.

    Exit code 1 when anything that must be 0 is not.
    """
    if fault not in DRILLS:
        raise InvalidInput(f"drill: expected one of {', '.join(DRILLS)}, got {fault!r}")
    from clickledger.console import drill_scene, lifecycle, services  # noqa: PLC0415 - SQLAlchemy, for this command only

    settings = _own_settings(load(folder))
    parts = drill_scene.WEEKS if fault == LABELS else drill_scene.DAYS
    cut = drill_scene.simulated(settings, clicks, rate, history, seed, parts)
    # torch, which a drill that cannot be need not load
    from clickledger.console import drill as drill_  # noqa: PLC0415
    from clickledger.console import drill_counters, drill_late  # noqa: PLC0415

    output.say(f"clickledger drill {fault}: {cut.scene.title}")
    output.say(f"its ledger: {settings.home}")
    try:
        lifecycle.up(settings)
        attached = services.attach(settings)
        others = {LATE: drill_late.play, COUNTERS: drill_counters.play}
        play = others.get(fault) or partial(drill_.play, fault)
        facts = play(cut, attached, rate)
    finally:
        if not keep_running:
            lifecycle.down(settings)
    _tell(facts)
    output.name_home(settings.home)
    shown = f"incident show {facts['incident_id']}" if "incident_id" in facts else "totals"
    output.hint(f"clickledger up && clickledger {shown}")
    if as_json:
        output.result(facts)
    if any(facts.get(name) for name in ZERO):
        raise typer.Exit(1)


def _own_settings(given: Settings) -> Settings:
    """A ledger of its own, always local: a drill must never touch one that is in use."""
    own = {
        "home": given.home / f"drill-{time.strftime('%Y%m%d-%H%M%S')}",
        "database_url": None,
        "redis_url": None,
        "http_port": 0,
        "rollback_policy": "auto",
        "auto_replay": True,
        "auto_publish_gross_micros": 0,
        "known_customer_purchase_age_hours": 0.0,  # the simulated days are few
        "propose_interval_seconds": 2.0,  # corrections of late purchases, else every hour
    }
    return given.model_copy(update=own)


def _tell(facts: dict[str, Any]) -> None:
    output.say("")
    for name, what in SECONDS.items():
        if name in facts:
            output.say(f"{what} after {facts[name]:.2f} s")
    output.say(f"{facts['clicks']:,} clicks decided again, {facts['flips']:,} changed")
    for name, what in (("wrongly_withheld", "people withheld"), ("wrongly_billed", "robots billed")):
        if f"{name}_before" not in facts:
            continue
        before, after = (f"{facts[f'{name}_{side}']:,}" for side in ("before", "after"))
        money = " -> ".join(f"{facts[f'{name}_micros_{side}'] / 1e6:,.2f}" for side in ("before", "after"))
        output.say(f"clicks of {what}: {before} -> {after}, in money {money}")
    for name, promise in ZERO.items():
        if name in facts:
            output.say(f"{'ok    ' if not facts[name] else 'FAILED'} {promise}")
