"""A training set: what the ledger recorded up to a log position, labelled by what had become of it by a cut-off.

Invariants:
- snapshots are taken as they were recorded, never recomputed;
- the same ledger and recipe give the same arrays and so the same digest, whatever has been appended since;
- the entry of a set holds its recipe, so the set can be made again from its entry alone, and is compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, VerificationFailed
from clickledger.ledger import database, deployments, log
from clickledger.scoring import feature_spec, label_caps, labels, warmth
from clickledger.scoring.labels import LabelRules
from clickledger.scoring.recipe import Recipe

Stretch = labels.Stretch
OUTCOME_KINDS = labels.OUTCOME_KINDS
FETCH_ROWS = 20_000

# Counted clicks only: the others have no snapshot to learn from.
SELECT_CLICKS = """
    SELECT click_id, user_key, slice, features, ip_key, campaign_id, counter_epoch, feature_schema FROM clicks
    WHERE log_position > %(after)s AND log_position <= %(up_to)s AND feature_schema = ANY (%(schemas)s) AND seq > 0
    ORDER BY seq"""
SELECT_OTHER_SCHEMA = """
    SELECT 1 FROM clicks WHERE log_position > %s AND log_position <= %s AND feature_schema <> ALL (%s) AND seq > 0
    LIMIT 1"""
# An account's outcomes count wherever its click was, so the click is looked up before the training range, too. Not
# after it: an outcome may be recorded before its click, and what comes after the range must change nothing.
SELECT_OUTCOMES = """
    SELECT o.click_id, c.user_key, o.occurred_at_ms, o.value_micros FROM outcomes o JOIN clicks c USING (click_id)
    WHERE o.log_position <= %(up_to)s AND c.log_position <= %(up_to)s
      AND o.occurred_at_ms <= %(cutoff_ms)s AND o.kind = ANY(%(kinds)s)"""
SELECT_GONE_DAYS = """
    SELECT day::text FROM detached_days WHERE first_position <= %s AND last_position > %s ORDER BY day"""


class ClickRow(NamedTuple):
    """What a training set takes of a click."""

    click_id: bytes  # UUIDv7, event time inside
    user_key: bytes
    slice: str
    features: bytes  # snapshot as stored
    ip_key: bytes = b""  # empty where unknown: it is capped by nothing then
    campaign_id: str = ""


class OutcomeRow(NamedTuple):
    """What a training set takes of an outcome."""

    click_id: bytes
    user_key: bytes  # of the click
    occurred_at_ms: int
    value_micros: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """n labelled clicks, one array a column, in the order they were counted."""

    features: npt.NDArray[np.int32]  # (n, k) snapshots
    human: npt.NDArray[np.bool_]  # (n,) weak label
    purchased: npt.NDArray[np.bool_]  # (n,) led to an outcome itself
    user: npt.NDArray[np.int64]  # (n,) index of the account, 0 based
    slice: npt.NDArray[np.str_]  # (n,)
    event_time_ms: npt.NDArray[np.int64]  # (n,)

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise InvalidInput(f"dataset: expected columns of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.human)

    def where(self, rows: npt.NDArray[np.bool_]) -> Dataset:
        """The rows for which a flag (n,) is set."""
        return Dataset(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def between(self, from_ms: int, to_ms: int) -> Dataset:
        """The clicks of one stretch of event time, [from_ms, to_ms)."""
        return self.where((self.event_time_ms >= from_ms) & (self.event_time_ms < to_ms))

    def digest(self) -> str:
        """SHA-256 over every column's name, type, shape and values, length-prefixed; hex."""
        sha = hashlib.sha256(b"clickledger/dataset/1\0")
        for field in fields(self):
            column = _canonical(getattr(self, field.name))
            for part in (field.name.encode(), str(column.dtype).encode(), str(column.shape).encode(), column.tobytes()):
                sha.update(len(part).to_bytes(8, "big") + part)
        return sha.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts, window and digest: JSON values for log entries and artefacts."""
        return {
            "rows": len(self),
            "human": int(self.human.sum()),
            "purchased": int(self.purchased.sum()),
            "from_ms": int(self.event_time_ms.min()) if len(self) else None,
            "to_ms": int(self.event_time_ms.max()) if len(self) else None,
            "digest": self.digest(),
        }


@dataclass(frozen=True, eq=False)
class Assembled:
    """A training set, and beside it what guardrails look at but nothing is trained on."""

    dataset: Dataset
    outcomes: labels.Outcomes
    ip: npt.NDArray[np.int64]  # (n,) index into `ips`, `label_caps.UNKNOWN` without one
    campaign: npt.NDArray[np.int64]  # (n,) index into `campaigns`
    users: Sequence[bytes]  # pseudonyms by the index of the account
    ips: Sequence[bytes]
    campaigns: Sequence[str]
    capped: int  # human labels that a cap dropped
    cold: int = 0  # clicks that were left out since their windows were not full


def build(
    conn: database.Connection,
    up_to_position: int,
    label_cutoff_ms: int,
    *,
    after_position: int = 0,
    rules: LabelRules = labels.AS_RECORDED,
    withheld: Sequence[Stretch] = (),
) -> Dataset:
    """The counted clicks recorded in (after_position, up_to_position], labelled by outcomes up to the cut-off.

    Outcomes count if they were recorded by `up_to_position`, as their click was, and happened by the cut-off.
    `withheld`: see `labels.label`.
    """
    recipe = Recipe(up_to_position, label_cutoff_ms, after_position, rules, tuple(withheld))
    return gather(conn, recipe).dataset


def gather(conn: database.Connection, recipe: Recipe) -> Assembled:
    """What a recipe gives on this ledger, of all snapshots that have what its schema has.

    Raises InvalidInput for snapshots of a schema unknown here.
    """
    schema = recipe.feature_schema
    bounds = {
        "after": recipe.after_position,
        "up_to": recipe.up_to_position,
        "schemas": feature_spec.feeding(schema) or [schema],
    }
    known = {
        "up_to": recipe.up_to_position,
        "cutoff_ms": recipe.label_cutoff_ms,
        "kinds": list(recipe.rules.outcome_kinds),
    }
    found = warmth.read(conn, recipe.up_to_position) if recipe.rules.warm_only else None
    clicks, cold = [], 0
    for c, u, s, f, ip, campaign, epoch, of in _rows(conn, SELECT_CLICKS, bounds):
        if found is not None and found.is_cold(epoch, _time_ms(c.bytes)):
            cold += 1
        else:
            snapshot = feature_spec.cut_snapshot(bytes(f), of, schema)
            clicks.append(ClickRow(c.bytes, u.bytes, s, snapshot, ip.bytes, campaign))
    outcomes = [OutcomeRow(c.bytes, u.bytes, at, v) for c, u, at, v in _rows(conn, SELECT_OUTCOMES, known)]
    made = assembled(
        clicks,
        outcomes,
        rules=recipe.rules,
        withheld=recipe.withheld,
        end_ms=recipe.end_ms if recipe.rules.maturity_ms else None,
        feature_schema=schema,
    )
    return replace(made, cold=cold)


def schema_for(conn: database.Connection, up_to_position: int, after_position: int = 0) -> int:
    """The schema of a set of the clicks of these positions: the one in force now if all of them have what it has.

    Else that of what all of them have: facts are known from the deployment on that first named a table of them.
    """
    facts_version = deployments.facts_version(deployments.current(conn).routing)
    wanted = feature_spec.recorded_schema(facts_version)
    if wanted == feature_spec.SCHEMA_VERSION:
        return wanted
    bounds = (after_position, up_to_position, feature_spec.feeding(wanted))
    lacking = conn.execute(SELECT_OTHER_SCHEMA, bounds, prepare=False).fetchone()
    return wanted if lacking is None else feature_spec.SCHEMA_VERSION


def assemble(
    clicks: Sequence[ClickRow],
    outcomes: Iterable[OutcomeRow],
    *,
    rules: LabelRules = labels.AS_RECORDED,
    withheld: Sequence[Stretch] = (),
) -> Dataset:
    """Label clicks by the outcomes known of them and of their accounts; pure. `withheld`: see `labels.label`.

    All clicks are taken: how old they are at the cut-off, whoever reads them decides.
    """
    return assembled(clicks, outcomes, rules=rules, withheld=withheld).dataset


def assembled(
    clicks: Sequence[ClickRow],
    outcomes: Iterable[OutcomeRow],
    *,
    rules: LabelRules = labels.AS_RECORDED,
    withheld: Sequence[Stretch] = (),
    end_ms: int | None = None,
    feature_schema: int = feature_spec.SCHEMA_VERSION,
) -> Assembled:
    """Like `assemble`, with what guardrails look at; clicks from `end_ms` on are left out, their outcomes are not."""
    if end_ms is not None:
        clicks = [click for click in clicks if _time_ms(click.click_id) < end_ms]
    outcomes = list(outcomes)
    users = _indices(chain((click.user_key for click in clicks), (outcome.user_key for outcome in outcomes)))
    ips = _indices(click.ip_key for click in clicks if click.ip_key)
    campaigns = _indices(click.campaign_id for click in clicks)
    columns = labels.Clicks(
        click_id=[click.click_id for click in clicks],
        time_ms=event_times_ms([click.click_id for click in clicks]),
        user=_ints(users[click.user_key] for click in clicks),
        ip=_ints(ips.get(click.ip_key, label_caps.UNKNOWN) for click in clicks),
    )
    rows = {click_id: row for row, click_id in enumerate(columns.click_id)}
    known = labels.Outcomes(
        click=_ints(rows.get(outcome.click_id, -1) for outcome in outcomes),
        user=_ints(users[outcome.user_key] for outcome in outcomes),
        clicked_at_ms=event_times_ms([outcome.click_id for outcome in outcomes]),
        occurred_at_ms=_ints(outcome.occurred_at_ms for outcome in outcomes),
        value_micros=_ints(outcome.value_micros for outcome in outcomes),
    )
    labelled = labels.label(columns, known, rules, withheld)
    dataset = Dataset(
        features=feature_spec.unpack_snapshots([click.features for click in clicks], feature_schema),
        human=labelled.human,
        purchased=labelled.purchased,
        user=columns.user,
        slice=np.array([click.slice for click in clicks], dtype=np.str_),
        event_time_ms=columns.time_ms,
    )
    campaign = _ints(campaigns[click.campaign_id] for click in clicks)
    return Assembled(dataset, known, columns.ip, campaign, list(users), list(ips), list(campaigns), labelled.capped)


def record_built(
    conn: database.Connection,
    built: Dataset,
    recipe: Recipe,
    *,
    actor: str,
    reason: str = "",
    weights: npt.NDArray[np.float32] | None = None,
    cold: int = 0,
    told: Mapping[str, Any] | None = None,
) -> log.Entry:
    """Append the `dataset_built` entry: recipe, counts and digest of a set, and the digest of its sample weights.

    `cold`: the clicks of its range that were left out as such. `told`: what else the entry is to say.
    """
    payload = {**recipe.to_payload(), **built.summary(), "cold": cold, **(told or {})}
    if weights is not None:
        payload["weights_digest"] = weights_digest(weights)
    return log.record(conn, "dataset_built", payload, actor, reason)


def rebuild(conn: database.Connection, position: int) -> Dataset:
    """The set of the `dataset_built` entry at a position, made again from that entry and the ledger alone.

    Raises NotFound, InvalidInput when the entry is of another kind or of a recipe unknown here, VerificationFailed
    naming what differs from the entry, and the days that left the ledger since, if any did.
    """
    recipe = recipe_of(conn, position)
    built = gather(conn, recipe).dataset
    require_equal(conn, log.entry(conn, position), built, recipe)
    return built


def require_equal(conn: database.Connection, entry: log.Entry, built: Dataset, recipe: Recipe) -> None:
    """Raise VerificationFailed, naming what differs, unless a set is the one its entry is of."""
    stated, found = entry.payload, built.summary()
    if differing := [name for name, value in found.items() if stated.get(name) != value]:
        told = "; ".join(f"{name}: expected {stated.get(name)}, got {found[name]}" for name in differing)
        raise VerificationFailed(f"set of entry {entry.position}: {told}{_gone(conn, recipe)}")


def recipe_of(conn: database.Connection, position: int) -> Recipe:
    """The recipe that the `dataset_built` entry at a position states. Raises NotFound, InvalidInput."""
    entry = log.entry(conn, position)
    if entry.kind != "dataset_built":
        raise InvalidInput(f"entry {position}: expected kind dataset_built, got {entry.kind}")
    try:
        return Recipe.from_payload(entry.payload)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"entry {position}: expected the recipe of a set: {error!r}") from error


def weights_digest(weights: npt.NDArray[np.float32]) -> str:
    """SHA-256 over sample weights (n,) as little-endian float32; hex."""
    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest()


def hours_of_each_day(from_hour: int, to_hour: int, from_ms: int, to_ms: int) -> list[Stretch]:
    """The stretches [from_hour, to_hour) UTC of every day that [from_ms, to_ms) touches; `to_hour` may pass 24."""
    day = datetime.fromtimestamp(from_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day -= timedelta(days=1)  # a stretch past midnight begins the day before
    stretches = []
    while (midnight := int(day.timestamp()) * 1000) < to_ms:
        stretches.append((midnight + from_hour * feature_spec.HOUR_MS, midnight + to_hour * feature_spec.HOUR_MS))
        day += timedelta(days=1)
    return [stretch for stretch in stretches if stretch[1] > from_ms and stretch[0] < to_ms]


def event_times_ms(click_ids: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The 48-bit times of UUIDv7 ids, (n,)."""
    return _ints(_time_ms(click_id) for click_id in click_ids)


