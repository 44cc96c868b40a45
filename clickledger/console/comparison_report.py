"""The report of `replay compare`: what publishing a run changes, in tables and pictures, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from clickledger.console import report_page
from clickledger.console.report_page import Picture, Table
from clickledger.recovery import effects as effects_
from clickledger.recovery.effects import Effects, Rates

SHOWN = 15  # of advertisers and campaigns: those with the largest change
MICROS = 1_000_000
COLOURS = {"before": "#8c8c8c", "after": "#2b6cb0", "credit": "#c05621", "charge": "#2f855a"}


def page(effects: Effects) -> str:
    """The whole page."""
    run = effects.compared.run_id
    title = f"What run {run} changes"
    body = [report_page.heading(title, 1), *map(report_page.paragraph, _said(effects))]
    body += [report_page.heading("Decisions, before and after"), report_page.table(*_matrix(effects))]
    for group, name in (
        (effects_.SLICE, "slice"),
        (effects_.ADVERTISER, "advertiser"),
        (effects_.CAMPAIGN, "campaign"),
    ):
        rates = effects.rates(group)
        shown = _largest(rates)
        rest = "" if len(rates) <= len(shown) else f", the {len(shown)} of {len(rates)} with the largest change"
        body += [report_page.heading(f"By {name}{rest}"), report_page.table(*_rates(name, shown))]
    body += [f"{report_page.heading(caption)}{picture}" for caption, picture in _pictures(effects)]
    body += [report_page.heading("Some of the clicks that change"), report_page.table(*_changed(effects))]
    return report_page.of_parts(title, body)


def _said(effects: Effects) -> list[str]:
    rates, neighbours = effects.rates(effects_.ALL)[""], effects.neighbours
    money = "; ".join(f"{currency} {change / MICROS:+,.2f}" for currency, change in sorted(rates.change_micros.items()))
    compared = effects.compared
    said = [
        f"{rates.flips:,} of {rates.clicks:,} clicks change; what is billed changes by {money or 'nothing'}. As of log "
        f"position {compared.compared_at_position}, the comparison that publishing names as {compared.digest}.",
        f"IVR, the share of clicks that is invalidated, goes from {_share(rates.ivr_before)} to "
        f"{_share(rates.ivr_after)}; FPR, the same share of the {rates.bought:,} clicks that led to an outcome, from "
        f"{_share(rates.fpr_before)} to {_share(rates.fpr_after)}.",
    ]
    if neighbours["carried"]:
        said.append(
            f"{neighbours['carried']:,} neighbours, clicks of the range that the run was not to decide, keep what they "
            f"had: {neighbours['changed']} of them change."
        )
    return said


def _matrix(effects: Effects) -> Table:
    columns = ("from \\ to", *effects_.VERDICTS)
    return columns, [(was, *(f"{row[now]:,}" for now in effects_.VERDICTS)) for was, row in effects.matrix.items()]


def _rates(name: str, shown: Mapping[str, Rates]) -> Table:
    columns = (name, "clicks", "changed", "billed, change", "IVR before", "after", "FPR before", "after")
    rows = [
        (
            member or "-",
            f"{r.clicks:,}",
            f"{r.flips:,}",
            "; ".join(f"{currency} {change / MICROS:+,.2f}" for currency, change in sorted(r.change_micros.items())),
            *map(_share, (r.ivr_before, r.ivr_after, r.fpr_before, r.fpr_after)),
        )
        for member, r in shown.items()
    ]
    return columns, rows


def _changed(effects: Effects) -> Table:
    columns = ("click", "slice", "campaign", "cost", "from", "to", "because")
    rows = [
        (
            one["click_id"], one["slice"], f"{one['advertiser_id']} / {one['campaign_id']}",
            f"{one['cost_micros'] / MICROS:.4f} {one['currency']}", one["from"], one["to"], one["because"],
        )
        for one in effects.changed
    ]  # fmt: skip
    return columns, rows


def _largest(rates: Mapping[str, Rates]) -> dict[str, Rates]:
    order = sorted(rates, key=lambda name: (-_gross(rates[name]), -rates[name].flips, name))
    return {name: rates[name] for name in order[:SHOWN]}


def _gross(rates: Rates) -> int:
    return sum(map(abs, rates.change_micros.values()))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _pictures(effects: Effects) -> list[Picture]:
    slices = effects.rates(effects_.SLICE)
    invalidated = {n: (r.ivr_before, r.ivr_after) for n, r in slices.items()}
    made = [
        _pairs("IVR by slice", "share of clicks invalidated", invalidated),
        _pairs("FPR by slice", "share of buyers' clicks invalidated", {
            n: (r.fpr_before, r.fpr_after) for n, r in slices.items() if r.bought
        }),
        _money("What is billed, change by hour", effects.rates(effects_.HOUR), across=True),
        _money("What is billed, change by advertiser", _largest(effects.rates(effects_.ADVERTISER)), across=False),
        _band("How narrowly the run decided the clicks that change", effects),
    ]  # fmt: skip
    return [picture for picture in made if picture is not None]


def _pairs(caption: str, label: str, pairs: Mapping[str, tuple[float | None, float | None]]) -> Picture | None:
    if not pairs:
        return None
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot(ylabel=label)
    places = range(len(pairs))
    for offset, (side, index) in zip((-0.2, 0.2), (("before", 0), ("after", 1)), strict=True):
        values = [pair[index] or 0.0 for pair in pairs.values()]
        axes.bar([place + offset for place in places], values, 0.4, label=side, color=COLOURS[side])
    axes.set_xticks(list(places), list(pairs), rotation=20, ha="right")
    axes.legend(frameon=False)
    return caption, report_page.svg(figure)


def _money(caption: str, rates: Mapping[str, Rates], *, across: bool) -> Picture | None:
    """Bars of the change of each member, a colour for charges and one for credits; one currency, the largest."""
    totals: dict[str, int] = {}
    for one in rates.values():
        for currency, change in one.change_micros.items():
            totals[currency] = totals.get(currency, 0) + abs(change)
    if not any(totals.values()):
        return None
    currency = max(totals, key=lambda name: (totals[name], name))
    values = [one.change_micros.get(currency, 0) / MICROS for one in rates.values()]
    colours = [COLOURS["charge"] if value >= 0 else COLOURS["credit"] for value in values]
    height = 3.5 if across else max(2.5, 0.3 * len(values))
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(values)))
    if across:
        axes.bar(places, values, color=colours)
        axes.set_ylabel(currency)
        _hours(axes, list(rates))
    else:
        axes.barh(places, values, color=colours)
        axes.set_yticks(places, list(rates))
        axes.invert_yaxis()
        axes.set_xlabel(currency)
    axes.axhline(0, color="#444", linewidth=0.8) if across else axes.axvline(0, color="#444", linewidth=0.8)
    return caption, report_page.svg(figure)


def _hours(axes: Any, hours: Sequence[str]) -> None:
    step = max(1, len(hours) // 8)
    shown = list(range(0, len(hours), step))
    axes.set_xticks(shown, [hours[place] for place in shown], rotation=20, ha="right")


def _band(caption: str, effects: Effects) -> Picture | None:
    near = {effects_.band_name(band): rates.flips for band, rates in effects.rates(effects_.BAND).items() if band}
    if not any(near.values()):
        return None
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot(ylabel="clicks that change", xlabel="distance of the score from its threshold, logits")
    axes.bar(list(near), list(near.values()), color=COLOURS["after"])
    return caption, report_page.svg(figure)
