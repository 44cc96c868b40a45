"""Which slices share a threshold: one with too few purchases is merged with its like.

A slice is called `device_kind/login`, say "app/in". Thin slices are merged with the other thin ones of the same login
status, as "*/out": who is logged in is scored in another way than who is not, whatever the device. What is thin still
is merged as "*", and takes in the group with the fewest purchases until it is not.
"""

from __future__ import annotations

from collections.abc import Mapping

ROOT = "*"


def groups(purchases: Mapping[str, int], purchases_min: int) -> dict[str, list[str]]:
    """The slices of each group by the group's name, given the purchases of each slice; every slice is in one group.

    Every group has at least `purchases_min` purchases, unless there is only one, "*".
    """
    least = max(purchases_min, 1)
    made = {name: [name] for name, count in purchases.items() if count >= least}
    thin = sorted(set(purchases) - set(made))
    for parent in sorted({parent_of(name) for name in thin}):
        own = [name for name in thin if parent_of(name) == parent]
        if parent != ROOT and len(own) > 1 and _sum(purchases, own) >= least:
            made[parent] = own
    rest = sorted(set(purchases) - {name for own in made.values() for name in own})
    while rest and made and _sum(purchases, rest) < least:
        smallest = min(made, key=lambda name: (_sum(purchases, made[name]), name))
        rest = sorted(rest + made.pop(smallest))
    return dict(sorted((made | ({ROOT: rest} if rest else {})).items()))


def parent_of(name: str) -> str:
    """The group a thin slice is merged into: all of its login status; "*" for a name without one."""
    _, slash, login = name.rpartition("/")
    return f"{ROOT}/{login}" if slash else ROOT


def _sum(purchases: Mapping[str, int], names: list[str]) -> int:
    return sum(purchases[name] for name in names)
