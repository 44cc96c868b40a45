"""One line of NDJSON: a click or a rejection that names the field."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clickledger.scoring import click_identity
from clickledger.scoring.click import DECODER, ENCODER, Click
from clickledger.scoring.intake_fields import BOUNDS, RejectedClick
from clickledger.scoring.ndjson import FIELDS, parse_ndjson_line
from clickledger.scoring.pseudonyms import Pseudonyms

NAMES = Pseudonyms(bytes(32))
UNTIMED = settings(deadline=None)  # machines under load are slow, not wrong
NOW_MS = 1_760_000_000_000
FULL: dict[str, Any] = {
    "source": "web",
    "click_id": "c-1",
    "event_time": NOW_MS - 5_000,
    "user_id": "ada",
    "session_id": "s-1",
    "ip": "192.0.2.1",
    "device": "Firefox 140 Linux",
    "device_kind": "desktop",
    "advertiser_id": "adv-1",
    "campaign_id": "camp-1",
    "cost_micros": 250_000,
    "currency": "EUR",
    "logged_in": True,
}
REQUIRED = ("click_id", "event_time", "user_id", "ip", "advertiser_id", "campaign_id", "cost_micros")


def parse(line: bytes, unknown_fields: Counter[str] | None = None) -> Click:
    return parse_ndjson_line(line, NAMES, now_ms=NOW_MS, unknown_fields=unknown_fields)


def click(**changed: Any) -> Click:
    return parse(json.dumps(FULL | changed).encode())


def rejection(line: bytes) -> RejectedClick:
    with pytest.raises(RejectedClick) as caught:
        parse(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    return caught.value


def rejected_field(**changed: Any) -> str:
    return rejection(json.dumps(FULL | changed).encode()).field


def test_full_click_is_kept_as_sent() -> None:
    kept = click()
    assert (kept.source, kept.external_id, kept.event_time_ms) == ("web", "c-1", NOW_MS - 5_000)
    assert (kept.user_key, kept.ip_key) == (NAMES.user("ada"), NAMES.ip("192.0.2.1"))
    assert kept.session_key == NAMES.session("ada", "s-1")
    assert (kept.device, kept.device_kind, kept.slice) == ("Firefox 140 Linux", "desktop", "desktop/in")
    assert (kept.advertiser_id, kept.campaign_id) == ("adv-1", "camp-1")
    assert (kept.cost_micros, kept.currency, kept.logged_in) == (250_000, "EUR", True)
    assert DECODER.decode(ENCODER.encode(kept)) == kept


def test_required_fields_alone_make_a_click() -> None:
    kept = parse(json.dumps({name: FULL[name] for name in REQUIRED}).encode())
    assert (kept.source, kept.device, kept.device_kind, kept.currency) == ("default", "unknown", "unknown", "USD")
    assert (kept.logged_in, kept.slice) == (None, "unknown/unknown")
    assert kept.session_key == NAMES.session("ada", None)


@pytest.mark.parametrize("name", sorted(FIELDS - set(REQUIRED)))
def test_null_in_an_optional_field_means_missing(name: str) -> None:
    without = {key: value for key, value in FULL.items() if key != name}
    assert click(**{name: None}) == parse(json.dumps(without).encode())


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, [], {}, True, 1.5])
def test_required_field_of_wrong_type_is_named(name: str, value: object) -> None:
    assert rejected_field(**{name: value}) == name


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_required_field_is_named(name: str) -> None:
    error = rejection(json.dumps({key: value for key, value in FULL.items() if key != name}).encode())
    assert (error.field, error.got) == (name, "nothing")


@pytest.mark.parametrize("name", ["source", "click_id", "user_id", "session_id", "ip", "advertiser_id", "campaign_id"])
@pytest.mark.parametrize("value", ["", "   ", "a\0b", "x" * 257, 7])
def test_unusable_id_is_named(name: str, value: object) -> None:
    assert rejected_field(**{name: value}) == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cost_micros", -1),
        ("cost_micros", 10**12 + 1),
        ("cost_micros", 10**300),
        ("cost_micros", "250000"),
        ("currency", "EURO"),
        ("currency", "€€€"),
        ("currency", 978),
        ("logged_in", "true"),
        ("logged_in", 1),
        ("device_kind", "toaster"),
        ("device_kind", ["app"]),
        ("device", "x" * 2049),
        ("event_time", "1970-01-01T00:00:00Z"),
        ("event_time", "2100-01-01T00:00:00Z"),
        ("event_time", 1_760_000_000),  # seconds
        ("event_time", -1),
        ("event_time", 10**30),
        ("event_time", "2025-10-09T08:53:20"),  # no zone
        ("event_time", "yesterday"),
        ("event_time", "0001-01-01T00:00:00+14:00"),
        ("event_time", "9999-12-31T23:59:59-12:00"),
    ],
)
def test_unusable_value_is_named(name: str, value: object) -> None:
    assert rejected_field(**{name: value}) == name


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b'{"click_id": "c-1", "cost', "truncated JSON"),
        (b"{nonsense}", "malformed JSON"),
        (b"[1, 2]", "a list"),
        (b'"text"', "'text'"),
        (b"{} {}", "malformed JSON"),
        (b'{"cost_micros": NaN}', "malformed JSON"),
        (b'{"user_id": "\xff\xfe"}', "byte 0xff at offset 13"),
        (b'{"user_id": "\\ud800"}', "JSON"),
        (b"[" * 50_000, "JSON"),
        (b'{"a": ' * 10_000, "JSON"),
        (b"9" * 60_000, "JSON"),
        (b"\0" * 10, "malformed JSON"),
    ],
)
def test_line_that_is_no_object_is_rejected_as_a_row(line: bytes, got: str) -> None:
    error = rejection(line)
    assert error.field == "row"
    assert got in error.got


def test_line_over_the_limit_is_rejected() -> None:
    error = rejection(json.dumps(FULL | {"extra": "x" * BOUNDS.line_bytes_max}).encode())
    assert (error.field, error.expected) == ("row", "at most 65536 bytes")


def test_field_given_twice_is_refused() -> None:
    line = json.dumps(FULL).encode()
    assert rejection(line[:-1] + b', "cost_micros": 0}').field == "cost_micros"
    assert rejection(line[:-1] + b', "\\u0063ost_micros" : 0}').field == "cost_micros"
    assert parse(line[:-1] + b', "note": {"a": "\\":", "b": [{"a": 1}]}}') == click()


def test_unknown_fields_are_ignored_and_counted() -> None:
    unknown: Counter[str] = Counter()
    line = json.dumps(FULL | {"loggedin": True, "x" * 100: 1}).encode()
    assert parse(line, unknown) == click()
    parse(line, unknown)
    assert unknown == {"loggedin": 2, "(others)": 2}


def test_unknown_field_names_take_bounded_memory() -> None:
    unknown: Counter[str] = Counter()
    for i in range(300):
        parse(json.dumps(FULL | {f"field{i}": 1}).encode(), unknown)
    assert len(unknown) <= 101
    assert unknown.total() == 300


def test_device_wins_over_user_agent() -> None:
    assert click(user_agent="curl/8") == click()
    assert click(device=None, user_agent="curl/8").device == "curl/8"


@pytest.mark.parametrize(
    "text",
    [
        "2025-10-09T08:53:20.123Z",
        "2025-10-09T10:53:20.123+02:00",
        "2025-10-09t08:53:20.123z",
        "2025-10-09 08:53:20.123Z",
    ],
)
def test_one_moment_is_one_click_however_it_is_written(text: str) -> None:
    assert click(event_time=text) == click(event_time=1_760_000_000_123)


def test_currency_is_kept_in_capitals() -> None:
    assert click(currency="eur") == click(currency="EUR")


def test_own_uuidv7_of_the_event_time_is_kept() -> None:
    own = (FULL["event_time"] << 80) | (7 << 76) | (0xABC << 64) | (2 << 62) | 12345
    assert click(click_id=str(uuid.UUID(int=own))).click_id == own.to_bytes(16, "big")
    assert click(click_id=str(uuid.UUID(int=own)).upper()).click_id == own.to_bytes(16, "big")


@pytest.mark.parametrize("shift_ms", [-1, 1])
def test_own_uuidv7_of_another_time_is_mapped(shift_ms: int) -> None:
    own = ((FULL["event_time"] + shift_ms) << 80) | (7 << 76) | (2 << 62)
    mapped = click(click_id=str(uuid.UUID(int=own)))
    assert mapped.click_id != own.to_bytes(16, "big")
    assert_is_uuidv7_of(mapped.click_id, mapped.event_time_ms)


def assert_is_uuidv7_of(click_id: bytes, event_time_ms: int) -> None:
    parsed = uuid.UUID(bytes=click_id)
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == event_time_ms


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@UNTIMED
@given(texts, texts, st.integers(0, 2**48 - 1))
def test_mapped_id_is_deterministic_and_has_the_event_time(source: str, external_id: str, event_time_ms: int) -> None:
    mapped = click_identity.click_id_of(source, external_id, event_time_ms)
    assert mapped == click_identity.click_id_of(source, external_id, event_time_ms)
    assert_is_uuidv7_of(mapped, event_time_ms)


@UNTIMED
@given(texts, texts, texts, st.integers(0, 2**48 - 1))
def test_mapped_ids_differ_when_source_or_external_id_does(a: str, b: str, c: str, event_time_ms: int) -> None:
    pairs = {(a, b + c), (a + b, c), (a, b), (b, a)}
    assert len({click_identity.click_id_of(*pair, event_time_ms) for pair in pairs}) == len(pairs)


def test_known_click_id_and_digest_do_not_change() -> None:
    assert click().click_id.hex() == "0199c82cac7870a9928f227ec9d1dcc3"
    assert click().intake_digest.hex() == "0de2db1a50cd8376a3eb2d2e32958d2ad94d0ae7b574f5ee089e867ceabae42a"


CHANGES: dict[str, st.SearchStrategy[Any]] = {
    **{
        name: texts.filter(lambda text: not text.isspace() and "\0" not in text and len(text) < 257)
        for name in ("source", "click_id", "user_id", "session_id", "ip", "advertiser_id", "campaign_id", "device")
    },
    "event_time": st.integers(BOUNDS.genesis_ms, NOW_MS),
    "device_kind": st.sampled_from(["unknown", "app", "web", "mobile", "tablet", "tv"]),
    "cost_micros": st.integers(0, BOUNDS.cost_micros_max),
    "currency": st.from_regex("[A-Z]{3}", fullmatch=True),
    "logged_in": st.sampled_from([None, False, True]),
}


@UNTIMED
@given(st.sampled_from(sorted(CHANGES)).flatmap(lambda name: st.tuples(st.just(name), CHANGES[name])))
def test_digest_changes_exactly_when_a_sender_field_does(change: tuple[str, Any]) -> None:
    name, value = change
    assert (click(**{name: value}).intake_digest == click().intake_digest) == (value == FULL[name])


def test_digest_can_be_derived_again_from_the_click() -> None:
    kept = click()
    assert click_identity.identify(click_identity.sent_of(kept)) == kept


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


@UNTIMED
@given(st.binary(max_size=200))
@example(b'{"a":1e999}')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"\xed\xa0\x80":1}')
def test_any_bytes_give_a_click_or_a_rejection(line: bytes) -> None:
    try:
        parse(line, Counter())
    except RejectedClick as error:
        assert str(error).isprintable()


@UNTIMED
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), json_values))
def test_any_object_gives_a_click_or_a_rejection(changed: dict[str, Any]) -> None:
    try:
        kept = parse(json.dumps(FULL | changed).encode(), Counter())
    except RejectedClick as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300
    else:
        assert DECODER.decode(ENCODER.encode(kept)) == kept


@UNTIMED
@given(st.data())
def test_any_damage_to_a_good_line_gives_a_click_or_a_rejection(data: st.DataObject) -> None:
    line = bytearray(json.dumps(FULL).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(line[: data.draw(st.integers(0, len(line)))]), Counter())
    except RejectedClick as error:
        assert str(error).isprintable()
