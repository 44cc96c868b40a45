"""Decided clicks for the benchmarks: seeded, shaped like a shop's traffic, nearly in the order of their event times."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np

from clickledger.ledger.records import Batch
from clickledger.scoring.feature_spec import FEATURES, SCHEMA_VERSION

GENERATION_MS = 1_760_000_000_000  # event time of the first click: fixed, so that two runs append the same rows
CLICKS_PER_MS = 1
SHUFFLE_MS = 40  # how far event times stray from the order of arrival
PEOPLE, ADDRESSES, CAMPAIGNS = 60_000, 20_000, 400
DEVICES = ("iphone-15", "pixel-8", "galaxy-s23", "windows-chrome", "mac-safari", "linux-firefox", "ipad", "xiaomi-13")
SLICES = ("app/in", "app/out", "web/in", "web/out")
THRESHOLD = 1.5


class Traffic:
    """An endless supply of new clicks; every batch continues where the last one ended."""

    def __init__(self, seed: int = 1, deployment_epoch: int = 0, counter_epoch: int = 1, lane: int = 0) -> None:
        self._rng = np.random.default_rng([seed, lane])
        self._deployment_epoch = deployment_epoch
        self._counter_epoch = counter_epoch
        self._seq = lane * 10**12

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """`count` batches of `size` clicks."""
        return (self.batch(size) for _ in range(count))

    def batch(self, n: int) -> Batch:
        """The next `n` clicks, decided by model 1 under calibration 1."""
        rng = self._rng
        seq = np.arange(self._seq + 1, self._seq + n + 1)
        self._seq += n
        score = rng.normal(-1, 2, n).astype(np.float32)
        campaign = rng.integers(0, CAMPAIGNS, n)
        slices = [SLICES[i] for i in rng.integers(0, 4, n)]
        return Batch(
            deployment_epoch=self._deployment_epoch,
            counter_epoch=self._counter_epoch,
            feature_schema=SCHEMA_VERSION,
            click_id=self._click_ids(seq),
            source=["shop"] * n,
            external_id=[rng.bytes(12).hex() for _ in range(n)],
            user_key=_keys(rng.integers(0, PEOPLE, n), b"user"),
            session_key=_keys(rng.integers(0, PEOPLE * 8, n), b"sess"),
            ip_key=_keys(rng.integers(0, ADDRESSES, n), b"addr"),
            device=[DEVICES[i] for i in rng.integers(0, len(DEVICES), n)],
            device_kind=[name.split("/")[0] for name in slices],
            advertiser_id=[f"adv-{i % 50}" for i in campaign],
            campaign_id=[f"cmp-{i}" for i in campaign],
            cost_micros=rng.integers(10_000, 900_000, n),
            currency=["USD"] * n,
            logged_in=[name.endswith("/in") for name in slices],
            slice=slices,
            intake_digest=[rng.bytes(32) for _ in range(n)],
            features=[row.tobytes() for row in rng.integers(-1, 500, (n, len(FEATURES)), dtype=np.int32)],
            seq=seq,
            model_version=np.ones(n, np.int32),
            calibration_version=np.ones(n, np.int32),
            score=score,
            threshold=np.full(n, THRESHOLD, np.float32),
            verdict=["invalid" if value >= THRESHOLD else "valid" for value in score],
            reason=[""] * n,
        )

    def _click_ids(self, seq: np.ndarray) -> list[bytes]:
        """UUIDv7 of the event times: `CLICKS_PER_MS` at a mean, each up to `SHUFFLE_MS` early or late."""
        at = GENERATION_MS + seq % 10**12 // CLICKS_PER_MS + self._rng.integers(-SHUFFLE_MS, SHUFFLE_MS + 1, len(seq))
        return [uuid7(int(ms), self._rng.bytes(10)) for ms in at]


def uuid7(at_ms: int, noise: bytes) -> bytes:
    """A UUIDv7 of a time (Unix ms) and 10 random bytes."""
    raw = bytearray(at_ms.to_bytes(6) + noise)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


def _keys(numbers: np.ndarray, space: bytes) -> list[bytes]:
    return [uuid.uuid5(uuid.NAMESPACE_OID, f"{space!r}{number}").bytes for number in numbers]
