"""What `model evaluate` says to people: tables on stderr, and the same tables for its report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clickledger.console import output

if TYPE_CHECKING:
    from clickledger.console.report_page import Rows
    from clickledger.scoring.examination import Examination


def say_compared(fields: dict[str, Any]) -> Rows:
    """The models of files beside each other, and their differences."""
    from clickledger.console.report_page import Rows  # noqa: PLC0415 - loads matplotlib, which is slow

    train, test = fields["train"], fields["test"]
    border = datetime.fromtimestamp(fields["border_ms"] / 1000, UTC)
    output.say(
        f"trained on {train['rows']:,} clicks ({train['purchased']} with an outcome), tested on {test['rows']:,} "
        f"({test['purchased']}) from {border:%Y-%m-%d %H:%M:%SZ} on"
    )
    rates = list(fields["models"]["network"]["ivr_at_fpr"])
    columns = ["model", "AUC", *(f"IVR at FPR {float(rate):.0%}" for rate in rates)]
    rows = [
        [name, *_cells(told, rates)]
        for part in (fields["models"], fields["differences"])
        for name, told in part.items()
    ]
    bootstrap = fields["bootstrap"]
    title = f"test part; intervals of {bootstrap['confidence']:.0%}, {bootstrap['draws']:,} draws of users"
    output.rows(title, columns, rows)
    return Rows(title, columns, [[name.replace("_", " "), *cells] for name, *cells in rows])


def _cells(told: dict[str, Any], rates: list[str]) -> list[str]:
    low, high = told["auc_interval"]
    ivr, bounds = told["ivr_at_fpr"], told["ivr_at_fpr_interval"]
    return [
        f"{told['auc']:.3f} ({low:.3f} to {high:.3f})",
        *(f"{ivr[rate]:.1%} ({bounds[rate][0] * 100:.1f} to {bounds[rate][1] * 100:.1f})" for rate in rates),
    ]


def say_simulated(fields: dict[str, Any]) -> list[Rows]:
    """Each seed's models by the truth: what they invalidate of each kind of robot, and of people."""
    from clickledger.console.report_page import Rows  # noqa: PLC0415 - loads matplotlib, which is slow

    kinds = list(fields["runs"][0]["models"]["network"]["recall_by_kind"])
    columns = ["model", "recall", *kinds, "precision", "people"]
    tables: list[Rows] = []
    for run in fields["runs"]:
        rows = [[name, *_shares(told, kinds)] for name, told in run["models"].items()]
        title = f"seed {run['seed']}: share invalidated at FPR {fields['fpr']:.0%}, by kind"
        output.rows(title, columns, rows)
        told = [[name.replace("_", " "), *cells] for name, *cells in rows]
        tables.append(Rows(title, [each.replace("_", " ") for each in columns], told))
        if "options" in run:
            say_options(f"run {run['seed']}", run["options"])
    least = fields["summary"]
    output.say(
        f"network: recall at least {least['network_recall_min']:.3f}, "
        f"{least['lead_over_regression_min']:+.3f} beside the regression"
    )
    return tables


def _shares(told: dict[str, Any], kinds: list[str]) -> list[str]:
    values = [told["recall"], *(told["recall_by_kind"][kind] for kind in kinds)]
    values += [told["precision"], told["people_invalidated"]]
    return ["none" if value is None else f"{value:.3f}" for value in values]


def say_calibrated(seen: Examination) -> None:
    """What calibration by slice changes, in a table."""
    from clickledger.scoring.calibration_trial import EQUAL, SHIPPED  # noqa: PLC0415 - loads cvxpy, others need not pay

    if seen.trial is None:
        output.say(f"no calibration to show: {seen.refused}")
        return
    told = seen.trial.fields
    before, after = told["figures"][EQUAL], told["figures"][SHIPPED]
    rows = [
        [part, own["purchases"], *(_change(before[part][rate], own[rate]) for rate in ("fpr", "ivr", "coverage"))]
        for part, own in after.items()
    ]
    lost = f"losing as many of {told['judged_on']['purchases']:,} purchases"
    title = f"one threshold -> by slice (what ships: {told['form']}), {lost}"
    output.rows(title, ["part", "purchases", "FPR", "IVR", "coverage"], rows)


def _change(before: float | None, after: float | None) -> str:
    return " -> ".join("none" if value is None else f"{value:.1%}" for value in (before, after))


def say_options(title: str, made: dict[str, Any]) -> None:
    """The network's options beside it."""
    rows = [
        [name, f"{told['auc_lead']:+.4f}", "{:+.4f} to {:+.4f}".format(*told["auc_lead_interval"]), _verdict(told)]
        for name, told in made["options"].items()
    ]
    seeds = ", ".join(map(str, made["seeds"]))
    columns = ["option", "AUC beside the network", "interval", "verdict"]
    output.rows(f"options, {title}: mean over seeds {seeds}", columns, rows)


def _verdict(told: dict[str, Any]) -> str:
    return "wins" if told["wins"] else "does not win: not used"
