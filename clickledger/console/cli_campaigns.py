"""`clickledger campaigns`: which campaigns are clicked how much, of late and over a day, and what became of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from clickledger.console import moments, output
from clickledger.console.cli_services import HomeOption, JsonOption
from clickledger.console.recovery_words import ledger
from clickledger.ledger import campaigns as campaigns_
from clickledger.ledger import reading
from clickledger.ledger.campaigns import Campaign
from clickledger.ledger.rights import Role

COLUMNS = (
    "advertiser", "campaign", "1 min", "1 h", "24 h", "1 h, times usual", "invalid, 1 h", "invalid, 24 h", "undecided",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(campaigns)


def campaigns(
    until: Annotated[str | None, typer.Option(help="End of the windows, a day or a time, UTC; default now.")] = None,
    advertiser: Annotated[str | None, typer.Option(help="Only this advertiser's.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many to show; --json has all.")] = 20,
    folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Clicks of each campaign in the last minute, hour and day of event time, most clicked in the hour first.

    Read from the authoritative decisions, so corrections count.
    """
    end = moments.moment(until, "until") if until is not None else datetime.now(UTC)
    with ledger(folder, Role.AUDITOR_READER) as conn, output.progress("reading a day of decisions"):
        found = campaigns_.clicked(conn, moments.unix_ms(end))
        newest_ms = None if found else reading.newest_click_ms(conn)
    if advertiser is not None:
        found = [campaign for campaign in found if campaign.advertiser_id == advertiser]
    shown = f", the first {most} shown" if len(found) > most else ""
    title = f"{len(found)} campaigns clicked in the 24 h before {end:%Y-%m-%d %H:%M:%S} UTC{shown}"
    output.rows(title, COLUMNS, [_line(campaign) for campaign in found[:most]])
    if newest_ms is None:
        output.hint("clickledger replay plan --advertiser ADVERTISER ..., to look at its decisions again")
    else:
        last = datetime.fromtimestamp(newest_ms / 1000, UTC) + timedelta(seconds=1)
        output.hint(f"clickledger campaigns --until {last:%Y-%m-%dT%H:%M:%SZ}, the time of the newest click")
    if as_json:
        output.result({"until": end.isoformat(), "campaigns": [_fields(campaign) for campaign in found]})


def _line(campaign: Campaign) -> tuple[object, ...]:
    clicks = campaign.clicks_1m, campaign.clicks_1h, campaign.clicks_24h
    usual = "" if campaign.times_usual is None else f"{campaign.times_usual:.1f}"
    hour = "" if campaign.ivr_1h is None else f"{campaign.ivr_1h:.1%}"
    of = campaign.advertiser_id, campaign.campaign_id
    return *of, *(f"{count:,}" for count in clicks), usual, hour, f"{campaign.ivr_24h:.1%}", campaign.undecided_24h


def _fields(campaign: Campaign) -> dict[str, object]:
    rates = {"times_usual": campaign.times_usual, "ivr_1h": campaign.ivr_1h, "ivr_24h": campaign.ivr_24h}
    return asdict(campaign) | rates
