"""The offline execution of the feature specification: recompute snapshots from the clicks of the log.

Pure, in whole columns, and by other means than the online one: where that one turns rings and bitmaps, this one sorts
and searches. Both give the same snapshots to the bit when the clicks are all that were counted in the
`LONGEST_WINDOW_MS` before the first one asked for, sorted by seq.

Every record (a user, an IP) is a *run* of neighbouring rows once the clicks are sorted by (record, seq); within a run
`t_c` and so every bucket and period never go back, which is what lets a window be found by binary search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput
from clickledger.scoring import feature_spec as spec
from clickledger.scoring.click import Click

RECORDS = ("user_key", "ip_key")  # what counters are kept of
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_NEVER = np.iinfo(np.int64).max
_RECENT_WINDOWS_MS = {
    "user_clicks_10s": 10 * spec.SECOND_MS,
    "user_clicks_1m": spec.MINUTE_MS,
    "user_clicks_10m": 10 * spec.MINUTE_MS,
    "user_clicks_1h": spec.HOUR_MS,
}
_RECENT_COUNTS = (*_RECENT_WINDOWS_MS, "user_campaign_clicks_1h", "user_campaigns", "user_session_clicks_1h")


def recompute(clicks: Sequence[Click], clock_ms: int = 0) -> npt.NDArray[np.int32]:
    """Snapshots int32 (n, k) of counted clicks given in the order of their seq.

    `clock_ms` is the counting clock before the first of them. Clicks that were not counted (seq 0) must be left out.
    """
    return recompute_encoded(spec.encode_clicks(clicks), clock_ms)


def recompute_encoded(encoded: bytes, clock_ms: int | Ints = 0) -> npt.NDArray[np.int32]:
    """Like `recompute`, for clicks as `feature_spec.encode_clicks` encodes them. Their seq is not looked at.

    With `clock_ms` int64 (n,), the counting clock at each of them, others may be left out: what all counted clicks of
    a record (of `RECORDS`) give is right wherever all of that record's are there.
    """
    if len(encoded) % spec.CLICK_DTYPE.itemsize:
        raise InvalidInput(f"clicks: expected records of {spec.CLICK_DTYPE.itemsize} bytes, got {len(encoded)} bytes")
    records = np.frombuffer(encoded, dtype=spec.CLICK_DTYPE)
    features = np.full((len(records), len(spec.FEATURES)), spec.NO_VALUE, dtype=np.int32)
    if not len(records):
        return features
    event_ms = records["event_time_ms"].astype(np.int64)
    t_c = np.maximum.accumulate(np.maximum(event_ms, clock_ms))
    columns = _stateless(records, event_ms) | _user_features(records, event_ms, t_c) | _ip_features(records, t_c)
    for name, column in columns.items():
        features[:, spec.INDEX[name]] = column
    return features


def _stateless(records: npt.NDArray[np.void], event_ms: Ints) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "minute_of_week": (event_ms // spec.MINUTE_MS + spec.WEEK_OFFSET_MINUTES) % spec.MINUTES_PER_WEEK,
        "logged_in": records["logged_in"],
        "device_kind": records["device_kind"],
    }


@dataclass(frozen=True)
class _Runs:
    """n clicks sorted by (record, seq)."""

    order: Ints  # (n,) row of the input at each place
    record: Ints  # (n,) number of the record, grows from run to run
    start: Ints  # (n,) first place of the run a place belongs to

    def back(self, column: Ints) -> Ints:
        """A column by place, turned into one by row of the input."""
        out = np.empty_like(column)
        out[self.order] = column
        return out

    def first_place(self, moment: Ints, since: Ints) -> Ints:
        """For each place, the first one of its run whose `moment` (growing in a run) is `since` or later."""
        low = int(min(moment.min(), since.min()))
        width = int(max(moment.max(), since.max())) - low + 1
        return np.searchsorted(self.record * width + (moment - low), self.record * width + (since - low), side="left")


def _runs(keys: npt.NDArray[np.void]) -> _Runs:
    codes: dict[bytes, int] = {}
    code = np.fromiter((codes.setdefault(key, len(codes)) for key in keys.tolist()), np.int64, len(keys))
    order = np.argsort(code, kind="stable")
    record = code[order]
    return _Runs(order, record, np.searchsorted(record, record, side="left"))


def _user_features(records: npt.NDArray[np.void], event_ms: Ints, t_c: Ints) -> dict[str, npt.NDArray[np.generic]]:
    runs = _runs(records["user_key"])
    time, clock = event_ms[runs.order], t_c[runs.order]
    campaign, session = records["campaign"][runs.order], records["session"][runs.order]
    columns = _recent_clicks(runs, time, clock, campaign, session) | _gaps(runs, time, clock)
    columns["user_clicks_24h"] = _ring_count(runs, clock, spec.RING_24H_MS)
    columns["user_ips"] = _distinct(runs, clock // spec.USER_PERIOD_MS, records["ip_slot"][runs.order])
    return {name: runs.back(column) for name, column in columns.items()}


def _ip_features(records: npt.NDArray[np.void], t_c: Ints) -> dict[str, npt.NDArray[np.generic]]:
    runs = _runs(records["ip_key"])
    clock = t_c[runs.order]
    period = clock // spec.IP_PERIOD_MS
    columns = {
        "ip_clicks_1m": _ring_count(runs, clock, spec.RING_1M_MS),
        "ip_clicks_1h": _ring_count(runs, clock, spec.RING_1H_MS),
        "ip_clicks_24h": _ring_count(runs, clock, spec.RING_24H_MS),
        "ip_users": _distinct(runs, period, records["user_slot"][runs.order]),
        "ip_agents": _distinct(runs, period, records["agent_slot"][runs.order]),
        "ip_logged_in_clicks": _sum_since(runs, period, period - 1, records["logged_in"][runs.order] == 1),
    }
    return {name: runs.back(column) for name, column in columns.items()}


def _ring_count(runs: _Runs, clock: Ints, width_ms: int) -> Ints:
    bucket = clock // width_ms
    return np.arange(len(clock)) - runs.first_place(bucket, bucket - (spec.RING_SLOTS - 1)) + 1


def _sum_since(runs: _Runs, moment: Ints, since: Ints, marks: Bools) -> Ints:
    """For each place, the marks of its run from `since` up to it."""
    sums = np.concatenate([[0], np.cumsum(marks)])
    return np.asarray(sums[1:] - sums[runs.first_place(moment, since)], dtype=np.int64)


def _distinct(runs: _Runs, period: Ints, slot: npt.NDArray[np.integer]) -> Ints:
    """For each place, the distinct slots of its run in its period so far and in the period before.

    A window's start is the same for all places of a period, so what is new to it can be counted by one running sum;
    the period before counts as a whole.
    """
    places = np.arange(len(period))
    previous = _previous_of_same(runs, slot)
    period_start = runs.first_place(period, period)
    window_start = runs.first_place(period, period - 1)
    new_in_period = np.concatenate([[0], np.cumsum(previous < period_start)])
    new_in_window = np.concatenate([[0], np.cumsum(previous < window_start)])
    before = new_in_period[period_start] - new_in_period[window_start]
    return np.asarray(before + new_in_window[places + 1] - new_in_window[period_start], dtype=np.int64)


def _neighbours(runs: _Runs, value: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Pairs of places, earlier and later, of the same record and value with none of these between them."""
    group = runs.record * (int(value.max()) + 1) + value
    order = np.argsort(group, kind="stable")
    same = group[order][1:] == group[order][:-1]
    return order[:-1][same], order[1:][same]


