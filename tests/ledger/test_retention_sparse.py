"""Retention of days with sparse corrections: the clicks they name leave too, and what they decided stays provable."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
import replays
from batches import Row
from leaving import DAY, FIRST, MIXED, NEXT, SECOND, authoritative, detach, failures, live_two_days

from clickledger import errors, verify_bundle
from clickledger.ledger import (
    authority,
    billing,
    checkpoint_keys,
    comparison,
    database,
    departed,
    departure,
    log,
    proof_bundle,
    publication,
    reading,
    rebuild,
    retention,
    runs,
    signed_note,
    sparse,
)

GONE = {row.uuid for row in FIRST + MIXED[:2]}
# What each correction states, in the order they are made: clicks of both days, some of them twice.
BOTH_DAYS = [(FIRST[0], "valid"), (FIRST[4], "invalid"), (MIXED[0], "valid"), (SECOND[0], "undecided")]
ON_TOP = [(FIRST[4], "undecided"), (MIXED[1], "invalid")]
OF_NEXT = [(MIXED[2], "valid"), (SECOND[1], "invalid")]
GIVEN_UP = [(FIRST[5], "invalid"), (SECOND[2], "invalid")]


def planned(conn: database.Connection, stated: list[tuple[Row, str]]) -> int:
    corrections = [sparse.Correction(row.click_id, verdict, "disputed") for row, verdict in stated]
    return sparse.plan(conn, corrections, actor="tests", reason="disputed").run_id


def corrected(conn: database.Connection, stated: list[tuple[Row, str]]) -> int:
    """A sparse run, compared and published; its id."""
    run_id = planned(conn, stated)
    replays.publish(conn, run_id)
    return run_id


def revert(conn: database.Connection, run_id: int) -> None:
    publication.revert(conn, run_id, "tests", "mistaken")


@pytest.fixture
def lived(conn: database.Connection) -> database.Connection:
    """Two days, a run over part of them, three corrections in force over it and one that was given up."""
    live_two_days(conn)
    given_up = corrected(conn, GIVEN_UP)
    revert(conn, given_up)
    runs.abandon(conn, given_up, "tests", "never again")
    for stated in (BOTH_DAYS, ON_TOP, OF_NEXT):
        corrected(conn, stated)
    return conn


def run_of(conn: database.Connection, stated: list[tuple[Row, str]]) -> int:
    """The run that corrected these clicks."""
    wanted = {row.uuid for row, _ in stated}
    found = [p for p in authority.publications(conn) if p.kind == "sparse"]
    return next(
        p.run_id for p in found if {click.click_id for click in authority.sparse_clicks(conn, p.run_id)} == wanted
    )


# -- what is left


def test_day_with_corrections_leaves_a_ledger_that_verifies(lived: database.Connection) -> None:
    before = authoritative(lived)
    done = detach(lived)
    assert (done.clicks, done.delayed) == (8, 8 + 3 + 2 + 1)
    assert failures(lived) == {}
    assert authoritative(lived) == {row for row in before if row[0] not in GONE}
    detach(lived, NEXT)
    assert failures(lived) == {}
    for day in (DAY, NEXT):
        retention.drop(lived, day, "tests", "exported")
    assert failures(lived) == {}


def test_folds_hold_between_any_two_steps_of_a_detach(
    lived: database.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    detach_table, left = retention._detach_table, []

    def and_look(conn: database.Connection, parent: str, name: str) -> None:
        assert rebuild.differences(conn) == []
        detach_table(conn, parent, name)
        assert rebuild.differences(conn) == []
        left.append(parent)

    monkeypatch.setattr(retention, "_detach_table", and_look)
    detach(lived)
    assert len(left) == 3


def test_totals_and_feed_are_what_they_were_before_the_day_left(lived: database.Connection) -> None:
    totals, told = billing.totals(lived), billing.feed_total(lived)
    assert told[0] + told[1] == totals[0].billed_micros
    for day in (DAY, NEXT):
        detach(lived, day)
        assert (billing.totals(lived), billing.feed_total(lived)) == (totals, told)


def test_totals_of_a_past_position_are_right_or_refused(lived: database.Connection) -> None:
    head = log.head(lived).position
    before = {position: billing.totals(lived, position) for position in range(1, head + 1)}
    settled = next(p.position for p in authority.publications(lived) if p.run_id == run_of(lived, ON_TOP))
    detach(lived)
    for position, expected in before.items():
        if position < 2 or position >= settled:
            assert billing.totals(lived, position) == expected
        else:
            with pytest.raises(errors.Refused, match=f"below 2 or from {settled} on.*2024-03-10"):
                billing.totals(lived, position)


def test_readers_find_of_every_moment_what_stays(lived: database.Connection) -> None:
    head = log.head(lived).position
    fields = ("click_id", "verdict", "run_id")
    before = {position: set(reading.rows(lived, fields=fields, as_of=position)) for position in range(2, head + 1)}
    detach(lived)
    of_view = "SELECT click_id, verdict::text, run_id FROM authoritative_decisions_as_of(%s)"
    for position, expected in before.items():
        left = {row for row in expected if row[0] not in GONE}
        assert set(reading.rows(lived, fields=fields, as_of=position)) == left
        assert set(lived.execute(of_view, (position,)).fetchall()) == left
        for click, verdict, run_id in expected:
            found = reading.decision_of(lived, click, position)
            assert (found and (found["verdict"], found["run_id"])) == (None if click in GONE else (verdict, run_id))


def test_feed_goes_on_with_every_adjustment(lived: database.Connection) -> None:
    cursor = billing.read(lived, limit=6).cursor
    lines = [line for line in billing.read(lived, cursor, 100).entries if line["entry_kind"] != "charge"]
    detach(lived)
    opening = billing.Cursor(3, 1 << 62, log.entry(lived, 3).chain_hash.hex())
    assert [line for line in billing.read(lived, opening, 100).entries if line["entry_kind"] != "charge"] == lines
    assert {line["click_id"] for line in lines} & GONE  # adjustments of gone clicks stay in the feed


def test_click_of_a_partly_gone_run_is_proved_and_one_that_left_is_said_to_have_left(
    lived: database.Connection,
) -> None:
    key = signed_note.generate(checkpoint_keys.origin(lived))
    checkpoint_keys.announce(lived, key, "tests")
    done = detach(lived)
    trusted = [verify_bundle.key(str(key.verifier))]
    for row in (SECOND[0], MIXED[2]):  # of a sparse run, and of one over a range as well
        bundle = proof_bundle.build(lived, row.uuid, key, "tests")
        verify_bundle.verify(bundle.text, trusted)
        assert bundle.fields["statement"]["run_id"] in {run_of(lived, BOTH_DAYS), run_of(lived, OF_NEXT)}
    with pytest.raises(errors.NotFound, match=f"was of 2024-03-10, detached at position {done.position}"):
        proof_bundle.build(lived, FIRST[0].uuid, key, "tests")


# -- what departs


def test_clicks_of_sparse_runs_depart_by_run_and_entry_and_those_of_others_do_not(lived: database.Connection) -> None:
    detach(lived)
    sparse_runs = [run_of(lived, stated) for stated in (BOTH_DAYS, ON_TOP, OF_NEXT, GIVEN_UP)]
    expected = {
        (run_id, row.uuid, 2 if row in FIRST else 3)
        for run_id, stated in zip(sparse_runs, (BOTH_DAYS, ON_TOP, OF_NEXT, GIVEN_UP), strict=True)
        for row, _ in stated
        if row.uuid in GONE
    }
    assert set(departed.sparse_clicks(lived, sparse_runs)) == expected
    kept = lived.execute(
        "SELECT count(*) FROM departed_rows WHERE cardinality(click_ids) > 0 AND run_id <> ALL (%s)", (sparse_runs,)
    )
    assert kept.fetchone() == (0,)


def test_departure_without_corrections_has_the_name_it_had_before_there_were_clicks_in_any(
    conn: database.Connection,
) -> None:
    live_two_days(conn)
    detach(conn)
    assert named_as_of_old(conn, DAY) == detached_digest(conn, DAY)
    corrected(conn, [(SECOND[0], "undecided")])
    detach(conn, NEXT)
    assert named_as_of_old(conn, NEXT) != detached_digest(conn, NEXT)
    assert failures(conn) == {}


def detached_digest(conn: database.Connection, day: date) -> bytes:
    row = conn.execute("SELECT digest FROM detached_days WHERE day = %s", (day,)).fetchone()
    return bytes(row[0]) if row else b""


def named_as_of_old(conn: database.Connection, day: date) -> bytes:
    """The digest of a departure as it was made when departures had no clicks."""
    of_day = "departure = (SELECT departure FROM detached_days WHERE day = %s)"
    total = hashlib.sha256(b"clickledger:departure:1")
    rows = f"SELECT run_id, log_position, lines::text, leaves FROM departed_rows WHERE {of_day} ORDER BY 1, 2"
    for run_id, position, lines, leaves in conn.execute(rows.encode(), (day,)):
        total.update(run_id.to_bytes(8) + position.to_bytes(8))
        total.update(len(lines).to_bytes(4) + lines.encode() + len(leaves).to_bytes(4) + bytes(leaves))
    columns = "source, advertiser_id, campaign_id, currency, clicks, valid, invalid, undecided, billed_micros"
    totals = (
        f"SELECT {columns}, undecided_micros, charged_micros FROM departed_totals WHERE {of_day} ORDER BY 1, 2, 3, 4"
    )
    sums = json.dumps(conn.execute(totals.encode(), (day,)).fetchall(), separators=(",", ":")).encode()
    [(seqs,)] = conn.execute(f"SELECT seqs::text FROM departures WHERE {of_day}".encode(), (day,)).fetchall()
    total.update(len(sums).to_bytes(4) + sums + seqs.encode())
    return total.digest()


# -- what it cannot be told otherwise


@pytest.mark.parametrize(
    ("forgery", "checks"),
    [
        ("UPDATE departed_rows SET click_ids = click_ids[2:] || click_ids[:1] WHERE cardinality(click_ids) = 2",
         {"detached days"}),
        ("UPDATE departed_rows SET click_ids = '{}'", {"detached days", "folds"}),
        ("UPDATE departed_rows SET click_ids = ARRAY[gen_random_uuid()] WHERE cardinality(click_ids) = 1",
         {"detached days", "folds"}),
        ("UPDATE departed_rows SET click_ids = array_fill('00000000-0000-0000-0000-000000000001'::uuid, "
         "ARRAY[octet_length(leaves) / 32]) WHERE octet_length(leaves) > 0 AND click_ids = '{}'", {"detached days"}),
        # what is left of a run, and what left of it, give the digest that was staged
        ("DELETE FROM delayed_decisions WHERE click_id = '{left}' AND verdict = 'undecided'", {"replay runs", "folds"}),
        ("DELETE FROM sparse_clicks WHERE click_id = '{gone}'", {"folds"}),
        ("DELETE FROM authority_overrides WHERE click_id = '{gone}'", {"folds"}),
        ("UPDATE authority_overrides SET run_id = run_id + 1 WHERE click_id = '{gone}'", {"folds"}),
        # all that says which click it was, in agreement
        ("UPDATE departed_rows SET click_ids = array_replace(click_ids, '{gone}', '{other}'); "
         "UPDATE sparse_clicks SET click_id = '{other}' WHERE click_id = '{gone}'; "
         "UPDATE authority_overrides SET click_id = '{other}' WHERE click_id = '{gone}'", {"detached days"}),
    ],
)  # fmt: skip
def test_what_corrections_of_gone_clicks_decided_cannot_be_forged(
    lived: database.Connection, forgery: str, checks: set[str]
) -> None:
    detach(lived)
    names = {"{left}": str(SECOND[0].uuid), "{gone}": str(MIXED[0].uuid)}
    names |= {"{other}": str(uuid.UUID(bytes=MIXED[0].click_id[:-1] + b"\x01"))}
    for name, value in names.items():
        forgery = forgery.replace(name, value)
    with lived.transaction():
        lived.execute("SET LOCAL session_replication_role = replica")
        lived.execute(forgery.encode())
    assert set(failures(lived)) == checks


def test_database_refuses_clicks_that_do_not_match_their_leaves(lived: database.Connection) -> None:
    insert = "INSERT INTO departed_rows VALUES (gen_random_uuid(), 9, 2, '{[0,1)}', sha256(''), %s)"
    with pytest.raises(errors.InvariantBroken, match="a_click_for_each_leaf"):
        lived.execute(insert, ([uuid.uuid4(), uuid.uuid4()],))


# -- runs afterwards


def test_correction_of_gone_clicks_stays_in_force_and_is_compared_no_more(lived: database.Connection) -> None:
    on_top, below = run_of(lived, ON_TOP), run_of(lived, BOTH_DAYS)
    done = detach(lived)
    message = f"run {on_top} decided clicks of 2024-03-10, which was detached at position {done.position}"
    with pytest.raises(errors.Refused, match=f"{message}: it stays in force"):
        revert(lived, on_top)
    with pytest.raises(errors.Refused, match=f"{message}: plan a new one"):
        comparison.compare(lived, on_top, "tests")
    with pytest.raises(errors.Refused, match=f"run {on_top}, published at .*, lies on top of run {below}"):
        revert(lived, below)
    assert failures(lived) == {}


def test_correction_of_clicks_that_stay_is_reverted_as_ever(lived: database.Connection) -> None:
    of_next = run_of(lived, OF_NEXT)
    detach(lived)
    revert(lived, of_next)
    assert {row for row in authoritative(lived) if row[2] == of_next} == set()
    assert failures(lived) == {}
    replays.publish(lived, of_next)
    assert failures(lived) == {}


def test_clicks_that_stay_are_corrected_again_over_a_run_that_left_in_part(lived: database.Connection) -> None:
    detach(lived)
    before = authoritative(lived)
    again = corrected(lived, [(SECOND[0], "invalid"), (SECOND[3], "invalid")])
    assert {row for row in authoritative(lived) if row[2] == again} == {
        (row.uuid, "invalid", again) for row in (SECOND[0], SECOND[3])
    }
    assert failures(lived) == {}
    revert(lived, again)
    assert authoritative(lived) == before
    assert failures(lived) == {}


def test_run_over_entries_with_gone_corrections_decides_what_is_left(lived: database.Connection) -> None:
    detach(lived)
    before = authoritative(lived)
    run_id = replays.published(lived, 2, 5, {row.click_id: "invalid" for row in SECOND + MIXED[2:]})
    assert {row[1:] for row in authoritative(lived)} == {("invalid", run_id)}
    assert failures(lived) == {}
    revert(lived, run_id)
    assert authoritative(lived) == before
    assert failures(lived) == {}


def test_correction_of_a_click_that_left_is_refused_by_name(lived: database.Connection) -> None:
    done = detach(lived)
    head = log.head(lived).position
    with pytest.raises(errors.NotFound, match=f"was of 2024-03-10, detached at position {done.position}"):
        planned(lived, [(SECOND[0], "valid"), (FIRST[1], "valid")])
    assert log.head(lived).position == head


def test_correction_planned_while_its_day_is_computed_finds_the_day_sealed(
    lived: database.Connection, connect: Callable[[], database.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, other, refused = departure.compute, connect(), []

    def plan_meanwhile(*asked: Any) -> departure.Departure:
        with pytest.raises(errors.InvalidInput, match="its day is being detached") as found:
            planned(other, [(FIRST[1], "undecided")])
        refused.append(found.value)
        return compute(*asked)

    monkeypatch.setattr(departure, "compute", plan_meanwhile)
    detach(lived)
    assert len(refused) == 1
    assert failures(lived) == {}
