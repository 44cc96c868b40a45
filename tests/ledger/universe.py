"""The small world of the state machine: its clicks, and the steps hypothesis draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faults
from batches import Row, at, click_id
from hypothesis import strategies as st

# A small universe, so that repeats, conflicts and late clicks happen all the time: clicks over two billing periods.
DAYS = ("2024-01-31", "2024-02-01", "2024-02-29")
CLICKS = [click_id(at(DAYS[n % 3], n), n) for n in range(20)]
PERIOD_OF = {click: DAYS[n % 3][:7] for n, click in enumerate(CLICKS)}
COST_OF = {click: 100 + 2**n for n, click in enumerate(CLICKS)}  # any sum of costs names its clicks
ADVERTISER_OF = {click: f"adv-{n % 2}" for n, click in enumerate(CLICKS)}
CURRENCY_OF = {click: ("EUR", "EUR", "USD")[n // 2 % 3] for n, click in enumerate(CLICKS)}
SLICE_OF = {click: ("phone/in", "web/out")[n // 3 % 2] for n, click in enumerate(CLICKS)}
VERDICTS = {"v": "valid", "i": "invalid", "u": "undecided"}

NUMBERS = st.integers(0, 1_000)  # picks one of however many there are, modulo
CLICK = st.integers(0, len(CLICKS) - 1)
CONTENT = st.sampled_from(["first", "first", "first", "other"])
ROWS = st.lists(st.tuples(CLICK, CONTENT, st.sampled_from("viu")), min_size=1, max_size=6)
VERDICT_OF_EACH = st.text("viu", min_size=len(CLICKS), max_size=len(CLICKS))
CARRIED = st.sets(CLICK, max_size=8)
Rows = Sequence[tuple[int, str, str]]

# Steps and how often each comes up. One rule draws them all: hypothesis switches off half of many rules in most
# histories, and a publication needs the whole chain before it.
MONTH = st.integers(1, 4)  # the clicks are of the first two
OUTCOMES = st.lists(st.tuples(CLICK, st.sampled_from("pq"), st.integers(0, 2)), max_size=4)
CORRECTIONS = st.lists(st.tuples(CLICK, st.sampled_from("viu")), max_size=4)
LIVE = st.sampled_from(["deploy", "roll back", "roll back", "canary", "promote", "counters", "register", "calibrate"])
STEPS: list[tuple[int, str, tuple[st.SearchStrategy[Any], ...]]] = [
    (3, "append_a_batch", (ROWS,)),
    (3, "append_under_any_epoch", (ROWS, NUMBERS, NUMBERS)),
    (1, "record_outcomes", (OUTCOMES,)),
    (4, "change_what_is_live", (LIVE, NUMBERS)),
    (1, "deploy_and_roll_back", (NUMBERS,)),
    (1, "plan_a_run", (NUMBERS, st.integers(0, 12), st.integers(1, 5))),
    (2, "work_one_chunk", (NUMBERS, VERDICT_OF_EACH, CARRIED)),
    (2, "stage_a_run", (NUMBERS,)),
    (2, "compare_a_run", (NUMBERS,)),
    (3, "publish_a_run", (NUMBERS, st.sampled_from([False, False, False, True]))),
    (3, "compare_and_publish", (NUMBERS, st.sampled_from(["", "", "close_a_period", "revert_a_run"]), MONTH)),
    (1, "stage_too_early", (st.integers(1, 6), VERDICT_OF_EACH)),
    (2, "replay_up_to_comparison", (NUMBERS, NUMBERS, VERDICT_OF_EACH, CARRIED)),
    (3, "replay_and_publish", (st.integers(1, 6), VERDICT_OF_EACH)),
    (3, "revert_a_run", (NUMBERS,)),
    (2, "plan_corrections", (CORRECTIONS,)),
    (3, "correct_and_publish", (CORRECTIONS, NUMBERS)),
    (1, "abandon_a_run", (NUMBERS,)),
    (2, "close_a_period", (MONTH,)),
    (2, "close_and_revert", (MONTH, NUMBERS)),
    (1, "carry_what_is_replaced", (NUMBERS, NUMBERS, VERDICT_OF_EACH, CARRIED, VERDICT_OF_EACH)),
    (1, "lift_and_take_back", (st.integers(1, 6), VERDICT_OF_EACH, VERDICT_OF_EACH, MONTH)),
    (2, "read_a_page_of_the_feed", (st.integers(1, 5),)),
    (1, "ask_every_past_position", (NUMBERS,)),
]
ONLY_READING = ("read_a_page_of_the_feed", "ask_every_past_position", "work_one_chunk")  # or writing no entry
_NAMES = [name for weight, name, _ in STEPS for _ in range(weight)]
_EACH = [st.tuples(st.just(name), *drawn) for weight, name, drawn in STEPS for _ in range(weight)]
_CALLING = [step for step, name in zip(_EACH, _NAMES, strict=True) if name not in ONLY_READING]
# One step in 12: the server process ends before, during or after an exchange of one of the step's calls.
_CRASHES = [  # each of its own: one_of takes the same strategy once
    st.tuples(
        st.just("crash_in"),
        st.one_of(_CALLING),
        st.sampled_from([0, 0, 0, 1, 2, 3]),
        st.sampled_from([0, *[faults.COMMIT] * 4, 0, 1, 2, 4, 6, 8, 11, 15]),
        st.sampled_from(["before", "during", "after"]),
    )
    for _ in range(4)
]
STEP = st.one_of([*_EACH, *_CRASHES])


def row_of(number: int, content: str, verdict: str) -> Row:
    click = CLICKS[number]
    return Row(
        click, VERDICTS[verdict], content, COST_OF[click], ADVERTISER_OF[click],
        currency=CURRENCY_OF[click], slice=SLICE_OF[click],
    )  # fmt: skip
