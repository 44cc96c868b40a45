"""Clicks as intake makes them, by number and seed, for tests of the live way; and what the ledger must say of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np

from clickledger.ledger import database
from clickledger.scoring import click_identity, feature_replay, feature_spec
from clickledger.scoring.click import Click

START_MS = 1_750_000_000_000
SELECT_CLICKS = """
    SELECT click_id, source, external_id, click_time_ms(click_id), user_key, session_key, ip_key, device, device_kind,
           advertiser_id, campaign_id, cost_micros, currency, logged_in, slice, intake_digest, features, seq
    FROM clicks ORDER BY seq"""


def click(number: int, *, time_ms: int | None = None, cost_micros: int = 1000) -> Click:
    """Click `number`: half a second after the one before it, of one of 40 users."""
    dice = random.Random(number)
    user, ip = dice.randrange(40), dice.randrange(15)
    sent = click_identity.Sent(
        source="test",
        external_id=f"click {number}",
        event_time_ms=START_MS + number * 500 if time_ms is None else time_ms,
        user_key=_key("user", user),
        session_key=_key("session", user),
        ip_key=_key("ip", ip),
        device=f"device {user % 7}",
        device_kind=dice.choice(("app", "web", "mobile")),
        advertiser_id=f"advertiser {number % 3}",
        campaign_id=f"campaign {number % 5}",
        cost_micros=cost_micros,
        currency="USD",
        logged_in=dice.choice((True, False, None)),
    )
    return click_identity.identify(sent)


def clicks(first: int, count: int) -> list[Click]:
    """Clicks `first` to `first + count - 1`."""
    return [click(number) for number in range(first, first + count)]


def _key(kind: str, number: int) -> bytes:
    return f"{kind}{number}".encode().ljust(16, b".")


def require_decided_once(conn: database.Connection, sent: Sequence[Click]) -> None:
    """Each click is in the ledger once, with one decision, counted once, its snapshot as the log explains it."""
    rows = conn.execute(SELECT_CLICKS).fetchall()
    ids = [row[0].bytes for row in rows]
    assert sorted(ids) == sorted({one.click_id for one in sent})
    decided = [row[0].bytes for row in conn.execute("SELECT click_id FROM decisions ORDER BY click_id")]
    assert decided == sorted(ids)
    assert [row[-1] for row in rows] == list(range(1, len(rows) + 1))
    recorded = feature_spec.unpack_snapshots([bytes(row[-2]) for row in rows])
    np.testing.assert_array_equal(recorded, feature_replay.recompute([_click(row) for row in rows]))


def _click(row: tuple[Any, ...]) -> Click:
    return Click(*[value.bytes if isinstance(value, UUID) else value for value in row[:16]])
