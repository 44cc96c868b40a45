"""What the report of `model evaluate` says: its cards, sections and tables, from the figures that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clickledger.console import evaluation_pictures, report_page
from clickledger.console.evaluation_pictures import PART_NAMES
from clickledger.console.report_page import Card, Picture, Rows, Section, Term
from clickledger.scoring.calibration_trial import EQUAL, GLOBAL, SHIPPED, Trial
from clickledger.scoring.examination import Examination

SETS = {GLOBAL: "one threshold, at the budget", EQUAL: "one threshold, equal FPR", SHIPPED: "by slice"}
MADE_BY = "clickledger model evaluate"
FORMS = {
    "global": "one threshold for all clicks, with a ceiling for each slice and login status",
    "hull": "a threshold by slice, from the concave hulls of the curves",
    "quadratic": "a threshold by slice, from quadratics fitted to the curves",
}
TERMS = (
    Term("IVR, invalidation rate", "Invalidated clicks of all clicks."),
    Term(
        "FPR, false positive rate",
        "Invalidated purchasing clicks of all purchasing clicks: who buys stands for people. Most buyers are "
        "logged in, "
        "so people who are not lose more than it says.",
    ),
    Term("Robotic coverage", "Invalidated clicks of those in sessions with more than 10 clicks in an hour."),
    Term("Decision rate", "Clicks with enough information to decide, of all rows that were given."),
    Term("Knee", "The point of a curve farthest above the chord from (0, 0) to (1, 1)."),
    Term(
        "Calibration by slice",
        "Thresholds for each device kind and login status that invalidate most within one budget of FPR, no "
        "slice above "
        "its ceiling, each slice that has shown robots above a floor of coverage. It ships only if it holds on "
        "later clicks.",
    ),
    Term(
        "Intervals",
        "Of AUC, IVR and recall: bootstrap over whole users, all models on the same draws. Of slices: Clopper "
        "and Pearson, "
        "which takes clicks for independent; those of IVR and coverage are narrower than they should be.",
    ),
)


def of_files(fields: Mapping[str, Any], seen: Examination, budgets: Sequence[float], table: Rows) -> str:
    """The page of an evaluation on clicks of files."""
    train, test = fields["train"], fields["test"]
    sources = ", ".join(f"{Path(source['file']).name} ({source['clicks']:,} clicks)" for source in fields["files"])
    lead = [
        f"{sources}.",
        f"Trained on {train['rows']:,} clicks ({train['purchased']:,} with an outcome), tested on "
        f"{test['rows']:,} later "
        f"ones ({test['purchased']:,}), from {_time(fields['border_ms'])} on.",
    ]
    first = next(iter(fields["models"].values()))
    rate = str(budgets[0])
    cards = [
        Card(f"{first['auc']:.3f}", f"AUC of the {evaluation_pictures.name_of(seen.kind)}"),
        Card(_percent(first["ivr_at_fpr"][rate]), f"of clicks invalidated by it at FPR {budgets[0]:.0%}"),
        *_calibration_cards(seen),
    ]
    said = (
        "Thresholds are read off the test part, for all models alike, so that each loses the same share of purchasing "
        "clicks. Settings were chosen on the training part alone, by one rule for all models. The rows below the "
        "models "
        "are their differences on the same draws: an interval that does not hold 0 is a proven lead."
    )
    compared = Section(
        "models",
        "Models at equal FPR",
        [said],
        [table, _coverage(seen), evaluation_pictures.of_models(seen.curves, budgets)],
    )
    return report_page.page("Model evaluation", lead, cards, [compared, *_sections(seen)], TERMS, MADE_BY)


def of_simulation(fields: Mapping[str, Any], seen: Examination, tables: Sequence[Rows]) -> str:
    """The page of an evaluation on simulated traffic."""
    run, fpr = fields["runs"][0], fields["fpr"]
    first = next(iter(run["models"].values()))
    lead = [
        f"{fields['clicks']:,} simulated clicks of {fields['days']:g} days, people and six kinds of robots, whose "
        "truth "
        f"is known; {_seeds(len(fields['runs']))}. Trained on {run['train']['rows']:,} clicks, tested on the last "
        f"{run['test']['rows']:,}.",
    ]
    kind = evaluation_pictures.name_of(seen.kind)
    cards = [
        Card(_percent(first["recall"]), f"of robots' clicks caught by the {kind} at FPR {fpr:.0%}"),
        Card(_percent(first["precision"]), "of what it invalidates are robots"),
        Card(_percent(first["people_invalidated"]), "of people's clicks are invalidated"),
        *_calibration_cards(seen),
    ]
    said = (
        f"All models at a realised FPR of {fpr:.0%}: the lowest threshold that invalidates at most that share of the "
        "purchasing clicks. Precision is the share of robots among what is invalidated; people is the share of "
        "all human "
        "clicks lost."
    )
    compared = Section(
        "models", "Models at equal FPR, by kind of robot", [said], [*tables, evaluation_pictures.of_robots(run, fpr)]
    )
    drawn = evaluation_pictures.of_models(seen.curves, (0.01, 0.02, 0.05))
    curves = Section("curves", "Curves", [], [drawn, _coverage(seen)])
    return report_page.page(
        "Model evaluation on simulated traffic", lead, cards, [compared, curves, *_sections(seen)], TERMS, MADE_BY
    )


def pictures(seen: Examination, run: Mapping[str, Any], fpr: float) -> list[Picture]:
    """All pictures of a simulated evaluation."""
    calibrated = []
    if seen.trial is not None:
        slices = [evaluation_pictures.of_slices(seen.trial)] if evaluation_pictures.drawn_slices(seen.trial) else []
        calibrated = [*slices, evaluation_pictures.before_and_after(seen.trial)]
    curves = evaluation_pictures.of_models(seen.curves, (0.01, 0.02, 0.05))
    return [curves, *calibrated, evaluation_pictures.of_labels(seen), evaluation_pictures.of_robots(run, fpr)]


def _coverage(seen: Examination) -> Rows:
    told = seen.coverage_at_fpr()
    fprs = list(next(iter(told.values())))
    rows = [[evaluation_pictures.name_of(kind), *(_percent(own[fpr]) for fpr in fprs)] for kind, own in told.items()]
    columns = ["model", *(f"at FPR {float(fpr):.0%}" for fpr in fprs)]
    return Rows("Robotic coverage: share invalidated of the clicks of crowded sessions", columns, rows)


def _sections(seen: Examination) -> list[Section]:
    return [*_calibration(seen), _labels(seen), _decided(seen)]


def _calibration(seen: Examination) -> list[Section]:
    trial = seen.trial
    if trial is None:
        return [Section("calibration", "Calibration", [f"There is none to show: {seen.refused}."], [])]
    told = trial.fields
    on, judged = told["calibrated_on"], told["judged_on"]
    said = [
        f"Thresholds of the {evaluation_pictures.name_of(seen.kind)} from the earlier half of the test part "
        f"({on['clicks']:,} clicks, {on['purchases']:,} purchases), judged on the later half "
        f"({judged['clicks']:,} clicks, "
        f"{judged['purchases']:,} purchases, from {_time(judged['from_ms'])} on). Budget: FPR {told['fpr_max']:.1%}.",
        f"What ships: {FORMS[told['form']]}. Why: {told['why']}."
        + (f" Slices too thin to stand alone share a threshold: {_merged(told['merged'])}." if told["merged"] else ""),
    ]
    figures = told["figures"]
    tables = [
        _rates(figures, rate, title) for rate, title in (("fpr", "FPR"), ("ivr", "IVR"), ("coverage", "Coverage"))
    ]
    if "people" in figures[SHIPPED]["*"]:
        tables.append(_truth(figures))
    shown: list[Rows | Picture] = [evaluation_pictures.before_and_after(trial), *tables, _thresholds(told)]
    return [*_slices(trial), Section("calibration", "Calibration by slice", said, shown)]


def _slices(trial: Trial) -> list[Section]:
    drawn = evaluation_pictures.drawn_slices(trial)
    return [Section("slices", "Curves by slice", [], [evaluation_pictures.of_slices(trial)])] if drawn else []


def _rates(figures: Mapping[str, Any], rate: str, title: str) -> Rows:
    of = {"fpr": "purchases", "ivr": "clicks", "coverage": "hot_clicks"}[rate]
    rows = [
        [
            PART_NAMES.get(part, part),
            f"{rates[of]:,}",
            *(_with_interval(figures[name][part][rate], figures[name][part][f"{rate}_interval"]) for name in SETS),
        ]
        for part, rates in figures[SHIPPED].items()
    ]
    words = {"hot_clicks": "clicks of crowded sessions"}
    return Rows(f"{title} on the later clicks, by slice", ["", words.get(of, of), *SETS.values()], rows)


def _truth(figures: Mapping[str, Any]) -> Rows:
    columns = ["", *(f"{what}: {SETS[name]}" for what in ("people lost", "robots caught") for name in (EQUAL, SHIPPED))]
    rows = [
        [
            PART_NAMES.get(part, part),
            *(_percent(figures[name][part][what]) for what in ("people", "recall") for name in (EQUAL, SHIPPED)),
        ]
        for part in figures[SHIPPED]
    ]
    return Rows("The truth: people lost and robots caught", columns, rows)


def _thresholds(told: Mapping[str, Any]) -> Rows:
    rows = [
        [
            PART_NAMES.get(part, part),
            _percent(knee["fpr"]),
            _percent(knee["ivr"]),
            f"{knee['threshold']:.3f}",
            f"{_threshold(told, EQUAL, part):.3f}",
            f"{_threshold(told, SHIPPED, part):.3f}" if not part.startswith("*/") else "",
        ]
        for part, knee in told["knees"].items()
    ]
    columns = ["", "knee: FPR", "knee: IVR", "knee: threshold", SETS[EQUAL], SETS[SHIPPED]]
    return Rows("Knees and thresholds (logits)", columns, rows)


def _threshold(told: Mapping[str, Any], name: str, part: str) -> float:
    own = told["thresholds"][name]
    return float(own.get(part, own["*"]))


def _labels(seen: Examination) -> Section:
    said = (
        "A model that lacks human labels at some hours learns that people do not click then. A feed that was "
        "down shows "
        "as a stretch of low numbers in one source; guardrails refuse to train on it."
    )
    return Section("labels", "Human labels by hour of the week", [said], [evaluation_pictures.of_labels(seen)])


def _decided(seen: Examination) -> Section:
    told = seen.decided
    missing = told["rows"] - told["decided"]
    said = [
        f"{told['decided']:,} of {told['rows']:,} rows could be decided: "
        f"{_with_interval(told['value'], told['interval'])}.",
        *([f"{missing:,} rows were no clicks."] if missing else []),
        "Live, clicks that come too late or find no counters are undecided as well.",
    ]
    return Section("decided", "Decision rate", [" ".join(said)], [])


def _calibration_cards(seen: Examination) -> list[Card]:
    if seen.trial is None:
        return []
    worst = seen.trial.fields["worst"]
    before, after = worst[GLOBAL]["fpr"], worst[SHIPPED]["fpr"]
    if before is None or after is None:
        return []
    return [
        Card(
            f"{before['value']:.1%} \N{RIGHTWARDS ARROW} {after['value']:.1%}",
            "FPR of the worst slice, before and after calibration by slice",
        )
    ]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds (pictures and calibration are of the first)"


def _merged(merged: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(", ".join(own) for own in merged.values())


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "none"
    return f"{_percent(value)} ({interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _time(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
