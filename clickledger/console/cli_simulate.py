"""`clickledger simulate`: traffic of people and robots, into files or to a running ledger; its truth only if asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import output
from clickledger.console.cli_ingest import quantiles
from clickledger.console.cli_services import HomeOption, JsonOption, load
from clickledger.errors import InvalidInput

if TYPE_CHECKING:
    from clickledger.console.simulated_sending import Rate, Sent
    from clickledger.scoring.simulation_config import SimulationConfig
    from clickledger.scoring.simulation_days import Run
    from clickledger.settings import Settings

DEFAULT_START = "2025-09-29T00:00:00Z"  # a Monday; fixed, so that a seed gives the same bytes on any day
NOW = "now"


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(simulate)


def simulate(
    file: Annotated[Path | None, typer.Argument(help="Write the clicks here, NDJSON; a new file.")] = None,
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", help="Purchases; default FILE with .outcomes before its suffix.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Who made each click. Keep it from whatever learns.")
    ] = None,
    networks: Annotated[
        Path | None,
        typer.Option("--networks", help="The world's data centres, for `clickledger facts set`; a new file."),
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send the clicks to the running ledger instead.")] = False,
    rate: Annotated[
        str | None,
        typer.Option("--rate", help="With --send: 200 clicks a second, or 60x event time; default: at once."),
    ] = None,
    clicks: Annotated[int, typer.Option("--clicks", help="About how many.")] = 100_000,
    days: Annotated[int, typer.Option("--days", min=1, max=400, help="Length of the run.")] = 3,
    start: Annotated[
        str, typer.Option("--start", help="First moment, RFC 3339; with --send also: now.")
    ] = DEFAULT_START,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same clicks.")] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault", metavar="KIND[:SHARE][@TIME[+LENGTH]]", help="Say label-outage@36h+6h; as often as wanted."
        ),
    ] = None,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate clicks of people and six kinds of robots, with purchases and, on request, with faults.

    Faults: label-outage, late-clicks, retries, skewed-clocks, rfm-poisoning, counter-loss (a mark, in --json).
    """
    from clickledger.scoring.simulation_days import Run  # noqa: PLC0415 - numpy and SciPy, for this command only

    _check(file, {"--outcomes": outcomes, "--truth": truth, "--networks": networks}, send, rate, start)
    config = _config(clicks, days, seed, _start_ms(start), fault or [])
    began = time.monotonic()
    fields = _described(config)
    if send:
        fields |= _send(load(folder), Run(config), rate, start == NOW)
    else:
        fields |= _write(Run(config), Path(str(file)), outcomes, truth, networks)
    fields["seconds"] = round(time.monotonic() - began, 3)
    if as_json:
        output.result(fields)
    if fields.get("refused") or fields.get("conflicts"):
        raise typer.Exit(1)


def _check(file: Path | None, beside: Mapping[str, Path | None], send: bool, rate: str | None, start: str) -> None:
    """Raises InvalidInput for options that do not go together."""
    if send == (file is not None):
        raise InvalidInput(f"expected one of FILE and --send, got {'both' if send else 'neither'}")
    if send and any(beside.values()):
        raise InvalidInput(f"expected {', '.join(beside)} with FILE, got them with --send")
    if not send and rate is not None:
        raise InvalidInput(f"rate: expected one with --send only, got {rate}")
    if not send and start == NOW:
        raise InvalidInput("start: expected a time, got now, which is for --send")


def _start_ms(start: str) -> int:
    from clickledger.scoring import intake_fields  # noqa: PLC0415 - imported only by the command that needs it

    now_ms = time.time_ns() // 1_000_000
    if start == NOW:
        return now_ms
    try:
        return intake_fields.event_time_ms({"start": start}, now_ms, intake_fields.BOUNDS, "start")
    except intake_fields.RejectedClick as error:
        raise InvalidInput(str(error)) from None


