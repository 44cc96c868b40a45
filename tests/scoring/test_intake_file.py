"""Files of NDJSON clicks: each bad row reported by line and field, every good row read."""

from __future__ import annotations

import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.scoring import intake, intake_lines
from clickledger.scoring.intake import Intake, Rejection
from clickledger.scoring.pseudonyms import Pseudonyms

NAMES = Pseudonyms(bytes(32))
UNTIMED = settings(deadline=None)  # machines under load are slow, not wrong
NOW_MS = 1_760_000_000_000


def row(number: int, **changed: Any) -> bytes:
    fields = {
        "click_id": f"c-{number}",
        "event_time": NOW_MS - 60_000 + number,
        "user_id": f"u-{number % 3}",
        "ip": "192.0.2.1",
        "advertiser_id": "adv-1",
        "campaign_id": "camp-1",
        "cost_micros": 1000,
    }
    return json.dumps(fields | changed).encode()


def read(path: Path, lines: list[bytes], **options: Any) -> Intake:
    path.write_bytes(b"\n".join(lines))
    return intake.read_file(path, "ndjson", NAMES, now_ms=NOW_MS, **options)


NASTY = [
    row(1),
    row(2)[:40],  # truncated
    row(3, user_id=17),
    b"",
    row(5, cost_micros=-1),
    row(6, event_time="1970-01-01T00:00:00Z"),
    row(7, event_time="2100-01-01T00:00:00Z"),
    b'{"click_id": "' + b"x" * 10_000_000 + b'"}',
    row(9).replace(b"adv-1", b"adv-\xff"),
    row(1, cost_micros=2000),  # the same id with other content: a click here, a conflict in the ledger
    row(11, campaign_id="nul\0"),
    row(12, event_time=NOW_MS - 120_000) + b"\r",
    row(1),  # a repeat
    b"   \t ",
    b"null",
]


def test_nasty_file_is_read_row_by_row(tmp_path: Path) -> None:
    found = read(tmp_path / "clicks.ndjson", NASTY)
    assert [(rejection.line, rejection.field) for rejection in found.rejected] == [
        (2, "row"),
        (3, "user_id"),
        (5, "cost_micros"),
        (6, "event_time"),
        (7, "event_time"),
        (8, "row"),
        (9, "row"),
        (11, "campaign_id"),
        (15, "row"),
    ]
    assert [click.external_id for click in found.clicks] == ["c-12", "c-1", "c-1", "c-1"]
    assert [click.cost_micros for click in found.clicks] == [1000, 1000, 2000, 1000]
    assert found.clicks[1] == found.clicks[3]
    assert found.clicks[1].click_id == found.clicks[2].click_id
    assert found.clicks[1].intake_digest != found.clicks[2].intake_digest
    assert found.outcomes == []


def test_rejections_read_as_messages(tmp_path: Path) -> None:
    messages = [str(rejection) for rejection in read(tmp_path / "clicks.ndjson", NASTY).rejected]
    assert all(message.isprintable() and len(message) < 250 for message in messages)
    assert messages[1] == "line 3: user_id: expected text, got 17"
    assert messages[2] == "line 5: cost_micros: expected an integer from 0 to 1000000000000, got -1"
    assert messages[3] == "line 6: event_time: expected 2010-01-01T00:00:00Z or later, got '1970-01-01T00:00:00Z'"
    assert messages[4] == "line 7: event_time: expected at most 3600 s from now, got '2100-01-01T00:00:00Z'"
    assert messages[5].startswith("line 8: row: expected at most 65536 bytes, got 10000017 bytes")
    assert "byte 0xff" in messages[6]


def test_reading_twice_gives_the_same_clicks(tmp_path: Path) -> None:
    assert read(tmp_path / "a", NASTY) == read(tmp_path / "b", NASTY)


def test_clicks_of_one_moment_keep_the_order_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path / "clicks", [row(i, event_time=NOW_MS - i % 2) for i in range(10)])
    assert [click.external_id for click in found.clicks] == [f"c-{i}" for i in (1, 3, 5, 7, 9, 0, 2, 4, 6, 8)]


def test_byte_order_mark_and_missing_last_line_end_do_no_harm(tmp_path: Path) -> None:
    found = read(tmp_path / "clicks", [b"\xef\xbb\xbf" + row(1), row(2)])
    assert (len(found.clicks), found.rejected) == (2, [])


def test_source_of_the_caller_stands_where_rows_name_none(tmp_path: Path) -> None:
    found = read(tmp_path / "clicks", [row(1), row(2, source="theirs")], source="ours")
    assert [click.source for click in found.clicks] == ["ours", "theirs"]


def test_ignored_fields_are_counted(tmp_path: Path) -> None:
    assert read(tmp_path / "clicks", [row(1, colour="red"), row(2, colour="blue")]).unknown_fields == {"colour": 2}


def test_now_is_the_clock_unless_given(tmp_path: Path) -> None:
    path = tmp_path / "clicks"
    now = datetime.now(UTC)
    path.write_bytes(row(1, event_time=now.isoformat()) + b"\n" + row(2, event_time=str(now + timedelta(hours=2))))
    found = intake.read_file(path, "ndjson", NAMES)
    assert (len(found.clicks), [rejection.field for rejection in found.rejected]) == (1, ["event_time"])


def test_progress_ends_with_all_lines_and_bytes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = read(
        tmp_path / "c", [row(i) for i in range(12_000)], progress=lambda lines, size: calls.append((lines, size))
    )
    assert len(found.clicks) == 12_000
    assert [lines for lines, _ in calls] == [5_000, 10_000, 12_000]
    assert calls[-1][1] == (tmp_path / "c").stat().st_size


def test_missing_file_and_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent: expected a readable file, got: No such file"):
        intake.read_file(tmp_path / "absent", "ndjson", NAMES)
    with pytest.raises(InvalidInput, match="expected one of ndjson, talkingdata, got 'xml'"):
        intake.read_file(tmp_path / "absent", "xml", NAMES)  # type: ignore[arg-type]  # what a command line may pass
    with pytest.raises(InvalidInput, match="expected none for ndjson"):
        read(tmp_path / "clicks", [row(1)], cpc_micros=5)


def test_long_line_takes_no_more_memory_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "clicks"
    path.write_bytes(b"x" * 30_000_000 + b"\n" + row(1))
    with path.open("rb") as stream:
        tracemalloc.start()
        rows = list(intake.read_ndjson(stream, NAMES, now_ms=NOW_MS))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert [isinstance(row, Rejection) for row in rows] == [True, False]
    assert peak_bytes < 2_000_000


@UNTIMED
@given(st.lists(st.binary(max_size=24)), st.integers(1, 20))
def test_lines_come_with_their_numbers_whatever_their_length(lines: list[bytes], bytes_max: int) -> None:
    """Against an oracle that splits everything in memory."""
    data = b"\n".join(lines)
    found = list(intake_lines.parse_lines(io.BytesIO(data), bytes, bytes_max))
    expected: list[tuple[int, bytes | None]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        content = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip(b" \t\r\n")
        if len(line.rstrip(b"\r")) > bytes_max:
            expected.append((number, None))
        elif content:
            expected.append((number, content))
    assert [(one.line, None) if isinstance(one, Rejection) else one for one in found] == expected
