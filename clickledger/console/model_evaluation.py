"""`clickledger model evaluate`: all models on the same clicks, without a server; nothing is registered or deployed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import evaluation_words, output
from clickledger.console.cli_ingest import FileFormat, report_rejected
from clickledger.console.cli_services import JsonOption
from clickledger.errors import InvalidInput

if TYPE_CHECKING:
    from clickledger.console.report_page import Rows
    from clickledger.scoring.dataset import Dataset
    from clickledger.scoring.examination import Examination
    from clickledger.scoring.model_comparison import Entrant
    from clickledger.scoring.offline_dataset import Recounted

TEST_SHARE = 0.4
CALIBRATED_FPR = 0.01


def evaluate(
    clicks: Annotated[
        Path | None, typer.Option("--clicks", help="One file: its first part trains, its last part tests.")
    ] = None,
    train: Annotated[Path | None, typer.Option("--train", help="A file to train on; needs --test.")] = None,
    test: Annotated[Path | None, typer.Option("--test", help="A later file to test on.")] = None,
    simulated: Annotated[
        int | None, typer.Option("--simulated", metavar="CLICKS", help="Simulate clicks; their truth is known.")
    ] = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="What the files hold.")] = FileFormat.ndjson,
    outcomes: Annotated[
        list[Path] | None, typer.Option("--outcomes", help="NDJSON of what the clicks led to; for ndjson clicks.")
    ] = None,
    test_share: Annotated[
        float | None, typer.Option(help="Share of the clicks to test on: the last ones. Default 0.4, simulated 0.3.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each model; simulated: runs.")] = 3,
    draws: Annotated[int, typer.Option(min=20, help="Draws of the bootstrap.")] = 1000,
    days: Annotated[float, typer.Option(help="Length of a simulated run.")] = 10.0,
    options: Annotated[
        bool, typer.Option("--options", help="Compare the network's options with it: deep_cross, entity_vectors.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a page with curves and tables here: HTML, self-contained.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare network, logistic regression and velocity rule at equal false positive rates, on clicks they never saw.

    Give --clicks FILE, or --train FILE --test FILE, or --simulated CLICKS. Exit code 1 when rows were rejected.
    """
    files = _files(clicks, train, test, simulated)
    if simulated is not None:
        fields = _simulated(simulated, days, seeds, test_share, draws, options, report)
    else:
        fields = _of_files(files, file_format, outcomes or [], test_share, seeds, draws, options, report)
    if report is not None:
        output.say(f"report: {report}")
    output.hint("clickledger model train, to train on what the ledger holds; then: clickledger model judge MODEL")
    if as_json:
        output.result(fields)
    if fields.get("rejected"):
        raise typer.Exit(1)


def _files(clicks: Path | None, train: Path | None, test: Path | None, simulated: int | None) -> list[Path]:
    """One file to cut or two as they are; none for simulated clicks. Raises InvalidInput for any other choice."""
    ways = {"--clicks": clicks is not None, "--train/--test": bool(train or test), "--simulated": simulated is not None}
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) != 1:
        raise InvalidInput(f"expected one of {', '.join(ways)}, got {', '.join(given) or 'none'}")
    if (train is None) != (test is None):
        missing, there = ("--train", "--test") if train is None else ("--test", "--train")
        raise InvalidInput(f"expected {missing} FILE beside {there}, got nothing")
    return [path for path in (clicks, train, test) if path is not None]


def _of_files(
    files: list[Path],
    file_format: FileFormat,
    outcomes: list[Path],
    test_share: float | None,
    seeds: int,
    draws: int,
    with_options: bool,
    report: Path | None,
) -> dict[str, Any]:
    from clickledger.scoring import examination, offline_dataset  # noqa: PLC0415 - loads torch, which others need not

    if len(files) == 2 and test_share is not None:
        raise InvalidInput(f"test share: expected none with two files, got {test_share}")
    read = [_read(path, file_format, outcomes) for path in files]
    if len(read) == 1:
        share = TEST_SHARE if test_share is None else test_share
        train, test, border_ms = offline_dataset.split_in_time(read[0][0], share)
    else:
        train, test = (recounted.part(slice(None)) for recounted, _ in read)
        border_ms = int(test.event_time_ms.min())
    fields = {"files": [source for _, source in read], "rejected": sum(source["rejected"] for _, source in read)}
    fields |= _parts(train, test, border_ms)
    entrants, compared = _compared(train, test, seeds, draws)
    fields |= compared
    seen = examination.examine(entrants, train, test, CALIBRATED_FPR, rejected=fields["rejected"])
    fields |= seen.as_json()
    table = evaluation_words.say_compared(fields)
    evaluation_words.say_calibrated(seen)
    if with_options:
        fields["options"] = _options_of_files([recounted for recounted, _ in read], train, test, fields, draws)
    if report is not None:
        _report(report, fields, table, seen)
    return fields


