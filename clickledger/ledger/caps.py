"""Caps on gross money: above them a publication or a revert takes two people. Pure.

Gross is the sum of absolute amounts, per currency: in a net sum a million credited would hide a million charged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

AUTOMATIC = "recovery"  # what workers do goes into the log under this name; it is nobody who looked
Money = Mapping[str, int]  # currency -> micros


class Caps(NamedTuple):
    """The most that one person may move, in micros of each currency; None = no limit."""

    publication_micros: int | None = None  # by one publication or revert
    advertiser_micros: int | None = None  # of one advertiser, by one of them
    day_micros: int | None = None  # by all of a day, UTC, itself included


NO_CAPS = Caps()


@dataclass(frozen=True)
class Gross:
    """Absolute amounts that a publication moves, in micros."""

    by_currency: Money = field(default_factory=dict)
    by_advertiser: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (advertiser, currency)


def exceeded(gross: Gross, spent_today: Money, caps: Caps) -> list[str]:
    """Which caps a publication of that much exceeds, in words that name the figure and the cap."""
    return [*_alone(gross, caps), *_with_today(gross, spent_today, caps)]


def _alone(gross: Gross, caps: Caps) -> Iterator[str]:
    for currency, micros in sorted(gross.by_currency.items()):
        if caps.publication_micros is not None and micros > caps.publication_micros:
            yield f"it moves {_shown(micros, currency)}, above the cap of {_shown(caps.publication_micros, currency)}"
    for (advertiser, currency), micros in sorted(gross.by_advertiser.items(), key=lambda item: (-item[1], item[0])):
        if caps.advertiser_micros is not None and micros > caps.advertiser_micros:
            cap = _shown(caps.advertiser_micros, currency)
            yield f"it moves {_shown(micros, currency)} of advertiser {advertiser}, above the cap of {cap}"


def _with_today(gross: Gross, spent_today: Money, caps: Caps) -> Iterator[str]:
    for currency, micros in sorted(gross.by_currency.items()):
        total = micros + spent_today.get(currency, 0)
        if caps.day_micros is not None and micros and total > caps.day_micros:
            cap = _shown(caps.day_micros, currency)
            yield f"with it {_shown(total, currency)} are moved today, above the cap of {cap}"


def _shown(micros: int, currency: str) -> str:
    return f"{micros / 1_000_000:,.2f} {currency}"


def is_person(actor: str) -> bool:
    """Whether somebody did it, not something."""
    return actor != AUTOMATIC
