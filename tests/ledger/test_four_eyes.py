"""Above a cap on gross money two people publish or revert, and the entries name both."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import replays
from batches import Row, batch, click_id

from clickledger import errors
from clickledger.ledger import append, comparison, database, four_eyes, log, publication, rebuild
from clickledger.ledger.caps import AUTOMATIC, NO_CAPS, Caps, Gross, exceeded

GROSS = Gross({"EUR": 900, "USD": 50}, {("a", "EUR"): 700, ("b", "EUR"): 200, ("a", "USD"): 50})


@pytest.mark.parametrize(
    ("caps", "named"),
    [
        (NO_CAPS, []),
        (Caps(900, 700, 1_000), []),
        (Caps(publication_micros=899), ["EUR"]),
        (Caps(publication_micros=49), ["EUR", "USD"]),
        (Caps(advertiser_micros=199), ["advertiser a", "advertiser b"]),
        (Caps(day_micros=1_000), []),
        (Caps(day_micros=999), ["today"]),
    ],
)
def test_a_cap_is_exceeded_by_more_than_it_in_one_currency(caps: Caps, named: list[str]) -> None:
    found = exceeded(GROSS, {"USD": 950}, caps)
    assert len(found) == len(named)
    assert all(name in line for name, line in zip(named, found, strict=True))


def test_what_moves_nothing_exceeds_no_day_that_is_full() -> None:
    assert exceeded(Gross({"EUR": 0}), {"EUR": 10**9}, Caps(day_micros=1)) == []


def ledger(conn: database.Connection) -> tuple[int, int]:
    """Two clicks that changed their verdicts in opposite directions: nothing net, two gross; their positions."""
    rows = [
        Row(click_id(1_710_028_800_000, n), verdict=verdict, cost_micros=1_000_000, advertiser_id="adv", currency="EUR")
        for n, verdict in enumerate(("valid", "invalid"))
    ]
    position = append.append(conn, batch(rows), actor="tests").position
    assert position is not None
    flips = {rows[0].click_id: "invalid", rows[1].click_id: "valid"}
    return replays.staged(conn, position, position + 1, flips), position


CAPS = Caps(publication_micros=1_999_999)


def test_a_publication_above_the_cap_is_refused_with_its_figure_and_the_cap(conn: database.Connection) -> None:
    run_id, _ = ledger(conn)
    compared = comparison.compare(conn, run_id, "tests")
    assert compared.summary["adjustments_micros"] == 0
    with pytest.raises(errors.Refused, match=r"moves 2\.00 EUR, above the cap of 2\.00 EUR; expected another person"):
        publication.publish(conn, run_id, compared.digest, "tests", "", CAPS)
    assert log.read(conn, kinds=["replay_published"]) == []
    publication.publish(conn, run_id, compared.digest, "tests", "", Caps(publication_micros=2_000_000))


@pytest.mark.parametrize("who", [AUTOMATIC, "ann"])
def test_nobody_and_the_same_person_are_no_second_pair_of_eyes(conn: database.Connection, who: str) -> None:
    run_id, _ = ledger(conn)
    conn.execute("ALTER TABLE log DISABLE TRIGGER ALL")
    conn.execute("UPDATE log SET actor = %s WHERE position = %s", (AUTOMATIC, run_id))
    digest = comparison.compare(conn, run_id, who).digest
    for publisher in ("ann", AUTOMATIC) if who == AUTOMATIC else ("ann",):
        with pytest.raises(errors.Refused, match=f"expected another person than {publisher}"):
            publication.publish(conn, run_id, digest, publisher, "", CAPS)
    again = comparison.compare(conn, run_id, "bob").digest
    entry = log.entry(conn, publication.publish(conn, run_id, again, "ann", "", CAPS).position)
    assert (entry.actor, entry.payload["prepared_by"]) == ("ann", "bob")
    assert entry.payload["gross_micros"] == {"EUR": 2_000_000}


def test_a_revert_above_the_cap_takes_a_proposal_of_that_publication_by_somebody_else(
    conn: database.Connection,
) -> None:
    run_id, _ = ledger(conn)
    with pytest.raises(errors.Refused, match="is not in force"):
        four_eyes.propose_revert(conn, run_id, "bob", "")
    for _ in range(2):  # what was proposed of an earlier publication says nothing of this one
        publication.publish(conn, run_id, comparison.compare(conn, run_id, "bob").digest, "ann", "", CAPS)
        with pytest.raises(errors.Refused, match=f"clickledger replay propose-revert {run_id}"):
            publication.revert(conn, run_id, "ann", "", CAPS)
        four_eyes.propose_revert(conn, run_id, "ann", "mine")
        with pytest.raises(errors.Refused, match="expected another person than ann"):
            publication.revert(conn, run_id, "ann", "", CAPS)
        entry = log.entry(conn, publication.revert(conn, run_id, "bob", "", CAPS).position)
        assert (entry.actor, entry.payload["prepared_by"]) == ("bob", "ann")
    assert rebuild.differences(conn) == []


def test_a_revert_of_what_was_published_while_it_was_looked_at_is_refused(
    connect: Callable[[], database.Connection],
) -> None:
    conn, holder = connect(), connect()
    run_id, _ = ledger(conn)
    digest = comparison.compare(conn, run_id, "bob").digest
    with ThreadPoolExecutor(1) as pool:
        with log.writing(holder) as writer:  # the revert has looked, and waits for the lock
            reverted = pool.submit(publication.revert, connect(), run_id, "ann", "", CAPS)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while conn.execute(waiting).fetchone() == (0,):
                assert not reverted.done()
            found = publication._fresh_comparison(writer, publication._staged(writer, run_id), digest)
            entry = writer.record(
                "replay_published",
                {"run_id": run_id, "comparison_id": found[0], "digest": digest, "positions": [2, 3]}, "ann",
            )  # fmt: skip
            identity = (entry.position, run_id, found[0], 2, 3, None, None, "range")
            writer.execute(publication.INSERT_PUBLICATION, identity)
        with pytest.raises(errors.Conflict, match="expected the publication that was looked at"):
            reverted.result()
    assert log.read(conn, kinds=["replay_reverted"]) == []


def test_a_day_s_cap_counts_publications_and_reverts_of_the_same_day(conn: database.Connection) -> None:
    run_id, _ = ledger(conn)
    caps = Caps(day_micros=5_000_000)
    publication.publish(conn, run_id, comparison.compare(conn, run_id, "tests").digest, "tests", "", caps)
    publication.revert(conn, run_id, "tests", "", caps)
    digest = comparison.compare(conn, run_id, "tests").digest
    with pytest.raises(errors.Refused, match=r"with it 6\.00 EUR are moved today, above the cap of 5\.00 EUR"):
        publication.publish(conn, run_id, digest, "tests", "", caps)
    conn.execute("ALTER TABLE log DISABLE TRIGGER ALL")
    conn.execute("UPDATE log SET recorded_at = recorded_at - interval '1 day'")
    publication.publish(conn, run_id, digest, "tests", "", caps)


def test_an_unknown_comparison_is_stale_whatever_it_looks_like(conn: database.Connection) -> None:
    run_id, _ = ledger(conn)
    comparison.compare(conn, run_id, "tests")
    for digest in ("0" * 64, "not hexadecimal", str(uuid.uuid4())):
        with pytest.raises(errors.StalePlan):
            publication.publish(conn, run_id, digest, "tests", "", CAPS)
