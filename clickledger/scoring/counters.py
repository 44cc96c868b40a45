"""Count clicks in Valkey: the client of the function library in `features.lua` and `feature_calls.lua`.

Invariants:
- every call names its counter epoch; counts under another epoch than the one in force are refused;
- a retry of clicks that were counted returns their first `Counted` rows and counts nothing;
- a server that may evict keys is refused: eviction makes features wrong without an error.

Restart protocol, when the server lost its memory or its tail: read `state`, put a new epoch in force with `open_epoch`
at the kept seq, `restore` the logged clicks after it in the order of their seq, then `open_epoch` again with the same
epoch and a seq above any number ever issued. `counter_epochs` follows it.

There is room for two sets of counters, each under a prefix of its own: one counts, the other may be rebuilt beside it.
The library's name has the feature schema in it, so that two releases can count beside each other, each in its own set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import cast

import numpy as np
import numpy.typing as npt
import redis
from redis import exceptions

from clickledger.errors import Conflict, InvalidInput, InvariantBroken, LostCounters, Refused, Unavailable
from clickledger.scoring import feature_spec
from clickledger.scoring.click import Click

REASONS = ("", "late", "future", "kept")  # by their code in a row
_RECORD_TTL_MS = 36 * feature_spec.HOUR_MS  # the longest window, and some hours in which clicks wait for a worker
_RECORD_TTL_LAG_MS_MAX = 7 * 24 * feature_spec.HOUR_MS
_EXPIRY_STEP_MS = 30 * feature_spec.MINUTE_MS  # of the counting clock, by which it is kept when records expire
PREFIXES = ("cl:", "cl:b:")  # of the two sets of counters
_RECORDS = ("state", "seen:*", "u:*", "i:*")  # keys of a set, after its prefix
_ROW_DTYPE = np.dtype([("features", "<i4", (len(feature_spec.FEATURES),)), ("seq", "<f8"), ("reason", "u1")])
_NO_ANSWER = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
)
_OUT_OF_SERVICE = ("BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN")  # codes that redis-py has no class for


@dataclass(frozen=True)
class CounterState:
    """What a set keeps: the epoch in force, the last seq given, the counting clock `t_c`, its feature schema."""

    counter_epoch: int
    seq: int
    clock_ms: int
    schema: int


@dataclass(frozen=True)
class Counted:
    """n counted clicks, in the caller's order. A click that was not counted has seq 0, its reason, and `NO_VALUE`
    in every feature that is not stateless."""

    seq: npt.NDArray[np.int64]  # (n,)
    features: npt.NDArray[np.int32]  # (n, k)
    reason: list[str]  # n of REASONS


class FeatureCounter:
    """Counts under one counter epoch. `client` must answer bytes (`decode_responses=False`)."""

    def __init__(self, client: redis.Redis, counter_epoch: int, prefix: str = PREFIXES[0]) -> None:
        self._client = client
        self._epoch = counter_epoch
        self._prefix = prefix

    def load(self) -> None:
        """Load the function library, replacing an older one. Raises `Refused` when the server may evict keys."""
        load_library(self._client)

    def count(self, clicks: Sequence[Click]) -> Counted:
        """Count clicks in the given order, in calls of at most `CALL_CLICKS_MAX`.

        After an error the calls before the failed one stand; count the same clicks again, they are counted once.
        Raises `LostCounters` when another epoch is in force or none, `Unavailable` when the server does not answer.
        """
        return _joined([self._call("count", chunk, None) for chunk in _chunks(clicks)])

    def restore(self, clicks: Sequence[Click], seqs: Sequence[int] | npt.NDArray[np.int64]) -> Counted:
        """Count logged clicks again under the seq they have in the log; successive calls in the order of seq.

        Clicks up to the kept seq are left out, with the reason 'kept', so a broken-off restore can be repeated. The
        features of the others equal the logged ones if all clicks of `LONGEST_WINDOW_MS` before them are counted.
        Raises like `count`, and `InvalidInput` when the seqs do not grow.
        """
        numbers = np.asarray(seqs, dtype=np.int64)
        if len(numbers) != len(clicks):
            raise InvalidInput(f"seqs: expected one for each of {len(clicks)} clicks, got {len(numbers)}")
        if len(numbers) and (numbers[0] < 1 or bool((np.diff(numbers) < 1).any())):
            raise InvalidInput("seqs: expected growing numbers from 1, got others")
        step = feature_spec.CALL_CLICKS_MAX
        chunks = enumerate(_chunks(clicks))
        return _joined([self._call("restore", chunk, numbers[i * step : (i + 1) * step]) for i, chunk in chunks])

    def _call(self, name: str, clicks: Sequence[Click], seqs: npt.NDArray[np.int64] | None) -> Counted:
        reply = _call_function(self._client, self._prefix, name, self._epoch, feature_spec.encode_clicks(clicks, seqs))
        rows = np.frombuffer(cast(bytes, reply), dtype=_ROW_DTYPE)
        if len(rows) != len(clicks):
            raise InvariantBroken(f"expected {len(clicks)} counted rows, got {len(rows)}")
        return Counted(
            rows["seq"].astype(np.int64), rows["features"].astype(np.int32), [REASONS[code] for code in rows["reason"]]
        )


def state(client: redis.Redis, prefix: str = PREFIXES[0]) -> CounterState | None:
    """What a set keeps, or None when no epoch was ever opened there, or its memory is gone."""
    with _translated():
        kept = cast(list[bytes | None], client.hmget(f"{prefix}state", ["epoch", "seq", "clock_ms", "schema"]))
    numbers = [int(value) for value in kept if value is not None]
    return CounterState(*numbers) if len(numbers) == len(kept) else None


def forget(client: redis.Redis, prefix: str) -> None:
    """Drop a whole set of counters."""
    with _translated():
        for pattern in _RECORDS:
            for key in client.scan_iter(match=prefix + pattern, count=1000):
                client.unlink(key)


def open_epoch(
    client: redis.Redis, counter_epoch: int, seq: int = 0, clock_ms: int = 0, prefix: str = PREFIXES[0]
) -> CounterState:
    """Put `counter_epoch` in force; the next click gets a number above `seq` and above any the server has given.

    Opening the epoch in force again only raises seq and clock. Raises `LostCounters` when a later epoch is in force,
    `Refused` when the server may evict keys, `Conflict` when its counters are of another feature schema.
    """
    if counter_epoch < 1 or seq < 0 or clock_ms < 0:
        raise InvalidInput(f"expected an epoch from 1, seq and clock from 0, got {counter_epoch}, {seq}, {clock_ms}")
    load_library(client)
    _call_function(client, prefix, "open_epoch", counter_epoch, seq, clock_ms)
    opened = state(client, prefix)
    if opened is None:
        raise LostCounters(f"expected counter epoch {counter_epoch} just opened, got none")
    return opened


def load_library(client: redis.Redis) -> None:
    """Load the function library, replacing an older one. Raises `Refused` when the server may evict keys."""
    with _translated():
        policy = client.info("memory")["maxmemory_policy"]
        if policy != "noeviction":
            raise Refused(
                f"counters need maxmemory-policy noeviction, got {policy}: an evicted record is a wrong feature"
            )
        client.function_load(library_source(), replace=True)


def library_source() -> str:
    """The library as the server loads it: its name, the constants of the specification, both halves."""
    package = resources.files("clickledger.scoring")
    halves = [package.joinpath(name).read_text("utf-8") for name in ("features.lua", "feature_calls.lua")]
    return "\n".join([f"#!lua name={library_name()}", *_lua_constants(), *halves])


def library_name() -> str:
    """The name of the library, and what the names of its functions begin with."""
    return f"clickledger_{feature_spec.SCHEMA_VERSION}"


def _lua_constants() -> Iterator[str]:
    for name, value in vars(feature_spec).items():
        if name.isupper() and not name.startswith("_") and isinstance(value, int):
            yield f"local {name} = {value}"
    yield f"local LIBRARY = '{library_name()}'"
    for code, reason in enumerate(REASONS):
        yield f"local REASON_{reason.upper() or 'COUNTED'} = {code}"
    yield f"local RECORD_TTL_MS, RECORD_TTL_LAG_MS_MAX = {_RECORD_TTL_MS}, {_RECORD_TTL_LAG_MS_MAX}"
    yield f"local EXPIRY_STEP_MS = {_EXPIRY_STEP_MS}"
    yield f"local FEATURE_COUNT = {len(feature_spec.FEATURES)}"
    yield f"local ROW_FORMAT = '<{'i4' * len(feature_spec.FEATURES)}dB'"
    yield "local CLICK_FORMAT = '<c16c16c16ddI2I2I2BBbB'"  # feature_spec.CLICK_FORMAT as Lua's struct spells it
    yield "local F = {" + ", ".join(f"{name} = {i + 1}" for name, i in feature_spec.INDEX.items()) + "}"


def _chunks(clicks: Sequence[Click]) -> Iterator[Sequence[Click]]:
    for start in range(0, len(clicks), feature_spec.CALL_CLICKS_MAX):
        yield clicks[start : start + feature_spec.CALL_CLICKS_MAX]


def _joined(parts: list[Counted]) -> Counted:
    if len(parts) == 1:
        return parts[0]
    return Counted(
        np.concatenate([np.empty(0, np.int64), *(part.seq for part in parts)]),
        np.concatenate([np.empty((0, len(feature_spec.FEATURES)), np.int32), *(part.features for part in parts)]),
        [reason for part in parts for reason in part.reason],
    )


def _call_function(client: redis.Redis, prefix: str, name: str, *args: int | bytes) -> object:
    def call() -> object:
        return client.fcall(f"{library_name()}_{name}", 1, f"{prefix}state", *args)

    with _translated():
        try:
            return call()
        except exceptions.ResponseError as error:
            if "Function not found" not in str(error):
                raise
            load_library(client)  # a restarted server may have lost the library with the rest; the epoch check tells
            return call()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the server refuses and what the connection suffers into errors of clickledger."""
    try:
        yield
    except _NO_ANSWER as error:
        raise Unavailable(f"counters: the server does not answer: {error}") from error
    except exceptions.ResponseError as error:
        code, _, message = str(error).partition(" ")
        if code == "CLEPOCH":
            raise LostCounters(message) from error
        if code == "CLSCHEMA":
            raise Conflict(message) from error
        if code in _OUT_OF_SERVICE:
            raise Unavailable(f"counters: the server is out of service: {error}") from error
        raise
