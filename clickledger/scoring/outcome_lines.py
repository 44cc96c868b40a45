"""Outcomes as NDJSON: what clicks of a file led to, one JSON object a line.

Fields: `click_id` (the sender's, as in the click's row) and `occurred_at` are required; `source` (as of the click),
`kind` (purchase) and `value_micros` (0) are not. A line of a click that the file does not hold is counted, not refused:
outcome feeds are wider than a stretch of clicks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import dataset, intake_fields, intake_lines
from clickledger.scoring.click import Click
from clickledger.scoring.intake_fields import BOUNDS, Bounds, RejectedClick, Rejection, shown
from clickledger.scoring.ndjson import DEFAULT_SOURCE, decode_object


@dataclass(frozen=True, slots=True)
class OutcomeFile:
    """What a file held: outcomes of known clicks by time, refused lines, and lines of unknown clicks."""

    outcomes: list[Outcome]
    rejected: list[Rejection]
    unknown: int


def read_file(
    path: Path,
    clicks: Sequence[Click],
    *,
    source: str = DEFAULT_SOURCE,
    now_ms: int | None = None,
    bounds: Bounds = BOUNDS,
) -> OutcomeFile:
    """Read the outcomes of these clicks. Raises InvalidInput when the file cannot be read."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    click_ids = {(click.source, click.external_id): click.click_id for click in clicks}
    parse = partial(_parse, click_ids=click_ids, source=source, now_ms=now, bounds=bounds)
    found: set[Outcome] = set()
    rejected: list[Rejection] = []
    unknown = 0
    try:
        with path.open("rb") as stream:
            for parsed in intake_lines.parse_lines(stream, parse, bounds.line_bytes_max):
                if isinstance(parsed, Rejection):
                    rejected.append(parsed)
                elif parsed[1] is None:
                    unknown += 1
                else:
                    found.add(parsed[1])
    except OSError as error:
        raise InvalidInput(f"outcomes file {path}: expected a readable file, got: {error.strerror}") from error
    return OutcomeFile(sorted(found, key=lambda each: (each.occurred_at_ms, each.click_id)), rejected, unknown)


def _parse(
    line: bytes, click_ids: dict[tuple[str, str], bytes], source: str, now_ms: int, bounds: Bounds
) -> Outcome | None:
    fields = decode_object(line, bounds)
    chars_max = bounds.id_chars_max
    sent_by = intake_fields.text(fields, "source", chars_max, source)
    external_id = intake_fields.text(fields, "click_id", chars_max)
    kind = intake_fields.text(fields, "kind", chars_max, "purchase")
    if kind not in dataset.OUTCOME_KINDS:
        raise RejectedClick("kind", f"one of {', '.join(dataset.OUTCOME_KINDS)}", shown(kind))
    occurred_at_ms = intake_fields.event_time_ms(fields, now_ms, bounds, "occurred_at")
    value_micros = fields.get("value_micros", 0)
    if not isinstance(value_micros, int) or isinstance(value_micros, bool) or not 0 <= value_micros < 1 << 63:
        raise RejectedClick("value_micros", "an integer from 0", shown(value_micros))
    click_id = click_ids.get((sent_by, external_id))
    return None if click_id is None else Outcome(click_id, kind, occurred_at_ms, value_micros)
