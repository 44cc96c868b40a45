"""The story of one click as people read it, and its decisions recomputed before their eyes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from clickledger.console import output
from clickledger.ledger import database, deployments
from clickledger.ledger.authority_map import SPARSE
from clickledger.scoring import decide, feature_spec, warmth
from clickledger.scoring import model as models_
from clickledger.scoring.deciding import MODEL_UNUSABLE

Story = dict[str, Any]


class Warm(NamedTuple):
    """Whether a snapshot is cold, and if so from which event time (ms) on those of its counter epoch are not."""

    cold: bool
    from_ms: int | None


def warmth_of(conn: database.Connection, click: dict[str, Any]) -> Warm:
    """Whether the windows behind a click's snapshot were full; one that was not counted has no windows."""
    if not click["seq"]:
        return Warm(False, None)
    moment_ms = int.from_bytes(click["click_id"].bytes[:6], "big")
    found = warmth.around(conn, moment_ms)
    cold = found.is_cold(click["counter_epoch"], moment_ms)
    return Warm(cold, found.full_from_ms(click["counter_epoch"]) if cold else None)


def features_of(click: dict[str, Any]) -> dict[str, int]:
    """The recorded snapshot by feature name."""
    return _named(click["features"], click["feature_schema"])


def _named(snapshot: bytes, schema: int) -> dict[str, int]:
    row = feature_spec.unpack_snapshots([bytes(snapshot)], schema)[0]
    return dict(zip(feature_spec.SCHEMAS[schema], row.tolist(), strict=True))


def recounted(story: Story) -> dict[int, dict[str, int]]:
    """By run, the features it counted again from the log that are not as recorded: their names and values."""
    click = story["click"]
    recorded, found = features_of(click), {}
    for decision in story["decisions"]:
        if decision.get("recounted") is not None:
            again = _named(decision["recounted"], click["feature_schema"])
            found[decision["run_id"]] = {name: value for name, value in again.items() if recorded[name] != value}
    return found


def rescored(conn: database.Connection, story: Story) -> list[dict[str, Any]]:
    """Each decision of the click recomputed from the snapshot it was made on: score, verdict, whether it is the same.

    What a sparse run stated or a run carried over was not computed: it has no score here, and `exact` is None.
    """
    click, results = story["click"], []
    for decision in story["decisions"]:
        snapshot = bytes(decision.get("recounted") or click["features"])
        features = feature_spec.unpack_snapshots([snapshot], click["feature_schema"])
        if _is_stated(decision) or decision["carried"]:  # what it was carried from is re-scored where it was decided
            results.append({"run_id": decision["run_id"], "score": None, "verdict": None, "exact": None})
            continue
        model, thresholds = _judge(conn, decision)
        given = decision["reason"] if decision["reason"] in ("late", "future") else ""
        again = decide.decide(features, [click["slice"]], [given], model, thresholds)
        score, recorded = again.score[0], np.float32(decision["score"])  # the server sends float4 in decimal
        same = bool(again.verdict[0] == decision["verdict"] and (score == recorded or np.isnan(score)))
        results.append(
            {"run_id": decision["run_id"], "score": float(score), "verdict": again.verdict[0], "exact": same}
        )
    return results


def _is_stated(decision: dict[str, Any]) -> bool:
    return decision.get("run_kind") == SPARSE


def _judge(conn: database.Connection, decision: dict[str, Any]) -> tuple[models_.Model | None, dict[str, float]]:
    if decision["model_version"] == 0 or decision["reason"] == MODEL_UNUSABLE:
        return None, {}
    model = models_.from_artefact(deployments.load_artefact(conn, decision["model_version"]))
    return model, deployments.load_thresholds(conn, decision["calibration_version"])


