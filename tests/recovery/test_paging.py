"""Pages: rates beside the same hour of earlier weeks. They say what stands out, once, and act on nothing."""

from __future__ import annotations

import numpy as np
import pytest
from decided_traffic import STABLE_LIMIT, Traffic, deploy, register

from clickledger.ledger import database, deployments, log
from clickledger.recovery import pages, paging, rollback, ticks
from clickledger.recovery.paging import Minute, Reading, Standing

WEEK_MINUTES = 7 * 24 * 60
NAMES = pages.SUMMED
IVR = next(share for share in paging.SHARES if share.name == "ivr")


def minutes(seed: int, start: int, n: int, clicks: float = 600.0, ivr: float = 0.2, drop: float = 1.0) -> list[Minute]:
    """n minutes of simulated counts; bursts make single minutes differ by more than chance."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(n):
        seen = int(draw.poisson(clicks * drop))
        share = min(0.95, ivr * draw.gamma(50, 1 / 50))
        counts = dict.fromkeys(NAMES, 0) | {"clicks": seen, "invalid": int(draw.binomial(seen, share))}
        counts |= {"loyal": seen // 10, "loyal_invalid": int(draw.binomial(seen // 10, 0.01))}
        counts |= {"hot": seen // 10, "hot_invalid": int(draw.binomial(seen // 10, 0.9))}
        made.append(Minute(start + i, 1000 + i, counts | {pages.ARRIVED: counts["clicks"]}))
    return made


def judged(now: list[Minute], weeks: int = 4) -> list[Reading]:
    earlier = [m for week in range(1, weeks + 1) for m in minutes(week, now[0].at - week * WEEK_MINUTES, len(now))]
    return pages.judge({"*": now}, {"*": earlier} if weeks else {})


def raised(readings: list[Reading]) -> set[tuple[str, str]]:
    return {(r.signal, r.direction) for r in readings if r.evidence >= r.pages_at}


def test_an_ordinary_hour_pages_nobody() -> None:
    for seed in range(20):
        assert not raised(judged(minutes(100 + seed, 60 * 30, 120)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ivr": 0.45}, ("ivr", "up")),
        ({"ivr": 0.02}, ("ivr", "down")),
        ({"drop": 0.2}, ("rate", "down")),
        ({"drop": 0.0}, ("rate", "down")),
        ({"drop": 3.0}, ("rate", "up")),
    ],
    ids=str,
)
def test_what_stands_out_pages(change: dict[str, float], expected: tuple[str, str]) -> None:
    now = [*minutes(100, 60 * 30, 60), *minutes(101, 60 * 31, 60, **change)]
    assert expected in raised(judged(now))


def test_the_onset_is_the_last_zero_of_the_cusum() -> None:
    now = [*minutes(100, 60 * 30, 60), *minutes(101, 60 * 31, 60, ivr=0.45)]
    [reading] = [r for r in judged(now) if (r.signal, r.direction) == ("ivr", "up")]
    assert abs(reading.onset_position - 1000) <= 62  # positions begin at 1000 in both halves
    assert reading.observed > reading.expected


def test_without_an_earlier_week_nothing_is_judged() -> None:
    assert not raised(judged(minutes(1, 60 * 30, 120, ivr=0.9), weeks=0))


def test_bursts_of_earlier_weeks_make_it_slower_to_page() -> None:
    calm = [Minute(i, i, {"clicks": 100, "invalid": 10}) for i in range(60)]
    stormy = [Minute(i, i, {"clicks": 100, "invalid": 60 if i % 12 == 0 else 5}) for i in range(60)]
    [one, other] = [paging.baseline(past, IVR) for past in (calm, stormy)]
    assert one is not None and other is not None
    assert one.dispersion == 1.0 and other.dispersion > 10.0


def reading(evidence: float) -> Reading:
    return Reading("ivr", "*", "up", evidence, 1.0, 1.0, 1, 25.0, 6.0)


@pytest.mark.parametrize(
    ("evidence", "standing", "expected"),
    [
        (30.0, None, (1, 0)),
        (20.0, None, (0, 0)),
        (30.0, Standing(True, 0.0), (0, 0)),  # stands already
        (20.0, Standing(True, 0.0), (0, 0)),  # hysteresis
        (5.0, Standing(True, 0.0), (0, 1)),
        (30.0, Standing(False, 9_000.0), (0, 0)),  # cooldown
        (30.0, Standing(False, 1_000.0), (1, 0)),
    ],
)
def test_hysteresis_and_cooldown(evidence: float, standing: Standing | None, expected: tuple[int, int]) -> None:
    known = {} if standing is None else {("ivr", "*", "up"): standing}
    found = paging.transitions([reading(evidence)], known, 10_000.0)
    assert tuple(map(len, found)) == expected


def test_equal_distributions_of_scores_have_no_distance_and_moved_ones_do() -> None:
    before = [1_000, 5_000, 3_000, 1_000]
    assert paging.psi(before, [2 * n for n in before]) == pytest.approx(0.0, abs=1e-6)
    assert paging.psi([1_000, 1_000, 3_000, 5_000], before) > paging.PSI_PAGES
    assert paging.read_scores([10] * 4, before, 1) is None


def test_a_page_is_an_entry_once_and_another_one_when_it_is_over(conn: database.Connection) -> None:
    stable = register(conn, STABLE_LIMIT)
    deploy(conn, stable)
    traffic = Traffic(conn)
    for _ in range(3):
        traffic.append(400)
    ticks.fold(conn, ticks.Rules(60.0, 0.0))
    rows = ticks.between(conn, 1, log.head(conn).position + 1, ticks.Rules(60.0, 0.0))
    now = rows[0].at // 60 * 60 + 3 * 3600
    everything_is_folded(conn)
    keep(conn, rows, now, [(week, 1.0) for week in range(1, 5)])
    keep(conn, rows, now, [(0, 6.0)])
    paged = pages.page(conn, "tests", now)
    assert ("ivr", "up") in {(r.signal, r.direction) for r in paged}
    assert pages.page(conn, "tests", now) == []
    entries = log.read(conn, kinds=[pages.PAGED])
    assert len(entries) == len(paged)
    payload = entries[0].payload
    assert payload["deployment_epoch"] == deployments.current(conn).epoch
    assert payload["affected"][0] <= payload["affected"][1]
    conn.execute("DELETE FROM signal_ticks WHERE at > to_timestamp(%s) - interval '1 day'", (now,))
    keep(conn, rows, now, [(0, 1.0)])
    pages.page(conn, "tests", now)
    assert not any(state.open for state, _ in pages.standing(conn).values())
    assert len(log.read(conn, kinds=[pages.CLEARED])) == len(paged)


def test_weeks_that_were_rolled_back_are_no_silence(conn: database.Connection) -> None:
    stable, bad = register(conn, STABLE_LIMIT), register(conn, STABLE_LIMIT - 1)
    deploy(conn, stable)
    revoked = deploy(conn, bad, stable)
    traffic = Traffic(conn)
    for _ in range(3):
        traffic.append(400)
    rollback.roll_back(conn, bad[0], "tests")
    ticks.fold(conn, ticks.Rules(60.0, 0.0))
    rows = ticks.between(conn, 1, log.head(conn).position + 1, ticks.Rules(60.0, 0.0))
    now = (rows[0].at // 3600 + 4) * 3600  # the hours of earlier weeks are whole then
    conn.execute("DELETE FROM signal_ticks")  # those of the traffic itself stand out
    everything_is_folded(conn)
    keep(conn, rows, now, [(week, 1.0) for week in range(5)])
    conn.execute(
        "UPDATE signal_ticks SET deployment_epoch = %s WHERE at < to_timestamp(%s) - interval '10 days'"
        " AND extract(epoch FROM to_timestamp(%s) - at)::bigint %% 604800 < 5400",  # the second half of each
        (revoked, now, now),
    )
    rates = [r for r in pages.look(conn, now) if r.signal == "rate"]
    assert rates and [r for r in rates if r.evidence > 0] == []


def test_minutes_that_are_not_folded_yet_are_no_silence(conn: database.Connection) -> None:
    """As after an upgrade of the workers that fold: `pages` looks at once, the ticks come a moment later."""
    deploy(conn, register(conn, STABLE_LIMIT))
    traffic = Traffic(conn)
    traffic.append(400)
    rows = ticks.between(conn, 1, log.head(conn).position + 1, ticks.Rules(60.0, 0.0))
    now = rows[0].at // 60 * 60 + 10 * 60  # ten minutes in which nothing was folded
    keep(conn, rows, now - 10 * 60, [(0, 1.0)])
    keep(conn, rows, (now // 3600 + 1) * 3600, [(week, 1.0) for week in range(1, 5)])
    assert ("rate", "down") not in raised([r for r in pages.look(conn, now) if r.slice == "app/in"])
    everything_is_folded(conn)
    assert ("rate", "down") in raised([r for r in pages.look(conn, now) if r.slice == "app/in"])


def everything_is_folded(conn: database.Connection) -> None:
    """As if the ticks of what was appended were over and folded."""
    conn.execute("UPDATE signal_ticks_upto SET position = (SELECT max(position) FROM log)")


def keep(conn: database.Connection, rows: list[ticks.Row], now: float, weeks: list[tuple[int, float]]) -> None:
    """The same counts in every minute of three hours of some weeks ago, with `times` as many invalid clicks."""
    merged = {name: sum(row.counts[name] for row in rows if row.slice == "app/in") for name in NAMES}
    columns = ", ".join([*NAMES, *(name for name in ticks.COUNTS if name not in (*NAMES, "scores"))])
    for week, times in weeks:
        counts = merged | {"invalid": min(merged["clicks"], int(merged["invalid"] * times))}
        values = ", ".join(map(str, [*counts.values(), *[0] * (len(ticks.COUNTS) - len(NAMES) - 1)]))
        conn.execute(
            f"INSERT INTO signal_ticks (at, deployment_epoch, model_version, slice, first_position, last_position, "
            f"{columns}, scores) SELECT to_timestamp(%s - 60 * minute), 1, 1, 'app/in', 1, 2, {values}, '{{0}}' "
            f"FROM generate_series(0, 180) AS minute",
            (now - week * 7 * 86_400,),
        )
