"""Sparse corrections: a few clicks re-decided as stated, with the same publish, revert and as-of as any run."""

from __future__ import annotations

import math
import uuid

import pytest
from correcting import ALL_INVALID, IDS, ROWS, corrected, corrections, planned, revert, verdicts
from replays import publish, published

from clickledger import errors
from clickledger.ledger import (
    audit,
    billing,
    comparison,
    database,
    log,
    provenance,
    rebuild,
    runs,
    sparse,
)
from clickledger.ledger.sparse import Correction

# --- planning -------------------------------------------------------------------------------------------------------


def test_planned_corrections_are_staged_and_invisible(two_entries: database.Connection) -> None:
    run = runs.get(two_entries, planned(two_entries, {1: "i", 7: "u"}))
    assert (run.kind, run.status, run.row_count, run.lo, run.hi) == ("sparse", "staged", 2, 2, 4)
    assert run.click_ids == (ROWS[1].uuid, ROWS[7].uuid)
    assert verdicts(two_entries) == "v" * 10
    assert audit.verify(two_entries).ok


def test_decision_is_as_stated_and_the_rest_of_it_is_the_clicks_own(two_entries: database.Connection) -> None:
    stated = Correction(IDS[3], "invalid", "proved a robot", 2.5, 0.5, 7, 9)
    run = sparse.plan(two_entries, [stated], actor="tests", reason="")
    own = "log_position, line, advertiser_id, campaign_id, cost_micros, currency, slice, deployment_epoch"
    query = f"SELECT {own} FROM decisions WHERE click_id = %s UNION SELECT {own} FROM delayed_decisions"
    assert len(two_entries.execute(query, (ROWS[3].uuid,)).fetchall()) == 1
    query = """SELECT run_id, verdict::text, reason, score, threshold, model_version, calibration_version, carried
               FROM delayed_decisions"""
    expected = (run.run_id, "invalid", "proved a robot", 2.5, 0.5, 7, 9, False)
    assert two_entries.execute(query).fetchall() == [expected]


def test_correction_without_a_model_has_no_score(two_entries: database.Connection) -> None:
    planned(two_entries, {0: "i"})
    [(score, threshold)] = two_entries.execute("SELECT score, threshold FROM delayed_decisions").fetchall()
    assert math.isnan(score)
    assert math.isnan(threshold)


UNKNOWN_CLICK = uuid.UUID("018e25a8-d388-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("stated", "error", "said"),
    [
        ([], errors.InvalidInput, "expected at least one, got none"),
        ([Correction(IDS[0], "valid", "")] * 2, errors.InvalidInput, f"click {ROWS[0].uuid}: expected once"),
        ([Correction(IDS[0], "bogus", "")], errors.InvalidInput, "expected a verdict of .*, got 'bogus'"),
        ([Correction(b"short", "valid", "")], errors.InvalidInput, "expected 16 bytes"),
        (
            [Correction(IDS[0], "valid", "", model_version=1 << 40)],
            errors.InvalidInput,
            "expected a model_version from 0 to",
        ),
        ([Correction(IDS[0], "valid", "", 1e300)], errors.InvalidInput, "expected a score within"),
        ([Correction(IDS[0], "valid", "\ud800")], errors.InvalidInput, "expected a reason that is text"),
        ([Correction(IDS[0], "valid", "a\x00b")], errors.InvalidInput, "cannot be stored"),
        ([Correction(UNKNOWN_CLICK.bytes, "valid", "")], errors.NotFound, f"click {UNKNOWN_CLICK}: expected one that"),
        (
            [Correction(n.to_bytes(16), "valid", "") for n in range(sparse.CLICKS_MAX + 1)],
            errors.Refused,
            f"expected at most {sparse.CLICKS_MAX} clicks, got {sparse.CLICKS_MAX + 1}",
        ),
    ],
    ids=["none", "twice", "verdict", "id", "version", "score", "no text", "nul", "unknown", "many"],
)
def test_corrections_that_cannot_be_used_are_refused_and_leave_nothing(
    two_entries: database.Connection, stated: list[Correction], error: type[Exception], said: str
) -> None:
    head = log.head(two_entries)
    for _ in range(2):
        with pytest.raises(error, match=said):
            sparse.plan(two_entries, stated, actor="tests", reason="")
    assert log.head(two_entries) == head
    assert two_entries.execute("SELECT count(*) FROM delayed_decisions").fetchone() == (0,)