def _rows(conn: database.Connection, query: str, params: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows in steps, off a cursor on the server: a month of clicks does not fit a client's memory twice.

    It outlives its transaction, which the server would end while somebody thinks for long between two steps.
    """
    with conn.cursor(name="dataset", binary=True, withhold=True) as cursor:
        cursor.itersize = FETCH_ROWS
        yield from cursor.execute(query, params)


def _gone(conn: database.Connection, recipe: Recipe) -> str:
    """In words, the days of the recipe's range that were detached since; nothing when none were."""
    days = [day for (day,) in conn.execute(SELECT_GONE_DAYS, (recipe.up_to_position, recipe.after_position)).fetchall()]
    return f"; clicks of these days left the ledger: {', '.join(days)}" if days else ""


def _indices(keys: Iterable[Any]) -> dict[Any, int]:
    """A number for each distinct key, by first appearance."""
    return {key: i for i, key in enumerate(dict.fromkeys(keys))}


def _time_ms(click_id: bytes) -> int:
    return int.from_bytes(click_id[:6], "big")


def _ints(values: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64)


def _canonical(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Little-endian and packed; texts as UTF-8, so that numpy's width of the longest one has no say."""
    if column.dtype.kind == "U":
        return np.frombuffer("\0".join(column.tolist()).encode(), dtype=np.uint8)
    return np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<"))
