"""Clicks for the tests of counting, named by small numbers."""

from __future__ import annotations

from clickledger.scoring.click import Click


def key(kind: str, number: int) -> bytes:
    return f"{kind}{number}".encode().ljust(16, b".")


def click(
    number: int,
    event_time_ms: int,
    *,
    user: int = 0,
    ip: int = 0,
    session: int = 0,
    campaign: int = 0,
    device: int = 0,
    device_kind: str = "app",
    logged_in: bool | None = None,
) -> Click:
    return Click(
        click_id=event_time_ms.to_bytes(6, "big") + number.to_bytes(10, "big"),
        source="test",
        external_id=str(number),
        event_time_ms=event_time_ms,
        user_key=key("user", user),
        session_key=key("session", session),
        ip_key=key("ip", ip),
        device=f"device {device}",
        device_kind=device_kind,
        advertiser_id="1",
        campaign_id=f"campaign {campaign}",
        cost_micros=1000,
        currency="USD",
        logged_in=logged_in,
        slice="app/unknown",
        intake_digest=bytes(32),
    )
