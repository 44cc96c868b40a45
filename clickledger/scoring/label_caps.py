"""Caps on human labels: whoever buys in bulk cannot buy a model's opinion of everything they click.

A click whose label is dropped counts like any other click without one, for training and for calibration. Which ones:

- an account with more outcomes on a day than anybody has for himself loses all of them, of all days, and with them its
  standing. As many as a cap allows would still be too many: a farm that kept 20 labels of 120 clicks a day was learnt
  as human all the same;
- an account or payment instrument on a day, and an IP over the whole set, keep as many labels as their cap allows:
  those of clicks that led to an outcome themselves before those that rest on the account's standing, and among equals
  the ones whose click id has the smaller SHA-256. Those are busy people and carriers, too: losing all costs more.

So the labels that stay depend on neither the order of the clicks nor on times within a day, which a sender chooses; the
same set always keeps the same ones. Caps apply one after the other: outcomes, account, payment instrument, IP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Draw = npt.NDArray[np.uint64]

UNKNOWN = -1  # no IP or payment instrument: nothing to cap by


@dataclass(frozen=True)
class Caps:
    """How many human labels may come from one place. Days are UTC days of the click."""

    account_outcomes_per_day: int = 5
    account_per_day: int = 20
    instrument_per_day: int = 20
    ip_share: float = 0.01  # of the human labels that are left
    ip_labels_min: int = 50  # as many may stay whatever their share: in a small set 1% is a handful


def draws(click_ids: Iterable[bytes]) -> Draw:
    """What decides among equal labels, (n, 2): the first 16 bytes of each id's SHA-256."""
    digests = b"".join(hashlib.sha256(click_id).digest()[:16] for click_id in click_ids)
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def in_bulk(caps: Caps, account: Ints, day: Ints) -> Flags:
    """Which of m outcomes, by account and day of their clicks (m,), are of accounts that have too many on some day."""
    pairs, counts = np.unique(_pairs(account, day), return_counts=True)
    too_many = pairs[counts > caps.account_outcomes_per_day]
    return np.isin(account, np.unique(account[np.isin(_pairs(account, day), too_many)]))


def kept(
    caps: Caps, *, purchased: Flags, draw: Draw, account: Ints, day: Ints, ip: Ints, instrument: Ints | None = None
) -> Flags:
    """Which of n human labels stay (n,), by account, day, IP and payment instrument of their clicks (n,).

    `UNKNOWN` is no IP and no instrument. `purchased`: the click led to an outcome itself. `draw`: see `draws`.
    """
    place = _places(purchased, draw)
    stays = np.ones(len(purchased), dtype=np.bool_)
    stays &= _rank(_pairs(account, day), place, stays) < caps.account_per_day
    if instrument is not None:
        stays &= _rank(_pairs(instrument, day), place, stays) < caps.instrument_per_day
    counts = np.unique(ip[stays & (ip != UNKNOWN)], return_counts=True)[1]
    others = int(np.count_nonzero(stays & (ip == UNKNOWN)))
    stays &= _rank(ip, place, stays) < ip_labels_max(counts, others, caps)
    return stays


def ip_labels_max(counts: Ints, others: int, caps: Caps) -> int:
    """The most labels an IP may keep, by labels of each IP (m,) and of none: the cap changes what it is a share of.

    It is the largest c with c <= share x (others + the sum of min(count, c)), and `ip_labels_min` at least.
    """
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # what is left grows ever slower with c, so that all smaller c hold where one does
        middle = (low + high + 1) // 2
        fits = middle <= caps.ip_share * (others + int(np.minimum(counts, middle).sum()))
        low, high = (middle, high) if fits else (low, middle - 1)
    return max(low, caps.ip_labels_min)


def _places(purchased: Flags, draw: Draw) -> Ints:
    """The place of each label in the order in which labels are kept."""
    place = np.empty(len(purchased), dtype=np.int64)
    place[np.lexsort((draw[:, 1], draw[:, 0], ~purchased))] = np.arange(len(purchased))
    return place


def _pairs(owner: Ints, day: Ints) -> Ints:
    """One number for each owner and day; `UNKNOWN` for an unknown owner."""
    width = 1 + int(day.max(initial=0))
    return np.where(owner == UNKNOWN, UNKNOWN, owner * width + day)


def _rank(group: Ints, place: Ints, stays: Flags) -> Ints:
    """How many of the group come before each label that still stays; -1 for the others and where there is no group."""
    ranks = np.full(len(group), -1, dtype=np.int64)
    rows = np.flatnonzero(stays & (group != UNKNOWN))
    rows = rows[np.lexsort((place[rows], group[rows]))]
    starts = np.flatnonzero(np.diff(group[rows], prepend=UNKNOWN))
    ranks[rows] = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    return ranks
