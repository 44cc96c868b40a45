"""Tables of networks: a file is a set or an error that names its line; what they hold, against a plain search."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.scoring import networks
from clickledger.scoring.feature_spec import NO_VALUE
from clickledger.scoring.networks import NO_FACTS, AddressFacts

TABLE = b"""\xef\xbb\xbf# providers
192.0.2.0/24          # one
198.51.100.7

2001:db8::/32\r
192.0.2.128/25
::ffff:203.0.113.0/120
"""
IPV4 = st.integers(0, 2**32 - 1)
IPV6 = st.integers(0, 2**128 - 1).filter(lambda address: address >> 32 != 0xFFFF)  # those are IPv4 addresses, mapped


def network_of(address: int, prefix: int, version: int) -> str:
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return str(kind((address, prefix), strict=False))


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("192.0.2.0", True),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("192.0.1.255", False),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::", False),
        ("203.0.113.9", True),
        ("::ffff:192.0.2.9", True),
        ("::ffff:192.0.3.9", False),
        ("user-4711", None),
        ("87540", None),
        ("192.0.2.1/24", None),
        ("192.0.2.01", None),
        ("192.0.2.256", None),
        ("192.0.2", None),
        ("192.0.2.1.1", None),
        (" 192.0.2.1", None),
        ("fe80::1%eth0", False),
        ("::ffff:192.0.2.999", None),
        ("", None),
    ],
)
def test_an_address_is_held_or_not_or_is_none(address: str, held: bool | None) -> None:
    table = networks.parse(TABLE)
    assert (table.rows, table.ipv4_addresses) == (5, 256 + 1 + 256)
    assert table.hold(address) is held
    flag = AddressFacts(7, table).data_centre(address)
    assert flag == (NO_VALUE if held is None else int(held))
    assert NO_FACTS.data_centre(address) == NO_VALUE


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"192.0.2.1/24", r"line 3: network: expected its first address, 192.0.2.0/24, got '192.0.2.1/24'"),
        (b"2001:db8::1/32", "line 3: network: expected its first address, 2001:db8::/32, got"),
        (b"192.0.2.0/33", "line 3: network: expected CIDR such as 192.0.2.0/24 or 2001:db8::/32, got '192.0.2.0/33'"),
        (b"192.0.2.0-192.0.2.9", "line 3: network: expected CIDR"),
        (b"192.0.2.0/24,AWS", "line 3: network: expected CIDR"),
        (b"192.0.2/24", "line 3: network: expected CIDR"),
        (b"x" * 500, r"line 3: network: expected CIDR .*, got 'x{60}'\.\.\.$"),
        (b"\xff\xfe1", "line 3: expected UTF-8, got byte 0xff at offset 0"),
        (b"0.0.0.0/0", "line 3: network: expected a prefix of /8 or longer, got '0.0.0.0/0'"),
        (b"::/0", "line 3: network: expected a prefix of /16 or longer, got '::/0'"),
        (b"::ffff:0.0.0.0/96", "line 3: network: expected a prefix of /8 or longer"),
    ],
)
def test_a_line_that_is_no_network_is_named(line: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        networks.parse(b"192.0.2.0/24\n\n" + line + b"\n198.51.100.0/24\n")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n  # at all"])
def test_a_table_of_nothing_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="networks: expected at least one, got a file without any"):
        networks.parse(content)


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "BYTES_MAX", 10)
    with pytest.raises(InvalidInput, match="expected at most 10 bytes, got 13"):
        networks.parse(b"192.0.2.0/24\n")


@given(
    st.lists(st.tuples(IPV4, st.integers(8, 32)), max_size=12),
    st.lists(st.tuples(IPV6, st.integers(16, 128)), max_size=6),
    st.lists(IPV4, max_size=20),
    st.lists(IPV6, max_size=5),
    st.randoms(use_true_random=False),
)
def test_a_table_holds_what_one_of_its_networks_holds(
    ipv4: list[tuple[int, int]], ipv6: list[tuple[int, int]], some: list[int], more: list[int], dice: object
) -> None:
    """Against a search through all networks, at their edges and elsewhere."""
    lines = [network_of(*one, 4) for one in ipv4] + [network_of(*one, 6) for one in ipv6]
    if not lines:
        return
    dice.shuffle(lines)  # type: ignore[attr-defined]  # a random.Random
    table = networks.parse("\n".join(lines).encode())
    listed = [ipaddress.ip_network(line) for line in lines]
    edges = [int(n[k]) + d for n in listed if n.version == 4 for k, d in ((0, -1), (0, 0), (-1, 0), (-1, 1))]
    asked = [ipaddress.IPv4Address(a) for a in [*some, *edges] if 0 <= a < 2**32]
    for address in [*asked, *(ipaddress.IPv6Address(a) for a in more)]:
        plain = getattr(address, "ipv4_mapped", None) or address
        held = any(plain.version == n.version and plain in n for n in listed)
        assert table.hold(str(address)) is held, address
    numbers = np.array([int(a) for a in asked], dtype=np.int64)
    assert table.hold_ipv4(numbers).tolist() == [table.hold(str(a)) for a in asked]
