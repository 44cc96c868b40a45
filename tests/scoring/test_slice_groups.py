"""Thin slices are merged with their like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clickledger.scoring import slice_groups

NAMES = [f"{kind}/{login}" for kind in ("app", "web", "tv") for login in ("in", "out", "unknown")] + ["old"]


def test_slices_with_enough_purchases_stand_alone() -> None:
    assert slice_groups.groups({"app/in": 300, "web/out": 301}, 300) == {"app/in": ["app/in"], "web/out": ["web/out"]}


def test_thin_slices_are_merged_by_login_status() -> None:
    made = slice_groups.groups({"app/in": 900, "app/out": 100, "web/out": 150, "tv/out": 60, "web/in": 400}, 300)
    assert made == {"app/in": ["app/in"], "web/in": ["web/in"], "*/out": ["app/out", "tv/out", "web/out"]}


def test_what_is_thin_still_takes_in_the_smallest_group() -> None:
    made = slice_groups.groups({"app/in": 900, "web/in": 400, "app/out": 10, "web/out": 20}, 300)
    assert made == {"app/in": ["app/in"], "*": ["app/out", "web/in", "web/out"]}


def test_few_purchases_make_one_group() -> None:
    assert slice_groups.groups({"app/in": 90, "web/out": 0}, 300) == {"*": ["app/in", "web/out"]}


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1000), min_size=1), st.integers(0, 900))
def test_every_slice_is_in_one_group_and_every_group_has_enough_purchases(
    purchases: dict[str, int], least: int
) -> None:
    made = slice_groups.groups(purchases, least)
    assert sorted(name for own in made.values() for name in own) == sorted(purchases)
    if len(made) > 1:
        assert all(sum(purchases[name] for name in own) >= max(least, 1) for own in made.values())
