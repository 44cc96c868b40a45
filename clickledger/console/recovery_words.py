"""Incidents, plans, runs and comparisons in words and as JSON fields, and the ledger they are read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clickledger import settings
from clickledger.console import output, services
from clickledger.console.cli_services import load
from clickledger.ledger import comparison, database, log, publication, runs
from clickledger.ledger.authority_map import BACKTEST
from clickledger.ledger.comparison import Comparison
from clickledger.ledger.rights import Role
from clickledger.recovery.incidents import Incident
from clickledger.recovery.progress import Progress

if TYPE_CHECKING:  # importing these takes a second: models come with torch
    from clickledger.recovery.effects import Effects
    from clickledger.recovery.plans import Plan
    from clickledger.recovery.preview import Preview
    from clickledger.recovery.sampling import Interval

WORDS = {
    "anomaly_raised": "raised",
    "incident_noted": "note",
    "incident_acknowledged": "acknowledged",
    "rollback_proposed": "rollback proposed",
    "publication_proposed": "publication left to people",
}
MICROS = 1_000_000
COUNTS = ("clicks", "to_valid", "to_invalid", "to_undecided", "carried")
SELDOM = ("to_undecided", "carried")  # left out where all are 0, so that a table fits a narrow terminal


def attached(folder: Path | None) -> settings.Settings:
    """The settings with the addresses of what runs. Raises Unavailable."""
    return services.attach(load(folder))


@contextmanager
def connected(chosen: settings.Settings, role: Role = Role.REPLAYER) -> Iterator[database.Connection]:
    """A connection to the ledger."""
    with database.connect(str(chosen.database_url), application_name="clickledger-cli", role=role) as conn:
        yield conn


@contextmanager
def ledger(folder: Path | None, role: Role = Role.REPLAYER) -> Iterator[database.Connection]:
    """A connection to the ledger of a home folder; commands that only look take AUDITOR_READER."""
    with connected(attached(folder), role) as conn:
        yield conn


def incident_fields(incident: Incident) -> dict[str, Any]:
    """An incident as JSON."""
    return asdict(incident) | {"status": incident.status.value}


def run_fields(run: Progress) -> dict[str, Any]:
    """A run as JSON."""
    return asdict(run) | {"stage": run.stage, "todo": run.todo}


def comparison_fields(compared: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    named = {"comparison_id": compared.comparison_id, "digest": compared.digest}
    return compared.summary | named | {name: compared.by(name) for name in ("slice", "advertiser_id", "currency")}


def step(entry: log.Entry) -> str:
    """What an entry of an incident's timeline says happened."""
    payload = entry.payload
    if entry.kind == "incident_moved":
        return str(payload["status"])
    if entry.kind == "rollback_declared":
        models = ", ".join(str(route["model"]) for route in payload["routing"]["routes"])
        return f"model {payload['bad_model']} fenced, model {models} in force"
    if entry.kind.startswith("replay_"):
        run = payload.get("run_id", entry.position)
        flips = f", {payload['flips']} flips" if entry.kind == "replay_compared" else ""
        return f"run {run} {entry.kind.removeprefix('replay_')}{flips}"
    return WORDS[entry.kind]


def after_incident(conn: database.Connection, incident: Incident) -> str:
    """The command that follows for whoever looks at an incident, its ids filled in."""
    number, run = incident.incident_id, incident.run_id
    following = {
        "raised": f"clickledger rollback --incident {number} --reason ...",
        "rolled_back": f"clickledger replay plan --incident {number}",
        "replaying": f"clickledger replay watch {run}",
        "published": f"clickledger replay revert {run} --reason ... would undo it",
    }
    if incident.status.value == "compared" and run is not None:
        if publication.rolled_back(conn.rows, runs.get(conn, run)):
            return f"clickledger replay retry {run} --reprocess all --reason ... as its model was rolled back since"
        return f"clickledger replay publish {run} --digest {comparison.latest(conn, run).digest} --reason ..."
    return following.get(incident.status.value, "clickledger incident list")


def after_comparison(run: Progress, compared: Comparison) -> str:
    """The command that follows a comparison."""
    if run.kind == BACKTEST:
        return f"clickledger replay cancel {run.run_id} --reason ... once it is not needed; it is never published"
    if run.stage == "published":
        return f"clickledger replay revert {run.run_id} --reason ... would undo it"
    return f"clickledger replay publish {run.run_id} --digest {compared.digest} --reason ..."


def show_considered(considered: list[dict[str, Any]]) -> None:
    """What a rollback could go back to, in the order it was looked at, and why each was taken or not."""
    columns = ("found", "model", "calibration", "taken, or why not")
    lines = [(c["found"], c["model_version"], c["calibration_version"], c["why"]) for c in considered]
    output.rows("considered to go back to", columns, lines)


def show_proposal(proposed: dict[str, Any]) -> None:
    """What policy `propose` prepared for an incident."""
    to, change = proposed["rollback_to"], proposed["would_change"]
    output.say(f"proposed: back to model {to['model']} with calibration {to['calibration']} ({proposed['found']})")
    show_considered(proposed["considered"])
    if change.get("to_valid"):
        money = ", ".join(f"{m[0] / MICROS:+,.2f} {name}" for name, m in change["change_micros"].items())
        output.say(
            f"a replay of the {change['clicks']:,} clicks so far would make about {change['to_valid'][0]:,.0f} valid "
            f"and {change['to_invalid'][0]:,.0f} invalid ({money}) in {change['seconds']:g} s"
        )


