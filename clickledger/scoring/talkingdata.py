"""The CSV of the TalkingData AdTracking set: columns ip, app, device, os, channel, click_time and its attribution.

A user is (ip, device, os), a session a user's clicks with gaps under 30 minutes, the device its model and os, the
advertiser the app, the campaign the channel; an attributed install is the outcome. Times are UTC, of one second. The
file has no click ids: a row's digest stands for one, so that exact duplicates are repeats. Whether somebody was logged
in is not known, and every click costs what the caller says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from clickledger.errors import InvalidInput
from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import click_identity, intake_fields
from clickledger.scoring.click import Click
from clickledger.scoring.intake_fields import BOUNDS, Bounds, RejectedClick, shown
from clickledger.scoring.pseudonyms import Pseudonyms

SOURCE = "talkingdata"
OUTCOME_KIND = "install"
HEADER = b"ip,app,device,os,channel,click_time,attributed_time,is_attributed"
SESSION_GAP_MS = 30 * 60 * 1000
# Models are anonymous numbers; by their share and their systems, 1 is the common phone and 2 the common tablet.
_DEVICE_KINDS = {"1": "mobile", "2": "tablet"}
_COLUMNS = tuple(HEADER.decode().split(","))
_NUMBER = re.compile(r"[0-9]{1,10}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")


class Row(NamedTuple):
    """One valid row."""

    digest: str  # of the row's text, hexadecimal
    ip: str
    app: str
    device: str
    os: str
    channel: str
    click_time_ms: int
    attributed_time_ms: int | None

    @property
    def user_id(self) -> str:
        """Who clicked, as far as the set tells."""
        return f"{self.ip}/{self.device}/{self.os}"


def check_header(line: bytes) -> None:
    """Raise `InvalidInput` unless the first line of a file names the columns of this format."""
    if line.strip(b" \t\r\n") != HEADER:
        raise InvalidInput(f"line 1: expected the header {HEADER.decode()}, got {shown(line.strip())}")


def check_price(cpc_micros: int, bounds: Bounds = BOUNDS) -> None:
    """Raise `InvalidInput` unless the price per click is one that a click may have."""
    if not 0 <= cpc_micros <= bounds.cost_micros_max:
        raise InvalidInput(f"cpc_micros: expected 0 to {bounds.cost_micros_max}, got {cpc_micros}")


def parse_row(line: bytes, now_ms: int, bounds: Bounds = BOUNDS) -> Row:
    """The row of one line. Raises `RejectedClick` naming the column."""
    try:
        values = line.decode("ascii").split(",")
    except UnicodeDecodeError as error:
        raise RejectedClick("row", "ASCII", f"byte 0x{line[error.start]:02x} at offset {error.start}") from None
    if len(values) != len(_COLUMNS):
        raise RejectedClick("row", f"{len(_COLUMNS)} columns", f"{len(values)}: {shown(line)}")
    for name, value in zip(_COLUMNS[:5], values, strict=False):
        if not _NUMBER.fullmatch(value):
            raise RejectedClick(name, "a number of at most 10 digits", shown(value))
    click_time_ms = _time_ms("click_time", values[5], now_ms, bounds)
    attributed_time_ms = _attributed_time_ms(values[6], values[7], click_time_ms, now_ms, bounds)
    ip, app, device, system, channel = values[:5]
    digest = hashlib.sha256(line).hexdigest()[:32]
    return Row(digest, ip, app, device, system, channel, click_time_ms, attributed_time_ms)


def _attributed_time_ms(value: str, is_attributed: str, click_time_ms: int, now_ms: int, bounds: Bounds) -> int | None:
    if is_attributed not in {"0", "1"}:
        raise RejectedClick("is_attributed", "0 or 1", shown(is_attributed))
    if is_attributed == "0":
        if value:
            raise RejectedClick("attributed_time", "nothing where is_attributed is 0", shown(value))
        return None
    time_ms = _time_ms("attributed_time", value, now_ms, bounds)
    if time_ms < click_time_ms:
        raise RejectedClick("attributed_time", "a time not before click_time", shown(value))
    return time_ms


def _time_ms(name: str, value: str, now_ms: int, bounds: Bounds) -> int:
    expected = "a time YYYY-MM-DD HH:MM:SS"
    if not _TIME.fullmatch(value):
        raise RejectedClick(name, expected, shown(value))
    try:
        moment = datetime.fromisoformat(value).replace(tzinfo=UTC)
    except ValueError:
        raise RejectedClick(name, expected, shown(value)) from None
    return intake_fields.bounded_time_ms(int(moment.timestamp()) * 1000, value, now_ms, bounds, name)


def to_clicks(rows: Iterable[Row], pseudonyms: Pseudonyms, cpc_micros: int, source: str = SOURCE) -> list[Click]:
    """The clicks of rows, in the order given, which must be that of click time: sessions are told by gaps."""
    sessions: dict[str, tuple[int, int]] = {}  # user -> start and last click
    clicks = []
    for row in rows:
        start_ms, last_ms = sessions.get(row.user_id, (row.click_time_ms, row.click_time_ms))
        if row.click_time_ms - last_ms > SESSION_GAP_MS:
            start_ms = row.click_time_ms
        sessions[row.user_id] = (start_ms, row.click_time_ms)
        clicks.append(_to_click(row, start_ms, pseudonyms, cpc_micros, source))
    return clicks


def _to_click(row: Row, session_start_ms: int, pseudonyms: Pseudonyms, cpc_micros: int, source: str) -> Click:
    sent = click_identity.Sent(
        source=source,
        external_id=row.digest,
        event_time_ms=row.click_time_ms,
        user_key=pseudonyms.user(row.user_id),
        session_key=pseudonyms.session(row.user_id, str(session_start_ms)),
        ip_key=pseudonyms.ip(row.ip),
        device=f"device {row.device} os {row.os}",
        device_kind=_DEVICE_KINDS.get(row.device, "unknown"),
        advertiser_id=row.app,
        campaign_id=row.channel,
        cost_micros=cpc_micros,
        currency="USD",
        logged_in=None,
    )
    return click_identity.identify(sent)


def to_outcomes(rows: Iterable[Row], clicks: Iterable[Click]) -> list[Outcome]:
    """The installs of rows, by time, one per click however often its row was repeated. An install has no value."""
    found = {
        Outcome(click.click_id, OUTCOME_KIND, row.attributed_time_ms, 0)
        for row, click in zip(rows, clicks, strict=True)
        if row.attributed_time_ms is not None
    }
    return sorted(found, key=lambda outcome: (outcome.occurred_at_ms, outcome.click_id))