def _previous_of_same(runs: _Runs, value: npt.NDArray[np.integer]) -> Ints:
    earlier, later = _neighbours(runs, value)
    previous = np.full(len(value), -1, dtype=np.int64)
    previous[later] = earlier
    return previous


def _next_of_same(runs: _Runs, value: npt.NDArray[np.integer]) -> Ints:
    earlier, later = _neighbours(runs, value)
    following = np.full(len(value), _NEVER, dtype=np.int64)
    following[earlier] = later
    return following


def _recent_pairs(runs: _Runs, time: Ints, clock: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Places and the recent clicks before them, `here` and `there`, one lag after the other from lag 1."""
    here = np.arange(len(time))
    for lag in range(1, spec.USER_EVENTS):
        here = here[here - lag >= runs.start[here]]
        here = here[time[here - lag] > clock[here] - spec.USER_EVENT_AGE_MS]  # a place that met an old click is done
        if not len(here):
            return
        yield here, here - lag


def _recent_clicks(runs: _Runs, time: Ints, clock: Ints, campaign: Ints, session: Ints) -> dict[str, Ints]:
    columns = {name: np.ones(len(time), dtype=np.int64) for name in _RECENT_COUNTS}
    age = np.zeros(len(time), dtype=np.int64)
    next_same = _next_of_same(runs, campaign)
    for here, there in _recent_pairs(runs, time, clock):
        away = np.abs(time[here] - time[there])
        for name, width_ms in _RECENT_WINDOWS_MS.items():
            columns[name][here] += away < width_ms
        in_1h, in_session = away < spec.HOUR_MS, session[here] == session[there]
        columns["user_campaign_clicks_1h"][here] += in_1h & (campaign[here] == campaign[there])
        columns["user_session_clicks_1h"][here] += in_1h & in_session
        columns["user_campaigns"][here] += next_same[there] > here  # each campaign at its last click
        age[here] = np.maximum(age[here], np.where(in_session, time[here] - time[there], 0))
    return columns | {"user_session_age_ms": age}


def _gaps(runs: _Runs, time: Ints, clock: Ints) -> dict[str, Ints]:
    newest = np.full(len(time), spec.NO_VALUE, dtype=np.int64)
    smallest, largest = np.full_like(newest, _NEVER), newest.copy()
    for lag, (here, there) in enumerate(_recent_pairs(runs, time, clock), start=1):
        if lag > spec.USER_GAPS:
            break
        gap = np.abs(time[there + 1] - time[there])
        smallest[here] = np.minimum(smallest[here], gap)
        largest[here] = np.maximum(largest[here], gap)
        if lag == 1:
            newest[here] = gap
    smallest[smallest == _NEVER] = spec.NO_VALUE
    return {"user_last_gap_ms": newest, "user_gap_min_ms": smallest, "user_gap_max_ms": largest}
