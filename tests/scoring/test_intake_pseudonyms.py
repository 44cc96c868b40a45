"""Pseudonyms: keyed, separated by kind, with a key that only its owner can read."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clickledger.errors import InvalidSetting
from clickledger.scoring.pseudonyms import Pseudonyms

KEY = bytes(range(32))


def test_pseudonyms_are_16_bytes_and_stable() -> None:
    first, second = Pseudonyms(KEY), Pseudonyms(KEY)
    assert first.user("ada") == second.user("ada")
    assert {len(first.user("ada")), len(first.session("ada", None)), len(first.ip("10.0.0.1"))} == {16}


def test_known_answers_do_not_change() -> None:
    names = Pseudonyms(KEY)
    answers = [names.user("ada").hex(), names.session("ada", "s1").hex(), names.ip("10.0.0.1").hex()]
    assert answers == [
        "8837a53e4a8ea31b703bc23a8dc03cdb",
        "95a18815048a293020a3217da604aaca",
        "c3dddebcf80feee8065d1cfbd366c544",
    ]


def test_kinds_and_keys_are_separated() -> None:
    names, others = Pseudonyms(KEY), Pseudonyms(KEY[::-1])
    same_text = {names.user("x"), names.ip("x"), names.session("x", None), names.session("", "x"), others.user("x")}
    assert len(same_text) == 5


def test_session_belongs_to_its_user() -> None:
    names = Pseudonyms(KEY)
    assert names.session("ab", "c") != names.session("a", "bc")
    assert names.session("a", None) != names.session("a", "")


def test_ipv6_counts_as_its_64_and_mapped_ipv4_as_ipv4() -> None:
    names = Pseudonyms(KEY)
    assert names.ip("2001:db8::1") == names.ip("2001:0DB8:0:0:ffff::2")
    assert names.ip("2001:db8::1") != names.ip("2001:db8:0:1::1")
    assert names.ip("::ffff:192.0.2.1") == names.ip("192.0.2.1")
    assert names.ip("not:an:address") != names.ip("not:an:addres")


def test_key_file_is_created_for_its_owner_only_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "home" / "pseudonym.key"
    created = Pseudonyms.from_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Pseudonyms.from_file(path).user("ada") == created.user("ada")
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_race_for_the_first_key_agree(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Pseudonyms.from_file(path).user("ada"), range(16)))
    assert len(set(made)) == 1


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    Pseudonyms.from_file(path)
    path.chmod(0o644)
    with pytest.raises(InvalidSetting, match="expected mode 0600, got 0644"):
        Pseudonyms.from_file(path)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31, "\u00e9" * 64])
def test_file_that_holds_no_key_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(InvalidSetting, match=r"pseudonym\.key: expected 64 hexadecimal digits") as caught:
        Pseudonyms.from_file(path)
    assert not content or content not in str(caught.value)


def test_key_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match=r"expected a readable file"):
        Pseudonyms.from_file(tmp_path / "file" / "pseudonym.key")


def test_key_survives_a_process_that_died_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    descriptor = os.open(tmp_path / ".pseudonym.key.0000", os.O_WRONLY | os.O_CREAT, 0o600)
    os.close(descriptor)
    assert len(Pseudonyms.from_file(path).user("ada")) == 16
