"""Plans of replays: which positions and why, through which model, what of them; named by a digest, kept as shown.

A plan is made again before it is started: one whose digest is no longer the same describes a ledger that has changed.
Nothing but the plan itself is written before `replay.start`.

Invariants:
- the digest covers the manifest: the range, how many clicks it holds, the chain hash that pins what they are, and the
  newest publication that touches them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from clickledger import errors
from clickledger.ledger import canonical, database, deployments, log, runs
from clickledger.ledger.authority_map import BACKTEST, RANGE
from clickledger.recovery import incidents, redecide, rollback
from clickledger.scoring import feature_spec

Scope = dict[str, list[str]]
Versions = tuple[int, int]  # of a model and a calibration
DOMAIN = b"clickledger:plan:2"
LONGEST_WINDOW = timedelta(milliseconds=feature_spec.LONGEST_WINDOW_MS)
# A replaced deployment may have batches in flight: workers follow within a second, and appends are as short.
IN_FLIGHT = timedelta(minutes=10)
NEWEST_CHANGE = """
    SELECT coalesce(max(greatest(position, reverted_position)), 0) FROM publications
    WHERE positions && int8range(%s, %s)"""
INSERT_PLAN = """
    INSERT INTO replay_plans (digest, plan, preview, made_by) VALUES (%s, %s, %s, %s) ON CONFLICT (digest) DO NOTHING"""
SELECT_DECIDING = """
    SELECT DISTINCT run_id FROM authority WHERE upper_inf(in_force) AND run_id IS NOT NULL ORDER BY run_id"""
SELECT_PLAN = "SELECT digest, plan FROM replay_plans WHERE digest LIKE %s ORDER BY made_at DESC LIMIT 2"
SELECT_DEPLOYMENT = "SELECT from_position, to_position, revoked_position FROM deployments WHERE epoch = %s"
DIGEST_CHARS_MIN = 8


@dataclass(frozen=True)
class Plan:
    """A replay of log positions [lo, hi) through a model and calibration, limited to `scope` ({} = all).

    Versions `runs.OWN` decide each click by the model and calibration that `routes` name for its slice; without routes
    (mode `recompute` only) by those it was decided by.
    """

    lo: int
    hi: int
    model_version: int
    calibration_version: int
    scope: Scope
    incident_id: int | None
    mode: str
    kind: str
    why: str  # where the range comes from, in words
    row_count: int  # clicks of the range that are in the ledger: the manifest
    changed_position: int  # of the newest publication or revert over the range; 0 without any
    last_chain_hash: str  # hexadecimal, of the entry at hi - 1: pins the content of the whole range
    routes: dict[str, list[int]] | None = None  # slice, or "*" for all others -> model and calibration

    @property
    def text(self) -> str:
        """What the digest is over: canonical JSON."""
        return canonical.canonical_json(asdict(self))

    @property
    def digest(self) -> str:
        """The name of the plan, 64 hexadecimal digits."""
        return hashlib.sha256(DOMAIN + self.text.encode()).hexdigest()


@dataclass(frozen=True)
class What:
    """What a range is replayed for: all that a plan says but for its positions."""

    versions: Versions
    scope: Scope | None = None
    mode: str = runs.RESCORE
    kind: str = RANGE
    routes: runs.Routes | None = None


def for_incident(conn: database.Connection, incident_id: int, scope: Scope | None = None) -> Plan:
    """All since the incident's model came into force with its calibration, through the stable one that replaced it.

    Where several replaced it, by slice, each slice goes through its own. Raises NotFound, or Refused when there is no
    stable model, or more than one for a slice.
    """
    incident = incidents.get(conn, incident_id)
    if (range_ := deployments.positions_of_stretch(conn, incident.model_version, incident.deployment_epoch)) is None:
        raise errors.InvariantBroken(f"incident {incident_id}: model {incident.model_version} was never deployed")
    current = deployments.current(conn)
    if incident.model_version in deployments.models_of(current.routing):
        routes = rollback.stable_routes(rollback.choose(conn, incident.model_version).routing)
    else:
        routes = rollback.stable_routes(current.routing)
    why = f"incident {incident_id}: model {incident.model_version} was live"
    pairs = set(routes.values())
    what = What(pairs.pop(), scope) if len(pairs) == 1 else What((runs.OWN, runs.OWN), scope, routes=routes)
    return _plan(conn, *range_, what, why, incident_id)


def also_decided(conn: database.Connection, incident_id: int) -> list[runs.Run]:
    """Runs in force that the incident's model was named to decide; its replay is over what it decided live, not these.

    Raises NotFound.
    """
    model = incidents.get(conn, incident_id).model_version
    return [run for (number,) in conn.execute(SELECT_DECIDING) if model in (run := runs.get(conn, number)).models]


def for_positions(conn: database.Connection, lo: int, hi: int, what: What, why: str = "positions as given") -> Plan:
    """An explicit range. Raises InvalidInput when it is not below the head or what is wanted cannot be."""
    return _plan(conn, lo, hi, what, why, None)


def for_times(conn: database.Connection, since: datetime, until: datetime, what: What) -> Plan:
    """What the log recorded from `since` until `until`, both with a time zone. Raises InvalidInput."""
    now = log.head(conn).recorded_at
    if not since < until <= now:
        raise errors.InvalidInput(f"times: expected since before until, until at most {now}, got {since} and {until}")
    lo, hi = (max(log.first_at(conn, moment), 1) for moment in (since, until))
    if lo == hi:
        raise errors.InvalidInput(f"times: expected entries recorded from {since} until {until}, got none")
    return _plan(conn, lo, hi, what, f"recorded from {since.isoformat()} until {until.isoformat()}", None)


def for_deployment(conn: database.Connection, epoch: int, what: What) -> Plan:
    """What a deployment epoch decided; what others decided in its range is carried. Raises NotFound."""
    row = conn.execute(SELECT_DEPLOYMENT, (epoch,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no deployment {epoch}")
    lo, replaced, revoked = row
    hi = revoked
    if revoked is None and replaced is not None:
        hi = log.first_at(conn, log.entry(conn, replaced).recorded_at + IN_FLIGHT)
    scope = {**(what.scope or {}), redecide.SCOPE_DEPLOYMENTS: [str(epoch)]}
    end = hi or log.head(conn).position + 1
    return _plan(conn, lo, end, replace(what, scope=scope), f"deployment {epoch} was in force", None)


def for_counters(conn: database.Connection, since: datetime, until: datetime, margin: timedelta, what: What) -> Plan:
    """What was decided while counters were wrong, from `since` less a margin, and what they poisoned after `until`.

    Wrong counters spoil what follows for their longest window, or until they were rebuilt from the log. Raises
    InvalidInput.
    """
    if not since < until:
        raise errors.InvalidInput(f"times: expected since before until, got {since} and {until}")
    head = log.head(conn).position + 1
    healed = log.first_at(conn, until)
    hi = log.first_at(conn, until + LONGEST_WINDOW)
    tail = f"the longest window of {LONGEST_WINDOW.total_seconds() / 3600:g} h after that"
    if (rebuilt := _rebuilt(conn, healed, hi)) is not None:
        hi, tail = rebuilt, f"what followed until counters were rebuilt at position {rebuilt}"
    elif hi == head:
        tail += ", as far as it has been recorded: what follows is for another run"
    why = f"counters wrong from {since.isoformat()} until {until.isoformat()}, {margin} before and {tail}"
    lo = max(log.first_at(conn, since - margin), 1)
    return _plan(conn, lo, hi, replace(what, mode=runs.RECOMPUTE), why, None)


def _rebuilt(conn: database.Connection, lo: int, hi: int) -> int | None:
    """Where in [lo, hi) counters were made anew from the log, with nothing kept of what they had held."""
    entries = log.read(conn, after=lo - 1, kinds=["counters_restored"])
    for entry, following in zip_longest(entries, entries[1:]):
        if entry.position < hi and _is_whole(entry.payload) and not _goes_behind(following, entry):
            return entry.position
    return None


def _is_whole(payload: dict[str, Any]) -> bool:
    """Whether restored counters hold all that the log does and nothing else, in full windows."""
    return not _keeps(payload) and payload.get("since_ms") is None


def _goes_behind(following: log.Entry | None, entry: log.Entry) -> bool:
    """Whether the next counters go on from some of before: a set that was not complete never counted."""
    if following is None or not _keeps(following.payload):
        return False
    kept = following.payload["kept"]["counter_epoch"]
    return bool(kept < entry.payload["counter_epoch"])


def _keeps(payload: dict[str, Any]) -> bool:
    """Whether restored counters go on from what they had held."""
    return bool(payload.get("kept_used", payload.get("kept") is not None))


def _plan(conn: database.Connection, lo: int, hi: int, what: What, why: str, incident_id: int | None) -> Plan:
    head = log.head(conn).position
    if not 1 <= lo < hi <= head + 1:
        raise errors.InvalidInput(f"positions: expected a range within [1, {head + 1}), got [{lo}, {hi})")
    allowed = set(redecide.SCOPES)
    if unknown := (what.scope or {}).keys() - allowed:
        raise errors.InvalidInput(f"scope: expected {sorted(allowed)}, got {sorted(unknown)}")
    if what.versions == (runs.OWN, runs.OWN) and what.mode != runs.RECOMPUTE and what.routes is None:
        raise errors.InvalidInput("model: expected a model and its calibration to decide by, got none")
    if what.kind == BACKTEST and incident_id is not None:
        raise errors.InvalidInput("a backtest corrects nothing: expected no incident")
    changed = conn.execute(NEWEST_CHANGE, (lo, hi)).fetchone()
    return Plan(
        lo=lo,
        hi=hi,
        model_version=what.versions[0],
        calibration_version=what.versions[1],
        scope=what.scope or {},
        incident_id=incident_id,
        mode=what.mode,
        kind=what.kind,
        why=why,
        row_count=sum(count for _, count in runs.batches(conn, lo, hi)),
        changed_position=int(changed[0]) if changed else 0,
        last_chain_hash=log.entry(conn, hi - 1).chain_hash.hex(),
        routes=None if what.routes is None else {name: list(pair) for name, pair in what.routes.items()},
    )


def keep(conn: database.Connection, plan: Plan, preview: Mapping[str, Any], actor: str) -> None:
    """Keep a plan with the estimate that was shown, for whoever starts it by its digest."""
    conn.execute(INSERT_PLAN, (plan.digest, plan.text, canonical.canonical_json(preview), actor))


def find(conn: database.Connection, digest: str) -> Plan:
    """A kept plan by its digest, or the first digits of it, as far as the ledger still is what it describes.

    Raises StalePlan for one that is not known or no longer so, and says what changed.
    """
    known = digest if len(digest) >= DIGEST_CHARS_MIN and digest.isalnum() else ""
    rows = conn.execute(SELECT_PLAN, (f"{known}%",)).fetchall() if known else []
    if len(rows) != 1:
        found = "several of that beginning" if rows else "none of that name"
        raise errors.StalePlan(f"plan {digest}: expected one that `replay plan` has shown, got {found}: plan again")
    plan = Plan(**json.loads(rows[0][1]))
    require_current(plan, again(conn, plan))
    return plan


def again(conn: database.Connection, plan: Plan) -> Plan:
    """The same plan made of the ledger as it is now."""
    if plan.incident_id is not None:
        return for_incident(conn, plan.incident_id, plan.scope)
    what = What((plan.model_version, plan.calibration_version), plan.scope, plan.mode, plan.kind, routes_of(plan))
    return _plan(conn, plan.lo, plan.hi, what, plan.why, None)


def routes_of(plan: Plan) -> runs.Routes | None:
    """By which model and calibration each slice is decided; None where one decides them all, or each its own."""
    return None if plan.routes is None else {name: (pair[0], pair[1]) for name, pair in plan.routes.items()}


def require_current(plan: Plan, now: Plan) -> None:
    """Raise StalePlan naming what is different, unless both are the same plan."""
    if plan.digest == now.digest:
        return
    before, after = asdict(plan), asdict(now)
    [name, *_] = [name for name in before if before[name] != after[name]]
    raise errors.StalePlan(
        f"plan {plan.digest[:12]}: expected {name} {before[name]}, got {after[name]} by now: plan again"
    )