def _read(path: Path, file_format: FileFormat, outcomes: list[Path]) -> tuple[Recounted, dict[str, Any]]:
    """A file's clicks counted, and what is said about it."""
    from clickledger.scoring import intake, offline_dataset, outcome_lines, simulated_comparison  # noqa: PLC0415

    price = 0 if file_format is FileFormat.talkingdata else None  # nothing is billed here
    with output.progress(f"reading {path.name} (bytes)", path.stat().st_size if path.is_file() else None) as steps:
        done = 0

        def advance(_lines: int, bytes_read: int) -> None:
            nonlocal done
            steps.advance(bytes_read - done)
            done = bytes_read

        names = simulated_comparison.PSEUDONYMS
        held = intake.read_file(path, file_format.value, names, cpc_micros=price, progress=advance)
    report_rejected(path, held.rejected)
    found, rejected, unknown = list(held.outcomes), len(held.rejected), 0
    for named in outcomes:
        more = outcome_lines.read_file(named, held.clicks)
        report_rejected(named, more.rejected)
        found += more.outcomes
        rejected, unknown = rejected + len(more.rejected), unknown + more.unknown
    if not found:
        wanted = "expected clicks with outcomes to learn from"
        raise InvalidInput(f"{path}: {wanted}, got {len(held.clicks)} clicks without; name them with --outcomes FILE")
    with output.progress(f"counting {len(held.clicks)} clicks"):
        recounted = offline_dataset.recount(held.clicks, found)
    source = {"file": path, "format": file_format.value, "rows": len(held.clicks) + len(held.rejected)}
    counts = {"clicks": len(recounted.clicks), "repeats": len(held.clicks) - len(recounted.clicks)}
    return recounted, {**source, **counts, "rejected": rejected, "outcomes_of_other_clicks": unknown}


def _parts(train: Dataset, test: Dataset, border_ms: int) -> dict[str, Any]:
    from clickledger.scoring import model_comparison  # noqa: PLC0415 - loads torch, which other commands need not pay

    in_order = int(train.event_time_ms.max()) <= border_ms
    if not in_order:
        output.say("the test part begins before the training part ends: its figures are not those of clicks to come")
    parts = {"train": train.summary(), "test": test.summary()}
    return {**parts, "border_ms": border_ms, "in_time_order": in_order, "labels": model_comparison.LABELS}


def _compared(train: Dataset, test: Dataset, seeds: int, draws: int) -> tuple[list[Entrant], dict[str, Any]]:
    from clickledger.scoring import model_comparison, tuning  # noqa: PLC0415 - loads torch, which others need not pay

    listed = tuning.candidates()
    trainings = tuning.trainings(listed) + sum(seeds if own[0].learns else 1 for own in listed.values())
    with output.progress("training and tuning (models)", trainings) as steps:
        entrants = model_comparison.enter(train, listed, tuple(range(seeds)), steps.advance)
    with output.progress("intervals (draws)", draws) as steps:
        return entrants, model_comparison.judge(entrants, test, draws, on_draw=steps.advance)


def _options_of_files(
    read: list[Recounted], train: Dataset, test: Dataset, fields: dict[str, Any], draws: int
) -> dict[str, Any]:
    from clickledger.scoring import options, tuning  # noqa: PLC0415 - loads torch, which other commands need not pay

    network = fields["models"]["network"]
    seeds = [each["seed"] for each in network["seeds"]]
    clicks = [click for recounted in read for click in recounted.clicks]
    with output.progress("training options (models)", options.fits(len(seeds))) as steps:
        made = options.compare(
            *options.parts(clicks, train, test),
            tuning.network_config(network["settings"]),
            seeds,
            draws,
            on_fit=steps.advance,
        )
    evaluation_words.say_options("test part", made)
    return made


def _report(path: Path, fields: dict[str, Any], table: Rows, seen: Examination) -> None:
    from clickledger.console import evaluation_report, report_page  # noqa: PLC0415 - loads matplotlib, which is slow
    from clickledger.scoring import model_comparison  # noqa: PLC0415 - loads torch, which others need not pay

    report_page.write(path, evaluation_report.of_files(fields, seen, model_comparison.FPRS, table))


def _simulated(
    clicks: int,
    days: float,
    seeds: int,
    test_share: float | None,
    draws: int,
    with_options: bool,
    report: Path | None,
) -> dict[str, Any]:
    fields, seen = simulate_and_compare(clicks, days, seeds, test_share, draws, with_options=with_options)
    tables = evaluation_words.say_simulated(fields)
    evaluation_words.say_calibrated(seen)
    if report is not None:
        from clickledger.console import evaluation_report, report_page  # noqa: PLC0415 - loads matplotlib

        report_page.write(report, evaluation_report.of_simulation(fields, seen, tables))
    return fields


def simulate_and_compare(
    clicks: int,
    days: float,
    seeds: int,
    test_share: float | None,
    draws: int,
    first_seed: int = 1,
    *,
    with_options: bool = False,
) -> tuple[dict[str, Any], Examination]:
    """The figures of all seeds, and what was seen of the first one."""
    from clickledger.scoring import examination, options, simulated_comparison, tuning  # noqa: PLC0415 - loads torch
    from clickledger.scoring.simulated_comparison import Stage  # noqa: PLC0415 - loads torch

    config = simulated_comparison.config_of(clicks, days, first_seed)
    configs = simulated_comparison.of_seeds(config, seeds)
    listed = tuning.candidates()
    share = simulated_comparison.TEST_SHARE if test_share is None else test_share
    seen: list[Examination] = []

    def look(made: Stage, entrants: Sequence[Entrant]) -> None:
        if not seen:
            seen.append(examination.examine(entrants, made.train, made.test, CALIBRATED_FPR, made.robot))

    trainings = tuning.trainings(listed) + len(listed) * seeds + options.fits(seeds) * with_options
    with output.progress("simulating, training and tuning (models)", trainings) as steps:
        made = simulated_comparison.compete(
            configs, share, on_fit=steps.advance, draws=draws, on_run=look, with_options=with_options
        )
    return {"clicks": clicks, "days": days, "test_share": share, **made, **seen[0].as_json()}, seen[0]
