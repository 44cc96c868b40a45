"""Proof bundles: what `proof_bundle` writes, `verify_bundle` derives again, whoever made the ledger."""

from __future__ import annotations

import batches
import pytest
import replays
from bundled_ledger import CLICK, ROWS, Ledger, spelled, verified

from clickledger import errors, verify_bundle
from clickledger.ledger import (
    append,
    checkpoint_keys,
    checkpoints,
    database,
    log,
    proof_bundle,
    publication,
    runs,
    signed_note,
    sparse,
)


def test_a_bundle_proves_the_published_decision(bundled_once: Ledger) -> None:
    bundle = bundled_once.bundle()
    found = verify_bundle.verify(bundle.text, bundled_once.trusted)
    assert found.statement == bundle.fields["statement"]
    assert found.attested
    assert found.origin == checkpoint_keys.origin(bundled_once.conn)
    said = found.statement
    assert (said["click_id"], said["verdict"], said["billed_micros"]) == (str(CLICK.uuid), "invalid", 0)
    assert (said["run_id"], said["log_position"], said["line"]) == (bundled_once.run_id, bundled_once.position, 3)
    [signed] = log.read(bundled_once.conn, kinds=["checkpoint_signed"])
    assert said["as_of"] == signed.position - 1
    assert said["event_time_ms"] == batches.at("2024-03-10", 3)


def test_a_bundle_of_a_live_decision_proves_it(conn: database.Connection) -> None:
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, "tests")
    rows = [batches.Row(row.click_id, verdict="undecided", score=batches.NAN, threshold=batches.NAN) for row in ROWS]
    append.append(conn, batches.batch(rows), actor="tests")  # epoch 0: no model
    bundled = Ledger(conn, key, 0, 0)
    said = verified(bundled, bundled.bundle())
    assert (said["run_id"], said["publication"], said["verdict"], said["score"]) == (None, None, "undecided", "nan")


def test_after_a_revert_the_live_decision_is_proven_again(bundled: Ledger) -> None:
    before = bundled.bundle()
    publication.revert(bundled.conn, bundled.run_id, "tests", "too strict")
    said = verified(bundled, bundled.bundle())
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (None, "valid", 1_000)
    assert verified(bundled, before)["run_id"] == bundled.run_id  # as of its own moment


def test_the_newest_publication_decides_and_runs_that_were_only_staged_do_not(bundled: Ledger) -> None:
    verdicts = {CLICK.click_id: "valid"}
    second = replays.published(bundled.conn, bundled.position, bundled.position + 1, verdicts)
    staged = replays.staged(bundled.conn, bundled.position, bundled.position + 1, {CLICK.click_id: "invalid"})
    bundle = bundled.bundle()
    said = verified(bundled, bundle)
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (second, "valid", 1_000)
    assert [run["run_id"] for run in bundle.fields["runs"]] == [bundled.run_id, second, staged]


def test_a_sparse_correction_decides_while_it_is_in_force_and_is_told_after_its_revert(bundled: Ledger) -> None:
    stated = [sparse.Correction(CLICK.click_id, "undecided", "disputed")]
    corrected = sparse.plan(bundled.conn, stated, actor="tests", reason="disputed").run_id
    replays.publish(bundled.conn, corrected)
    in_force = bundled.bundle()
    said = verified(bundled, in_force)
    assert (said["run_id"], said["verdict"], said["reason"]) == (corrected, "undecided", "disputed")
    neighbour = proof_bundle.build(bundled.conn, ROWS[4].uuid, bundled.key, "tests")
    assert verified(bundled, neighbour)["run_id"] == bundled.run_id  # the correction spans its entry, not its line
    publication.revert(bundled.conn, corrected, "tests", "settled")
    bundle = bundled.bundle()
    said = verified(bundled, bundle)
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (bundled.run_id, "invalid", 0)
    assert [run["run_id"] for run in bundle.fields["runs"]] == [bundled.run_id, corrected]
    assert verified(bundled, in_force)["run_id"] == corrected  # as of its own moment


def test_a_run_in_several_chunks_is_proven_by_the_chunk_of_the_click(bundled: Ledger) -> None:
    versions = replays.model(bundled.conn)
    run = runs.plan(
        bundled.conn, bundled.position, bundled.position + 2, model_version=versions[0],
        calibration_version=versions[1], actor="tests", reason="", chunk_rows=6,
    )  # fmt: skip
    replays.work(bundled.conn, run.run_id, {ROWS[8].click_id: "undecided"})
    runs.stage(bundled.conn, run.run_id, "tests")
    replays.publish(bundled.conn, run.run_id)
    bundle = proof_bundle.build(bundled.conn, ROWS[8].uuid, bundled.key, "tests")
    assert bundle.fields["runs"][-1]["chunk"] == 1
    assert verified(bundled, bundle)["verdict"] == "undecided"


def test_without_a_key_the_newest_checkpoint_is_used_and_nothing_later_is_told(bundled: Ledger) -> None:
    signed = checkpoints.sign(bundled.conn, bundled.key, "tests")
    publication.revert(bundled.conn, bundled.run_id, "tests", "later")
    found = verify_bundle.verify(bundled.bundle(signed=False).text, bundled.trusted)
    assert (found.statement["as_of"], found.statement["run_id"]) == (signed.size, bundled.run_id)
    assert not found.attested