def test_staging_a_sparse_run_again_changes_nothing(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {0: "i"})
    head = log.head(two_entries)
    assert runs.stage(two_entries, run_id, "tests").status == "staged"
    assert log.head(two_entries) == head


# --- publishing -----------------------------------------------------------------------------------------------------


def test_publication_decides_its_clicks_and_nothing_else(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i", 7: "u"})
    assert verdicts(two_entries) == "vivvvvvuvv"
    assert billing.feed_total(two_entries) == (8_000, 0)
    revert(two_entries, run_id)
    assert verdicts(two_entries) == "v" * 10
    assert billing.feed_total(two_entries) == (10_000, 0)


def test_comparison_says_what_publishing_does(two_entries: database.Connection) -> None:
    run_id = planned(two_entries, {1: "i", 2: "v", 7: "u"})
    summary = comparison.compare(two_entries, run_id, "tests").summary
    assert (summary["clicks"], summary["flips"], summary["to_invalid"], summary["to_undecided"]) == (3, 2, 1, 1)
    assert (summary["billed_before_micros"], summary["adjustments_micros"]) == (3_000, -2_000)
    assert (summary["kind"], summary["billed_after_micros"]) == ("sparse", 1_000)


def test_every_past_position_is_answered_as_it_was(two_entries: database.Connection) -> None:
    seen = {log.head(two_entries).position: verdicts(two_entries)}
    first = corrected(two_entries, {1: "i", 7: "u"})
    seen[log.head(two_entries).position] = verdicts(two_entries)
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    seen[log.head(two_entries).position] = verdicts(two_entries)
    second = corrected(two_entries, {1: "v", 2: "i"})
    seen[log.head(two_entries).position] = verdicts(two_entries)
    for run_id in (second, ranged, first):
        revert(two_entries, run_id)
        seen[log.head(two_entries).position] = verdicts(two_entries)
    assert list(seen.values()) == [
        "v" * 10, "vivvvvvuvv", "uuuuuvvuvv", "uviuuvvuvv", "uuuuuvvuvv", "vivvvvvuvv", "v" * 10,
    ]  # fmt: skip
    assert {position: verdicts(two_entries, position) for position in seen} == seen


def test_decision_of_a_click_is_the_views(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i", 7: "u"})
    ranged = published(two_entries, 2, 3, ALL_INVALID)
    query = "SELECT d.* FROM unnest(%s::uuid[]) i (id), decision_of(i.id) d"
    one_by_one = two_entries.execute(query, ([row.uuid for row in ROWS],)).fetchall()
    whole = two_entries.execute("SELECT * FROM authoritative_decisions").fetchall()
    assert sorted(map(str, one_by_one)) == sorted(map(str, whole))
    assert {row[-1] for row in one_by_one} == {None, run_id, ranged}
    assert two_entries.execute("SELECT * FROM decision_of(%s)", (UNKNOWN_CLICK,)).fetchall() == []


def test_why_names_the_correction_in_force(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    assert provenance.why(two_entries, ROWS[1].uuid)["authoritative_run_id"] == run_id
    assert provenance.why(two_entries, ROWS[2].uuid)["authoritative_run_id"] is None


def test_range_published_later_decides_and_its_revert_brings_the_override_back(
    two_entries: database.Connection,
) -> None:
    corrected(two_entries, {1: "i", 7: "i"})
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    assert verdicts(two_entries) == "uuuuuvvivv"
    assert billing.feed_total(two_entries) == (4_000, 0)
    revert(two_entries, ranged)
    assert verdicts(two_entries) == "vivvvvvivv"
    assert billing.feed_total(two_entries) == (8_000, 0)


def test_override_published_over_a_range_decides_its_click(two_entries: database.Connection) -> None:
    ranged = published(two_entries, 2, 4, ALL_INVALID)
    run_id = corrected(two_entries, {4: "v"})
    assert verdicts(two_entries) == "iiiiviiiii"
    assert billing.feed_total(two_entries) == (1_000, 0)
    with pytest.raises(errors.Refused, match=f"run {run_id}, published at .*, lies on top of run {ranged}"):
        revert(two_entries, ranged)
    revert(two_entries, run_id)
    revert(two_entries, ranged)
    assert verdicts(two_entries) == "v" * 10


def test_later_override_decides_and_its_revert_brings_the_earlier_back(two_entries: database.Connection) -> None:
    below = corrected(two_entries, {1: "i", 2: "i"})
    above = corrected(two_entries, {2: "u", 3: "u"})
    assert verdicts(two_entries) == "viuuvvvvvv"
    with pytest.raises(errors.Refused, match=f"run {above}, published at .*, lies on top of run {below}"):
        revert(two_entries, below)
    revert(two_entries, above)
    assert verdicts(two_entries) == "viivvvvvvv"
    revert(two_entries, below)
    assert verdicts(two_entries) == "v" * 10
    assert rebuild.differences(two_entries) == []


def test_revert_beneath_a_later_range_is_refused_only_where_they_share_a_click(
    two_entries: database.Connection,
) -> None:
    here, elsewhere = corrected(two_entries, {1: "i"}), corrected(two_entries, {7: "i"})
    ranged = published(two_entries, 2, 3, dict.fromkeys(IDS, "undecided"))
    with pytest.raises(errors.Refused, match=f"run {ranged}, published at .*, lies on top of run {here}"):
        revert(two_entries, here)
    revert(two_entries, elsewhere)
    assert verdicts(two_entries) == "uuuuuvvvvv"


def test_sparse_run_can_be_published_again_after_its_revert(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    with pytest.raises(errors.Refused, match="in force already"):
        publish(two_entries, run_id)
    revert(two_entries, run_id)
    with pytest.raises(errors.Refused, match="nothing to revert"):
        revert(two_entries, run_id)
    publish(two_entries, run_id)
    assert verdicts(two_entries) == "vivvvvvvvv"
    assert audit.verify(two_entries).ok


def test_published_sparse_run_cannot_be_abandoned(two_entries: database.Connection) -> None:
    run_id = corrected(two_entries, {1: "i"})
    with pytest.raises(errors.Refused, match="revert it first"):
        runs.abandon(two_entries, run_id, "tests", "")
    revert(two_entries, run_id)
    runs.abandon(two_entries, run_id, "tests", "")
    with pytest.raises(errors.Refused, match="expected status staged, got abandoned"):
        publish(two_entries, run_id)


def test_credit_of_a_closed_period_is_an_adjustment_and_a_back_charge_is_written_off(
    two_entries: database.Connection,
) -> None:
    corrected(two_entries, {1: "i"})
    billing.close_period(two_entries, "2024-03", "tests")
    corrected(two_entries, {1: "v", 2: "i"})
    assert billing.feed_total(two_entries) == (8_000, 1_000)
    corrected(two_entries, {1: "i"})
    assert billing.feed_total(two_entries) == (8_000, 0)
    assert audit.verify(two_entries).ok


# --- proof ----------------------------------------------------------------------------------------------------------


def test_corrections_digest_does_not_depend_on_their_order(two_entries: database.Connection) -> None:
    stated = corrections({1: "i", 7: "u", 3: "v"})
    assert sparse.corrections_digest(stated) == sparse.corrections_digest(stated[::-1])
    assert sparse.corrections_digest(stated) != sparse.corrections_digest([*stated[:2], stated[2]._replace(reason="")])


@pytest.mark.parametrize(
    ("statement", "check", "named"),
    [
        ("UPDATE delayed_decisions SET verdict = 'valid' WHERE verdict = 'undecided'", "replay runs", "chunk 0"),
        ("DELETE FROM delayed_decisions WHERE verdict = 'undecided'", "replay runs", "expected 2 decisions, got 1"),
        ("UPDATE delayed_decisions SET reason = '' WHERE verdict = 'undecided'", "replay runs", "that were planned"),
        ("DELETE FROM sparse_clicks WHERE log_position = 3", "folds", "sparse_clicks"),
        ("UPDATE authority_overrides SET run_id = run_id + 1 WHERE log_position = 3", "folds", "authority_overrides"),
        ("DELETE FROM authority_overrides WHERE log_position = 3", "folds", "authority_overrides"),
        ("UPDATE authority SET published = 1 WHERE run_id IS NOT NULL", "folds", "authority"),
        ("UPDATE replay_runs SET kind = 'range', mode = 'rescore' WHERE kind = 'sparse'", "folds", "replay_runs"),
        ("UPDATE publications SET kind = 'range' WHERE kind = 'sparse'", "folds", "publications"),
    ],
)
def test_forged_correction_is_found_and_named(
    two_entries: database.Connection, statement: str, check: str, named: str
) -> None:
    published(two_entries, 2, 3, ALL_INVALID)
    corrected(two_entries, {1: "i", 7: "u"})
    assert audit.verify(two_entries).ok
    two_entries.execute("SET session_replication_role = replica")
    two_entries.execute(statement.encode())
    two_entries.execute("SET session_replication_role = origin")
    report = audit.verify(two_entries)
    assert any(named in line for line in report.failures[check]), report.failures