def _config(clicks: int, days: int, seed: int, start_ms: int, faults: list[str]) -> SimulationConfig:
    from clickledger.scoring import simulation_faults  # noqa: PLC0415 - imported only by the command that needs it
    from clickledger.scoring.simulation_config import SimulationConfig  # noqa: PLC0415 - as above

    config = SimulationConfig(clicks=clicks, start_ms=start_ms, duration_hours=24.0 * days, seed=seed)
    return replace(config, faults=tuple(simulation_faults.parse(text, config) for text in faults))


def _described(config: SimulationConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "days": round(config.days),
        "from": _time(config.start_ms),
        "to": _time(config.end_ms),
        "faults": [
            {"kind": each.kind, "from": _time(each.from_ms), "to": _time(each.to_ms), "share": each.share_hit}
            for each in config.faults
        ],
    }


def _write(run: Run, file: Path, outcomes: Path | None, truth: Path | None, networks: Path | None) -> dict[str, Any]:
    from clickledger.console import simulated_files  # noqa: PLC0415 - imported only by the command that needs it

    bought = outcomes or file.with_name(f"{file.stem}.outcomes{file.suffix}")
    with output.progress("simulating (clicks)", run.config.clicks) as steps:
        written = simulated_files.write(run, file, bought, truth, steps.advance, networks)
    output.say(
        f"{file}: {written.clicks:,} clicks, {written.repeats:,} of them sent again; "
        f"{bought}: {written.outcomes:,} purchases"
    )
    for kind, count in written.kinds.items():
        output.say(f"  {kind}: {count:,}")
    if networks is not None:
        output.say(f"{networks}: {written.networks:,} networks of data centres")
        output.hint(f"clickledger facts set data_centre_networks {networks} --reason WHY")
    output.hint(f"clickledger ingest {file} --outcomes {bought}")
    files = {"file": file, "outcomes_file": bought, "truth_file": truth, "networks_file": networks}
    counts = {"clicks": written.clicks, "repeats": written.repeats, "outcomes": written.outcomes}
    return {**files, **counts, **({"kinds": dict(written.kinds)} if truth else {})}


def _send(settings: Settings, run: Run, rate: str | None, is_live: bool) -> dict[str, Any]:
    from clickledger.console import services, simulated_sending  # noqa: PLC0415 - imported only by the command that needs it

    pace = simulated_sending.parse_rate(rate) if rate or not is_live else simulated_sending.Rate(speed=1.0)
    _check_pace(run, pace, is_live)
    with output.progress("sending (clicks)", run.config.clicks) as steps:
        sent = simulated_sending.send(services.attach(settings), run, pace, steps.advance)
    fields = _told(sent)
    output.say(", ".join(f"{fields[name]:,} {name}" for name in ("accepted", "duplicates", "undecided", "outcomes")))
    if fields["undecided"] * 2 > fields["accepted"]:
        output.say("most clicks were undecided: the ledger has counted clicks of later times than these; see --start")
    output.hint("clickledger totals")
    return fields


def _check_pace(run: Run, pace: Rate, is_live: bool) -> None:
    """Raises InvalidInput where clicks would be sent before they happen."""
    if is_live and (pace.speed is None or pace.speed > 1.0):
        raise InvalidInput("rate: expected at most 1x with --start now, which sends clicks as they happen")
    ahead_ms = run.config.end_ms - time.time_ns() // 1_000_000
    if not is_live and ahead_ms > 0:
        raise InvalidInput(
            f"start: expected a run that is over by now, got one that ends {ahead_ms // 1000} s from now"
        )


def _told(sent: Sent) -> dict[str, Any]:
    tally = sent.tally
    return {
        "accepted": tally.accepted,
        "duplicates": tally.duplicates,
        "conflicts": len(tally.conflicts),
        "refused": len(tally.refused),
        **{verdict: tally.verdicts[verdict] for verdict in ("valid", "invalid", "undecided")},
        "outcomes": sent.outcomes,
        "outcomes_to_come": sent.outcomes_to_come,
        "decision_latency_ms": quantiles(tally.latencies_ms),
    }


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
