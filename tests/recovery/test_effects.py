"""What publishing a run changes, in detail, counted again by other means."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from decided_traffic import SLICES, START_MS, Versions, bad_deployment

from clickledger import errors
from clickledger.ledger import comparison, database, deployments, publication, sparse
from clickledger.ledger.sparse import Correction
from clickledger.recovery import effects, plans, replay, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker


def replayed(conn: database.Connection, scope: dict[str, list[str]] | None = None) -> tuple[int, Versions]:
    """A run over everything the bad model decided, compared."""
    traffic, stable, bad = bad_deployment(conn, clicks=100, batches=6)
    traffic.purchases(range(60), at_ms=START_MS)
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(stable, scope)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    assert steps.finish(conn, run.run_id, "tests") is not None
    return run.run_id, bad


def plainly(conn: database.Connection, run_id: int) -> list[tuple[Any, ...]]:
    """Both verdicts of each click of a run, read one by one."""
    query = """
        SELECT d.slice, d.advertiser_id, d.currency, d.cost_micros, d.verdict::text, n.verdict::text,
               EXISTS (SELECT FROM outcomes o WHERE o.click_id = d.click_id)
        FROM decisions d JOIN delayed_decisions n USING (click_id) WHERE n.run_id = %s"""
    return conn.execute(query, (run_id,)).fetchall()


def test_every_figure_is_what_the_clicks_say(conn: database.Connection) -> None:
    run_id, _ = replayed(conn)
    found, rows = effects.of_run(conn, run_id), plainly(conn, run_id)
    matrix = Counter((was, now) for *_, was, now, _ in rows)
    assert {(w, n): c for w, row in found.matrix.items() for n, c in row.items() if c} == dict(matrix)
    for group, column in ((effects.SLICE, 0), (effects.ADVERTISER, 1)):
        for name, rates in found.rates(group).items():
            own = [row for row in rows if row[column] == name]
            assert (rates.clicks, rates.flips) == (len(own), sum(r[4] != r[5] for r in own))
            assert rates.ivr_before == sum(r[4] == "invalid" for r in own) / len(own)
            assert rates.ivr_after == sum(r[5] == "invalid" for r in own) / len(own)
            bought = [r for r in own if r[6]]
            if bought:
                assert rates.fpr_before == sum(r[4] == "invalid" for r in bought) / len(bought)
            change: Counter[str] = Counter()
            for _, _, currency, cost, was, now, _ in own:
                change[currency] += cost * ((now == "valid") - (was == "valid"))
            assert rates.change_micros == dict(change)
    total = found.rates(effects.ALL)[""]
    assert total.bought > 0 and total.flips > 0
    for group in effects.GROUPS[1:]:
        assert sum(rates.flips for rates in found.rates(group).values()) == total.flips
    compared = comparison.latest(conn, run_id)
    assert total.flips == compared.summary["flips"]
    money = {c: sums["adjustments_micros"] + sums["write_off_micros"] for c, sums in compared.by("currency").items()}
    assert total.change_micros == money


def test_a_sample_of_changed_clicks_says_why(conn: database.Connection) -> None:
    run_id, bad = replayed(conn)
    changed = effects.of_run(conn, run_id).changed
    assert 0 < len(changed) <= effects.SAMPLE
    assert all(one["from"] != one["to"] for one in changed)
    assert all(f"model {bad[0]} gave" in one["because"] and "; now model 1 gave" in one["because"] for one in changed)
    assert effects.of_run(conn, run_id).changed == changed


def test_a_changed_click_that_somebody_had_stated_says_so(conn: database.Connection) -> None:
    _, stable, bad = bad_deployment(conn, clicks=effects.SAMPLE, batches=1)
    query = "SELECT click_id FROM decisions WHERE verdict = 'valid' AND model_version = %s LIMIT 1"
    [(click_id,)] = conn.execute(query, (bad[0],)).fetchall()
    stated = sparse.plan(conn, [Correction(click_id.bytes, "invalid", "dispute 4711")], actor="ann", reason="")
    publication.publish(conn, stated.run_id, comparison.compare(conn, stated.run_id, "ann").digest, "ann", "")
    span = deployments.model_positions(conn, bad[0])
    assert span is not None
    run = replay.start(conn, plans.for_positions(conn, *span, What(stable)), "ann", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    assert steps.finish(conn, run.run_id, "ann") is not None
    [told] = [one for one in effects.of_run(conn, run.run_id).changed if one["click_id"] == str(click_id)]
    assert told["because"].startswith(f"stated: dispute 4711; now model {stable[0]} gave")


def test_neighbours_of_a_partial_scope_stay_as_they_are(conn: database.Connection) -> None:
    run_id, _ = replayed(conn, {"slices": [SLICES[0]]})
    found = effects.of_run(conn, run_id)
    assert found.neighbours == {"carried": 400, "changed": 0}
    assert {name for name, rates in found.rates(effects.SLICE).items() if rates.flips} == {SLICES[0]}


def test_what_is_published_is_told_as_it_was_compared(conn: database.Connection) -> None:
    run_id, _ = replayed(conn)
    before = effects.fields(effects.of_run(conn, run_id))
    publication.publish(conn, run_id, before["digest"], "tests", "")
    assert effects.fields(effects.of_run(conn, run_id)) == before


def test_a_run_that_was_not_compared_has_no_effects(conn: database.Connection) -> None:
    with pytest.raises(errors.NotFound):
        effects.of_run(conn, 999)


@pytest.mark.parametrize(
    ("band", "name"), [("0", "0 to 0.1"), ("2", "0.25 to 0.5"), ("6", "over 4.0"), ("", "not decided by the run")]
)
def test_bands_are_named_by_their_edges(band: str, name: str) -> None:
    assert effects.band_name(band) == name