def show(story: Story, features: dict[str, int], again: list[dict[str, Any]], warm: Warm) -> None:
    """Print the story on stderr, in the order things happened."""
    click, other = story["click"], recounted(story)
    output.say(f"click {click['click_id']} ({click['source']} {click['external_id']})")
    output.say(f"  clicked at {_when(click['event_time'])}, logged at position {click['log_position']}")
    output.say(
        f"  advertiser {click['advertiser_id']}, campaign {click['campaign_id']}, "
        f"{click['cost_micros']} micros {click['currency']}, slice {click['slice']}, device {click['device_kind']}"
    )
    known = [f"{name}={value}" for name, value in features.items() if value != feature_spec.NO_VALUE]
    output.say(f"  features (schema {click['feature_schema']}, seq {click['seq']}): {', '.join(known)}")
    if warm.cold and warm.from_ms is not None:
        full = _when(datetime.fromtimestamp(warm.from_ms / 1000, UTC))
        output.say(f"  cold: its windows were not full yet, those of clicks from {full} on are")
    for outcome in story["outcomes"]:
        output.say(f"  outcome: {outcome['kind']} worth {outcome['value_micros']} micros")
    for decision, check in zip(story["decisions"], again, strict=True):
        _show_decision(decision, check, story)
        if (changed := other.get(decision["run_id"])) is not None:
            counted = ", ".join(f"{name}={value} (was {features[name]})" for name, value in changed.items())
            output.say(f"    decided on features counted again from the log: {counted}")
    for line in story["billing"]:
        off = f", {line['write_off_micros']} written off" if line["write_off_micros"] else ""
        output.say(
            f"  billing was told at {line['position']}: {line['entry_kind']} "
            f"{line['amount_micros']:+d} micros {click['currency']}{off}"
        )


def show_rows(story: Story, faults: list[str]) -> None:
    """Print whether the rows that the story is told from are those that were written."""
    for fault in faults:
        output.say(f"  NOT as it was written: {fault}")
    if not faults:
        staged = [f", run {d['run_id']}" for d in story["decisions"] if d.get("run_status") == "staged"]
        output.say(f"  its rows are those that were written: entry {story['click']['log_position']}{''.join(staged)}")


def _show_decision(decision: dict[str, Any], check: dict[str, Any], story: Story) -> None:
    in_force = "  <- in force" if decision["run_id"] == story["authoritative_run_id"] else ""
    who = "live decision" if decision["run_id"] is None else f"delayed decision of run {decision['run_id']}"
    output.say(f"  {who}: {decision['verdict']}{in_force}")
    if decision["reason"] or not decision["model_version"]:  # undecided, or stated, then or before it was carried
        output.say(f"    reason: {decision['reason']}")
    else:
        sign = ">=" if decision["score"] >= decision["threshold"] else "<"  # of the numbers, whatever the verdict says
        output.say(f"    score {decision['score']:.6f} {sign} threshold {decision['threshold']:.6f} of the slice")
    if _is_stated(decision):
        output.say("    stated by whoever planned the run, not computed")
    elif decision["carried"]:
        output.say("    carried over: what was in force before, which this run was not to decide")
        if decision["model_version"]:
            _show_model(decision, story)
    else:
        _show_computed(decision, check, story)
    if decision["run_id"] is None:
        _show_entry("deployed", decision["deployed"])
        if decision["deployed"]["revoked"]:
            _show_entry("revoked", decision["deployed"]["revoked"])
        return
    _show_entry("planned", decision["recorded"])
    for entry in decision["history"]:
        _show_entry(entry["kind"].removeprefix("replay_"), entry)


def _show_computed(decision: dict[str, Any], check: dict[str, Any], story: Story) -> None:
    exact = "the same to the bit" if check["exact"] else f"NOT the same: {check['verdict']} at {check['score']!r}"
    output.say(f"    re-scored now: {exact}")
    _show_model(decision, story)


def _show_model(decision: dict[str, Any], story: Story) -> None:
    digests = {m["model_version"]: m["digest"] for m in story["models"]}
    digest = str(digests.get(decision["model_version"], ""))[:12]
    output.say(f"    model {decision['model_version']} ({digest}), calibration {decision['calibration_version']}")


def _show_entry(what: str, entry: dict[str, Any]) -> None:
    reason = f": {entry['reason']}" if entry["reason"] else ""
    output.say(
        f"    {what} at position {entry['position']} ({_when(entry['recorded_at'])}) by {entry['actor']}{reason}"
    )


def _when(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
