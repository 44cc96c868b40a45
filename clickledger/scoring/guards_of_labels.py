"""Guards of labels: is every source of them there at every hour, are they old enough, does nobody have too many?

Density counts an account once an hour: labels of one account do not come one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.scoring import feature_spec, findings, label_caps, maturity
from clickledger.scoring.dataset import Dataset
from clickledger.scoring.findings import AT_LEAST, AT_MOST, DAY_MS, HOUR_MS, WEEK_MS, Finding, Limits

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]  # (weeks, hours of a week, login statuses), week 0 the newest

WEEK_HOURS = 7 * 24
LOGIN_STATUSES = ("unknown login", "logged out", "logged in")  # by feature + 1
OUTCOMES, STANDING = "outcomes", "standing"  # the click led to one; its account has a high RFM score


def human_density(built: Dataset, end_ms: int, limits: Limits) -> Finding:
    """Human labels at each hour of the newest week, by source and login, against the hours' median of four weeks.

    Hours are counted back from `end_ms`, and neighbours merged until there are labels enough to judge. A stretch is low
    if both its labels and their density are: robots with ever new cookies lower the density alone, and where traffic is
    thin there are fewer labels as it should be.
    """
    guard, what = "human_density", f"human labels against the median of {limits.history_weeks} weeks"
    history = (end_ms - int(built.event_time_ms.min(initial=end_ms))) / WEEK_MS
    if history < limits.history_weeks - HOUR_MS / WEEK_MS:
        note = f"not enough history: {history:.1f} of {limits.history_weeks} weeks"
        return findings.unjudged(guard, limits.human_density_min, AT_LEAST, what, note, weeks=history)
    active = _account_hours(built, end_ms, limits.history_weeks, np.ones(len(built), dtype=np.bool_))
    sources = {OUTCOMES: built.purchased & built.human, STANDING: built.human & ~built.purchased}
    labelled = {source: _account_hours(built, end_ms, limits.history_weeks, flags) for source, flags in sources.items()}
    weekly = {source: int(counts[0].sum()) for source, counts in labelled.items()}
    for source, count in weekly.items():
        if count < limits.human_labels_min:
            return findings.at_least(
                guard, count, limits.human_labels_min, f"labels by {source} in the newest week", weekly=weekly
            )
    cells = [
        cell
        for source, counts in labelled.items()
        for status in range(len(LOGIN_STATUSES))
        for cell in _cells(source, status, counts[:, :, status], active[:, :, status], limits)
    ]
    return _worst_cell(cells, weekly, end_ms, limits)


@dataclass(frozen=True)
class _Cell:
    """A source and login status at some hours of the week."""

    source: str
    status: int
    first: int  # hours [first, end) back from the end
    end: int
    labelled: int  # in the newest week
    expected: float  # by the median

    @property
    def ratio(self) -> float:
        return self.labelled / self.expected


def _cells(source: str, status: int, labelled: Counts, active: Counts, limits: Limits) -> list[_Cell]:
    """The stretches of hours that can be judged; none where a week has too few labels of this kind."""
    cells = []
    for first, end in findings.stretches(labelled.mean(axis=0), limits.human_labels_min):
        hours = slice(first, end)
        humans, accounts = labelled[:, hours].sum(axis=1), active[:, hours].sum(axis=1)
        by_density = float(np.median(humans / np.maximum(accounts, 1)) * accounts[0])
        expected = min(by_density, float(np.median(humans)))
        if expected > 0.0:
            cells.append(_Cell(source, status, first, end, int(humans[0]), expected))
    return cells


def _worst_cell(cells: Sequence[_Cell], weekly: dict[str, int], end_ms: int, limits: Limits) -> Finding:
    """The lowest ratio among the stretches where it is no chance, else the lowest of all."""
    guard, limit = "human_density", limits.human_density_min
    if not cells:
        return findings.unjudged(guard, limit, AT_LEAST, "human labels", "too few to judge by", weekly=weekly)
    low = [cell for cell in cells if cell.ratio < limit]
    sure = [cell for cell in low if findings.chance_below(cell.labelled, cell.expected) < limits.chance_max]
    worst = min(sure or cells, key=lambda cell: cell.ratio)
    from_ms, to_ms = end_ms - worst.end * HOUR_MS, end_ms - worst.first * HOUR_MS
    found = findings.at_least(
        guard,
        worst.ratio,
        limit,
        f"labels by {worst.source}, {LOGIN_STATUSES[worst.status]}, {findings.stretch_text(from_ms, to_ms)}, "
        f"against the median of {limits.history_weeks} weeks",
        weekly=weekly,
        source=worst.source,
        login=LOGIN_STATUSES[worst.status],
        from_ms=from_ms,
        to_ms=to_ms,
        labelled=worst.labelled,
        expected=worst.expected,
        stretches=len(cells),
        refused_stretches=len(sure),
    )
    return found if sure else findings.unless_chance(found)


def _account_hours(built: Dataset, end_ms: int, weeks: int, flags: Flags) -> Counts:
    """Accounts with a flagged click by week, hour of the week and login status, hours counted back from the end."""
    hour = (end_ms - 1 - built.event_time_ms) // HOUR_MS
    rows = np.flatnonzero(flags & (hour >= 0) & (hour < weeks * WEEK_HOURS))
    status = built.features[rows, feature_spec.INDEX["logged_in"]].astype(np.int64) + 1
    cell = hour[rows] * len(LOGIN_STATUSES) + status
    users = 1 + int(built.user.max(initial=0))
    cells = np.unique(cell * users + built.user[rows]) // users
    shape = (weeks, WEEK_HOURS, len(LOGIN_STATUSES))
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def label_age(built: Dataset, cutoff_ms: int, limits: Limits) -> Finding:
    """Age in hours of the youngest click at the label cut-off."""
    guard, what, limit = "label_age", "hours from the youngest click to the label cut-off", limits.label_age_hours_min
    if not len(built):
        return findings.unjudged(guard, limit, AT_LEAST, what, "the set is empty")
    age_ms = cutoff_ms - int(built.event_time_ms.max())
    return findings.at_least(guard, age_ms / HOUR_MS, limit, what)


def label_maturity(
    built: Dataset, clicked_at_ms: Ints, occurred_at_ms: Ints, cutoff_ms: int, limits: Limits
) -> Finding:
    """Share of their outcomes that is known of the clicks of a set, by the delays (m,) of older clicks' outcomes."""
    guard, what = "label_maturity", "share of the expected outcomes that is known"
    horizon_ms = limits.maturity_horizon_days * DAY_MS
    delays = maturity.delays_ms(clicked_at_ms, occurred_at_ms, cutoff_ms, horizon_ms)
    if len(delays) < limits.human_labels_min or not len(built):
        note = f"not enough history: {len(delays)} outcomes of clicks {limits.maturity_horizon_days} days old or older"
        return findings.unjudged(guard, limits.maturity_min, AT_LEAST, what, note, outcomes=len(delays))
    age_ms = cutoff_ms - built.event_time_ms
    known = maturity.known_share(age_ms, delays)
    youngest = known[age_ms < age_ms.min() + DAY_MS]
    return findings.at_least(
        guard, known.mean(), limits.maturity_min, what, outcomes=len(delays), newest_day=float(youngest.mean())
    )


