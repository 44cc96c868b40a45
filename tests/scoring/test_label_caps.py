"""Caps on human labels: how many stay, and that it is always the same ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clickledger.scoring import label_caps
from clickledger.scoring.label_caps import UNKNOWN, Caps

Label = tuple[int, int, int, int, bool]  # account, day, ip, instrument, purchased
LABELS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(-1, 4), st.integers(-1, 2), st.booleans()), max_size=60
)
CAPS = st.builds(
    Caps, st.just(5), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 5)
)


def stays(labels: list[Label], caps: Caps, ids: list[bytes] | None = None) -> np.ndarray:
    account, day, ip, instrument, purchased = np.array(labels, dtype=np.int64).reshape(-1, 5).T
    return label_caps.kept(
        caps,
        purchased=purchased.astype(np.bool_),
        draw=label_caps.draws(ids or [i.to_bytes(16) for i in range(len(labels))]),
        account=account,
        day=day,
        ip=ip,
        instrument=instrument,
    )


@given(LABELS, CAPS)
def test_no_account_instrument_or_ip_keeps_more_than_its_cap(labels: list[Label], caps: Caps) -> None:
    left = [label for label, kept in zip(labels, stays(labels, caps), strict=True) if kept]
    for place, most in ((0, caps.account_per_day), (3, caps.instrument_per_day)):
        pairs = [(label[place], label[1]) for label in left if label[place] != UNKNOWN]
        assert all(pairs.count(pair) <= most for pair in set(pairs))
    ips = [label[2] for label in left if label[2] != UNKNOWN]
    assert all(ips.count(ip) <= max(caps.ip_share * len(left), caps.ip_labels_min) for ip in set(ips))


@given(LABELS, CAPS, st.randoms(use_true_random=False))
def test_which_labels_stay_does_not_depend_on_their_order(labels: list[Label], caps: Caps, random: object) -> None:
    ids = [i.to_bytes(16) for i in range(len(labels))]
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives no type
    first = dict(zip(ids, stays(labels, caps, ids), strict=True))
    shuffled = stays([labels[i] for i in order], caps, [ids[i] for i in order])
    assert dict(zip([ids[i] for i in order], shuffled, strict=True)) == first


def test_clicks_that_led_to_an_outcome_keep_their_label_before_others() -> None:
    labels = [(i, 0, 0, UNKNOWN, i % 3 == 0) for i in range(30)]
    left = stays(labels, Caps(ip_share=0.01, ip_labels_min=10))
    assert [label[4] for label, kept in zip(labels, left, strict=True) if kept] == [True] * 10


def test_an_account_with_too_many_outcomes_on_one_day_loses_those_of_all_days() -> None:
    account, day = np.array([0] * 6 + [0, 1] + [2] * 5 + [2] * 5), np.array([3] * 6 + [4, 3] + [3] * 5 + [4] * 5)
    assert label_caps.in_bulk(Caps(), account, day).tolist() == [True] * 7 + [False] * 11


def test_an_ip_without_a_name_is_capped_by_nothing() -> None:
    assert stays([(i, 0, UNKNOWN, UNKNOWN, False) for i in range(500)], Caps(20, 20, 0.01, 0)).all()


def test_an_ips_cap_is_a_share_of_what_the_cap_leaves() -> None:
    counts = np.array([600, *[1] * 990])
    most = label_caps.ip_labels_max(counts, 0, Caps(ip_share=0.01, ip_labels_min=0))
    assert most == 10 and most / (most + 990) == 0.01


def test_a_small_set_keeps_its_labels_whatever_their_share() -> None:
    labels = [(i, 0, 0, UNKNOWN, False) for i in range(50)]
    assert stays(labels, Caps()).all()
    assert stays([*labels, (50, 0, 0, UNKNOWN, False)], Caps()).sum() == 50
