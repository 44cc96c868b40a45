"""The sender's fields, one at a time: each check returns the value to keep or raises `RejectedClick`.

Invariants:
- every text that passes can be stored by PostgreSQL and encoded as UTF-8: no NUL, no lone surrogate;
- messages name field, expected and got, and stay short and printable whatever was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec

DEVICE_KINDS = ("unknown", *feature_spec.DEVICE_KINDS)
GOT_CHARS_MAX = 60
_SHOWN_BITS_MAX = 192
_LITERALS = {None: "null", True: "true", False: "false"}
_MISSING = object()
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ZONED = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What intake accepts at most. Texts are measured in characters, times in Unix milliseconds."""

    genesis_ms: int = 1_262_304_000_000  # 2010-01-01T00:00:00Z
    future_tolerance_ms: int = 3_600_000
    id_chars_max: int = 256
    device_chars_max: int = 2048  # a whole user agent
    cost_micros_max: int = 10**12  # a million units of any currency for one click
    line_bytes_max: int = 64 * 1024


BOUNDS = Bounds()


class RejectedClick(InvalidInput):
    """A row is no click: `field` is what is wrong with it, `row` when it is no row at all."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was refused; `line` counts from 1 as editors do."""

    line: int
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: expected {self.expected}, got {self.got}"


def shown(value: object) -> str:
    """A value as an error message shows it: printable, about 60 characters at most."""
    if value is _MISSING:
        return "nothing"
    if isinstance(value, str):
        return _shown_text(value)
    if isinstance(value, bytes):
        return _shown_text(value[: GOT_CHARS_MAX + 1].decode("utf-8", "backslashreplace"), len(value))
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS_MAX:
        return f"a number of {value.bit_length()} bits"
    return _LITERALS[value] if value is None or isinstance(value, bool) else _shown_other(value)


def _shown_text(value: str, size: int | None = None) -> str:
    if len(value) <= GOT_CHARS_MAX:
        return repr(value)
    return f"{value[:GOT_CHARS_MAX]!r}... (length {len(value) if size is None else size})"


def _shown_other(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def text(fields: Mapping[str, object], name: str, chars_max: int, default: str | None = None) -> str:
    """A non-blank text of at most `chars_max` characters; `default` where the field is missing or null."""
    value = fields.get(name, _MISSING)
    if default is not None and (value is _MISSING or value is None):
        return default
    if not isinstance(value, str):
        raise RejectedClick(name, "text", shown(value))
    if len(value) > chars_max:
        raise RejectedClick(name, f"at most {chars_max} characters", shown(value))
    if not value or value.isspace():
        raise RejectedClick(name, "text that is not blank", shown(value))
    if "\0" in value:
        raise RejectedClick(name, "text without NUL characters", shown(value))
    if not value.isascii() and not _is_encodable(value):
        raise RejectedClick(name, "text without lone surrogates", shown(value))
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def event_time_ms(fields: Mapping[str, object], now_ms: int, bounds: Bounds, name: str = "event_time") -> int:
    """A time as Unix milliseconds, from RFC 3339 with a zone (cut to milliseconds) or an integer; within bounds."""
    value = fields.get(name, _MISSING)
    if isinstance(value, str):
        time_ms = _parsed_ms(value, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        time_ms = value
    else:
        raise RejectedClick(name, "RFC 3339 text with a zone or integer Unix milliseconds", shown(value))
    return bounded_time_ms(time_ms, value, now_ms, bounds, name)


def bounded_time_ms(time_ms: int, value: object, now_ms: int, bounds: Bounds, name: str) -> int:
    """`time_ms` if it lies between genesis and shortly after `now_ms`; `value` is what the sender wrote."""
    if time_ms < bounds.genesis_ms:
        raise RejectedClick(name, f"{_iso(bounds.genesis_ms)} or later", shown(value))
    if time_ms > now_ms + bounds.future_tolerance_ms:
        raise RejectedClick(name, f"at most {bounds.future_tolerance_ms // 1000} s from now", shown(value))
    return time_ms


def _parsed_ms(value: str, name: str) -> int:
    try:
        moment = msgspec.convert(value, _ZONED)
    except msgspec.ValidationError:
        raise RejectedClick(name, "RFC 3339 text with a zone", shown(value)) from None
    return (moment - _EPOCH) // _MILLISECOND


def _iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def cost_micros(fields: Mapping[str, object], bounds: Bounds) -> int:
    """A price in millionths of the currency's unit: an integer, not negative."""
    value = fields.get("cost_micros", _MISSING)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= bounds.cost_micros_max:
        raise RejectedClick("cost_micros", f"an integer from 0 to {bounds.cost_micros_max}", shown(value))
    return value


def currency(fields: Mapping[str, object], default: str = "USD") -> str:
    """An ISO 4217 code in capitals; small letters are raised."""
    value = fields.get("currency")
    if value is None:
        return default
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise RejectedClick("currency", "three letters", shown(value))
    return value.upper()


def device_kind(fields: Mapping[str, object]) -> str:
    """One of `DEVICE_KINDS`: a closed list, since kinds make slices and each slice has its own threshold."""
    value = fields.get("device_kind")
    if value is None:
        return "unknown"
    if not isinstance(value, str) or value not in DEVICE_KINDS:
        raise RejectedClick("device_kind", "one of " + ", ".join(DEVICE_KINDS), shown(value))
    return value


def logged_in(fields: Mapping[str, object]) -> bool | None:
    """Whether the account was logged in; None when the sender does not know."""
    value = fields.get("logged_in")
    if value is None or isinstance(value, bool):
        return value
    raise RejectedClick("logged_in", "true, false or null", shown(value))
