"""Guards of what a model does: beside the stable one on the same clicks and robots, beside its baseline and its twin.

Pure. A figure beyond its limit is refused unless chance may bring it. Clicks of an account come together, so chance is
judged by accounts: without a difference between two models, an account on which they differ is a fair coin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import evaluate, findings, intervals
from clickledger.scoring.findings import AT_LEAST, AT_MOST, HOUR_MS, Finding, Limits

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

DAY_HOURS = 24
ANY = "all clicks"
DRAWS = 200  # for a standard deviation, which needs fewer than an interval


@dataclass(frozen=True, eq=False)
class Verdicts:
    """n clicks that both models decided, one array a column. Raises InvalidInput for columns that do not fit."""

    challenger: Flags  # (n,) invalid
    stable: Flags  # (n,) invalid
    known: Flags  # (n,) of a known customer, see `behaviour`
    user: Ints  # (n,) index of the account
    slice: npt.NDArray[np.str_]  # (n,)
    event_time_ms: Ints  # (n,)

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if set(shapes.values()) != {(len(self.user),)}:
            raise InvalidInput(f"verdicts: expected columns of one length, got {shapes}")

    def __len__(self) -> int:
        return len(self.user)

    def where(self, rows: Flags) -> Verdicts:
        """The clicks for which a flag (n,) is set."""
        return Verdicts(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def withheld(self) -> Flags:
        """Clicks (n,) that the challenger alone invalidates."""
        return self.challenger & ~self.stable

    @property
    def released(self) -> Flags:
        """Clicks (n,) that the stable model alone invalidates."""
        return self.stable & ~self.challenger

    def chance(self) -> float:
        """At most how likely the accounts they differ on would lean so far to one side by themselves."""
        sides = [len(np.unique(self.user[flags])) for flags in (self.withheld, self.released)]
        return findings.chance_fewer(min(sides), max(sides))


def known_customers(verdicts: Verdicts, limits: Limits) -> Finding:
    """Clicks of known customers that the challenger withholds and the stable model bills, less the reverse.

    Net, as the detector counts them once a model is live: two sound models differ in both directions alike.
    """
    guard, what, limit = (
        "known_customers",
        "clicks of known customers withheld, net, as a share",
        limits.known_flips_max,
    )
    known = verdicts.where(verdicts.known)
    if len(known) < limits.behaviour_clicks_min:
        note = f"fewer than {limits.behaviour_clicks_min} clicks of known customers"
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=len(known))
    withheld, released = int(known.withheld.sum()), int(known.released.sum())
    counts = {"clicks": len(known), "customers": len(np.unique(known.user)), "withheld": withheld, "released": released}
    found = findings.at_most(guard, (withheld - released) / len(known), limit, what, **counts)
    return _unless_chance(found, known.chance(), limits)


def invalidation(verdicts: Verdicts, limits: Limits) -> Finding:
    """Invalidation rate of the challenger against that of the stable model."""
    guard, what, limit = "ivr", "change of the invalidation rate", limits.ivr_change_max
    if len(verdicts) < limits.behaviour_clicks_min or not verdicts.stable.any():
        note = f"fewer than {limits.behaviour_clicks_min} clicks, or none that the stable model invalidates"
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=len(verdicts))
    before, after = float(verdicts.stable.mean()), float(verdicts.challenger.mean())
    found = findings.at_most(guard, abs(after / before - 1.0), limit, what, stable=before, challenger=after)
    return _unless_chance(found, verdicts.chance(), limits)


def invalidation_by_slice(verdicts: Verdicts, limits: Limits) -> Finding:
    """The slice whose invalidation rate changes most.

    Where the stable model invalidates next to nothing a ratio says nothing: such a slice counts as one with
    `slice_ivr_min`. People in it are seen by `known_customers`.
    """
    guard, what, limit = "slice_ivr", "change of a slice's invalidation rate", limits.slice_ivr_change_max
    rates: dict[str, dict[str, float]] = {}
    found: list[Finding] = []
    for name in np.unique(verdicts.slice).tolist():
        own = verdicts.where(verdicts.slice == name)
        if len(own) < limits.behaviour_clicks_min:
            continue
        before, after = float(own.stable.mean()), float(own.challenger.mean())
        rates[name] = {"clicks": len(own), "stable": before, "challenger": after}
        change = abs(after - before) / max(before, limits.slice_ivr_min)
        one = findings.at_most(guard, change, limit, f"change of the invalidation rate of {name}", slices=rates)
        found.append(_unless_chance(one, own.chance(), limits))
    if not found:
        return findings.unjudged(guard, limit, AT_MOST, what, f"fewer than {limits.behaviour_clicks_min} in any slice")
    return _worst(found)


def hourly_range(verdicts: Verdicts, limits: Limits) -> Finding:
    """Highest less lowest invalidation rate by hour of the day, in times the stable model's: of all clicks, by slice.

    By hour of the day, not by single hours: a burst takes one of those to nearly 1 under any model. By slice, since
    robots do not sleep: where people do, all clicks together have a range that cannot double. A model that was taught
    without the labels of some hours shows in just those. A range below `hourly_range_min` counts as that.
    """
    guard, limit = "hourly_range", limits.hourly_range_max
    what = "range of invalidation rates over the day against the stable model's"
    found = [
        _hourly_range(verdicts if name == ANY else verdicts.where(verdicts.slice == name), name, what, limits)
        for name in (ANY, *np.unique(verdicts.slice).tolist())
    ]
    judged = [one for one in found if one is not None]
    if not judged:
        note = f"fewer than {limits.behaviour_clicks_min // 10} clicks in most hours of the day"
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=len(verdicts))
    return _worst(judged)


def _hourly_range(verdicts: Verdicts, name: str, what: str, limits: Limits) -> Finding | None:
    hour = verdicts.event_time_ms // HOUR_MS % DAY_HOURS
    clicks = np.bincount(hour, minlength=DAY_HOURS)
    judged = clicks >= limits.behaviour_clicks_min / 10
    if judged.sum() <= DAY_HOURS // 2:
        return None
    sides = {"stable": verdicts.stable, "challenger": verdicts.challenger}
    hourly = {
        side: np.bincount(hour[flags], minlength=DAY_HOURS)[judged] / clicks[judged] for side, flags in sides.items()
    }
    ranges = {side: float(np.ptp(rates)) for side, rates in hourly.items()}
    # Chance must explain the hour that differs most.
    hours = np.flatnonzero(judged)
    worst = int(hours[np.abs(hourly["challenger"] - hourly["stable"]).argmax()])
    told = {
        side: dict(zip(map(str, hours.tolist()), rates.round(6).tolist(), strict=True))
        for side, rates in hourly.items()
    }
    ratio = ranges["challenger"] / max(ranges["stable"], limits.hourly_range_min)
    found = findings.at_most(
        "hourly_range", ratio, limits.hourly_range_max, f"{what}, {name}", ranges=ranges, worst_hour=worst, hourly=told
    )
    return _unless_chance(found, verdicts.where(hour == worst).chance(), limits)


def baseline(challenger: Scores, regression: Scores, purchased: Flags, user: Ints, limits: Limits) -> Finding:
    """AUC over that of the logistic regression learnt from the same set, on clicks that neither was trained on.

    Being no better is refused only if it is worse beyond chance: on few purchases the two cannot be told apart, and a
    model that is as good as its baseline is no anomaly. Chance is that of drawing other accounts (`intervals`).
    """
    guard, what = "baseline", "AUC over the logistic regression's"
    bought = int(purchased.sum())
    if bought < limits.purchases_min or purchased.all():
        return findings.unjudged(
            guard, 0.0, AT_LEAST, what, f"fewer than {limits.purchases_min} purchases", purchases=bought
        )
    own, other = (intervals.Ranking(scores, purchased) for scores in (challenger, regression))
    aucs = {"challenger": evaluate.auc(challenger, ~purchased), "regression": evaluate.auc(regression, ~purchased)}
    lead = aucs["challenger"] - aucs["regression"]
    found = findings.at_least(guard, lead, 0.0, what, purchases=bought, **aucs)
    if found.passed:
        return found
    spread = float(np.std([own.auc(w) - other.auc(w) for w in intervals.draws(user, purchased, DRAWS, seed=0)]))
    chance = findings.chance_beyond(-lead / spread) if spread else 0.0
    return found if chance < limits.baseline_chance_max else findings.unless_chance(found)


def seeds(challenger: Flags, twin: Flags, limits: Limits) -> Finding:
    """Share of verdicts (n,) on which two seeds of one recipe disagree; of all, and of what either invalidates.

    Two models that learnt nothing invalidate little, and so agree on nearly everything but on what they invalidate.
    """
    guard, what, limit = "seeds", "share of verdicts on which two seeds disagree", limits.seed_disagreement_max
    if len(challenger) < limits.behaviour_clicks_min:
        note = f"fewer than {limits.behaviour_clicks_min} clicks"
        return findings.unjudged(guard, limit, AT_MOST, what, note, clicks=len(challenger))
    differing, either = int(np.sum(challenger != twin)), int(np.sum(challenger | twin))
    counts = {"clicks": len(challenger), "differing": differing, "invalid_by_either": either}
    found = findings.at_most(guard, differing / len(challenger), limit, what, **counts)
    if not found.passed or not either:
        return found
    what = "share of what either of two seeds invalidates and the other does not"
    relative = findings.at_most(guard, differing / either, limits.seed_disagreement_relative_max, what, **counts)
    return found if relative.passed else relative


def robot_recall(challenger: Mapping[str, Flags], stable: Mapping[str, Flags], limits: Limits) -> Finding:
    """Known robots that the stable model invalidates and the challenger does not, net, as a share: of all, of a kind.

    A kind may lose more than all together, since what a model makes of one kind varies; but losing it is not made up
    for by another that is caught now.
    """
    recall = {
        kind: {"stable": float(flags.mean()), "challenger": float(challenger[kind].mean())}
        for kind, flags in stable.items()
    }
    scopes = {"known robots": (list(stable), limits.robot_recall_drop_max)}
    scopes |= {f"known robots of kind {kind}": ([kind], limits.robot_kind_recall_drop_max) for kind in stable}
    found = []
    for scope, (kinds, limit) in scopes.items():
        before, after = (np.concatenate([side[kind] for kind in kinds]) for side in (stable, challenger))
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        what, counts = f"share of {scope} lost", {"robots": len(before), "lost": lost, "won": won}
        one = findings.at_most("robot_recall", (lost - won) / len(before), limit, what, **counts, recall=recall)
        found.append(_unless_chance(one, findings.chance_fewer(won, lost), limits))
    return next((one for one in found if not one.passed), found[0])


def _worst(found: Sequence[Finding]) -> Finding:
    """The largest figure, of those that refuse if any does."""
    return max(found, key=lambda one: (not one.passed, one.figure or 0.0))


def _unless_chance(found: Finding, chance: float, limits: Limits) -> Finding:
    return found if found.passed or chance < limits.chance_max else findings.unless_chance(found)
