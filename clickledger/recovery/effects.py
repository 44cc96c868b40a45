"""What publishing a run changes, in detail: who flips, where, when, how narrowly, and what it means for the rates.

Read from the run's decisions beside those in force as of its newest comparison, in one snapshot and one pass; money is
that of the clicks, before closed periods make write-offs of some of it (the comparison says those).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import authority, comparison, database, runs
from clickledger.ledger.authority_map import SPARSE
from clickledger.ledger.comparison import Comparison
from clickledger.scoring import decide
from clickledger.scoring.dataset import OUTCOME_KINDS

BAND_EDGES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # logits between a score and its threshold
SAMPLE = 20
ALL, SLICE, ADVERTISER, CAMPAIGN, HOUR, BAND = "all", "slice", "advertiser", "campaign", "hour", "band"
GROUPS = (ALL, SLICE, ADVERTISER, CAMPAIGN, HOUR, BAND)

BOTH = """
    SELECT n.click_id, n.slice, n.advertiser_id, n.advertiser_id || ' / ' || n.campaign_id AS campaign, n.currency,
           n.cost_micros, o.verdict AS was, n.verdict AS now, n.carried, to_char(date_trunc('hour',
           to_timestamp(click_time_ms(n.click_id) / 1000.0) AT TIME ZONE 'UTC'), 'YYYY-MM-DD HH24:00') AS hour,
           CASE WHEN n.carried OR n.verdict = 'undecided' THEN NULL
                ELSE width_bucket(abs(n.score - n.threshold)::float8, {edges}) END::text AS band,
           o.model_version AS old_model, o.score AS old_score, o.threshold AS old_threshold, o.reason AS old_reason,
           n.model_version AS new_model, n.score AS new_score, n.threshold AS new_threshold, n.reason AS new_reason,
           n.campaign_id
    FROM ({old}) o JOIN delayed_decisions n ON n.run_id = {run} AND n.click_id = o.click_id{within}"""
SELECT_CELLS = """
    WITH both_sides AS MATERIALIZED (
        SELECT b.*, EXISTS (SELECT FROM outcomes p WHERE p.click_id = b.click_id AND p.kind = ANY (%s)) AS bought
        FROM ({both}) b)
    SELECT GROUPING(slice, advertiser_id, campaign, hour, band),
           coalesce(slice, advertiser_id, campaign, hour, band), currency, was::text, now::text, bought, carried,
           count(*), sum(cost_micros)::bigint
    FROM both_sides
    GROUP BY GROUPING SETS ((currency, was, now, bought, carried), (slice, currency, was, now, bought, carried),
        (advertiser_id, currency, was, now, bought, carried), (campaign, currency, was, now, bought, carried),
        (hour, currency, was, now, bought, carried), (band, currency, was, now, bought, carried))"""
# By a hash of the id: the same clicks every time, and of no particular kind.
SELECT_SAMPLE = """
    SELECT click_id, slice, advertiser_id, campaign_id, currency, cost_micros, was::text, now::text, old_model,
           old_score, old_threshold, old_reason, new_model, new_score, new_threshold, new_reason
    FROM ({both}) b WHERE was <> now ORDER BY md5(click_id::text) LIMIT {limit}"""
GROUPINGS = {0b11111: ALL, 0b01111: SLICE, 0b10111: ADVERTISER, 0b11011: CAMPAIGN, 0b11101: HOUR, 0b11110: BAND}


class Cell(NamedTuple):
    """Clicks with one currency, verdict before and after, outcome and mark, of a group; money in micros."""

    currency: str
    was: str
    now: str
    bought: bool
    carried: bool
    clicks: int
    cost_micros: int


@dataclass(frozen=True)
class Rates:
    """Shares before and after; None where there is nothing to take a share of."""

    clicks: int
    flips: int
    bought: int
    ivr_before: float | None
    ivr_after: float | None
    fpr_before: float | None
    fpr_after: float | None
    change_micros: dict[str, int]  # by currency, of what is billed


@dataclass(frozen=True)
class Effects:
    """All that is told of a run; `cells` by kind of group and its name, `changed` a sample of clicks that flip."""

    compared: Comparison
    cells: dict[str, dict[str, list[Cell]]]
    changed: list[dict[str, Any]]

    @property
    def matrix(self) -> dict[str, dict[str, int]]:
        """Clicks by verdict before and after."""
        found = {was: dict.fromkeys(VERDICTS, 0) for was in VERDICTS}
        for cell in self.cells[ALL].get("", ()):
            found[cell.was][cell.now] += cell.clicks
        return found

    def rates(self, group: str) -> dict[str, Rates]:
        """Rates of each member of a group."""
        return {name: rates_of(cells) for name, cells in sorted(self.cells.get(group, {}).items())}

    @property
    def neighbours(self) -> dict[str, int]:
        """Clicks of the range that the run was not to decide, and how many of them it changes: none."""
        kept = [cell for cell in self.cells[ALL].get("", ()) if cell.carried]
        return {
            "carried": sum(cell.clicks for cell in kept),
            "changed": sum(cell.clicks for cell in kept if cell.was != cell.now),
        }


VERDICTS = (decide.VALID, decide.INVALID, decide.UNDECIDED)


def of_run(conn: database.Connection, run_id: int) -> Effects:
    """What a compared run changes of the decisions in force as of its comparison.

    Raises NotFound before it is compared, Refused for a sparse run, InvariantBroken when a carried click changed.
    """
    run, compared = runs.get(conn, run_id), comparison.latest(conn, run_id)
    if run.kind == SPARSE:
        raise errors.Refused(f"run {run_id} corrects single clicks: expected a run over a range; clickledger why CLICK")
    with database.snapshot(conn):
        for pin in ("SET LOCAL work_mem = '64MB'", "SET LOCAL enable_nestloop = off"):
            conn.execute(pin)
        both = _both(conn, run, compared.compared_at_position)
        rows = conn.execute(SELECT_CELLS.format(both=both).encode(), (list(OUTCOME_KINDS),)).fetchall()
        sampled = conn.execute(SELECT_SAMPLE.format(both=both, limit=SAMPLE).encode()).fetchall()
    cells: dict[str, dict[str, list[Cell]]] = {}
    for grouping, name, *counts in rows:
        cells.setdefault(GROUPINGS[grouping], {}).setdefault(name or "", []).append(Cell(*counts))
    found = Effects(compared, cells, [_changed(row) for row in sampled])
    if changed := found.neighbours["changed"]:
        raise errors.InvariantBroken(f"run {run_id}: expected carried clicks to stay as they are, {changed} changed")
    return found


def _both(conn: database.Connection, run: runs.Run, as_of: int) -> str:
    bounds = runs.click_ids(conn, run)
    old = authority.rows_between(
        authority.in_force(conn, as_of),
        run.lo,
        run.hi,
        click_ids=bounds,
        overriding=authority.overrides(conn, run.lo, run.hi, as_of),
        as_of=as_of,
    )
    edges = f"'{{{','.join(map(str, BAND_EDGES))}}}'::float8[]"
    return BOTH.format(old=old, run=run.run_id, within=authority.within(bounds, "n.click_id"), edges=edges)


def rates_of(cells: Iterable[Cell]) -> Rates:
    """Rates of some clicks; pure."""
    known = list(cells)
    clicks, bought = sum(c.clicks for c in known), sum(c.clicks for c in known if c.bought)

    def share(side: str, of: int, buyers: bool) -> float | None:
        invalid = sum(c.clicks for c in known if getattr(c, side) == decide.INVALID and (c.bought or not buyers))
        return invalid / of if of else None

    change: dict[str, int] = {}
    for cell in known:
        billed = (cell.now == decide.VALID) - (cell.was == decide.VALID)
        change[cell.currency] = change.get(cell.currency, 0) + billed * cell.cost_micros
    return Rates(
        clicks=clicks,
        flips=sum(c.clicks for c in known if c.was != c.now),
        bought=bought,
        ivr_before=share("was", clicks, False),
        ivr_after=share("now", clicks, False),
        fpr_before=share("was", bought, True),
        fpr_after=share("now", bought, True),
        change_micros=change,
    )


def band_name(band: str) -> str:
    """A bucket of the distance between score and threshold, in logits."""
    if not band:
        return "not decided by the run"
    number = int(band)
    edges = ("0", *map(str, BAND_EDGES))
    return f"{edges[number]} to {edges[number + 1]}" if number < len(BAND_EDGES) else f"over {edges[-1]}"


def _changed(row: tuple[Any, ...]) -> dict[str, Any]:
    click_id, slice_, advertiser, campaign, currency, cost, was, now, *sides = row
    old, new = sides[:4], sides[4:]
    return {
        "click_id": str(uuid.UUID(str(click_id))),
        "slice": slice_,
        "advertiser_id": advertiser,
        "campaign_id": campaign,
        "currency": currency,
        "cost_micros": cost,
        "from": was,
        "to": now,
        "because": f"{_why(was, *old)}; now {_why(now, *new)}",
    }


def _why(verdict: str, model: int, score: float, threshold: float, reason: str) -> str:
    if reason or not model:  # what a network decides has no reason: somebody stated it, or nothing could be decided
        return f"{'undecided' if verdict == decide.UNDECIDED else 'stated'}: {reason}"
    beside = "at or above" if score >= threshold else "below"
    return f"model {model} gave {score:.2f}, {beside} its threshold {threshold:.2f}"


def fields(effects: Effects) -> dict[str, Any]:
    """Effects as JSON values."""
    by = {group: {name: vars(rates) for name, rates in effects.rates(group).items()} for group in GROUPS[1:-1]}
    near = {band_name(band): vars(rates) for band, rates in effects.rates(BAND).items()}
    return {
        "run_id": effects.compared.run_id,
        "digest": effects.compared.digest,
        "compared_at_position": effects.compared.compared_at_position,
        "matrix": effects.matrix,
        "rates": vars(effects.rates(ALL)[""]),
        "by": by,
        "distance_to_threshold": near,
        "neighbours": effects.neighbours,
        "changed": effects.changed,
    }
