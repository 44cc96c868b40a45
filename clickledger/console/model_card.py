"""Everything the log says of one model, gathered from its entries, as JSON fields and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clickledger.console import output
from clickledger.errors import NotFound
from clickledger.ledger import aliases, database, log
from clickledger.ledger.aliases import Aliases, Pair
from clickledger.ledger.log import Entry

SELECT_MODEL = "SELECT registered_position FROM models WHERE model_version = %s"
SELECT_CALIBRATIONS = "SELECT set_position FROM calibrations WHERE model_version = %s ORDER BY 1"
GUARDS = ("guardrails_passed", "guardrail_refused", "guardrail_overridden")


def of(conn: database.Connection, model_version: int) -> dict[str, Any]:
    """What is known of a model, JSON fields. Raises NotFound."""
    row = conn.execute(SELECT_MODEL, (model_version,)).fetchone()
    if row is None:
        raise NotFound(f"no model with version {model_version}: clickledger model list")
    registered = log.entry(conn, row[0])
    metadata = registered.payload["metadata"]
    built = metadata.get("dataset_position")
    rows = conn.execute(SELECT_CALIBRATIONS, (model_version,)).fetchall()
    evaluated = [e for e in log.read(conn, kinds=["model_evaluated"]) if e.payload["model_version"] == model_version]
    entries = log.read(conn, kinds=aliases.KINDS)
    return {
        "model_version": model_version,
        "kind": registered.payload["kind"],
        "digest": registered.payload["digest"],
        **_signed(registered),
        "aliases": aliases.names_of(aliases.of(aliases.as_of(entries, log.head(conn).position)[1]), model_version),
        "profile": metadata.get("profile"),
        "metadata": metadata,
        "dataset": _dataset(log.entry(conn, built)) if built else None,
        "guardrails": [_guard(entry) for entry in log.read(conn, kinds=GUARDS) if _about(entry, model_version, built)],
        "evaluations": [{**_signed(entry), **entry.payload} for entry in evaluated],
        "calibrations": [_calibration(log.entry(conn, position)) for (position,) in rows],
        "deployments": [
            {"alias": c.alias, "became": named(c.after), "was": named(c.before), "epoch": c.epoch,
             "position": c.position, "at": c.recorded_at, "actor": c.actor, "reason": c.reason}
            for c in aliases.changes(entries) if model_version in {m for m, _ in [*c.before, *c.after]}
        ],
    }  # fmt: skip


def _signed(entry: Entry) -> dict[str, Any]:
    return {"position": entry.position, "at": entry.recorded_at, "actor": entry.actor, "reason": entry.reason}


def _dataset(entry: Entry) -> dict[str, Any]:
    return {"position": entry.position, **entry.payload}


def _guard(entry: Entry) -> dict[str, Any]:
    payload = entry.payload
    return {
        **_signed(entry),
        "kind": entry.kind,
        "subject": payload.get("subject", "data"),
        "refusing": payload["refusing"],
        "findings": payload.get("findings", []),
    }


def _about(entry: Entry, model_version: int, dataset_position: int | None) -> bool:
    payload = entry.payload
    if "model_version" in payload:
        return bool(payload["model_version"] == model_version)
    return dataset_position is not None and bool(payload["dataset_position"] == dataset_position)


def _calibration(entry: Entry) -> dict[str, Any]:
    payload = entry.payload
    metadata = payload["metadata"]
    told = {name: metadata.get(name) for name in ("fpr_max", "form", "why", "merged", "slices", "dataset_position")}
    recalibrated = bool(metadata.get("recalibrated"))
    return {
        "calibration_version": payload["calibration_version"],
        **_signed(entry),
        "thresholds": payload["thresholds"],
        "recalibrated": recalibrated,
        "anchored": metadata.get("allocation", {}).get("anchored"),
        **told,
    }


def tell(card: Mapping[str, Any]) -> None:
    """The same in words and tables, on stderr."""
    used = ", ".join(card["aliases"]) or "nothing"
    output.say(f"model {card['model_version']}: {card['kind']}, digest {card['digest']}, used as {used}")
    output.say(f"registered at position {card['position']} by {card['actor']}: {card['reason']}")
    _tell_making(card)
    for verdict in card["guardrails"]:
        _tell_guard(verdict)
    for evaluated in card["evaluations"]:
        _tell_evaluation(evaluated)
    for calibration in card["calibrations"]:
        _tell_calibration(calibration)
    lines = [(d["position"], d["at"], d["alias"], _words(d["was"]), _words(d["became"]), d["actor"], d["reason"])
             for d in card["deployments"]]  # fmt: skip
    output.rows("used as", ("position", "at", "alias", "from", "to", "who", "why"), lines)


def _tell_making(card: Mapping[str, Any]) -> None:
    if built := card["dataset"]:
        output.say(
            f"data set of entry {built['position']}: {built['rows']:,} clicks, {built['human']:,} human, "
            f"{built['purchased']:,} by an outcome; up to position {built['up_to_position']}, digest {built['digest']}"
        )
    if profile := card["profile"]:
        output.say("made with " + ", ".join(f"{name} {value}" for name, value in profile.items()))


def _tell_guard(verdict: Mapping[str, Any]) -> None:
    refusing = ", ".join(verdict["refusing"])
    told = f", refused by {refusing}" if refusing else ""
    output.say(f"{verdict['kind']} ({verdict['subject']}) at position {verdict['position']}{told}")


def _tell_evaluation(evaluated: Mapping[str, Any]) -> None:
    held_out = evaluated["held_out"]
    lines = [
        (kind, f"{figures['auc']:.4f}", *(f"{ivr:.4f}" for ivr in figures["ivr_at_fpr"].values()))
        for kind, figures in evaluated["models"].items()
    ]
    fprs = [f"IVR at FPR {fpr}" for fpr in next(iter(evaluated["models"].values()))["ivr_at_fpr"]]
    output.rows(
        f"on {held_out['rows']:,} later clicks with {held_out['purchased']:,} outcomes", ("model", "AUC", *fprs), lines
    )


def _tell_calibration(calibration: Mapping[str, Any]) -> None:
    how = "recalibrated" if calibration["recalibrated"] else "calibrated"
    title = f"calibration {calibration['calibration_version']}: {how} by {calibration['actor']}, {calibration['form']}"
    slices = calibration["slices"] or {}
    thresholds: Mapping[str, float] = calibration["thresholds"]
    lines = [
        (name, f"{thresholds.get(name, thresholds['*']):.3f}", own.get("clicks"), own.get("purchases"),
         share(own.get("ivr")), share(own.get("fpr")))
        for name, own in (slices or {name: {} for name in thresholds}).items()
    ]  # fmt: skip
    output.rows(title, ("slice", "threshold", "clicks", "purchases", "IVR", "FPR"), lines)
    anchored = calibration["anchored"] or {}
    for name, held in anchored.get("slices", {}).items():
        beside = f"model {anchored['beside']['model']} with calibration {anchored['beside']['calibration']}"
        why = f"let go: {held['kept']}" if held["kept"] else f"held at {share(held['rate'])}"
        output.say(f"{name}: IVR {share(held['in_force'])} by {beside}, wanted {share(held['wanted'])}, {why}")


def share(value: float | None) -> str:
    """A share as it is printed; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def pairs(found: Sequence[Pair]) -> str:
    """Models with their calibrations, for people."""
    return ", ".join(f"model {model} with calibration {calibration}" for model, calibration in found) or "-"


def named(found: Sequence[Pair]) -> list[dict[str, int]]:
    """Models with their calibrations, JSON values."""
    return [{"model": model, "calibration": calibration} for model, calibration in found]


def stated(used: Aliases) -> dict[str, list[dict[str, int]]]:
    """What each alias stands for, JSON values."""
    return {name: named(found) for name, found in used.items()}


def _words(found: Sequence[Mapping[str, int]]) -> str:
    return pairs([(pair["model"], pair["calibration"]) for pair in found])
