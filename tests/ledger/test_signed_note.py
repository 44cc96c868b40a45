"""Signed notes against published ones: what the Go implementation signs and C2SP prints is what is signed here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickledger.errors import InvalidInput, VerificationFailed
from clickledger.ledger import signed_note

# golang.org/x/mod/sumdb/note, example_test.go.
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
GO_NOTE = f"{GO_TEXT}\n— PeterNeumann {GO_SIGNATURE}\n"
# c2sp.org/signed-note, its example.
C2SP_VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
PETER = signed_note.verifier_key(GO_VERIFIER)


@pytest.mark.parametrize(("key", "note"), [(GO_VERIFIER, GO_NOTE), (C2SP_VERIFIER, C2SP_NOTE)])
def test_published_notes_open_with_their_keys(key: str, note: str) -> None:
    verifier = signed_note.verifier_key(key)
    assert str(verifier) == key
    opened = signed_note.open_note(note, [verifier])
    assert opened.by == [verifier]
    assert note.startswith(opened.text + "\n—")


def test_the_published_key_signs_the_published_note_to_the_byte() -> None:
    key = signed_note.signing_key(GO_PRIVATE)
    assert signed_note.sign(GO_TEXT, key) == GO_NOTE
    assert (str(key.verifier), key.secret_text()) == (GO_VERIFIER, GO_PRIVATE)


@given(at=st.integers(0, len(GO_NOTE) - 1), other=st.characters(codec="utf-8"))
@settings(max_examples=300)
def test_a_note_with_one_other_character_does_not_open(at: int, other: str) -> None:
    forged = GO_NOTE[:at] + other + GO_NOTE[at + 1 :]
    if forged == GO_NOTE:
        return
    with pytest.raises((InvalidInput, VerificationFailed)):
        signed_note.open_note(forged, [PETER])


@given(at=st.integers(0, len(GO_VERIFIER) - 1), other=st.characters(codec="utf-8"))
@settings(max_examples=300)
def test_a_mangled_verifier_key_is_refused(at: int, other: str) -> None:
    mangled = GO_VERIFIER[:at] + other + GO_VERIFIER[at + 1 :]
    if mangled == GO_VERIFIER:
        return
    with pytest.raises(InvalidInput):
        signed_note.verifier_key(mangled)


def test_signatures_of_strangers_are_left_alone_and_one_known_key_is_enough() -> None:
    old, new, other = (signed_note.generate("log.example") for _ in range(3))
    note = signed_note.sign("text\n", old, new)
    assert signed_note.open_note(note, [new.verifier]).by == [new.verifier]
    assert signed_note.open_note(note, [old.verifier, new.verifier]).by == [old.verifier, new.verifier]
    with pytest.raises(VerificationFailed, match="expected the signature of a known key"):
        signed_note.open_note(note, [other.verifier])


def test_a_known_signature_that_fails_refuses_the_note_whatever_else_holds() -> None:
    first, second = signed_note.generate("log.example"), signed_note.generate("log.example")
    lines = signed_note.sign("text\n", second).splitlines(keepends=True)[-1]
    note = signed_note.sign("other\n", first) + lines
    with pytest.raises(VerificationFailed, match="does not hold"):
        signed_note.open_note(note, [first.verifier, second.verifier])


@pytest.mark.parametrize("text", ["", "no newline", "a\ttab\n"])
def test_what_no_note_can_hold_is_not_signed(text: str) -> None:
    with pytest.raises(InvalidInput):
        signed_note.sign(text, signed_note.generate("log.example"))


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\nbreak"])
def test_a_key_name_is_one_word(name: str) -> None:
    with pytest.raises(InvalidInput, match="key name"):
        signed_note.generate(name)


def test_the_empty_lines_of_a_text_are_its_own() -> None:
    key = signed_note.generate("log.example")
    text = "one\n\ntwo\n"
    assert signed_note.open_note(signed_note.sign(text, key), [key.verifier]).text == text


def test_a_signing_key_is_never_shown() -> None:
    key = signed_note.signing_key(GO_PRIVATE)
    secret = GO_PRIVATE.rpartition("+")[2]
    assert secret not in repr(key) + str(key)
    assert repr(key.seed) not in repr(key)
    with pytest.raises(InvalidInput) as raised:
        signed_note.signing_key(GO_PRIVATE[:-1])
    assert secret[:-1] not in str(raised.value)
