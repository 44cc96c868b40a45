"""Simulated traffic as files: clicks as they are sent, what they led to, and, apart and only if asked, the truth.

Invariants:
- no file that exists is touched, and none is left half written when writing fails;
- the files of a run are the same bytes every time, whatever is asked for beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from clickledger.errors import InvalidInput, Refused
from clickledger.scoring import simulation_days, simulation_networks
from clickledger.scoring.simulation_days import DAY_MS, Day, Run
from clickledger.scoring.simulation_networks import Places
from clickledger.scoring.simulation_truth import KINDS

_ENCODER = msgspec.json.Encoder()


@dataclass
class Written:
    """What was written: clicks each time they are sent, how often that was again, outcomes, clicks of each kind."""

    clicks: int = 0
    repeats: int = 0
    outcomes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # empty without a file of truths
    networks: int = 0  # of data centres, in the table that was asked for


def write(
    run: Run,
    clicks: Path,
    outcomes: Path,
    truth: Path | None,
    advance: Callable[[int], None],
    networks: Path | None = None,
) -> Written:
    """Write a run. Raises Refused for a file that exists, InvalidInput for one that cannot be written."""
    written, places = Written(), Places(run.config.seed, run.gateways)
    with new_files([clicks, outcomes, *(path for path in (truth, networks) if path)]) as files:
        days = _noting(_placing(iter(run), places), files[2] if truth else None, written)
        pending: list[dict[str, Any]] = []
        for day in simulation_days.as_sent(days):
            _lines(files[0], day.traffic.raw_clicks())
            written.clicks += len(day.traffic)
            pending += day.traffic.raw_outcomes()
            written.outcomes += len(day.traffic.purchases)
            pending = _told(files[1], pending, day.traffic.config.start_ms + DAY_MS)
            advance(len(day.traffic))
        _lines(files[1], iter(sorted(pending, key=_when)))
        if networks is not None:
            lines = places.lines()
            files[-1].write(simulation_networks.content(lines))
            written.networks = len(lines)
    written.repeats += written.clicks
    return written


@contextmanager
def new_files(paths: list[Path]) -> Iterator[list[IO[bytes]]]:
    """Open files that must not exist yet; where the block fails all of them are gone again."""
    with ExitStack() as opened:
        made: list[Path] = []
        try:
            files = []
            for path in paths:
                files.append(opened.enter_context(_new(path)))
                made.append(path)
            yield files
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise


def _new(path: Path) -> IO[bytes]:
    try:
        return path.open("xb")
    except FileExistsError:
        raise Refused(f"{path}: expected a new file, got one that exists; nothing was written") from None
    except OSError as error:
        raise InvalidInput(f"{path}: expected a file that can be written, got: {error.strerror}") from error


def _placing(days: Iterator[Day], places: Places) -> Iterator[Day]:
    for day in days:
        places.add(day.traffic, day.truth)
        yield day


def _noting(days: Iterator[Day], file: IO[bytes] | None, written: Written) -> Iterator[Day]:
    """The days as they are; their clicks are counted, and the truth about each is written, once."""
    for day in days:
        once = np.sort(np.unique(day.traffic.click, return_index=True)[1])
        written.repeats -= len(once)
        if file is not None:
            kinds = [KINDS[kind] for kind in day.truth.kind[once].tolist()]
            written.kinds.update(Counter(kinds))
            rows = day.traffic.take(once).raw_clicks()
            _lines(file, ({"click_id": row["click_id"], "kind": kind} for row, kind in zip(rows, kinds, strict=True)))
        yield day


def _told(file: IO[bytes], pending: list[dict[str, Any]], until_ms: int) -> list[dict[str, Any]]:
    """Write the outcomes that have happened by a moment, in order; those still to come."""
    _lines(file, iter(sorted((each for each in pending if each["occurred_at"] < until_ms), key=_when)))
    return [each for each in pending if each["occurred_at"] >= until_ms]


def _when(outcome: dict[str, Any]) -> tuple[int, str]:
    return outcome["occurred_at"], outcome["click_id"]


def _lines(file: IO[bytes], rows: Iterator[dict[str, Any]]) -> None:
    file.writelines(_ENCODER.encode(row) + b"\n" for row in rows)
