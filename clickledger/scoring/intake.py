"""Files of clicks become `Click`s and rejections, one per bad row; a bad row never stops the rest.

Invariants:
- every line that is not blank is counted once: as a click or as a rejection;
- the same file gives the same clicks, so sending it again changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import intake_lines, talkingdata
from clickledger.scoring.click import Click
from clickledger.scoring.intake_fields import BOUNDS, Bounds, RejectedClick, Rejection
from clickledger.scoring.intake_lines import Progress
from clickledger.scoring.ndjson import DEFAULT_SOURCE, click_from_fields, parse_ndjson_line
from clickledger.scoring.networks import NO_FACTS, AddressFacts
from clickledger.scoring.pseudonyms import Pseudonyms

__all__ = [
    "FORMATS",
    "Intake",
    "RejectedClick",
    "Rejection",
    "click_from_fields",
    "parse_ndjson_line",
    "read_file",
    "read_ndjson",
]

Format = Literal["ndjson", "talkingdata"]
FORMATS: tuple[Format, ...] = ("ndjson", "talkingdata")


@dataclass(frozen=True, slots=True)
class Intake:
    """What a file held. Clicks by event time, rows of one time in file order; `outcomes` where the format has them."""

    clicks: list[Click]
    rejected: list[Rejection]
    outcomes: list[Outcome]
    unknown_fields: Counter[str] = field(default_factory=Counter)  # NDJSON fields that were ignored: name -> rows


def read_file(
    path: Path,
    format: Format,
    pseudonyms: Pseudonyms,
    *,
    source: str | None = None,
    cpc_micros: int | None = None,
    now_ms: int | None = None,
    bounds: Bounds = BOUNDS,
    progress: Progress | None = None,
    facts: AddressFacts = NO_FACTS,
) -> Intake:
    """Read a whole file of clicks.

    `source` stands where rows name none (default: "default" for NDJSON, "talkingdata" for that CSV). `cpc_micros`, the
    price of every click, belongs to `talkingdata` and is required there; its rows have no real address, so `facts` say
    nothing of them. `progress(lines, bytes)` is called now and then. Raises `InvalidInput` when the file as a whole
    cannot be read: missing, of another format, without a price.
    """
    read = _READERS.get(format)
    if read is None:
        raise InvalidInput(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    reading = _Reading(pseudonyms, source, cpc_micros, now, bounds, progress, facts)
    try:
        with path.open("rb") as stream:
            return read(stream, reading)
    except OSError as error:
        raise InvalidInput(f"clicks file {path}: expected a readable file, got: {error.strerror}") from error


def read_ndjson(
    stream: BinaryIO,
    pseudonyms: Pseudonyms,
    *,
    now_ms: int,
    source: str = DEFAULT_SOURCE,
    bounds: Bounds = BOUNDS,
    progress: Progress | None = None,
    unknown_fields: Counter[str] | None = None,
    facts: AddressFacts = NO_FACTS,
) -> Iterator[Click | Rejection]:
    """Yield a click or a rejection for each line of NDJSON, in the order of the stream and in bounded memory."""
    parse = partial(
        parse_ndjson_line,
        pseudonyms=pseudonyms,
        now_ms=now_ms,
        source=source,
        bounds=bounds,
        unknown_fields=unknown_fields,
        facts=facts,
    )
    for parsed in intake_lines.parse_lines(stream, parse, bounds.line_bytes_max, progress):
        yield parsed if isinstance(parsed, Rejection) else parsed[1]


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a file is to be read: the arguments of `read_file`."""

    pseudonyms: Pseudonyms
    source: str | None
    cpc_micros: int | None
    now_ms: int
    bounds: Bounds
    progress: Progress | None
    facts: AddressFacts


def _read_ndjson(stream: BinaryIO, reading: _Reading) -> Intake:
    if reading.cpc_micros is not None:
        raise InvalidInput(f"cpc_micros: expected none for ndjson, whose rows have a price, got {reading.cpc_micros}")
    intake = Intake([], [], [])
    for row in read_ndjson(
        stream,
        reading.pseudonyms,
        now_ms=reading.now_ms,
        source=DEFAULT_SOURCE if reading.source is None else reading.source,
        bounds=reading.bounds,
        progress=reading.progress,
        unknown_fields=intake.unknown_fields,
        facts=reading.facts,
    ):
        if isinstance(row, Rejection):
            intake.rejected.append(row)
        else:
            intake.clicks.append(row)
    intake.clicks.sort(key=lambda click: click.event_time_ms)
    return intake


def _read_talkingdata(stream: BinaryIO, reading: _Reading) -> Intake:
    cpc_micros, bounds = reading.cpc_micros, reading.bounds
    if cpc_micros is None:
        raise InvalidInput("cpc_micros: expected a price per click for talkingdata, whose rows have none, got nothing")
    talkingdata.check_price(cpc_micros, bounds)
    talkingdata.check_header(stream.readline(bounds.line_bytes_max))
    parse = partial(talkingdata.parse_row, now_ms=reading.now_ms, bounds=bounds)
    rows: list[talkingdata.Row] = []
    rejected: list[Rejection] = []
    for parsed in intake_lines.parse_lines(stream, parse, bounds.line_bytes_max, reading.progress, first_line=2):
        if isinstance(parsed, Rejection):
            rejected.append(parsed)
        else:
            rows.append(parsed[1])
    rows.sort(key=lambda row: row.click_time_ms)
    source = talkingdata.SOURCE if reading.source is None else reading.source
    clicks = talkingdata.to_clicks(rows, reading.pseudonyms, cpc_micros, source)
    return Intake(clicks, rejected, talkingdata.to_outcomes(rows, clicks))


_READERS: dict[str, Callable[[BinaryIO, _Reading], Intake]] = {"ndjson": _read_ndjson, "talkingdata": _read_talkingdata}
