"""Moments as people give them: a day, a time, or a position of the log."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

from clickledger.errors import InvalidInput
from clickledger.ledger import database, log


def moment(text: str, name: str = "as-of") -> datetime:
    """A time, UTC where it names no zone; a day stands for its first moment. Raises InvalidInput."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: expected a day or a time such as 2026-11-28T04:30Z, got {text!r}") from error
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def unix_ms(at: datetime) -> int:
    """Unix time in whole ms, none of which is to come."""
    return math.floor(at.timestamp() * 1000)


def day(text: str, name: str = "as-of") -> date:
    """A day. Raises InvalidInput."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: expected a day such as 2026-11-28, got {text!r}") from error


def position(conn: database.Connection, text: str | None) -> int:
    """A position of the log, given as such or by a time; None: the newest. Raises InvalidInput."""
    if text is None:
        return log.head(conn).position
    return int(text) if text.isdigit() else log.position_at(conn, moment(text))
