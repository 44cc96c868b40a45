"""`python -m benchmarks.detection`: false alarms a month and delays of every signal, over six simulated months.

Ticks are drawn as counts from rates that were measured on simulated traffic under real, separately trained networks
(`detection_rates`); 180 days of clicks do not go through PostgreSQL. Every day begins a deployment, as daily retraining
does, under a pair of sound models drawn by chance from those measured; the detectors' arithmetic is compared with the
product's at every run. Bad models withhold 1% or 3% more of the people; nothing else about them is bad.

With `--rates FILE` measured rates are kept and used again.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import detection_months as months
from benchmarks import detection_rates
from benchmarks.detection_rates import Rates
from clickledger.recovery import detection, paging

CLICKS_PER_S = (100.0, 1_000.0, 10_000.0)
MORE = (0.01, 0.03)
DAYS_A_MONTH = 30
ACTING = ("any", *(signal.name for signal in detection.SIGNALS))


def acting(rates: Rates, rate: float, days: int, bad: int, seed: int) -> dict[str, Any]:
    """False alarms of sound daily deployments, and delays (seconds) of bad ones, by signal; None = not within a day."""
    random = np.random.default_rng(seed)
    false: dict[str, int] = dict.fromkeys(ACTING, 0)
    for day in range(days):
        drawn = months.draw(rates, rate, months.TICKS_A_DAY, random)
        if day % 30 == 0:
            months.check(drawn, random)
        for name in months.first_alarm(drawn):
            false[name] += 1
    delays: dict[str, dict[str, list[float]]] = {}
    for more in MORE:
        found: dict[str, list[float]] = {name: [] for name in ACTING}
        for _ in range(bad):
            drawn = months.draw(
                rates, rate, months.TICKS_A_DAY, random, start_hour=float(random.uniform(0, 24)), more=more
            )
            raised = months.first_alarm(drawn)
            for name in ACTING:
                found[name].append((raised[name] + 1) * 10.0 if name in raised else np.inf)
        delays[f"{more:+.0%}"] = found
    return {"false_a_month": {n: c / days * DAYS_A_MONTH for n, c in false.items()}, "delays": delays}


def paged(rates: Rates, rate: float, weeks: int, bad: int, seed: int) -> dict[str, Any]:
    """Pages of sound weeks a month, and delays of bad ones that begin at a random minute of the last week."""
    random = np.random.default_rng(seed)
    sound = months.draw_weeks(rates, rate, weeks, random)
    judged_days = 7 * (weeks - 4)
    asked = [(share, direction) for share in paging.SHARES[:3] for direction in share.directions]
    false = {
        f"{share.name} {direction}": len(months.pages(months.page_evidence(share, direction, sound, first_week=4)))
        / judged_days
        * DAYS_A_MONTH
        for share, direction in asked
    }
    delays: dict[str, dict[str, list[float]]] = {}
    for more in MORE:
        found: dict[str, list[float]] = {f"{share.name} {direction}": [] for share, direction in asked}
        for _ in range(bad):
            start = int(random.integers(0, 6 * 1_440))
            added = np.zeros((5, 10_080))
            added[4, start : start + 1_440] = more
            counts = months.draw_weeks(rates, rate, 5, random, added)
            for share, direction in asked:
                read = months.page_evidence(share, direction, counts, first_week=4)
                hit = np.flatnonzero(read[start : start + 1_440] >= paging.EVIDENCE_PAGES)
                found[f"{share.name} {direction}"].append((hit[0] + 1) * 60.0 if len(hit) else np.inf)
        delays[f"{more:+.0%}"] = found
    return {"false_a_month": false, "delays": delays}


def run(rates: Rates, days: int, bad: int, seed: int = 1, rates_per_s: tuple[float, ...] = CLICKS_PER_S) -> Any:
    """Everything, by clicks a second."""
    answer = {}
    for rate in rates_per_s:
        began = time.monotonic()
        answer[f"{rate:,.0f}"] = {
            "acting": acting(rates, rate, days, bad, seed),
            "paging": paged(rates, rate, max(5, days // 7), max(5, bad // 2), seed),
        }
        print(f"  {rate:,.0f} clicks/s: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return answer


def table(answer: Any) -> list[str]:
    """Markdown, by signal and rate: false alarms a month, then median delays and in brackets that of 95 in 100."""
    heads = [f"{rate}/s" for rate in answer]
    lines = [
        f"| signal | {' | '.join(f'false a month, {h}' for h in heads)} | "
        + " | ".join(f"{more:+.0%}, {h}" for more in MORE for h in heads) + " |",
        "|---|" + "---:|" * (len(heads) * (1 + len(MORE))),
    ]  # fmt: skip
    for kind in ("acting", "paging"):
        for name in next(iter(answer.values()))[kind]["false_a_month"]:
            cells = [f"{part[kind]['false_a_month'][name]:.2f}" for part in answer.values()]
            cells += [_delay(part[kind]["delays"][f"{more:+.0%}"][name]) for more in MORE for part in answer.values()]
            shown = "**all together**" if name == "any" else f"`{name}`"
            lines.append(f"| {shown} | {' | '.join(cells)} |")
    return lines


def _delay(found: list[float]) -> str:
    seen = np.isfinite(found).mean()
    if seen < 0.5:
        return "never" if seen == 0.0 else f"{seen:.0%} of days"
    middle, late = np.quantile(found, 0.5, method="lower"), np.quantile(found, 0.95, method="lower")
    worst = f"{late:,.0f}" if np.isfinite(late) else f"{seen:.0%} seen"
    return f"{middle:,.0f} s ({worst})"


def failures(answer: Any) -> list[str]:
    """What the detector promises and did not keep."""
    wrong = []
    for rate, part in answer.items():
        if (often := part["acting"]["false_a_month"]["any"]) >= 1.0:
            wrong.append(f"{rate} clicks/s: {often:.2f} false rollbacks a month, expected under 1")
        for more, found in part["acting"]["delays"].items():
            if missed := int(np.isinf(found["any"]).sum()):
                wrong.append(f"{rate} clicks/s: {missed} of {len(found['any'])} models with {more} were not noticed")
    return wrong


def main() -> int:
    """Measure, print the table; 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--clicks", type=int, default=700_000, help="simulated, to measure rates on")
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--bad", type=int, default=100, help="bad deployments of each kind and rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rates", type=Path, help="measured rates: read if it is there, else written")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.rates and asked.rates.exists():
        rates = pickle.loads(asked.rates.read_bytes())
    else:
        rates = detection_rates.measure(asked.clicks, asked.seed)
        if asked.rates:
            asked.rates.write_bytes(pickle.dumps(rates))
    answer = run(rates, asked.days, asked.bad, asked.seed)
    print("\n".join([*detection_rates.describe(rates), "", *table(answer), "", *failures(answer)]))
    if asked.json:
        asked.json.write_text(json.dumps(answer))
    return 1 if failures(answer) else 0


if __name__ == "__main__":
    sys.exit(main())
