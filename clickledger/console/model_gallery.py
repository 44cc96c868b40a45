"""`clickledger model gallery`: the pictures of one simulated evaluation as files, and a page that tells them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.console import model_evaluation, output
from clickledger.console.cli_services import JsonOption
from clickledger.errors import InvalidInput

if TYPE_CHECKING:
    from clickledger.console.report_page import Picture

PAGE = "README.md"


def gallery(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go; those of an earlier gallery are replaced.")],
    clicks: Annotated[int, typer.Option("--clicks", help="How many to simulate.")] = 700_000,
    days: Annotated[float, typer.Option("--days", help="Length of the run.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same pictures.")] = 1,
    draws: Annotated[int, typer.Option("--draws", min=20, help="Draws of the bootstrap.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Simulate, train and compare all models, and draw what came of it: curves, slices, calibration, labels, robots.

    Takes minutes with the default size. No server; nothing is registered.
    """
    from clickledger.console import evaluation_report  # noqa: PLC0415 - loads matplotlib, which is slow

    fields, seen = model_evaluation.simulate_and_compare(clicks, days, 1, None, draws, seed)
    pictures = evaluation_report.pictures(seen, fields["runs"][0], fields["fpr"])
    command = f"clickledger model gallery {folder} --clicks {clicks} --days {days:g} --seed {seed} --draws {draws}"
    files = _write(folder, pictures, _page(pictures, fields, command))
    output.say(f"{len(files)} files in {folder}, {sum(file.stat().st_size for file in files) // 1024} KiB")
    output.hint("clickledger model evaluate --simulated 700000 --report page.html, for the tables beside the pictures")
    if as_json:
        output.result({"folder": folder, "files": [file.name for file in files]})


def _write(folder: Path, pictures: list[Picture], page: str) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{picture.name}.svg" for picture in pictures]
        for file, picture in zip(files, pictures, strict=True):
            file.write_text(picture.svg, encoding="utf-8")
        (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"gallery {folder}: expected a folder that can be written, got: {error.strerror}") from error
    return [*files, folder / PAGE]


def _page(pictures: list[Picture], fields: dict[str, Any], command: str) -> str:
    run = fields["runs"][0]
    parts = [
        "# Gallery\n",
        f"One evaluation on simulated traffic: {fields['clicks']:,} clicks of {fields['days']:g} days, people and six "
        f"kinds of robots, seed {run['seed']}. Trained on {run['train']['rows']:,} clicks, judged on the last "
        f"{run['test']['rows']:,}. Pictures and text are made by a command, which takes minutes; do not edit them:\n",
        f"    {command}\n",
    ]
    for picture in pictures:
        parts.append(f"## {picture.title}\n\n![{picture.title}]({picture.name}.svg)\n\n{picture.caption}\n")
    return "\n".join(parts)
