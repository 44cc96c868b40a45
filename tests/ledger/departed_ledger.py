"""A ledger that days have left and checkpoints were signed over, for forgeries of what is only there then.

It is not the rich one: each audit of this one walks a Merkle tree.
"""

from __future__ import annotations

from datetime import date

import replays
from growing import grow
from rich_ledger import ACTOR, append_varied, varied

from clickledger.ledger import (
    billing,
    checkpoint_keys,
    checkpoints,
    database,
    deployments,
    log,
    merkle_tiles,
    publication,
    retention,
    runs,
    signed_note,
    sparse,
)

# Two that leave, and one of the same entries that stays.
FIRST, SECOND, STAYS = "2024-03-10", "2024-03-11", "2024-03-12"


def build(conn: database.Connection) -> None:
    """Three days over three entries, runs in force and reverted, holds, two days gone, two tiles, two keys."""
    model, calibration = replays.model(conn)
    for _ in range(2):
        deployments.deploy(conn, replays.routing(model, calibration), ACTOR)
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, ACTOR)
    checkpoints.sign(conn, key, ACTOR)
    _live(conn)
    _hold(conn)
    billing.close_period(conn, "2024-03", ACTOR)
    _leave(conn)
    checkpoints.sign(conn, key, ACTOR)
    grow(conn, merkle_tiles.TILE_WIDTH * 2 + 5)
    following = signed_note.generate(key.name)
    checkpoint_keys.rotate(conn, key, following, ACTOR, "yearly")
    checkpoints.sign(conn, following, ACTOR)
    log.record(conn, "noted", {"signed": False}, ACTOR)


def _live(conn: database.Connection) -> None:
    """Lines of two days in every entry; one run in force, one over another entry reverted and given up, two sparse."""
    first, second = ([varied(n, FIRST, epoch=2) for n in part] for part in (range(6), range(6, 9)))
    then, later = ([varied(n, SECOND, epoch=2) for n in part] for part in (range(9, 14), range(14, 17)))
    stays = [varied(n, STAYS, epoch=2) for n in range(17, 21)]
    lo, middle, hi = (append_varied(conn, rows, 2) for rows in (first, second + then, later + stays))
    replays.published(conn, lo, middle + 1, {row.click_id: "invalid" for row in first[:2] + then[:3]})
    reverted = replays.published(conn, hi, hi + 1, {row.click_id: "undecided" for row in later[:2] + stays[:1]})
    publication.revert(conn, reverted, ACTOR, "mistaken")
    runs.abandon(conn, reverted, ACTOR, "never to be published again")
    for number, rows in enumerate((first[1:3] + then[:2] + stays[:1], first[2:4])):
        stated = [sparse.Correction(row.click_id, "undecided", f"dispute {number}") for row in rows]
        replays.publish(conn, sparse.plan(conn, stated, actor=ACTOR, reason="disputed").run_id)


def _hold(conn: database.Connection) -> None:
    lifted = retention.hold(conn, date.fromisoformat(FIRST), date.fromisoformat(SECOND), ACTOR, "a lawsuit")
    retention.release(conn, lifted.hold_id, ACTOR, "settled")
    retention.hold(conn, date.fromisoformat(STAYS), date(2024, 4, 1), ACTOR, "another")


def _leave(conn: database.Connection) -> None:
    for day in (FIRST, SECOND):
        retention.detach(conn, date.fromisoformat(day), ACTOR, "older than 13 months")
    retention.drop(conn, date.fromisoformat(FIRST), ACTOR, "exported")
