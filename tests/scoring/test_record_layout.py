"""Records as Valkey keeps them, read by the layout that `features.lua` documents, hold what the clicks make them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import redis
from simple_clicks import click, key

from clickledger.scoring import counters, feature_spec
from clickledger.scoring.click import Click
from clickledger.scoring.counters import FeatureCounter

START_MS = 1_750_000_000_000
HOUR = feature_spec.HOUR_MS
_WHOLE = {0xC4: ">B", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_SIZES = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I"}


class Packed:
    """The part of MessagePack that a record uses, strings as bytes: bitmaps are no UTF-8."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def read(self) -> Any:
        """The next value."""
        tag = self._take(1)[0]
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag & 0xE0 == 0xA0:
            return self._take(tag & 0x1F)
        if tag & 0xF0 == 0x90:
            return [self.read() for _ in range(tag & 0x0F)]
        if tag in _WHOLE:
            return self._number(_WHOLE[tag])
        if tag == 0xCB:
            return self._number(">d")
        size = self._number(_SIZES[tag])
        return self._take(size) if tag in (0xD9, 0xDA, 0xDB) else [self.read() for _ in range(size)]

    def all(self) -> Any:
        """The only value."""
        value = self.read()
        assert self._at == len(self._raw)
        return value

    def _take(self, size: int) -> bytes:
        part = self._raw[self._at : self._at + size]
        self._at += size
        return part

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]


class Counted:
    """The clicks of one record, in the order of their seq, as columns, with the counting time of each."""

    def __init__(self, records: np.ndarray, clock_ms: np.ndarray, rows: np.ndarray) -> None:
        self.of, self.clock_ms = records[rows], clock_ms[rows]
        self.now_ms = int(self.clock_ms[-1])

    def ring(self, width_ms: int, length: int = feature_spec.RING_SLOTS, marks: np.ndarray | None = None) -> list[int]:
        """Counts by bucket number modulo the ring's length, of the current bucket and those before it."""
        buckets, last = self.clock_ms // width_ms, self.now_ms // width_ms
        held = (buckets > last - length) & (np.ones(len(buckets), np.bool_) if marks is None else marks)
        return np.bincount((buckets[held] % length).astype(np.intp), minlength=length).tolist()

    def set(self, period_ms: int, slots: np.ndarray) -> list[Any]:
        """Bitmaps of this period and the last, and how many slots are in either."""
        periods, now = self.clock_ms // period_ms, self.now_ms // period_ms
        current, before = ({int(slot) for slot in slots[periods == period]} for period in (now, now - 1))
        return [bitmap(current), bitmap(before), len(current | before)]

    def recent(self) -> np.ndarray:
        """The last clicks, from the one after the newest of those that were dropped, each when it was too old."""
        first = 0
        for last, clock_ms in enumerate(self.clock_ms.tolist()):
            first = max(first, last + 1 - feature_spec.USER_EVENTS)
            while self.of["event_time_ms"][first] <= clock_ms - feature_spec.USER_EVENT_AGE_MS:
                first += 1
        return self.of[first:]


def bitmap(slots: set[int]) -> bytes:
    """Slot 0 is the lowest bit of the first byte; zero bytes at the end are left out."""
    return sum(1 << slot for slot in slots).to_bytes(64, "little").rstrip(b"\0")


def user_record(clicks: Counted) -> list[Any]:
    """What `user {clock_ms, clicks_24h, ips, base_ms, times, campaigns, sessions}` should be."""
    recent, base_ms = clicks.recent(), int(clicks.of["event_time_ms"][0])
    return [
        clicks.now_ms,
        clicks.ring(feature_spec.RING_24H_MS),
        clicks.set(feature_spec.USER_PERIOD_MS, clicks.of["ip_slot"]),
        base_ms,
        (recent["event_time_ms"].astype(np.int64) - base_ms).tolist(),
        recent["campaign"].tolist(),
        recent["session"].tolist(),
    ]


def ip_record(clicks: Counted) -> list[Any]:
    """What `ip {clock_ms, clicks_1m, clicks_1h, clicks_24h, users, agents, logged_in_clicks}` should be."""
    return [
        clicks.now_ms,
        clicks.ring(feature_spec.RING_1M_MS),
        clicks.ring(feature_spec.RING_1H_MS),
        clicks.ring(feature_spec.RING_24H_MS),
        clicks.set(feature_spec.IP_PERIOD_MS, clicks.of["user_slot"]),
        clicks.set(feature_spec.IP_PERIOD_MS, clicks.of["agent_slot"]),
        clicks.ring(feature_spec.IP_PERIOD_MS, 2, clicks.of["logged_in"] == 1),
    ]


def random_clicks(random: np.random.Generator, count: int, step_ms: int) -> list[Click]:
    times = START_MS + np.cumsum(random.exponential(step_ms, count).astype(np.int64))
    drawn = random.integers(0, [4, 3, 5, 9, 200, 100_000], (count, 6)).tolist()
    return [
        click(
            n, int(times[n]) - late, user=u, ip=i, session=s, campaign=c, device=d, logged_in=(None, False, True)[n % 3]
        )
        for n, (u, i, s, c, d, late) in enumerate(drawn)
    ]


@pytest.mark.parametrize("step_ms", [300, 40_000, HOUR])
def test_records_read_by_their_documented_layout_are_what_the_clicks_make_them(
    valkey: redis.Redis, step_ms: int
) -> None:
    random = np.random.default_rng(step_ms)
    clicks = random_clicks(random, 700, step_ms)
    counters.open_epoch(valkey, 1)
    logged: list[Click] = []
    for part in np.split(np.arange(700), np.sort(random.integers(1, 699, 4))):
        arrived = [clicks[i] for i in part]
        counted = FeatureCounter(valkey, 1).count(arrived)
        logged += [each for each, seq in zip(arrived, counted.seq.tolist(), strict=True) if seq]
        _require_records(valkey, logged)
    assert len(logged) > 600


def _require_records(valkey: redis.Redis, logged: Sequence[Click]) -> None:
    records = np.frombuffer(feature_spec.encode_clicks(logged), feature_spec.CLICK_DTYPE)
    clock_ms = np.maximum.accumulate(records["event_time_ms"].astype(np.int64))
    expected: dict[bytes, list[Any]] = {}
    kinds: list[tuple[bytes, str, Callable[[Counted], list[Any]]]] = [
        (b"cl:u:", "user_key", user_record),
        (b"cl:i:", "ip_key", ip_record),
    ]
    for prefix, column, record_of in kinds:
        keys = records[column].tolist()
        for name in set(keys):
            rows = np.array([row for row, found in enumerate(keys) if found == name])
            expected[prefix + name] = record_of(Counted(records, clock_ms, rows))
    assert {each.user_key for each in logged} <= {key("user", number) for number in range(4)}
    kept = {name: valkey.get(name) for pattern in ("cl:u:*", "cl:i:*") for name in valkey.scan_iter(match=pattern)}
    assert {name: Packed(raw).all() for name, raw in kept.items()} == expected
