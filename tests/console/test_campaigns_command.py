"""`clickledger campaigns`: clicks of campaigns by window, as people see them and as JSON."""

from __future__ import annotations

import pytest
from commands import Command
from decided_traffic import bad_deployment

from clickledger.ledger import database


@pytest.fixture
def until(conn: database.Connection) -> str:
    """A moment after the last click of a ledger with two models' decisions."""
    bad_deployment(conn, clicks=50)
    row = conn.execute("SELECT max(click_time_ms(click_id)) + 1 FROM clicks").fetchone()
    assert row is not None
    return f"{int(row[0]) // 1000 + 1}"


def test_campaigns_are_told_with_their_windows_and_what_was_decided(
    command: Command, conn: database.Connection, until: str
) -> None:
    row = conn.execute("SELECT to_char(to_timestamp(%s) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')", (until,))
    [(end,)] = row.fetchall()
    told = command("campaigns", "--until", end)
    assert told.code == 0
    named = told.fields["campaigns"]
    select = "SELECT count(*), count(*) FILTER (WHERE verdict = 'invalid') FROM authoritative_decisions"
    [(clicks, invalid)] = conn.execute(select).fetchall()
    assert sum(campaign["clicks_24h"] for campaign in named) == clicks > 0
    assert sum(campaign["invalid_24h"] for campaign in named) == invalid
    assert [c["clicks_1h"] for c in named] == sorted((c["clicks_1h"] for c in named), reverse=True)
    advertiser = named[0]["advertiser_id"]
    some = command("campaigns", "--until", end, "--advertiser", advertiser, "--most", 1)
    assert {campaign["advertiser_id"] for campaign in some.fields["campaigns"]} == {advertiser}
    shown = command("campaigns", "--until", end, "--most", 1, as_json=False).said
    assert f"{len(named)} campaigns clicked in the 24 h before" in shown and "the first 1 shown" in shown
    nobody = command("campaigns", as_json=False)  # clicks today
    assert nobody.said.startswith("0 campaigns") and f"clickledger campaigns --until {end}Z" in nobody.said


@pytest.mark.parametrize("words", [("--until", "yesterday"), ("--until", "1969-12-31"), ("--most", "0")])
def test_what_is_no_window_is_refused_in_words(command: Command, conn: database.Connection, words: tuple[str]) -> None:
    refused = command("campaigns", *words)
    assert refused.code == 2 and "Traceback" not in refused.said
