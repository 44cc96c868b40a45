"""Proof bundles: what `proof_bundle` writes, `verify_bundle` derives again, and nothing that was changed passes."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import batches
import pytest
import replays
from clones import Clones
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clickledger import errors, verify_bundle
from clickledger.ledger import (
    append,
    canonical,
    checkpoint_keys,
    checkpoints,
    database,
    deployments,
    log,
    merkle,
    merkle_tiles,
    proof_bundle,
    publication,
    runs,
    signed_note,
    sparse,
)

ROWS = [
    batches.Row(batches.click_id(batches.at("2024-03-10", n), n), score=-0.5, external_id=f"é-{n}", logged_in=None)
    for n in range(12)
]
CLICK = ROWS[3]
# RFC 8032, 7.1: public key, message, signature of tests 1, 2, 3 and SHA(abc).
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


class Ledger(NamedTuple):
    """A ledger with one click of which everything is known, and the key of its checkpoints."""

    conn: database.Connection
    key: signed_note.SigningKey
    run_id: int
    position: int

    @property
    def trusted(self) -> list[verify_bundle.Key]:
        return [verify_bundle.key(str(self.key.verifier))]

    def bundle(self, *, signed: bool = True) -> proof_bundle.Bundle:
        return proof_bundle.build(self.conn, CLICK.uuid, self.key if signed else None, "tests")


def decided_and_corrected(conn: database.Connection) -> Ledger:
    """Twelve clicks of a deployed model in two entries; a published run takes six of them for robots."""
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, "tests")
    versions = replays.model(conn)
    epoch = deployments.deploy(conn, replays.routing(*versions), "tests", "")
    decided: dict[str, Any] = {"model_version": versions[0], "calibration_version": versions[1]}
    rows = [batches.Row(**{**vars(row), **decided}) for row in ROWS]
    positions = [
        append.append(conn, batches.batch(part, epoch=epoch), actor="tests").position for part in (rows[:6], rows[6:])
    ]
    assert positions[0] is not None
    run_id = replays.published(conn, positions[0], positions[0] + 2, {row.click_id: "invalid" for row in ROWS[:6]})
    return Ledger(conn, key, run_id, positions[0])


@pytest.fixture
def ledger(conn: database.Connection) -> Ledger:
    return decided_and_corrected(conn)


@pytest.fixture(scope="module")
def shared(servers: Any, template_database: str) -> Iterator[Ledger]:
    """One ledger for the tests that only read it."""
    with Clones(servers.database_url, template_database) as clones, database.connect(clones.another()) as conn:
        yield decided_and_corrected(conn)


@pytest.fixture(scope="module")
def made(shared: Ledger) -> proof_bundle.Bundle:
    """The bundle of the shared ledger."""
    return shared.bundle()


def verified(ledger: Ledger, bundle: proof_bundle.Bundle, **options: Any) -> dict[str, Any]:
    return verify_bundle.verify(bundle.text, ledger.trusted, **options).statement


def spelled(fields: dict[str, Any]) -> str:
    return canonical.canonical_json(fields) + "\n"


def test_a_bundle_proves_the_published_decision(shared: Ledger) -> None:
    bundle = shared.bundle()
    found = verify_bundle.verify(bundle.text, shared.trusted)
    assert found.statement == bundle.fields["statement"]
    assert found.attested
    assert found.origin == checkpoint_keys.origin(shared.conn)
    said = found.statement
    assert (said["click_id"], said["verdict"], said["billed_micros"]) == (str(CLICK.uuid), "invalid", 0)
    assert (said["run_id"], said["log_position"], said["line"]) == (shared.run_id, shared.position, 3)
    [signed] = log.read(shared.conn, kinds=["checkpoint_signed"])
    assert said["as_of"] == signed.position - 1
    assert said["event_time_ms"] == batches.at("2024-03-10", 3)


def test_a_bundle_of_a_live_decision_proves_it(conn: database.Connection) -> None:
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, "tests")
    rows = [batches.Row(row.click_id, verdict="undecided", score=batches.NAN, threshold=batches.NAN) for row in ROWS]
    append.append(conn, batches.batch(rows), actor="tests")  # epoch 0: no model
    ledger = Ledger(conn, key, 0, 0)
    said = verified(ledger, ledger.bundle())
    assert (said["run_id"], said["publication"], said["verdict"], said["score"]) == (None, None, "undecided", "nan")


def test_after_a_revert_the_live_decision_is_proven_again(ledger: Ledger) -> None:
    before = ledger.bundle()
    publication.revert(ledger.conn, ledger.run_id, "tests", "too strict")
    said = verified(ledger, ledger.bundle())
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (None, "valid", 1_000)
    assert verified(ledger, before)["run_id"] == ledger.run_id  # as of its own moment


def test_the_newest_publication_decides_and_runs_that_were_only_staged_do_not(ledger: Ledger) -> None:
    verdicts = {CLICK.click_id: "valid"}
    second = replays.published(ledger.conn, ledger.position, ledger.position + 1, verdicts)
    staged = replays.staged(ledger.conn, ledger.position, ledger.position + 1, {CLICK.click_id: "invalid"})
    bundle = ledger.bundle()
    said = verified(ledger, bundle)
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (second, "valid", 1_000)
    assert [run["run_id"] for run in bundle.fields["runs"]] == [ledger.run_id, second, staged]


def test_a_sparse_correction_decides_while_it_is_in_force_and_is_told_after_its_revert(ledger: Ledger) -> None:
    stated = [sparse.Correction(CLICK.click_id, "undecided", "disputed")]
    corrected = sparse.plan(ledger.conn, stated, actor="tests", reason="disputed").run_id
    replays.publish(ledger.conn, corrected)
    in_force = ledger.bundle()
    said = verified(ledger, in_force)
    assert (said["run_id"], said["verdict"], said["reason"]) == (corrected, "undecided", "disputed")
    neighbour = proof_bundle.build(ledger.conn, ROWS[4].uuid, ledger.key, "tests")
    assert verified(ledger, neighbour)["run_id"] == ledger.run_id  # the correction spans its entry, not its line
    publication.revert(ledger.conn, corrected, "tests", "settled")
    bundle = ledger.bundle()
    said = verified(ledger, bundle)
    assert (said["run_id"], said["verdict"], said["billed_micros"]) == (ledger.run_id, "invalid", 0)
    assert [run["run_id"] for run in bundle.fields["runs"]] == [ledger.run_id, corrected]
    assert verified(ledger, in_force)["run_id"] == corrected  # as of its own moment


def test_a_run_in_several_chunks_is_proven_by_the_chunk_of_the_click(ledger: Ledger) -> None:
    versions = replays.model(ledger.conn)
    run = runs.plan(
        ledger.conn, ledger.position, ledger.position + 2, model_version=versions[0],
        calibration_version=versions[1], actor="tests", reason="", chunk_rows=6,
    )  # fmt: skip
    replays.work(ledger.conn, run.run_id, {ROWS[8].click_id: "undecided"})
    runs.stage(ledger.conn, run.run_id, "tests")
    replays.publish(ledger.conn, run.run_id)
    bundle = proof_bundle.build(ledger.conn, ROWS[8].uuid, ledger.key, "tests")
    assert bundle.fields["runs"][-1]["chunk"] == 1
    assert verified(ledger, bundle)["verdict"] == "undecided"


def test_without_a_key_the_newest_checkpoint_is_used_and_nothing_later_is_told(ledger: Ledger) -> None:
    signed = checkpoints.sign(ledger.conn, ledger.key, "tests")
    publication.revert(ledger.conn, ledger.run_id, "tests", "later")
    found = verify_bundle.verify(ledger.bundle(signed=False).text, ledger.trusted)
    assert (found.statement["as_of"], found.statement["run_id"]) == (signed.size, ledger.run_id)
    assert not found.attested


def test_a_click_that_no_checkpoint_covers_is_refused(ledger: Ledger) -> None:
    with pytest.raises(errors.Refused, match=r"covers entry \d+, there is none"):
        ledger.bundle(signed=False)
    signed = checkpoints.sign(ledger.conn, ledger.key, "tests")
    late = batches.clicks(1, start=99)
    append.append(ledger.conn, batches.batch(late, epoch=1), actor="tests")
    with pytest.raises(errors.Refused, match=f"the newest covers {signed.size}"):
        proof_bundle.build(ledger.conn, late[0].uuid)
    with pytest.raises(errors.NotFound, match="no click"):
        proof_bundle.build(ledger.conn, batches.clicks(1, start=100)[0].uuid, ledger.key, "tests")


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
def test_a_bundle_made_of_a_forged_ledger_does_not_verify(ledger: Ledger, name: str) -> None:
    checkpoints.sign(ledger.conn, ledger.key, "tests")
    statement, named = FORGERIES[name]
    ledger.conn.execute("SET session_replication_role = replica")
    ledger.conn.execute(statement)
    if not named:  # what only the missing attestation tells
        assert verified(ledger, ledger.bundle(signed=False))["run_id"] is None
        return
    with pytest.raises((verify_bundle.Refused, errors.VerificationFailed), match=named):
        verified(ledger, ledger.bundle(signed=False))


def test_a_published_run_without_a_decision_on_the_click_gives_no_bundle(ledger: Ledger) -> None:
    ledger.conn.execute("SET session_replication_role = replica")
    ledger.conn.execute("DELETE FROM delayed_decisions WHERE line = 3")
    with pytest.raises(errors.VerificationFailed, match=rf"run {ledger.run_id}, published at \d+, has no decision"):
        ledger.bundle()


def test_delayed_decisions_that_are_not_the_staged_ones_are_not_bundled(ledger: Ledger) -> None:
    ledger.conn.execute("SET session_replication_role = replica")
    ledger.conn.execute("UPDATE delayed_decisions SET verdict = 'valid'")
    with pytest.raises(errors.VerificationFailed, match="chunk 0: its decisions are not the ones"):
        ledger.bundle()


# --- tampering with the file ---


_reading = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_reading
@given(data=st.data())
def test_a_bundle_with_any_bit_flipped_is_refused(
    shared: Ledger, made: proof_bundle.Bundle, data: st.DataObject
) -> None:
    raw = bytearray(made.text.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((verify_bundle.Refused, UnicodeDecodeError)) as raised:
        verify_bundle.verify(raw.decode(), shared.trusted)
    assert str(raised.value)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the scalars of a JSON value are."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, name))
    else:
        yield path


def changed(value: Any, data: st.DataObject) -> Any:
    """Another value of the same kind, close to it."""
    if isinstance(value, bool) or value is None:
        return data.draw(st.sampled_from([v for v in (None, True, False, 0) if v is not value]))
    if isinstance(value, int | float):
        return value + data.draw(st.sampled_from([1, -1, 0.0])) if value else 1
    at = data.draw(st.integers(0, max(len(value) - 1, 0)))
    other = data.draw(st.sampled_from("0123456789abcdefA+ \n"))
    return value[:at] + (other if value[at : at + 1] != other else "z") + value[at + 1 :]


@_reading
@given(data=st.data())
def test_every_field_counts_even_where_nobody_signed_the_whole(
    shared: Ledger, made: proof_bundle.Bundle, data: st.DataObject
) -> None:
    fields = copy.deepcopy(made.fields) | {"attestation": None}
    path = data.draw(st.sampled_from([path for path in places(fields) if path != ("attestation",)]))
    item = fields
    for name in path[:-1]:
        item = item[name]
    before = json.dumps(item[path[-1]])
    item[path[-1]] = changed(item[path[-1]], data)
    if json.dumps(item[path[-1]]) == before:
        return
    with pytest.raises(verify_bundle.Refused) as raised:
        verify_bundle.verify(spelled(fields), shared.trusted)
    assert str(raised.value)


@pytest.mark.parametrize("path", ["runs", "entries", "click", "checkpoint", "statement", "origin", "format"])
def test_a_bundle_without_one_of_its_parts_is_refused(shared: Ledger, made: proof_bundle.Bundle, path: str) -> None:
    fields = made.fields | {"attestation": None}
    fields = {name: value for name, value in fields.items() if name != path}
    with pytest.raises(verify_bundle.Refused, match="bundle: expected the fields"):
        verify_bundle.verify(spelled(fields), shared.trusted)


def test_entries_that_the_statement_needs_cannot_be_left_out(shared: Ledger, made: proof_bundle.Bundle) -> None:
    whole = made.fields | {"attestation": None}
    for at, entry in enumerate(whole["entries"]):
        fields = copy.deepcopy(whole)
        del fields["entries"][at]
        if entry["kind"] in ("checkpoint_key_set",):
            continue  # tells who may sign, which the given key does as well
        with pytest.raises(verify_bundle.Refused):
            verify_bundle.verify(spelled(fields), shared.trusted)


def test_a_publication_left_out_shows_only_by_the_missing_signature_under_the_whole(
    shared: Ledger, made: proof_bundle.Bundle, tmp_path: Path
) -> None:
    """The limit that docs/audit.md states: absence is vouched for by the attestation and by nothing else."""
    fields = copy.deepcopy(made.fields)
    fields["entries"] = [e for e in fields["entries"] if e["kind"] != "replay_published"]
    live = fields["click"]["decision"]["fields"]
    told = {name: live[name] for name in ("verdict", "reason", "model_version", "calibration_version", "score")}
    fields["statement"] |= told | {"run_id": None, "publication": None, "billed_micros": 1_000}
    with pytest.raises(verify_bundle.Refused, match="attestation: it is not of this bundle"):
        verify_bundle.verify(spelled(fields), shared.trusted)
    fields["attestation"] = None
    assert not verify_bundle.verify(spelled(fields), shared.trusted).attested
    (tmp_path / "bundle.json").write_text(spelled(fields))
    asked = [str(tmp_path / "bundle.json"), "--key", str(shared.key.verifier)]
    assert verify_bundle.main(asked) == 0
    assert verify_bundle.main([*asked, "--complete"]) == 1


def test_another_spelling_of_the_same_bundle_is_refused(shared: Ledger, made: proof_bundle.Bundle) -> None:
    fields = made.fields
    for text in (json.dumps(fields), spelled(fields).rstrip("\n"), spelled(fields) + "\n", "[]\n", "", '{"a":NaN}\n'):
        with pytest.raises(verify_bundle.Refused, match="bundle: expected"):
            verify_bundle.verify(text, shared.trusted)


def test_whoever_recomputes_everything_still_lacks_the_key(shared: Ledger, made: proof_bundle.Bundle) -> None:
    fields = made.fields
    forger = signed_note.generate(shared.key.name)
    point = checkpoints.parse(fields["checkpoint"])
    forged = fields | {"checkpoint": signed_note.sign(checkpoints.body(*point[:3]), forger), "attestation": None}
    with pytest.raises(verify_bundle.Refused, match="checkpoint: expected the signature of a given key"):
        verify_bundle.verify(spelled(forged), shared.trusted)
    with pytest.raises(verify_bundle.Refused, match="then in force"):
        verify_bundle.verify(spelled(forged), [verify_bundle.key(str(forger.verifier))])


# --- from one checkpoint to the next ---


def test_the_holder_of_a_checkpoint_sees_that_the_log_only_grew(ledger: Ledger) -> None:
    held = checkpoints.sign(ledger.conn, ledger.key, "tests")
    for _ in range(5):
        log.record(ledger.conn, "noted", {}, "tests")
    proof = proof_bundle.consistency(ledger.conn, held.note, ledger.key, "tests")
    found = verify_bundle.verify_consistency(proof.text, ledger.trusted)
    assert found == (ledger.key.name, held.size, held.size + 6)
    again = proof_bundle.consistency(ledger.conn, proof.fields["new"])
    assert again.fields["proof"] == []
    assert verify_bundle.verify_consistency(again.text, ledger.trusted).old == held.size + 6


def test_a_log_that_does_not_continue_a_held_checkpoint_gets_no_proof(ledger: Ledger) -> None:
    held = checkpoints.sign(ledger.conn, ledger.key, "tests")
    another = signed_note.sign(checkpoints.body(ledger.key.name, 2, bytes(32)), ledger.key)
    with pytest.raises(errors.VerificationFailed, match="does not continue the checkpoint over 2 entries"):
        proof_bundle.consistency(ledger.conn, another)
    ahead = signed_note.sign(checkpoints.body(ledger.key.name, held.size + 1, bytes(32)), ledger.key)
    with pytest.raises(errors.Refused, match=f"over {held.size + 1} entries or more, got {held.size}"):
        proof_bundle.consistency(ledger.conn, ahead)
    with pytest.raises(errors.InvalidInput, match="got one of elsewhere"):
        elsewhere = signed_note.sign(checkpoints.body("elsewhere", 1, bytes(32)), signed_note.generate("elsewhere"))
        proof_bundle.consistency(ledger.conn, elsewhere)


@_reading
@given(data=st.data())
def test_a_consistency_proof_with_any_bit_flipped_is_refused(shared: Ledger, data: st.DataObject) -> None:
    old = signed_note.sign(checkpoints.body(shared.key.name, 3, merkle_tiles.Tree(shared.conn).root(3)), shared.key)
    raw = bytearray(proof_bundle.consistency(shared.conn, old, shared.key, "tests").text.encode())
    assert verify_bundle.verify_consistency(raw.decode(), shared.trusted).old == 3
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((verify_bundle.Refused, UnicodeDecodeError)):
        verify_bundle.verify_consistency(raw.decode(), shared.trusted)


@given(sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_the_verifier_follows_the_paths_that_the_ledger_makes(sizes: tuple[int, int]) -> None:
    old, new = sorted(sizes)
    leaves = [merkle.leaf_hash(number.to_bytes(4)) for number in range(new)]

    def node(height: int, index: int) -> bytes:
        return merkle.root_of(leaves[index << height : (index + 1) << height])

    roots = merkle.root_of(leaves[:old]), merkle.root_of(leaves)
    path = merkle.consistency_proof(old, new, node)
    assert verify_bundle._continues(old, new, path, *roots)
    assert not verify_bundle._continues(old, new, [*path, roots[0]], *roots)
    assert not verify_bundle._continues(old, new, path, bytes(32), roots[1])
    assert not verify_bundle._continues(old, new, path, roots[0], bytes(32))
    assert verify_bundle._included(leaves[old - 1], old - 1, new, merkle.inclusion_proof(old - 1, new, node), roots[1])


# --- keys ---


def test_a_rotated_key_is_trusted_only_if_the_auditor_follows_rotations(ledger: Ledger) -> None:
    new = signed_note.generate(ledger.key.name)
    checkpoint_keys.rotate(ledger.conn, ledger.key, new, "tests", "yearly")
    bundle = ledger._replace(key=new).bundle()
    with pytest.raises(verify_bundle.Refused, match="expected the signature of a given key"):
        verified(ledger, bundle)
    assert verified(ledger, bundle, follow_rotations=True)["run_id"] == ledger.run_id
    assert verified(ledger._replace(key=new), bundle)["run_id"] == ledger.run_id


def test_a_key_that_replaced_a_lost_one_is_not_followed(ledger: Ledger) -> None:
    new = signed_note.generate(ledger.key.name)
    checkpoint_keys.rotate(ledger.conn, None, new, "tests", "lost")
    with pytest.raises(verify_bundle.Refused, match="expected the signature of a given key"):
        verified(ledger, ledger._replace(key=new).bundle(), follow_rotations=True)


@pytest.mark.parametrize(
    "text", ["", "name", "a+b+c", "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"]
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(verify_bundle.BadKey):
        verify_bundle.key(text)


def test_the_verifier_agrees_with_the_published_note() -> None:
    key = verify_bundle.key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    note = (
        "This is an example message.\n\n— example.com/foo "
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    )
    assert verify_bundle._open(note, [key], "note") == ("This is an example message.\n", key)


# --- Ed25519 without a library ---


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_signatures_of_rfc_8032_hold(public: str, message: str, signature: str) -> None:
    known, text, raw = (bytes.fromhex(part) for part in (public, message, signature))
    assert verify_bundle._signed(known, text, raw)
    assert not verify_bundle._signed(known, text + b"!", raw)
    beyond = int.from_bytes(raw[32:], "little") + GROUP_ORDER  # the same signature, spelled another way
    assert not verify_bundle._signed(known, text, raw[:32] + beyond.to_bytes(32, "little"))


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), spoiled=st.integers(0, 511))
@settings(max_examples=60, deadline=None)
@example(seed=bytes(32), message=b"", spoiled=255)
def test_signatures_hold_as_the_library_says_and_fail_when_a_bit_flips(
    seed: bytes, message: bytes, spoiled: int
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), bytearray(private.sign(message))
    assert verify_bundle._signed(public, message, bytes(signature))
    signature[spoiled // 8] ^= 1 << spoiled % 8
    assert not verify_bundle._signed(public, message, bytes(signature))


# --- as a program ---


def test_the_file_alone_verifies_with_nothing_installed(shared: Ledger, tmp_path: Path) -> None:
    script = shutil.copy(verify_bundle.__file__, tmp_path / "verify_bundle.py")
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(shared.bundle().text, encoding="utf-8")
    bad.write_text(shared.bundle().text.replace('"verdict":"invalid"', '"verdict":"valid"'), encoding="utf-8")

    def ended(*words: object) -> tuple[int, str, str]:
        command = [sys.executable, "-I", "-S", str(script), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        return done.returncode, done.stdout, done.stderr

    key = shared.key.verifier
    code, out, said = ended(good, "--key", key, "--complete", "--json")
    assert code == 0, said
    assert json.loads(out)["click_id"] == str(CLICK.uuid)
    assert "not proven" in said
    code, _, said = ended(bad, "--key", key)
    assert (code, said.count("\n")) == (1, 1)
    assert "REFUSED" in said
    assert ended(tmp_path / "none.json", "--key", key)[0] == 2
    assert ended(good, "--key", "nonsense")[0] == 2
    assert ended(good)[0] == 2
