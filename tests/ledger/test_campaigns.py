"""Clicks of campaigns by window, counted by the ledger and, from the view, by hand."""

from __future__ import annotations

import random
import uuid
from collections import Counter

import correcting
import pytest
import replays
from batches import Row, at, batch, click_id

from clickledger.errors import InvalidInput
from clickledger.ledger import append, campaigns, database, reading

END = at("2024-03-11", 43_200)
EDGES = [window + off for window in (0, 60_000, 3_600_000, 86_400_000) for off in (-1, 0, 1)]


def by_hand(conn: database.Connection, end: int) -> dict[tuple[str, str], list[int]]:
    """Counts from the view of every authoritative decision, in the order of the fields."""
    found: dict[tuple[str, str], Counter[int]] = {}
    select = "SELECT advertiser_id, campaign_id, click_id, verdict::text FROM authoritative_decisions"
    for advertiser, campaign, click, verdict in conn.execute(select):
        age = end - (click.int >> 80)
        if not 0 < age <= 86_400_000:
            continue
        counts = found.setdefault((advertiser, campaign), Counter())
        hour = age <= 3_600_000
        counts.update({0: int(age <= 60_000), 1: int(hour), 2: 1, 3: int(hour and verdict == "invalid")})
        counts.update({4: int(verdict == "invalid"), 5: int(verdict == "undecided")})
    return {of: [counts[place] for place in range(6)] for of, counts in found.items()}


def counted(conn: database.Connection, end: int) -> dict[tuple[str, str], list[int]]:
    found = campaigns.clicked(conn, end)
    assert found == sorted(found, key=lambda c: (-c.clicks_1h, -c.clicks_24h, c.advertiser_id, c.campaign_id))
    return {
        (c.advertiser_id, c.campaign_id): [
            c.clicks_1m, c.clicks_1h, c.clicks_24h, c.invalid_1h, c.invalid_24h, c.undecided_24h,
        ]
        for c in found
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_windows_hold_what_the_view_holds_whatever_was_corrected(conn: database.Connection, seed: int) -> None:
    chance = random.Random(seed)
    ages = EDGES + [chance.randrange(172_800_000) for _ in range(60)]
    rows = [
        Row(
            click_id(END - age, number),
            chance.choice(["valid", "invalid", "undecided"]),
            advertiser_id=chance.choice(["adv-1", "adv-2"]),
            campaign_id=chance.choice(["camp-1", "camp-2"]),
            score=0.0,
        )
        for number, age in enumerate(ages)
    ]
    chance.shuffle(rows)
    for first in range(0, len(rows), 24):
        append.append(conn, batch(rows[first : first + 24]), actor="tests")
    assert counted(conn, END) == by_hand(conn, END)
    replays.published(conn, 2, 4, {row.click_id: chance.choice(["valid", "invalid"]) for row in rows})
    assert counted(conn, END) == by_hand(conn, END) != {}
    for edge in (END - 3_600_000, END - 86_400_000, END + 86_400_000, END + 172_800_000):
        assert counted(conn, edge) == by_hand(conn, edge)


def test_a_single_corrected_click_counts_as_corrected(two_entries: database.Connection) -> None:
    end = (uuid.UUID(bytes=correcting.IDS[-1]).int >> 80) + 1
    [before] = campaigns.clicked(two_entries, end)
    assert (before.clicks_24h, before.ivr_24h, before.times_usual) == (10, 0.0, None)
    correcting.corrected(two_entries, {0: "i", 9: "i"})
    [after] = campaigns.clicked(two_entries, end)
    assert (after.clicks_24h, after.invalid_24h, after.ivr_1h) == (10, 2, 0.2)


def test_a_campaign_is_compared_with_its_own_day(conn: database.Connection) -> None:
    earlier = [Row(click_id(END - hour * 3_600_000 - 1, hour)) for hour in range(1, 24)]
    now = [Row(click_id(END - 1, 100 + number)) for number in range(8)]
    append.append(conn, batch([*earlier, *now]), actor="tests")
    [campaign] = campaigns.clicked(conn, END)
    assert (campaign.clicks_1m, campaign.clicks_1h, campaign.clicks_24h) == (8, 8, 31)
    assert campaign.times_usual == 8.0
    assert reading.newest_click_ms(conn) == END - 1


def test_no_click_and_no_time(conn: database.Connection) -> None:
    assert campaigns.clicked(conn, END) == [] == campaigns.clicked(conn, 0)
    assert reading.newest_click_ms(conn) is None
    with pytest.raises(InvalidInput, match="expected a time from 1970 on, got 1 ms before it"):
        campaigns.clicked(conn, -1)