def test_a_click_that_no_checkpoint_covers_is_refused(bundled: Ledger) -> None:
    with pytest.raises(errors.Refused, match=r"covers entry \d+, there is none"):
        bundled.bundle(signed=False)
    signed = checkpoints.sign(bundled.conn, bundled.key, "tests")
    late = batches.clicks(1, start=99)
    append.append(bundled.conn, batches.batch(late, epoch=1), actor="tests")
    with pytest.raises(errors.Refused, match=f"the newest covers {signed.size}"):
        proof_bundle.build(bundled.conn, late[0].uuid)
    with pytest.raises(errors.NotFound, match="no click"):
        proof_bundle.build(bundled.conn, batches.clicks(1, start=100)[0].uuid, bundled.key, "tests")


# A statement of an owner who means harm, and what verifying the bundle made afterwards must say.
FORGERIES = {
    "click": ("UPDATE clicks SET cost_micros = 1", "click: its row is not the one at line 3"),
    "live decision": ("UPDATE decisions SET verdict = 'undecided'", "click: its row is not the one at line 3"),
    "line": ("UPDATE decisions SET line = line + 6", "click: its row is not the one at line 9"),
    "leaves": ("UPDATE leaves SET leaves = leaves || leaves", "click: its leaves are not those of entry"),
    "entry": ("UPDATE log SET actor = 'nobody' WHERE kind = 'clicks_decided'", "it does not lead to the root"),
    "model entry": ("UPDATE log SET reason = 'x' WHERE kind = 'model_registered'", "it does not lead to the root"),
    "publication hidden": ("DELETE FROM publications", ""),
    "chunks": ("UPDATE replay_chunks SET row_count = 5", "its chunks do not give the digest"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_bundle_made_of_a_forged_ledger_does_not_verify(bundled: Ledger, name: str) -> None:
    checkpoints.sign(bundled.conn, bundled.key, "tests")
    statement, named = FORGERIES[name]
    bundled.conn.execute("SET session_replication_role = replica")
    bundled.conn.execute(statement)
    if not named:  # what only the missing attestation tells
        assert verified(bundled, bundled.bundle(signed=False))["run_id"] is None
        return
    with pytest.raises((verify_bundle.Refused, errors.VerificationFailed), match=named):
        verified(bundled, bundled.bundle(signed=False))


def test_a_published_run_without_a_decision_on_the_click_gives_no_bundle(bundled: Ledger) -> None:
    bundled.conn.execute("SET session_replication_role = replica")
    bundled.conn.execute("DELETE FROM delayed_decisions WHERE line = 3")
    with pytest.raises(errors.VerificationFailed, match=rf"run {bundled.run_id}, published at \d+, has no decision"):
        bundled.bundle()


def test_delayed_decisions_that_are_not_the_staged_ones_are_not_bundled(bundled: Ledger) -> None:
    bundled.conn.execute("SET session_replication_role = replica")
    bundled.conn.execute("UPDATE delayed_decisions SET verdict = 'valid'")
    with pytest.raises(errors.VerificationFailed, match="chunk 0: its decisions are not the ones"):
        bundled.bundle()


# --- keys ---


def test_a_rotated_key_is_trusted_only_if_the_auditor_follows_rotations(bundled: Ledger) -> None:
    new = signed_note.generate(bundled.key.name)
    checkpoint_keys.rotate(bundled.conn, bundled.key, new, "tests", "yearly")
    bundle = bundled._replace(key=new).bundle()
    with pytest.raises(verify_bundle.Refused, match="expected the signature of a given key"):
        verified(bundled, bundle)
    assert verified(bundled, bundle, follow_rotations=True)["run_id"] == bundled.run_id
    assert verified(bundled._replace(key=new), bundle)["run_id"] == bundled.run_id


def test_the_trusted_key_of_another_ledger_does_not_speak_for_this_one(bundled: Ledger) -> None:
    other = signed_note.generate("clickledger/another")
    both = [verify_bundle.key(str(key.verifier)) for key in (other, bundled.key)]
    fields = bundled.bundle().fields | {"attestation": None}
    assert verify_bundle.verify(spelled(fields), both).origin == bundled.key.name
    text = fields["checkpoint"].partition("\n\n")[0] + "\n"
    with pytest.raises(verify_bundle.Refused, match="checkpoint: expected the signature of a given key"):
        verify_bundle.verify(spelled(fields | {"checkpoint": signed_note.sign(text, other)}), both)

    held = checkpoints.sign(bundled.conn, bundled.key, "tests")
    grown = proof_bundle.consistency(bundled.conn, held.note, bundled.key, "tests").fields
    assert verify_bundle.verify_consistency(spelled(grown), both).old == held.size
    forged = signed_note.sign(grown["new"].partition("\n\n")[0] + "\n", other)
    with pytest.raises(verify_bundle.Refused, match="new checkpoint: expected the signature of a given key"):
        verify_bundle.verify_consistency(spelled(grown | {"new": forged}), both)

    new = signed_note.generate(bundled.key.name)
    checkpoint_keys.rotate(bundled.conn, bundled.key, new, "tests", "yearly")
    bundle = bundled._replace(key=new).bundle()
    assert verify_bundle.verify(bundle.text, both, follow_rotations=True).signer.name == bundled.key.name


def test_a_key_that_replaced_a_lost_one_is_not_followed(bundled: Ledger) -> None:
    new = signed_note.generate(bundled.key.name)
    checkpoint_keys.rotate(bundled.conn, None, new, "tests", "lost")
    with pytest.raises(verify_bundle.Refused, match="expected the signature of a given key"):
        verified(bundled, bundled._replace(key=new).bundle(), follow_rotations=True)
