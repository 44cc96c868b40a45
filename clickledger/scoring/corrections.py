"""Files of corrections: one JSON object a line, which says of one click what it is to be decided as, and why.

Fields, all required and no others: `click_id` (the ledger's id, or the sender's own), `verdict`, `reason`. A field of
another name is refused, unlike in clicks: nothing is lost by sending a correction again, and one that is misspelt was
not meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clickledger.errors import InvalidInput
from clickledger.scoring import intake_fields, intake_lines
from clickledger.scoring.intake_fields import BOUNDS, Bounds, RejectedClick, Rejection, shown
from clickledger.scoring.ndjson import decode_object

FIELDS = ("click_id", "verdict", "reason")
VERDICTS = ("valid", "invalid", "undecided")
REASON_CHARS_MAX = 1_000


class Stated(NamedTuple):
    """One line: `click` is a click id or the sender's own, as written; `line` counts from 1."""

    line: int
    click: str
    verdict: str
    reason: str


def read_file(path: Path, bounds: Bounds = BOUNDS) -> Iterator[Stated | Rejection]:
    """Yield what each line that is not blank states, or why it is none. Raises InvalidInput without such a file."""
    try:
        with path.open("rb") as stream:
            for parsed in intake_lines.parse_lines(stream, partial(_parse, bounds=bounds), bounds.line_bytes_max):
                yield parsed if isinstance(parsed, Rejection) else parsed[1]._replace(line=parsed[0])
    except OSError as error:
        raise InvalidInput(f"corrections file {path}: expected a readable file, got: {error.strerror}") from error


def _parse(line: bytes, bounds: Bounds) -> Stated:
    fields = decode_object(line, bounds)
    if unknown := sorted(fields.keys() - set(FIELDS)):
        raise RejectedClick(shown(unknown[0])[1:-1], f"only the fields {', '.join(FIELDS)}", "a field of another name")
    click = intake_fields.text(fields, "click_id", bounds.id_chars_max)
    verdict = intake_fields.text(fields, "verdict", bounds.id_chars_max)
    if verdict not in VERDICTS:
        raise RejectedClick("verdict", "one of " + ", ".join(VERDICTS), shown(verdict))
    return Stated(0, click, verdict, intake_fields.text(fields, "reason", REASON_CHARS_MAX))
