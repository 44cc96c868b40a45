"""`python -m benchmarks.calibration`: what calibrations do to later simulated traffic, by slice and login status.

By event time: trained on the first part of the traffic, calibrated on the next, judged on the last. Each calibration
is set against the global threshold that is moved to lose exactly as many of the later purchases: the same realised FPR,
so that only how it is divided differs. The truth about people and robots is used to judge, never to learn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from clickledger.errors import Refused
from clickledger.scoring import (
    allocation,
    calibration,
    convex,
    curves,
    feature_replay,
    feature_spec,
    judged,
    labels,
    simulation,
    training,
)
from clickledger.scoring.allocation import CalibrationConfig
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.judged import Judged
from clickledger.scoring.simulation_world import DEVICE_KIND, KINDS

START_MS = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * 1000
FPR_MAX = 0.01
PURCHASES_MIN = 30  # of a slice, for its FPR to mean anything
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Traffic:
    """Simulated clicks as a trainer sees them, and the truth beside them."""

    dataset: Dataset
    robot: Flags  # (n,)


def draw(clicks: int, hours: float, seed: int, known_h: float) -> Traffic:
    """Simulate, count and label; in columns, since millions of click objects would not fit."""
    config = simulation.SimulationConfig(clicks=clicks, start_ms=START_MS, duration_hours=hours, seed=seed)
    told, truth = simulation.simulate(config)
    features = feature_replay.recompute_encoded(_encoded(told).tobytes())
    purchased, human, user = _labelled(told, START_MS + int(known_h * feature_spec.HOUR_MS))
    kind = np.array(KINDS)[DEVICE_KIND[told.device]]
    slices = np.char.add(kind, np.where(told.logged_in, "/in", "/out"))
    return Traffic(Dataset(features, human, purchased, user, slices, told.event_time_ms), truth.robot)


def _encoded(told: simulation.Simulated) -> npt.NDArray[np.void]:
    records = np.zeros(len(told), dtype=feature_spec.CLICK_DTYPE)
    for column, values in (("user_key", told.user), ("ip_key", told.ip)):
        keys = np.zeros((len(told), 2), dtype=np.uint64)
        keys[:, 0] = values.astype(np.uint64) + 1  # a key of zeros would lose its end
        keys[:, 1] = 1
        records[column] = keys.view("V16").ravel()
    records["event_time_ms"] = told.event_time_ms
    records["campaign"] = told.campaign
    records["session"] = _hashed(told.session) & 0xFFFF
    records["user_slot"] = _hashed(told.user) % feature_spec.IP_USER_SLOTS
    records["agent_slot"] = _hashed(told.device) % feature_spec.IP_AGENT_SLOTS
    records["ip_slot"] = _hashed(told.ip) % feature_spec.USER_IP_SLOTS
    records["logged_in"] = told.logged_in
    codes = np.array([feature_spec.device_kind_code(kind) for kind in KINDS])
    records["device_kind"] = codes[DEVICE_KIND[told.device]]
    return records


def _hashed(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's mixing: slots as good as those of a pseudonym's checksum."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _labelled(told: simulation.Simulated, known_ms: int) -> tuple[Flags, Flags, npt.NDArray[np.int64]]:
    users, user = np.unique(told.user, return_inverse=True)
    bought = told.purchases
    known = bought.occurred_at_ms <= known_ms
    purchased = np.zeros(len(told), dtype=np.bool_)
    purchased[bought.click[known]] = True
    high = labels.high_rfm(
        user[bought.click[known]], bought.occurred_at_ms[known], bought.value_micros[known], len(users)
    )
    return purchased, labels.human(purchased, user, high), user


def judge(clicks: Judged, robot: Flags, thresholds: dict[str, float]) -> dict[str, Any]:
    """Rates over all, by slice and by login status; `people` is the true share of people invalidated."""
    invalid = clicks.invalid(thresholds)
    login = np.array([name.rpartition("/")[2] for name in clicks.slice.tolist()])
    parts = {"all": np.ones(len(clicks), dtype=np.bool_)}
    parts |= {name: login == name for name in ("in", "out")}
    parts |= {name: clicks.slice == name for name in np.unique(clicks.slice).tolist()}
    return {name: _rates(invalid[rows], clicks.where(rows), robot[rows]) for name, rows in parts.items()}


def _rates(invalid: Flags, clicks: Judged, robot: Flags) -> dict[str, Any]:
    return {
        "ivr": curves.invalidation_rate(invalid),
        "fpr": curves.share_of(invalid, clicks.purchased) if clicks.purchases >= PURCHASES_MIN else None,
        "purchases": clicks.purchases,
        "people": curves.share_of(invalid, ~robot),
        "recall": curves.share_of(invalid, robot),
        "coverage": curves.share_of(invalid, clicks.hot) if _robots_among_hot(clicks, robot) else None,
    }


def _robots_among_hot(clicks: Judged, robot: Flags) -> bool:
    """Whether coverage means anything: a slice's crowded sessions are robots, not its busiest people."""
    return bool(clicks.hot.sum() >= 100 and robot[clicks.hot].mean() > 0.5)


def worst(rates: dict[str, Any], figure: str) -> float:
    """The worst slice's figure: the highest of FPR and of people lost, the lowest coverage."""
    values = [rate[figure] for name, rate in rates.items() if "/" in name and rate[figure] is not None]
    if not values:
        return float("nan")
    return min(values) if figure == "coverage" else max(values)


