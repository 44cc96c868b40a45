"""The newest clicks of the ledger, on which two models are compared: whole days, whole accounts, a sample of many.

Invariants:
- snapshots are taken as they were recorded, cold ones too, as those are decided as well; none of the clicks is older
  than asked for;
- of an account all clicks are taken or none, so what is said of accounts holds;
- the same bounds give the same clicks, and they are stated (`summary`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.ledger import database, log
from clickledger.scoring import dataset, feature_spec, label_caps, labels
from clickledger.scoring.dataset import ClickRow, OutcomeRow
from clickledger.scoring.findings import DAY_MS, HOUR_MS, Limits

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

BATCHES = 50  # the newest ones, to tell how late it is: any one may hold late clicks alone
SHARES = 1 << 16
# An account is drawn by the last bytes of its pseudonym, which are as good as random.
DRAWN = "(get_byte(uuid_send(c.user_key), 14) << 8 | get_byte(uuid_send(c.user_key), 15)) < %(draw)s"
COUNTED = "log_position <= %(up_to)s AND feature_schema = ANY (%(schemas)s) AND seq > 0"
SELECT_NEWEST = f"""
    SELECT max(click_time_ms(click_id)) FROM clicks WHERE {COUNTED} AND log_position >= (
        SELECT min(position) FROM (
            SELECT position FROM log WHERE kind = 'clicks_decided' AND position <= %(up_to)s
            ORDER BY position DESC LIMIT {BATCHES}) newest)"""
COUNT_CLICKS = f"SELECT count(*) FROM clicks WHERE {COUNTED} AND click_id >= smallest_click_id(%(from_ms)s)"
SELECT_CLICKS = f"""
    SELECT click_id, user_key, slice, features, feature_schema FROM clicks c
    WHERE {COUNTED} AND click_id >= smallest_click_id(%(from_ms)s) AND {DRAWN} ORDER BY seq, click_id"""
SELECT_OUTCOMES = f"""
    SELECT o.click_id, c.user_key, o.occurred_at_ms, o.value_micros FROM outcomes o JOIN clicks c USING (click_id)
    WHERE o.log_position <= %(up_to)s AND c.log_position <= %(up_to)s AND o.kind = ANY(%(kinds)s) AND {DRAWN}"""


@dataclass(frozen=True, eq=False)
class RecentClicks:
    """n clicks, one array a column, in the order they were counted, and the bounds that gave them."""

    features: npt.NDArray[np.int32]  # (n, k) snapshots
    purchased: Flags  # (n,) led to an outcome, as far as is known
    known: Flags  # (n,) the account had bought long enough before
    user: Ints  # (n,) index of the account
    slice: npt.NDArray[np.str_]  # (n,)
    event_time_ms: Ints  # (n,)
    from_ms: int
    up_to_position: int
    user_share: float  # of the accounts that were drawn

    def __len__(self) -> int:
        return len(self.user)

    def summary(self) -> dict[str, Any]:
        """JSON values for an entry: how many, and the bounds."""
        return {
            "from_ms": self.from_ms,
            "up_to_position": self.up_to_position,
            "user_share": self.user_share,
            "feature_schema": feature_spec.schema_of(self.features),
            "rows": len(self),
            "purchased": int(self.purchased.sum()),
            "known_customers": len(np.unique(self.user[self.known])),
        }


def read(
    conn: database.Connection,
    limits: Limits,
    after_ms: int | None = None,
    schema: int = feature_spec.SCHEMA_VERSION,
) -> RecentClicks:
    """The counted clicks of the newest `behaviour_days` of event time, after `after_ms`; about `sample_rows_max`.

    Those with a snapshot that has what `schema` has: all models that are compared read the same clicks.
    """
    up_to = log.head(conn).position
    bounds: dict[str, Any] = {"up_to": up_to, "schemas": feature_spec.feeding(schema)}
    newest_ms = _number(conn, SELECT_NEWEST, bounds)
    from_ms = max(0, newest_ms + 1 - limits.behaviour_days * DAY_MS, 0 if after_ms is None else after_ms + 1)
    bounds["from_ms"] = from_ms
    share = min(1.0, limits.sample_rows_max / max(_number(conn, COUNT_CLICKS, bounds), 1))
    bounds |= {"draw": round(share * SHARES), "kinds": list(labels.OUTCOME_KINDS)}
    clicks = [
        ClickRow(c.bytes, u.bytes, s, feature_spec.cut_snapshot(bytes(f), of, schema))
        for c, u, s, f, of in conn.execute(SELECT_CLICKS, bounds, binary=True).fetchall()
    ]
    outcomes = [OutcomeRow(c.bytes, u.bytes, at, v) for c, u, at, v in conn.execute(SELECT_OUTCOMES, bounds).fetchall()]
    return assembled(clicks, outcomes, limits, from_ms, up_to, bounds["draw"] / SHARES, schema)


def assembled(
    clicks: list[ClickRow],
    outcomes: list[OutcomeRow],
    limits: Limits,
    from_ms: int,
    up_to: int,
    share: float = 1.0,
    schema: int = feature_spec.SCHEMA_VERSION,
) -> RecentClicks:
    """Clicks with what is known of their accounts; pure."""
    made = dataset.assembled(clicks, outcomes, feature_schema=schema)
    built = made.dataset
    known = known_customers(made.outcomes, built.user, built.event_time_ms, limits)
    columns = (built.features, built.purchased, known, built.user, built.slice, built.event_time_ms)
    return RecentClicks(*columns, from_ms, up_to, share)


def known_customers(outcomes: labels.Outcomes, user: Ints, event_time_ms: Ints, limits: Limits) -> Flags:
    """Which clicks (n,) are of accounts that had bought `known_age_hours` before. Whoever buys in bulk is not known."""
    bulk = label_caps.in_bulk(label_caps.Caps(), outcomes.user, outcomes.clicked_at_ms // DAY_MS)
    believed = outcomes.where(~bulk)
    accounts = 1 + max(int(user.max(initial=-1)), int(outcomes.user.max(initial=-1)))
    since_ms = np.full(accounts, np.iinfo(np.int64).max)
    np.minimum.at(since_ms, believed.user, believed.occurred_at_ms)
    known: Flags = since_ms[user] <= event_time_ms - int(limits.known_age_hours * HOUR_MS)
    return known


def _number(conn: database.Connection, query: str, bounds: dict[str, Any]) -> int:
    row = conn.execute(query.encode(), bounds).fetchone()
    return int(row[0] or 0) if row else 0
