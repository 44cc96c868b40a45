"""Simulated clicks as any sender would tell them: raw fields, NDJSON, or `Click`s at once.

Invariants:
- clicks are in the order they are sent, which without faults is that of event time;
- ids say nothing but that they are ids;
- `to_clicks` gives what parsing the NDJSON gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from clickledger.ledger.outcomes import Outcome
from clickledger.scoring import click_identity
from clickledger.scoring.click import Click
from clickledger.scoring.ndjson import DEFAULT_SOURCE
from clickledger.scoring.networks import NO_FACTS, AddressFacts
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation_config import SimulationConfig
from clickledger.scoring.simulation_world import DEVICE_KIND, DEVICES, KINDS

OUTCOME_KIND = "purchase"
CURRENCY = "USD"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Purchases:
    """What clicks led to, columns (m,) by time: index of the click, Unix milliseconds, value in micros."""

    click: Ints
    occurred_at_ms: Ints
    value_micros: Ints

    def __len__(self) -> int:
        return len(self.click)

    def where(self, rows: npt.NDArray[np.bool_]) -> Purchases:
        """Those for which a flag (m,) is set."""
        return Purchases(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Simulated:
    """n clicks as columns (n,), as they are sent, and the purchases they led to."""

    config: SimulationConfig
    click: Ints  # the sender's ids of clicks, users and sessions, as numbers
    event_time_ms: Ints
    user: Ints
    session: Ints
    ip: Ints  # IPv4 addresses as numbers
    device: Ints  # index into DEVICES
    advertiser: Ints
    campaign: Ints
    cost_micros: Ints
    logged_in: npt.NDArray[np.bool_]
    sent_at_ms: Ints  # when it reaches whoever decides: with the click, or later where a fault delays it
    purchases: Purchases

    def __len__(self) -> int:
        return len(self.click)

    def take(self, rows: Ints) -> Simulated:
        """Some of the clicks, in this order, each as often as it is named; a purchase follows its click's first one."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows[::-1]] = np.arange(len(rows))[::-1]  # the first of equals is written last
        click = place[self.purchases.click]
        return replace(self, **columns, purchases=replace(self.purchases, click=click).where(click >= 0))

    def raw_clicks(self) -> Iterator[dict[str, Any]]:
        """Yield each click as the fields of an NDJSON row."""
        for row in self._rows():
            click, event_time_ms, user, session, ip, device, advertiser, campaign, cost_micros, logged_in = row
            yield {
                "click_id": _click_id(click),
                "event_time": event_time_ms,
                "user_id": _user_id(user),
                "session_id": _session_id(session),
                "ip": _address(ip),
                "device": DEVICES[device],
                "device_kind": KINDS[DEVICE_KIND[device]],
                "advertiser_id": _advertiser_id(advertiser),
                "campaign_id": _campaign_id(campaign),
                "cost_micros": cost_micros,
                "currency": CURRENCY,
                "logged_in": logged_in,
            }

    def write_ndjson(self, path: Path) -> None:
        """Write one row per click to a file."""
        encoder = msgspec.json.Encoder()
        with path.open("wb") as file:
            for fields in self.raw_clicks():
                file.write(encoder.encode(fields) + b"\n")

    def to_clicks(
        self, pseudonyms: Pseudonyms, source: str = DEFAULT_SOURCE, facts: AddressFacts = NO_FACTS
    ) -> list[Click]:
        """The n clicks; each identifier is turned into its pseudonym, and each address is looked up, once."""
        users, user_of = np.unique(self.user, return_inverse=True)
        user_key = [pseudonyms.user(_user_id(user)) for user in users.tolist()]
        sessions, first, session_of = np.unique(self.session, return_index=True, return_inverse=True)
        owners = self.user[first].tolist()  # a session has one user
        session_key = [
            pseudonyms.session(_user_id(user), _session_id(session))
            for user, session in zip(owners, sessions.tolist(), strict=True)
        ]
        ips, ip_of = np.unique(self.ip, return_inverse=True)
        ip_key = [pseudonyms.ip(_address(ip)) for ip in ips.tolist()]
        data_centre = [facts.data_centre(_address(ip)) for ip in ips.tolist()]
        keys = zip(user_of.tolist(), session_of.tolist(), ip_of.tolist(), strict=True)
        kinds = [KINDS[kind] for kind in DEVICE_KIND]
        advertisers = [_advertiser_id(i) for i in range(self.config.advertisers)]
        campaigns = [_campaign_id(i) for i in range(self.config.campaigns)]
        return [
            click_identity.identify(
                click_identity.Sent(
                    source=source,
                    external_id=_click_id(row[0]),
                    event_time_ms=row[1],
                    user_key=user_key[user],
                    session_key=session_key[session],
                    ip_key=ip_key[ip],
                    device=DEVICES[row[5]],
                    device_kind=kinds[row[5]],
                    advertiser_id=advertisers[row[6]],
                    campaign_id=campaigns[row[7]],
                    cost_micros=row[8],
                    currency=CURRENCY,
                    logged_in=row[9],
                ),
                facts.version,
                data_centre[ip],
            )
            for row, (user, session, ip) in zip(self._rows(), keys, strict=True)
        ]

    def to_outcomes(self, clicks: Sequence[Click]) -> list[Outcome]:
        """The purchases as outcomes, by time, given the n clicks of `to_clicks`."""
        columns = (self.purchases.click, self.purchases.occurred_at_ms, self.purchases.value_micros)
        return [
            Outcome(clicks[click].click_id, OUTCOME_KIND, occurred_at_ms, value_micros)
            for click, occurred_at_ms, value_micros in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def raw_outcomes(self) -> Iterator[dict[str, Any]]:
        """Yield each purchase as the fields of an NDJSON row, by time."""
        bought = self.purchases
        columns = (self.click[bought.click], bought.occurred_at_ms, bought.value_micros)
        for click, occurred_at_ms, value_micros in zip(*(column.tolist() for column in columns), strict=True):
            yield {
                "click_id": _click_id(click),
                "kind": OUTCOME_KIND,
                "occurred_at": occurred_at_ms,
                "value_micros": value_micros,
            }

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        columns = (
            *(self.click, self.event_time_ms, self.user, self.session, self.ip, self.device),
            *(self.advertiser, self.campaign, self.cost_micros, self.logged_in),
        )
        return zip(*(column.tolist() for column in columns), strict=True)


def joined(one: Simulated, other: Simulated) -> Simulated:
    """The clicks of both, one after the other; those of `other` with their purchases moved along."""
    moved = replace(other.purchases, click=other.purchases.click + len(one))
    sides = (one.purchases, moved)
    purchases = Purchases(*(np.concatenate([getattr(s, f.name) for s in sides]) for f in fields(Purchases)))
    columns: dict[str, Any] = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in COLUMNS}
    return replace(other, **columns, purchases=purchases)


COLUMNS = tuple(field.name for field in fields(Simulated) if field.name not in {"config", "purchases"})


def _click_id(number: int) -> str:
    return f"{number:016x}"


def _user_id(number: int) -> str:
    return f"u-{number:015x}"


def _session_id(number: int) -> str:
    return f"s-{number:015x}"


def _address(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _advertiser_id(number: int) -> str:
    return f"adv-{number:03d}"


def _campaign_id(number: int) -> str:
    return f"camp-{number:04d}"
