"""A training set built from a real ledger."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clickledger.errors import InvalidInput, NotFound, VerificationFailed
from clickledger.ledger import append, database, deployments, log, outcomes
from clickledger.ledger.outcomes import Outcome
from clickledger.ledger.records import Batch
from clickledger.scoring import dataset, feature_spec, labels
from clickledger.scoring.label_caps import Caps
from clickledger.scoring.recipe import Recipe

MIDNIGHT_MS = 1_767_571_200_000  # 2026-01-05
MINUTE = feature_spec.MINUTE_MS
GONE = """
    INSERT INTO detached_days (day, position, departure, digest, clicks, delayed, first_position, last_position,
                               settled_position)
    VALUES ('2026-01-05', 1, gen_random_uuid(), %(digest)s, 1, 0, 1, %(last)s, 1)"""


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


def test_cold_clicks_are_left_out_where_the_rules_say_so_and_the_entry_counts_them(conn: database.Connection) -> None:
    window = feature_spec.LONGEST_WINDOW_MS // MINUTE
    append.append(conn, batch([0, 5, window - 1, window, window + 1]), actor="test")
    up_to = log.head(conn).position
    quick = {"since_ms": MIDNIGHT_MS + (window - 70) * MINUTE}
    deployments.begin_counter_epoch(conn, quick, "test", "lost, and the last hour is back")
    cold_again, warm_again = 2 * window - 71, 2 * window - 70
    append.append(conn, replace(batch([cold_again, warm_again]), counter_epoch=2), actor="test")

    rules = labels.LabelRules(warm_only=True)
    recipe = Recipe(log.head(conn).position, MIDNIGHT_MS, rules=rules)
    made = dataset.gather(conn, recipe)
    assert made.dataset.features[:, 0].tolist() == [window, window + 1, warm_again]
    assert made.cold == 4
    entry = dataset.record_built(conn, made.dataset, recipe, actor="test", cold=made.cold)
    assert (entry.payload["cold"], entry.payload["rules"]["warm_only"]) == (4, True)
    assert dataset.rebuild(conn, entry.position).digest() == made.dataset.digest()
    earlier = dataset.gather(conn, replace(recipe, up_to_position=up_to))
    assert earlier.dataset.features[:, 0].tolist() == [window, window + 1], "what came later changes nothing"
    assert len(dataset.build(conn, recipe.up_to_position, MIDNIGHT_MS)) == 7


def test_rules_stated_before_there_was_a_word_for_cold_clicks_take_all() -> None:
    stated = {name: value for name, value in labels.DAILY.to_payload().items() if name != "warm_only"}
    assert labels.LabelRules.from_payload(stated) == replace(labels.DAILY, warm_only=False)


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


def test_whoever_thinks_long_between_two_rows_is_not_ended_by_the_server(
    conn: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    append.append(conn, batch([0, 1, 2, 3]), actor="test")
    whole = dataset.build(conn, 10, MIDNIGHT_MS)
    row = dataset.ClickRow
    monkeypatch.setattr(dataset, "FETCH_ROWS", 1)
    monkeypatch.setattr(dataset, "ClickRow", lambda *values: (time.sleep(0.02), row(*values))[1])
    conn.execute("SET idle_in_transaction_session_timeout = '2ms'")
    assert dataset.build(conn, 10, MIDNIGHT_MS).digest() == whole.digest()


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


def test_an_outcome_recorded_before_its_click_labels_it(conn: database.Connection) -> None:
    buy(conn, 1, after=1)
    append.append(conn, batch([0, 1]), actor="test")
    up_to = log.head(conn).position
    assert dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE).purchased.tolist() == [False, True]


def test_an_outcome_whose_click_comes_after_the_range_changes_nothing(conn: database.Connection) -> None:
    append.append(conn, batch([0, 2]), actor="test")
    buy(conn, 4, after=1)
    up_to = buy(conn, 6, after=1)  # of the account that clicked at 0 and 2, known by clicks that are not yet recorded
    rules = labels.LabelRules(rfm=labels.RfmRule(0.5))
    before = dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE, rules=rules)
    append.append(conn, batch([4, 6]), actor="test")
    assert dataset.build(conn, up_to, MIDNIGHT_MS + 90 * MINUTE, rules=rules).digest() == before.digest()
    assert dataset.build(conn, up_to + 1, MIDNIGHT_MS + 90 * MINUTE, rules=rules).human.all()


def built(conn: database.Connection, **recipe: Any) -> log.Entry:
    """A set of six clicks and two purchases, and its entry."""
    append.append(conn, batch([0, 1, 2, 3, 4, 5]), actor="test")
    buy(conn, 1, after=1)
    up_to = buy(conn, 3, after=1)
    made_from = Recipe(up_to, MIDNIGHT_MS + 90 * MINUTE, **recipe)
    return dataset.record_built(
        conn, dataset.gather(conn, made_from).dataset, made_from, actor="trainer", reason="drill"
    )


def test_a_built_set_is_an_entry_of_the_log(conn: database.Connection) -> None:
    stretch = (MIDNIGHT_MS, MIDNIGHT_MS + MINUTE)
    position = built(conn, withheld=(stretch,)).position
    (entry,) = log.read(conn, kinds=["dataset_built"])
    assert entry.position == position and entry.actor == "trainer" and entry.reason == "drill"
    assert (entry.payload["rows"], entry.payload["human"], entry.payload["purchased"]) == (6, 2, 2)
    assert entry.payload["withheld"] == [list(stretch)]
    assert entry.payload["rules"] == labels.AS_RECORDED.to_payload()


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"rules": labels.LabelRules(maturity_ms=87 * MINUTE, caps=Caps(account_per_day=1))},
        {"rules": labels.LabelRules(rfm=labels.RfmRule(0.1, 1), outcome_kinds=("install",))},
        {"withheld": ((MIDNIGHT_MS, MIDNIGHT_MS + 2 * MINUTE),), "after_position": 1},
    ],
)
def test_a_set_can_be_made_again_from_its_entry_alone(conn: database.Connection, recipe: dict[str, Any]) -> None:
    entry = built(conn, **recipe)
    append.append(conn, batch([6, 7]), actor="test")
    buy(conn, 2, after=1)
    assert dataset.rebuild(conn, entry.position).digest() == entry.payload["digest"]


def test_maturity_and_caps_leave_what_they_say(conn: database.Connection) -> None:
    rules = labels.LabelRules(maturity_ms=86 * MINUTE, caps=Caps(account_per_day=1))
    entry = built(conn, rules=rules)  # clicks of the minutes 0 to 3; 1 and 3 are one account's, which bought twice
    assert (entry.payload["rows"], entry.payload["human"], entry.payload["purchased"]) == (4, 1, 1)


def test_a_set_of_version_0_1_0_can_be_made_again(conn: database.Connection) -> None:
    entry = built(conn)
    stated = {name: value for name, value in entry.payload.items() if name != "rules"}
    old = log.record(conn, "dataset_built", stated, "trainer")
    assert dataset.rebuild(conn, old.position).digest() == entry.payload["digest"]


def test_what_differs_from_an_entry_is_named(conn: database.Connection) -> None:
    entry = built(conn)
    other = log.record(conn, "dataset_built", {**entry.payload, "human": 5, "digest": "00"}, "trainer")
    with pytest.raises(VerificationFailed, match=rf"set of entry {other.position}: human: expected 5, got 2; digest: "):
        dataset.rebuild(conn, other.position)


def test_days_that_left_since_are_named_beside_what_differs(conn: database.Connection) -> None:
    entry = built(conn)
    conn.execute(GONE, {"digest": bytes(32), "last": entry.position})
    other = log.record(conn, "dataset_built", {**entry.payload, "rows": 9}, "trainer")
    with pytest.raises(VerificationFailed, match="rows: expected 9, got 6; clicks of these days left the ledger: 2026"):
        dataset.rebuild(conn, other.position)


def test_another_entry_is_no_set(conn: database.Connection) -> None:
    with pytest.raises(InvalidInput, match="entry 1: expected kind dataset_built, got ledger_created"):
        dataset.rebuild(conn, 1)
    with pytest.raises(NotFound, match="no entry at position 99"):
        dataset.rebuild(conn, 99)
    position = log.record(conn, "dataset_built", {}, "trainer").position
    with pytest.raises(InvalidInput, match=f"entry {position}: expected the recipe of a set"):
        dataset.rebuild(conn, position)
