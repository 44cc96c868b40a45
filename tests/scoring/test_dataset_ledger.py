"""A training set built from a real ledger."""

from __future__ import annotations

import hashlib

import numpy as np

from clickledger.ledger import append, database, log, outcomes
from clickledger.ledger.outcomes import Outcome
from clickledger.ledger.records import Batch
from clickledger.scoring import dataset, feature_spec

MIDNIGHT_MS = 1_767_571_200_000  # 2026-01-05
MINUTE = feature_spec.MINUTE_MS


def click_id(minute: int) -> bytes:
    return (MIDNIGHT_MS + minute * MINUTE).to_bytes(6, "big") + b"\x70\0\x80" + bytes(7)


def batch(minutes: list[int], counted: bool = True) -> Batch:
    """Undecided clicks, one a minute, counted in the order of time; even minutes are one account's, odd another's."""
    n = len(minutes)
    snapshots = np.repeat(np.array(minutes, dtype=np.int32)[:, None], len(feature_spec.FEATURES), axis=1)
    return Batch(
        deployment_epoch=0, counter_epoch=1, feature_schema=feature_spec.SCHEMA_VERSION,
        click_id=[click_id(m) for m in minutes], source=["test"] * n, external_id=[str(m) for m in minutes],
        user_key=[bytes([m % 2] * 16) for m in minutes], session_key=[bytes(16)] * n, ip_key=[bytes(16)] * n,
        device=["phone"] * n, device_kind=["app"] * n, advertiser_id=["a"] * n, campaign_id=["c"] * n,
        cost_micros=[1_000] * n, currency=["EUR"] * n, logged_in=[True] * n, slice=["app/in"] * n,
        intake_digest=[hashlib.sha256(str(m).encode()).digest() for m in minutes],
        features=feature_spec.pack_snapshots(snapshots), seq=[m + 1 if counted else 0 for m in minutes],
        model_version=[0] * n, calibration_version=[0] * n, score=[np.nan] * n, threshold=[np.nan] * n,
        verdict=["undecided"] * n, reason=["model_absent" if counted else "late"] * n,
    )  # fmt: skip


def buy(conn: database.Connection, minute: int, after: int) -> int:
    bought = Outcome(click_id(minute), "purchase", MIDNIGHT_MS + (minute + after) * MINUTE, 5)
    position = outcomes.append(conn, [bought], "test").position
    assert position is not None
    return position


def test_a_set_holds_the_counted_clicks_of_its_range_in_counting_order(conn: database.Connection) -> None:
    append.append(conn, batch([3, 4, 5]), actor="test")
    append.append(conn, batch([0, 1, 2]), actor="test")
    append.append(conn, batch([8, 9], counted=False), actor="test")
    up_to = log.head(conn).position
    append.append(conn, batch([6, 7]), actor="test")
    built = dataset.build(conn, up_to, MIDNIGHT_MS)
    assert built.features[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert built.event_time_ms.tolist() == [MIDNIGHT_MS + minute * MINUTE for minute in range(6)]
    assert built.slice.tolist() == ["app/in"] * 6
    assert len({*built.user[::2].tolist()}) == 1 and built.user[0] != built.user[1]


def test_labels_are_those_known_at_the_position_and_due_by_the_cutoff(conn: database.Connection) -> None:
    append.append(conn, batch([0, 1, 2, 3]), actor="test")
    buy(conn, 0, after=5)
    up_to = buy(conn, 1, after=60)
    buy(conn, 3, after=5)
    early = dataset.build(conn, up_to, MIDNIGHT_MS + 30 * MINUTE)
    late = dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE)
    assert early.purchased.tolist() == [True, False, False, False]
    assert late.purchased.tolist() == [True, True, False, False]


def test_what_is_appended_later_changes_nothing(conn: database.Connection) -> None:
    append.append(conn, batch([0, 1, 2]), actor="test")
    up_to = buy(conn, 1, after=1)
    before = dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE).digest()
    append.append(conn, batch([3, 4]), actor="test")
    buy(conn, 2, after=1)
    assert dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE).digest() == before


def test_a_built_set_is_an_entry_of_the_log(conn: database.Connection) -> None:
    append.append(conn, batch([0, 1]), actor="test")
    up_to = buy(conn, 1, after=1)
    cutoff = MIDNIGHT_MS + 90 * MINUTE
    stretch = (MIDNIGHT_MS, MIDNIGHT_MS + MINUTE)
    built = dataset.build(conn, up_to, cutoff, withheld=[stretch])
    dataset.record_built(
        conn, built, up_to_position=up_to, label_cutoff_ms=cutoff, actor="trainer", withheld=[stretch], reason="drill"
    )
    (entry,) = log.read(conn, kinds=["dataset_built"])
    assert entry.actor == "trainer" and entry.reason == "drill"
    assert entry.payload["digest"] == built.digest() and entry.payload["rows"] == 2
    assert (entry.payload["human"], entry.payload["purchased"]) == (1, 1)
    assert entry.payload["up_to_position"] == up_to and entry.payload["withheld"] == [list(stretch)]