def account_labels(built: Dataset, users: Sequence[bytes], capped: int, limits: Limits) -> Finding:
    """The most human labels of one account on one UTC day."""
    guard, limit = "account_labels", limits.account_labels_per_day_max
    owner, day = built.user[built.human], built.event_time_ms[built.human] // DAY_MS
    if not len(owner):
        return findings.unjudged(guard, limit, AT_MOST, "human labels of an account a day", "no human labels")
    days = 1 + int(day.max())
    pairs, counts = np.unique(owner * days + day, return_counts=True)
    worst = int(counts.argmax())
    user, on = divmod(int(pairs[worst]), days)
    return findings.at_most(
        guard,
        int(counts[worst]),
        limit,
        f"human labels of account {users[user].hex()} on {findings.time_text(on * DAY_MS)}",
        account_days_over=int((counts > limit).sum()),
        dropped_by_caps=capped,
    )


def ip_labels(built: Dataset, ip: Ints, ips: Sequence[bytes], limits: Limits) -> Finding:
    """The largest share of human labels that one IP has; a few labels are no matter whatever their share."""
    found = ip[built.human]
    names = [key.hex() for key in ips]
    return _share("ip_labels", "IP", found, names, limits.ip_label_share_max, limits.ip_labels_min)


def campaign_labels(built: Dataset, campaign: Ints, campaigns: Sequence[str], limits: Limits) -> Finding:
    """The largest share of human labels that one campaign has; a few labels are no matter whatever their share."""
    found = campaign[built.human]
    least = limits.campaign_labels_min
    return _share("campaign_labels", "campaign", found, campaigns, limits.campaign_label_share_max, least)


def _share(guard: str, kind: str, owner: Ints, names: Sequence[str], limit: float, least: int) -> Finding:
    what = f"share of all human labels of one {kind}"
    counts = np.bincount(owner[owner != label_caps.UNKNOWN], minlength=1)
    worst = int(counts.argmax())
    if counts[worst] <= least:
        note = f"no {kind} has more than {least} human labels"
        return findings.unjudged(guard, limit, AT_MOST, what, note, labels=int(counts[worst]))
    return findings.at_most(
        guard,
        counts[worst] / len(owner),
        limit,
        f"share of all human labels of {kind} {names[worst]}",
        labels=int(counts[worst]),
        over=int((counts > np.maximum(limit * len(owner), least)).sum()),
    )
