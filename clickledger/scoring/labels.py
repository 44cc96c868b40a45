"""Weak labels (SLIDR row 2): a click is human if it led to a purchase, or if its account has a high RFM score.

All others are labelled non-human: most robots are among them, and many people. RFM is a label only, never a feature.
How many labels one account or place may give is capped (`label_caps`); a capped one counts as none, a purchase too.

The RFM score of an account is the mean of its three percentile ranks among the accounts with outcomes: how recent its
last outcome is, how many it has, what they are worth. High is `score_min` or more with at least `outcomes_min`
outcomes: a single lucky purchase must not vouch for every click of an account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import label_caps
from clickledger.scoring.label_caps import Caps

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Stretch = tuple[int, int]  # times [from, to) in Unix ms

OUTCOME_KINDS = ("purchase", "install")  # what counts as proof of a human
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class RfmRule:
    """When an account's score counts as high."""

    score_min: float = 0.6
    outcomes_min: int = 2


DEFAULT_RFM = RfmRule()


@dataclass(frozen=True)
class LabelRules:
    """All that decides the labels of a set, besides what the ledger knew."""

    rfm: RfmRule = DEFAULT_RFM
    outcome_kinds: tuple[str, ...] = OUTCOME_KINDS
    maturity_ms: int = 0  # clicks younger than this before the label cut-off are not used
    caps: Caps | None = None
    warm_only: bool = False  # clicks counted while their windows were not full are not used

    def to_payload(self) -> dict[str, Any]:
        """JSON values for the entry of a set."""
        return {**asdict(self), "outcome_kinds": list(self.outcome_kinds)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> LabelRules:
        """The rules an entry states; without any, those of version 0.1.0. Raises InvalidInput for unknown ones."""
        if payload is None:
            return AS_RECORDED
        try:
            caps = payload["caps"]
            return cls(
                **{
                    **payload,
                    "rfm": RfmRule(**payload["rfm"]),
                    "outcome_kinds": tuple(payload["outcome_kinds"]),
                    "caps": None if caps is None else Caps(**caps),
                }
            )
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"label rules: expected those of this version, got {dict(payload)}: {error}") from error


AS_RECORDED = LabelRules()  # every click, every label: what version 0.1.0 did, and small ledgers need
# What a model that is to be deployed is made with.
DAILY = LabelRules(maturity_ms=48 * HOUR_MS, caps=Caps(), warm_only=True)


@dataclass(frozen=True, eq=False)
class Clicks:
    """What labelling takes of n clicks, one array (n,) a column."""

    click_id: Sequence[bytes]
    time_ms: Ints
    user: Ints  # index of the account
    ip: Ints  # index of the address, `label_caps.UNKNOWN` without one


@dataclass(frozen=True, eq=False)
class Outcomes:
    """m outcomes, of clicks of the set and of others, one array (m,) a column."""

    click: Ints  # row of the click, -1 when it is not in the set
    user: Ints  # index of the click's account
    clicked_at_ms: Ints
    occurred_at_ms: Ints
    value_micros: Ints

    def __len__(self) -> int:
        return len(self.click)

    def where(self, rows: Flags) -> Outcomes:
        """The rows for which a flag (m,) is set."""
        columns = (self.click, self.user, self.clicked_at_ms, self.occurred_at_ms, self.value_micros)
        return Outcomes(*(column[rows] for column in columns))


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of n clicks (n,), and how many a cap dropped."""

    human: Flags
    purchased: Flags
    capped: int


def label(clicks: Clicks, outcomes: Outcomes, rules: LabelRules, withheld: Sequence[Stretch] = ()) -> Labels:
    """Label clicks by the outcomes known of them and of their accounts; pure.

    `withheld` is a fault injection: it reproduces label feeds that were down. Clicks in those stretches of event time
    get no human label from any source, and their outcomes count for no account either.
    """
    seen = ~within(clicks.time_ms, withheld)
    known = outcomes.where(~within(outcomes.clicked_at_ms, withheld))
    labelled, purchased = _labelled(clicks, known, rules.rfm)
    labelled &= seen
    if rules.caps is None:
        return Labels(labelled, purchased, 0)
    bulk = label_caps.in_bulk(rules.caps, known.user, known.clicked_at_ms // DAY_MS)
    believed, purchased = _labelled(clicks, known.where(~bulk), rules.rfm)
    stays = _capped(rules.caps, clicks, believed & seen, purchased)
    return Labels(stays, purchased & stays, int(labelled.sum() - stays.sum()))


def _labelled(clicks: Clicks, known: Outcomes, rule: RfmRule) -> tuple[Flags, Flags]:
    """Which clicks (n,) are human, and which led to an outcome themselves."""
    users = 1 + max(int(clicks.user.max(initial=-1)), int(known.user.max(initial=-1)))
    purchased = np.zeros(len(clicks.user), dtype=np.bool_)
    purchased[known.click[known.click >= 0]] = True
    high = high_rfm(known.user, known.occurred_at_ms, known.value_micros, users, rule)
    return human(purchased, clicks.user, high), purchased


def _capped(caps: Caps, clicks: Clicks, labelled: Flags, purchased: Flags) -> Flags:
    rows = np.flatnonzero(labelled)
    stays = label_caps.kept(
        caps,
        purchased=purchased[rows],
        draw=label_caps.draws(clicks.click_id[row] for row in rows.tolist()),
        account=clicks.user[rows],
        day=clicks.time_ms[rows] // DAY_MS,
        ip=clicks.ip[rows],
    )
    left = np.zeros(len(labelled), dtype=np.bool_)
    left[rows[stays]] = True
    return left


def within(time_ms: Ints, stretches: Sequence[Stretch]) -> Flags:
    """Which times (n,) lie in one of the stretches."""
    inside = np.zeros(len(time_ms), dtype=np.bool_)
    for start, end in stretches:
        inside |= (time_ms >= start) & (time_ms < end)
    return inside


def human(purchased: Flags, user: Ints, high_rfm: Flags) -> Flags:
    """Label of each click (n,) by `purchased` (n,), its account `user` (n,), and which accounts are high (users,)."""
    return purchased | high_rfm[user]


def high_rfm(user: Ints, occurred_at_ms: Ints, value_micros: Ints, users: int, rule: RfmRule = DEFAULT_RFM) -> Flags:
    """Which of the accounts 0..users-1 have a high score, by m outcomes: account, time and value of each (m,)."""
    scores, frequency = rfm_scores(user, occurred_at_ms, value_micros, users)
    return (frequency >= rule.outcomes_min) & (scores >= rule.score_min)


def rfm_scores(
    user: Ints, occurred_at_ms: Ints, value_micros: Ints, users: int
) -> tuple[npt.NDArray[np.float64], Ints]:
    """RFM score in 0..1 and number of outcomes of each account (users,); 0 and 0 for an account without outcomes."""
    frequency = np.bincount(user, minlength=users)
    last_ms, value = np.zeros(users, dtype=np.int64), np.zeros(users, dtype=np.int64)
    np.maximum.at(last_ms, user, occurred_at_ms)
    np.add.at(value, user, value_micros)
    active = frequency > 0
    scores = np.zeros(users)
    if active.any():
        ranks = [_percentile_rank(column[active]) for column in (last_ms, frequency, value)]
        scores[active] = np.mean(ranks, axis=0)
    return scores, frequency


def _percentile_rank(values: Ints) -> npt.NDArray[np.float64]:
    """Share of the values that lie below each one, equal ones counted half."""
    order = np.sort(values)
    below = np.searchsorted(order, values, side="left") + np.searchsorted(order, values, side="right")
    return below / (2.0 * len(values))
