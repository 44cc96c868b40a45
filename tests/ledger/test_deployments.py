"""What is live is one epoch; a rollback revokes every epoch that holds the bad model, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from replays import model, routing

from clickledger import errors
from clickledger.ledger import database, deployments, log, rebuild


def test_new_ledger_routes_to_no_model(conn: database.Connection) -> None:
    assert deployments.current(conn).epoch == 0
    assert deployments.models_of(deployments.current(conn).routing) == set()
    assert deployments.current_counter_epoch(conn) == 1


def test_same_artefact_keeps_its_version(conn: database.Connection) -> None:
    versions = [deployments.register_model(conn, content, "velocity", {}, "tests") for content in (b"a", b"b", b"a")]
    assert versions == [1, 2, 1]
    assert deployments.load_artefact(conn, 2) == b"b"
    assert [entry.kind for entry in log.read(conn, after=1)] == ["model_registered"] * 2
    with pytest.raises(errors.NotFound):
        deployments.load_artefact(conn, 3)


def test_calibration_belongs_to_its_model(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    with pytest.raises(errors.NotFound, match="no calibration 2 of model 1"):
        deployments.deploy(conn, routing(bad[0], good[1]), "tests")
    with pytest.raises(errors.NotFound, match="no model with version 9"):
        deployments.set_calibration(conn, 9, {"*": 0.0}, {}, "tests")
    assert deployments.load_thresholds(conn, 1) == {"*": 1.0}


@pytest.mark.parametrize(
    "thresholds", [{"phone/in": 1.0}, {"*": float("nan")}, {"*": float("inf")}], ids=["no fallback", "nan", "infinity"]
)
def test_thresholds_that_cannot_decide_are_invalid_input(
    conn: database.Connection, thresholds: dict[str, float]
) -> None:
    model(conn)
    before = log.head(conn)
    with pytest.raises(errors.InvalidInput):
        deployments.set_calibration(conn, 1, thresholds, {}, "tests")
    assert log.head(conn) == before


@pytest.mark.parametrize(
    "table",
    [{}, {"routes": []}, {"routes": "all"}, {"routes": [{"slice": "*", "share": 1.0}]}],
    ids=["empty", "no route", "text", "route without a model"],
)
def test_routing_that_leads_nowhere_is_invalid_input(conn: database.Connection, table: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput, match="rout"):
        deployments.deploy(conn, table, "tests")
    assert log.head(conn).position == 1


def test_rollback_revokes_every_epoch_of_the_bad_model(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    both = {"routes": routing(*bad)["routes"] + routing(*good)["routes"], "shadow": None}
    epochs = [deployments.deploy(conn, table, "tests") for table in (routing(*bad), routing(*good), both)]
    rolled_back = deployments.roll_back(conn, bad[0], routing(*good), "tests", "why", incident_id=3)
    assert epochs == [1, 2, 3]
    assert (rolled_back.epoch, rolled_back.revoked_epochs) == (4, [1, 3])
    assert deployments.current(conn).routing == routing(*good)
    assert log.entry(conn, rolled_back.position).payload["incident_id"] == 3


def test_model_that_is_not_live_cannot_be_rolled_back(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    deployments.deploy(conn, routing(*good), "tests")
    with pytest.raises(errors.Refused, match=f"model {bad[0]} is not live"):
        deployments.roll_back(conn, bad[0], routing(*good), "tests")


def test_rollback_to_the_bad_model_itself_is_refused(conn: database.Connection) -> None:
    bad = model(conn, b"bad")
    deployments.deploy(conn, routing(*bad), "tests")
    with pytest.raises(errors.Refused, match="without model 1"):
        deployments.roll_back(conn, bad[0], routing(*bad), "tests")


def test_shadow_decides_nothing_so_a_rollback_leaves_its_epochs(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    shadowing = routing(*good) | {"shadow": {"model": bad[0], "calibration": bad[1]}}
    deployments.deploy(conn, shadowing, "tests")
    deployments.deploy(conn, routing(*bad), "tests")
    assert deployments.roll_back(conn, bad[0], routing(*good), "tests").revoked_epochs == [2]


def test_positions_of_a_model_end_with_its_rollback(conn: database.Connection) -> None:
    bad, good = model(conn, b"bad"), model(conn, b"good")
    assert deployments.model_positions(conn, bad[0]) is None
    deployments.deploy(conn, routing(*bad), "tests")
    began = deployments.current(conn).position
    deployments.deploy(conn, routing(*good), "tests")
    in_flight = log.record(conn, "noted", {}, "tests").position
    assert deployments.model_positions(conn, bad[0]) == (began, in_flight + 1)
    deployments.deploy(conn, routing(*bad), "tests")
    rolled_back = deployments.roll_back(conn, bad[0], routing(*good), "tests")
    assert deployments.model_positions(conn, bad[0]) == (began, rolled_back.position)
    deployments.deploy(conn, routing(*bad), "tests")
    assert deployments.model_positions(conn, bad[0]) == (began, log.head(conn).position + 1)


def test_routing_names_candidates_beside_the_stable_model_and_folds_with_and_without_them(
    conn: database.Connection,
) -> None:
    live, stable, one, other = (model(conn, content) for content in (b"live", b"stable", b"one", b"other"))
    old = routing(*live) | {"shadow": shadowed(stable)}  # what releases before candidates wrote
    deployments.deploy(conn, old, "tests")
    deployments.deploy(conn, old | {"candidates": [shadowed(one), shadowed(other)]}, "tests")
    assert deployments.in_shadow(old) == [shadowed(stable)]
    assert deployments.in_shadow(deployments.current(conn).routing) == [*map(shadowed, (stable, one, other))]
    assert rebuild.differences(conn) == []


@pytest.mark.parametrize("candidates", ["all", [{"model": 1}], [{"model": 1, "calibration": 1}] * 2], ids=str)
def test_candidates_that_cannot_be_are_invalid_input(conn: database.Connection, candidates: Any) -> None:
    table = routing(*model(conn)) | {"candidates": candidates}
    with pytest.raises(errors.InvalidInput, match=r"candidates|model and calibration"):
        deployments.deploy(conn, table, "tests")


def test_promotion_keeps_the_other_candidates_in_shadow(conn: database.Connection) -> None:
    live, one, other = (model(conn, content) for content in (b"live", b"one", b"other"))
    deployments.deploy(conn, routing(*live) | {"candidates": [shadowed(one), shadowed(other)]}, "tests")
    deployments.promote(conn, *one, "tests")
    now = deployments.current(conn).routing
    assert (now["shadow"], now["candidates"]) == (shadowed(live), [shadowed(other)])


def test_what_decides_is_unchanged_while_candidates_come_and_go(conn: database.Connection) -> None:
    live, other = model(conn, b"live"), model(conn, b"other")
    deployments.deploy(conn, routing(*other), "tests")
    deployments.deploy(conn, routing(*live), "tests")
    began = deployments.current(conn).position
    deployments.deploy(conn, routing(*live) | {"candidates": [shadowed(other)]}, "tests")
    deployments.deploy(conn, routing(*live), "tests")
    assert deployments.unchanged(conn) == ([4, 3, 2], began)


def test_amending_to_what_is_in_force_records_nothing(conn: database.Connection) -> None:
    deployments.deploy(conn, routing(*model(conn)), "tests")
    before = log.head(conn)
    assert deployments.amend(conn, lambda now: {**now}, "tests") == 1
    assert log.head(conn) == before


def shadowed(versions: tuple[int, int]) -> dict[str, int]:
    return {"model": versions[0], "calibration": versions[1]}


def test_a_model_that_was_replaced_meanwhile_can_still_be_fenced(conn: database.Connection) -> None:
    bad, good, newer = model(conn, b"bad"), model(conn, b"good"), model(conn, b"newer")
    deployments.deploy(conn, routing(*good), "tests")
    deployments.deploy(conn, routing(*bad), "tests")
    beside = routing(*newer) | {"shadow": {"model": bad[0], "calibration": bad[1]}}
    deployments.deploy(conn, beside, "tests")
    fenced = deployments.fence(conn, bad[0], "tests", "its batches are in flight", incident_id=3)
    assert (fenced.epoch, fenced.revoked_epochs) == (4, [2])
    # What replaced it decides on, without the bad model beside it.
    assert deployments.current(conn).routing == routing(*newer) | {"shadow": None}
    assert deployments.model_positions(conn, bad[0])[1] == fenced.position  # type: ignore[index]
    assert rebuild.differences(conn) == []
    with pytest.raises(errors.Refused, match=f"model {bad[0]} is not live"):
        deployments.fence(conn, bad[0], "tests")


def test_a_live_model_is_rolled_back_not_fenced(conn: database.Connection) -> None:
    bad = model(conn, b"bad")
    deployments.deploy(conn, routing(*bad), "tests")
    with pytest.raises(errors.Refused, match=f"model {bad[0]} is live in epoch 1"):
        deployments.fence(conn, bad[0], "tests")


def test_a_canary_takes_its_share_of_every_slice_and_the_others_stay_as_they_were() -> None:
    before = {
        "routes": [
            {"slice": "app/in", "share": 1.0, "model": 1, "calibration": 1},
            {"slice": "*", "share": 0.3, "model": 1, "calibration": 1},
            {"slice": "*", "share": 0.7, "model": 2, "calibration": 2},
        ],
        "shadow": None,
        "candidates": [{"model": 3, "calibration": 3}, {"model": 4, "calibration": 4}],
    }
    canary = deployments.with_canary(before, 3, 3, 0.05)
    assert [(r["slice"], r["model"], round(r["share"], 6)) for r in canary["routes"]] == [
        *(("app/in", 3, 0.05), ("app/in", 1, 0.95)),
        *(("*", 3, 0.05), ("*", 1, 0.285), ("*", 2, 0.665)),
    ]
    assert canary["shadow"] == {"model": 2, "calibration": 2} and canary["candidates"] == before["candidates"][1:]
    grown = deployments.with_canary(canary, 3, 3, 0.5)
    assert [round(r["share"], 6) for r in grown["routes"]] == [0.5, 0.5, 0.5, 0.15, 0.35]
    assert deployments.promoted(grown, 3, 3)["shadow"] == {"model": 2, "calibration": 2}


def test_beside_a_recalibration_the_shadow_stays_another_model() -> None:
    before = routing(1, 1) | {"shadow": {"model": 2, "calibration": 2}}
    assert deployments.stable_beside(before, 1, 3) == (1, 1)
    assert deployments.promoted(before, 1, 3)["shadow"] == {"model": 2, "calibration": 2}
    assert deployments.promoted(routing(1, 1), 1, 3)["shadow"] == {"model": 1, "calibration": 1}
    assert deployments.stable_beside(routing(1, 1), 1, 1) is None


def test_promoting_what_is_in_force_is_an_entry_again(conn: database.Connection) -> None:
    one = model(conn, b"one")
    assert [deployments.promote(conn, *one, "tests") for _ in range(2)] == [1, 2]
    assert deployments.amend(conn, lambda before: before, "tests") == 2
