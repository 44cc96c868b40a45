"""What is live: models, calibrations and deployment epochs, each an entry of the log and a row of its cache.

Invariants:
- a deployment is the whole routing table under one epoch, and epochs only grow;
- beside the routes, which decide, it names the `shadow`, the stable model that the detector compares with, and may name
  `candidates`, further models that run in shadow; what runs in shadow decides nothing and is never revoked;
- it may name the version of the table of facts that snapshots are recorded with (`fact_tables`), which no change of
  models changes;
- a rollback revokes every epoch that routes to the bad model, in the entry that deploys the replacement: once it
  commits, no decision of that model can be appended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from clickledger import errors
from clickledger.ledger import canonical, database, fact_tables, log

Routing = dict[str, Any]
FACTS_VERSION = "facts_version"  # of a routing: a version of `fact_tables`; 0 or absent for none

SELECT_CURRENT = """
    SELECT d.epoch, d.routing, d.from_position, l.recorded_at
    FROM deployments d JOIN log l ON l.position = d.from_position ORDER BY d.epoch DESC LIMIT 1"""
# Whoever rolls a model back revokes an epoch of it by the same entry; epochs are far fewer than entries.
SELECT_ROLLBACKS = """
    SELECT l.position, (l.payload::json ->> 'bad_model')::integer FROM log l
    WHERE l.position IN (SELECT revoked_position FROM deployments WHERE revoked_position > %s) ORDER BY l.position"""
SELECT_ROUTINGS_WITHIN = """
    SELECT routing FROM deployments
    WHERE from_position < %s AND (revoked_position IS NULL OR revoked_position > %s)"""
SELECT_EPOCHS = "SELECT epoch, routing, revoked_position FROM deployments ORDER BY epoch"
SELECT_ROUTING = "SELECT epoch, routing FROM deployments ORDER BY epoch DESC LIMIT 1"
SELECT_NEWEST_FIRST = "SELECT epoch, routing, from_position FROM deployments ORDER BY epoch DESC"
SELECT_DEPLOYMENTS = (
    "SELECT epoch, routing, from_position, to_position, revoked_position FROM deployments ORDER BY epoch"
)
CLOSE_EPOCH = "UPDATE deployments SET to_position = %s WHERE to_position IS NULL"
REVOKE_EPOCHS = "UPDATE deployments SET revoked_position = %s WHERE epoch = ANY (%s) AND revoked_position IS NULL"
INSERT_EPOCH = "INSERT INTO deployments (epoch, routing, from_position) VALUES (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The routing table in force since `position`."""

    epoch: int
    routing: Routing
    position: int
    recorded_at: datetime


class Unchanged(NamedTuple):
    """The newest epochs with the same routes and stable model, newest first, and the position the first began at."""

    epochs: list[int]
    position: int


class RolledBack(NamedTuple):
    """A rollback: its entry's position, the epoch it put in force, the epochs it revoked."""

    position: int
    epoch: int
    revoked_epochs: list[int]
    recorded_at: datetime


def register_model(
    conn: database.Connection, artefact: bytes, kind: str, metadata: dict[str, Any], actor: str, reason: str = ""
) -> int:
    """Store an artefact under its SHA-256 and give it the next version; the same artefact again keeps its version."""
    digest = hashlib.sha256(artefact).digest()
    # One transaction, so that an artefact is never without its entry; sent before the lock is taken, as it is large.
    with conn.transaction():
        conn.execute("INSERT INTO artefacts VALUES (%s, %s) ON CONFLICT DO NOTHING", (digest, artefact))
        version = _register(conn, digest, kind, metadata, actor, reason)
    database.require_confirmed(conn)  # within, there was no commit yet
    return version


