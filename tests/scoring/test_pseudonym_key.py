"""The key of the pseudonyms: made once, read by its owner only, named without being shown, destroyed for good."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clickledger import settings
from clickledger.errors import InvalidSetting
from clickledger.scoring import pseudonym_key


def test_key_is_made_once_in_the_home_for_its_owner_only(tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path / "home")
    key, file = pseudonym_key.of(loaded), tmp_path / "home" / "pseudonym.key"
    assert len(key) == pseudonym_key.KEY_BYTES
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert pseudonym_key.of(loaded) == key
    assert list(file.parent.iterdir()) == [file]


def test_key_of_the_setting_goes_before_the_file(tmp_path: Path) -> None:
    assert pseudonym_key.of(settings.load(home=tmp_path, pseudonym_key="ab" * 32)) == b"\xab" * 32
    assert list(tmp_path.iterdir()) == []


def test_processes_that_race_for_the_first_key_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: pseudonym_key.read_or_make(tmp_path / "key"), range(16)))
    assert len(set(made)) == 1


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    pseudonym_key.read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(InvalidSetting, match=r"readable by its owner only \(0600\), got 0640"):
        pseudonym_key.read_or_make(path)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31, "\u00e9" * 64])
def test_file_that_holds_no_key_is_refused_without_showing_it_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(InvalidSetting, match="expected 64 hex digits") as caught:
        pseudonym_key.read_or_make(path)
    assert not content or content not in str(caught.value)
    assert path.read_text(encoding="utf-8") == content


def test_key_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match="expected a file to read or make"):
        pseudonym_key.read_or_make(tmp_path / "file" / "pseudonym.key")


def test_key_survives_a_process_that_died_while_making_it(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    os.close(os.open(tmp_path / ".pseudonym.key.0000", os.O_WRONLY | os.O_CREAT, 0o600))
    assert len(pseudonym_key.read_or_make(path)) == pseudonym_key.KEY_BYTES


def test_fingerprint_names_a_key_and_is_none_of_its_pseudonyms() -> None:
    known = pseudonym_key.fingerprint(bytes(range(32)))
    assert known == "e7ab2540b8616b34cbedd82c8d731424250c0fc99e018a35daa1302f7ff80451"
    assert known != pseudonym_key.fingerprint(bytes(32))


def test_destroyed_key_is_overwritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    pseudonym_key.read_or_make(path)
    with path.open("rb") as still_open:
        pseudonym_key.destroy(path)
        assert set(still_open.read()) == {0}
    assert list(tmp_path.iterdir()) == []