def show_readings(evidence: dict[str, Any]) -> None:
    """What the signals read when an incident was raised."""
    columns = ("signal", "slice", "users", "withheld by it alone", "released by it alone", "evidence", "raises at")
    readings = evidence.get("readings", [])
    output.rows(
        "readings",
        columns,
        (
            (r["signal"], r["slice"], r["users"], r["withheld"], r["released"], f"{r['evidence']:.1f}", _raises_at(r))
            for r in readings
        ),
    )


def _raises_at(reading: dict[str, Any]) -> str:
    alone = f"{reading['alone']:g}" if "alone" in reading else ""
    together = f"{reading['together']:g} with another" if "together" in reading else ""
    return " or ".join(filter(None, (alone, together)))


def decided_by(model: int, calibration: int, routes: Mapping[str, Sequence[int]] | None) -> str:
    """By which models a plan or run decides."""
    if routes is not None:
        named = [f"model {m} with calibration {c} in {slice_}" for slice_, (m, c) in sorted(routes.items())]
        return ", ".join(named).replace(" in *", " in all other slices")
    return f"model {model} with calibration {calibration}" if model else "the models that decided them"


def show_plan(plan: Plan, preview: Preview) -> None:
    """A plan and what it would do."""
    estimate = preview.estimate
    through = decided_by(plan.model_version, plan.calibration_version, plan.routes)
    aside = ", as a backtest" if plan.kind == BACKTEST else ""
    output.say(
        f"{plan.mode} {preview.clicks} clicks at positions [{plan.lo}, {plan.hi}) in {preview.chunks} chunks through "
        f"{through}{aside}"
    )
    output.say(f"because: {plan.why}")
    value, shortest, longest = preview.seconds
    rate = f"{preview.clicks_per_second:,.0f} clicks/s a worker, as measured on a sample"
    output.say(f"about {value:,.0f} s ({shortest:,.0f} to {longest:,.0f}), at {rate}")
    output.say(f"estimated from {estimate.sampled_clicks} clicks, with 95% intervals:")
    flips = {"to valid": estimate.to_valid, "to invalid": estimate.to_invalid, "to undecided": estimate.to_undecided}
    lines = [(name, _number(interval, 1)) for name, interval in flips.items()]
    lines += [(f"billed, {name}", _number(interval, MICROS)) for name, interval in estimate.change_micros.items()]
    for groups in (estimate.by_slice, estimate.by_advertiser):
        for group, money in groups.items():
            lines += [(f"billed, {name}, {group}", _number(interval, MICROS)) for name, interval in money.items()]
    output.rows("would change", ("what", "by"), lines)
    for why, count in preview.not_replayed.items():
        output.say(f"stays as it is: {count} clicks, {why}")


def _number(interval: Interval, unit: int) -> str:
    value, low, high = (x / unit for x in interval)
    form = "{:+,.2f}" if unit > 1 else "{:,.0f}"
    return form.format(value) if low == high else " ".join([form, "(", form, "to", form, ")"]).format(value, low, high)


def show_comparison(compared: Comparison) -> None:
    """What publishing a run would change, by slice and by advertiser."""
    for column, title in (("slice", "by slice"), ("advertiser_id", "by advertiser"), ("currency", "by currency")):
        groups = compared.by(column)
        counts = [name for name in COUNTS if name not in SELDOM or any(sums[name] for sums in groups.values())]
        columns = ("", *(name.replace("_", " ") for name in counts), "billed before", "change", "after")
        output.rows(f"run {compared.run_id}, {title}", columns, _totals(groups, counts))
    output.say(f"{compared.summary['flips']} flips; digest {compared.digest}")


def show_effects(effects: Effects) -> None:
    """Verdicts before and after, and the rates by slice."""
    verdicts = list(effects.matrix)
    output.rows(
        "verdicts",
        ("from \\ to", *verdicts),
        [(was, *(f"{row[now]:,}" for now in verdicts)) for was, row in effects.matrix.items()],
    )
    columns = ("slice", "clicks", "changed", "IVR before", "after", "buyers' clicks", "FPR before", "after")
    rates = {**effects.rates("slice"), "all": effects.rates("all")[""]}
    lines = [
        (name, r.clicks, r.flips, _share(r.ivr_before), _share(r.ivr_after), r.bought, _share(r.fpr_before),
         _share(r.fpr_after))
        for name, r in rates.items()
    ]  # fmt: skip
    output.rows("rates", columns, lines)
    if effects.neighbours["carried"]:
        output.say(f"{effects.neighbours['carried']} clicks of the range were not to be decided and stay as they are")
    for one in effects.changed[:3]:
        output.say(f"click {one['click_id']}: {one['from']} to {one['to']}; {one['because']}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _totals(groups: dict[str, dict[str, int]], counts: list[str]) -> Iterator[tuple[object, ...]]:
    for name, sums in sorted(groups.items()):
        change = sums["adjustments_micros"] + sums["write_off_micros"]
        money = [f"{m / MICROS:,.2f}" for m in (sums["billed_before_micros"], change, sums["billed_after_micros"])]
        yield (name, *(sums[c] for c in counts), *money)