def candidates(clicks: Judged, fpr_max: float, config: CalibrationConfig) -> dict[str, dict[str, float]]:
    """Thresholds by name: each slice at the budget, one for all, that with margin and caps, both forms, what ships."""
    free = replace(config, fpr_slice_max=1.0)
    within = allocation.budget(fpr_max, clicks.purchases, config.overshoot_z)
    made = {
        "each slice at the budget": _equal(clicks, fpr_max),
        "global": allocation.everywhere(clicks, allocation.budget(fpr_max, clicks.purchases, 0.0), free).thresholds,
        "global, margin": allocation.everywhere(clicks, within, free).thresholds,
        "global, margin, caps": allocation.everywhere(clicks, within, config).thresholds,
    }
    groups = calibration.groups_of(clicks, config)
    for form in convex.FORMS if len(groups) > 1 else ():
        try:
            made[form] = allocation.by_slice(clicks, groups, within, form, config).thresholds
        except Refused as error:
            print(f"    {form}: {error}", file=sys.stderr)
    shipped = calibration.of_clicks(clicks, fpr_max, config)
    print(f"    shipped: {shipped.metadata['form']}: {shipped.metadata['why']}", file=sys.stderr)
    for name, figures in shipped.metadata["contest"].get("candidates", {}).items():
        print(f"      {name}: {figures.get('out') or figures['failed'] or 'held'}", file=sys.stderr)
    return made | {"shipped": shipped.thresholds}


def _equal(clicks: Judged, fpr_max: float) -> dict[str, float]:
    """What a form by slice has to be better than as well: each slice with enough purchases at the budget's FPR."""
    thresholds = {"*": calibration.threshold_within(clicks.score, clicks.purchased, fpr_max)}
    for name in np.unique(clicks.slice).tolist():
        own = clicks.in_slices({name})
        if own.purchases >= 300:
            thresholds[name] = calibration.threshold_within(own.score, own.purchased, fpr_max)
    return thresholds


def moved(clicks: Judged, fpr: float) -> dict[str, float]:
    """The global threshold that loses as many of the later purchases."""
    curve = curves.curve(clicks)
    return {"*": curve.threshold_at(round(fpr * curve.purchases))}


def measure(
    clicks: int, days: tuple[float, float, float, float], seed: int, kind: str, config: CalibrationConfig
) -> dict[str, Any]:
    """One seed: the rates of each candidate on the last part, each with its global rival at the same realised FPR."""
    train_d, calibrate_d, gap_d, _ = days
    hours = 24 * sum(days)
    began = time.monotonic()
    cutoff_h = 24 * (train_d + calibrate_d + gap_d)
    known = draw(clicks, hours, seed, cutoff_h)
    told = known.dataset
    edges = [START_MS + int(24 * d * feature_spec.HOUR_MS) for d in np.cumsum([0, train_d, calibrate_d, gap_d])]
    train = told.between(edges[0], edges[1])
    model = {"network": training.train_network, "logistic_regression": training.train_logistic_regression}[kind](train)
    calibrate = _judged(model, told.between(edges[1], edges[2]), config)
    later_rows = told.event_time_ms >= edges[3]
    print(f"  seed {seed}: drawn and trained in {time.monotonic() - began:.0f} s", file=sys.stderr)
    all_known = draw(clicks, hours, seed, 24 * 400).dataset.purchased
    later = _judged(model, replace(told.where(later_rows), purchased=all_known[later_rows]), config)
    robot = known.robot[later_rows]
    answer = {"calibration_purchases": calibrate.purchases, "later_purchases": later.purchases, "by": {}}
    for name, thresholds in candidates(calibrate, FPR_MAX, config).items():
        rates = judge(later, robot, thresholds)
        rival = judge(later, robot, moved(later, rates["all"]["fpr"]))
        answer["by"][name] = {"rates": rates, "rival": rival, "thresholds": thresholds}
    return answer


def _judged(model: Any, told: Dataset, config: CalibrationConfig) -> Judged:
    hot = judged.hot(told.features, config.session_clicks_max)
    return Judged(model.score(told.features), told.purchased, hot, told.slice, told.event_time_ms)


COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "FPR": lambda rates: rates["all"]["fpr"],
    "FPR in": lambda rates: rates["in"]["fpr"],
    "FPR out": lambda rates: rates["out"]["fpr"],
    "people": lambda rates: rates["all"]["people"],
    "IVR": lambda rates: rates["all"]["ivr"],
    "recall": lambda rates: rates["all"]["recall"],
    "worst FPR": lambda rates: worst(rates, "fpr"),
    "worst people": lambda rates: worst(rates, "people"),
    "worst coverage": lambda rates: worst(rates, "coverage"),
}


def show(seed: int, answer: dict[str, Any]) -> None:
    """One table a seed: each candidate, and behind a bar the global threshold at the same realised FPR."""
    title = f"seed {seed}: {answer['calibration_purchases']} purchases calibrated on, {answer['later_purchases']} later"
    table = Table("calibration", *COLUMNS, title=title)
    for name, sides in answer["by"].items():
        mine, other = sides["rates"], sides["rival"]
        cells = [f"{_shown(pick(mine))} | {_shown(pick(other))}" for pick in COLUMNS.values()]
        table.add_row(name, *cells)
    Console(width=200).print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main() -> int:
    """Measure the seeds and print a table each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clicks", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, nargs=4, default=[5, 5, 2, 3], help="train, calibrate, gap, judge")
    parser.add_argument("--kind", default="network")
    parser.add_argument("--json", default="")
    parser.add_argument("--set", nargs="*", default=[], help="name=value of the configuration")
    asked = parser.parse_args()
    config = replace(allocation.DEFAULT_CONFIG, **{k: json.loads(v) for k, v in (w.split("=") for w in asked.set)})
    answers = {}
    for seed in asked.seeds:
        answers[seed] = measure(asked.clicks, tuple(asked.days), seed, asked.kind, config)
        show(seed, answers[seed])
    if asked.json:
        Path(asked.json).write_text(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
