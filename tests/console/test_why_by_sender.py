"""A sender's own id, with its source and event time, names one click without a search."""

from __future__ import annotations

import uuid

import pytest

from clickledger import errors
from clickledger.console import cli_audit
from clickledger.scoring import click_identity


@pytest.mark.parametrize("at", ["1772366400123", "2026-03-01T12:00:00.123Z", "2026-03-01T13:00:00.123+01:00"])
def test_sender_id_with_source_and_time_names_the_click_that_intake_made(at: str) -> None:
    expected = uuid.UUID(bytes=click_identity.click_id_of("shop", "order-7", 1_772_366_400_123))
    assert cli_audit._named("order-7", "shop", at) == expected


def test_click_id_alone_is_looked_up_as_it_is() -> None:
    assert cli_audit._named("order-7", None, None) is None


@pytest.mark.parametrize(
    ("source", "at"),
    [
        ("shop", None),
        (None, "1772366400123"),
        ("shop", "noon"),
        ("shop", "2026-03-01T12:00"),
        ("shop", "1772366400123000"),
        ("shop", "1969-12-31T23:59:59Z"),
        ("shop", "9" * 5000),
    ],
)
def test_half_a_name_or_a_time_without_zone_is_refused(source: str | None, at: str | None) -> None:
    with pytest.raises(errors.InvalidInput, match="expected"):
        cli_audit._named("order-7", source, at)
