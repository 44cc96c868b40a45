"""The chain over entries, and each entry's leaves against its content digest."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clickledger.ledger import canonical, copied_rows, database

BELOW_ALL = -(1 << 63)
POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01, from which the server counts
SELECT_ENTRIES = """
    SELECT position, kind, recorded_at, actor, reason, payload, row_count, content_digest, chain_hash
    FROM log WHERE position >= {lo} AND position < {hi} ORDER BY position"""
SELECT_LEAVES = "SELECT position, leaves FROM leaves WHERE position >= {lo} AND position < {hi} ORDER BY position"

_LENGTH = struct.Struct(">i")


@dataclass
class Entries:
    """What became of entries [lo, lo + n): `rows_of` has for each kind with rows n row counts, 0 for other entries."""

    lo: int
    found: int
    rows_of: dict[str, NDArray[np.int64]]
    chain: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Link:
    position: int
    kind: str
    row_count: int
    content_digest: bytes
    chain_hash: bytes
    recomputed: bytes  # its chain hash, by what it holds and the hash before it


def verify(conn: database.Connection, lo: int, hi: int) -> Entries:
    """Positions [lo, hi): every entry is there once, follows from the one before it, and has the leaves it names."""
    result = Entries(lo, 0, {})
    links = _links(conn, lo, hi, result.chain)
    result.found = len(links)
    for link in links:
        if link.row_count:
            counts = result.rows_of.setdefault(link.kind, np.zeros(hi - lo, np.int64))
            counts[link.position - lo] = link.row_count
    _check_leaves(conn, lo, hi, links, result.digests)
    return result


def _links(conn: database.Connection, lo: int, hi: int, failures: list[str]) -> list[_Link]:
    """The entries of [lo, hi); what does not follow goes to `failures`."""
    links: list[_Link] = []
    previous, expected = (canonical.GENESIS_HASH, 1) if lo == 1 else (b"", lo - 1)
    lowest = BELOW_ALL if lo == 1 else expected  # what stands before the first entry is no part of the log either
    for row in copied_rows.stream(conn, SELECT_ENTRIES.format(lo=lowest, hi=hi)):
        link = _link(row, previous)
        if link.position < expected:
            problem = (
                "expected once, got another one at its position" if link.position > 0 else "no position of the log"
            )
            failures.append(f"entry {link.position}: {problem}")
            continue
        if link.position > expected:
            failures.append(_missing(expected, link.position))
        if link.position >= lo:
            if link.recomputed != link.chain_hash:
                problem = "its chain hash does not follow from its content and predecessor"
                failures.append(f"entry {link.position}: {problem}")
            links.append(link)
        previous, expected = link.chain_hash, link.position + 1
    if expected < hi:
        failures.append(_missing(expected, hi))
    return links


def _missing(first: int, found: int) -> str:
    last = f" up to {found - 1}" if found - 1 > first else ""
    return f"entry {first}{last}: missing"


def _link(row: bytes, previous: bytes) -> _Link:
    position, kind, recorded_at, actor, reason, payload, row_count, digest, chain_hash = fields(row)
    recorded_at_us = int.from_bytes(recorded_at, signed=True) + POSTGRES_EPOCH_US
    at = int.from_bytes(position, signed=True)
    count = int.from_bytes(row_count, signed=True)
    texts = kind.decode(), actor.decode(), reason.decode(), payload.decode()
    whole_ms, rest_us = divmod(recorded_at_us, 1000)
    recomputed = b""
    if not rest_us and -(1 << 63) <= whole_ms < 1 << 63:
        recomputed = canonical.entry_hash(at, texts[0], whole_ms, *texts[1:], count, digest, previous)
    return _Link(at, texts[0], count, digest, chain_hash, recomputed)


def fields(row: bytes) -> list[bytes]:
    """The fields of a copied row; NULL as no bytes."""
    found, at = [], copied_rows.FIELD_COUNT_BYTES
    while at < len(row):
        length = max(0, _LENGTH.unpack_from(row, at)[0])
        found.append(row[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _check_leaves(conn: database.Connection, lo: int, hi: int, links: list[_Link], failures: dict[int, str]) -> None:
    wanted = {link.position: link for link in links}
    seen: set[int] = set()
    for row in copied_rows.stream(conn, SELECT_LEAVES.format(lo=lo, hi=hi)):
        raw, leaves = fields(row)
        at = int.from_bytes(raw, signed=True)
        if at in seen:
            failures[at] = "expected its leaves once, got them twice"
        elif problem := _problem(wanted.get(at), leaves):
            failures[at] = problem
        seen.add(at)
    for position, link in wanted.items():
        if position not in seen and (problem := _problem(link, b"")):
            failures[position] = problem


def _problem(link: _Link | None, leaves: bytes) -> str | None:
    size = canonical.LEAF_BYTES
    if link is None:
        return "leaves at this position, which has no entry"
    if len(leaves) != link.row_count * size:
        return f"expected {link.row_count} leaves, got {len(leaves) / size:g}"
    if canonical.content_digest(leaves) != link.content_digest:
        return "its leaves do not give its content digest"
    return None
