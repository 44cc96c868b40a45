"""How often each campaign is clicked and how that is decided, over the windows of a minute, an hour and a day.

For people to watch, never for a model: who pays for a click says nothing of who clicked. It is read from the log, so it
is what is authoritative, corrections included, and nothing is counted beside it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from clickledger.errors import InvalidInput
from clickledger.ledger import database, reading
from clickledger.ledger.literal_ranges import Span

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
FIELDS = ("advertiser_id", "campaign_id", "click_id", "verdict")
COUNTS = """
    SELECT advertiser_id, campaign_id, count(*) FILTER (WHERE click_id >= '{minute}'),
           count(*) FILTER (WHERE click_id >= '{hour}'), count(*),
           count(*) FILTER (WHERE click_id >= '{hour}' AND verdict = 'invalid'),
           count(*) FILTER (WHERE verdict = 'invalid'), count(*) FILTER (WHERE verdict = 'undecided')
    FROM ({rows}) d GROUP BY 1, 2"""


@dataclass(frozen=True, slots=True)
class Campaign:
    """Clicks of one campaign by window of event time, and how many of them are invalid or undecided."""

    advertiser_id: str
    campaign_id: str
    clicks_1m: int
    clicks_1h: int
    clicks_24h: int
    invalid_1h: int
    invalid_24h: int
    undecided_24h: int

    @property
    def times_usual(self) -> float | None:
        """Clicks of the last hour over those of a mean hour of the 23 before; None where these had none."""
        before = self.clicks_24h - self.clicks_1h
        return self.clicks_1h * 23 / before if before else None

    @property
    def ivr_1h(self) -> float | None:
        """Share of the last hour's clicks that is invalid; None without clicks."""
        return self.invalid_1h / self.clicks_1h if self.clicks_1h else None

    @property
    def ivr_24h(self) -> float:
        """Share of the day's clicks that is invalid."""
        return self.invalid_24h / self.clicks_24h


def clicked(conn: database.Connection, until_ms: int) -> list[Campaign]:
    """Campaigns with a click in the 24 h of event time before `until_ms` (Unix), most clicked in the last hour first.

    One pass over the day's authoritative decisions, in one snapshot. Raises InvalidInput for a time before 1970.
    """
    if until_ms < 0:
        raise InvalidInput(f"until: expected a time from 1970 on, got {-until_ms} ms before it")
    minute, hour, day = (reading.smallest_click_id(max(until_ms - ms, 0)) for ms in (MINUTE_MS, HOUR_MS, DAY_MS))
    found: dict[tuple[str, str], Counter[int]] = {}
    for rows in reading.statements(conn, Span(first=day, last=reading.smallest_click_id(until_ms)), FIELDS, None):
        for advertiser, campaign, *counts in conn.execute(COUNTS.format(minute=minute, hour=hour, rows=rows).encode()):
            found.setdefault((advertiser, campaign), Counter()).update(dict(enumerate(counts)))
    named = [Campaign(*of, *(counts[place] for place in range(6))) for of, counts in found.items()]
    return sorted(named, key=lambda c: (-c.clicks_1h, -c.clicks_24h, c.advertiser_id, c.campaign_id))
