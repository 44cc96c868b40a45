"""A set of networks from a file of CIDR lines, and whether it holds an address. Pure.

A line is one network, `192.0.2.0/24` or `2001:db8::/32`, or one address; blank lines, and what follows a `#`, say
nothing. Networks may overlap and come in any order.

Invariants:
- a file is a set or an error that names its first bad line: nothing is skipped in silence;
- an IPv6 address that carries an IPv4 one is that IPv4 address, here as in its pseudonym (`pseudonyms`).
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec

BYTES_MAX = 32 * 1024 * 1024
# A digit left out of a prefix must not make a continent a data centre; no provider holds more in one network.
IPV4_PREFIX_MIN, IPV6_PREFIX_MIN = 8, 16
_IPV4_BITS = 32
_MAPPED_FIRST = 0xFFFF << _IPV4_BITS  # ::ffff:0:0
_MAPPED_PREFIX = 96
_SHOWN_CHARS = 60
_OCTETS = {str(octet): octet for octet in range(256)}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Spans(NamedTuple):
    """Stretches of addresses that do not touch, ascending: first and last of each, both included."""

    first: list[int]
    last: list[int]

    def hold(self, address: int) -> bool:
        i = bisect_right(self.first, address) - 1
        return i >= 0 and address <= self.last[i]


@dataclass(frozen=True)
class Networks:
    """The networks of a file. `rows` counts its lines with a network."""

    ipv4: _Spans
    ipv6: _Spans
    rows: int

    def hold(self, ip: str) -> bool | None:
        """Whether an address lies in one of them; None for text that is no address."""
        if ":" not in ip:
            number = _ipv4(ip)
            return None if number is None else self.ipv4.hold(number)
        try:
            address = ipaddress.IPv6Address(ip)
        except ValueError:
            return None
        mapped = address.ipv4_mapped
        return self.ipv6.hold(int(address)) if mapped is None else self.ipv4.hold(int(mapped))

    def hold_ipv4(self, addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """`hold` for many IPv4 addresses as numbers, (n,) -> (n,)."""
        if not self.ipv4.first:
            return np.zeros(len(addresses), dtype=np.bool_)
        first, last = (np.array(edge, dtype=np.int64) for edge in self.ipv4)
        at = np.searchsorted(first, addresses, side="right") - 1
        held: npt.NDArray[np.bool_] = (at >= 0) & (addresses <= last[np.maximum(at, 0)])
        return held

    @property
    def ipv4_addresses(self) -> int:
        """How many IPv4 addresses they hold."""
        return sum(last - first + 1 for first, last in zip(*self.ipv4, strict=True))


def _ipv4(ip: str) -> int | None:
    """An IPv4 address as a number, as `ipaddress` reads it, in a fraction of its time; None for other text."""
    try:
        a, b, c, d = map(_OCTETS.__getitem__, ip.split("."))
    except (KeyError, ValueError):
        return None
    return a << 24 | b << 16 | c << 8 | d


def parse(content: bytes) -> Networks:
    """The networks of a file's content. Raises InvalidInput naming the first line that is not what a line may be."""
    if len(content) > BYTES_MAX:
        raise InvalidInput(f"networks: expected at most {BYTES_MAX} bytes, got {len(content)}")
    networks = list(_networks(content))
    if not networks:
        raise InvalidInput("networks: expected at least one, got a file without any")
    ipv4 = _joined(network for network in networks if isinstance(network, ipaddress.IPv4Network))
    ipv6 = _joined(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    return Networks(ipv4, ipv6, len(networks))


def _networks(content: bytes) -> Iterator[_Network]:
    for number, raw in enumerate(content.splitlines(), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").partition("#")[0].strip()
        except UnicodeDecodeError as error:
            got = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
            raise InvalidInput(f"line {number}: expected UTF-8, got {got}") from None
        if text:
            yield _network(text, number)


def _network(text: str, number: int) -> _Network:
    shown = repr(text[:_SHOWN_CHARS]) + ("..." if len(text) > _SHOWN_CHARS else "")
    read = ipaddress.IPv6Network if ":" in text else ipaddress.IPv4Network
    try:
        network: _Network = read(text)
    except ValueError:
        expected = _expected(text, read)
        raise InvalidInput(f"line {number}: network: expected {expected}, got {shown}") from None
    if network.prefixlen >= _MAPPED_PREFIX and int(network.network_address) >> _IPV4_BITS == 0xFFFF:
        network = ipaddress.IPv4Network(
            (int(network.network_address) - _MAPPED_FIRST, network.prefixlen - _MAPPED_PREFIX)
        )
    least = IPV4_PREFIX_MIN if network.version == 4 else IPV6_PREFIX_MIN
    if network.prefixlen < least:
        raise InvalidInput(f"line {number}: network: expected a prefix of /{least} or longer, got {shown}")
    return network


def _expected(text: str, read: type[_Network]) -> str:
    """What a line should have been: the network that an address inside of it was meant for, or any."""
    try:
        return f"its first address, {read(text, strict=False)}"
    except ValueError:
        return "CIDR such as 192.0.2.0/24 or 2001:db8::/32"


def _joined(networks: Iterable[_Network]) -> _Spans:
    """Networks as stretches, those that overlap or touch as one."""
    spans = _Spans([], [])
    edges = sorted((int(network.network_address), int(network.broadcast_address)) for network in networks)
    for first, last in edges:
        if spans.first and first <= spans.last[-1] + 1:
            spans.last[-1] = max(spans.last[-1], last)
        else:
            spans.first.append(first)
            spans.last.append(last)
    return spans


@dataclass(frozen=True)
class AddressFacts:
    """The table an intake looks addresses up in; version 0 for none."""

    version: int = 0
    networks: Networks | None = None

    def data_centre(self, ip: str) -> int:
        """1 for an address of a data centre, 0 for another, `NO_VALUE` without a table, or for no address."""
        held = None if self.networks is None else self.networks.hold(ip)
        return feature_spec.NO_VALUE if held is None else int(held)


NO_FACTS = AddressFacts()
