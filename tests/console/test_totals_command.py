"""`clickledger totals`: two ways to the same money, of one moment."""

from __future__ import annotations

from typing import Any

import pytest
from commands import Command
from decided_traffic import bad_deployment

from clickledger.ledger import billing, database, log


def test_what_is_billed_is_what_the_feed_told_by_currency_though_clicks_come_meanwhile(
    conn: database.Connection, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, *_ = bad_deployment(conn, clicks=20)
    head, summed = log.head(conn).position, billing.totals

    def and_clicks_come(*asked: Any) -> Any:
        found = summed(*asked)
        traffic.append(20)
        return found

    monkeypatch.setattr(billing, "totals", and_clicks_come)
    answer = command("totals")
    assert answer.fields["as_of"] == head < log.head(conn).position
    assert f"as of position {head}" in answer.said
    found = answer.fields["totals"]
    assert found.keys() == {"EUR", "USD"}
    for one in found.values():
        assert one["feed_posted_micros"] + one["feed_written_off_micros"] == one["billed_micros"] > 0
