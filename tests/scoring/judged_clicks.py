"""Scored clicks drawn by slice: people below, robots above, and in the sessions of robots too many clicks."""

from __future__ import annotations

import numpy as np

from clickledger.scoring.judged import Judged

SLICES = ("app/in", "app/out", "web/in", "web/out")


def draw(
    seed: int, rows: int, tied: bool = False, purchase_share: float = 0.2, robot_share: float = 0.3, shift: float = 1.0
) -> Judged:
    """`rows` clicks over four slices whose people and robots are told apart alike.

    By `shift` the scores of who is not logged in lie elsewhere, so that one threshold does not do for all.
    """
    random = np.random.default_rng(seed)
    slices = random.choice(SLICES, rows, p=[0.4, 0.15, 0.25, 0.2])
    logged_out = np.char.endswith(slices, "/out")
    robot = random.random(rows) < np.where(logged_out, 1.6, 0.6) * robot_share
    score = random.normal(np.where(robot, 2.0, -2.0) + np.where(logged_out, shift, 0.0), 1.2).astype(np.float32)
    purchased = ~robot & (random.random(rows) < np.where(logged_out, 0.5, 1.0) * purchase_share)
    hot = random.random(rows) < np.where(robot, 0.3, 0.01)
    times = np.sort(random.integers(0, 10**9, rows))
    return Judged(np.rint(score).astype(np.float32) if tied else score, purchased, hot, slices, times)


def shuffled(clicks: Judged, seed: int) -> Judged:
    """The same clicks in another order."""
    order = np.random.default_rng(seed).permutation(len(clicks))
    return Judged(
        *(column[order] for column in (clicks.score, clicks.purchased, clicks.hot, clicks.slice)),
        clicks.event_time_ms[order],
    )
