"""`clickledger demo`: the whole story on a ledger of its own, in a few minutes, with real processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import output
from clickledger.console.cli_services import HomeOption, JsonOption, load

if TYPE_CHECKING:
    from clickledger.console.demo_scene import Scene
    from clickledger.settings import Settings

CPC_MICROS = 50_000


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(demo)


def demo(
    clicks: Annotated[Path | None, typer.Option(help="Real clicks instead of simulated ones.")] = None,
    file_format: Annotated[str, typer.Option("--format", help="What that file holds: talkingdata.")] = "talkingdata",
    cpc_micros: Annotated[int, typer.Option(min=1, help="Price of each click of the file.")] = CPC_MICROS,
    count: Annotated[int, typer.Option(min=20_000, help="Simulated clicks.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the simulated traffic.")] = 1,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave its servers and workers up.")] = False,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """From a click to a corrected bill: a bad model slips through, is noticed, rolled back, replayed, corrected.

    Each demo has a new ledger under the home folder. Exit code 1 when anything it promises does not hold.
    """
    from clickledger.console import lifecycle  # noqa: PLC0415 - for this command only

    settings = _own_settings(load(folder))
    scene = _scene(settings, clicks, file_format, cpc_micros, count, seed)
    output.say(f"clickledger demo: {scene.title}")
    output.say(f"its ledger: {settings.home}")
    try:
        facts = _play(scene, settings)
    finally:
        if not keep_running:
            lifecycle.down(settings)
    promised = _promises(facts)
    _summary(facts, promised, settings)
    if as_json:
        output.result(facts)
    if not all(promised.values()):
        raise typer.Exit(1)


def _own_settings(given: Settings) -> Settings:
    """A ledger of its own, always local: a demo must never write into one that is in use."""
    own = {
        "home": given.home / f"demo-{time.strftime('%Y%m%d-%H%M%S')}",
        "database_url": None,
        "redis_url": None,
        "http_port": 0,
        "detect_interval_seconds": 4.0,
        "rollback_policy": "auto",
        "known_customer_purchase_age_hours": 0.0,  # the simulated days are few
        "daily_training_at": None,
    }
    return given.model_copy(update=own)


def _scene(settings: Settings, clicks: Path | None, file_format: str, cpc_micros: int, count: int, seed: int) -> Scene:
    from clickledger.console import demo_scene  # noqa: PLC0415 - imported only by the command that needs it

    if clicks is not None:
        return demo_scene.from_file(settings, clicks, file_format, cpc_micros)
    return demo_scene.simulated(settings, count, seed)


def _play(scene: Scene, settings: Settings) -> dict[str, Any]:
    from clickledger.console import demo, lifecycle, services  # noqa: PLC0415 - imported only by the command that needs it

    lifecycle.up(settings)
    return demo.play(scene, services.attach(settings))


def _promises(facts: dict[str, Any]) -> dict[str, bool]:
    money, truth = facts["money_micros"], facts.get("truth")
    promised = {
        "every click has exactly one authoritative decision": facts["exactly_one_ok"]
        and facts["clicks"] == facts["authoritative_decisions"],
        "nothing of the bad model was appended after the rollback": facts["rollback"][
            "appended_by_rolled_back_model_after"
        ]
        == 0,
        "money is conserved": facts["conservation_ok"]
        and money["billed_before"] + money["adjustments"] == money["billed_after"],
        "the chain and every row verify": facts["chain_ok"] and facts["verified_ok"],
        "every re-scored decision is the same to the bit": facts["rescored"] == facts["rescored_exact"],
    }
    if truth is not None:
        fifth = truth["wrongly_withheld_after"] * 5 <= truth["wrongly_withheld_before"]
        promised["clicks of people wrongly withheld: at most a fifth is left"] = fifth
    return promised


def _summary(facts: dict[str, Any], promised: dict[str, bool], settings: Settings) -> None:
    anomaly, rollback, replay = facts["anomaly"], facts["rollback"], facts["replay"]
    money, latency = facts["money_micros"], facts["decision_latency_ms"]
    output.say("")
    output.say(f"in {facts['seconds']:.0f} seconds")
    output.say(
        f"  {facts['clicks']:,} clicks decided, {facts['undecided']:,} undecided, {facts['duplicates']:,} duplicates"
    )
    if latency:
        output.say(
            f"  live decisions in {latency['p50']:.1f} ms (p50), {latency['p99']:.1f} ms (p99), from stream to commit"
        )
    output.say(f"  noticed {anomaly['raised_after_seconds']:.1f} s after the bad model went live")
    output.say(f"  rolled back; every worker followed within {rollback['workers_switched_seconds']:.2f} s")
    output.say(
        f"  {replay['clicks']:,} clicks replayed in {replay['seconds']:.1f} s, {replay['flips']:,} decisions changed"
    )
    output.say(f"  published in {replay['publish_ms']:.1f} ms, reverted in {replay['revert_ms']:.1f} ms")
    billed = (
        f"{money['billed_before'] / 1e6:,.2f} {money['adjustments'] / 1e6:+,.2f} = {money['billed_after'] / 1e6:,.2f}"
    )
    output.say(f"  billed: {billed}")
    if truth := facts.get("truth"):
        people = f"{truth['wrongly_withheld_before']:,} -> {truth['wrongly_withheld_after']:,}"
        robots = f"{truth['robots_billed_before']:,} -> {truth['robots_billed_after']:,}"
        output.say(f"  in that range, clicks of people withheld: {people}")
        output.say(f"  clicks of robots billed there: {robots} (the bad model withheld them along with the people)")
    for promise, kept in promised.items():
        output.say(f"  {'ok    ' if kept else 'FAILED'} {promise}")
    output.name_home(settings.home)
    output.hint(f"clickledger up && clickledger why {facts['provenance_click_id']}")
