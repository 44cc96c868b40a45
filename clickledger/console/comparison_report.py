"""The report of `replay compare`: what publishing a run changes, in tables and pictures, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clickledger.console import report_page
from clickledger.console.report_page import Card, Picture, Rows, Section, Term
from clickledger.recovery import effects as effects_
from clickledger.recovery.effects import Effects, Rates

SHOWN = 15  # of advertisers and campaigns: those with the largest change
MICROS = 1_000_000
COLOURS = {"before": "#8c96a3", "after": "#0b5cad", "credit": "#b4500b", "charge": "#2f855a"}
HATCHES = {"before": "//", "after": "", "credit": "//", "charge": ""}  # nothing is told by colour alone
TERMS = (
    Term("IVR, invalidation rate", "Invalidated clicks of all clicks."),
    Term("FPR, false positive rate", "Invalidated clicks of those that led to an outcome: who buys stands for people."),
    Term("Billed, change", "Charges of clicks that become valid, less credits of those that become invalid."),
)


def page(effects: Effects) -> str:
    """The whole page."""
    run, rates = effects.compared.run_id, effects.rates(effects_.ALL)[""]
    cards = [
        Card(f"{rates.flips:,}", f"of {rates.clicks:,} clicks change"),
        *(Card(f"{change / MICROS:+,.2f}", f"{currency} billed, change") for currency, change in _sorted(rates)),
        Card(
            f"{_share(rates.ivr_before)} \N{RIGHTWARDS ARROW} {_share(rates.ivr_after)}", "of clicks invalidated (IVR)"
        ),
        Card(f"{_share(rates.fpr_before)} \N{RIGHTWARDS ARROW} {_share(rates.fpr_after)}", "of buyers' clicks (FPR)"),
    ]
    sections = [
        Section("decisions", "Decisions, before and after", _said(effects), [_matrix(effects)]),
        Section("effects", "By slice, advertiser and campaign", [], [*_tables(effects), *_pictures(effects)]),
        Section("clicks", "Some of the clicks that change", [], [_changed(effects)]),
    ]
    title, made_by = f"What run {run} changes", f"clickledger replay compare {run}"
    return report_page.page(title, [], cards, sections, TERMS, made_by)


def _said(effects: Effects) -> list[str]:
    rates, neighbours = effects.rates(effects_.ALL)[""], effects.neighbours
    money = _money_text(rates)
    compared = effects.compared
    said = [
        f"{rates.flips:,} of {rates.clicks:,} clicks change; what is billed changes by {money or 'nothing'}. As of log "
        f"position {compared.compared_at_position}, the comparison that publishing names as {compared.digest}.",
        f"IVR, the share of clicks that is invalidated, goes from {_share(rates.ivr_before)} to "
        f"{_share(rates.ivr_after)}; {_buyers(rates)}.",
    ]
    if neighbours["carried"]:
        said.append(
            f"{neighbours['carried']:,} neighbours, clicks of the range that the run was not to decide, keep what they "
            f"had: {neighbours['changed']} of them change."
        )
    return said


def _buyers(rates: Rates) -> str:
    if not rates.bought:
        return "no click of the range has led to an outcome yet, so FPR is not known"
    return (
        f"FPR, the same share of the {rates.bought:,} clicks that led to an outcome, from {_share(rates.fpr_before)} "
        f"to {_share(rates.fpr_after)}"
    )


def _matrix(effects: Effects) -> Rows:
    rows = [(was, *(f"{row[now]:,}" for now in effects_.VERDICTS)) for was, row in effects.matrix.items()]
    return Rows("Clicks by verdict before (down) and after (across)", ("from \\ to", *effects_.VERDICTS), rows)


def _tables(effects: Effects) -> list[Rows]:
    groups = {effects_.SLICE: "slice", effects_.ADVERTISER: "advertiser", effects_.CAMPAIGN: "campaign"}
    tables = []
    for group, name in groups.items():
        rates = effects.rates(group)
        shown = _largest(rates)
        rest = "" if len(rates) <= len(shown) else f", the {len(shown)} of {len(rates)} with the largest change"
        tables.append(_rates(f"By {name}{rest}", name, shown))
    return tables


def _rates(caption: str, name: str, shown: Mapping[str, Rates]) -> Rows:
    columns = (name, "clicks", "changed", "billed, change", "IVR before", "IVR after", "FPR before", "FPR after")
    rows = [
        (
            member or "-",
            f"{r.clicks:,}",
            f"{r.flips:,}",
            _money_text(r),
            *map(_share, (r.ivr_before, r.ivr_after, r.fpr_before, r.fpr_after)),
        )
        for member, r in shown.items()
    ]
    return Rows(caption, columns, rows)


def _changed(effects: Effects) -> Rows:
    columns = ("click", "slice", "campaign", "cost", "from", "to", "because")
    rows = [
        (
            one["click_id"], one["slice"], f"{one['advertiser_id']} / {one['campaign_id']}",
            f"{one['cost_micros'] / MICROS:.4f} {one['currency']}", one["from"], one["to"], one["because"],
        )
        for one in effects.changed
    ]  # fmt: skip
    return Rows("Clicks that change", columns, rows)


def _sorted(rates: Rates) -> list[tuple[str, int]]:
    return sorted(rates.change_micros.items())


def _money_text(rates: Rates) -> str:
    return "; ".join(f"{currency} {change / MICROS:+,.2f}" for currency, change in _sorted(rates))


def _largest(rates: Mapping[str, Rates]) -> dict[str, Rates]:
    order = sorted(rates, key=lambda name: (-_gross(rates[name]), -rates[name].flips, name))
    return {name: rates[name] for name in order[:SHOWN]}


def _gross(rates: Rates) -> int:
    return sum(map(abs, rates.change_micros.values()))


def _change(before: float | None, after: float | None) -> str:
    """Short enough for a card."""
    return " \N{RIGHTWARDS ARROW} ".join("-" if value is None else f"{value:.1%}" for value in (before, after))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _pictures(effects: Effects) -> list[Picture]:
    slices = effects.rates(effects_.SLICE)
    invalidated = {n: (r.ivr_before, r.ivr_after) for n, r in slices.items()}
    wrongly = {n: (r.fpr_before, r.fpr_after) for n, r in slices.items() if r.bought}
    largest = _largest(effects.rates(effects_.ADVERTISER))
    with mpl.rc_context(report_page.LOOK):
        made = [
            _pairs("ivr", "IVR by slice", "share of clicks invalidated", invalidated),
            _pairs("fpr", "FPR by slice", "share of buyers' clicks invalidated", wrongly),
            _money("hours", "What is billed, change by hour", effects.rates(effects_.HOUR), across=True),
            _money("advertisers", "What is billed, change by advertiser", largest, across=False),
            _band("band", "How narrowly the run decided the clicks that change", effects),
        ]
    return [picture for picture in made if picture is not None]


def _axes(height: float, **labels: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _pairs(name: str, title: str, label: str, pairs: Mapping[str, tuple[float | None, float | None]]) -> Picture | None:
    if not pairs:
        return None
    figure, axes = _axes(3.5, ylabel=label)
    places = range(len(pairs))
    for offset, (side, index) in zip((-0.2, 0.2), (("before", 0), ("after", 1)), strict=True):
        values = [pair[index] or 0.0 for pair in pairs.values()]
        look: Any = {"color": COLOURS[side], "hatch": HATCHES[side], "edgecolor": "white"}
        axes.bar([place + offset for place in places], values, 0.4, label=side, **look)
    axes.set_xticks(list(places), list(pairs), rotation=20, ha="right")
    axes.legend(frameon=False)
    said = "; ".join(f"{each} {_share(before)} to {_share(after)}" for each, (before, after) in pairs.items())
    return report_page.picture(name, title, f"{title}, before and after: {said}.", "Bar chart", figure)


def _money(name: str, title: str, rates: Mapping[str, Rates], *, across: bool) -> Picture | None:
    """Bars of the change of each member, charges and credits apart; one currency, the largest."""
    totals: dict[str, int] = {}
    for one in rates.values():
        for currency, change in one.change_micros.items():
            totals[currency] = totals.get(currency, 0) + abs(change)
    if not any(totals.values()):
        return None
    currency = max(totals, key=lambda each: (totals[each], each))
    values = {member: one.change_micros.get(currency, 0) / MICROS for member, one in rates.items()}
    figure, axes = _axes(3.5 if across else max(2.5, 0.3 * len(values)))
    _bars(axes, values, currency, across)
    largest = max(values, key=lambda member: (abs(values[member]), member))
    caption = f"{title}, in {currency}: {sum(values.values()):+,.2f} in all, most of it {largest or '-'} with "
    return report_page.picture(name, title, f"{caption}{values[largest]:+,.2f}.", "Bar chart", figure)


def _bars(axes: Axes, values: Mapping[str, float], currency: str, across: bool) -> None:
    sides = ["charge" if value >= 0 else "credit" for value in values.values()]
    look: Any = {
        "color": [COLOURS[side] for side in sides],
        "hatch": [HATCHES[side] for side in sides],
        "edgecolor": "white",
    }
    places = list(range(len(values)))
    if across:
        axes.bar(places, list(values.values()), **look)
        axes.set_ylabel(currency)
        _hours(axes, list(values))
        axes.axhline(0, color=report_page.MUTED, linewidth=0.8)
        return
    axes.barh(places, list(values.values()), **look)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set_xlabel(currency)
    axes.axvline(0, color=report_page.MUTED, linewidth=0.8)


def _hours(axes: Axes, hours: Sequence[str]) -> None:
    step = max(1, -(-len(hours) // 6))
    shown = list(range(0, len(hours), step))
    axes.set_xticks(shown, [hours[place] for place in shown], rotation=20, ha="right")


def _band(name: str, title: str, effects: Effects) -> Picture | None:
    near = {effects_.band_name(band): rates.flips for band, rates in effects.rates(effects_.BAND).items() if band}
    if not any(near.values()):
        return None
    figure, axes = _axes(3, ylabel="clicks that change", xlabel="distance of the score from its threshold, logits")
    axes.bar(list(near), list(near.values()), color=COLOURS["after"])
    said = "; ".join(f"{band} {flips:,}" for band, flips in near.items())
    return report_page.picture(name, title, f"{title}, by distance from the threshold: {said}.", "Bar chart", figure)