def _register(
    conn: database.Connection, digest: bytes, kind: str, metadata: dict[str, Any], actor: str, reason: str
) -> int:
    with log.writing(conn) as writer:
        if known := writer.execute("SELECT model_version FROM models WHERE digest = %s", (digest,)):
            writer.confirm_earlier()
            return int(known[0][0])
        version = int(writer.execute("SELECT coalesce(max(model_version), 0) + 1 FROM models")[0][0])
        payload = {"model_version": version, "kind": kind, "digest": digest.hex(), "metadata": metadata}
        entry = writer.record("model_registered", payload, actor, reason)
        writer.execute("INSERT INTO models VALUES (%s, %s, %s, %s)", (version, kind, digest, entry.position))
        return version


def load_artefact(conn: database.Connection, model_version: int) -> bytes:
    """The bytes of a registered model. Raises NotFound."""
    query = "SELECT content FROM artefacts JOIN models USING (digest) WHERE model_version = %s"
    row = conn.execute(query, (model_version,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no model with version {model_version}")
    return bytes(row[0])


def set_calibration(
    conn: database.Connection,
    model_version: int,
    thresholds: dict[str, float],
    metadata: dict[str, Any],
    actor: str,
    reason: str = "",
) -> int:
    """Give thresholds (logits by slice, "*" for all others) the next calibration version. Raises NotFound."""
    if "*" not in thresholds:
        raise errors.InvalidInput(f'thresholds: expected a "*" fallback, got slices {sorted(thresholds)}')
    with log.writing(conn) as writer:
        if not writer.execute("SELECT 1 FROM models WHERE model_version = %s", (model_version,)):
            raise errors.NotFound(f"no model with version {model_version}")
        version = int(writer.execute("SELECT coalesce(max(calibration_version), 0) + 1 FROM calibrations")[0][0])
        payload = {
            "calibration_version": version,
            "model_version": model_version,
            "thresholds": thresholds,
            "metadata": metadata,
        }
        entry = writer.record("calibration_set", payload, actor, reason)
        text = canonical.canonical_json(thresholds)
        writer.execute(
            "INSERT INTO calibrations VALUES (%s, %s, %s, %s)", (version, model_version, text, entry.position)
        )
        return version


def load_thresholds(conn: database.Connection, calibration_version: int) -> dict[str, float]:
    """Thresholds (logits) by slice of a calibration. Raises NotFound."""
    query = "SELECT thresholds FROM calibrations WHERE calibration_version = %s"
    row = conn.execute(query, (calibration_version,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no calibration with version {calibration_version}")
    return {name: float(value) for name, value in json.loads(row[0]).items()}


def registration(conn: database.Connection, model_version: int) -> log.Entry:
    """The entry that registered a model. Raises NotFound."""
    row = conn.execute("SELECT registered_position FROM models WHERE model_version = %s", (model_version,)).fetchone()
    if row is None:
        raise errors.NotFound(f"no model with version {model_version}")
    return log.entry(conn, row[0])


def calibration_entry(conn: database.Connection, model_version: int, calibration_version: int) -> log.Entry:
    """The entry that set a calibration of a model. Raises NotFound."""
    query = "SELECT set_position FROM calibrations WHERE calibration_version = %s AND model_version = %s"
    row = conn.execute(query, (calibration_version, model_version)).fetchone()
    if row is None:
        raise errors.NotFound(f"no calibration {calibration_version} of model {model_version}")
    return log.entry(conn, row[0])


def deploy(conn: database.Connection, routing: Routing, actor: str, reason: str = "") -> int:
    """Put a routing table in force under a new epoch. Nothing is revoked: batches in flight pass."""
    with log.writing(conn) as writer:
        _check_routing(writer, routing)
        return _put_in_force(writer, "deployment_changed", routing, [], actor, reason, {}).epoch


def newest_calibration(conn: database.Connection, model_version: int) -> int:
    """The newest calibration of a model. Raises NotFound."""
    query = "SELECT max(calibration_version) FROM calibrations WHERE model_version = %s"
    row = conn.execute(query, (model_version,)).fetchone()
    if row is None or row[0] is None:
        raise errors.NotFound(f"no calibration of model {model_version}")
    return int(row[0])


def amend(
    conn: database.Connection,
    change: Callable[[Routing], Routing],
    actor: str,
    reason: str = "",
    extra: dict[str, Any] | None = None,
    *,
    always: bool = False,
    require: Callable[[log.Writer], None] = lambda _: None,
) -> int:
    """Deploy what `change` makes of the routing in force, which nobody replaces meanwhile; the epoch then in force.

    `require` looks at what must still be so, and raises where it is not, before anything is changed.
    `extra` goes into the payload of the entry. Nothing is recorded where `change` changes nothing, unless `always`:
    that somebody put a model in force is worth an entry by itself.
    """
    with log.writing(conn) as writer:
        require(writer)
        epoch, text = writer.execute(SELECT_ROUTING)[0]
        routing = change(json.loads(text))
        if routing == json.loads(text) and not always:
            return int(epoch)
        _check_routing(writer, routing)
        return _put_in_force(writer, "deployment_changed", routing, [], actor, reason, extra or {}).epoch


def promote(
    conn: database.Connection,
    model_version: int,
    calibration_version: int,
    actor: str,
    reason: str = "",
    extra: dict[str, Any] | None = None,
) -> int:
    """Route all traffic to one model and keep the one that decided until now in shadow; the epoch. Passes no guard."""
    change = partial(promoted, model_version=model_version, calibration_version=calibration_version)
    return amend(conn, change, actor, reason, extra, always=True)


def promoted(before: Routing, model_version: int, calibration_version: int) -> Routing:
    """All traffic to one model, and what decided until now in its shadow.

    Candidates run on in shadow, but for the one that was promoted.
    """
    route = {"slice": "*", "share": 1.0, "model": model_version, "calibration": calibration_version}
    return _beside(before, {"routes": [route]}, model_version, calibration_version)


def with_canary(before: Routing, model_version: int, calibration_version: int, share: float) -> Routing:
    """A share of the users of every slice to one model, the others where they went before; what decides them in shadow.

    The canary comes first, so that its users stay its users while its share grows (`decide.route`).
    """
    canary = {"share": share, "model": model_version, "calibration": calibration_version}
    routes: list[dict[str, Any]] = []
    for name in dict.fromkeys(str(route["slice"]) for route in before["routes"]):
        own = [r for r in _without(before, model_version, calibration_version) if r["slice"] == name]
        rest = sum(float(route["share"]) for route in own)
        routes.append({"slice": name, **canary, **({} if own else {"share": 1.0})})
        routes += [{**route, "share": float(route["share"]) / rest * (1.0 - share)} for route in own]
    return _beside(before, {"routes": routes}, model_version, calibration_version)


def stable_beside(routing: Routing, model_version: int, calibration_version: int) -> tuple[int, int] | None:
    """Model and calibration that decide beside a pair: for most users where several do, else what is its shadow."""
    others = _without(routing, model_version, calibration_version)
    everywhere = [route for route in others if route["slice"] == "*"]
    most = max(everywhere or others, key=lambda route: float(route["share"]), default=routing.get("shadow"))
    found = (int(most["model"]), int(most["calibration"])) if most else None
    return None if found == (model_version, calibration_version) else found


def newest_of(routing: Routing) -> int:
    """The model that came last: a canary where there is one, being listed first, else the one that decides.

    Raises Refused where none is deployed.
    """
    if not routing["routes"]:
        raise errors.Refused("no model is deployed")
    return int(routing["routes"][0]["model"])


def _without(routing: Routing, model_version: int, calibration_version: int) -> list[dict[str, Any]]:
    pair = model_version, calibration_version
    return [route for route in routing["routes"] if (route["model"], route["calibration"]) != pair]


def _beside(before: Routing, table: Routing, model_version: int, calibration_version: int) -> Routing:
    """A table with the stable pair in shadow, and the other candidates.

    Beside a mere recalibration the shadow stays: rolling the model back must find another one there.
    """
    stable, shadow = stable_beside(before, model_version, calibration_version), before.get("shadow")
    if (stable is None or stable[0] == model_version) and shadow and shadow["model"] != model_version:
        stable = shadow["model"], shadow["calibration"]
    kept = {"model": stable[0], "calibration": stable[1]} if stable else None
    others = [route for route in candidates_without(before, model_version) if route != kept]
    return with_facts(with_candidates({**table, "shadow": kept}, others), facts_version(before))


def roll_back(
    conn: database.Connection,
    bad_model: int,
    routing: Routing,
    actor: str,
    reason: str = "",
    incident_id: int | None = None,
    considered: Sequence[Mapping[str, Any]] = (),
    chosen_under: int | None = None,
) -> RolledBack:
    """Revoke every epoch that routes to `bad_model` and put `routing` in force, in one entry.

    `considered` says in the entry what else could have been put in force, and why it was not. Raises Refused when the
    bad model is not live, `routing` still uses it, or another epoch than `chosen_under` is in force: what `routing` was
    chosen by may have been rolled back itself meanwhile.
    """
    with log.writing(conn) as writer:
        _check_routing(writer, routing)
        if bad_model in models_of(routing):
            raise errors.Refused(
                f"expected a routing without model {bad_model}, got {canonical.canonical_json(routing)}"
            )
        epoch, current, holding = _holding(writer, bad_model)
        _require_live(epoch, current, bad_model)
        if chosen_under not in {None, epoch}:
            raise errors.Refused(
                f"epoch {epoch} came into force while what to go back to was chosen under {chosen_under}"
            )
        extra: dict[str, Any] = {"bad_model": bad_model, "incident_id": incident_id}
        extra |= {"considered": [dict(one) for one in considered]} if considered else {}
        return _put_in_force(writer, "rollback_declared", routing, holding, actor, reason, extra)


def fence(
    conn: database.Connection, bad_model: int, actor: str, reason: str = "", incident_id: int | None = None
) -> RolledBack:
    """Revoke every epoch of a model that was replaced meanwhile; what is in force stays so, under a new epoch.

    Its batches in flight are refused from then on; those of the deployment in force pass. The model leaves the shadow.
    Raises Refused when it is live, or no epoch of it is left to revoke.
    """
    with log.writing(conn) as writer:
        epoch, current, holding = _holding(writer, bad_model)
        if bad_model in models_of(current):
            raise errors.Refused(f"model {bad_model} is live in epoch {epoch}: expected one that was replaced")
        if not holding:
            _require_live(epoch, current, bad_model)
        shadow = current.get("shadow")
        kept = with_candidates(current, candidates_without(current, bad_model))
        if shadow and int(shadow["model"]) == bad_model:
            kept |= {"shadow": None}
        extra = {"bad_model": bad_model, "incident_id": incident_id}
        return _put_in_force(writer, "rollback_declared", kept, holding, actor, reason, extra)


def rolled_back_since(execute: database.Execute, models: Collection[int], position: int) -> tuple[int, int] | None:
    """The first of these models that was rolled back after a position, and at which; `execute` answers rows."""
    for at, model in execute(SELECT_ROLLBACKS, (position,)):
        if model in models:
            return model, at
    return None


def models_within(execute: database.Execute, lo: int, hi: int) -> set[int]:
    """The models whose batches may stand at positions [lo, hi): deployed before, and not revoked by then."""
    found = execute(SELECT_ROUTINGS_WITHIN, (hi, lo))
    return {model for (text,) in found for model in models_of(json.loads(text))}


def is_fenced(writer: log.Writer, model: int) -> bool:
    """Whether a model was rolled back and not deployed again since."""
    epochs = [revoked for _, text, revoked in writer.execute(SELECT_EPOCHS) if model in models_of(json.loads(text))]
    return bool(epochs) and None not in epochs


def holding(conn: database.Connection, model: int) -> list[int]:
    """The epochs that route to a model and were not revoked: none once it is fenced."""
    return _unrevoked(conn.execute(SELECT_EPOCHS).fetchall(), model)


def _holding(writer: log.Writer, model: int) -> tuple[int, Routing, list[int]]:
    """The epoch and routing in force, and the epochs that hold a model and were not revoked."""
    rows = writer.execute(SELECT_EPOCHS)
    return rows[-1][0], json.loads(rows[-1][1]), _unrevoked(rows, model)


def _unrevoked(rows: Sequence[tuple[Any, ...]], model: int) -> list[int]:
    return [epoch for epoch, text, revoked in rows if revoked is None and model in models_of(json.loads(text))]


def _put_in_force(
    writer: log.Writer, kind: str, routing: Routing, revoked: list[int], actor: str, reason: str, extra: dict[str, Any]
) -> RolledBack:
    epoch = int(writer.execute("SELECT max(epoch) + 1 FROM deployments")[0][0])
    payload = {"epoch": epoch, "routing": routing, "revoked_epochs": revoked, **extra}
    entry = writer.record(kind, payload, actor, reason)
    writer.execute(CLOSE_EPOCH, (entry.position,))
    writer.execute(REVOKE_EPOCHS, (entry.position, revoked))
    writer.execute(INSERT_EPOCH, (epoch, canonical.canonical_json(routing), entry.position))
    return RolledBack(entry.position, epoch, revoked, entry.recorded_at)


def _check_routing(writer: log.Writer, routing: Routing) -> None:
    routes = routing.get("routes")
    if not isinstance(routes, list) or not routes:
        raise errors.InvalidInput(f"routing: expected a list of routes, got {routes!r}")
    if not isinstance(routing.get("candidates", []), list):
        raise errors.InvalidInput(f"routing: expected a list of candidates, got {routing['candidates']!r}")
    if version := facts_version(routing):
        fact_tables.require(writer, version)
    beside = in_shadow(routing)
    if any(route in beside[:i] for i, route in enumerate(beside)):
        raise errors.InvalidInput(f"routing: expected each model and calibration in shadow once, got {beside!r}")
    for route in [*routes, *beside]:
        if not isinstance(route, dict) or not {"model", "calibration"} <= route.keys():
            raise errors.InvalidInput(f"routing: expected model and calibration in each route, got {route!r}")
        known = writer.execute(
            "SELECT 1 FROM calibrations WHERE calibration_version = %s AND model_version = %s",
            (route["calibration"], route["model"]),
        )
        if not known:
            raise errors.NotFound(f"no calibration {route['calibration']} of model {route['model']}")


def models_of(routing: Routing) -> set[int]:
    """Versions of the models a routing table decides with (what is in shadow decides nothing)."""
    return {int(route["model"]) for route in routing["routes"]}


def in_shadow(routing: Routing) -> list[dict[str, Any]]:
    """Model and calibration of whatever runs in shadow: the stable model first, where there is one, then candidates."""
    return [*([routing["shadow"]] if routing.get("shadow") else []), *routing.get("candidates", [])]


def candidates_without(routing: Routing, model_version: int) -> list[dict[str, Any]]:
    """The candidates of a routing table but for one model."""
    return [route for route in routing.get("candidates", []) if route["model"] != model_version]


def with_candidates(routing: Routing, candidates: list[dict[str, Any]]) -> Routing:
    """A routing table with these candidates in place of its own; without any it does not mention them."""
    others = {name: value for name, value in routing.items() if name != "candidates"}
    return {**others, "candidates": candidates} if candidates else others


def facts_version(routing: Routing) -> int:
    """The table of facts that snapshots are recorded with under a routing; 0 for none."""
    return int(routing.get(FACTS_VERSION) or 0)


def with_facts(routing: Routing, version: int) -> Routing:
    """A routing table with this table of facts in place of its own; without any (0) it does not mention one."""
    if facts_version(routing) == version:
        return routing
    others = {name: value for name, value in routing.items() if name != FACTS_VERSION}
    return {**others, FACTS_VERSION: version} if version else others


def _require_live(epoch: int, routing: Routing, model_version: int) -> None:
    if model_version not in (live := models_of(routing)):
        routed = ", ".join(map(str, sorted(live))) or "none"
        raise errors.Refused(f"model {model_version} is not live: epoch {epoch} routes to {routed}")


def current(conn: database.Connection) -> Deployment:
    """The deployment in force; epoch 0 routes to no model."""
    row = conn.execute(SELECT_CURRENT).fetchone()
    if row is None:
        raise errors.InvariantBroken("no deployment: expected at least epoch 0")
    return Deployment(row[0], json.loads(row[1]), row[2], row[3])


def unchanged(conn: database.Connection) -> Unchanged:
    """Since when the same routes and the same stable model are in force, whatever candidates and tables came."""

    def deciding(text: str) -> Routing:
        return {**with_candidates(json.loads(text), []), FACTS_VERSION: 0}

    rows = conn.execute(SELECT_NEWEST_FIRST).fetchall()
    routing = deciding(rows[0][1])
    alike = list(takewhile(lambda row: deciding(row[1]) == routing, rows))
    return Unchanged([epoch for epoch, _, _ in alike], alike[-1][2])


def model_positions(conn: database.Connection, model_version: int) -> tuple[int, int] | None:
    """The log positions [lo, hi) at which batches of a model can stand; None when it was never deployed.

    From the first entry that deployed it to the rollback that fenced it, or the head when it was never revoked: a
    replaced epoch that was not revoked may still have batches in flight.
    """
    rows = conn.execute(SELECT_DEPLOYMENTS).fetchall()
    spans = [(lo, revoked) for _, text, lo, _, revoked in rows if model_version in models_of(json.loads(text))]
    if not spans:
        return None
    ends = [hi for _, hi in spans if hi is not None]
    hi = max(ends) if len(ends) == len(spans) else log.head(conn).position + 1
    return spans[0][0], hi


def positions_of_stretch(conn: database.Connection, model_version: int, epoch: int) -> tuple[int, int] | None:
    """As `model_positions`, from the beginning of the stretch that `epoch` belongs to; None where it has not the model.

    A stretch is deployments one after the other in which the model decides by the same calibration, its canary among
    them: what it decided before with another one, or before others decided in between, is another matter.
    """
    span = model_positions(conn, model_version)
    first, wanted = None, set[int]()
    for at, text, lo, _, _ in reversed(conn.execute(SELECT_DEPLOYMENTS).fetchall()):
        if at > epoch:
            continue
        used = {int(r["calibration"]) for r in json.loads(text)["routes"] if int(r["model"]) == model_version}
        wanted = used if at == epoch else wanted & used
        if not wanted:
            break
        first = lo
    return None if span is None or first is None else (first, span[1])


def begin_counter_epoch(conn: database.Connection, evidence: dict[str, Any], actor: str, reason: str) -> int:
    """Declare the counters lost and rebuilt: appends counted under earlier epochs are refused from here on."""
    with log.writing(conn) as writer:
        epoch = int(writer.execute("SELECT max(counter_epoch) + 1 FROM counter_epochs")[0][0])
        entry = writer.record("counters_restored", {"counter_epoch": epoch, **evidence}, actor, reason)
        writer.execute("INSERT INTO counter_epochs VALUES (%s, %s)", (epoch, entry.position))
        return epoch


def current_counter_epoch(conn: database.Connection) -> int:
    """The counter epoch that appends must name."""
    row = conn.execute("SELECT max(counter_epoch) FROM counter_epochs").fetchone()
    return int(row[0]) if row else 0
