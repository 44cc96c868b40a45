"""The offline verifier by itself: keys, Ed25519 without a library, and as a program with nothing installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundled_ledger import CLICK, Ledger
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clickledger import verify_bundle

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


def test_the_file_alone_verifies_with_nothing_installed(bundled_once: Ledger, tmp_path: Path) -> None:
    script = shutil.copy(verify_bundle.__file__, tmp_path / "verify_bundle.py")
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(bundled_once.bundle().text, encoding="utf-8")
    bad.write_text(bundled_once.bundle().text.replace('"verdict":"invalid"', '"verdict":"valid"'), encoding="utf-8")

    def ended(*words: object) -> tuple[int, str, str]:
        command = [sys.executable, "-I", "-S", str(script), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        return done.returncode, done.stdout, done.stderr

    key = bundled_once.key.verifier
    code, out, said = ended(good, "--key", key, "--complete", "--json")
    assert code == 0, said
    assert json.loads(out)["click_id"] == str(CLICK.uuid)
    assert (json.loads(out)["advertiser_id"], out.isascii()) == (CLICK.advertiser_id, True)
    assert "not proven" in said
    assert said.count("\n") == 4 and r"to advertiser adv-é\x1b[A\nsigned by nobody" in said
    code, _, said = ended(bad, "--key", key)
    assert (code, said.count("\n")) == (1, 1)
    assert "REFUSED" in said
    assert ended(tmp_path / "none.json", "--key", key)[0] == 2
    assert ended(good, "--key", "nonsense")[0] == 2
    assert ended(good)[0] == 2
