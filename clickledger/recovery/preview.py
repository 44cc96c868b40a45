"""What a plan would do, from parts of its range chosen at random: flips, money, duration; and what stays as it is."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import authority, authority_map, canonical, database, deployments, runs
from clickledger.recovery import block_ranges, redecide, sampling
from clickledger.recovery.plans import Plan
from clickledger.recovery.sampling import Estimate, Interval
from clickledger.scoring import decide, feature_spec, rescore
from clickledger.scoring import model as models_

SAMPLE_UNITS, SAMPLE_UNIT_CLICKS = 40, 500  # runs of neighbouring batches: reading one costs little more than one batch
RECOUNTED_UNITS = 4  # whole chunks: each reads the clicks of the longest window before it, which small parts would too
FASTEST, SLOWEST = 0.1, 0.9  # quantiles of the sampled parts' times, for the shortest and longest duration
LEFT = "left the ledger with their day"
SELECT_LOGGED = """
    SELECT coalesce(sum(row_count), 0)::bigint FROM log
    WHERE position >= %s AND position < %s AND kind = 'clicks_decided'"""
COUNT_UNDECIDABLE = """
    SELECT feature_schema, count(*) FROM clicks
    WHERE log_position >= {lo} AND log_position < {hi} AND feature_schema NOT IN ({fed}) GROUP BY 1 ORDER BY 1"""
COUNT_UNCOUNTED = """
    SELECT reason, count(*) FROM decisions
    WHERE log_position >= {lo} AND log_position < {hi} AND verdict = 'undecided' AND reason = ANY (%s)
    GROUP BY 1 ORDER BY 1"""


class Seconds(NamedTuple):
    """How long it is likely to take, and between which durations, by how much the sampled parts differed."""

    value: float
    shortest: float
    longest: float


@dataclass(frozen=True)
class Preview:
    """What a plan would do: clicks in its range, chunks, an estimate from a sample, and what stays as it is."""

    clicks: int
    chunks: int
    estimate: Estimate
    clicks_per_second: float  # of one worker, as measured on the sample
    seconds: Seconds  # with the given number of workers
    not_replayed: dict[str, int] = field(default_factory=dict)  # reason -> clicks

    def fields(self) -> dict[str, Any]:
        """All of it as JSON takes it: an interval that is not known has no bounds."""
        found: dict[str, Any] = _finite(asdict(self))
        found["estimate"]["flips"] = self.estimate.flips
        return found


def preview(conn: database.Connection, plan: Plan, workers: int = 1, seed: int = 0) -> Preview:
    """What the plan would change and how long it would take with so many workers. Writes nothing.

    Raises Refused when the range holds no click.
    """
    batches = runs.batches(conn, plan.lo, plan.hi)
    rescored = plan.mode == runs.RESCORE
    chunk_rows = runs.CHUNK_ROWS if rescored else runs.RECOUNTED_CHUNK_ROWS
    units = runs.cut(batches, plan.lo, plan.hi, SAMPLE_UNIT_CLICKS if rescored else chunk_rows)
    if not units:
        raise errors.Refused(f"positions [{plan.lo}, {plan.hi}) hold no click: nothing to replay")
    block_ranges.summarise(conn)
    most = SAMPLE_UNITS if rescored else RECOUNTED_UNITS
    chosen = random.Random(seed).sample(units, min(len(units), most))
    sampled, seconds = _sample(conn, plan, chosen)
    estimate = sampling.estimate(sampled, len(units), plan.row_count)
    return Preview(
        clicks=plan.row_count,
        chunks=len(runs.cut(batches, plan.lo, plan.hi, chunk_rows)),
        estimate=estimate,
        clicks_per_second=estimate.sampled_clicks / sum(seconds),
        seconds=_duration(seconds, [unit.clicks for unit in sampled], plan.row_count, workers),
        not_replayed=_not_replayed(conn, plan),
    )


def _sample(
    conn: database.Connection, plan: Plan, units: Sequence[runs.Chunk]
) -> tuple[list[sampling.Unit], list[float]]:
    """What would change in each part, and the seconds that deciding it took.

    Reading many small parts costs what writing adds to whole chunks (measured: 73k and 79k clicks/s).
    """
    run, judges = as_run(plan), redecide.Judges(conn)
    pieces = authority.in_force(conn)
    found, seconds = [], []
    if plan.model_version != runs.OWN:
        judges.of((plan.model_version, plan.calibration_version))  # loading it is no part of what a click takes
    for lo, hi, _ in units:
        began = time.perf_counter()
        clicks = redecide.read(conn, lo, hi)
        decided = redecide.decisions(conn, run, lo, hi, clicks, judges)
        seconds.append(time.perf_counter() - began)
        before = _verdicts_in_force(conn, pieces, lo, hi)
        found.append(sampling.changes(clicks, decided.verdict, [before[click] for click in clicks.click_id]))
    return found, seconds


def _duration(seconds: Sequence[float], sizes: Sequence[int], clicks: int, workers: int) -> Seconds:
    each = sorted(took / size for took, size in zip(seconds, sizes, strict=True))
    rates = (sum(seconds) / sum(sizes), *(each[round(q * (len(each) - 1))] for q in (FASTEST, SLOWEST)))
    return Seconds(*(rate * clicks / workers for rate in rates))


def as_run(plan: Plan) -> runs.Run:
    """The run the plan would become, for deciding only."""
    scope = canonical.canonical_json(plan.scope)
    versions = (plan.model_version, plan.calibration_version)
    return runs.Run(
        0,
        plan.lo,
        plan.hi,
        plan.mode,
        *versions,
        scope,
        plan.row_count,
        plan.incident_id,
        "planned",
        None,
        kind=plan.kind,
        routes_text=None if plan.routes is None else canonical.canonical_json(plan.routes),
    )


def _verdicts_in_force(
    conn: database.Connection, pieces: list[authority_map.Piece], lo: int, hi: int
) -> dict[bytes, str]:
    query = authority.rows_between(pieces, lo, hi, "uuid_send(click_id), verdict::text")
    with conn.cursor(binary=True) as cursor:
        return {row[0]: row[1] for row in cursor.execute(query.encode(), prepare=False)}


def _not_replayed(conn: database.Connection, plan: Plan) -> dict[str, int]:
    """Clicks of the range that keep the decision they have, by why."""
    bounds = {"lo": int(plan.lo), "hi": int(plan.hi), "fed": ", ".join(map(str, _feeding(conn, plan)))}
    by_schema = conn.execute(COUNT_UNDECIDABLE.format(**bounds).encode()).fetchall()
    counting = list(rescore.COUNTING_REASONS)
    uncounted = conn.execute(COUNT_UNCOUNTED.format(**bounds).encode(), (counting,)).fetchall()
    [(logged,)] = conn.execute(SELECT_LOGGED, (plan.lo, plan.hi)).fetchall()
    found = {f"{_unread(schema)} {schema}": count for schema, count in by_schema}
    found |= {f"{decide.UNDECIDED}: {reason}": count for reason, count in uncounted}
    return found | ({LEFT: logged - plan.row_count} if logged > plan.row_count else {})


def _feeding(conn: database.Connection, plan: Plan) -> list[int]:
    """The schemas of the snapshots that the plan's model reads; each model reads what it decided by itself."""
    if plan.model_version == runs.OWN:
        return list(feature_spec.SCHEMAS)
    return feature_spec.feeding(models_.schema_of(deployments.load_artefact(conn, plan.model_version)))


def _unread(schema: int) -> str:
    return redecide.SHORT_SNAPSHOT if schema in feature_spec.SCHEMAS else redecide.UNKNOWN_SCHEMA


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Interval", "Preview", "preview"]
