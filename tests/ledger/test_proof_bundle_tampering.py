"""Nothing of a proof bundle that was changed passes: not a bit, not a field, not a part left out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundled_ledger import Ledger, spelled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickledger import verify_bundle
from clickledger.ledger import checkpoints, proof_bundle, signed_note

_reading = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_reading
@given(data=st.data())
def test_a_bundle_with_any_bit_flipped_is_refused(
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle, data: st.DataObject
) -> None:
    raw = bytearray(bundle_once.text.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((verify_bundle.Refused, UnicodeDecodeError)) as raised:
        verify_bundle.verify(raw.decode(), bundled_once.trusted)
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
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle, data: st.DataObject
) -> None:
    fields = copy.deepcopy(bundle_once.fields) | {"attestation": None}
    path = data.draw(st.sampled_from([path for path in places(fields) if path != ("attestation",)]))
    item = fields
    for name in path[:-1]:
        item = item[name]
    before = json.dumps(item[path[-1]])
    item[path[-1]] = changed(item[path[-1]], data)
    if json.dumps(item[path[-1]]) == before:
        return
    with pytest.raises(verify_bundle.Refused) as raised:
        verify_bundle.verify(spelled(fields), bundled_once.trusted)
    assert str(raised.value)


@pytest.mark.parametrize("path", ["runs", "entries", "click", "checkpoint", "statement", "origin", "format"])
def test_a_bundle_without_one_of_its_parts_is_refused(
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle, path: str
) -> None:
    fields = bundle_once.fields | {"attestation": None}
    fields = {name: value for name, value in fields.items() if name != path}
    with pytest.raises(verify_bundle.Refused, match="bundle: expected the fields"):
        verify_bundle.verify(spelled(fields), bundled_once.trusted)


def test_entries_that_the_statement_needs_cannot_be_left_out(
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle
) -> None:
    whole = bundle_once.fields | {"attestation": None}
    for at, entry in enumerate(whole["entries"]):
        fields = copy.deepcopy(whole)
        del fields["entries"][at]
        if entry["kind"] in ("checkpoint_key_set",):
            continue  # tells who may sign, which the given key does as well
        with pytest.raises(verify_bundle.Refused):
            verify_bundle.verify(spelled(fields), bundled_once.trusted)


def test_a_publication_left_out_shows_only_by_the_missing_signature_under_the_whole(
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle, tmp_path: Path
) -> None:
    """The limit that docs/audit.md states: absence is vouched for by the attestation and by nothing else."""
    fields = copy.deepcopy(bundle_once.fields)
    fields["entries"] = [e for e in fields["entries"] if e["kind"] != "replay_published"]
    live = fields["click"]["decision"]["fields"]
    told = {name: live[name] for name in ("verdict", "reason", "model_version", "calibration_version", "score")}
    fields["statement"] |= told | {"run_id": None, "publication": None, "billed_micros": 1_000}
    with pytest.raises(verify_bundle.Refused, match="attestation: it is not of this bundle"):
        verify_bundle.verify(spelled(fields), bundled_once.trusted)
    fields["attestation"] = None
    assert not verify_bundle.verify(spelled(fields), bundled_once.trusted).attested
    (tmp_path / "bundle.json").write_text(spelled(fields))
    asked = [str(tmp_path / "bundle.json"), "--key", str(bundled_once.key.verifier)]
    assert verify_bundle.main(asked) == 0
    assert verify_bundle.main([*asked, "--complete"]) == 1


def test_another_spelling_of_the_same_bundle_is_refused(bundled_once: Ledger, bundle_once: proof_bundle.Bundle) -> None:
    fields = bundle_once.fields
    for text in (json.dumps(fields), spelled(fields).rstrip("\n"), spelled(fields) + "\n", "[]\n", "", '{"a":NaN}\n'):
        with pytest.raises(verify_bundle.Refused, match="bundle: expected"):
            verify_bundle.verify(text, bundled_once.trusted)


def test_whoever_recomputes_everything_still_lacks_the_key(
    bundled_once: Ledger, bundle_once: proof_bundle.Bundle
) -> None:
    fields = bundle_once.fields
    forger = signed_note.generate(bundled_once.key.name)
    point = checkpoints.parse(fields["checkpoint"])
    forged = fields | {"checkpoint": signed_note.sign(checkpoints.body(*point[:3]), forger), "attestation": None}
    with pytest.raises(verify_bundle.Refused, match="checkpoint: expected the signature of a given key"):
        verify_bundle.verify(spelled(forged), bundled_once.trusted)
    with pytest.raises(verify_bundle.Refused, match="then in force"):
        verify_bundle.verify(spelled(forged), [verify_bundle.key(str(forger.verifier))])
