"""The TalkingData CSV: small files of every kind of damage, and the real file where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.scoring import intake, talkingdata
from clickledger.scoring.intake import Intake
from clickledger.scoring.intake_fields import RejectedClick
from clickledger.scoring.pseudonyms import Pseudonyms

NAMES = Pseudonyms(bytes(32))
UNTIMED = settings(deadline=None)  # machines under load are slow, not wrong
NOW_MS = 1_760_000_000_000
HEADER = talkingdata.HEADER.decode()
SHARED_DATA = Path(os.environ.get("CLICKLEDGER_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
REAL_FILE = SHARED_DATA / "talkingdata_20171107_1131.csv"


def read(tmp_path: Path, *rows: str, header: str = HEADER, cpc_micros: int | None = 1000) -> Intake:
    path = tmp_path / "clicks.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return intake.read_file(path, "talkingdata", NAMES, cpc_micros=cpc_micros, now_ms=NOW_MS)


def test_row_is_mapped_to_a_click_and_its_outcome(tmp_path: Path) -> None:
    found = read(tmp_path, "89520,18,1,19,107,2017-11-07 11:38:25,2017-11-07 11:44:00,1")
    click = found.clicks[0]
    assert (click.source, click.event_time_ms) == ("talkingdata", 1_510_054_705_000)
    assert (click.user_key, click.ip_key) == (NAMES.user("89520/1/19"), NAMES.ip("89520"))
    assert (click.device, click.device_kind, click.slice) == ("device 1 os 19", "mobile", "mobile/unknown")
    assert (click.advertiser_id, click.campaign_id, click.cost_micros) == ("18", "107", 1000)
    assert found.outcomes == [(click.click_id, "install", 1_510_055_040_000, 0)]


def test_clicks_are_sorted_by_time_and_exact_duplicates_are_repeats(tmp_path: Path) -> None:
    late, early = "1,2,1,3,4,2017-11-07 12:00:00,2017-11-07 12:00:09,1", "1,2,1,3,5,2017-11-07 11:00:00,,0"
    found = read(tmp_path, late, early, late)
    assert [click.campaign_id for click in found.clicks] == ["5", "4", "4"]
    assert found.clicks[1] == found.clicks[2]
    assert len(found.outcomes) == 1


def test_session_ends_after_a_gap_of_more_than_30_minutes(tmp_path: Path) -> None:
    times = ["10:00:00", "10:30:00", "11:00:00", "11:30:01", "11:31:00"]
    found = read(tmp_path, *(f"1,2,1,3,4,2017-11-07 {time},,0" for time in times), "2,2,1,3,4,2017-11-07 11:31:00,,0")
    sessions = [click.session_key for click in found.clicks]
    assert sessions[0] == sessions[1] == sessions[2]
    assert sessions[3] == sessions[4] != sessions[0]
    assert sessions[5] not in sessions[:5]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("1,2,1,3,4,2017-11-07 10:00:00,,", "is_attributed"),
        ("1,2,1,3,4,2017-11-07 10:00:00,,2", "is_attributed"),
        ("1,2,1,3,4,2017-11-07 10:00:00,,1", "attributed_time"),
        ("1,2,1,3,4,2017-11-07 10:00:00,2017-11-07 10:00:01,0", "attributed_time"),
        ("1,2,1,3,4,2017-11-07 10:00:00,2017-11-07 09:59:59,1", "attributed_time"),
        ("1,2,1,3,4,2017-11-07 10:00:00,2100-11-07 10:00:00,1", "attributed_time"),
        ("1,2,1,3,4,2017-11-07,,0", "click_time"),
        ("1,2,1,3,4,2017-13-07 10:00:00,,0", "click_time"),
        ("1,2,1,3,4,1970-01-01 00:00:00,,0", "click_time"),
        ("1,2,1,3,4,2100-01-01 00:00:00,,0", "click_time"),
        ("x,2,1,3,4,2017-11-07 10:00:00,,0", "ip"),
        (",2,1,3,4,2017-11-07 10:00:00,,0", "ip"),
        ("1,-2,1,3,4,2017-11-07 10:00:00,,0", "app"),
        ("1,2,1.5,3,4,2017-11-07 10:00:00,,0", "device"),
        ("1,2,1,99999999999,4,2017-11-07 10:00:00,,0", "os"),
        ('1,2,1,3,"4",2017-11-07 10:00:00,,0', "channel"),
        ("1,2,1,3,4,2017-11-07 10:00:00", "row"),
        ("1,2,1,3,4,2017-11-07 10:00:00,,0,9", "row"),
        ("1,2,1,3,٤,2017-11-07 10:00:00,,0", "row"),
        ("1" * 70_000, "row"),
    ],
)
def test_bad_row_is_named_and_the_rest_goes_on(tmp_path: Path, row: str, field: str) -> None:
    good = "1,2,1,3,4,2017-11-07 10:00:00,,0"
    found = read(tmp_path, good, row, "", good)
    assert [(rejection.line, rejection.field) for rejection in found.rejected] == [(3, field)]
    assert str(found.rejected[0]).isprintable()
    assert len(found.clicks) == 2


def test_file_of_another_format_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 1: expected the header ip,app,device"):
        read(tmp_path, header="click_id,ip,app")


@pytest.mark.parametrize("price", [None, -1, 10**13])
def test_price_is_required_and_bounded(tmp_path: Path, price: int | None) -> None:
    with pytest.raises(InvalidInput, match="cpc_micros: expected"):
        read(tmp_path, cpc_micros=price)


@UNTIMED
@given(st.binary(max_size=100) | st.text("0123456789,-: ", max_size=80).map(str.encode))
def test_any_bytes_give_a_row_or_a_rejection(line: bytes) -> None:
    try:
        talkingdata.parse_row(line, NOW_MS)
    except RejectedClick as error:
        assert str(error).isprintable()


@pytest.mark.skipif(
    not REAL_FILE.exists(), reason=f"the real clicks are not here: no {REAL_FILE.name} in CLICKLEDGER_SHARED_DATA"
)
def test_real_file_is_read_whole() -> None:
    found = intake.read_file(REAL_FILE, "talkingdata", NAMES, cpc_micros=250_000)
    assert (len(found.clicks), found.rejected) == (100_000, [])
    ids = {click.click_id: click for click in found.clicks}
    assert len(found.clicks) - len(ids) == 188
    times = [click.event_time_ms for click in found.clicks]
    assert times == sorted(times)
    assert len(found.outcomes) == 334
    assert all(outcome.occurred_at_ms >= ids[outcome.click_id].event_time_ms for outcome in found.outcomes)
