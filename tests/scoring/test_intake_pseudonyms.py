"""Pseudonyms: keyed and separated by kind."""

from __future__ import annotations

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


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="expected 32 bytes, got 31"):
        Pseudonyms(KEY[:-1])
