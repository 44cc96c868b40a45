"""The feature specification: names, windows and encodings, once, for both executions.

The online execution (`features.lua`, through `counters`) and the offline one (`feature_replay`) read their windows and
sizes here and agree to the bit. Definitions both follow:

- a click's counting time `t_c` is the largest event time of all clicks counted so far, its own included;
- counts include the click itself; `NO_VALUE` stands where there is nothing to measure;
- the *recent clicks* of a user are its last clicks in counting order, the click itself included, `USER_EVENTS` at most
  and back to the first whose event time is `USER_EVENT_AGE_MS` or more before `t_c`. A window of W over them holds
  those whose event time is less than W away from the click's own, before or after it: such counts end at `USER_EVENTS`;
- a gap is the absolute difference of the event times of two recent clicks that follow each other in counting order;
- a *ring* window holds the clicks whose `t_c` falls into the current bucket or one of the `RING_SLOTS - 1` before it;
- a distinct count is the number of hashed slots hit in the current period of `t_c` and the one before it.

A snapshot is the int32 vector of these raw values in the order of `FEATURES`. Scaling belongs to the model. Any change
of a name, its order, a window, a size or a hash is a new `SCHEMA_VERSION`.

Where the deployment names a table of facts, snapshots end in what that says of the click (`FACT_FEATURES`), which no
counter knows and nothing can compute again: `SCHEMAS` has both layouts. The longer one begins as the shorter one does,
so a model reads every snapshot that has at least what it was trained on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring.click import Click

SCHEMA_VERSION = 1  # of what is counted, and of snapshots recorded without a table of facts
_FACTS_SCHEMA = 2  # the same, and what tables of facts say

FEATURES: tuple[str, ...] = (
    "user_clicks_10s",
    "user_clicks_1m",
    "user_clicks_10m",
    "user_clicks_1h",
    "user_clicks_24h",  # ring of 4 h buckets
    "user_last_gap_ms",
    "user_gap_min_ms",  # of the last USER_GAPS gaps
    "user_gap_max_ms",
    "user_campaign_clicks_1h",  # recent clicks on the same campaign
    "user_campaigns",  # distinct campaigns of the recent clicks
    "user_session_clicks_1h",  # recent clicks in the same session
    "user_session_age_ms",  # since the earliest recent click of the same session
    "user_ips",  # distinct, 12 to 24 h
    "ip_clicks_1m",  # ring of 10 s buckets
    "ip_clicks_1h",  # ring of 10 min buckets
    "ip_clicks_24h",  # ring of 4 h buckets
    "ip_users",  # distinct, 30 to 60 min
    "ip_agents",  # distinct, 30 to 60 min
    "ip_logged_in_clicks",  # 30 to 60 min
    "minute_of_week",  # of the event time, UTC, Monday 00:00 = 0
    "logged_in",  # 1, 0, NO_VALUE when the sender does not know
    "device_kind",  # DEVICE_KINDS
)
STATELESS_FEATURES: tuple[str, ...] = ("minute_of_week", "logged_in", "device_kind")  # known for uncounted clicks too
FACT_FEATURES: tuple[str, ...] = ("data_centre",)  # 1, 0, NO_VALUE where no address was looked up in the table in force
SCHEMAS: dict[int, tuple[str, ...]] = {SCHEMA_VERSION: FEATURES, _FACTS_SCHEMA: (*FEATURES, *FACT_FEATURES)}
INDEX: dict[str, int] = {name: i for i, name in enumerate(FEATURES)}
FACT_INDEX: dict[str, int] = {name: len(FEATURES) + i for i, name in enumerate(FACT_FEATURES)}
NO_VALUE = -1

DEVICE_KINDS: dict[str, int] = {"app": 1, "web": 2, "mobile": 3, "desktop": 4, "tablet": 5, "tv": 6}
UNKNOWN_DEVICE_KIND = 0

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
MINUTES_PER_WEEK = 7 * 24 * 60
WEEK_OFFSET_MINUTES = 3 * 24 * 60  # 1970-01-01 was a Thursday

USER_EVENTS = 32
USER_EVENT_AGE_MS = 24 * HOUR_MS
USER_GAPS = 8
RING_SLOTS = 7  # six full buckets and the current one
RING_1M_MS = 10 * SECOND_MS
RING_1H_MS = 10 * MINUTE_MS
RING_24H_MS = 4 * HOUR_MS
USER_PERIOD_MS = 12 * HOUR_MS
IP_PERIOD_MS = 30 * MINUTE_MS
USER_IP_SLOTS = 64
IP_USER_SLOTS = 512
IP_AGENT_SLOTS = 128
LONGEST_WINDOW_MS = RING_SLOTS * RING_24H_MS  # clicks further back than this change no feature

LATE_MS = 120 * SECOND_MS  # further before t_c: not counted
FUTURE_MS = 2 * SECOND_MS  # further after the server's clock: not counted
DEDUP_MS = 10 * MINUTE_MS
CALL_CLICKS_MAX = 64  # a call holds the server for about 2 ms

# What a click brings to the counters, fixed width, little-endian: the input of both executions.
CLICK_FORMAT = "<16s16s16sddHHHBBbB"
CLICK_DTYPE = np.dtype(
    [
        ("click_id", "V16"),
        ("user_key", "V16"),
        ("ip_key", "V16"),
        ("event_time_ms", "<f8"),
        ("seq", "<f8"),  # 0 where the counters are to give one
        ("campaign", "<u2"),  # hashes, compared for equality only
        ("session", "<u2"),
        ("user_slot", "<u2"),
        ("agent_slot", "u1"),
        ("ip_slot", "u1"),
        ("logged_in", "i1"),
        ("device_kind", "u1"),
    ]
)
_SNAPSHOT_DTYPE = np.dtype("<i4")
_SNAPSHOT_BYTES = _SNAPSHOT_DTYPE.itemsize * len(FEATURES)
_EVENT_TIME_END_MS = 1 << 48  # what a UUIDv7 can hold


def device_kind_code(device_kind: str) -> int:
    """The code of a device kind; `UNKNOWN_DEVICE_KIND` for one that is not in the mapping."""
    return DEVICE_KINDS.get(device_kind, UNKNOWN_DEVICE_KIND)


def encode_clicks(clicks: Sequence[Click], seqs: Sequence[int] | npt.NDArray[np.int64] | None = None) -> bytes:
    """Encode clicks as consecutive `CLICK_FORMAT` records, with their `seqs` where those are known already."""
    numbers = [0] * len(clicks) if seqs is None else [int(seq) for seq in seqs]
    if len(numbers) != len(clicks):
        raise InvalidInput(f"seqs: expected one for each of {len(clicks)} clicks, got {len(numbers)}")
    return b"".join(_encode_click(click, seq) for click, seq in zip(clicks, numbers, strict=True))


def _encode_click(click: Click, seq: int) -> bytes:
    if not 0 <= click.event_time_ms < _EVENT_TIME_END_MS:
        raise InvalidInput(f"event_time_ms: expected 0 to {_EVENT_TIME_END_MS - 1}, got {click.event_time_ms}")
    for name, key in (("click_id", click.click_id), ("user_key", click.user_key), ("ip_key", click.ip_key)):
        if len(key) != 16:  # struct would pad or cut it without a word
            raise InvalidInput(f"{name}: expected 16 bytes, got {len(key)}")
    return struct.pack(
        CLICK_FORMAT,
        click.click_id,
        click.user_key,
        click.ip_key,
        click.event_time_ms,
        seq,
        crc32(click.campaign_id.encode()) & 0xFFFF,
        crc32(click.session_key) & 0xFFFF,
        crc32(click.user_key) % IP_USER_SLOTS,
        crc32(click.device.encode()) % IP_AGENT_SLOTS,
        crc32(click.ip_key) % USER_IP_SLOTS,
        NO_VALUE if click.logged_in is None else int(click.logged_in),
        device_kind_code(click.device_kind),
    )


def recorded_schema(facts_version: int) -> int:
    """The schema of the snapshots recorded under a deployment, by the table of facts it names; 0 for none."""
    return _FACTS_SCHEMA if facts_version else SCHEMA_VERSION


@cache
def feeds(recorded: int, wanted: int) -> bool:
    """Whether snapshots of schema `recorded` have all that a model of schema `wanted` reads, as it knows it."""
    have, need = SCHEMAS.get(recorded), SCHEMAS.get(wanted)
    return have is not None and need is not None and have[: len(need)] == need


def feeding(wanted: int) -> list[int]:
    """The schemas of all snapshots that feed a model of schema `wanted`."""
    return [recorded for recorded in SCHEMAS if feeds(recorded, wanted)]


def schema_of(features: npt.NDArray[np.int32]) -> int:
    """The schema of snapshots int32 (n, k), by their width. Raises InvalidInput for another shape."""
    for version, names in SCHEMAS.items():
        if features.ndim == 2 and features.shape[1] == len(names):
            return version
    widths = " or ".join(f"(n, {len(names)})" for names in SCHEMAS.values())
    raise InvalidInput(f"features: expected shape {widths}, got {features.shape}")


def names_of(features: npt.NDArray[np.int32]) -> tuple[str, ...]:
    """What the columns of snapshots int32 (n, k) are."""
    return SCHEMAS[schema_of(features)]


def with_facts(counted: npt.NDArray[np.int32], data_centre: Sequence[int]) -> npt.NDArray[np.int32]:
    """Counted features int32 (n, k) with the flags (n,) behind them, as snapshots with facts have it."""
    return np.concatenate([counted, np.array(data_centre, dtype=np.int32).reshape(-1, 1)], axis=1)


def with_facts_of(counted: bytes, recorded: bytes) -> bytes:
    """A snapshot counted again, with the facts of the recorded one, where that has any."""
    return counted + recorded[_SNAPSHOT_BYTES:]


def pack_snapshots(features: npt.NDArray[np.int32]) -> list[bytes]:
    """Turn int32 (n, k) into n snapshots as they are stored: k little-endian int32 each."""
    width = _bytes_of(schema_of(features))
    data = np.ascontiguousarray(features, dtype=_SNAPSHOT_DTYPE).tobytes()
    return [data[i : i + width] for i in range(0, len(data), width)]


def unpack_snapshots(snapshots: Sequence[bytes], schema_version: int = SCHEMA_VERSION) -> npt.NDArray[np.int32]:
    """Turn n stored snapshots into int32 (n, k), a writable copy. Refuses another schema and other lengths."""
    width = _bytes_of(schema_version)
    for i, snapshot in enumerate(snapshots):
        if len(snapshot) != width:
            raise InvalidInput(f"snapshot {i}: expected {width} bytes, got {len(snapshot)}")
    flat = np.frombuffer(b"".join(snapshots), dtype=_SNAPSHOT_DTYPE)
    return flat.reshape(len(snapshots), len(SCHEMAS[schema_version])).astype(np.int32)


def cut_snapshot(snapshot: bytes, recorded: int, wanted: int) -> bytes:
    """What of a stored snapshot a model of another schema reads. Raises InvalidInput where it lacks something."""
    width = _bytes_of(wanted)
    if not feeds(recorded, wanted):
        able = " or ".join(map(str, feeding(wanted)))
        raise InvalidInput(f"snapshot: expected feature schema {able}, got {recorded}")
    if len(snapshot) != _bytes_of(recorded):
        raise InvalidInput(f"snapshot: expected {_bytes_of(recorded)} bytes, got {len(snapshot)}")
    return snapshot[:width]


def _bytes_of(schema_version: int) -> int:
    if schema_version not in SCHEMAS:
        known = " or ".join(map(str, SCHEMAS))
        raise InvalidInput(f"feature schema: expected {known}, got {schema_version}")
    return _SNAPSHOT_DTYPE.itemsize * len(SCHEMAS[schema_version])
