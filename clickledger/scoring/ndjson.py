"""Clicks as NDJSON: one JSON object a line.

Invariants:
- a line gives a `Click` or `RejectedClick`, never anything else, whatever its bytes;
- a field given twice is refused: readers disagree on which one counts, and one of the two may be a price.

Fields: `click_id`, `event_time`, `user_id`, `ip`, `advertiser_id`, `campaign_id`, `cost_micros` are required;
`source`, `session_id` (else one session per user), `device` or `user_agent` (`device` wins), `device_kind`, `currency`
(USD) and `logged_in` are not. Null in an optional field means missing. Fields of other names are ignored and counted:
senders add fields, and losing their clicks over it would lose money, but a misspelt optional field should be seen.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

import msgspec

from clickledger.scoring import click_identity, intake_fields
from clickledger.scoring.click import Click
from clickledger.scoring.intake_fields import BOUNDS, Bounds, RejectedClick, shown
from clickledger.scoring.networks import NO_FACTS, AddressFacts
from clickledger.scoring.pseudonyms import Pseudonyms

DEFAULT_SOURCE = "default"
FIELDS = frozenset(
    {
        *("source", "click_id", "event_time", "user_id", "session_id", "ip", "user_agent", "device", "device_kind"),
        *("advertiser_id", "campaign_id", "cost_micros", "currency", "logged_in"),
    }
)
UNKNOWN_FIELDS_MAX = 100  # names counted; the rest are counted together
OTHER_UNKNOWN = "(others)"
_DECODER = msgspec.json.Decoder()
_MEMBER = re.compile(rb'"\s*:')


def parse_ndjson_line(
    line: bytes,
    pseudonyms: Pseudonyms,
    *,
    now_ms: int,
    source: str = DEFAULT_SOURCE,
    bounds: Bounds = BOUNDS,
    unknown_fields: Counter[str] | None = None,
    facts: AddressFacts = NO_FACTS,
) -> Click:
    """The click of one line. Raises `RejectedClick`; names of ignored fields are added to `unknown_fields`."""
    fields = decode_object(line, bounds)
    if unknown_fields is not None and not fields.keys() <= FIELDS:
        _count_unknown(fields, unknown_fields)
    return click_from_fields(fields, pseudonyms, now_ms=now_ms, source=source, bounds=bounds, facts=facts)


def click_from_fields(
    fields: Mapping[str, object],
    pseudonyms: Pseudonyms,
    *,
    now_ms: int,
    source: str = DEFAULT_SOURCE,
    bounds: Bounds = BOUNDS,
    facts: AddressFacts = NO_FACTS,
) -> Click:
    """The click of decoded fields. Raises `RejectedClick` for the first field that cannot be used."""
    chars_max = bounds.id_chars_max
    user_id = intake_fields.text(fields, "user_id", chars_max)
    session_id = intake_fields.text(fields, "session_id", chars_max) if fields.get("session_id") is not None else None
    sent = click_identity.Sent(
        source=intake_fields.text(fields, "source", chars_max, source),
        external_id=intake_fields.text(fields, "click_id", chars_max),
        event_time_ms=intake_fields.event_time_ms(fields, now_ms, bounds),
        user_key=pseudonyms.user(user_id),
        session_key=pseudonyms.session(user_id, session_id),
        ip_key=pseudonyms.ip(ip := intake_fields.text(fields, "ip", chars_max)),
        device=_device(fields, bounds.device_chars_max),
        device_kind=intake_fields.device_kind(fields),
        advertiser_id=intake_fields.text(fields, "advertiser_id", chars_max),
        campaign_id=intake_fields.text(fields, "campaign_id", chars_max),
        cost_micros=intake_fields.cost_micros(fields, bounds),
        currency=intake_fields.currency(fields),
        logged_in=intake_fields.logged_in(fields),
    )
    return click_identity.identify(sent, facts.version, facts.data_centre(ip))


def decode_object(line: bytes, bounds: Bounds = BOUNDS) -> dict[str, object]:
    """The members of a line that is one JSON object; `RejectedClick` names the row, or the field given twice."""
    if len(line) > bounds.line_bytes_max:
        raise RejectedClick("row", f"at most {bounds.line_bytes_max} bytes", f"{len(line)} bytes")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise RejectedClick("row", "UTF-8", f"byte 0x{line[error.start]:02x} at offset {error.start}") from None
    try:
        decoded = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise RejectedClick("row", "one JSON object", f"{_reason(error)}: {shown(line)}") from None
    if not isinstance(decoded, dict):
        raise RejectedClick("row", "one JSON object", shown(decoded))
    if len(_MEMBER.findall(line)) > len(decoded):  # nested objects and escaped quotes match too: look closely
        _refuse_repeated_fields(line)
    return decoded


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "JSON nested too deep"
    message = str(error).removeprefix("JSON is malformed: ")
    return "truncated JSON" if message == "Input data was truncated" else f"malformed JSON ({message})"


def _refuse_repeated_fields(line: bytes) -> None:
    try:
        json.loads(line, object_pairs_hook=_refuse_repeated_names)
    except RecursionError:
        raise RejectedClick("row", "one JSON object", "JSON nested too deep") from None


def _refuse_repeated_names(members: list[tuple[str, object]]) -> None:
    counted = Counter(name for name, _ in members)
    for name, count in counted.items():
        if count > 1:
            raise RejectedClick(shown(name)[1:-1], "a field once", f"it {count} times")


def _device(fields: Mapping[str, object], chars_max: int) -> str:
    name = "user_agent" if fields.get("device") is None else "device"
    return intake_fields.text(fields, name, chars_max, default="unknown")


def _count_unknown(fields: Mapping[str, object], unknown_fields: Counter[str]) -> None:
    for name in fields.keys() - FIELDS:
        label = shown(name)[1:-1] if len(name) <= intake_fields.GOT_CHARS_MAX else OTHER_UNKNOWN
        is_room = label in unknown_fields or len(unknown_fields) < UNKNOWN_FIELDS_MAX
        unknown_fields[label if is_room else OTHER_UNKNOWN] += 1
