"""Consistency proofs: the holder of a checkpoint is shown that the log only grew since."""

from __future__ import annotations

import pytest
from bundled_ledger import Ledger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickledger import errors, verify_bundle
from clickledger.ledger import checkpoints, log, merkle, merkle_tiles, proof_bundle, signed_note


def test_the_holder_of_a_checkpoint_sees_that_the_log_only_grew(bundled: Ledger) -> None:
    held = checkpoints.sign(bundled.conn, bundled.key, "tests")
    for _ in range(5):
        log.record(bundled.conn, "noted", {}, "tests")
    proof = proof_bundle.consistency(bundled.conn, held.note, bundled.key, "tests")
    found = verify_bundle.verify_consistency(proof.text, bundled.trusted)
    assert found == (bundled.key.name, held.size, held.size + 6)
    again = proof_bundle.consistency(bundled.conn, proof.fields["new"])
    assert again.fields["proof"] == []
    assert verify_bundle.verify_consistency(again.text, bundled.trusted).old == held.size + 6


def test_a_log_that_does_not_continue_a_held_checkpoint_gets_no_proof(bundled: Ledger) -> None:
    held = checkpoints.sign(bundled.conn, bundled.key, "tests")
    another = signed_note.sign(checkpoints.body(bundled.key.name, 2, bytes(32)), bundled.key)
    with pytest.raises(errors.VerificationFailed, match="does not continue the checkpoint over 2 entries"):
        proof_bundle.consistency(bundled.conn, another)
    ahead = signed_note.sign(checkpoints.body(bundled.key.name, held.size + 1, bytes(32)), bundled.key)
    with pytest.raises(errors.Refused, match=f"over {held.size + 1} entries or more, got {held.size}"):
        proof_bundle.consistency(bundled.conn, ahead)
    with pytest.raises(errors.InvalidInput, match="got one of elsewhere"):
        elsewhere = signed_note.sign(checkpoints.body("elsewhere", 1, bytes(32)), signed_note.generate("elsewhere"))
        proof_bundle.consistency(bundled.conn, elsewhere)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_consistency_proof_with_any_bit_flipped_is_refused(bundled_once: Ledger, data: st.DataObject) -> None:
    body = checkpoints.body(bundled_once.key.name, 3, merkle_tiles.Tree(bundled_once.conn).root(3))
    old = signed_note.sign(body, bundled_once.key)
    raw = bytearray(proof_bundle.consistency(bundled_once.conn, old, bundled_once.key, "tests").text.encode())
    assert verify_bundle.verify_consistency(raw.decode(), bundled_once.trusted).old == 3
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((verify_bundle.Refused, UnicodeDecodeError)):
        verify_bundle.verify_consistency(raw.decode(), bundled_once.trusted)


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
