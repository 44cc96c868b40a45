"""Who may do what: one table of roles, relations, functions and kinds of entries, from which `granting` makes GRANTs.

Invariants:
- what is not named here is granted to nobody, and a test fails until it is named;
- no role has UPDATE, DELETE or TRUNCATE on history; the log, its leaves, clicks and live decisions are written by
  functions of the owner alone;
- leaf partitions are granted to nobody: rows come and go through the parent, whose triggers see them.

A migration could not hold this: it is frozen, and the next table would need another list somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """The roles of a server, shared by all ledgers on it. None of them can log in by itself."""

    OWNER = "clickledger_owner"  # owns everything; migrates, attaches and detaches partitions
    INGESTER = "clickledger_ingester"  # `ingest`: outcomes; the key of the pseudonyms
    SCORER = "clickledger_scorer"  # scoring workers: the fenced append
    REPLAYER = "clickledger_replayer"  # recovery, models and deployments, publications: what decides what is in force
    BILLING_READER = "clickledger_billing_reader"  # API and `totals`: decisions and money, nothing personal
    AUDITOR_READER = "clickledger_auditor_reader"  # `why`, `audit`: reads everything


RUNTIME = tuple(role for role in Role if role is not Role.OWNER)
Roles = tuple[Role, ...]

_READERS: Roles = (Role.REPLAYER, Role.AUDITOR_READER)
_MONEY: Roles = (*_READERS, Role.BILLING_READER)
_SCORING: Roles = (*_READERS, Role.SCORER)
_INTAKE: Roles = (Role.INGESTER, Role.BILLING_READER)  # the API too takes clicks in: which table of facts is in force
_WRITERS: Roles = (Role.INGESTER, Role.SCORER, Role.REPLAYER)
_REPLAYER: Roles = (Role.REPLAYER,)


@dataclass(frozen=True)
class Relation:
    """A table or view: who may read it, who may insert, and which columns who may update. Nobody deletes."""

    select: Roles
    insert: Roles = ()
    update: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Function:
    """A function: who may call it, and whether it acts as the owner (SECURITY DEFINER) instead of its caller."""

    execute: Roles
    as_owner: bool = False


def _updated(*columns: str) -> Mapping[Role, tuple[str, ...]]:
    return {Role.REPLAYER: columns}


RELATIONS: Mapping[str, Relation] = {
    "alembic_version": Relation(select=(Role.AUDITOR_READER,)),
    "entry_rights": Relation(select=(Role.AUDITOR_READER,)),
    # History.
    "log": Relation(select=RUNTIME),
    "leaves": Relation(select=_READERS),
    "clicks": Relation(select=_SCORING),
    "decisions": Relation(select=(*_MONEY, Role.SCORER)),
    "delayed_decisions": Relation(select=_MONEY, insert=_REPLAYER),
    "run_features": Relation(select=_READERS, insert=_REPLAYER),
    "outcomes": Relation(select=(*_READERS, Role.INGESTER), insert=(Role.INGESTER,)),
    "conflicts": Relation(select=_SCORING, insert=(Role.SCORER,)),
    "artefacts": Relation(select=(*_SCORING, *_INTAKE), insert=_REPLAYER),
    "comparisons": Relation(select=_MONEY, insert=_REPLAYER),
    "comparison_totals": Relation(select=_MONEY, insert=_REPLAYER),
    "adjustments": Relation(select=_MONEY, insert=_REPLAYER),
    "sparse_clicks": Relation(select=_READERS, insert=_REPLAYER),
    "checkpoints": Relation(select=_READERS, insert=_REPLAYER),
    # Caches of folds of the log.
    "merkle_tiles": Relation(select=_READERS, insert=_REPLAYER),
    "departures": Relation(select=_READERS),
    "departed_rows": Relation(select=_MONEY),
    "departed_totals": Relation(select=_MONEY),
    # Caches of folds of the log.
    "legal_holds": Relation(select=_READERS),
    "detached_days": Relation(select=(*_MONEY, Role.SCORER)),
    "models": Relation(select=_SCORING, insert=_REPLAYER),
    "calibrations": Relation(select=_SCORING, insert=_REPLAYER),
    "deployments": Relation(
        select=(*_SCORING, *_INTAKE), insert=_REPLAYER, update=_updated("to_position", "revoked_position")
    ),
    "counter_epochs": Relation(select=_SCORING, insert=(Role.SCORER,)),
    "incidents": Relation(select=_READERS, insert=_REPLAYER, update=_updated("status", "run_id", "updated_position")),
    "billing_periods": Relation(select=_MONEY, insert=_REPLAYER),
    "replay_runs": Relation(
        select=_READERS,
        insert=_REPLAYER,
        update=_updated(
            "status", "staged_position", "content_digest", "click_id_min", "click_id_max", "paused_position"
        ),
    ),
    "publications": Relation(select=_MONEY, insert=_REPLAYER, update=_updated("reverted_position")),
    "authority": Relation(select=_MONEY, insert=_REPLAYER, update=_updated("in_force")),
    "authority_overrides": Relation(select=_MONEY, insert=_REPLAYER, update=_updated("in_force")),
    # Work and evidence beside the log.
    "replay_chunks": Relation(
        select=_READERS,
        insert=_REPLAYER,
        update=_updated(
            "status", "lease_until", "token", "worker", "attempts", "last_error", "content_digest", "features_digest"
        ),
    ),
    "replay_plans": Relation(select=_READERS, insert=_REPLAYER),
    "shadow_scores": Relation(select=_READERS, insert=(Role.SCORER,)),
    "known_customers": Relation(select=_READERS, insert=_REPLAYER, update=_updated("purchased_at_ms", "purchases")),
    "known_customers_upto": Relation(select=_READERS, update=_updated("position")),
    "signal_ticks": Relation(select=_READERS, insert=_REPLAYER),
    "signal_ticks_upto": Relation(select=_READERS, update=_updated("position")),
    "frozen_partitions": Relation(select=_READERS),
    # Views.
    "gone_partitions": Relation(select=_MONEY),
    "departed_money": Relation(select=_MONEY),
    "authoritative_decisions": Relation(select=_MONEY),
    "billing_entries": Relation(select=_MONEY),
}

FUNCTIONS: Mapping[str, Function] = {
    # Of their arguments alone, or of tables their callers may read.
    "length_prefixed": Function(RUNTIME),
    "click_time_ms": Function(RUNTIME),
    "click_time": Function(RUNTIME),
    "click_period": Function(RUNTIME),
    "smallest_click_id": Function(RUNTIME),
    "recorded_period": Function(RUNTIME),
    "authoritative_decisions_as_of": Function(_MONEY),
    "decision_of": Function(_MONEY),
    # Writing.
    "take_log_lock": Function(_WRITERS),
    "await_standbys": Function(_WRITERS),
    "record_entry": Function(_WRITERS, as_owner=True),
    "append_batch": Function((Role.SCORER,), as_owner=True),
    "ensure_day": Function((Role.SCORER,), as_owner=True),
    "open_overrides": Function(_REPLAYER),
    "close_overrides": Function(_REPLAYER),
    "summarise_block_ranges": Function(_REPLAYER, as_owner=True),
    # Of imports, which insert rows themselves: the owner's alone.
    "import_position": Function(()),
    # Called by the functions and triggers above only.
    "check_epochs": Function(()),
    "write_entry": Function(()),
    "attach_partition": Function(()),
    "make_history": Function(()),
    "seal_day": Function(()),
    "refuse_sealed": Function(()),
    "refuse_change": Function(()),
    "refuse_rows_of_frozen_run": Function(()),
    "refuse_backtest": Function(()),
    "refuse_overlapping_overrides": Function(()),
}

TYPES = ("verdict", "decided_click")

# Kinds of entries that `record_entry` writes for a role. The owner may write any; `clicks_decided` comes from
# `append_batch`, and from imports, which are the owner's.
ENTRIES: Mapping[str, Roles] = {
    "model_registered": _REPLAYER,
    "calibration_set": _REPLAYER,
    "fact_table_set": _REPLAYER,
    "dataset_built": _REPLAYER,
    "guardrails_passed": _REPLAYER,
    "guardrail_refused": _REPLAYER,
    "guardrail_overridden": _REPLAYER,
    "training_started": _REPLAYER,
    "model_evaluated": _REPLAYER,
    "training_finished": _REPLAYER,
    "deployment_changed": _REPLAYER,
    "rollback_declared": _REPLAYER,
    "counters_restored": (Role.SCORER,),
    "counters_recounted": (Role.SCORER,),
    "conflicts_recorded": (Role.SCORER,),
    "clicks_rejected": (Role.SCORER,),
    "outcomes_recorded": (Role.INGESTER,),
    "pseudonym_key_destroyed": (Role.INGESTER,),
    "anomaly_raised": _REPLAYER,
    "incident_moved": _REPLAYER,
    "incident_noted": _REPLAYER,
    "rollback_proposed": _REPLAYER,
    "publication_proposed": _REPLAYER,
    "incident_acknowledged": _REPLAYER,
    "signal_paged": _REPLAYER,
    "signal_cleared": _REPLAYER,
    "period_closed": _REPLAYER,
    "replay_planned": _REPLAYER,
    "replay_staged": _REPLAYER,
    "replay_paused": _REPLAYER,
    "replay_resumed": _REPLAYER,
    "replay_abandoned": _REPLAYER,
    "replay_compared": _REPLAYER,
    "replay_published": _REPLAYER,
    "replay_revert_proposed": _REPLAYER,
    "corrections_proposed": _REPLAYER,
    "replay_reverted": _REPLAYER,
    "checkpoint_key_set": _REPLAYER,
    "checkpoint_key_rotated": _REPLAYER,
    "checkpoint_signed": _REPLAYER,
}


class Grant(NamedTuple):
    """One privilege of one role; `column` None stands for the whole relation."""

    name: str
    column: str | None
    privilege: str
    role: str


def relation_grants() -> Iterator[Grant]:
    """Every privilege on tables, views and columns that there is to be."""
    for name, relation in RELATIONS.items():
        yield from (Grant(name, None, "SELECT", role) for role in relation.select)
        yield from (Grant(name, None, "INSERT", role) for role in relation.insert)
        for role, columns in relation.update.items():
            yield from (Grant(name, column, "UPDATE", role) for column in columns)


def function_grants() -> Iterator[Grant]:
    """Every privilege on functions that there is to be."""
    for name, function in FUNCTIONS.items():
        yield from (Grant(name, None, "EXECUTE", role) for role in function.execute)


def entry_grants() -> Iterator[tuple[str, str]]:
    """Every (kind, role) that `record_entry` is to let through."""
    for kind, roles in ENTRIES.items():
        yield from ((kind, str(role)) for role in roles)
