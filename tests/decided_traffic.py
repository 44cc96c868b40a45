"""Traffic for the tests of recovery: clicks decided by real models, appended with what their shadow says.

`STABLE_LIMIT` and `BAD_LIMIT` are clicks per hour at which the velocity rule calls a user a robot: the bad one takes
people for robots.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from clickledger.ledger import append, database, deployments, outcomes
from clickledger.ledger.records import Batch
from clickledger.scoring import decide, feature_spec, velocity
from clickledger.scoring import model as models_

STABLE_LIMIT, BAD_LIMIT = 20, 3
DAY_MS = 86_400_000
START_MS = 1_710_028_800_000  # 2024-03-10 UTC
SLICES = ("app/in", "web/out", "web/unknown")
INSERT_SHADOW = "INSERT INTO shadow_scores VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"

Versions = tuple[int, int]


def register(conn: database.Connection, clicks_per_hour: int) -> Versions:
    """A velocity rule and its calibration, by version."""
    model = velocity.velocity_model(clicks_per_hour)
    version = deployments.register_model(conn, models_.to_artefact(model), model.kind, {}, "tests")
    return version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests")


def routing(live: Versions, shadow: Versions | None = None, candidates: Sequence[Versions] = ()) -> dict[str, Any]:
    """All traffic to one model, the stable one and candidates beside it."""
    beside = None if shadow is None else {"model": shadow[0], "calibration": shadow[1]}
    table = {
        "routes": [{"slice": "*", "share": 1.0, "model": live[0], "calibration": live[1]}],
        "shadow": beside,
        "feature_schema": 1,
        "facts_version": 0,
    }
    return deployments.with_candidates(table, [{"model": m, "calibration": c} for m, c in candidates])


def deploy(
    conn: database.Connection, live: Versions, shadow: Versions | None = None, candidates: Sequence[Versions] = ()
) -> int:
    """Deploy a model; the epoch."""
    return deployments.deploy(conn, routing(live, shadow, candidates), "tests")


def key(text: str) -> bytes:
    """16 bytes that stand for a pseudonym."""
    return hashlib.sha256(text.encode()).digest()[:16]


def click_id(at_ms: int, number: int) -> bytes:
    """A UUIDv7 of that time, unique by number."""
    tail = bytearray(hashlib.sha256(number.to_bytes(8)).digest()[:10])
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return at_ms.to_bytes(6) + bytes(tail)


class Traffic:
    """Clicks numbered from 0, one every `gap_ms`, each of the next user; decided as the deployment says."""

    def __init__(
        self, conn: database.Connection, *, users: int = 200, gap_ms: int = 50, seed: int = 0, start_ms: int = START_MS
    ) -> None:
        self.conn = conn
        self.users = users
        self.gap_ms = gap_ms
        self.start_ms = start_ms
        self.count = 0
        self.ids: list[bytes] = []
        self._random = np.random.default_rng(seed)

    def append(
        self, n: int, *, hourly: int | None = None, late: int = 0, schema: int = 1, epoch: int | None = None
    ) -> int:
        """Append n clicks as one batch; its position. `hourly` clicks per hour of every user, else 1 to 10 or 40.

        The first `late` of them were counted too late.
        """
        batch = self.batch(n, hourly=hourly, late=late, schema=schema, epoch=epoch)
        appended = append.append(self.conn, batch, actor="tests")
        if appended.position is None:
            raise AssertionError("expected a batch of new clicks")
        self.ids += batch.click_id
        self._write_shadow(batch, appended.position)
        return appended.position

    def batch(
        self, n: int, *, hourly: int | None = None, late: int = 0, schema: int = 1, epoch: int | None = None
    ) -> Batch:
        """The next n clicks, decided."""
        deployment = deployments.current(self.conn)
        numbers = range(self.count, self.count + n)
        self.count += n
        features = self._features(n, hourly)
        reasons = ["late"] * late + [""] * (n - late)
        slices = [SLICES[i % len(SLICES)] for i in numbers]
        versions = versions_of(deployment.routing)
        decided = _decide(self.conn, versions, features, slices, reasons)
        users = [key(f"user {i % self.users}") for i in numbers]
        ids = [click_id(self.start_ms + i * self.gap_ms, i) for i in numbers]
        return Batch(
            deployment_epoch=deployment.epoch if epoch is None else epoch,
            counter_epoch=1,
            feature_schema=schema,
            click_id=ids,
            source=["test"] * n,
            external_id=[str(i) for i in numbers],
            user_key=users,
            session_key=users,
            ip_key=users,
            device=["pixel"] * n,
            device_kind=["app"] * n,
            advertiser_id=[f"adv-{i % 4}" for i in numbers],
            campaign_id=[f"camp-{i % 7}" for i in numbers],
            cost_micros=[1_000 + i % 13 for i in numbers],
            currency=["EUR" if i % 5 else "USD" for i in numbers],
            logged_in=[True] * n,
            slice=slices,
            intake_digest=[hashlib.sha256(i).digest() for i in ids],
            features=feature_spec.pack_snapshots(features),
            seq=[0 if reason else i + 1 for i, reason in zip(numbers, reasons, strict=True)],
            model_version=[versions[0]] * n,
            calibration_version=[versions[1]] * n,
            score=decided.score,
            threshold=decided.threshold,
            verdict=decided.verdict,
            reason=decided.reason,
        )

    def purchases(self, users: Sequence[int], at_ms: int = START_MS - 3 * DAY_MS) -> None:
        """Purchases of those users, from clicks that are in the ledger."""
        wanted = {key(f"user {user}"): user for user in users}
        rows = self.conn.execute("SELECT DISTINCT ON (user_key) user_key, click_id FROM clicks").fetchall()
        found = [outcomes.Outcome(c.bytes, "purchase", at_ms, 1) for u, c in rows if u.bytes in wanted]
        outcomes.append(self.conn, found, "tests")

    def _features(self, n: int, hourly: int | None) -> np.ndarray[Any, np.dtype[np.int32]]:
        features = np.full((n, len(feature_spec.FEATURES)), 1, np.int32)
        mixed = np.where(self._random.random(n) < 0.1, 40, self._random.integers(1, 11, n))
        features[:, feature_spec.INDEX["user_clicks_1h"]] = mixed if hourly is None else hourly
        return features

    def _write_shadow(self, batch: Batch, position: int) -> None:
        deployment = deployments.current(self.conn)
        if batch.feature_schema != feature_spec.SCHEMA_VERSION:
            return
        for shadow in deployments.in_shadow(deployment.routing):
            self._write_one(batch, position, deployment.epoch, (shadow["model"], shadow["calibration"]))

    def _write_one(self, batch: Batch, position: int, epoch: int, versions: Versions) -> None:
        features = feature_spec.unpack_snapshots(list(batch.features))
        decided = _decide(self.conn, versions, features, batch.slice, [""] * len(batch))
        rows = [
            (uuid.UUID(bytes=c), position, epoch, *versions, float(s), float(t), v, live)
            for c, s, t, v, live in zip(
                batch.click_id, decided.score, decided.threshold, decided.verdict, batch.verdict, strict=True
            )
            if live != decide.UNDECIDED
        ]
        with self.conn.cursor() as cursor:
            cursor.executemany(INSERT_SHADOW, rows)


def versions_of(deployed: dict[str, Any]) -> Versions:
    """Model and calibration of the only route; zeros where nothing is deployed."""
    return (deployed["routes"][0]["model"], deployed["routes"][0]["calibration"]) if deployed["routes"] else (0, 0)


def _decide(
    conn: database.Connection, versions: Versions, features: Any, slices: Sequence[str], reasons: Sequence[str]
) -> decide.Decided:
    if not versions[0]:
        return decide.decide(features, slices, reasons, None, {})
    model = models_.from_artefact(deployments.load_artefact(conn, versions[0]))
    return decide.decide(features, slices, reasons, model, deployments.load_thresholds(conn, versions[1]))


def bad_deployment(
    conn: database.Connection, *, batches: int = 10, clicks: int = 200, before: int = 2, shadow: bool = True
) -> tuple[Traffic, Versions, Versions]:
    """A ledger on which a stable model was live, then a bad one: the traffic, the stable and the bad versions."""
    stable, bad = register(conn, STABLE_LIMIT), register(conn, BAD_LIMIT)
    traffic = Traffic(conn)
    deploy(conn, stable)
    for _ in range(before):
        traffic.append(clicks)
    deploy(conn, bad, stable if shadow else None)
    for _ in range(batches):
        traffic.append(clicks)
    return traffic, stable, bad
